/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a TCP socket is. Most of what happens to one happens in an interrupt, where current is
 * anybody, or in the context of who sends to it. So the task is remembered at those changes of
 * its state that only a system call makes, with the socket locked, and by no interrupt:
 *
 *  - CLOSE to SYN_SENT: tcp_v4_connect(), tcp_v6_connect(); CLOSE to LISTEN and back:
 *    inet_csk_listen_start(), __tcp_close(), tcp_disconnect();
 *  - to FIN_WAIT1 and LAST_ACK: tcp_close_state(), of tcp_close() and tcp_shutdown() alone.
 *    The last close may be left to a kernel thread (delayed_fput()), which is nobody;
 *  - and where accept returns a socket that the kernel has made before.
 *
 * Other changes tell nothing of the owner. (Whether a program interrupts its current task
 * could be asked of the CPU's preempt count instead; but where it does not, that task may
 * still be another one that holds the socket's lock, or that the segment went through.) It is
 * the last task that acted so: of a server that forks, the child that closes its connection.
 */
#ifndef __RBTRACE_OWNER_H__
#define __RBTRACE_OWNER_H__

#include "rbtrace/other.h"
#include "rbtrace/syscall.h"

#define EEXIST	   17
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

struct rb_owner {
	struct rb_who who; /* zeros: nobody knows */
	__u32 wanted;	   /* what the shared filters said of it */
	__u32 unused;
};

/*
 * By the address of the struct sock, those that are known. Each socket's entry goes with its
 * change to CLOSE, which none misses (inet_csk_destroy_sock()); one that is left behind, as a
 * program was missed or accept returned just then, goes when that memory is a socket again.
 *
 * Entries are written whole, and by what the owners themselves do alone: accept returns while
 * segments that come change the state on another CPU, so what these change is kept apart.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct rb_owner);
} rb_owners SEC(".maps");

static __always_inline bool rb_owner_is_wanted(const struct rb_owner *o)
{
	return !rb_has_filters() || o->wanted;
}

/* Copies to o what is known of a socket. */
static __always_inline void rb_owner_of(struct rb_owner *o, const struct sock *sk)
{
	struct rb_owner *known = NULL;
	__u64 key = (__u64)sk;

	__builtin_memset(o, 0, sizeof(*o));
	if (sk)
		known = bpf_map_lookup_elem(&rb_owners, &key);
	if (known)
		__builtin_memcpy(o, known, sizeof(*o));
}

static __always_inline void rb_owner_is_current(struct rb_owner *o, struct task_struct *task)
{
	__builtin_memset(o, 0, sizeof(*o));
	rb_who_of_current(&o->who, task);
	o->wanted = rb_task_is_wanted(task);
}

/*
 * Enters the owner of a socket. Where there is no room, and filters ask for an owner, events
 * may not be shown that should be: that is a loss. Not so where somebody else just did.
 */
static __always_inline void rb_owner_enter(const struct rb_owner *o, const struct sock *sk,
					   __u64 flags)
{
	__u64 key = (__u64)sk;
	long error = bpf_map_update_elem(&rb_owners, &key, o, flags);

	if (error && error != -EEXIST && rb_has_filters() && o->wanted)
		rb_lose();
}

/* Is a change of state certainly the doing of the current task? */
static __always_inline bool rb_owner_acts(struct task_struct *task, int old, int new)
{
	switch (new) {
	case RB_TCP_SYN_SENT:
	case RB_TCP_LISTEN:
		return true;
	case RB_TCP_CLOSE:
		if (old != RB_TCP_LISTEN)
			return false;
		break;
	case RB_TCP_FIN_WAIT1:
	case RB_TCP_LAST_ACK:
		break;
	default:
		return false;
	}
	return !(BPF_CORE_READ(task, flags) & PF_KTHREAD);
}

/* Enters what a change of a socket's state tells of its owner, and copies to o who that is. */
static __always_inline void rb_owner_follow(struct rb_owner *o, const struct sock *sk, int old,
					    int new)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	bool is_new = old == RB_TCP_LISTEN && new == RB_TCP_SYN_RECV;
	bool acts = rb_owner_acts(task, old, new);
	__u64 key = (__u64)sk;

	if (acts)
		rb_owner_is_current(o, task);
	else if (is_new)
		__builtin_memset(o, 0, sizeof(*o));
	else
		rb_owner_of(o, sk);
	if (new == RB_TCP_CLOSE || is_new)
		bpf_map_delete_elem(&rb_owners, &key);
	else if (acts)
		rb_owner_enter(o, sk, BPF_ANY);
}

/* At the exit of accept: what it returns is the current task's. */
static __always_inline void rb_owner_accepts(long fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct socket *socket = NULL;
	const struct sock *sk;
	struct rb_owner o;
	__u64 key;

	if (fd >= 0)
		socket = rb_socket_of_fd(task, fd);
	if (!socket)
		return;
	sk = rb_tcp_of_socket(socket);
	/* It may be over already, or be while this looks; then nobody else would delete it. */
	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_state) == RB_TCP_CLOSE)
		return;
	rb_owner_is_current(&o, task);
	rb_owner_enter(&o, sk, BPF_ANY);
	key = (__u64)sk;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == RB_TCP_CLOSE)
		bpf_map_delete_elem(&rb_owners, &key);
}

/*
 * The head of an event of the socket: of an unknown owner the user alone, sk_uid. What is in
 * TIME_WAIT or NEW_SYN_RECV is no struct sock and has none.
 */
static __always_inline void rb_fill_head_of_owner(struct rb_head *head,
						  const struct rb_ledger *books, struct rb_owner *o,
						  const struct sock *sk)
{
	if (!o->who.pid && sk) {
		__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

		if (state != RB_TCP_TIME_WAIT && state != RB_TCP_NEW_SYN_RECV)
			o->who.uid = BPF_CORE_READ(sk, sk_uid.val);
	}
	rb_fill_head_of(head, books, &o->who);
}

/* Attached to the exit of accept as well, for tracers of sockets that are accepted. */
SEC("tracepoint/syscalls/sys_exit_accept4")
int rb_owner_accept(struct trace_event_raw_sys_exit *ctx)
{
	if (rb_call_exits(ctx))
		rb_owner_accepts(rb_syscall_ret(ctx));
	return 0;
}

/* For tracers of which a change of state is no event. */
#define RB_OWNER_PROGRAM                                                                           \
	SEC("raw_tp/inet_sock_set_state")                                                          \
	int rb_owner_state(struct bpf_raw_tracepoint_args *ctx)                                    \
	{                                                                                          \
		const struct sock *sk = (void *)rb_arg(ctx, 0);                                    \
		struct rb_owner o;                                                                 \
                                                                                                   \
		if (rb_is_tcp(sk))                                                                 \
			rb_owner_follow(&o, sk, (int)rb_arg(ctx, 1), (int)rb_arg(ctx, 2));         \
		return 0;                                                                          \
	}

#endif /* __RBTRACE_OWNER_H__ */
