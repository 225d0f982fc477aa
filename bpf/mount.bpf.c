//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * File systems that are mounted, moved, changed and unmounted: mount, umount, pivot_root,
 * and the calls that take the place of mount, one for each step: fsopen, fspick, fsconfig,
 * fsmount, move_mount, open_tree, open_tree_attr and mount_setattr.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"
#include "rbtrace/span.h"

enum mount_call {
	MOUNT_MOUNT,
	MOUNT_UMOUNT,
	MOUNT_FSOPEN,
	MOUNT_FSCONFIG,
	MOUNT_FSMOUNT,
	MOUNT_MOVE_MOUNT,
	MOUNT_OPEN_TREE,
	MOUNT_FSPICK,
	MOUNT_PIVOT_ROOT,
	MOUNT_SETATTR,
	MOUNT_OPEN_TREE_ATTR,
};

/* include/uapi/linux/mount.h */
#define MS_REMOUNT (1 << 5)
#define MS_BIND	   (1 << 12)
#define MS_MOVE	   (1 << 13)
#define MS_MGC_VAL 0xc0ed0000U /* of old, and still taken; path_mount() removes it */
#define MS_MGC_MSK 0xffff0000U
#define MS_TYPES   (1 << 17 | 1 << 18 | 1 << 19 | 1 << 20) /* unbindable, private, slave, shared */

#define MOVE_MOUNT_F_EMPTY_PATH 0x4
#define MOVE_MOUNT_T_EMPTY_PATH 0x40
#define FSPICK_EMPTY_PATH	0x8

/* Of mount_setattr, its first version. */
struct mount_attr {
	__u64 attr_set;
	__u64 attr_clr;
	__u64 propagation;
	__u64 userns_fd;
};

enum fsconfig_command {
	FSCONFIG_SET_FLAG,
	FSCONFIG_SET_STRING,
	FSCONFIG_SET_BINARY,
	FSCONFIG_SET_PATH,
	FSCONFIG_SET_PATH_EMPTY,
	FSCONFIG_SET_FD,
};

/* Followed by what the files say, in their order. Those that a call has not are empty. */
struct mount_event {
	struct rb_head head;
	__u64 lat; /* 0: nobody knows */
	__u64 flags;
	__u64 attrs;
	__u64 attrs_clear;
	__u64 propagation;
	__s32 ret;
	__s32 fd;  /* -1: none */
	__u32 cmd; /* of fsconfig */
	__s32 aux;
	__u32 call;   /* a mount_call */
	__u32 mnt_ns; /* inode number of the caller's mount namespace */
	struct rb_file src;
	struct rb_file dst;
	struct rb_file fstype;
	struct rb_file key;
	struct rb_file data;
};

#define RB_EVENT struct mount_event
#define RB_FILES 5
#include "rbtrace/record.h"

#if defined(__TARGET_ARCH_x86)
#define NR_MOUNT      165
#define NR_UMOUNT     166
#define NR_PIVOT_ROOT 155
#elif defined(__TARGET_ARCH_arm64)
#define NR_MOUNT      40
#define NR_UMOUNT     39
#define NR_PIVOT_ROOT 41
#endif
#define NR_OPEN_TREE	  428
#define NR_MOVE_MOUNT	  429
#define NR_FSOPEN	  430
#define NR_FSCONFIG	  431
#define NR_FSMOUNT	  432
#define NR_FSPICK	  433
#define NR_MOUNT_SETATTR  442
#define NR_OPEN_TREE_ATTR 467

/* A text or path that a call was given. how is 0 and address NULL for what it has not. */
struct mount_text {
	__u64 address;
	__s32 dirfd;
	__u32 how; /* enum rb_file_how */
};

/* Is the source of a mount a path? In the order in which path_mount(), fs/namespace.c, asks. */
static __always_inline bool mount_source_is_path(__u64 flags)
{
	if ((flags & MS_MGC_MSK) == MS_MGC_VAL)
		flags &= ~(__u64)MS_MGC_MSK;
	if (flags & MS_REMOUNT)
		return false;
	if (flags & MS_BIND)
		return true;
	return !(flags & MS_TYPES) && flags & MS_MOVE;
}

/* What is not as long as the first version is, the kernel does not take. */
static __always_inline void mount_read_attr(struct mount_event *e, __u64 address, __u64 size)
{
	struct mount_attr attr = {};

	if (size >= sizeof(attr))
		bpf_probe_read_user(&attr, sizeof(attr), (void *)address);
	e->attrs = attr.attr_set;
	e->attrs_clear = attr.attr_clr;
	e->propagation = attr.propagation;
}

/* Attached to the other calls' entries as well. */
SEC("tracepoint/syscalls/sys_enter_mount")
int rb_mount_enter(struct trace_event_raw_sys_enter *ctx)
{
	return rb_span_begins(ctx);
}

