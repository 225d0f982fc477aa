//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The producer of rbtrace bench: makes records as fast as it can, by the part of the
 * ring's interface that its constants select. It is run on request (BPF_PROG_RUN) and
 * attached nowhere, as a raw tracepoint program, which can be run so since 5.10.
 *
 * The load is that of the kernel's own benchmark (tools/testing/selftests/bpf,
 * progs/ringbuf_bench.c and progs/perfbuf_bench.c), but for two things: records are
 * filled, whichever way they go, since that they can be built in place is what reserve
 * is for; and the time that producing takes is measured here.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#define BPF_F_CURRENT_CPU 0xffffffffULL

/* How a record gets to user space. */
enum rb_bench_api {
	RB_BENCH_RESERVE, /* bpf_ringbuf_reserve, fill, bpf_ringbuf_submit */
	RB_BENCH_OUTPUT,  /* fill, bpf_ringbuf_output */
	RB_BENCH_PERF,	  /* fill, bpf_perf_event_output: the buffer of this CPU */
};

/* When a record wakes the reader of a ring. A perf buffer's reader sets that itself. */
enum rb_bench_wakeup {
	RB_BENCH_AUTO,
	RB_BENCH_NONE,
	RB_BENCH_FORCE,
	RB_BENCH_BYTES, /* force as soon as rb_wakeup_bytes wait, else none */
};

#define RB_BENCH_MAX_SIZE 4096

const volatile enum rb_bench_api rb_api = RB_BENCH_RESERVE;
const volatile enum rb_bench_wakeup rb_wakeup = RB_BENCH_AUTO;
const volatile __u64 rb_wakeup_bytes = 0;
const volatile __u32 rb_size = 8;      /* of a record's payload, bytes: a multiple of 8 */
const volatile __u32 rb_batch = 500;   /* records a run */
const volatile bool rb_percpu = false; /* a ring for each CPU, in a map of maps */

/*
 * One producer's books and its scratch, which nobody else writes. A run that is
 * preempted by that of another producer on the same CPU does not share it.
 */
struct rb_bench_producer {
	__u64 attempts;
	__u64 dropped; /* attempts that found no room */
	__u64 busy_ns; /* time from the first attempt of a run to its last, summed */
	__u64 pad[5];
	__u64 scratch[RB_BENCH_MAX_SIZE / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* user space sets: one for each producer */
	__type(key, __u32);
	__type(value, struct rb_bench_producer);
} rb_producers SEC(".maps");

struct rb_bench_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* user space sets the real size */
};

struct rb_bench_ring rb_ring SEC(".maps");

/* By CPU. User space puts the rings in. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rb_bench_ring);
} rb_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} rb_perf SEC(".maps");

/*
 * Writes the record's number to every word of it. Unrolled, since the verifiers of 5.10
 * and 6.1 come to no end with a loop inside that over the records.
 */
static __always_inline void rb_fill(__u64 *record, __u64 number)
{
	__u32 words = rb_size / 8, rest = words & ~7;

#pragma unroll
	for (int i = 0; i < RB_BENCH_MAX_SIZE / 8; i += 8) {
		if (i + 8 > words)
			break;
		record[i] = number;
		record[i + 1] = number;
		record[i + 2] = number;
		record[i + 3] = number;
		record[i + 4] = number;
		record[i + 5] = number;
		record[i + 6] = number;
		record[i + 7] = number;
	}
#pragma unroll
	for (int i = 0; i < 7; i++) {
		if (rest + i >= words)
			break;
		record[rest + i] = number;
	}
}

static __always_inline __u64 rb_flags(void *ring)
{
	switch (rb_wakeup) {
	case RB_BENCH_NONE:
		return BPF_RB_NO_WAKEUP;
	case RB_BENCH_FORCE:
		return BPF_RB_FORCE_WAKEUP;
	case RB_BENCH_BYTES:
		if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) >= rb_wakeup_bytes)
			return BPF_RB_FORCE_WAKEUP;
		return BPF_RB_NO_WAKEUP;
	default:
		return 0;
	}
}

/* Makes one record; 0 says that it is on its way. */
static __always_inline long rb_make(void *ctx, void *ring, __u64 *scratch, __u64 number)
{
	__u64 *record;

	if (rb_api == RB_BENCH_RESERVE) {
		record = bpf_ringbuf_reserve(ring, rb_size, 0);
		if (!record)
			return -1;
		rb_fill(record, number);
		bpf_ringbuf_submit(record, rb_flags(ring));
		return 0;
	}
	rb_fill(scratch, number);
	if (rb_api == RB_BENCH_PERF)
		return bpf_perf_event_output(ctx, &rb_perf, BPF_F_CURRENT_CPU, scratch, rb_size);
	return bpf_ringbuf_output(ring, scratch, rb_size, rb_flags(ring));
}

/* The ring of this CPU is looked up for each record, as a tracer has to. */
static __always_inline long rb_make_here(void *ctx, __u64 *scratch, __u64 number)
{
	__u32 cpu = bpf_get_smp_processor_id();
	void *ring;

	if (!rb_percpu)
		return rb_make(ctx, &rb_ring, scratch, number);
	ring = bpf_map_lookup_elem(&rb_rings, &cpu);
	if (!ring) /* user space gave every CPU of a producer one */
		return -1;
	return rb_make(ctx, ring, scratch, number);
}

/* args[0] is the producer's place in rb_producers. */
SEC("raw_tp/sys_enter")
int rb_produce(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 id = ctx->args[0];
	struct rb_bench_producer *p = bpf_map_lookup_elem(&rb_producers, &id);
	__u64 start, first;

	if (!p)
		return 1;
	first = p->attempts;
	start = bpf_ktime_get_ns();
	for (__u32 i = 0; i < rb_batch; i++) {
		/* Counted in memory: in a register it would make each turn's state its own. */
		if (rb_make_here(ctx, p->scratch, first + i))
			p->dropped++;
	}
	p->busy_ns += bpf_ktime_get_ns() - start;
	p->attempts = first + rb_batch;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
