//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Capabilities that the kernel asks for, and the answers: cap_capable()
 * (security/commoncap.c), to which all such questions come. In newer kernels it has a
 * tracepoint at its end; without, its entry and its return are needed.
 *
 * The credentials that are asked about are often those that a task acts with for a while
 * (override_creds()): overlayfs looks at the files below it as who mounted it, access(2) as
 * the real user. Whose event it is say the task's own (real_cred), and not, as for other
 * tracers, those that it acts with.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/abi.h"
#include "rbtrace/stack.h"

/* Only this capability, and one more, as 0 is one (CAP_CHOWN). */
const volatile __u32 cap = 0; /* 0: any */

/* include/linux/security.h: the options of a question. */
#define CAP_OPT_NOAUDIT (1 << 1)
#define CAP_OPT_INSETID (1 << 2)

enum capable_flags {
	CAPABLE_NOAUDIT = 1 << 0,
	CAPABLE_INSETID = 1 << 1,
	CAPABLE_OPTIONS = 1 << 2, /* the hook tells of these two */
	CAPABLE_OWN = 1 << 3,	  /* the credentials are the current task's */
};

struct capable_event {
	struct rb_head head;
	__u32 cap;
	__s32 ret;
	__u32 user_ns;		   /* inode number */
	struct rb_syscall syscall; /* in which it is asked */
	__u32 unused;
};

/* What is asked. */
struct capable_question {
	__u32 cap;
	__u32 user_ns;
	__u32 flags;
	__u32 cpu; /* where it is asked, for rb_scratch_stacks */
};

static __always_inline bool capable_is_wanted(struct task_struct *task, __u32 asked)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 uid = rb_by_uid ? BPF_CORE_READ(task, real_cred, uid.val) : 0;

	return !(cap && asked != cap - 1) &&
	       rb_task_is_wanted_as(task, pid_tgid >> 32, (__u32)pid_tgid, uid);
}

static __always_inline struct capable_question capable_question(struct task_struct *task,
								const struct cred *cred,
								struct user_namespace *ns,
								__u32 asked, __u32 flags)
{
	struct capable_question q = {.cap = asked, .flags = flags};

	q.user_ns = BPF_CORE_READ(ns, ns.inum);
	if (BPF_CORE_READ(task, real_cred) == cred)
		q.flags |= CAPABLE_OWN;
	return q;
}

static __always_inline __u32 capable_options(__u32 opts)
{
	return CAPABLE_OPTIONS | (opts & CAP_OPT_NOAUDIT ? CAPABLE_NOAUDIT : 0) |
	       (opts & CAP_OPT_INSETID ? CAPABLE_INSETID : 0);
}

/* Room for an event, and all of it but the stacks. */
static __always_inline struct capable_event *capable_event(struct rb_ledger *books, void *ring,
							   struct task_struct *task,
							   const struct capable_question *q,
							   __s32 ret)
{
	struct capable_event *e = rb_reserve_with_stacks(books, ring, struct capable_event);
	const struct cred *own;

	if (!e)
		return NULL;
	own = BPF_CORE_READ(task, real_cred);
	rb_fill_head(&e->head, books, task);
	e->head.who.uid = BPF_CORE_READ(own, uid.val);
	e->head.who.gid = BPF_CORE_READ(own, gid.val);
	e->head.flags = q->flags;
	e->cap = q->cap;
	e->ret = ret;
	e->user_ns = q->user_ns;
	e->syscall = rb_current_syscall(task);
	e->unused = 0;
	return e;
}

/* An event of a hook that has question and answer. */
static __always_inline int capable(void *ctx, const struct cred *cred, struct user_namespace *ns,
				   __u32 asked, __s32 ret, __u32 flags)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct capable_question q;
	struct capable_event *e;
	void *ring;

	if (!books)
		return 0;
	if ((rb_failed && ret >= 0) || !capable_is_wanted(task, asked)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	q = capable_question(task, cred, ns, asked, flags);
	ring = rb_ring_of_event();
	e = capable_event(books, ring, task, &q, ret);
	if (!e)
		return 0;
	rb_fill_stacks(ctx, e);
	rb_submit(books, ring, e);
	return 0;
}

