//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets that begin to listen, or do not: the exits of listen. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"
#include "rbtrace/socket.h"

const volatile __u16 port = 0; /* 0: any */

struct listen_event {
	struct rb_head head;
	struct rb_sock sock;
	__s32 ret;
	__s32 backlog; /* as given */
	__u32 limit;   /* what the socket has */
	__u32 name_len;
	__u8 name[RB_SOCKADDR_ROOM]; /* of a Unix socket: a struct sockaddr_un */
};

SEC("tracepoint/syscalls/sys_exit_listen")
int rb_listen(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	struct socket *socket;
	struct sock *sk = NULL;
	struct listen_event *e;
	long ret = rb_syscall_ret(ctx);
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
	if (port && (!sk || !rb_is_inet(BPF_CORE_READ(sk, __sk_common.skc_family)) ||
		     rb_sock_lport(sk) != port)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct listen_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	rb_fill_sock(&e->sock, sk);
	e->ret = ret;
	e->backlog = (__s32)args.arg[1];
	e->limit = 0;
	e->name_len = 0;
	__builtin_memset(e->name, 0, sizeof(e->name));
	if (sk) {
		e->limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
		if (e->sock.family == AF_UNIX)
			e->name_len = rb_unix_name(e->name, sk);
	}
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct listen_event *const listen_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
