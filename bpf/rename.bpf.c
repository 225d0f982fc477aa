//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files and directories that are renamed, or are not: the exits of rename, renameat
 * and renameat2.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"

#define RB_NAMES_EVENT rename_event
#include "rbtrace/names.h"

enum rename_call {
	RENAME_RENAME,
	RENAME_RENAMEAT,
	RENAME_RENAMEAT2,
};

#if defined(__TARGET_ARCH_x86)
#define NR_RENAME    82
#define NR_RENAMEAT  264
#define NR_RENAMEAT2 316
#elif defined(__TARGET_ARCH_arm64)
/* Has no rename: a number that no call has. */
#define NR_RENAME    -2
#define NR_RENAMEAT  38
#define NR_RENAMEAT2 276
#endif

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_renameat2")
int rb_rename(struct trace_event_raw_sys_exit *ctx)
{
	struct rb_names_call call = {.old_dirfd = AT_FDCWD, .new_dirfd = AT_FDCWD};
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	long ret = rb_syscall_ret(ctx);

	if (!books)
		return 0;
	if (!rb_call_is_wanted(task, ret)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	switch (rb_nr_at_exit(ctx)) {
	case NR_RENAME:
		call.call = RENAME_RENAME;
		call.old = args.arg[0];
		call.new = args.arg[1];
		break;
	case NR_RENAMEAT2:
		call.call = RENAME_RENAMEAT2;
		call.old_dirfd = (__s32)args.arg[0];
		call.old = args.arg[1];
		call.new_dirfd = (__s32)args.arg[2];
		call.new = args.arg[3];
		call.flags = args.arg[4];
		break;
	case NR_RENAMEAT:
		call.call = RENAME_RENAMEAT;
		call.old_dirfd = (__s32)args.arg[0];
		call.old = args.arg[1];
		call.new_dirfd = (__s32)args.arg[2];
		call.new = args.arg[3];
		break;
	}
	rb_output_names(books, task, &call, ret);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
