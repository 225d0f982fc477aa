//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Signals. Two sets of programs, of which user space takes one:
 *
 *  - rb_signal: every signal that is sent, whoever sends it;
 *  - rb_signal_exit: the calls of kill, tkill and tgkill that fail.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"

/* Only this signal. */
const volatile __u32 signal = 0; /* 0: any */

enum signal_flags {
	SIGNAL_GROUP = 1 << 0,	/* to a process, not to one of its threads */
	SIGNAL_KERNEL = 1 << 1, /* the kernel's own doing */
	SIGNAL_TARGET = 1 << 2, /* tpid is what the call was given, and nobody's id perhaps */
};

struct signal_event {
	struct rb_head head;
	__s32 tpid; /* to whom: thread group */
	__s32 ttid;
	__s32 sig;
	__s32 code; /* si_code */
	__s32 result;
	__s32 ret;
	__u8 tcomm[TASK_COMM_LEN];
};

/*
 * __send_signal_locked() calls this for every signal, at its end, whether it was
 * queued or not. current is who sends it, or was interrupted by what does: a timer.
 */
SEC("raw_tp/signal_generate")
int rb_signal(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *target = (void *)ctx->args[2];
	struct kernel_siginfo *info = (void *)ctx->args[1];
	struct rb_ledger *books = rb_hit();
	struct signal_event *e;
	void *ring;

	if (!books)
		return 0;
	if ((signal && (__u32)ctx->args[0] != signal) || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct signal_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->sig = (__s32)ctx->args[0];
	e->tpid = BPF_CORE_READ(target, tgid);
	e->ttid = BPF_CORE_READ(target, pid);
	BPF_CORE_READ_STR_INTO(&e->tcomm, target, comm);
	e->ret = 0;
	e->result = (__s32)ctx->args[4];
	/* SEND_SIG_NOINFO and SEND_SIG_PRIV are no pointers (include/linux/sched/signal.h). */
	if ((unsigned long)info <= 1)
		e->code = info ? 0x80 /* SI_KERNEL */ : 0 /* SI_USER */;
	else
		e->code = BPF_CORE_READ(info, si_code);
	if (ctx->args[3])
		e->head.flags |= SIGNAL_GROUP;
	if (e->code > 0)
		e->head.flags |= SIGNAL_KERNEL;
	rb_submit(books, ring, e);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
#define NR_KILL	 62
#define NR_TKILL 200
#elif defined(__TARGET_ARCH_arm64)
#define NR_KILL	 129
#define NR_TKILL 130
#endif

/* Attached to the exits of tkill and tgkill as well. */
SEC("tracepoint/syscalls/sys_exit_kill")
int rb_signal_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct rb_syscall_args args;
	struct signal_event *e;
	long ret = ctx->ret;
	__s32 pid, tid = 0, sig;
	void *ring;

	if (!books)
		return 0;
	args = rb_syscall_args(ctx);
	pid = (__s32)args.arg[0];
	sig = (__s32)args.arg[1];
	/* An int in some kernels, with anything behind it. */
	switch ((__s32)ctx->id) {
	case NR_KILL:
		break;
	case NR_TKILL:
		tid = pid;
		pid = 0;
		break;
	default: /* tgkill */
		tid = sig;
		sig = (__s32)args.arg[2];
	}
	if (ret >= 0 || (signal && (__u32)sig != signal) || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct signal_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->head.flags = SIGNAL_TARGET | (tid ? 0 : SIGNAL_GROUP);
	e->sig = sig;
	e->tpid = pid;
	e->ttid = tid;
	e->code = 0;
	e->result = 0;
	e->ret = ret;
	__builtin_memset(e->tcomm, 0, sizeof(e->tcomm));
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct signal_event *const signal_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
