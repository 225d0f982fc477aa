//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Links that are made, or are not: the exits of link, linkat, symlink and symlinkat.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"

#define RB_NAMES_EVENT link_event
#include "rbtrace/names.h"

enum link_call {
	LINK_LINK,
	LINK_LINKAT,
	LINK_SYMLINK,
	LINK_SYMLINKAT,
};

#if defined(__TARGET_ARCH_x86)
#define NR_LINK	     86
#define NR_LINKAT    265
#define NR_SYMLINK   88
#define NR_SYMLINKAT 266
#elif defined(__TARGET_ARCH_arm64)
/* Has no link and symlink: numbers that no call has. */
#define NR_LINK	     -2
#define NR_LINKAT    37
#define NR_SYMLINK   -3
#define NR_SYMLINKAT 36
#endif

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_linkat")
int rb_link(struct trace_event_raw_sys_exit *ctx)
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
	case NR_LINK:
		call.call = LINK_LINK;
		call.old = args.arg[0];
		call.new = args.arg[1];
		break;
	case NR_LINKAT:
		call.call = LINK_LINKAT;
		call.old_dirfd = (__s32)args.arg[0];
		call.old = args.arg[1];
		call.new_dirfd = (__s32)args.arg[2];
		call.new = args.arg[3];
		call.flags = args.arg[4];
		call.old_how = call.flags & AT_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		break;
	case NR_SYMLINK:
		call.call = LINK_SYMLINK;
		call.old = args.arg[0];
		call.old_how = RB_TEXT;
		call.new = args.arg[1];
		break;
	case NR_SYMLINKAT:
		call.call = LINK_SYMLINKAT;
		call.old = args.arg[0];
		call.old_how = RB_TEXT;
		call.new_dirfd = (__s32)args.arg[1];
		call.new = args.arg[2];
		break;
	}
	rb_output_names(books, task, &call, ret);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
