//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Asks a ring buffer, be it whose it may, for its state. The programs are run on
 * request (BPF_PROG_RUN) and attached nowhere.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

/* All in bytes. */
struct rb_state {
	__u64 avail_data;
	__u64 ring_size;
	__u64 cons_pos;
	__u64 prod_pos;
	__u64 overwrite_pos; /* 0 before 6.19: an unknown flag answers that */
};

/* User space puts the ring in question here. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} rb_asked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rb_state);
} rb_answer SEC(".maps");

/*
 * The owner goes on meanwhile. Positions only ever grow, so asked in this order
 * cons_pos <= prod_pos and avail_data <= prod_pos - cons_pos hold all the same,
 * and where the latter two are equal, the three belong to one moment.
 */
static __always_inline int rb_ask(void)
{
	__u32 zero = 0;
	struct rb_state *state = bpf_map_lookup_elem(&rb_answer, &zero);

	if (!state) /* never: the key exists */
		return 0;
	state->cons_pos = bpf_ringbuf_query(&rb_asked, BPF_RB_CONS_POS);
	state->overwrite_pos = bpf_ringbuf_query(&rb_asked, BPF_RB_OVERWRITE_POS);
	state->avail_data = bpf_ringbuf_query(&rb_asked, BPF_RB_AVAIL_DATA);
	state->prod_pos = bpf_ringbuf_query(&rb_asked, BPF_RB_PROD_POS);
	state->ring_size = bpf_ringbuf_query(&rb_asked, BPF_RB_RING_SIZE);
	return 0;
}

SEC("syscall")
int rb_ask_syscall(void *ctx)
{
	return rb_ask();
}

/*
 * For kernels before 5.14, which have no SYSCALL programs. bpf_prog_test_run_raw_tp()
 * came with 5.10.
 */
SEC("raw_tp/sys_enter")
int rb_ask_raw_tp(void *ctx)
{
	return rb_ask();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
