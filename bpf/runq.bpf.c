//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads that wait long for a CPU: from when they can run, since they were woken or
 * had to make room for another one, until they do.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/other.h"

/* Only who waited as long, in ns. */
const volatile __u64 min_ns = 0;

/* In head.flags. */
enum runq_flags {
	RUNQ_PREEMPTED = 1, /* it had run before and could have gone on */
};

struct runq_event {
	struct rb_head head; /* of who got the CPU */
	__u64 latency;
	__u32 prev_pid; /* who had it before; 0: nobody, the CPU was idle */
	__u32 prev_tid;
	__u8 prev_comm[TASK_COMM_LEN];
};

struct runq_wait {
	__u64 start; /* CLOCK_MONOTONIC, ns */
	__u64 preempted;
};

/*
 * Keyed by the task's address. A task that can run does so in the end, if only to die.
 * One that was woken while it ran may die without having waited again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct runq_wait);
} rb_runq_waits SEC(".maps");

/* Before 5.14 (2f064a59a11f). */
struct task_struct___old {
	long state;
} __attribute__((preserve_access_index));

#define TASK_DEAD 0x80 /* include/linux/sched.h; 0 is TASK_RUNNING */

static __always_inline __u32 runq_state(struct task_struct *task)
{
	struct task_struct___old *old = (void *)task;

	if (bpf_core_field_exists(old->state))
		return BPF_CORE_READ(old, state);
	return BPF_CORE_READ(task, __state);
}

static __always_inline void runq_waits(struct task_struct *task, bool preempted)
{
	struct runq_wait wait = {.preempted = preempted};
	__u64 key = (__u64)task;

	if (!rb_other_is_wanted(task))
		return;
	wait.start = bpf_ktime_get_ns();
	if (!bpf_map_update_elem(&rb_runq_waits, &key, &wait, BPF_ANY))
		return;
	/* No room: nobody will know how long it waited. */
	rb_lose();
}

/*
 * Attached to sched_wakeup_new as well. A task that is woken while it still runs, on its
 * way to sleep, does not wait: whenever it does, it is entered anew.
 */
SEC("raw_tp/sched_wakeup")
int rb_runq_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	runq_waits((void *)ctx->args[0], false);
	return 0;
}

/*
 * __schedule() calls this with the arguments preempt, prev and next, and since 5.18 the
 * state of prev, which is the current task.
 */
SEC("raw_tp/sched_switch")
int rb_runq(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *prev = (void *)ctx->args[1], *next = (void *)ctx->args[2];
	struct rb_ledger *books = rb_hit();
	struct runq_wait *found, wait;
	struct runq_event *e;
	struct rb_who who;
	__u64 key = (__u64)prev, latency;
	__u32 state = runq_state(prev);
	void *ring;

	if (!books)
		return 0;
	/*
	 * Who is preempted stays in the queue also where it was about to sleep. Idle tasks,
	 * which have the pid 0, wait for nothing.
	 */
	if (state & TASK_DEAD)
		bpf_map_delete_elem(&rb_runq_waits, &key);
	else if (BPF_CORE_READ(prev, pid) && (ctx->args[0] & 0xff || !state))
		runq_waits(prev, true);
	key = (__u64)next;
	found = bpf_map_lookup_elem(&rb_runq_waits, &key);
	if (!found) {
		RB_COUNT(books, filtered);
		return 0;
	}
	wait = *found;
	bpf_map_delete_elem(&rb_runq_waits, &key);
	latency = bpf_ktime_get_ns() - wait.start;
	if (latency < min_ns) {
		RB_COUNT(books, filtered);
		return 0;
	}
	rb_who_of_other(&who, next);
	ring = rb_ring_of_other(&who);
	e = rb_reserve(books, ring, struct runq_event);
	if (!e)
		return 0;
	rb_fill_head_of(&e->head, books, &who);
	if (wait.preempted)
		e->head.flags = RUNQ_PREEMPTED;
	e->latency = latency;
	e->prev_pid = BPF_CORE_READ(prev, tgid);
	e->prev_tid = BPF_CORE_READ(prev, pid);
	__builtin_memset(e->prev_comm, 0, sizeof(e->prev_comm));
	BPF_CORE_READ_STR_INTO(&e->prev_comm, prev, comm);
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct runq_event *const runq_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
