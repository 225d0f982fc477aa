//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which process made which: kept beyond the end of the processes, and of their
 * parents, whose children the kernel gives to another one.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/context.h"

#define TASK_COMM_LEN 16
#define CLONE_THREAD  0x00010000 /* include/uapi/linux/sched.h */

/* One of all processes that there ever are. */
struct rb_process {
	__u64 start; /* CLOCK_BOOTTIME, ns */
	__u32 pid;   /* thread group, initial pid namespace */
	__u32 unused;
};

struct rb_descent {
	struct rb_process parent;
	__u8 comm[TASK_COMM_LEN]; /* of the process itself, its last one */
};

/* The least recently used ones are forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct rb_process);
	__type(value, struct rb_descent);
} rb_descents SEC(".maps");

static __always_inline struct rb_process process_of(struct task_struct *task)
{
	struct rb_process p = {
		.start = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};

	return p;
}

static __always_inline void note(struct task_struct *task, __u64 flags)
{
	struct rb_process p = process_of(task);
	struct rb_descent d = {.parent = process_of(BPF_CORE_READ(task, real_parent))};

	BPF_CORE_READ_STR_INTO(&d.comm, task, comm);
	bpf_map_update_elem(&rb_descents, &p, &d, flags);
}

/*
 * copy_process() calls this at its end: the child has its ids, its parent and the
 * name of who called, and has not run.
 */
SEC("raw_tp/task_newtask")
int rb_lineage_fork(struct bpf_raw_tracepoint_args *ctx)
{
	if (!(rb_arg(ctx, 1) & CLONE_THREAD))
		note((void *)rb_arg(ctx, 0), BPF_ANY);
	return 0;
}

/* __set_task_comm() calls this, for exec and for whoever names itself, before it does. */
SEC("raw_tp/task_rename")
int rb_lineage_rename(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)rb_arg(ctx, 0);
	struct rb_process p = process_of(task);
	struct rb_descent *d = bpf_map_lookup_elem(&rb_descents, &p);

	if (d && BPF_CORE_READ(task, pid) == p.pid)
		bpf_probe_read_kernel_str(d->comm, sizeof(d->comm), (void *)rb_arg(ctx, 1));
	return 0;
}

/* Notes the processes that there are, but for those that are noted. */
SEC("iter/task")
int rb_lineage_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && task->pid == task->tgid)
		note(task, BPF_NOEXIST);
	return 0;
}

/* For the Go side: types that nothing else names. */
const struct rb_process *const process_export __attribute__((unused)) = 0;
const struct rb_descent *const descent_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
