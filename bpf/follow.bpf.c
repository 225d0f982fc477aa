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

/*
 * kernel_clone() calls this after copy_process() and before wake_up_new_task(),
 * so the child has not run yet.
 */
SEC("raw_tp/sched_process_fork")
int rb_follow_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	__u32 parent_pid = BPF_CORE_READ(parent, tgid), pid = BPF_CORE_READ(child, tgid);
	__u8 one = 1;

	if (pid == parent_pid) /* a thread */
		return 0;
	if (!bpf_map_lookup_elem(&rb_tree, &parent_pid))
		return 0;
	if (bpf_map_update_elem(&rb_tree, &pid, &one, BPF_ANY))
		__sync_fetch_and_add(&rb_unfollowed, 1);
	return 0;
}

/*
 * do_exit() lowers signal->live before it calls this: 0 says that the last thread
 * is leaving. A pid is reused only after that.
 */
SEC("raw_tp/sched_process_exit")
int rb_follow_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 pid = BPF_CORE_READ(task, tgid);

	if (BPF_CORE_READ(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&rb_tree, &pid);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct rb_part *const follow_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
