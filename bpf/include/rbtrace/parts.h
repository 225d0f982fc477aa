/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events that take several records (struct rb_part), and memory of the ring as
 * scratch: parts are reserved, filled, looked at, and then either become an event's
 * or are discarded.
 */
#ifndef __RBTRACE_PARTS_H__
#define __RBTRACE_PARTS_H__

#define RB_PARTS_MAX  4
#define RB_PARTS_ROOM (RB_PARTS_MAX * RB_PART_ROOM)

/*
 * Reserved parts. n is stored as a constant where the last of them is reserved, so
 * that the verifier, which must see each of them submitted or discarded, knows it
 * on each of its ways. It keeps a constant that is stored on the stack (5.10: all
 * of 64 bits, and no bounds of other numbers); the compiler must not look through.
 */
struct rb_parts {
	struct rb_part *part[RB_PARTS_MAX];
	volatile __u64 n;
};

/* Runs the statement behind it for each part, from the first on, or from the last one. */
#define rb_for_each_part(i, n) _Pragma("unroll") for (int i = 0; i < RB_PARTS_MAX; i++) if (i < (n))
#define rb_for_each_part_reverse(i, n)                                                             \
	_Pragma("unroll") for (int i = RB_PARTS_MAX - 1; i >= 0; i--) if (i < (n))

/* How many parts take len bytes: more than RB_PARTS_MAX where they do not. */
static __always_inline __u64 rb_parts_of(__u64 len)
{
	return (len + RB_PART_ROOM - 1) / RB_PART_ROOM;
}

/*
 * Where part i of n begins in len bytes, which are more than RB_PART_ROOM. No byte
 * of a part may remain unwritten, so the last one is whole, too: it overlaps the one
 * before.
 */
static __always_inline __u64 rb_part_offset(int i, __u64 n, __u64 len)
{
	return i + 1 < n ? (__u64)i * RB_PART_ROOM : len - RB_PART_ROOM;
}

/*
 * Reserves n parts, RB_PARTS_MAX at the most. Where it returns false the ring is
 * full, and those that there was room for are to be released.
 */
static __always_inline bool rb_reserve_parts(struct rb_parts *p, void *ring, __u64 n)
{
	p->n = 0;
	rb_for_each_part(i, RB_PARTS_MAX) /* compilers read ahead, and 5.10 minds */
		p->part[i] = NULL;
	rb_for_each_part(i, n)
	{
		p->part[i] = bpf_ringbuf_reserve(ring, sizeof(struct rb_part), 0);
		if (!p->part[i])
			return false;
		p->n = i + 1;
	}
	return true;
}

/*
 * Ends parts that nothing comes of; what became of their event is entered elsewhere.
 * The reader waits in front of the first one, or before, and sees nothing of what is
 * behind it until it is ended, too. So that is done at last, and it is the only one
 * that may have to wake.
 */
static __always_inline void rb_release_parts(struct rb_parts *p, __u64 flags)
{
	__u64 n = p->n;

	rb_for_each_part_reverse(i, n)
		bpf_ringbuf_discard(p->part[i], i ? BPF_RB_NO_WAKEUP : flags);
}

/*
 * Copies the main record, of that size and head, into the ring and submits the
 * parts, whose offsets and data are written. Where it returns false the ring is
 * full, and they are to be released.
 */
static __always_inline bool rb_output_group(struct rb_ledger *books, void *ring, struct rb_parts *p,
					    struct rb_head *head, __u64 size)
{
	__u64 n = p->n;

	head->group = books->groups % 0xffff + 1;
	head->flags |= RB_IS_PART;
	rb_for_each_part(i, n) bpf_probe_read_kernel(&p->part[i]->head, sizeof(*head), head);
	head->flags &= ~RB_IS_PART;
	if (bpf_ringbuf_output(ring, head, size, BPF_RB_NO_WAKEUP))
		return false;
	rb_for_each_part_reverse(i, n) /* as rb_release_parts() does */
		bpf_ringbuf_submit(p->part[i], i ? BPF_RB_NO_WAKEUP : rb_wakeup_flags(ring));
	RB_COUNT(books, groups);
	RB_COUNT(books, submitted);
	return true;
}

/* Enters the loss of an event for whose records there was no room. */
static __always_inline void rb_lose_group(struct rb_ledger *books)
{
	RB_COUNT(books, groups);
	RB_COUNT(books, lost);
}

/*
 * Copies a record into the ring behind the reserved memory that it was made from,
 * and gives that back. The reader cannot pass that before, so its end is what wakes.
 */
static __always_inline void rb_output_from(struct rb_ledger *books, void *ring, void *scratch,
					   void *record, __u64 size)
{
	if (bpf_ringbuf_output(ring, record, size, BPF_RB_NO_WAKEUP))
		RB_COUNT(books, lost);
	else
		RB_COUNT(books, submitted);
	bpf_ringbuf_discard(scratch, rb_wakeup_flags(ring));
}

#endif /* __RBTRACE_PARTS_H__ */
