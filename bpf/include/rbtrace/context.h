/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program is given. The programs are those of tracepoints, raw ones and those of system
 * calls. User space may attach them to functions instead, by kprobe.multi: those of raw tracepoints
 * to the one that calls a tracepoint's programs, those of system calls to the one that does the
 * call. Their context is then that of a probe, and nothing but what is here, and in syscall.h, may
 * look at it. Programs that user space leaves where they are (tracer.Program.Atomic) look for
 * themselves.
 */
#ifndef __RBTRACE_CONTEXT_H__
#define __RBTRACE_CONTEXT_H__

/* Set by user space: they are attached to functions. */
const volatile bool rb_by_function = false;

/*
 * A word of the registers that a function was called with, or returns with. Not in C: of such a
 * load and one from another context the compiler would make one, from an address that it computes,
 * which the verifier does not allow.
 */
#define RB_REG(ctx, offset)                                                                        \
	({                                                                                         \
		__u64 __word;                                                                      \
		asm volatile("%0 = *(u64 *)(%1 + " offset ")" : "=r"(__word) : "r"(ctx));          \
		__word;                                                                            \
	})

/* Offsets in struct pt_regs: of what a function returns, and of its arguments but for the first. */
#if defined(__TARGET_ARCH_x86)
#define RB_RETURNED "80"  /* ax */
#define RB_ARG_2    "104" /* si */
#define RB_ARG_3    "96"  /* dx */
#define RB_ARG_4    "88"  /* cx */
#define RB_ARG_5    "72"  /* r8 */
#define RB_ARG_6    "64"  /* r9 */
#elif defined(__TARGET_ARCH_arm64)
#define RB_RETURNED "0"
#define RB_ARG_2    "8"
#define RB_ARG_3    "16"
#define RB_ARG_4    "24"
#define RB_ARG_5    "32"
#define RB_ARG_6    "40"
#endif

/*
 * Argument i of a raw tracepoint. The function that calls its programs, __traceiter_NAME(), is
 * given these behind a pointer of its own (include/linux/tracepoint.h).
 */
static __always_inline __u64 rb_arg(const struct bpf_raw_tracepoint_args *ctx, const int i)
{
	if (!rb_by_function)
		return ctx->args[i];
	switch (i) {
	case 0:
		return RB_REG(ctx, RB_ARG_2);
	case 1:
		return RB_REG(ctx, RB_ARG_3);
	case 2:
		return RB_REG(ctx, RB_ARG_4);
	case 3:
		return RB_REG(ctx, RB_ARG_5);
	default:
		return RB_REG(ctx, RB_ARG_6);
	}
}

#endif /* __RBTRACE_CONTEXT_H__ */
