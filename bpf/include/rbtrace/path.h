/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Absolute paths from (mount, dentry), as d_path() makes them, for programs that
 * may not call it.
 */
#ifndef __RBTRACE_PATH_H__
#define __RBTRACE_PATH_H__

#define RB_PATH_MAX   4096 /* bytes of names that a walk stores at the most */
#define RB_NAME_MAX   256  /* NAME_MAX and its NUL */
#define RB_PATH_DEPTH 64   /* names and mount points that a walk passes at the most */
#define RB_PATH_ROOM  (RB_PATH_MAX + RB_NAME_MAX)

enum rb_path_flags {
	RB_PATH_CUT = 1,	      /* more than a walk can follow: the beginning is missing */
	RB_PATH_DELETED = 2,	      /* unlinked, or never had a name in a directory (memfd) */
	RB_PATH_UNREACHABLE = 1 << 6, /* it does not begin at the root of a mount namespace */
};

/*
 * Where the walk stands. It lies in a map: the verifier forgets what it knew of a
 * value that is stored there, so every turn of the loop looks alike to it however
 * the turns before went. Kept in registers, the count would make it walk all of
 * their combinations.
 */
struct rb_path {
	__u64 vfsmnt;
	__u64 dentry;
	__u32 len;
	__u32 flags;
	__u64 way; /* the caller's own: how it came to begin there, for the same reason */
};

/* The inode number of the namespace of mounts that are not attached. Before 6.18 they have none. */
#define RB_ANON_MNT_NS 0xeffffff7U /* MNT_NS_ANON_INO, include/uapi/linux/nsfs.h */

/*
 * Is that mount, which none is above, in no namespace that a task can be in? It was
 * unmounted and is in use still, or is not attached yet; or it is one of the kernel's own,
 * which have no number either, as what they point to cannot be read.
 */
static __always_inline bool rb_mount_is_detached(struct mount *mnt)
{
	__u32 inum = BPF_CORE_READ(mnt, mnt_ns, ns.inum);

	return !inum || inum == RB_ANON_MNT_NS;
}

/*
 * Stores the names from the leaf up to the root, each with its NUL, at dst, and
 * their number of bytes in p->len: at most max, a constant power of two. dst has room
 * for RB_NAME_MAX more. User space puts them in order: turning them round here would
 * cost the traced process more.
 *
 * Where a name is the root of its mount the walk goes on at the mount point, as
 * prepend_path() does (fs/d_path.c); it ends at the root of the task's mount
 * namespace. A chroot is not honoured: the path is the one that a process outside
 * of it sees. A directory that was moved out of what its mount shows leads to the root
 * of the file system, and not to that of the mount.
 */
static __always_inline void rb_path_names_within(__u8 *dst, __u32 max, volatile struct rb_path *p)
{
	struct vfsmount *vfsmnt = (void *)p->vfsmnt;
	struct dentry *dentry = (void *)p->dentry;

	p->len = 0;
	p->flags = 0;
	/* d_unlinked(), include/linux/dcache.h: also of what is mounted elsewhere */
	if (!BPF_CORE_READ(dentry, d_hash.pprev) && BPF_CORE_READ(dentry, d_parent) != dentry)
		p->flags = RB_PATH_DELETED;
	for (int i = 0; i < RB_PATH_DEPTH; i++) {
		struct dentry *parent;
		__u32 pos = p->len;
		long n;

		if (dentry == BPF_CORE_READ(vfsmnt, mnt_root)) {
			struct mount *mnt =
				(void *)vfsmnt - bpf_core_field_offset(struct mount, mnt);
			struct mount *above = BPF_CORE_READ(mnt, mnt_parent);

			if (above == mnt) {
				if (rb_mount_is_detached(mnt))
					p->flags |= RB_PATH_UNREACHABLE;
				return;
			}
			dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
			vfsmnt = (void *)above + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		if (pos >= max) /* full to the last byte: at max & (max - 1) is the leaf */
			break;
		n = bpf_probe_read_kernel_str(dst + (pos & (max - 1)), RB_NAME_MAX,
					      BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0 || pos + n > max)
			break;
		/* FUSE and vfat have longer ones: better none of it than a part of it. */
		if (n == RB_NAME_MAX && BPF_CORE_READ(dentry, d_name.len) >= RB_NAME_MAX)
			break;
		parent = BPF_CORE_READ(dentry, d_parent);
		if (dentry == parent) {
			/* The root of a file system has that name, which none in it can have. */
			if (n == 2 && dst[pos & (max - 1)] == '/') {
				p->flags |= RB_PATH_UNREACHABLE;
				return;
			}
			p->len = pos + n; /* a file without a directory: memfd */
			p->flags |= RB_PATH_DELETED;
			return;
		}
		p->len = pos + n;
		dentry = parent;
	}
	p->flags |= RB_PATH_CUT;
}

/* The same for dst with RB_PATH_ROOM bytes. */
static __always_inline void rb_path_names(__u8 *dst, volatile struct rb_path *p)
{
	rb_path_names_within(dst, RB_PATH_MAX, p);
}

#endif /* __RBTRACE_PATH_H__ */
