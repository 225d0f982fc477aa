//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP connections that are opened, when they are established or fail. Three programs:
 *
 *  - rb_tcpconnect: the changes of state. To SYN_SENT a socket comes by its owner's call
 *    (tcp_v4_connect(), tcp_v6_connect()), and from there, in whatever context the answer is
 *    processed, to ESTABLISHED, or to CLOSE with the error in sk_err;
 *  - rb_tcpconnect_enter and rb_tcpconnect_exit: the calls of connect. What fails before
 *    SYN_SENT, or on the way back from there (tcp_v4_connect(): no port is free), only the call
 *    tells of.
 *
 * So each attempt is told once. What connect returns of an attempt that a call before has
 * begun (EINPROGRESS, EALREADY, and then its result) is none of its own.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"
#include "rbtrace/socket.h"
#include "rbtrace/other.h"

const volatile __u16 port = 0; /* remote; 0: any */

struct tcpconnect_event {
	struct rb_head head;
	struct rb_sock sock;
	__u64 latency; /* from SYN_SENT, ns; 0: it did not get there */
	__s32 error;   /* negative; 0: none */
	__u32 established;
};

/* An attempt: a socket that is in SYN_SENT. */
struct tcpconnect_attempt {
	struct rb_who who;
	__u64 since;
};

/* By the address of the struct sock. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct tcpconnect_attempt);
} rb_attempts SEC(".maps");

/* A call of connect that is under way, with a socket of TCP or MPTCP. */
struct tcpconnect_call {
	__u64 sk;	     /* once it has begun that of TCP, which MPTCP has for itself */
	__u32 begun;	     /* it came to SYN_SENT, and the rest is not the call's to tell */
	__u32 failed;	     /* it left that without an error for the socket: it is again */
	struct rb_sock sock; /* of one that failed, as it was: the call clears some of it */
};

/*
 * By thread. Also a call that a signal kills has its exit. What comes to SYN_SENT otherwise, by
 * sendto (TCP Fast Open) or a thread of the kernel's, has an entry as well, and no exit: old ones
 * are forgotten.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct tcpconnect_call);
} rb_calls SEC(".maps");

static __always_inline bool tcpconnect_is_port(__be16 dport)
{
	return !port || dport == __builtin_bswap16(port);
}

/* The socket of a descriptor, where connect makes it one of TCP's connections. */
static __always_inline struct sock *tcpconnect_sock(struct socket *socket)
{
	struct sock *sk = socket ? BPF_CORE_READ(socket, sk) : NULL;

	return sk && (rb_is_tcp(sk) || rb_is_mptcp(sk)) ? sk : NULL;
}

static __always_inline void tcpconnect_submit(struct rb_ledger *books, const struct rb_who *who,
					      const struct rb_sock *sock, __u64 latency,
					      __s32 error, bool established)
{
	void *ring = rb_ring_of_other(who);
	struct tcpconnect_event *e = rb_reserve(books, ring, struct tcpconnect_event);

	if (!e)
		return;
	rb_fill_head_of(&e->head, books, who);
	__builtin_memcpy(&e->sock, sock, sizeof(e->sock));
	e->latency = latency;
	e->error = error;
	e->established = established;
	rb_submit(books, ring, e);
}

SEC("tracepoint/syscalls/sys_enter_connect")
int rb_tcpconnect_enter(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct tcpconnect_call call = {};
	struct socket *socket;
	struct sock *sk;

	if (!rb_call_enters(ctx) || !rb_task_is_wanted(task))
		return 0;
	socket = rb_socket_of_fd(task, (__s32)rb_syscall_args(ctx).arg[0]);
	sk = tcpconnect_sock(socket);
	if (!sk)
		return 0;
	call.sk = (__u64)sk;
	call.begun = BPF_CORE_READ(socket, state) == SS_CONNECTING;
	if (bpf_map_update_elem(&rb_calls, &tid, &call, BPF_ANY))
		rb_lose();
	return 0;
}

static __always_inline void tcpconnect_begin(const struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct tcpconnect_call call = {.sk = (__u64)sk, .begun = 1};
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct tcpconnect_attempt attempt = {};
	__u64 key = (__u64)sk;

	/* Also where the call's entry was missed, so that its exit knows. */
	bpf_map_update_elem(&rb_calls, &tid, &call, BPF_ANY);
	if (!tcpconnect_is_port(BPF_CORE_READ(sk, __sk_common.skc_dport)) ||
	    !rb_task_is_wanted(task)) {
		/* One that a missed program has left is not this one's. */
		bpf_map_delete_elem(&rb_attempts, &key);
		return;
	}
	rb_who_of_current(&attempt.who, task);
	attempt.since = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&rb_attempts, &key, &attempt, BPF_ANY))
		rb_lose();
}

