//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP connections accepted, in the context of the process that accepts: at the exits of the system
 * calls, which see one that began before tracing did as well, and where the kernel has such hooks at
 * the return of the function, which sees those of io_uring and of 32-bit programs, too.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"
#include "rbtrace/syscall.h"

const volatile __u16 port = 0; /* local; 0: any */

struct tcpaccept_event {
	struct rb_head head;
	__u8 raddr[16]; /* network order; of IPv4 the first four bytes */
	__u8 laddr[16];
	__u16 rport; /* host order */
	__u16 lport;
	__u16 family;
	__u16 unused;
	__u32 backlog; /* connections that are still to be accepted from there, and how many may be */
	__u32 limit;
	__u32 known; /* is the listening socket? */
	__u32 netns;
};

/*
 * What the function has returned last to a task, by the task's address, for the exit of the system
 * call that it may be in: each connection is shown once. Of a call that has no such exit it stays
 * until the task's next one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} rb_returned SEC(".maps");

/*
 * The listening socket of a task that is in inet_csk_accept(), by the task's address: for
 * the kretprobe, which is not given it. Where the kernel had no kretprobe left for the return, the
 * exit of the system call takes it out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} rb_listeners SEC(".maps");

/* sk is what was accepted, from listener, which may be NULL: unknown. */
static __always_inline void tcpaccept(struct rb_ledger *books, struct task_struct *task,
				      const struct sock *listener, const struct sock *sk)
{
	struct tcpaccept_event *e;
	__u16 lport = rb_sock_lport(sk);
	void *ring;

	if (!rb_task_is_wanted(task) || (port && lport != port)) {
		RB_COUNT(books, filtered);
		return;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct tcpaccept_event);
	if (!e)
		return;
	rb_fill_head(&e->head, books, task);
	e->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	rb_sock_addrs(&sk->__sk_common, e->family, e->laddr, e->raddr);
	e->rport = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	e->lport = lport;
	e->unused = 0;
	e->backlog = 0;
	e->limit = 0;
	e->known = !!listener;
	e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (listener) {
		e->backlog = BPF_CORE_READ(listener, sk_ack_backlog);
		e->limit = BPF_CORE_READ(listener, sk_max_ack_backlog);
	}
	rb_submit(books, ring, e);
}

/* sk is what inet_csk_accept() returned: NULL where there was nothing to accept. */
static __always_inline int tcpaccept_returns(const struct sock *listener, struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, returned = (__u64)sk;
	struct rb_ledger *books = rb_hit();

	if (!books)
		return 0;
	if (!sk || !rb_is_tcp(sk)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	bpf_map_update_elem(&rb_returned, &key, &returned, BPF_ANY);
	tcpaccept(books, task, listener, sk);
	return 0;
}

/*
 * Of the listener's descriptor nobody knows whether it is that of the call still; at least it listens
 * at the same port.
 */
static __always_inline const struct sock *tcpaccept_listener(struct task_struct *task, __s32 fd,
							     const struct sock *sk)
{
	struct socket *socket = rb_socket_of_fd(task, fd);
	const struct sock *listener = socket ? rb_tcp_of_socket(socket) : NULL;

	if (listener && BPF_CORE_READ(listener, __sk_common.skc_state) == RB_TCP_LISTEN &&
	    rb_sock_lport(listener) == rb_sock_lport(sk))
		return listener;
	return NULL;
}

/* Left on its tracepoint where the others are on functions. Attached to that of accept as well. */
SEC("tracepoint/syscalls/sys_exit_accept4")
int rb_tcpaccept_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, *returned;
	const struct sock *sk = NULL;
	struct rb_syscall_args args;
	struct rb_ledger *books;
	struct socket *socket;
	bool shown;

	if (rb_of_all_calls && !rb_call_is_meant((__u32)ctx->id))
		return 0;
	bpf_map_delete_elem(&rb_listeners, &key);
	if (ctx->ret < 0)
		return 0;
	socket = rb_socket_of_fd(task, (__s32)ctx->ret);
	if (socket)
		sk = rb_tcp_of_socket(socket);
	returned = bpf_map_lookup_elem(&rb_returned, &key);
	if (returned) {
		/* Another thread may have closed what it was, and then this is the one. */
		shown = !socket || (sk && *returned == (__u64)sk);
		bpf_map_delete_elem(&rb_returned, &key);
		if (shown)
			return 0;
	}
	books = rb_hit();
	if (!books)
		return 0;
	if (!socket && rb_task_is_wanted(task)) {
		rb_lose_without_entry(books);
	} else if (!sk) {
		RB_COUNT(books, filtered);
	} else {
		args = rb_syscall_args(ctx);
		tcpaccept(books, task, tcpaccept_listener(task, (__s32)args.arg[0], sk), sk);
	}
	return 0;
}

/*
 * The result comes behind the arguments, whose number changed in 6.10
 * (92ef0fd55ac8): sk, flags, err, kern before, sk, arg since.
 */
SEC("fexit/inet_csk_accept")
int rb_tcpaccept_fexit(__u64 *ctx)
{
	const struct sock *listener = (void *)ctx[0];

	if (bpf_core_type_exists(struct proto_accept_arg))
		return tcpaccept_returns(listener, (struct sock *)ctx[2]);
	return tcpaccept_returns(listener, (struct sock *)ctx[4]);
}

SEC("kprobe/inet_csk_accept")
int rb_tcpaccept_kprobe(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, listener = PT_REGS_PARM1(ctx);

	if (!rb_task_is_wanted(task))
		return 0;
	if (bpf_map_lookup_elem(&rb_listeners, &key))
		rb_lose(); /* neither its return nor an exit told of what the task accepted before */
	bpf_map_update_elem(&rb_listeners, &key, &listener, BPF_ANY);
	/* A socket like the last one, at its address, is another one. */
	bpf_map_delete_elem(&rb_returned, &key);
	return 0;
}

SEC("kretprobe/inet_csk_accept")
int rb_tcpaccept_kretprobe(struct pt_regs *ctx)
{
	__u64 key = bpf_get_current_task();
	__u64 *known = bpf_map_lookup_elem(&rb_listeners, &key);
	struct sock *listener = NULL;

	if (known) {
		listener = (void *)*known;
		bpf_map_delete_elem(&rb_listeners, &key);
	}
	return tcpaccept_returns(listener, (struct sock *)PT_REGS_RC(ctx));
}

/* For the Go side: a type that nothing here names. */
const struct tcpaccept_event *const tcpaccept_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
