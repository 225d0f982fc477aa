/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* System calls by number, which each of a kernel's ABIs gives a meaning. */
#ifndef __RBTRACE_ABI_H__
#define __RBTRACE_ABI_H__

/* As field.ABI has them. */
enum rb_abi {
	RB_ABI_X86,
	RB_ABI_I386,
	RB_ABI_X32,
	RB_ABI_ARM64,
	RB_ABI_ARM,
};

/* Has it calls of 32-bit programs, with numbers of their own? */
static __always_inline bool rb_abi_is_32bit(__u32 abi)
{
	return abi == RB_ABI_I386 || abi == RB_ABI_ARM;
}

struct rb_syscall {
	__u32 nr; /* RB_NO_SYSCALL: none */
	__u32 abi;
};

#define RB_NO_SYSCALL (-1U)

#if defined(__TARGET_ARCH_x86)
#define TS_COMPAT	0x2	    /* arch/x86/include/asm/thread_info.h */
#define X32_SYSCALL_BIT 0x40000000U /* arch/x86/include/uapi/asm/unistd.h */

/*
 * The call of that number that a task is in. TS_COMPAT is set from a 32-bit entry, also
 * one of a 64-bit program (int 0x80), to its end.
 */
static __always_inline struct rb_syscall rb_syscall_of(struct task_struct *task,
						       struct pt_regs *regs, __u32 nr)
{
	struct rb_syscall call = {.nr = nr, .abi = RB_ABI_X86};

	if (BPF_CORE_READ(task, thread_info.status) & TS_COMPAT) {
		call.abi = RB_ABI_I386;
	} else if (nr != RB_NO_SYSCALL && nr & X32_SYSCALL_BIT) {
		call.abi = RB_ABI_X32;
		call.nr = nr & ~X32_SYSCALL_BIT;
	}
	return call;
}

/*
 * What does not come from user space has neither an address there (copy_thread()) nor a
 * number; what comes from there by an interrupt or a fault has -1 (arch/x86/entry).
 */
static __always_inline __u32 rb_syscall_nr(struct pt_regs *regs)
{
	return regs->ip ? (__u32)regs->orig_ax : RB_NO_SYSCALL;
}
#elif defined(__TARGET_ARCH_arm64)
#define X32_SYSCALL_BIT 0U
#define PSR_MODE32_BIT	0x10 /* arch/arm64/include/uapi/asm/ptrace.h */
#define PSR_MODE_MASK	0xf

/* The call of that number that a task is in. */
static __always_inline struct rb_syscall rb_syscall_of(struct task_struct *task,
						       struct pt_regs *regs, __u32 nr)
{
	bool compat = BPF_CORE_READ(regs, pstate) & PSR_MODE32_BIT;

	return (struct rb_syscall){.nr = nr, .abi = compat ? RB_ABI_ARM : RB_ABI_ARM64};
}

/*
 * What does not come from user space has the mode of the kernel (copy_thread()); what
 * comes from there by an interrupt or a fault has -1 (kernel_entry, arch/arm64/kernel/entry.S).
 */
static __always_inline __u32 rb_syscall_nr(struct pt_regs *regs)
{
	return regs->pstate & PSR_MODE_MASK ? RB_NO_SYSCALL : (__u32)regs->syscallno;
}
#endif

/* The call that the current task is in, as far as the kernel tells: since 5.15. */
static __always_inline struct rb_syscall rb_current_syscall(struct task_struct *task)
{
	struct rb_syscall none = {.nr = RB_NO_SYSCALL};
	struct pt_regs *regs;
	__u32 nr;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return none;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	nr = rb_syscall_nr(regs);
	return nr == RB_NO_SYSCALL ? none : rb_syscall_of(task, regs, nr);
}

#endif /* __RBTRACE_ABI_H__ */
