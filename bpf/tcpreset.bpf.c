//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RSTs of TCP, sent and received. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"
#include "rbtrace/before.h"
#include "rbtrace/packet.h"
#include "rbtrace/ports.h"

/* Of enum sk_rst_reason. */
const volatile struct rb_enum_names reason_names = {};

struct tcpreset_event {
	struct rb_head head;
	struct rb_sock sock;
	__u32 number; /* enum sk_rst_reason */
	__u16 sent;
	__u16 unused;
	__u8 reason[RB_NAME_OF_ENUM];
};

/*
 * What sockets were that are CLOSE: a process that breaks off makes its socket that, and then
 * sends the RST (__tcp_close(), tcp_disconnect()). Old ones are forgotten.
 */
struct tcpreset_closed {
	struct rb_owner owner;
	__u64 state; /* its last one before */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct tcpreset_closed);
} rb_closed SEC(".maps");

SEC("raw_tp/inet_sock_set_state")
int rb_owner_state(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (void *)rb_arg(ctx, 0);
	int old = (int)rb_arg(ctx, 1), new = (int)rb_arg(ctx, 2);
	struct tcpreset_closed closed;
	__u64 key = (__u64)sk;

	if (!rb_is_tcp(sk))
		return 0;
	rb_owner_follow(&closed.owner, sk, old, new);
	closed.state = old;
	if (new == RB_TCP_CLOSE)
		bpf_map_update_elem(&rb_closed, &key, &closed, BPF_ANY);
	return 0;
}

/* The owner of a socket, and the state that it had when it was somebody's. */
static __always_inline void tcpreset_owner(struct rb_owner *o, struct rb_sock *sock,
					   const struct sock *sk)
{
	struct tcpreset_closed *closed;
	__u64 key = (__u64)sk;

	rb_owner_of(o, sk);
	if (sock->state != RB_TCP_CLOSE)
		return;
	closed = bpf_map_lookup_elem(&rb_closed, &key);
	if (!closed)
		return;
	__builtin_memcpy(o, &closed->owner, sizeof(*o));
	sock->state = closed->state;
}

static __always_inline int tcpreset(const struct sock *sk, const struct sk_buff *skb, bool sent,
				    __u32 reason)
{
	struct rb_ledger *books = rb_hit();
	struct tcpreset_event *e;
	struct rb_packet packet;
	struct rb_sock sock;
	struct rb_owner o;
	void *ring;

	if (!books)
		return 0;
	rb_fill_sock(&sock, sk);
	tcpreset_owner(&o, &sock, sk);
	if (skb && rb_tcp_packet(&packet, skb)) {
		/* The segment that the RST answers: the socket, if any, may be a listening one. */
		sock.family = packet.family;
		sock.lport = packet.dport;
		sock.rport = packet.sport;
		__builtin_memcpy(sock.laddr, packet.daddr, sizeof(sock.laddr));
		__builtin_memcpy(sock.raddr, packet.saddr, sizeof(sock.raddr));
		if (!sk)
			sock.netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	}
	if (!rb_owner_is_wanted(&o) || !rb_are_ports_wanted(sock.lport, sock.rport)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve(books, ring, struct tcpreset_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, sk);
	__builtin_memcpy(&e->sock, &sock, sizeof(sock));
	e->sent = sent;
	e->number = reason;
	e->unused = 0;
	if (sent)
		rb_name_of_enum(e->reason, &reason_names, reason);
	else
		__builtin_memset(e->reason, 0, sizeof(e->reason));
	rb_submit(books, ring, e);
	return 0;
}

/*
 * tcp_v4_send_reset() and tcp_v6_send_reset() call this with the segment that they answer,
 * tcp_send_active_reset() with none. Before 6.10 there must be a socket, and no reason is told.
 */
SEC("raw_tp/tcp_send_reset")
int rb_tcpreset_sent(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 reason = 0;

	if (bpf_core_type_exists(enum sk_rst_reason))
		reason = (__u32)rb_arg(ctx, 2);
	return tcpreset((void *)rb_arg(ctx, 0), (void *)rb_arg(ctx, 1), true, reason);
}

/* tcp_reset() calls this, before it does anything else. */
SEC("raw_tp/tcp_receive_reset")
int rb_tcpreset_received(struct bpf_raw_tracepoint_args *ctx)
{
	return tcpreset((void *)rb_arg(ctx, 0), NULL, false, 0);
}

/* For the Go side: a type that nothing here names. */
const struct tcpreset_event *const tcpreset_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
