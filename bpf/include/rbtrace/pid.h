/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Pids and their namespaces. */
#ifndef __RBTRACE_PID_H__
#define __RBTRACE_PID_H__

/* include/linux/proc_ns.h: PROC_PID_INIT_INO */
#define RB_INITIAL_PID_NS 0xeffffffcU

/* A task's id in its namespace of that level, which it must have; 0 is the initial one. */
static __always_inline struct upid rb_pid_at(struct task_struct *task, __u32 level)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct upid id = {};

	bpf_core_read(&id, sizeof(id),
		      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			      level * sizeof(struct upid));
	return id;
}

#endif /* __RBTRACE_PID_H__ */
