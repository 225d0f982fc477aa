//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tells of cgroups of the unified hierarchy that come and go, whoever makes or
 * removes them, in whichever mount: inotify would see those of one mount alone.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/context.h"

struct rb_cgroup_change {
	__u64 id;
	__u64 gone; /* 0: it came */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} rb_cgroup_changes SEC(".maps");

/* Changes that there was no room to tell of. */
__u64 rb_changes_lost = 0;

static __always_inline int rb_tell(struct cgroup *cgroup, __u64 gone)
{
	struct rb_cgroup_change *change;

	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != 0) /* that of cgrp_dfl_root */
		return 0;
	change = bpf_ringbuf_reserve(&rb_cgroup_changes, sizeof(*change), 0);
	if (!change) {
		__sync_fetch_and_add(&rb_changes_lost, 1);
		return 0;
	}
	change->id = BPF_CORE_READ(cgroup, kn, id);
	change->gone = gone;
	bpf_ringbuf_submit(change, 0);
	return 0;
}

/* cgroup_mkdir() calls this before anybody can move a task there. */
SEC("raw_tp/cgroup_mkdir")
int rb_cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx)
{
	return rb_tell((struct cgroup *)rb_arg(ctx, 0), 0);
}

/* cgroup_rmdir() calls this when no task can come any more. */
SEC("raw_tp/cgroup_rmdir")
int rb_cgroup_rmdir(struct bpf_raw_tracepoint_args *ctx)
{
	return rb_tell((struct cgroup *)rb_arg(ctx, 0), 1);
}

/* For the Go side: a type that nothing here names. */
const struct rb_cgroup_change *const cgroups_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
