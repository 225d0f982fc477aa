//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP segments that the kernel drops. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"
#include "rbtrace/before.h"
#include "rbtrace/packet.h"
#include "rbtrace/stack.h"

const volatile __u16 sport = 0; /* 0: any */
const volatile __u16 dport = 0;

#define TCPDROP_LOCATION 64

/* Of enum skb_drop_reason. */
const volatile struct rb_enum_names reason_names = {};

struct tcpdrop_event {
	struct rb_head head;
	struct rb_packet packet;
	__u64 address; /* of the code that dropped it */
	__u32 number;  /* enum skb_drop_reason */
	__u32 netns;
	__u16 state; /* of the socket; 0: none is known */
	__u16 unused[3];
	__u8 reason[RB_NAME_OF_ENUM];
	__u8 location[TCPDROP_LOCATION];
};

RB_OWNER_PROGRAM

/*
 * Is it TCP's, and has a state of TCP? A raw or packet socket, or that of a tun device, may have
 * sent the segment, or received it as well. See rb_is_tcp() about these two states.
 */
static __always_inline bool tcpdrop_is_tcp(const struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state == RB_TCP_TIME_WAIT || state == RB_TCP_NEW_SYN_RECV)
		return rb_is_inet(BPF_CORE_READ(sk, __sk_common.skc_family));
	return rb_is_tcp(sk);
}

/*
 * kfree_skb() calls this, where consume_skb() calls another one for what was not dropped.
 * Nearly all is not TCP on most machines, and that is asked first.
 */
static __always_inline int tcpdrop(void *ctx, const struct sk_buff *skb, __u64 address,
				   __u32 reason, const struct sock *sk)
{
	struct rb_ledger *books = rb_hit();
	struct tcpdrop_event *e;
	struct rb_packet packet;
	struct rb_owner o = {};
	__u8 state = 0;
	void *ring;

	if (!books)
		return 0;
	if (!rb_tcp_packet(&packet, skb) || (sport && packet.sport != sport) ||
	    (dport && packet.dport != dport)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	if (!sk)
		sk = BPF_CORE_READ(skb, sk);
	if (sk && tcpdrop_is_tcp(sk)) {
		rb_owner_of(&o, sk);
		state = BPF_CORE_READ(sk, __sk_common.skc_state);
	}
	if (!rb_owner_is_wanted(&o)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&o.who);
	e = rb_reserve_with_stacks(books, ring, struct tcpdrop_event);
	if (!e)
		return 0;
	rb_fill_head_of_owner(&e->head, books, &o, sk);
	__builtin_memcpy(&e->packet, &packet, sizeof(packet));
	e->address = address;
	e->number = reason;
	e->state = state;
	__builtin_memset(e->unused, 0, sizeof(e->unused));
	if (sk)
		e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	else
		e->netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	rb_name_of_enum(e->reason, &reason_names, reason);
	__builtin_memset(e->location, 0, sizeof(e->location));
	/* Since 5.13; before that user space has the number. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_snprintf)) {
		static const char symbol[] = "%pS";

		bpf_snprintf((char *)e->location, sizeof(e->location), symbol, &address,
			     sizeof(address));
	}
	rb_fill_stacks(ctx, e);
	rb_submit(books, ring, e);
	return 0;
}

/* Since 6.11 the socket that a segment was received for is an argument, too. */
SEC("raw_tp/kfree_skb")
int rb_tcpdrop_socket(struct bpf_raw_tracepoint_args *ctx)
{
	return tcpdrop(ctx, (void *)rb_arg(ctx, 0), rb_arg(ctx, 1), (__u32)rb_arg(ctx, 2),
		       (void *)rb_arg(ctx, 3));
}

SEC("raw_tp/kfree_skb")
int rb_tcpdrop(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 reason = 0;

	if (bpf_core_type_exists(enum skb_drop_reason))
		reason = (__u32)rb_arg(ctx, 2);
	return tcpdrop(ctx, (void *)rb_arg(ctx, 0), rb_arg(ctx, 1), reason, NULL);
}

/* For the Go side: a type that nothing here names. */
const struct tcpdrop_event *const tcpdrop_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
