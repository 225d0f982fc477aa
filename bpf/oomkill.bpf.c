//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes that the kernel kills for want of memory. mark_oom_victim() (mm/oom_kill.c)
 * is called for each of them. Its tracepoint tells of the task since 72ba14deb40a
 * (2024, and in later releases of older kernels), and before that nothing but a number,
 * of which no program can make a task: then the function itself is needed. It is called in
 * the context of who asked for memory.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/once.h"

enum oomkill_flags {
	OOMKILL_MEMCG = 1 << 0, /* it is a cgroup's memory that is used up */
	OOMKILL_KNOWN = 1 << 1, /* the hook tells of that */
	OOMKILL_LOAD = 1 << 2,	/* the load is known */
};

struct oomkill_event {
	struct rb_head head;
	__u64 cgroup; /* id in the unified (v2) hierarchy */
	__u64 page_size;
	__u64 limit;	   /* pages that there are in all, 0: not known */
	__u64 load[3];	   /* averages of 1, 5 and 15 minutes, in 1/2048 */
	__u64 total_vm;	   /* pages, as all that follow */
	__u64 rss[4];	   /* of files, anonymous, in swap, of shared memory */
	__u64 page_tables; /* but for these: bytes */
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__s32 score_adj;
	__u8 comm[TASK_COMM_LEN];
};

/*
 * The load averages (kernel/sched/loadavg.c). To look up the address takes reading all of
 * /proc/kallsyms, which the start by the tracepoint is spared: only the hooks of functions have
 * it. It is there with CONFIG_KALLSYMS_ALL.
 */
extern void avenrun __ksym __weak;

/* Before 6.2 (f1a7941243c1). */
struct mm_struct___before_6_2 {
	struct mm_rss_stat rss_stat;
} __attribute__((preserve_access_index));

/*
 * Of a percpu_counter, the sum that all CPUs see: what each of them has still to add is
 * not in it, nor in what the kernel itself told of the victim for long. Now it adds that.
 */
static __always_inline __u64 oomkill_rss(struct mm_struct *mm, int i)
{
	struct mm_struct___before_6_2 *old = (void *)mm;
	struct percpu_counter *counter;
	__s64 n;

	if (bpf_core_type_exists(struct mm_rss_stat)) {
		n = BPF_CORE_READ(old, rss_stat.count[i].counter);
	} else {
		counter = (void *)mm + bpf_core_field_offset(struct mm_struct, rss_stat) +
			  i * bpf_core_type_size(struct percpu_counter);
		n = BPF_CORE_READ(counter, count);
	}
	return n > 0 ? n : 0;
}

/* A process may be marked again: another thread of it, or when it asks for memory on its way out. */
static __always_inline int oomkill(struct task_struct *victim, struct oom_control *oc)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct oomkill_event *e;
	struct rb_process process;
	struct mm_struct *mm;
	void *ring;

	if (!books)
		return 0;
	process = rb_process_of(victim);
	if (!rb_task_is_wanted(task) || !rb_is_first(&process)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct oomkill_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->limit = 0;
	__builtin_memset(e->load, 0, sizeof(e->load));
	if (oc) {
		e->head.flags = OOMKILL_KNOWN | (BPF_CORE_READ(oc, memcg) ? OOMKILL_MEMCG : 0);
		e->limit = BPF_CORE_READ(oc, totalpages);
		if (&avenrun && !bpf_probe_read_kernel(e->load, sizeof(e->load), &avenrun))
			e->head.flags |= OOMKILL_LOAD;
	}
	mm = BPF_CORE_READ(victim, mm);
	e->cgroup = BPF_CORE_READ(victim, cgroups, dfl_cgrp, kn, id);
	/* Each of the two begins a page (kernel/bpf/ringbuf.c). */
	e->page_size = bpf_core_field_offset(struct bpf_ringbuf, data) -
		       bpf_core_field_offset(struct bpf_ringbuf, producer_pos);
	e->total_vm = BPF_CORE_READ(mm, total_vm);
	e->rss[0] = oomkill_rss(mm, 0);
	e->rss[1] = oomkill_rss(mm, 1);
	e->rss[2] = oomkill_rss(mm, 2);
	e->rss[3] = oomkill_rss(mm, 3);
	e->page_tables = BPF_CORE_READ(mm, pgtables_bytes.counter);
	e->pid = BPF_CORE_READ(victim, tgid);
	e->tid = BPF_CORE_READ(victim, pid);
	e->uid = BPF_CORE_READ(victim, cred, uid.val);
	e->score_adj = BPF_CORE_READ(victim, signal, oom_score_adj);
	__builtin_memset(e->comm, 0, sizeof(e->comm));
	BPF_CORE_READ_STR_INTO(&e->comm, victim, comm);
	rb_submit(books, ring, e);
	return 0;
}

SEC("raw_tp/mark_victim")
int rb_oomkill(struct bpf_raw_tracepoint_args *ctx)
{
	/*
	 * What the tracepoint has told since it was given the task. Where that is not
	 * there, neither is its offset, and the verifier refuses this program.
	 */
	if (!bpf_core_field_offset(struct trace_event_raw_mark_victim, oom_score_adj))
		return 0;
	return oomkill((void *)rb_arg(ctx, 0), NULL);
}

/*
 * The search for a victim, which knows what is used up: all memory, or a cgroup's. There is one
 * at a time, as oom_lock is held for it. The victim is marked before it ends.
 */
struct oomkill_search {
	__u64 task; /* who asked for memory */
	__u64 oc;   /* struct oom_control */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct oomkill_search);
} rb_oomkill_search SEC(".maps");

static __always_inline int oomkill_search(struct oom_control *oc)
{
	__u32 zero = 0;
	struct oomkill_search *search = bpf_map_lookup_elem(&rb_oomkill_search, &zero);

	if (!search)
		return 0;
	search->task = bpf_get_current_task();
	search->oc = (__u64)oc;
	return 0;
}

SEC("fentry/out_of_memory")
int rb_oomkill_search_fentry(__u64 *ctx)
{
	return oomkill_search((void *)ctx[0]);
}

SEC("kprobe/out_of_memory")
int rb_oomkill_search_kprobe(struct pt_regs *ctx)
{
	return oomkill_search((void *)PT_REGS_PARM1(ctx));
}

static __always_inline int oomkill_mark(struct task_struct *victim)
{
	__u32 zero = 0;
	struct oomkill_search *search = bpf_map_lookup_elem(&rb_oomkill_search, &zero);
	struct oom_control *oc = NULL;

	/* All victims are marked within a search, which has its oom_control on the stack. */
	if (search && search->task == bpf_get_current_task())
		oc = (void *)search->oc;
	return oomkill(victim, oc);
}

SEC("fentry/mark_oom_victim")
int rb_oomkill_fentry(__u64 *ctx)
{
	return oomkill_mark((void *)ctx[0]);
}

SEC("kprobe/mark_oom_victim")
int rb_oomkill_kprobe(struct pt_regs *ctx)
{
	return oomkill_mark((void *)PT_REGS_PARM1(ctx));
}

/* For the Go side: a type that nothing here names. */
const struct oomkill_event *const oomkill_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
