//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP segments that are sent again. */
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

/* include/net/inet_connection_sock.h, include/uapi/linux/tcp.h */
#define ICSK_TIME_LOSS_PROBE 5
#define TCP_CA_RECOVERY	     3
#define TCP_CA_LOSS	     4

enum tcpretrans_kind {
	TCPRETRANS_OTHER,
	TCPRETRANS_TIMEOUT,
	TCPRETRANS_FAST,
	TCPRETRANS_PROBE,
};

struct tcpretrans_event {
	struct rb_head head;
	struct rb_sock sock;
	__u32 seq;
	__u32 len; /* of data */
	__s32 error;
	__u16 flags; /* of TCP */
	__u8 kind;
	__u8 unused;
};

RB_OWNER_PROGRAM

/*
 * Why a segment is sent again. The timer lets tcp_enter_loss() make the state Loss before it
 * sends, tcp_enter_recovery() makes it Recovery; tcp_send_loss_probe() changes neither, and its
 * timer is pending until it has sent. It may be pending as well where an acknowledgement
 * leads to Recovery, so the state comes first.
 */
static __always_inline __u8 tcpretrans_kind(const struct sock *sk)
{
	const struct inet_connection_sock *icsk = (void *)sk;

	switch (BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state)) {
	case TCP_CA_LOSS:
		return TCPRETRANS_TIMEOUT;
	case TCP_CA_RECOVERY:
		return TCPRETRANS_FAST;
	}
	return BPF_CORE_READ(icsk, icsk_pending) == ICSK_TIME_LOSS_PROBE ? TCPRETRANS_PROBE
									 : TCPRETRANS_OTHER;
}

/* __tcp_retransmit_skb() calls this: for timeouts, fast retransmits and tail loss probes. */
static __always_inline int tcpretrans(const struct sock *sk, const struct sk_buff *skb, int error)
{
	struct rb_ledger *books = rb_hit();
	struct tcpretrans_event *e;
	struct tcp_skb_cb *cb;
	struct rb_owner o;
	void *ring;

	if (!books)
		return 0;
	rb_owner_of(&o, sk);
	if (!rb_owner_is_wanted(&o) || !rb_is_port_wanted(sk)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve(books, ring, struct tcpretrans_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, sk);
	rb_fill_sock(&e->sock, sk);
	/* TCP_SKB_CB(), include/net/tcp.h */
	cb = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	e->seq = BPF_CORE_READ(cb, seq);
	e->flags = BPF_CORE_READ(cb, tcp_flags);
	/* SYN and FIN have a sequence number each. */
	e->len = BPF_CORE_READ(cb, end_seq) - e->seq - !!(e->flags & RB_TCP_SYN) -
		 !!(e->flags & RB_TCP_FIN);
	e->error = error;
	e->kind = tcpretrans_kind(sk);
	e->unused = 0;
	rb_submit(books, ring, e);
	return 0;
}

/* Newer kernels (6.18) tell of those that cannot be sent, too, and why. */
SEC("raw_tp/tcp_retransmit_skb")
int rb_tcpretrans_error(struct bpf_raw_tracepoint_args *ctx)
{
	return tcpretrans((void *)ctx->args[0], (void *)ctx->args[1], (int)ctx->args[2]);
}

SEC("raw_tp/tcp_retransmit_skb")
int rb_tcpretrans(struct bpf_raw_tracepoint_args *ctx)
{
	return tcpretrans((void *)ctx->args[0], (void *)ctx->args[1], 0);
}

/*
 * tcp_rtx_synack() calls this: by timeout, or as a SYN came again. The request has no struct
 * sock of its own yet: it is the listener's.
 */
SEC("raw_tp/tcp_retransmit_synack")
int rb_tcpretrans_synack(struct bpf_raw_tracepoint_args *ctx)
{
	const struct request_sock *req = (void *)ctx->args[1];
	const struct sock *listener = (void *)ctx->args[0];
	struct rb_ledger *books = rb_hit();
	struct tcpretrans_event *e;
	struct rb_owner o;
	void *ring;

	if (!books)
		return 0;
	rb_owner_of(&o, listener);
	if (!rb_owner_is_wanted(&o) || !rb_is_tcp(listener) ||
	    !rb_are_ports_wanted(BPF_CORE_READ(req, __req_common.skc_num),
				 __builtin_bswap16(BPF_CORE_READ(req, __req_common.skc_dport)))) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve(books, ring, struct tcpretrans_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, listener);
	rb_fill_sock(&e->sock, listener);
	e->sock.family = BPF_CORE_READ(req, __req_common.skc_family);
	e->sock.state = RB_TCP_NEW_SYN_RECV;
	rb_sock_addrs(&req->__req_common, e->sock.family, e->sock.laddr, e->sock.raddr);
	e->sock.lport = BPF_CORE_READ(req, __req_common.skc_num);
	e->sock.rport = __builtin_bswap16(BPF_CORE_READ(req, __req_common.skc_dport));
	e->seq = 0;
	e->len = 0;
	e->error = 0;
	e->flags = RB_TCP_SYN | RB_TCP_ACK;
	e->kind = TCPRETRANS_OTHER;
	e->unused = 0;
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct tcpretrans_event *const tcpretrans_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
