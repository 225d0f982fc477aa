//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Changes of the states of TCP sockets. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"
#include "rbtrace/before.h"
#include "rbtrace/life.h"
#include "rbtrace/ports.h"

struct tcpstates_event {
	struct rb_head head;
	struct rb_sock sock;
	__u64 age; /* in the old state, ns; 0: not known */
	__u64 address;
	__u16 old;
	__u16 new;
	__u32 unused;
};

/*
 * inet_sk_state_store() and inet_sk_set_state() call this before they set it
 * (net/ipv4/af_inet.c).
 */
SEC("raw_tp/inet_sock_set_state")
int rb_tcpstates(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sock *sk = (void *)rb_arg(ctx, 0);
	int old = (int)rb_arg(ctx, 1), new = (int)rb_arg(ctx, 2);
	__u64 now = bpf_ktime_get_boot_ns();
	struct rb_ledger *books = rb_hit();
	struct tcpstates_event *e;
	struct rb_owner o;
	struct rb_life l;
	void *ring;

	if (!books)
		return 0;
	if (!rb_is_tcp(sk)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	rb_owner_follow(&o, sk, old, new);
	/* Where there is no room, the age of what comes is not known: nothing is lost. */
	rb_life_follow(&l, sk, old, new, now);
	if (!rb_owner_is_wanted(&o) || !rb_is_port_wanted(sk)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve(books, ring, struct tcpstates_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, sk);
	rb_fill_sock(&e->sock, sk);
	e->age = l.since ? now - l.since : 0;
	e->address = (__u64)sk;
	e->old = old;
	e->new = new;
	e->unused = 0;
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct tcpstates_event *const tcpstates_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
