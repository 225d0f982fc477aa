/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose the TCP sockets are that were there before the trace: a process's that has them open. */
#ifndef __RBTRACE_BEFORE_H__
#define __RBTRACE_BEFORE_H__

#include "rbtrace/owner.h"

/*
 * User space reads this once, when the other programs are attached. Of several wanted processes
 * that have the socket it is the first, by pid, and who acted on it meanwhile is known better.
 * A socket that is CLOSE, or becomes that here, would never be deleted.
 */
SEC("iter/task_file")
int rb_owner_before(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct rb_owner o = {.wanted = 1};
	struct socket *socket;
	const struct sock *sk;
	__u64 key;

	if (!task || !file || !rb_other_is_wanted(task))
		return 0;
	socket = rb_socket_of_file(file);
	sk = socket ? rb_tcp_of_socket(socket) : NULL;
	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_state) == RB_TCP_CLOSE)
		return 0;
	key = (__u64)sk;
	if (bpf_map_lookup_elem(&rb_owners, &key))
		return 0;
	rb_who_of_other(&o.who, task);
	rb_owner_enter(&o, sk, BPF_NOEXIST);
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == RB_TCP_CLOSE)
		bpf_map_delete_elem(&rb_owners, &key);
	return 0;
}

#endif /* __RBTRACE_BEFORE_H__ */
