//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses that sockets are bound to, or are not: the exits of bind. The address is read
 * from the caller's memory there; what the kernel chose itself is read from the socket.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"
#include "rbtrace/socket.h"

const volatile __u16 port = 0; /* 0: any */

enum bind_flags {
	BIND_REUSEADDR = 1 << 0,
	BIND_REUSEPORT = 1 << 1,
	BIND_FREEBIND = 1 << 2,
	BIND_TRANSPARENT = 1 << 3,
	BIND_NO_PORT = 1 << 4, /* IP_BIND_ADDRESS_NO_PORT */
	BIND_CHOSEN = 1 << 5,  /* the port, or the name of a Unix socket, is the kernel's choice */
};

struct bind_event {
	struct rb_head head;
	struct rb_sock sock;
	__s32 ret;
	__u32 ifindex;
	__u16 port;
	__u16 unused;
	__u32 name_len;
	__u8 name[RB_SOCKADDR_ROOM]; /* as given: a struct sockaddr */
};

/* Bits of inet_flags, include/net/inet_sock.h: the same since there are any (6.6). */
#define INET_FLAGS_FREEBIND	1 << 11
#define INET_FLAGS_TRANSPARENT	1 << 15
#define INET_FLAGS_BIND_NO_PORT 1 << 18

static __always_inline __u16 bind_options(const struct sock *sk, bool inet)
{
	__u16 flags = 0;

	if (BPF_CORE_READ_BITFIELD_PROBED(&sk->__sk_common, skc_reuse))
		flags |= BIND_REUSEADDR;
	if (BPF_CORE_READ_BITFIELD_PROBED(&sk->__sk_common, skc_reuseport))
		flags |= BIND_REUSEPORT;
	if (!inet)
		return flags;
	if (bpf_core_field_exists(struct inet_sock, inet_flags)) {
		unsigned long bits = BPF_CORE_READ((struct inet_sock *)sk, inet_flags);

		if (bits & INET_FLAGS_FREEBIND)
			flags |= BIND_FREEBIND;
		if (bits & INET_FLAGS_TRANSPARENT)
			flags |= BIND_TRANSPARENT;
		if (bits & INET_FLAGS_BIND_NO_PORT)
			flags |= BIND_NO_PORT;
	} else {
		struct inet_sock___fields *old = (void *)sk;

		if (BPF_CORE_READ_BITFIELD_PROBED(old, freebind))
			flags |= BIND_FREEBIND;
		if (BPF_CORE_READ_BITFIELD_PROBED(old, transparent))
			flags |= BIND_TRANSPARENT;
		if (BPF_CORE_READ_BITFIELD_PROBED(old, bind_address_no_port))
			flags |= BIND_NO_PORT;
	}
	return flags;
}

SEC("tracepoint/syscalls/sys_exit_bind")
int rb_bind(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct {
		__u16 family;
		__be16 port;
	} given = {};
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	struct socket *socket;
	struct sock *sk = NULL;
	struct bind_event *e;
	__u16 family = 0, bound = 0, flags = 0;
	long ret = rb_syscall_ret(ctx);
	bool inet, chosen = false;
	__s32 len;
	void *ring;

	if (!books)
		return 0;
	if ((rb_failed && ret >= 0) || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	socket = rb_socket_of_fd(task, (__s32)args.arg[0]);
	if (socket)
		sk = BPF_CORE_READ(socket, sk);
	len = (__s32)args.arg[2];
	/* The kernel takes no more than sizeof(struct sockaddr_storage). */
	if (len < 0 || len > 128)
		len = 0;
	if (len >= (__s32)sizeof(given))
		bpf_probe_read_user(&given, sizeof(given), (void *)args.arg[1]);
	else if (len >= (__s32)sizeof(given.family))
		bpf_probe_read_user(&given.family, sizeof(given.family), (void *)args.arg[1]);
	if (sk)
		family = BPF_CORE_READ(sk, __sk_common.skc_family);
	inet = rb_is_inet(family);
	if (inet || (!sk && rb_is_inet(given.family)))
		bound = __builtin_bswap16(given.port);
	if (inet && !ret && !bound && BPF_CORE_READ(sk, sk_type) != SOCK_RAW) {
		bound = rb_sock_lport(sk);
		chosen = bound;
	}
	if (port && bound != port) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct bind_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	rb_fill_sock(&e->sock, sk);
	e->ret = ret;
	e->port = bound;
	e->unused = 0;
	e->ifindex = 0;
	__builtin_memset(e->name, 0, sizeof(e->name));
	e->name_len = rb_sockaddr_len(len);
	if (bpf_probe_read_user(e->name, e->name_len, (void *)args.arg[1]))
		e->name_len = 0;
	if (sk) {
		flags = bind_options(sk, inet);
		e->ifindex = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
		/* unix_autobind() */
		if (family == AF_UNIX && !ret && len == sizeof(given.family)) {
			e->name_len = rb_unix_name(e->name, sk);
			chosen = true;
		}
	}
	e->head.flags = flags | (chosen ? BIND_CHOSEN : 0);
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct bind_event *const bind_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
