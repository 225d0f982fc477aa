/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The rings, the head that every record begins with, and the ledger that every
 * hit of a probe ends in.
 */
#ifndef __RBTRACE_RING_H__
#define __RBTRACE_RING_H__

#include "rbtrace/context.h"
#include "rbtrace/pid.h"

#define TASK_COMM_LEN 16

/* Set by user space: which tracer of the session this object is. */
const volatile __u16 rb_tracer = 0;

/*
 * When a record wakes the reader. AUTO leaves it to the kernel, which wakes a
 * reader that has caught up. BYTES forces a wakeup as soon as rb_wakeup_bytes wait,
 * the record at hand not counted, and suppresses all others; the reader looks at
 * the ring now and then all the same.
 */
enum rb_wakeup_policy {
	RB_WAKEUP_AUTO,
	RB_WAKEUP_EVERY,
	RB_WAKEUP_BYTES,
	RB_WAKEUP_NEVER,
};

const volatile __u32 rb_wakeup = RB_WAKEUP_AUTO;
const volatile __u64 rb_wakeup_bytes = 0;

/* Which ring an event goes to. Where it has none of its own, rb_ring takes it. */
enum rb_topologies {
	RB_SHARED, /* rb_ring */
	RB_PERCPU, /* rb_rings, by CPU */
	RB_HASH,   /* rb_rings, by process: each keeps its order */
	RB_CGROUP, /* rb_cgroup_rings, by the task's cgroup */
};

const volatile __u32 rb_topology = RB_SHARED;
const volatile __u32 rb_ring_count = 1; /* in rb_rings, for RB_HASH */

/*
 * Whose event it is: a thread, and its process. pid, tid and ppid are ids of the
 * initial pid namespace, ns_pid and ns_tid those that the process itself sees. start
 * and pid name a process for good, as a pid alone does not.
 */
struct rb_who {
	__u64 cgroup; /* id in the unified (v2) hierarchy */
	__u64 start;  /* of the process, CLOCK_BOOTTIME, ns */
	__u32 pid;    /* thread group */
	__u32 tid;
	__u32 ppid;
	__u32 uid; /* real ids, initial user namespace */
	__u32 gid;
	__u32 ns_pid;
	__u32 ns_tid;
	__u32 pid_ns; /* inode number of that namespace: /proc/PID/ns/pid */
	__u8 comm[TASK_COMM_LEN];
};

/*
 * The head of every record. lost is how many events of this tracer this CPU had lost
 * when the record was made (modulo 2^32): where it rises between two records, the
 * loss happened between them. group tells which records make up one event: see struct
 * rb_part.
 */
struct rb_head {
	__u64 time; /* CLOCK_BOOTTIME, ns: goes on through suspend */
	struct rb_who who;
	__u32 lost;
	__u16 tracer;
	__u16 cpu;
	__u16 flags; /* the tracer's own, but for RB_IS_PART */
	__u16 group; /* 0: this record is all of its event */
	__u32 unused;
};

#define RB_IS_PART (1 << 15)

/*
 * A part of an event that is too long for one record. Its parts are reserved, all
 * of them, before the event's main record goes into the ring, and submitted after
 * that: so either all of them come or none, and in the ring the parts are in front
 * of the main record. Records of other CPUs may lie between. Their heads are alike
 * but for RB_IS_PART: tracer, CPU and group tell what belongs together.
 */
#define RB_PART_ROOM 32768

struct rb_part {
	struct rb_head head;
	__u64 offset; /* of data, in what follows the main record; parts may overlap */
	__u8 data[RB_PART_ROOM];
};

/*
 * One CPU's books: hits = filtered + lost + discarded + submitted as soon as no
 * program is under way.
 */
struct rb_ledger {
	__u64 hits;
	__u64 filtered;
	__u64 lost;
	__u64 no_entry;	 /* of lost: what the event needs of an earlier moment is not known */
	__u64 discarded; /* built in the ring, and found to be unwanted */
	__u64 submitted;
	__u64 groups; /* events, submitted or lost, that took several records */
};

/* User space sets the real sizes of all of these. */
struct rb_ring_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct rb_ring_map rb_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rb_ring_map);
} rb_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u64);
	__array(values, struct rb_ring_map);
} rb_cgroup_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rb_ledger);
} rb_books SEC(".maps");

