/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP segments in socket buffers, and the kernel's names of numbers. */
#ifndef __RBTRACE_PACKET_H__
#define __RBTRACE_PACKET_H__

#define RB_TCP_FIN 1
#define RB_TCP_SYN 2
#define RB_TCP_ACK 0x10

struct rb_packet {
	__u8 saddr[16]; /* network order; of IPv4 the first four bytes */
	__u8 daddr[16];
	__u16 sport; /* host order */
	__u16 dport;
	__u16 family;
	__u16 flags; /* of TCP, and RB_TCP_*; the reserved bits are left out */
};

/*
 * Fills in p from the headers of skb, and returns whether it is a TCP segment whose header
 * is there. The network header is the one that IP has set, so where there are several (a
 * tunnel) the innermost that was looked at; its version says whether it is one. Segments with
 * extension headers in front (IPv6) and fragments but the first (IPv4) are not recognized.
 */
static __always_inline bool rb_tcp_packet(struct rb_packet *p, const struct sk_buff *skb)
{
	struct {
		__be16 sport, dport;
		__u8 rest[9];
		__u8 flags;
	} tcp;
	__u8 ip[40];
	__u16 protocol = BPF_CORE_READ(skb, protocol);
	__u32 at = BPF_CORE_READ(skb, network_header), end = BPF_CORE_READ(skb, tail);
	unsigned char *head = BPF_CORE_READ(skb, head);

	__builtin_memset(p, 0, sizeof(*p));
	if (protocol == __builtin_bswap16(0x0800)) {
		if (bpf_probe_read_kernel(ip, 20, head + at) || ip[0] >> 4 != 4 ||
		    ip[9] != IPPROTO_TCP || (ip[6] & 0x1f) || ip[7])
			return false;
		__builtin_memcpy(p->saddr, ip + 12, 4);
		__builtin_memcpy(p->daddr, ip + 16, 4);
		at += (ip[0] & 15) * 4;
		p->family = AF_INET;
	} else if (protocol == __builtin_bswap16(0x86dd)) {
		if (bpf_probe_read_kernel(ip, 40, head + at) || ip[0] >> 4 != 6 ||
		    ip[6] != IPPROTO_TCP)
			return false;
		__builtin_memcpy(p->saddr, ip + 8, 16);
		__builtin_memcpy(p->daddr, ip + 24, 16);
		at += 40;
		p->family = AF_INET6;
	} else {
		return false;
	}
	/* Behind the end of what was received is what was there before. */
	if (at + 20 > end || bpf_probe_read_kernel(&tcp, sizeof(tcp), head + at))
		return false;
	p->sport = __builtin_bswap16(tcp.sport);
	p->dport = __builtin_bswap16(tcp.dport);
	p->flags = tcp.flags;
	return true;
}

/*
 * The names that this kernel has for the values of an enum: which they are differs from one to
 * the next. User space writes them into a constant, and a record takes its own along, so that a
 * recording is understood everywhere.
 */
#define RB_ENUM_VALUES	192
#define RB_NAME_OF_ENUM 48 /* with a NUL */

struct rb_enum_names {
	__u8 name[RB_ENUM_VALUES][RB_NAME_OF_ENUM];
};

/* Writes all of to; where there is no name, zeros. */
static __always_inline void rb_name_of_enum(__u8 *to, const volatile struct rb_enum_names *names,
					    __u32 value)
{
	__builtin_memset(to, 0, RB_NAME_OF_ENUM);
	if (value < RB_ENUM_VALUES)
		bpf_probe_read_kernel(to, RB_NAME_OF_ENUM, (const void *)names->name[value]);
}

#endif /* __RBTRACE_PACKET_H__ */
