//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Follows the descendants of a process: whoever a followed process forks is
 * followed from before its first instruction on.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"

/* Forks that found rb_tree full: their events are missed. */
__u64 rb_unfollowed = 0;

/* The process that is to be followed once it has become another program; 0: none. */
__u32 rb_awaited = 0;

/*
 * kernel_clone() calls this after copy_process() and before wake_up_new_task(),
 * so the child has not run yet.
 */
SEC("raw_tp/sched_process_fork")
int rb_follow_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)rb_arg(ctx, 0), *child = (void *)rb_arg(ctx, 1);
	__u32 parent_pid = BPF_CORE_READ(parent, tgid), pid = BPF_CORE_READ(child, tgid);
	__u64 start;

	if (pid == parent_pid) /* a thread */
		return 0;
	if (!rb_task_is_followed(parent, parent_pid))
		return 0;
	start = BPF_CORE_READ(child, start_boottime);
	if (bpf_map_update_elem(&rb_tree, &pid, &start, BPF_ANY))
		__sync_fetch_and_add(&rb_unfollowed, 1);
	return 0;
}

/*
 * begin_new_exec() calls this when no other thread is left and the old memory is gone, some time before
 * sched_process_exec: that the tracers see whom the exec makes a followed one does not depend on whose
 * program is called first there. Nothing else changes the name of who is awaited.
 */
SEC("raw_tp/task_rename")
int rb_follow_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)rb_arg(ctx, 0);
	__u32 pid = BPF_CORE_READ(task, tgid);
	__u64 start;

	if (pid != rb_awaited)
		return 0;
	rb_awaited = 0; /* the pid may be another's later */
	start = BPF_CORE_READ(task, start_boottime);
	if (bpf_map_update_elem(&rb_tree, &pid, &start, BPF_ANY))
		__sync_fetch_and_add(&rb_unfollowed, 1);
	return 0;
}

/*
 * delayed_put_task_struct() calls this, in a softirq, when the task is gone for good: what it did
 * while it ended, up to telling its parent, was its own. Its pid may be in use again,
 * by a process that is followed, too.
 */
SEC("raw_tp/sched_process_free")
int rb_follow_free(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);

	/* A leader that another thread's exec has replaced is not its own any more. */
	if (BPF_CORE_READ(task, group_leader) == task && rb_task_is_followed(task, pid))
		bpf_map_delete_elem(&rb_tree, &pid);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct rb_part *const follow_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
