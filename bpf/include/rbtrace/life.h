/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* When TCP sockets began, how, and since when they are in their state. */
#ifndef __RBTRACE_LIFE_H__
#define __RBTRACE_LIFE_H__

struct rb_life {
	__u64 born;    /* CLOCK_BOOTTIME, ns; 0: before it was seen */
	__u64 since;   /* when it came into its state; 0: before it was seen */
	__u8 connects; /* it began by connect, not by being accepted */
	__u8 listens;
	__u8 unused[6];
};

/*
 * By the address of the struct sock; entries go as those of rb_owners do. The changes of one
 * socket's state come one after the other, as it is locked, and nothing else writes here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct rb_life);
} rb_lives SEC(".maps");

/*
 * Enters a change of a socket's state, and copies to l what is known; l->since is that of the
 * old state. Returns whether there was room for it.
 */
static __always_inline bool rb_life_follow(struct rb_life *l, const struct sock *sk, int old,
					   int new, __u64 now)
{
	struct rb_life *known = NULL;
	__u64 key = (__u64)sk;
	bool stored;

	__builtin_memset(l, 0, sizeof(*l));
	if (new == RB_TCP_SYN_SENT || new == RB_TCP_LISTEN ||
	    (old == RB_TCP_LISTEN && new == RB_TCP_SYN_RECV)) {
		l->born = now;
		l->connects = new == RB_TCP_SYN_SENT;
		l->listens = new == RB_TCP_LISTEN;
	} else {
		known = bpf_map_lookup_elem(&rb_lives, &key);
		if (known)
			__builtin_memcpy(l, known, sizeof(*l));
	}
	if (new == RB_TCP_CLOSE) {
		bpf_map_delete_elem(&rb_lives, &key);
		return true;
	}
	if (known) {
		known->since = now;
		return true;
	}
	l->since = now;
	stored = !bpf_map_update_elem(&rb_lives, &key, l, BPF_ANY);
	l->since = 0;
	return stored;
}

#endif /* __RBTRACE_LIFE_H__ */