/*
 * Atomic although per CPU: from 7.0 on, tracepoint programs may be preempted by
 * another program that counts in the same books.
 */
#define RB_COUNT(books, column) ((void)__sync_fetch_and_add(&(books)->column, 1))

/*
 * Is this a trace yet, and still? User space sets it in one map that all objects of a session
 * share, so that all tracers begin and end at the same moment: to attach and to detach them
 * takes up to a tenth of a second for each place.
 */
volatile __u32 rb_on SEC(".data.switch") = 0;

/* The books of this CPU, with this hit entered, or NULL where it is none: no trace is on. */
static __always_inline struct rb_ledger *rb_hit(void)
{
	__u32 zero = 0;
	struct rb_ledger *books;

	if (!rb_on)
		return NULL;
	books = bpf_map_lookup_elem(&rb_books, &zero);
	if (books) /* always: the key exists */
		RB_COUNT(books, hits);
	return books;
}

/*
 * Ends a hit that is lost since what its event needs of an earlier moment is not known: the
 * kernel skipped the program there, or it had no room to remember. Lost is counted first, so
 * that it is never the smaller one to who reads both meanwhile.
 */
static __always_inline void rb_lose_without_entry(struct rb_ledger *books)
{
	RB_COUNT(books, lost);
	RB_COUNT(books, no_entry);
}

/*
 * Enters such a hit at that earlier moment: there is no room to remember what an event will
 * need, of one that began here and would be made later.
 */
static __always_inline void rb_lose(void)
{
	struct rb_ledger *books = rb_hit();

	if (books)
		rb_lose_without_entry(books);
}

/* The ids of who, whose task is that, in its own pid namespace, so many levels deep. */
static __always_inline void rb_who_in_own_ns(struct rb_who *who, struct task_struct *task,
					     __u32 level)
{
	struct upid own;

	who->ns_pid = who->pid;
	who->ns_tid = who->tid;
	who->pid_ns = RB_INITIAL_PID_NS;
	if (!level)
		return;
	own = rb_pid_at(task, level);
	who->ns_tid = own.nr;
	who->pid_ns = BPF_CORE_READ(own.ns, ns.inum);
	own = rb_pid_at(BPF_CORE_READ(task, group_leader), level);
	who->ns_pid = own.nr;
}

/*
 * Defined as 1, before this is included, by objects whose events cost much more than these few calls.
 * From 6.3 to 6.19 the verifier looks through all types of the kernel, by name, for each pointer
 * that is read without one (btf_nested_type_is_trusted() and its like): half a millisecond and more
 * for each, a tenth of what exec takes to begin.
 */
#ifndef RB_RARE
#define RB_RARE 0
#endif

/* The current task's. Since 5.11 what task points to can be read without a call. */
static __always_inline void rb_who_of_current(struct rb_who *who, struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u64 uid_gid = bpf_get_current_uid_gid();
	__u32 level;

	who->cgroup = bpf_get_current_cgroup_id();
	who->pid = pid_tgid >> 32;
	who->tid = (__u32)pid_tgid;
	who->uid = (__u32)uid_gid;
	who->gid = uid_gid >> 32;
	if (!RB_RARE &&
	    bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		struct task_struct *t = (void *)bpf_get_current_task_btf();

		who->ppid = t->real_parent->tgid;
		who->start = t->group_leader->start_boottime;
		level = t->thread_pid->level;
	} else {
		who->ppid = BPF_CORE_READ(task, real_parent, tgid);
		who->start = BPF_CORE_READ(task, group_leader, start_boottime);
		level = BPF_CORE_READ(task, thread_pid, level);
	}
	rb_who_in_own_ns(who, task, level);
	/* Not all kernels fill it behind the NUL. */
	__builtin_memset(who->comm, 0, sizeof(who->comm));
	bpf_get_current_comm(who->comm, sizeof(who->comm));
}

/* All of the head but for who. */
static __always_inline void rb_begin_head(struct rb_head *head, const struct rb_ledger *books)
{
	head->time = bpf_ktime_get_boot_ns();
	head->lost = (__u32)books->lost;
	head->tracer = rb_tracer;
	head->cpu = (__u16)bpf_get_smp_processor_id();
	head->flags = 0;
	head->group = 0;
	head->unused = 0;
}

