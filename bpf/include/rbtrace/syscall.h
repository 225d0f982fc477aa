/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a system call was given, at its exit: the registers that the task entered the
 * kernel with are still there. So nothing needs to be kept from the entry.
 */
#ifndef __RBTRACE_SYSCALL_H__
#define __RBTRACE_SYSCALL_H__

struct rb_syscall_args {
	__u64 arg[6];
};

#if defined(__TARGET_ARCH_x86)
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
 * For programs of syscalls/sys_exit_*. Since 5.15 a helper knows where the registers
 * are. Before that, the first word of the context points to them
 * (kernel/trace/trace_syscalls.c, perf_call_bpf_exit()), of which newer kernels make
 * the registers of that very function; the verifier lets no program load it.
 */
static __always_inline struct rb_syscall_args rb_syscall_args(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = NULL;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
		return (struct rb_syscall_args)RB_SYSCALL_ARGS(RB_READ_BTF, regs);
	}
	bpf_probe_read_kernel(&regs, sizeof(regs), ctx);
	return (struct rb_syscall_args)RB_SYSCALL_ARGS(BPF_CORE_READ, regs);
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
