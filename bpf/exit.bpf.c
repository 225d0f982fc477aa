//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes that end. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

struct exit_event {
	struct rb_head head;
	__u64 age;    /* of the process, ns */
	__u32 status; /* as wait(2) tells it */
	__u32 unused;
};

/*
 * do_exit() lowers signal->live before it calls this, and has stored the task's
 * exit code: 0 says that this is the process's last thread. The parent is told
 * later, in exit_notify().
 */
SEC("raw_tp/sched_process_exit")
int rb_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct rb_ledger *books = rb_hit();
	struct signal_struct *signal;
	struct exit_event *e;
	__u32 status;
	void *ring;

	if (!books)
		return 0;
	signal = BPF_CORE_READ(task, signal);
	/* As wait_task_zombie() has it (kernel/exit.c). */
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		status = BPF_CORE_READ(signal, group_exit_code);
	else
		status = BPF_CORE_READ(task, group_leader, exit_code);
	if (BPF_CORE_READ(signal, live.counter) != 0 || (rb_failed && !status) ||
	    !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct exit_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->age = e->head.time - BPF_CORE_READ(task, group_leader, start_boottime);
	e->status = status;
	e->unused = 0;
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct exit_event *const exit_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
