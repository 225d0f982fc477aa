//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls that write to disk what waits in memory, and how long they take: sync, fsync,
 * fdatasync, msync, sync_file_range and syncfs.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"
#include "rbtrace/span.h"

enum sync_call {
	SYNC_SYNC,
	SYNC_FSYNC,
	SYNC_FDATASYNC,
	SYNC_MSYNC,
	SYNC_FILE_RANGE,
	SYNC_SYNCFS,
};

struct sync_event {
	struct rb_head head;
	__u64 lat;  /* 0: nobody knows */
	__u64 addr; /* of msync */
	__s64 offset;
	__s64 bytes;
	__s32 ret;
	__s32 fd; /* -1 where the call has none */
	__u32 flags;
	__u32 call; /* a sync_call */
	struct rb_file path;
};

#define RB_EVENT struct sync_event
#define RB_FILES 1
#include "rbtrace/record.h"

#if defined(__TARGET_ARCH_x86)
#define NR_SYNC		   162
#define NR_FSYNC	   74
#define NR_FDATASYNC	   75
#define NR_MSYNC	   26
#define NR_SYNC_FILE_RANGE 277
#define NR_SYNCFS	   306
#elif defined(__TARGET_ARCH_arm64)
#define NR_SYNC		   81
#define NR_FSYNC	   82
#define NR_FDATASYNC	   83
#define NR_MSYNC	   227
#define NR_SYNC_FILE_RANGE 84
#define NR_SYNCFS	   267
#endif

/* Attached to the other calls' entries as well. */
SEC("tracepoint/syscalls/sys_enter_fsync")
int rb_sync_enter(struct trace_event_raw_sys_enter *ctx)
{
	return rb_span_begins(ctx);
}

SEC("raw_tp/sched_process_exit")
int rb_sync_end(struct bpf_raw_tracepoint_args *ctx)
{
	return rb_span_is_void();
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_fsync")
int rb_sync(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_scratch_slot *s = rb_scratch_slot();
	struct rb_syscall_args args;
	struct sync_event *e;
	long ret = rb_syscall_ret(ctx);
	bool has_fd = true;
	__s32 fd = -1;
	__u64 lat;

	if (!books)
		return 0;
	lat = rb_span_ends(task);
	if (!s || !rb_call_is_wanted(task, ret)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	e = &s->record.event;
	rb_fill_head(&e->head, books, task);
	e->lat = lat;
	e->addr = 0;
	e->offset = 0;
	e->bytes = 0;
	e->ret = ret;
	e->flags = 0;
	e->call = SYNC_SYNC;
	switch (rb_nr_at_exit(ctx)) {
	case NR_SYNC:
		has_fd = false;
		break;
	case NR_FSYNC:
		e->call = SYNC_FSYNC;
		break;
	case NR_FDATASYNC:
		e->call = SYNC_FDATASYNC;
		break;
	case NR_SYNCFS:
		e->call = SYNC_SYNCFS;
		break;
	case NR_MSYNC:
		e->call = SYNC_MSYNC;
		e->addr = args.arg[0];
		e->bytes = args.arg[1];
		e->flags = args.arg[2];
		has_fd = false;
		break;
	case NR_SYNC_FILE_RANGE:
		e->call = SYNC_FILE_RANGE;
		e->offset = args.arg[1];
		e->bytes = args.arg[2];
		e->flags = args.arg[3];
		break;
	}
	if (has_fd)
		fd = (__s32)args.arg[0];
	e->fd = fd;
	s->len = 0;
	/* No descriptor is below zero, and none of these calls knows AT_FDCWD. */
	e->path = rb_append(s, 0, fd >= 0 ? fd : -1, RB_EMPTY_PATH);
	rb_output_record(books, s);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
