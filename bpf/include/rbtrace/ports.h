/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ports of TCP sockets that are wanted: --lport and --rport. */
#ifndef __RBTRACE_PORTS_H__
#define __RBTRACE_PORTS_H__

const volatile __u16 lport = 0; /* 0: any */
const volatile __u16 rport = 0;

/* Both in host order. */
static __always_inline bool rb_are_ports_wanted(__u16 local, __u16 remote)
{
	return (!lport || local == lport) && (!rport || remote == rport);
}

/* Reads no port that nobody asks for. */
static __always_inline bool rb_is_port_wanted(const struct sock *sk)
{
	return (!lport || rb_sock_lport(sk) == lport) &&
	       (!rport || BPF_CORE_READ(sk, __sk_common.skc_dport) == __builtin_bswap16(rport));
}

#endif /* __RBTRACE_PORTS_H__ */
