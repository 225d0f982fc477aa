/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long system calls take, for tracers of a few that are not frequent: when each
 * began is kept from its entry to its exit. What it was given is still there then.
 */
#ifndef __RBTRACE_SPAN_H__
#define __RBTRACE_SPAN_H__

/*
 * When the call of a task that is under way began. Keyed by the task's address, which
 * stays the same when an exec changes its pid.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64); /* CLOCK_MONOTONIC, ns */
} rb_begun SEC(".maps");

/* For programs of syscalls/sys_enter_*. Where there is no room nobody will know how long it took. */
static __always_inline int rb_span_begins(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, now = bpf_ktime_get_ns();

	if (rb_call_enters(ctx) && rb_task_is_wanted(task))
		bpf_map_update_elem(&rb_begun, &key, &now, BPF_ANY);
	return 0;
}

/*
 * For those of syscalls/sys_exit_*: how long ago the task's call began, at least 1. 0: nobody
 * knows, as that was before tracing did, or it had no entry: what seccomp answers has its
 * exit alone (syscall_trace_enter(), kernel/entry). A call that a signal interrupts, or a
 * fatal one ends, has its exit, too.
 */
static __always_inline __u64 rb_span_ends(struct task_struct *task)
{
	__u64 key = (__u64)task, span;
	__u64 *begun = bpf_map_lookup_elem(&rb_begun, &key);

	if (!begun)
		return 0;
	span = bpf_ktime_get_ns() - *begun;
	bpf_map_delete_elem(&rb_begun, &key);
	return span ? span : 1;
}

/* For one of sched_process_exit: who ends in a call must leave nothing to another one at its address. */
static __always_inline int rb_span_is_void(void)
{
	__u64 key = bpf_get_current_task();

	bpf_map_delete_elem(&rb_begun, &key);
	return 0;
}

#endif /* __RBTRACE_SPAN_H__ */
