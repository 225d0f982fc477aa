/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __RBTRACE_BOUNDED_H__
#define __RBTRACE_BOUNDED_H__

/*
 * A length of which old verifiers have lost track: 0 where it is more than longest.
 * The compiler must not know it, or it would remove this, nor make what is computed
 * from it before it is looked at.
 */
static __always_inline __u64 rb_bounded(__u64 len, __u64 longest)
{
	barrier_var(len);
	if (len > longest)
		len = 0;
	barrier_var(len);
	return len;
}

/*
 * rb_output() of a record whose constant part is followed by len bytes. 5.10 keeps no
 * bounds of a number that goes to the stack, so they are looked at last of all.
 */
static __always_inline void rb_output_bounded(struct rb_ledger *books, void *ring, void *record,
					      __u64 size, __u64 len, __u64 longest)
{
	__u64 flags = rb_wakeup_flags(ring);

	barrier_var(flags);
	if (bpf_ringbuf_output(ring, record, size + rb_bounded(len, longest), flags))
		RB_COUNT(books, lost);
	else
		RB_COUNT(books, submitted);
}

#endif /* __RBTRACE_BOUNDED_H__ */
