//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP connections accepted, in the context of the process that accepts. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"

#define AF_INET	    2
#define AF_INET6    10
#define IPPROTO_TCP 6

const volatile __u16 port = 0; /* local; 0: any */

struct tcpaccept_event {
	struct rb_head head;
	__u8 raddr[16]; /* network order; of IPv4 the first four bytes */
	__u8 laddr[16];
	__u16 rport; /* host order */
	__u16 lport;
	__u16 family;
	__u16 unused;
};

/* sk is what inet_csk_accept() returned: NULL where there was nothing to accept. */
static __always_inline int tcpaccept(struct sock *sk)
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
	if (family != AF_INET && family != AF_INET6) {
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
	__builtin_memset(e->raddr, 0, sizeof(e->raddr) + sizeof(e->laddr));
	if (family == AF_INET) {
		BPF_CORE_READ_INTO((__be32 *)e->raddr, sk, __sk_common.skc_daddr);
		BPF_CORE_READ_INTO((__be32 *)e->laddr, sk, __sk_common.skc_rcv_saddr);
	} else {
		BPF_CORE_READ_INTO(&e->raddr, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&e->laddr, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
	}
	e->rport = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	e->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
	e->family = family;
	e->unused = 0;
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
	if (bpf_core_type_exists(struct proto_accept_arg))
		return tcpaccept((struct sock *)ctx[2]);
	return tcpaccept((struct sock *)ctx[4]);
}

SEC("kretprobe/inet_csk_accept")
int rb_tcpaccept_kretprobe(struct pt_regs *ctx)
{
	return tcpaccept((struct sock *)PT_REGS_RC(ctx));
}

/* For the Go side: a type that nothing here names. */
const struct tcpaccept_event *const tcpaccept_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
