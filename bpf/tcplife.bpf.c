//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP connections that are over: how long they were, and what went through them. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"
#include "rbtrace/owner.h"
#include "rbtrace/life.h"
#include "rbtrace/ports.h"

#define SOCK_DONE 1 /* include/net/sock.h: a FIN has come */

struct tcplife_event {
	struct rb_head head;
	struct rb_sock sock;
	__u64 age; /* ns */
	__u64 tx;  /* bytes */
	__u64 rx;
	__u64 address;
	__s32 error; /* sk_err */
	__u16 state; /* its last one before CLOSE */
	__u16 connects;
};

/*
 * Bytes that the other side has acknowledged. bytes_acked has the SYN and the FIN as one
 * each. Where the FIN is acknowledged all is, and then that is what was sent without
 * repetitions, which counts no flags.
 */
static __always_inline __u64 tcplife_tx(const struct tcp_sock *tp, const struct rb_life *l)
{
	__u64 acked = BPF_CORE_READ(tp, bytes_acked);
	__u64 sent = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);

	if (acked && l->connects)
		acked--;
	return acked < sent ? acked : sent;
}

/* Bytes that came, in order. bytes_received has the FIN as one. */
static __always_inline __u64 tcplife_rx(const struct sock *sk)
{
	__u64 received = BPF_CORE_READ((struct tcp_sock *)sk, bytes_received);

	return received - (received && BPF_CORE_READ(sk, __sk_common.skc_flags) & 1 << SOCK_DONE);
}

SEC("raw_tp/inet_sock_set_state")
int rb_tcplife(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (void *)rb_arg(ctx, 0);
	int old = (int)rb_arg(ctx, 1), new = (int)rb_arg(ctx, 2), error;
	__u64 now = bpf_ktime_get_boot_ns();
	struct tcplife_event *e;
	struct rb_ledger *books;
	struct rb_owner o;
	struct rb_life l;
	void *ring;

	if (!rb_is_tcp(sk))
		return 0;
	rb_owner_follow(&o, sk, old, new);
	/* What has no room at its beginning cannot be shown at its end. */
	if (!rb_life_follow(&l, sk, old, new, now) && l.born && !l.listens) {
		rb_lose();
		return 0;
	}
	if (new != RB_TCP_CLOSE)
		return 0;
	books = rb_hit();
	if (!books)
		return 0;
	error = BPF_CORE_READ(sk, sk_err);
	if (!l.born || l.listens || (rb_failed && !error) || !rb_owner_is_wanted(&o) ||
	    !rb_is_port_wanted(sk)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve(books, ring, struct tcplife_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, sk);
	rb_fill_sock(&e->sock, sk);
	e->age = now - l.born;
	e->tx = tcplife_tx((const struct tcp_sock *)sk, &l);
	e->rx = tcplife_rx(sk);
	e->address = (__u64)sk;
	e->error = -error;
	e->state = old;
	e->connects = l.connects;
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct tcplife_event *const tcplife_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
