//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Signals. Two sets of programs, of which user space takes one:
 *
 *  - rb_signal: every signal that is sent, whoever sends it;
 *  - rb_signal_exit: the calls that fail to send one.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"
#include "rbtrace/fd.h"

/* Only this signal, and one more, as 0 is one (kill -0). */
const volatile __u32 signal = 0; /* 0: any */

/* include/uapi/asm-generic/siginfo.h: si_code. */
#define SI_USER	  0
#define SI_KERNEL 0x80
#define SI_TIMER  (-2)
#define SI_SIGIO  (-5)

enum signal_flags {
	SIGNAL_GROUP = 1 << 0,	/* to a process, not to one of its threads */
	SIGNAL_KERNEL = 1 << 1, /* the kernel's own doing */
};

/* Calls that fail. */
enum signal_calls {
	SIGNAL_NO_CALL,
	SIGNAL_KILL,
	SIGNAL_TKILL,
	SIGNAL_TGKILL,
	SIGNAL_RT_SIGQUEUEINFO,
	SIGNAL_RT_TGSIGQUEUEINFO,
	SIGNAL_PIDFD_SEND_SIGNAL,
};

struct signal_event {
	struct rb_head head;
	__s32 tpid; /* to whom: thread group; of a call what it was given, and nobody's id perhaps */
	__s32 ttid;
	__s32 sig;
	__s32 code; /* si_code */
	__s32 result;
	__s32 ret;
	__u32 call; /* enum signal_calls */
	__u32 unused;
	__u8 tcomm[TASK_COMM_LEN];
};

/*
 * __send_signal_locked() calls this for every signal, at its end, whether it was
 * queued or not. current is who sends it, or was interrupted by what does: a timer. By
 * sigaction(2) codes above 0 are the kernel's, and of those below SI_TIMER, SI_MESGQ,
 * SI_ASYNCIO and SI_SIGIO; a process that queues a signal can give these, too.
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
	if ((signal && (__u32)ctx->args[0] != signal - 1) || !rb_task_is_wanted(task)) {
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
	__builtin_memset(e->tcomm, 0, sizeof(e->tcomm));
	BPF_CORE_READ_STR_INTO(&e->tcomm, target, comm);
	e->ret = 0;
	e->call = SIGNAL_NO_CALL;
	e->unused = 0;
	e->result = (__s32)ctx->args[4];
	/* SEND_SIG_NOINFO and SEND_SIG_PRIV are no pointers (include/linux/sched/signal.h). */
	if ((unsigned long)info <= 1)
		e->code = info ? SI_KERNEL : SI_USER;
	else
		e->code = BPF_CORE_READ(info, si_code);
	if (ctx->args[3])
		e->head.flags |= SIGNAL_GROUP;
	if (e->code > 0 || (e->code <= SI_TIMER && e->code >= SI_SIGIO))
		e->head.flags |= SIGNAL_KERNEL;
	rb_submit(books, ring, e);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
#define NR_KILL		     62
#define NR_TKILL	     200
#define NR_TGKILL	     234
#define NR_RT_SIGQUEUEINFO   129
#define NR_RT_TGSIGQUEUEINFO 297
#elif defined(__TARGET_ARCH_arm64)
#define NR_KILL		     129
#define NR_TKILL	     130
#define NR_TGKILL	     131
#define NR_RT_SIGQUEUEINFO   138
#define NR_RT_TGSIGQUEUEINFO 240
#endif

/* include/uapi/linux/magic.h */
#define PID_FS_MAGIC 0x50494446

/*
 * The process id, in the initial pid namespace, that a pidfd was made for; -1 where it is
 * none. Since 6.9 (cb12fd8e0dab) such files have a file system of their own, and before that, or
 * without CONFIG_FS_PID, a name (kernel/fork.c, pidfd_prepare()).
 */
static __always_inline __s32 signal_pid_of_fd(struct task_struct *task, __s32 fd)
{
	struct file *file = rb_file_of_fd(task, fd);
	char name[8] = {};
	struct pid *pid;

	if (!file)
		return -1;
	if (BPF_CORE_READ(file, f_path.dentry, d_sb, s_magic) == PID_FS_MAGIC) {
		pid = BPF_CORE_READ(file, f_inode, i_private);
	} else {
		bpf_probe_read_kernel_str(name, sizeof(name),
					  BPF_CORE_READ(file, f_path.dentry, d_name.name));
		if (__builtin_memcmp(name, "[pidfd]", sizeof(name)))
			return -1;
		pid = BPF_CORE_READ(file, private_data);
	}
	return pid ? BPF_CORE_READ(pid, numbers[0].nr) : -1;
}

struct signal_call {
	__u32 call;
	__s32 tpid;
	__s32 ttid;
	__s32 sig;
};

/* What a call was given, but for the descriptor of one that was given that. */
static __always_inline struct signal_call signal_call(__s32 nr, const struct rb_syscall_args *args)
{
	__s32 arg[3] = {(__s32)args->arg[0], (__s32)args->arg[1], (__s32)args->arg[2]};

	switch (nr) {
	case NR_KILL:
		return (struct signal_call){SIGNAL_KILL, arg[0], 0, arg[1]};
	case NR_TKILL:
		return (struct signal_call){SIGNAL_TKILL, 0, arg[0], arg[1]};
	case NR_TGKILL:
		return (struct signal_call){SIGNAL_TGKILL, arg[0], arg[1], arg[2]};
	case NR_RT_SIGQUEUEINFO:
		return (struct signal_call){SIGNAL_RT_SIGQUEUEINFO, arg[0], 0, arg[1]};
	case NR_RT_TGSIGQUEUEINFO:
		return (struct signal_call){SIGNAL_RT_TGSIGQUEUEINFO, arg[0], arg[1], arg[2]};
	}
	return (struct signal_call){SIGNAL_PIDFD_SEND_SIGNAL, 0, 0, arg[1]};
}

/* Attached to the exits of the other calls as well. */
SEC("tracepoint/syscalls/sys_exit_kill")
int rb_signal_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	struct signal_event *e;
	struct signal_call call;
	long ret = rb_syscall_ret(ctx);
	void *ring;

	if (!books)
		return 0;
	args = rb_syscall_args(ctx);
	call = signal_call(rb_nr_at_exit(ctx), &args);
	if (ret >= 0 || (signal && (__u32)call.sig != signal - 1) || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	if (call.call == SIGNAL_PIDFD_SEND_SIGNAL)
		call.tpid = signal_pid_of_fd(task, (__s32)args.arg[0]);
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct signal_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->head.flags = call.ttid ? 0 : SIGNAL_GROUP;
	e->sig = call.sig;
	e->tpid = call.tpid;
	e->ttid = call.ttid;
	e->code = 0;
	e->result = 0;
	e->ret = ret;
	e->call = call.call;
	e->unused = 0;
	__builtin_memset(e->tcomm, 0, sizeof(e->tcomm));
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct signal_event *const signal_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
