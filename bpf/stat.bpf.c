//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files that somebody asks about by name: the exits of stat, lstat, newfstatat, statx
 * and statfs.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"

enum stat_call {
	STAT_STAT,
	STAT_LSTAT,
	STAT_NEWFSTATAT,
	STAT_STATX,
	STAT_STATFS,
};

struct stat_event {
	struct rb_head head;
	__s32 ret;
	__u32 flags;
	__u32 call; /* a stat_call */
	__u32 unused;
	struct rb_file path;
};

#define RB_EVENT struct stat_event
#define RB_FILES 1
#include "rbtrace/record.h"

#if defined(__TARGET_ARCH_x86)
#define NR_STAT	      4
#define NR_LSTAT      6
#define NR_NEWFSTATAT 262
#define NR_STATX      332
#define NR_STATFS     137
#elif defined(__TARGET_ARCH_arm64)
/* Has no stat and lstat: numbers that no call has. */
#define NR_STAT	      -2
#define NR_LSTAT      -3
#define NR_NEWFSTATAT 79
#define NR_STATX      291
#define NR_STATFS     43
#endif

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_statx")
int rb_stat(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_scratch_slot *s = rb_scratch_slot();
	struct rb_syscall_args args;
	struct stat_event *e;
	long ret = rb_syscall_ret(ctx);
	__s32 dirfd = AT_FDCWD;
	__u32 flags = 0;
	__u64 file;

	if (!books)
		return 0;
	if (!s || !rb_call_is_wanted(task, ret)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	file = args.arg[0];
	e = &s->record.event;
	rb_fill_head(&e->head, books, task);
	e->ret = ret;
	e->call = STAT_STAT;
	e->unused = 0;
	switch (rb_nr_at_exit(ctx)) {
	case NR_STAT:
		break;
	case NR_LSTAT:
		e->call = STAT_LSTAT;
		break;
	case NR_STATFS:
		e->call = STAT_STATFS;
		break;
	case NR_NEWFSTATAT:
		e->call = STAT_NEWFSTATAT;
		dirfd = (__s32)args.arg[0];
		file = args.arg[1];
		flags = args.arg[3];
		break;
	case NR_STATX:
		e->call = STAT_STATX;
		dirfd = (__s32)args.arg[0];
		file = args.arg[1];
		flags = args.arg[2];
		break;
	}
	e->flags = flags;
	s->len = 0;
	e->path = rb_append(s, file, dirfd, flags & AT_EMPTY_PATH ? RB_EMPTY_PATH : 0);
	rb_output_record(books, s);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