/* The head of an event of the current task. */
static __always_inline void rb_fill_head(struct rb_head *head, const struct rb_ledger *books,
					 struct task_struct *task)
{
	rb_begin_head(head, books);
	rb_who_of_current(&head->who, task);
}

/* The head of an event of a task that is not current, or that nobody knows: zeros. */
static __always_inline void rb_fill_head_of(struct rb_head *head, const struct rb_ledger *books,
					    const struct rb_who *who)
{
	rb_begin_head(head, books);
	__builtin_memcpy(&head->who, who, sizeof(*who));
}

/* Which of rb_rings, for RB_HASH. Multiplied, as pids often go up in steps. */
static __always_inline __u32 rb_ring_of_pid(__u32 pid)
{
	return (pid * 2654435761U >> 16) % rb_ring_count;
}

/* The ring of the event at hand: to be asked once for each. */
static __always_inline void *rb_ring_of_event(void)
{
	void *ring = NULL;
	__u64 cgroup;
	__u32 i;

	switch (rb_topology) {
	case RB_PERCPU:
		i = bpf_get_smp_processor_id();
		ring = bpf_map_lookup_elem(&rb_rings, &i);
		break;
	case RB_HASH:
		i = rb_ring_of_pid(bpf_get_current_pid_tgid() >> 32);
		ring = bpf_map_lookup_elem(&rb_rings, &i);
		break;
	case RB_CGROUP:
		cgroup = bpf_get_current_cgroup_id();
		ring = bpf_map_lookup_elem(&rb_cgroup_rings, &cgroup);
		break;
	}
	return ring ? ring : (void *)&rb_ring;
}

/* The flags of a record's submit or output. */
static __always_inline __u64 rb_wakeup_flags(void *ring)
{
	switch (rb_wakeup) {
	case RB_WAKEUP_EVERY:
		return BPF_RB_FORCE_WAKEUP;
	case RB_WAKEUP_BYTES:
		if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) >= rb_wakeup_bytes)
			return BPF_RB_FORCE_WAKEUP;
		return BPF_RB_NO_WAKEUP;
	case RB_WAKEUP_NEVER:
		return BPF_RB_NO_WAKEUP;
	default:
		return 0;
	}
}

/* Copies a record of any size into the ring and enters what became of it. */
static __always_inline void rb_output(struct rb_ledger *books, void *ring, void *record, __u64 size)
{
	if (bpf_ringbuf_output(ring, record, size, rb_wakeup_flags(ring)))
		RB_COUNT(books, lost);
	else
		RB_COUNT(books, submitted);
}

/* Room for a record of constant size, or NULL with the loss entered. */
#define rb_reserve(books, ring, type)                                                              \
	({                                                                                         \
		type *__record = bpf_ringbuf_reserve(ring, sizeof(type), 0);                       \
		if (!__record)                                                                     \
			RB_COUNT(books, lost);                                                     \
		__record;                                                                          \
	})

static __always_inline void rb_submit(struct rb_ledger *books, void *ring, void *record)
{
	bpf_ringbuf_submit(record, rb_wakeup_flags(ring));
	RB_COUNT(books, submitted);
}

/*
 * Gives reserved memory back, whatever becomes of the event. Where the kernel
 * decides on wakeups it must do so for this record too: a reader that waits in
 * front of it has not caught up for any record behind it, so those would not wake
 * it. The other policies do not depend on where the reader stands.
 */
static __always_inline void rb_release(void *record)
{
	bpf_ringbuf_discard(record, rb_wakeup == RB_WAKEUP_AUTO ? 0 : BPF_RB_NO_WAKEUP);
}

/*
 * The flags of discarding a record that the reader must pass all the same: where
 * nothing but discarded records came, and none of them woke it, they would fill the
 * ring. Where every record wakes it the kernel decides for these, which is cheaper.
 */
static __always_inline __u64 rb_discard_flags(void *ring)
{
	return rb_wakeup == RB_WAKEUP_EVERY ? 0 : rb_wakeup_flags(ring);
}

/* Ends an event that was built in reserved memory and found to be unwanted. */
static __always_inline void rb_discard(struct rb_ledger *books, void *ring, void *record)
{
	bpf_ringbuf_discard(record, rb_discard_flags(ring));
	RB_COUNT(books, discarded);
}

#endif /* __RBTRACE_RING_H__ */