SEC("raw_tp/inet_sock_set_state")
int rb_tcpconnect(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (void *)rb_arg(ctx, 0);
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct tcpconnect_attempt attempt, *known;
	int new = (int)rb_arg(ctx, 2), error;
	struct tcpconnect_call *call;
	struct rb_sock sock;
	struct rb_ledger *books;
	__u64 key = (__u64)sk;

	if (!rb_is_tcp(sk))
		return 0;
	if (new == RB_TCP_SYN_SENT) {
		tcpconnect_begin(sk);
		return 0;
	}
	if (new != RB_TCP_ESTABLISHED &&new != RB_TCP_CLOSE)
		return 0;
	books = rb_hit();
	if (!books)
		return 0;
	known = bpf_map_lookup_elem(&rb_attempts, &key);
	if (!known) {
		RB_COUNT(books, filtered);
		return 0;
	}
	error = BPF_CORE_READ(sk, sk_err);
	if (new == RB_TCP_CLOSE && !error) {
		/*
		 * tcp_v4_connect() and tcp_v6_connect() give up, or connect breaks off what was
		 * begun before (AF_UNSPEC). The call's exit has the error.
		 */
		call = bpf_map_lookup_elem(&rb_calls, &tid);
		if (call && call->sk == key) {
			call->failed = 1;
			rb_fill_sock(&call->sock, sk);
			RB_COUNT(books, filtered);
			return 0;
		}
	}
	__builtin_memcpy(&attempt, known, sizeof(attempt));
	bpf_map_delete_elem(&rb_attempts, &key);
	if (rb_failed && new == RB_TCP_ESTABLISHED) {
		RB_COUNT(books, filtered);
		return 0;
	}
	rb_fill_sock(&sock, sk);
	tcpconnect_submit(books, &attempt.who, &sock, bpf_ktime_get_boot_ns() - attempt.since,
			  new == RB_TCP_ESTABLISHED ? 0 : -error, new == RB_TCP_ESTABLISHED);
	return 0;
}

/* An event of a call that failed before SYN_SENT: the address is the one that was given. */
static __always_inline void tcpconnect_unbegun(struct rb_ledger *books, const struct sock *sk,
					       const struct rb_syscall_args *args, __s32 ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct {
		__u16 family;
		__be16 port;
		__u8 addr[20]; /* sin_addr, or sin6_flowinfo and sin6_addr */
	} given = {};
	__s32 len = (__s32)args->arg[2];
	struct tcpconnect_event *e;
	void *ring;

	/* As much as there is of it, or nothing. */
	if (len >= 24)
		bpf_probe_read_user(&given, 24, (void *)args->arg[1]);
	else if (len >= 8)
		bpf_probe_read_user(&given, 8, (void *)args->arg[1]);
	if (!rb_is_inet(given.family))
		given.port = 0;
	if (!tcpconnect_is_port(given.port)) {
		RB_COUNT(books, filtered);
		return;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct tcpconnect_event);
	if (!e)
		return;
	rb_fill_head(&e->head, books, task);
	rb_fill_sock(&e->sock, sk);
	e->sock.rport = __builtin_bswap16(given.port);
	__builtin_memset(e->sock.raddr, 0, sizeof(e->sock.raddr));
	if (rb_is_inet(given.family)) {
		if (given.family != e->sock.family)
			__builtin_memset(e->sock.laddr, 0, sizeof(e->sock.laddr));
		e->sock.family = given.family;
	}
	if (given.family == AF_INET)
		__builtin_memcpy(e->sock.raddr, given.addr, 4);
	else if (given.family == AF_INET6)
		__builtin_memcpy(e->sock.raddr, given.addr + 4, 16);
	e->latency = 0;
	e->error = ret;
	e->established = 0;
	rb_submit(books, ring, e);
}

/*
 * The socket of a call that failed and whose entry was not seen: a seccomp filter that answers
 * in the kernel's place skips the entry's tracepoint, or the call began before the trace, or a
 * program was missed. NULL where the call is not wanted, or its attempt goes on.
 */
static __always_inline const struct sock *tcpconnect_unseen(const struct rb_syscall_args *args)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct socket *socket;

	if (!rb_task_is_wanted(task))
		return NULL;
	socket = rb_socket_of_fd(task, (__s32)args->arg[0]);
	if (!socket || BPF_CORE_READ(socket, state) == SS_CONNECTING)
		return NULL;
	return tcpconnect_sock(socket);
}

SEC("tracepoint/syscalls/sys_exit_connect")
int rb_tcpconnect_exit(struct trace_event_raw_sys_exit *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct tcpconnect_attempt attempt, *known;
	struct tcpconnect_call call = {}, *here;
	struct rb_syscall_args args;
	const struct sock *sk;
	long ret = rb_syscall_ret(ctx);

	if (!books)
		return 0;
	here = bpf_map_lookup_elem(&rb_calls, &tid);
	if (here) {
		__builtin_memcpy(&call, here, sizeof(call));
		bpf_map_delete_elem(&rb_calls, &tid);
	}
	if (call.failed) {
		known = bpf_map_lookup_elem(&rb_attempts, &call.sk);
		if (known) {
			__builtin_memcpy(&attempt, known, sizeof(attempt));
			bpf_map_delete_elem(&rb_attempts, &call.sk);
			tcpconnect_submit(books, &attempt.who, &call.sock,
					  bpf_ktime_get_boot_ns() - attempt.since, ret, false);
			return 0;
		}
	}
	if (call.begun || ret >= 0) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	sk = here ? (const struct sock *)call.sk : tcpconnect_unseen(&args);
	if (!sk) {
		RB_COUNT(books, filtered);
		return 0;
	}
	tcpconnect_unbegun(books, sk, &args, ret);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct tcpconnect_event *const tcpconnect_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
