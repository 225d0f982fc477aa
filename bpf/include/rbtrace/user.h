/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls of user-space functions, from a uprobe at the entry to a uretprobe at the
 * return: what the entry was given is kept in between.
 *
 * Programs of uprobes have no CPU to themselves: since 6.0 the kernel only keeps them
 * from migrating (bpf_prog_run_array_uprobe(), include/linux/bpf.h), so another one may
 * run before they end. Hence no scratch memory for each CPU: records are made in
 * memory of the ring.
 */
#ifndef __RBTRACE_USER_H__
#define __RBTRACE_USER_H__

struct rb_user_call {
	__u64 sp; /* that the function returns with */
	__u64 start;
	__u64 arg[3];
};

/*
 * Keyed by thread and level: a function that is traced may call another one, such as
 * SSL_read() on a connection through a TLS proxy. More levels than two are not
 * known of anything.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct rb_user_call);
} rb_user_calls SEC(".maps");

static __always_inline __u64 rb_user_key(void)
{
	return (__u64)(__u32)bpf_get_current_pid_tgid() << 1;
}

/* Where the stack pointer is when the function that is entered has returned. */
static __always_inline __u64 rb_user_sp_behind(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return PT_REGS_SP(ctx) + 8; /* the return address is gone */
#else
	return PT_REGS_SP(ctx);
#endif
}

/*
 * Remembers the call of a wanted task. Where there is no room, nobody will know what it
 * was: that is a loss.
 */
static __always_inline int rb_user_enter(struct pt_regs *ctx, __u64 arg0, __u64 arg1, __u64 arg2)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_user_call *outer, call = {};
	__u64 key = rb_user_key();

	if (!rb_task_is_wanted(task))
		return 0;
	call.sp = rb_user_sp_behind(ctx);
	call.start = bpf_ktime_get_ns();
	call.arg[0] = arg0;
	call.arg[1] = arg1;
	call.arg[2] = arg2;
	outer = bpf_map_lookup_elem(&rb_user_calls, &key);
	/* The stack grows down: one below this call did not return but was left by a jump. */
	if (outer && outer->sp > call.sp)
		key |= 1;
	if (!bpf_map_update_elem(&rb_user_calls, &key, &call, BPF_ANY))
		return 0;
	rb_lose();
	return 0;
}

/* Takes the call that returns out of the map. False: it was not wanted, or entered before tracing began. */
static __always_inline bool rb_user_return(struct pt_regs *ctx, struct rb_user_call *call)
{
	__u64 key = rb_user_key() | 1;
	struct rb_user_call *found = bpf_map_lookup_elem(&rb_user_calls, &key);

	if (!found || found->sp != PT_REGS_SP(ctx)) {
		key &= ~1ULL;
		found = bpf_map_lookup_elem(&rb_user_calls, &key);
		if (!found || found->sp != PT_REGS_SP(ctx))
			return false;
	}
	*call = *found;
	bpf_map_delete_elem(&rb_user_calls, &key);
	return true;
}

/* A thread that ends in a call must not leave it to another one of its id. */
SEC("raw_tp/sched_process_exit")
int rb_user_end(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 key = rb_user_key();

	bpf_map_delete_elem(&rb_user_calls, &key);
	key |= 1;
	bpf_map_delete_elem(&rb_user_calls, &key);
	return 0;
}

#endif /* __RBTRACE_USER_H__ */
