/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The paths that system calls are given: what the caller wrote, and where that is
 * relative the names of the directory that it begins at. User space joins the two.
 */
#ifndef __RBTRACE_FILE_H__
#define __RBTRACE_FILE_H__

#include "bounded.h"
#include "fd.h"

/* include/uapi/linux/fcntl.h */
#define AT_FDCWD      -100
#define AT_EMPTY_PATH 0x1000

#define RB_FILE_MAX 4096 /* PATH_MAX */
#define NSFS_MAGIC  0x6e736673

/* Where a path begins. */
enum rb_source {
	RB_UNRESOLVED,
	RB_ABSOLUTE,
	RB_CWD,
	RB_DIRFD,
	RB_NO_PATH, /* it is a text, and no path of this call's */
	RB_OPENED,  /* it is that of what the call has opened, whole */
};

/* In the flags of struct rb_file: enum rb_path_flags of the base, and among them an rb_source. */
#define RB_SOURCE_SHIFT 2
#define RB_SOURCE_MASK	7
/* The base is followed by a struct rb_pseudo. */
#define RB_IS_PSEUDO (1 << 5)

/* How a path is to be taken. */
enum rb_file_how {
	RB_IN_ROOT = 1,	   /* the directory is its root: an absolute one begins there, too */
	RB_EMPTY_PATH = 2, /* an empty one is what dirfd itself refers to (AT_EMPTY_PATH) */
	RB_TEXT = 4,	   /* it is not to be resolved */
};

/* A file that is in no directory: a pipe, a socket, something with an anonymous inode. */
struct rb_pseudo {
	__u64 magic; /* include/uapi/linux/magic.h */
	__u64 ino;
};

/*
 * A path in a record: file, as the caller gave it, and where that is relative behind
 * it base, the names of its directory from leaf to root. Of what was opened base has all
 * names.
 */
struct rb_file {
	__u16 file_len;
	__u16 base_len;
	__u16 flags;
	__u16 unused;
};

/* Where a walk from an open file begins. */
static __always_inline void rb_path_of_file(struct rb_path *p, const struct file *file)
{
	p->vfsmnt = (__u64)BPF_CORE_READ(file, f_path.mnt);
	p->dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
}

/* Has p got the directory that dirfd refers to? */
static __always_inline bool rb_file_base(struct rb_path *p, struct task_struct *task, __s32 dirfd)
{
	struct file *file;

	if (dirfd == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);

		p->vfsmnt = (__u64)BPF_CORE_READ(fs, pwd.mnt);
		p->dentry = (__u64)BPF_CORE_READ(fs, pwd.dentry);
		return true;
	}
	file = rb_file_of_fd(task, dirfd);
	if (!file)
		return false;
	rb_path_of_file(p, file);
	return true;
}

/*
 * Where the names of p at data are those of such a thing, appends what it is. Returns
 * how many bytes all that takes, 0 where it is none.
 */
static __always_inline __u32 rb_file_pseudo(__u8 *data, const struct rb_path *p)
{
	struct vfsmount *vfsmnt = (void *)p->vfsmnt;
	struct dentry *dentry = (void *)p->dentry;
	struct rb_pseudo pseudo = {};
	struct ns_common *ns;
	__u32 len;
	long n;

	/* d_alloc_pseudo(), fs/dcache.c, makes it its own parent, which others are as roots. */
	if (BPF_CORE_READ(dentry, d_parent) != dentry || BPF_CORE_READ(vfsmnt, mnt_root) == dentry)
		return 0;
	pseudo.magic = BPF_CORE_READ(dentry, d_sb, s_magic);
	pseudo.ino = BPF_CORE_READ(dentry, d_inode, i_ino);
	len = p->len; /* it has but one name */
	if (pseudo.magic == NSFS_MAGIC && bpf_core_field_exists(struct ns_common, ops)) {
		/* ns_dname(), fs/nsfs.c */
		ns = BPF_CORE_READ(dentry, d_inode, i_private);
		n = bpf_probe_read_kernel_str(data, RB_NAME_MAX, BPF_CORE_READ(ns, ops, name));
		len = n > 0 ? n : 0;
	}
	len = rb_bounded(len, RB_NAME_MAX);
	bpf_probe_read_kernel(data + len, sizeof(pseudo), &pseudo);
	return len + sizeof(pseudo);
}

/*
 * Writes a path at data: the file takes less than file_max bytes and the names behind
 * it at most names_max, with room for RB_NAME_MAX more; both are constants. opened is what the
 * call has opened, NULL: nothing. Returns how many bytes they take, -1 where they may be cut and
 * the longest path is longer.
 */
static __always_inline int rb_file_fill(struct rb_file *f, __u8 *data, __u32 file_max,
					__u32 names_max, struct rb_path *path,
					struct task_struct *task, const char *file, __s32 dirfd,
					__u32 how, const struct file *opened)
{
	__u32 file_len = 0, base_len, pseudo_len, source;
	long n;

	f->file_len = 0;
	f->base_len = 0;
	f->flags = how & RB_TEXT ? RB_NO_PATH << RB_SOURCE_SHIFT : 0;
	f->unused = 0;

	/* With its NUL; until 6.18 an empty one has none. */
	n = bpf_probe_read_user_str(data, file_max, file);
	if (n > 1 && n <= file_max) {
		if (n == file_max && file_max < RB_FILE_MAX)
			return -1;
		file_len = rb_bounded(n - 1, file_max - 1);
	} else if (!opened && (!(how & RB_EMPTY_PATH) || (n < 0 && file))) {
		/* It is empty, or cannot be read. Since 6.11 NULL may stand for an empty one. */
		return 0;
	}
	f->file_len = file_len;
	if (how & RB_TEXT)
		return file_len;
	if (opened) {
		rb_path_of_file(path, opened);
		path->way = RB_OPENED;
	} else if (file_len && data[0] == '/' && !(how & RB_IN_ROOT)) {
		f->flags = RB_ABSOLUTE << RB_SOURCE_SHIFT;
		return file_len;
	} else if (rb_file_base(path, task, dirfd)) {
		path->way = dirfd == AT_FDCWD ? RB_CWD : RB_DIRFD;
	} else {
		return file_len;
	}
	rb_path_names_within(data + file_len, names_max, path);
	source = *(volatile __u64 *)&path->way;
	if (path->flags & RB_PATH_CUT && names_max < RB_PATH_MAX)
		return -1;
	f->flags = source << RB_SOURCE_SHIFT | path->flags;
	base_len = path->len;
	if (source == RB_OPENED || (how & RB_EMPTY_PATH && !file_len)) {
		pseudo_len = rb_file_pseudo(data + file_len, path);
		if (pseudo_len) {
			f->flags |= RB_IS_PSEUDO;
			base_len = pseudo_len;
		}
	}
	f->base_len = base_len;
	return file_len + base_len;
}

#endif /* __RBTRACE_FILE_H__ */
