//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes and threads that are made. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"

struct fork_event {
	struct rb_head head; /* of who called */
	__u64 flags;	     /* of clone(2), without the signal in the lowest byte */
	__u32 child_pid;     /* thread group */
	__u32 child_tid;
};

/*
 * copy_process() calls this at its end, before the child is woken: it has all its
 * ids and has not run. current is who called fork, vfork, clone or clone3, or made a
 * kernel thread.
 */
SEC("raw_tp/task_newtask")
int rb_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *child = (void *)rb_arg(ctx, 0);
	struct rb_ledger *books = rb_hit();
	struct fork_event *e;
	void *ring;

	if (!books)
		return 0;
	if (!rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct fork_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->flags = rb_arg(ctx, 1);
	e->child_pid = BPF_CORE_READ(child, tgid);
	e->child_tid = BPF_CORE_READ(child, pid);
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct fork_event *const fork_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
