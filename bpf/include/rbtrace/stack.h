/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stacks behind an event, for those tracers that can show them. They take 2 KiB, so there
 * are none unless user space asks for them.
 */
#ifndef __RBTRACE_STACK_H__
#define __RBTRACE_STACK_H__

#define RB_STACK_DEPTH 127 /* PERF_MAX_STACK_DEPTH (include/uapi/linux/perf_event.h) */

enum rb_stack_kinds {
	RB_STACK_OF_KERNEL = 1 << 0,
	RB_STACK_OF_USER = 1 << 1,
};

/* Set by user space. */
const volatile __u32 rb_stacks = 0;

/* Addresses of code, the innermost first, and zeros behind the outermost. */
struct rb_stack_pair {
	__u64 kernel[RB_STACK_DEPTH];
	__u64 user[RB_STACK_DEPTH];
};

/* As rb_reserve(), with room behind the record for the stacks that are asked for. */
#define rb_reserve_with_stacks(books, ring, type)                                                  \
	({                                                                                         \
		__u64 __size =                                                                     \
			rb_stacks ? sizeof(type) + sizeof(struct rb_stack_pair) : sizeof(type);    \
		type *__record = bpf_ringbuf_reserve(ring, __size, 0);                             \
		if (!__record)                                                                     \
			RB_COUNT(books, lost);                                                     \
		__record;                                                                          \
	})

/* The helper fills all of what it is given, also where it fails (kernel/bpf/stackmap.c). */
#define rb_fill_stacks(ctx, record)                                                                \
	({                                                                                         \
		struct rb_stack_pair *__stacks = (void *)((record) + 1);                           \
		if (rb_stacks) {                                                                   \
			rb_fill_stack(ctx, __stacks->kernel, RB_STACK_OF_KERNEL, 0);               \
			rb_fill_stack(ctx, __stacks->user, RB_STACK_OF_USER, BPF_F_USER_STACK);    \
		}                                                                                  \
	})

static __always_inline void rb_fill_stack(void *ctx, __u64 *stack, __u32 kind, __u64 flags)
{
	if (rb_stacks & kind)
		bpf_get_stack(ctx, stack, RB_STACK_DEPTH * sizeof(*stack), flags);
	else
		__builtin_memset(stack, 0, RB_STACK_DEPTH * sizeof(*stack));
}

#endif /* __RBTRACE_STACK_H__ */
