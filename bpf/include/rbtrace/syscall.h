/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a system call was given, at its exit: the registers that the task entered the
 * kernel with are still there. So nothing needs to be kept from the entry.
 */
#ifndef __RBTRACE_SYSCALL_H__
#define __RBTRACE_SYSCALL_H__

#include "rbtrace/abi.h"
#include "rbtrace/context.h"

struct rb_syscall_args {
	__u64 arg[6];
};

#if defined(__TARGET_ARCH_x86)
#define RB_SYSCALL_NR  orig_ax
#define RB_SYSCALL_RET ax
/* The exit has overwritten ax alone. */
#define RB_SYSCALL_ARGS(read, regs)                                                                \
	{                                                                                          \
		.arg = { read(regs, di),                                                           \
			 read(regs, si),                                                           \
			 read(regs, dx),                                                           \
			 read(regs, r10),                                                          \
			 read(regs, r8),                                                           \
			 read(regs, r9) }                                                          \
	}
#elif defined(__TARGET_ARCH_arm64)
#define RB_SYSCALL_NR  syscallno
#define RB_SYSCALL_RET regs[0]
/* The exit has overwritten x0. */
#define RB_SYSCALL_ARGS(read, regs)                                                                \
	{                                                                                          \
		.arg = { read(regs, orig_x0),                                                      \
			 read(regs, regs[1]),                                                      \
			 read(regs, regs[2]),                                                      \
			 read(regs, regs[3]),                                                      \
			 read(regs, regs[4]),                                                      \
			 read(regs, regs[5]) }                                                     \
	}
#endif

#define RB_READ_BTF(regs, field) ((regs)->field)

/*
 * Since 5.15 a helper knows where the registers are. Before that, the first word of the
 * context points to them (kernel/trace/trace_syscalls.c, perf_call_bpf_exit()), of which
 * newer kernels make the registers of that very function; the verifier lets no program
 * load it.
 */
static __always_inline struct rb_syscall_args rb_syscall_args(void *ctx)
{
	struct pt_regs *regs = NULL;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
		return (struct rb_syscall_args)RB_SYSCALL_ARGS(RB_READ_BTF, regs);
	}
	bpf_probe_read_kernel(&regs, sizeof(regs), ctx);
	return (struct rb_syscall_args)RB_SYSCALL_ARGS(BPF_CORE_READ, regs);
}

/* The calls that the programs are for, by their numbers, where they come to others too. Set by user space. */
#define RB_CALLS_MAX 32

const volatile __u16 rb_own_calls[RB_CALLS_MAX] = {};
const volatile __u32 rb_own_call_count = 0;

static __always_inline bool rb_call_is_own(__s32 nr)
{
	for (__u32 i = 0; i < RB_CALLS_MAX && i < rb_own_call_count; i++)
		if (rb_own_calls[i] == nr)
			return true;
	return false;
}

static __always_inline struct pt_regs *rb_regs_of_task(void)
{
	return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* Without the bit of x32, whose calls have the same functions, but for a few. */
static __always_inline __s32 rb_nr_of_task(void)
{
	__s32 nr = (__s32)((__u32)rb_regs_of_task()->RB_SYSCALL_NR & ~X32_SYSCALL_BIT);

	asm volatile("" : "+r"(nr)); /* see RB_REG */
	return nr;
}

/* Set by user space: they are at the entries and exits of all calls. */
const volatile bool rb_of_all_calls = false;

/* Is the call of that number one that the program is for? Those of 32-bit programs have other numbers. */
static __always_inline bool rb_call_is_meant(__u32 nr)
{
	const struct rb_syscall call =
		rb_syscall_of((void *)bpf_get_current_task(), rb_regs_of_task(), nr);

	return !rb_abi_is_32bit(call.abi) && rb_call_is_own((__s32)call.nr);
}

/* For programs of the entries of system calls, before anything else. */
static __always_inline bool rb_call_enters(struct trace_event_raw_sys_enter *ctx)
{
	return !rb_of_all_calls || rb_call_is_meant((__u32)ctx->id);
}

/*
 * A call that seccomp refuses does not come to its function. So programs that are attached to the exits of
 * functions are to that of __secure_computing(), too, with this cookie, which returns -1 then, of any call of
 * tasks that have such a filter.
 */
#define RB_REFUSED 1

static __always_inline bool rb_is_refused(void *ctx)
{
	return rb_by_function && bpf_get_attach_cookie(ctx) == RB_REFUSED;
}

/* The same for programs of their exits. */
static __always_inline bool rb_call_exits(struct trace_event_raw_sys_exit *ctx)
{
	if (rb_of_all_calls)
		return rb_call_is_meant((__u32)ctx->id);
	if (!rb_is_refused(ctx))
		return true;
	return (__s32)RB_REG(ctx, RB_RETURNED) == -1 && rb_call_is_own(rb_nr_of_task());
}

/* As rb_hit(), for programs of the exits of system calls. */
static __always_inline struct rb_ledger *rb_call_hit(struct trace_event_raw_sys_exit *ctx)
{
	return rb_call_exits(ctx) ? rb_hit() : NULL;
}

/* What the call returns. */
static __always_inline long rb_syscall_ret(struct trace_event_raw_sys_exit *ctx)
{
	long ret;

	if (!rb_by_function)
		return ctx->ret;
	if (!rb_is_refused(ctx))
		return (long)RB_REG(ctx, RB_RETURNED);
	ret = rb_regs_of_task()->RB_SYSCALL_RET;
	asm volatile("" : "+r"(ret)); /* see RB_REG */
	return ret;
}

/* The call's number, at its exit: in some kernels' context it is an int, with anything behind it. */
static __always_inline __s32 rb_nr_at_exit(struct trace_event_raw_sys_exit *ctx)
{
	return rb_by_function ? rb_nr_of_task() : (__s32)((__u32)ctx->id & ~X32_SYSCALL_BIT);
}

/* The same at its entry. */
static __always_inline __s32 rb_nr_at_entry(struct trace_event_raw_sys_enter *ctx)
{
	return rb_by_function ? rb_nr_of_task() : (__s32)((__u32)ctx->id & ~X32_SYSCALL_BIT);
}

/* include/linux/errno.h */
#define ERESTARTSYS	      512
#define ERESTART_RESTARTBLOCK 516

/*
 * Did a call fail? Not where a signal interrupted it (ERESTARTSYS and its kin): whether it
 * starts again or the program gets EINTR is decided behind the exit, by what the program
 * does with the signal.
 */
static __always_inline bool rb_has_failed(long ret)
{
	return ret < 0 && !(ret <= -ERESTARTSYS && ret >= -ERESTART_RESTARTBLOCK);
}

/* Is a call that returns this to the current task one whose event is wanted? */
static __always_inline bool rb_call_is_wanted(struct task_struct *task, long ret)
{
	return (!rb_failed || rb_has_failed(ret)) && rb_task_is_wanted(task);
}

#endif /* __RBTRACE_SYSCALL_H__ */
