//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Names that are removed from directories, or are not: the exits of unlink, unlinkat
 * and rmdir. The directory that a relative path begins at is still there then, or at
 * least in memory, where it was that itself.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"

enum unlink_call {
	UNLINK_UNLINK,
	UNLINK_UNLINKAT,
	UNLINK_RMDIR,
};

struct unlink_event {
	struct rb_head head;
	__s32 ret;
	__u32 flags;
	__u32 call; /* an unlink_call */
	__u32 unused;
	__u64 age; /* of the file, ns, 0: not known */
	struct rb_file path;
};

#define RB_EVENT struct unlink_event
#define RB_FILES 1
#include "rbtrace/record.h"

#if defined(__TARGET_ARCH_x86)
#define NR_UNLINK   87
#define NR_UNLINKAT 263
#define NR_RMDIR    84
#elif defined(__TARGET_ARCH_arm64)
/* Has no unlink and rmdir: numbers that no call has. */
#define NR_UNLINK   -2
#define NR_UNLINKAT 35
#define NR_RMDIR    -3
#endif

static __always_inline int unlink(struct trace_event_raw_sys_exit *ctx, struct task_struct *task,
				  __u64 age)
{
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_scratch_slot *s = rb_scratch_slot();
	struct rb_syscall_args args;
	struct unlink_event *e;
	long ret = rb_syscall_ret(ctx);
	__s32 dirfd = AT_FDCWD;
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
	e->flags = 0;
	e->call = UNLINK_UNLINK;
	e->unused = 0;
	e->age = age;
	switch (rb_nr_at_exit(ctx)) {
	case NR_UNLINK:
		break;
	case NR_RMDIR:
		e->call = UNLINK_RMDIR;
		break;
	case NR_UNLINKAT:
		e->call = UNLINK_UNLINKAT;
		dirfd = (__s32)args.arg[0];
		file = args.arg[1];
		e->flags = args.arg[2];
		break;
	}
	s->len = 0;
	e->path = rb_append(s, file, dirfd, 0);
	rb_output_record(books, s);
	return 0;
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_unlinkat")
int rb_unlink(struct trace_event_raw_sys_exit *ctx)
{
	return unlink(ctx, (void *)bpf_get_current_task(), 0);
}

/*
 * What no tracepoint tells is which file a name is, and so when that was made. These functions
 * do: inode_init_owner() (fs/inode.c) is called by file systems for each new file, and the hooks
 * of the security modules (security/security.c), whose arguments have stayed the same, before a
 * name is removed and when the kernel forgets an inode.
 */

/* When files were made that the kernel has in memory. CLOCK_BOOTTIME, ns; by the inode's address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} rb_unlink_made SEC(".maps");

/*
 * The age, or 0, of what the call removes that a task is in; by the task's address. The call
 * may remove others on the way, in the layers of an overlay: the first one counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} rb_unlink_ages SEC(".maps");

/* Without a directory it is a file that never had a name. */
static __always_inline int unlink_made(__u64 inode, __u64 dir)
{
	__u64 now = bpf_ktime_get_boot_ns();

	if (dir)
		bpf_map_update_elem(&rb_unlink_made, &inode, &now, BPF_ANY);
	return 0;
}

static __always_inline int unlink_forgets(__u64 inode)
{
	bpf_map_delete_elem(&rb_unlink_made, &inode);
	return 0;
}

static __always_inline int unlink_removes(struct dentry *dentry)
{
	__u64 task = bpf_get_current_task(), inode;
	__u64 *age = bpf_map_lookup_elem(&rb_unlink_ages, &task), *made;

	if (!age || *age)
		return 0;
	inode = (__u64)BPF_CORE_READ(dentry, d_inode);
	made = bpf_map_lookup_elem(&rb_unlink_made, &inode);
	if (made)
		*age = bpf_ktime_get_boot_ns() - *made;
	else
		bpf_map_delete_elem(&rb_unlink_ages, &task);
	return 0;
}

/* Attached to the other calls' entries as well. */
SEC("tracepoint/syscalls/sys_enter_unlinkat")
int rb_unlink_enter(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, age = 0;

	if (rb_call_enters(ctx) && rb_task_is_wanted(task))
		bpf_map_update_elem(&rb_unlink_ages, &key, &age, BPF_ANY);
	return 0;
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_unlinkat")
int rb_unlink_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task, age = 0, *found = bpf_map_lookup_elem(&rb_unlink_ages, &key);

	if (found) {
		age = *found;
		bpf_map_delete_elem(&rb_unlink_ages, &key);
	}
	return unlink(ctx, task, age);
}

/* How ids are mapped in a mount, since 5.12 (a6435940b62f), and since 6.2 (256c8aed2b42). */
struct vfsmount___5_12 {
	struct user_namespace *mnt_userns;
} __attribute__((preserve_access_index));

struct vfsmount___6_2 {
	struct mnt_idmap *mnt_idmap;
} __attribute__((preserve_access_index));

/* Where it is there, it comes first in what the function is given (21cb47be6fb9). */
static __always_inline bool unlink_has_idmaps(void)
{
	return bpf_core_field_exists(((struct vfsmount___5_12 *)0)->mnt_userns) ||
	       bpf_core_field_exists(((struct vfsmount___6_2 *)0)->mnt_idmap);
}

SEC("fentry/inode_init_owner")
int rb_unlink_made_fentry(__u64 *ctx)
{
	return unlink_has_idmaps() ? unlink_made(ctx[1], ctx[2]) : unlink_made(ctx[0], ctx[1]);
}

SEC("kprobe/inode_init_owner")
int rb_unlink_made_kprobe(struct pt_regs *ctx)
{
	return unlink_has_idmaps() ? unlink_made(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx))
				   : unlink_made(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

SEC("fentry/security_inode_free")
int rb_unlink_forgets_fentry(__u64 *ctx)
{
	return unlink_forgets(ctx[0]);
}

SEC("kprobe/security_inode_free")
int rb_unlink_forgets_kprobe(struct pt_regs *ctx)
{
	return unlink_forgets(PT_REGS_PARM1(ctx));
}

SEC("fentry/security_inode_unlink")
int rb_unlink_file_fentry(__u64 *ctx)
{
	return unlink_removes((void *)ctx[1]);
}

SEC("kprobe/security_inode_unlink")
int rb_unlink_file_kprobe(struct pt_regs *ctx)
{
	return unlink_removes((void *)PT_REGS_PARM2(ctx));
}

SEC("fentry/security_inode_rmdir")
int rb_unlink_dir_fentry(__u64 *ctx)
{
	return unlink_removes((void *)ctx[1]);
}

SEC("kprobe/security_inode_rmdir")
int rb_unlink_dir_kprobe(struct pt_regs *ctx)
{
	return unlink_removes((void *)PT_REGS_PARM2(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
