//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes that end. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/once.h"

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

struct exit_event {
	struct rb_head head;
	__u64 age;    /* of the process, ns */
	__u32 status; /* as wait(2) tells it */
	__u32 unused;
};

/*
 * do_exit() lowers signal->live, and some time later calls this. Several threads
 * that end at the same time may all find it 0 by then, and the first to come here
 * speaks for the process. The parent is told later, in exit_notify().
 *
 * Where each thread ends by itself (exit), the process has the status of the last one: since
 * 6.0 (d80f7fe7b9d7) it is that of a group by now. Before, it has the leader's, which that
 * sets between the two (and then gives up its memory). A leader that has still to do so
 * comes here later, and speaks.
 */
SEC("raw_tp/sched_process_exit")
int rb_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)rb_arg(ctx, 0);
	struct rb_ledger *books = rb_hit();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct rb_process process;
	struct signal_struct *signal;
	struct exit_event *e;
	__u32 status;
	void *ring;
	bool last;

	if (!books)
		return 0;
	signal = BPF_CORE_READ(task, signal);
	process = rb_process_of(task);
	/* Before the status is read, which others may still set as long as there are any. */
	last = !BPF_CORE_READ(signal, live.counter);
	/* As wait_task_zombie() has it (kernel/exit.c). */
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT) {
		status = BPF_CORE_READ(signal, group_exit_code);
	} else {
		last = last && (task == leader || !BPF_CORE_READ(leader, mm));
		status = BPF_CORE_READ(leader, exit_code);
	}
	if (!last || (rb_failed && !status) || !rb_task_is_wanted(task) || !rb_is_first(&process)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct exit_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->age = e->head.time - process.start;
	e->status = status;
	e->unused = 0;
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct exit_event *const exit_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
