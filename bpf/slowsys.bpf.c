//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * System calls that take long: the raw tracepoints of the entry and the exit of all of
 * them, those of 32-bit programs among them.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/abi.h"
#include "rbtrace/syscall.h"

/* Only calls that take as long, in ns. */
const volatile __u64 min_ns = 0;

/* Only the call of this number, which the 32-bit ABI may give another. */
const volatile bool by_syscall = false;
const volatile __u32 syscall_nr = 0;
const volatile __u32 syscall_nr32 = 0;

struct slowsys_event {
	struct rb_head head;
	__u64 latency;
	__s64 ret;
	__u32 nr;
	__u32 abi; /* enum rb_abi */
};

/* A call under way. An exec changes its task's ABI, and what the registers say of it. */
struct slowsys_call {
	__u64 start; /* CLOCK_MONOTONIC, ns */
	__u32 nr;
	__u32 abi;
};

/*
 * Keyed by the task's address, which stays the same while an exec changes the task's
 * pid. A task has one call under way at the most.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct slowsys_call);
} rb_slowsys_calls SEC(".maps");

static __always_inline struct slowsys_call slowsys_call(struct task_struct *task,
							struct pt_regs *regs, __u32 nr)
{
	struct rb_syscall call = rb_syscall_of(task, regs, nr);

	return (struct slowsys_call){.nr = call.nr, .abi = call.abi};
}

#if defined(__TARGET_ARCH_x86)
static __always_inline bool slowsys_returns(const struct slowsys_call *call)
{
	if (call->abi == RB_ABI_I386)
		return call->nr != 1 && call->nr != 252;
	return call->nr != 60 && call->nr != 231;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline bool slowsys_returns(const struct slowsys_call *call)
{
	if (call->abi == RB_ABI_ARM)
		return call->nr != 1 && call->nr != 248;
	return call->nr != 93 && call->nr != 94;
}
#endif

static __always_inline bool slowsys_is_wanted(const struct slowsys_call *call)
{
	if (by_syscall && call->nr != (rb_abi_is_32bit(call->abi) ? syscall_nr32 : syscall_nr))
		return false;
	return slowsys_returns(call); /* exit and exit_group do not */
}

SEC("raw_tp/sys_enter")
int rb_slowsys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct slowsys_call call;
	__u64 key = (__u64)task;

	call = slowsys_call(task, (void *)rb_arg(ctx, 0), (__u32)rb_arg(ctx, 1));
	if (!slowsys_is_wanted(&call) || !rb_task_is_wanted(task))
		return 0;
	call.start = bpf_ktime_get_ns();
	if (!bpf_map_update_elem(&rb_slowsys_calls, &key, &call, BPF_ANY))
		return 0;
	/* No room: nobody will know how long it took. */
	rb_lose();
	return 0;
}

/*
 * A call that a signal interrupts or that a fatal one ends comes here, too: signals are
 * handled on the way from here to user space. The child of a fork comes from a call
 * that it did not enter.
 */
SEC("raw_tp/sys_exit")
int rb_slowsys(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct slowsys_call *found, call;
	__s64 ret = (__s64)rb_arg(ctx, 1);
	__u64 key = (__u64)task, latency;
	struct slowsys_event *e;
	void *ring;

	if (!books)
		return 0;
	found = bpf_map_lookup_elem(&rb_slowsys_calls, &key);
	if (!found) { /* not wanted, or entered before tracing began */
		RB_COUNT(books, filtered);
		return 0;
	}
	call = *found;
	bpf_map_delete_elem(&rb_slowsys_calls, &key);
	latency = bpf_ktime_get_ns() - call.start;
	if (rb_abi_is_32bit(call.abi))
		ret = (__s32)ret;
	/* IS_ERR_VALUE(): a large number may be an address */
	if (latency < min_ns || (rb_failed && (!rb_has_failed(ret) || ret < -4095))) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct slowsys_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->latency = latency;
	e->ret = ret;
	e->nr = call.nr;
	e->abi = call.abi;
	rb_submit(books, ring, e);
	return 0;
}

/* A task that ends in a call, however that may come, must not leave its entry to another one at its address. */
SEC("raw_tp/sched_process_exit")
int rb_slowsys_end(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 key = rb_arg(ctx, 0);

	bpf_map_delete_elem(&rb_slowsys_calls, &key);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct slowsys_event *const slowsys_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