SEC("raw_tp/cap_capable")
int rb_capable(struct bpf_raw_tracepoint_args *ctx)
{
	return capable(ctx, (void *)rb_arg(ctx, 0), (void *)rb_arg(ctx, 1), (__u32)rb_arg(ctx, 3),
		       (__s32)rb_arg(ctx, 4), 0);
}

/* The result is behind the four arguments. */
SEC("fexit/cap_capable")
int rb_capable_fexit(__u64 *ctx)
{
	return capable(ctx, (void *)ctx[0], (void *)ctx[1], (__u32)ctx[2], (__s32)ctx[4],
		       capable_options(ctx[3]));
}

/*
 * The questions that tasks wait for an answer to, by the address of the task. One that is
 * there already is lost: its return was missed, or an interrupt asks in the middle of it,
 * whose own is answered first.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct capable_question);
} rb_capable_questions SEC(".maps");

/*
 * The stacks of a question: not all kernels find a way from its return to who called. A slot for
 * each CPU, as it is asked and answered without sleeping; where one task has preempted another
 * in the middle of it, the first one's stacks are gone.
 */
struct capable_stacks {
	__u64 task;
	struct rb_stack_pair stacks;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct capable_stacks);
} rb_scratch_stacks SEC(".maps");

static __always_inline void capable_keep_stacks(void *ctx, __u64 task, __u32 cpu)
{
	struct capable_stacks *slot = bpf_map_lookup_elem(&rb_scratch_stacks, &cpu);

	if (!slot)
		return;
	slot->task = task;
	rb_fill_stack(ctx, slot->stacks.kernel, RB_STACK_OF_KERNEL, 0);
	rb_fill_stack(ctx, slot->stacks.user, RB_STACK_OF_USER, BPF_F_USER_STACK);
}

static __always_inline void capable_take_stacks(struct rb_stack_pair *stacks, __u64 task, __u32 cpu)
{
	struct capable_stacks *slot = bpf_map_lookup_elem(&rb_scratch_stacks, &cpu);

	if (slot)
		bpf_probe_read_kernel(stacks, sizeof(*stacks), &slot->stacks);
	/* Asked again, as it may have been overwritten meanwhile. A read that fails leaves zeros. */
	if (!slot || *(volatile __u64 *)&slot->task != task)
		bpf_probe_read_kernel(stacks, sizeof(*stacks), NULL);
}

SEC("kprobe/cap_capable")
int rb_capable_kprobe(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 asked = (__u32)PT_REGS_PARM3(ctx);
	struct capable_question q;
	__u64 key = (__u64)task;

	if (!rb_on) /* nobody would take its answer out */
		return 0;
	if (!capable_is_wanted(task, asked)) {
		/* As below; and its answer is not to be taken for this one's. */
		if (!bpf_map_delete_elem(&rb_capable_questions, &key))
			rb_lose();
		return 0;
	}
	q = capable_question(task, (void *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx), asked,
			     capable_options(PT_REGS_PARM4(ctx)));
	q.cpu = bpf_get_smp_processor_id();
	if (rb_stacks)
		capable_keep_stacks(ctx, key, q.cpu);
	if (bpf_map_update_elem(&rb_capable_questions, &key, &q, BPF_NOEXIST)) {
		rb_lose();
		bpf_map_update_elem(&rb_capable_questions, &key, &q, BPF_EXIST);
	}
	return 0;
}

SEC("kretprobe/cap_capable")
int rb_capable_kretprobe(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct capable_question *found, q;
	__s32 ret = (__s32)PT_REGS_RC(ctx);
	__u64 key = (__u64)task;
	struct capable_event *e;
	void *ring;

	if (!books)
		return 0;
	found = bpf_map_lookup_elem(&rb_capable_questions, &key);
	if (!found) { /* not wanted, or asked before tracing began */
		RB_COUNT(books, filtered);
		return 0;
	}
	q = *found;
	bpf_map_delete_elem(&rb_capable_questions, &key);
	if (rb_failed && ret >= 0) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = capable_event(books, ring, task, &q, ret);
	if (!e)
		return 0;
	if (rb_stacks)
		capable_take_stacks((void *)(e + 1), key, q.cpu);
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct capable_event *const capable_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
