//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP connections accepted, in the context of the process that accepts. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/socket.h"

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
 * The listening socket of a task that is in inet_csk_accept(), by the task's address: for
 * the kretprobe, which is not given it. What a missed return leaves behind the task's next
 * call overwrites.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} rb_listeners SEC(".maps");

/* sk is what inet_csk_accept() returned: NULL where there was nothing to accept. */
static __always_inline int tcpaccept(const struct sock *listener, struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct tcpaccept_event *e;
	__u16 family;
	void *ring;

	if (!books)
		return 0;
	/* MPTCP sockets come this way too. */
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (!rb_is_inet(family)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	if (port && BPF_CORE_READ(sk, __sk_common.skc_num) != port) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct tcpaccept_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	rb_sock_addrs(&sk->__sk_common, family, e->laddr, e->raddr);
	e->rport = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	e->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	e->family = family;
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
		return tcpaccept(listener, (struct sock *)ctx[2]);
	return tcpaccept(listener, (struct sock *)ctx[4]);
}

SEC("kprobe/inet_csk_accept")
int rb_tcpaccept_kprobe(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, listener = PT_REGS_PARM1(ctx);

	if (rb_task_is_wanted(task))
		bpf_map_update_elem(&rb_listeners, &key, &listener, BPF_ANY);
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
	return tcpaccept(listener, (struct sock *)PT_REGS_RC(ctx));
}

/* For the Go side: a type that nothing here names. */
const struct tcpaccept_event *const tcpaccept_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
