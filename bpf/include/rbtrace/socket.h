/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets: which one a descriptor is, what it is, and its two ends. */
#ifndef __RBTRACE_SOCKET_H__
#define __RBTRACE_SOCKET_H__

#include "fd.h"

/* include/linux/socket.h, include/uapi/linux/in.h, include/linux/net.h: ABI. */
#define AF_UNIX	    1
#define AF_INET	    2
#define AF_INET6    10
#define IPPROTO_TCP 6
#define SOCK_STREAM 1
#define SOCK_RAW    3

#define IPPROTO_MPTCP 262

/* include/net/tcp_states.h; of them 1 to 11 are ABI (include/uapi/linux/bpf.h). */
enum rb_tcp_state {
	RB_TCP_ESTABLISHED = 1,
	RB_TCP_SYN_SENT,
	RB_TCP_SYN_RECV,
	RB_TCP_FIN_WAIT1,
	RB_TCP_FIN_WAIT2,
	RB_TCP_TIME_WAIT,
	RB_TCP_CLOSE,
	RB_TCP_CLOSE_WAIT,
	RB_TCP_LAST_ACK,
	RB_TCP_LISTEN,
	RB_TCP_CLOSING,
	RB_TCP_NEW_SYN_RECV,
};

struct rb_sock {
	__u8 laddr[16]; /* network order; of IPv4 the first four bytes */
	__u8 raddr[16];
	__u16 lport; /* host order */
	__u16 rport;
	__u16 family; /* 0: nothing is known of the socket */
	__u16 type;
	__u16 protocol;
	__u16 state;
	__u32 netns; /* inode number of its network namespace */
};

static __always_inline bool rb_is_inet(__u16 family)
{
	return family == AF_INET || family == AF_INET6;
}

/*
 * Is that a socket of TCP proper? Raw ones may have the protocol, too; what is in TIME_WAIT or
 * NEW_SYN_RECV is no struct sock, and must not be asked.
 */
static __always_inline bool rb_is_tcp(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_STREAM &&
	       rb_is_inet(BPF_CORE_READ(sk, __sk_common.skc_family));
}

/* What a process has of a connection of MPTCP. Its parts are sockets of TCP proper. */
static __always_inline bool rb_is_mptcp(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_MPTCP &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_STREAM &&
	       rb_is_inet(BPF_CORE_READ(sk, __sk_common.skc_family));
}

/*
 * The socket of a file, as sock_from_file() finds it (net/socket.c): NULL where that is no
 * socket. What a descriptor opened with O_PATH refers to may be a socket's inode as well, but
 * has no private_data.
 */
static __always_inline struct socket *rb_socket_of_file(struct file *file)
{
	/* S_ISSOCK, include/uapi/linux/stat.h */
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & 0170000) != 0140000)
		return NULL;
	return BPF_CORE_READ(file, private_data);
}

/* The socket of a task's descriptor: NULL where it is none, or not open. */
static __always_inline struct socket *rb_socket_of_fd(struct task_struct *task, __s32 fd)
{
	return rb_socket_of_file(rb_file_of_fd(task, fd));
}

/* The TCP socket that a descriptor's socket is, or has: NULL where there is none. */
static __always_inline const struct sock *rb_tcp_of_socket(struct socket *socket)
{
	const struct sock *sk = BPF_CORE_READ(socket, sk);

	/* What MPTCP has of TCP are sockets of their own: this is the first of them. */
	if (sk && rb_is_mptcp(sk) && bpf_core_field_exists(struct mptcp_sock, first))
		sk = BPF_CORE_READ((struct mptcp_sock *)sk, first);
	return sk && rb_is_tcp(sk) ? sk : NULL;
}

/* The addresses of what begins with a struct sock_common; 16 bytes each, none unwritten. */
static __always_inline void rb_sock_addrs(const struct sock_common *skc, __u16 family, __u8 *laddr,
					  __u8 *raddr)
{
	__builtin_memset(laddr, 0, 16);
	__builtin_memset(raddr, 0, 16);
	if (family == AF_INET) {
		BPF_CORE_READ_INTO((__be32 *)laddr, skc, skc_rcv_saddr);
		BPF_CORE_READ_INTO((__be32 *)raddr, skc, skc_daddr);
	} else if (family == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)laddr, skc, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)raddr, skc, skc_v6_daddr);
	}
}

/*
 * The local port. A socket whose port the kernel chose gives it back before it becomes
 * CLOSE (tcp_set_state()), which sets skc_num to 0 and leaves inet_sport. Of a raw socket
 * that is its protocol (inet_create()). What is in TIME_WAIT or NEW_SYN_RECV is no struct
 * inet_sock.
 */
static __always_inline __u16 rb_sock_lport(const struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state == RB_TCP_TIME_WAIT || state == RB_TCP_NEW_SYN_RECV)
		return BPF_CORE_READ(sk, __sk_common.skc_num);
	return __builtin_bswap16(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

/* Fills in all of s; of a socket that is NULL nothing is known. */
static __always_inline void rb_fill_sock(struct rb_sock *s, const struct sock *sk)
{
	__builtin_memset(s, 0, sizeof(*s));
	if (!sk)
		return;
	s->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	s->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	s->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	/* See rb_sock_lport() about these two states. */
	if (s->state == RB_TCP_TIME_WAIT || s->state == RB_TCP_NEW_SYN_RECV) {
		s->protocol = IPPROTO_TCP;
		s->type = SOCK_STREAM;
	} else {
		s->protocol = BPF_CORE_READ(sk, sk_protocol);
		s->type = BPF_CORE_READ(sk, sk_type);
	}
	if (!rb_is_inet(s->family))
		return;
	rb_sock_addrs(&sk->__sk_common, s->family, s->laddr, s->raddr);
	s->rport = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (s->type != SOCK_RAW)
		s->lport = rb_sock_lport(sk);
}

#define RB_SOCKADDR_ROOM 128 /* struct sockaddr_un takes 110 */

/* A length of a sockaddr, of which 5.10's verifier sees that it is less than the room. */
static __always_inline __u32 rb_sockaddr_len(__s32 len)
{
	__u32 n = len < 0 || len >= RB_SOCKADDR_ROOM ? RB_SOCKADDR_ROOM - 1 : len;

	barrier_var(n);
	return n & (RB_SOCKADDR_ROOM - 1);
}

/*
 * Copies the struct sockaddr_un that a socket is bound to, to RB_SOCKADDR_ROOM bytes that
 * are zero, and returns its length: 0 where it has none.
 */
static __always_inline __u32 rb_unix_name(__u8 *to, const struct sock *sk)
{
	struct unix_address *addr = BPF_CORE_READ((struct unix_sock *)sk, addr);
	__u32 len;

	if (!addr)
		return 0;
	len = rb_sockaddr_len(BPF_CORE_READ(addr, len));
	bpf_probe_read_kernel(to, len,
			      (void *)addr + bpf_core_field_offset(struct unix_address, name));
	return len;
}

#endif /* __RBTRACE_SOCKET_H__ */
