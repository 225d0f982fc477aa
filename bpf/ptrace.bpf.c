//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What processes do to others by ptrace: the exits of that call. What it was given is
 * still in the registers that the task entered the kernel with.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"

#define PTRACE_TRACEES 32 /* that are looked through for the target */

/* Only this request, and one more, as 0 is one (PTRACE_TRACEME). */
const volatile __u32 request = 0; /* 0: any */

enum ptrace_flags {
	PTRACE_ARM64 = 1 << 0, /* whose own requests have the numbers of x86's */
};

struct ptrace_event {
	struct rb_head head;
	__s64 request;
	__u64 addr;
	__u64 data;
	__s64 ret;
	__s32 tpid;	  /* as the caller's pid namespace has it */
	__u32 target_pid; /* in the initial one; 0: nobody knows */
	__u32 target_tid;
	__u32 unused;
	__u8 tcomm[TASK_COMM_LEN];
};

/*
 * The task of that number among those that task traces, or NULL. A call that did not
 * fail has such a target, but for PTRACE_TRACEME and those that let it go.
 * ptrace_link() puts the newest at the front of the list, so what has just been
 * attached is found however many there are. The list may change meanwhile; what is
 * read of it then is at worst the end.
 */
static __always_inline struct task_struct *ptrace_target(struct task_struct *task, __s32 number)
{
	void *head = (void *)task + bpf_core_field_offset(struct task_struct, ptraced);
	struct list_head *at = BPF_CORE_READ(task, ptraced.next);
	__u32 level = BPF_CORE_READ(task, thread_pid, level);
	struct pid_namespace *ns = rb_pid_at(task, level).ns;

	for (int i = 0; i < PTRACE_TRACEES; i++) {
		struct task_struct *tracee;
		struct upid its;

		if (!at || at == head)
			break;
		tracee = (void *)at - bpf_core_field_offset(struct task_struct, ptrace_entry);
		if (BPF_CORE_READ(tracee, thread_pid, level) >= level) {
			its = rb_pid_at(tracee, level); /* or that of a namespace above its own */
			if (its.nr == number && its.ns == ns)
				return tracee;
		}
		at = BPF_CORE_READ(at, next);
	}
	return NULL;
}

SEC("tracepoint/syscalls/sys_exit_ptrace")
int rb_ptrace(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct task_struct *target;
	struct rb_syscall_args args;
	struct ptrace_event *e;
	long ret = rb_syscall_ret(ctx);
	void *ring;

	if (!books)
		return 0;
	args = rb_syscall_args(ctx);
	if ((rb_failed && ret >= 0) || (request && args.arg[0] != request - 1) ||
	    !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct ptrace_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
#if defined(__TARGET_ARCH_arm64)
	e->head.flags |= PTRACE_ARM64;
#endif
	e->request = args.arg[0];
	e->tpid = (__s32)args.arg[1];
	e->addr = args.arg[2];
	e->data = args.arg[3];
	e->ret = ret;
	e->target_pid = 0;
	e->target_tid = 0;
	e->unused = 0;
	__builtin_memset(e->tcomm, 0, sizeof(e->tcomm));
	target = e->tpid > 0 ? ptrace_target(task, e->tpid) : NULL;
	if (target) {
		e->target_pid = BPF_CORE_READ(target, tgid);
		e->target_tid = BPF_CORE_READ(target, pid);
		BPF_CORE_READ_STR_INTO(&e->tcomm, target, comm);
	}
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct ptrace_event *const ptrace_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