SEC("raw_tp/sched_process_exit")
int rb_mount_end(struct bpf_raw_tracepoint_args *ctx)
{
	return rb_span_is_void();
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_mount")
int rb_mount(struct trace_event_raw_sys_exit *ctx)
{
	struct mount_text src = {.dirfd = AT_FDCWD}, dst = {.dirfd = AT_FDCWD};
	__u64 fstype = 0, key = 0, data = 0;
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_scratch_slot *s = rb_scratch_slot();
	struct rb_syscall_args args;
	struct mount_event *e;
	long ret = rb_syscall_ret(ctx);
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
	e->flags = 0;
	e->attrs = 0;
	e->attrs_clear = 0;
	e->propagation = 0;
	e->ret = ret;
	e->fd = -1;
	e->cmd = 0;
	e->aux = 0;
	e->call = MOUNT_MOUNT;
	e->mnt_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	switch (rb_nr_at_exit(ctx)) {
	case NR_MOUNT:
		e->flags = args.arg[3];
		src.address = args.arg[0];
		src.how = mount_source_is_path(e->flags) ? 0 : RB_TEXT;
		dst.address = args.arg[1];
		fstype = args.arg[2];
		data = args.arg[4];
		break;
	case NR_UMOUNT:
		e->call = MOUNT_UMOUNT;
		e->flags = (__u32)args.arg[1];
		dst.address = args.arg[0];
		break;
	case NR_FSOPEN:
		e->call = MOUNT_FSOPEN;
		e->flags = (__u32)args.arg[1];
		fstype = args.arg[0];
		break;
	case NR_FSCONFIG:
		e->call = MOUNT_FSCONFIG;
		e->fd = (__s32)args.arg[0];
		e->cmd = args.arg[1];
		e->aux = args.arg[4];
		key = args.arg[2];
		switch (e->cmd) {
		case FSCONFIG_SET_STRING:
			data = args.arg[3];
			break;
		case FSCONFIG_SET_PATH:
		case FSCONFIG_SET_PATH_EMPTY:
			src.address = args.arg[3];
			src.dirfd = e->aux;
			src.how = e->cmd == FSCONFIG_SET_PATH_EMPTY ? RB_EMPTY_PATH : 0;
			break;
		case FSCONFIG_SET_FD:
			/* It does not know AT_FDCWD. */
			src.dirfd = e->aux >= 0 ? e->aux : -1;
			src.how = RB_EMPTY_PATH;
			break;
		}
		break;
	case NR_FSMOUNT:
		e->call = MOUNT_FSMOUNT;
		e->fd = (__s32)args.arg[0];
		e->flags = (__u32)args.arg[1];
		e->attrs = (__u32)args.arg[2];
		break;
	case NR_MOVE_MOUNT:
		e->call = MOUNT_MOVE_MOUNT;
		e->flags = (__u32)args.arg[4];
		src.dirfd = (__s32)args.arg[0];
		src.address = args.arg[1];
		src.how = e->flags & MOVE_MOUNT_F_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		dst.dirfd = (__s32)args.arg[2];
		dst.address = args.arg[3];
		dst.how = e->flags & MOVE_MOUNT_T_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		e->fd = src.how ? src.dirfd : -1;
		break;
	case NR_OPEN_TREE:
		e->call = MOUNT_OPEN_TREE;
		e->flags = (__u32)args.arg[2];
		src.dirfd = (__s32)args.arg[0];
		src.address = args.arg[1];
		src.how = e->flags & AT_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		break;
	case NR_OPEN_TREE_ATTR:
		e->call = MOUNT_OPEN_TREE_ATTR;
		e->flags = (__u32)args.arg[2];
		src.dirfd = (__s32)args.arg[0];
		src.address = args.arg[1];
		src.how = e->flags & AT_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		mount_read_attr(e, args.arg[3], args.arg[4]);
		break;
	case NR_FSPICK:
		e->call = MOUNT_FSPICK;
		e->flags = (__u32)args.arg[2];
		dst.dirfd = (__s32)args.arg[0];
		dst.address = args.arg[1];
		dst.how = e->flags & FSPICK_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		break;
	case NR_PIVOT_ROOT:
		e->call = MOUNT_PIVOT_ROOT;
		src.address = args.arg[0];
		dst.address = args.arg[1];
		break;
	case NR_MOUNT_SETATTR:
		e->call = MOUNT_SETATTR;
		e->flags = (__u32)args.arg[2];
		dst.dirfd = (__s32)args.arg[0];
		dst.address = args.arg[1];
		dst.how = e->flags & AT_EMPTY_PATH ? RB_EMPTY_PATH : 0;
		mount_read_attr(e, args.arg[3], args.arg[4]);
		break;
	}
	s->len = 0;
	e->src = rb_append(s, src.address, src.dirfd, src.how);
	e->dst = rb_append(s, dst.address, dst.dirfd, dst.how);
	e->fstype = rb_append(s, fstype, 0, RB_TEXT);
	e->key = rb_append(s, key, 0, RB_TEXT);
	e->data = rb_append(s, data, 0, RB_TEXT);
	rb_output_record(books, s);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
