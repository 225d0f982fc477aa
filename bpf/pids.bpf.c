//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a pid namespace's ids are in the initial one, which programs see. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/pid.h"

struct rb_pid {
	__u32 own;     /* in the namespace of who reads this */
	__u32 initial; /* in the initial one */
};

/* Writes a struct rb_pid for each thread that the reader's namespace has an id for. */
SEC("iter/task")
int rb_pids(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_struct *reader = (void *)bpf_get_current_task();
	__u32 level = BPF_CORE_READ(reader, thread_pid, level);
	struct rb_pid pid;
	struct upid id;

	if (!task || BPF_CORE_READ(task, thread_pid, level) < level)
		return 0;
	id = rb_pid_at(task, level);
	if (id.ns != rb_pid_at(reader, level).ns)
		return 0;
	pid.own = id.nr;
	pid.initial = BPF_CORE_READ(task, pid);
	bpf_seq_write(ctx->meta->seq, &pid, sizeof(pid));
	return 0;
}

/* For the Go side: a type that nothing else names. */
const struct rb_pid *const pid_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
