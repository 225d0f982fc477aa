/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ring, the head that every record begins with, and the ledger that every
 * hit of a probe ends in.
 */
#ifndef __RBTRACE_RING_H__
#define __RBTRACE_RING_H__

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

/*
 * The head of every record. cgroup is the id in the unified (v2) hierarchy.
 * lost is how many events of this tracer this CPU had lost when the record was
 * made (modulo 2^32): where it rises between two records, the loss happened
 * between them.
 */
struct rb_head {
	__u64 time; /* CLOCK_BOOTTIME, ns: goes on through suspend */
	__u64 cgroup;
	__u32 pid; /* thread group, initial pid namespace */
	__u32 tid;
	__u32 ppid;
	__u32 uid; /* real ids, initial user namespace */
	__u32 gid;
	__u32 lost;
	__u16 tracer;
	__u16 cpu;
	__u32 flags; /* the tracer's own */
	__u8 comm[TASK_COMM_LEN];
};

/*
 * One CPU's books: hits = filtered + lost + discarded + submitted as soon as no
 * program is under way.
 */
struct rb_ledger {
	__u64 hits;
	__u64 filtered;
	__u64 lost;
	__u64 discarded;
	__u64 submitted;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space sets the real size */
} rb_ring SEC(".maps");

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

/* The books of this CPU, with this hit entered. NULL never happens: the key exists. */
static __always_inline struct rb_ledger *rb_hit(void)
{
	__u32 zero = 0;
	struct rb_ledger *books = bpf_map_lookup_elem(&rb_books, &zero);

	if (books)
		RB_COUNT(books, hits);
	return books;
}

static __always_inline void rb_fill_head(struct rb_head *head, const struct rb_ledger *books,
					 struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u64 uid_gid = bpf_get_current_uid_gid();

	head->time = bpf_ktime_get_boot_ns();
	head->cgroup = bpf_get_current_cgroup_id();
	head->pid = pid_tgid >> 32;
	head->tid = (__u32)pid_tgid;
	head->ppid = BPF_CORE_READ(task, real_parent, tgid);
	head->uid = (__u32)uid_gid;
	head->gid = uid_gid >> 32;
	head->lost = (__u32)books->lost;
	head->tracer = rb_tracer;
	head->cpu = (__u16)bpf_get_smp_processor_id();
	head->flags = 0;
	bpf_get_current_comm(head->comm, sizeof(head->comm));
}

/* The flags of a record's submit or output. */
static __always_inline __u64 rb_wakeup_flags(void)
{
	switch (rb_wakeup) {
	case RB_WAKEUP_EVERY:
		return BPF_RB_FORCE_WAKEUP;
	case RB_WAKEUP_BYTES:
		if (bpf_ringbuf_query(&rb_ring, BPF_RB_AVAIL_DATA) >= rb_wakeup_bytes)
			return BPF_RB_FORCE_WAKEUP;
		return BPF_RB_NO_WAKEUP;
	case RB_WAKEUP_NEVER:
		return BPF_RB_NO_WAKEUP;
	default:
		return 0;
	}
}

/* Copies a record of any size into the ring and enters what became of it. */
static __always_inline void rb_output(struct rb_ledger *books, void *record, __u64 size)
{
	if (bpf_ringbuf_output(&rb_ring, record, size, rb_wakeup_flags()))
		RB_COUNT(books, lost);
	else
		RB_COUNT(books, submitted);
}

/* Room for a record of constant size, or NULL with the loss entered. */
#define rb_reserve(books, type)                                                                    \
	({                                                                                         \
		type *__record = bpf_ringbuf_reserve(&rb_ring, sizeof(type), 0);                   \
		if (!__record)                                                                     \
			RB_COUNT(books, lost);                                                     \
		__record;                                                                          \
	})

static __always_inline void rb_submit(struct rb_ledger *books, void *record)
{
	bpf_ringbuf_submit(record, rb_wakeup_flags());
	RB_COUNT(books, submitted);
}

#endif /* __RBTRACE_RING_H__ */
