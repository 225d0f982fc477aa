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

/* One of all processes that there ever are. */
struct exit_process {
	__u64 leader; /* its address */
	__u64 start;
};

/* Processes whose end was seen; old ones are forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct exit_process);
	__type(value, __u8);
} rb_exit_seen SEC(".maps");

/*
 * do_exit() lowers signal->live, and some time later calls this. Several threads
 * that end at the same time may all find it 0 by then, and the first to come here
 * speaks for the process. The parent is told later, in exit_notify().
 */
SEC("raw_tp/sched_process_exit")
int rb_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct rb_ledger *books = rb_hit();
	struct exit_process process;
	struct signal_struct *signal;
	struct task_struct *leader;
	struct exit_event *e;
	__u32 status;
	__u8 one = 1;
	void *ring;

	if (!books)
		return 0;
	signal = BPF_CORE_READ(task, signal);
	leader = BPF_CORE_READ(task, group_leader);
	process.leader = (__u64)leader;
	process.start = BPF_CORE_READ(leader, start_boottime);
	/* As wait_task_zombie() has it (kernel/exit.c). */
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		status = BPF_CORE_READ(signal, group_exit_code);
	else
		status = BPF_CORE_READ(leader, exit_code);
	if (BPF_CORE_READ(signal, live.counter) != 0 || (rb_failed && !status) ||
	    !rb_task_is_wanted(task) ||
	    bpf_map_update_elem(&rb_exit_seen, &process, &one, BPF_NOEXIST)) {
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
