//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files that are opened, or are not: the exits of open, openat, openat2 and creat.
 * What the call was given is still in the registers that the task entered the
 * kernel with, so nothing needs to be kept from the entry.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/syscall.h"

#define AT_FDCWD	-100
#define OPEN_FILE_MAX	4096 /* PATH_MAX */
#define OPEN_PREFIX_MAX 256  /* with a NUL */

/* include/uapi/asm-generic/fcntl.h */
#define O_WRONLY 01
#define O_CREAT	 0100
#define O_TRUNC	 01000

#define RESOLVE_IN_ROOT 0x10 /* include/uapi/linux/openat2.h */

/* Only paths that begin with these bytes. */
const volatile __u8 path_prefix[OPEN_PREFIX_MAX] __attribute__((aligned(8))) = {};
const volatile __u32 path_prefix_len = 0; /* 0: any path */

/* Where the path begins. */
enum open_source {
	OPEN_UNRESOLVED,
	OPEN_ABSOLUTE,
	OPEN_CWD,
	OPEN_DIRFD,
};

/* In head.flags: enum rb_path_flags of the base, and above them an open_source. */
#define OPEN_SOURCE_SHIFT 2

/*
 * Followed by file, as the caller gave it, and where that is relative by base, the
 * names of its directory from leaf to root. Flags are those of x86, which are
 * asm-generic's.
 */
struct open_event {
	struct rb_head head;
	__u64 flags;
	__s32 ret;
	__u32 mode;
	__u32 resolve; /* of openat2 */
	__u16 file_len;
	__u16 base_len;
};

/* The longest record, with room for the NUL behind file and for a walk's last name. */
struct open_record {
	struct open_event event;
	__u8 data[OPEN_FILE_MAX + RB_PATH_ROOM];
};

/* One that nearly all calls fit in. */
#define OPEN_SHORT_FILE	 256
#define OPEN_SHORT_NAMES 512

struct open_short_record {
	struct open_event event;
	__u8 data[OPEN_SHORT_FILE + OPEN_SHORT_NAMES + RB_NAME_MAX];
};

/*
 * One slot for each CPU; user space sets the number. It has one user at a time: see
 * struct exec_scratch.
 */
struct open_scratch {
	struct rb_path path;
	struct open_record record;
	/* For a path that is relative and has to begin with path_prefix: */
	__u32 at;		       /* how far its base's names have been turned round */
	__u8 name[RB_NAME_MAX];	       /* the one at hand */
	__u8 head[2 * OPEN_PREFIX_MAX] /* the beginning of the joined path */
		__attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct open_scratch);
} rb_scratch SEC(".maps");

/* What a call was given. */
struct open_call {
	const char *file;
	__u64 flags;
	__u64 mode;
	__u64 resolve;
	__s32 dirfd;
};

#if defined(__TARGET_ARCH_x86)
#define OPEN_NR_OPEN	2
#define OPEN_NR_CREAT	85
#define OPEN_NR_OPENAT	257
#define OPEN_NR_OPENAT2 437

static __always_inline __u64 open_generic_flags(__u64 flags)
{
	return flags;
}
#elif defined(__TARGET_ARCH_arm64)
/* Has no open and creat: numbers that no call has. */
#define OPEN_NR_OPEN	-2
#define OPEN_NR_CREAT	-3
#define OPEN_NR_OPENAT	56
#define OPEN_NR_OPENAT2 437

/*
 * arch/arm64/include/uapi/asm/fcntl.h: O_DIRECTORY and O_NOFOLLOW are where others
 * have O_DIRECT and O_LARGEFILE, and the other way round.
 */
static __always_inline __u64 open_generic_flags(__u64 flags)
{
	return (flags & ~0x3c000ULL) | (flags & 0xc000) << 2 | (flags & 0x30000) >> 2;
}
#endif

static __always_inline struct open_call open_call(struct trace_event_raw_sys_exit *ctx)
{
	struct rb_syscall_args regs = rb_syscall_args(ctx);
	struct open_call call = {.dirfd = AT_FDCWD};
	struct open_how how = {};

	/* An int in some kernels, with anything behind it. */
	switch ((__s32)ctx->id) {
	case OPEN_NR_OPENAT:
		call.dirfd = (__s32)regs.arg[0];
		call.file = (void *)regs.arg[1];
		call.flags = (__u32)regs.arg[2];
		call.mode = (__u16)regs.arg[3]; /* umode_t */
		break;
	case OPEN_NR_OPENAT2:
		call.dirfd = (__s32)regs.arg[0];
		call.file = (void *)regs.arg[1];
		/* Of a call that fails it may be shorter, or not be there. */
		bpf_probe_read_user(&how, sizeof(how), (void *)regs.arg[2]);
		call.flags = how.flags;
		call.mode = how.mode;
		call.resolve = how.resolve;
		break;
	case OPEN_NR_OPEN:
		call.file = (void *)regs.arg[0];
		call.flags = (__u32)regs.arg[1];
		call.mode = (__u16)regs.arg[2];
		break;
	case OPEN_NR_CREAT:
		call.file = (void *)regs.arg[0];
		call.flags = O_CREAT | O_WRONLY | O_TRUNC;
		call.mode = (__u16)regs.arg[1];
		break;
	}
	return call;
}

/* Has p got the directory that dirfd refers to? */
static __always_inline bool open_base(struct rb_path *p, struct task_struct *task, __s32 dirfd)
{
	struct fdtable *fdt;
	struct file *file = NULL;

	if (dirfd == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);

		p->vfsmnt = (__u64)BPF_CORE_READ(fs, pwd.mnt);
		p->dentry = (__u64)BPF_CORE_READ(fs, pwd.dentry);
		return true;
	}
	fdt = BPF_CORE_READ(task, files, fdt);
	if ((__u32)dirfd < BPF_CORE_READ(fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + dirfd);
	if (!file)
		return false;
	p->vfsmnt = (__u64)BPF_CORE_READ(file, f_path.mnt);
	p->dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
	return true;
}

/*
 * A length of which old verifiers have lost track. The compiler must not know it
 * either, or it would remove this.
 */
static __always_inline __u32 open_bounded(__u32 len, __u32 longest)
{
	barrier_var(len);
	return len <= longest ? len : 0;
}

/*
 * Makes the record of a call. file takes less than file_max bytes at data and the names
 * at most names_max behind it; both are constants. Returns how many they take, -1 where
 * they may be cut and the longest record is longer.
 */
static __always_inline int open_fill(struct open_event *e, __u8 *data, __u32 file_max,
				     __u32 names_max, struct rb_path *path,
				     const struct rb_ledger *books, struct task_struct *task,
				     const struct open_call *call, __s32 ret)
{
	__u32 file_len, base_len, source;
	long n;

	rb_fill_head(&e->head, books, task);
	e->flags = open_generic_flags(call->flags);
	e->ret = ret;
	e->mode = call->mode;
	e->resolve = call->resolve;
	e->file_len = 0;
	e->base_len = 0;

	/* With its NUL; until 6.18 an empty one has none. */
	n = bpf_probe_read_user_str(data, file_max, call->file);
	if (n <= 1 || n > file_max)
		return 0;
	if (n == file_max && file_max < OPEN_FILE_MAX)
		return -1;
	file_len = open_bounded(n - 1, file_max - 1);
	e->file_len = file_len;
	if (data[0] == '/' && !(call->resolve & RESOLVE_IN_ROOT)) {
		e->head.flags = OPEN_ABSOLUTE << OPEN_SOURCE_SHIFT;
		return file_len;
	}
	if (!open_base(path, task, call->dirfd))
		return file_len;
	source = call->dirfd == AT_FDCWD ? OPEN_CWD : OPEN_DIRFD;
	rb_path_names_within(data + file_len, names_max, path);
	if (path->flags & RB_PATH_CUT && names_max < RB_PATH_MAX)
		return -1;
	e->head.flags = source << OPEN_SOURCE_SHIFT | path->flags;
	base_len = path->len;
	e->base_len = base_len;
	return file_len + base_len;
}

/* Does text, which has room for OPEN_PREFIX_MAX bytes, begin with path_prefix? */
static __always_inline bool open_has_prefix(const __u8 *text)
{
	const __u64 *have = (void *)text;
	const volatile __u64 *want = (void *)path_prefix;

	for (int i = 0; i < OPEN_PREFIX_MAX / 8; i++) {
		__u64 differ = have[i] ^ want[i];

		if (path_prefix_len < 8 * (i + 1)) {
			/* Little-endian: the first byte is the lowest. */
			return !(differ & ((1ULL << 8 * (path_prefix_len % 8)) - 1));
		}
		if (differ)
			return false;
	}
	return true;
}

/*
 * Writes at s->head how the path of a record begins, as user space joins base and
 * file: as far as path_prefix can reach, and with anything behind that.
 */
static __always_inline void open_join(struct open_scratch *s, const struct open_event *e,
				      const __u8 *data)
{
	__u32 file_len = e->file_len, base_len = e->base_len, flags = e->head.flags, at = 0;

	if (flags & RB_PATH_CUT) {
		__builtin_memcpy(s->head, "…", 3);
		at = 3;
	} else if (!base_len) {
		s->head[0] = '/';
		at = 1;
	}
	s->at = 0;
	for (int i = 0; i < RB_PATH_DEPTH; i++) {
		__u32 pos = s->at, to;
		long n;

		if (pos >= base_len)
			break;
		n = bpf_probe_read_kernel_str(s->name, sizeof(s->name), data + file_len + pos);
		if (n <= 0 || n > RB_NAME_MAX)
			break;
		s->at = pos + n;
		/* What lies behind a name is in front of it in the path. */
		to = at + base_len - (pos + n);
		if (to >= OPEN_PREFIX_MAX)
			continue;
		s->head[to] = '/';
		bpf_probe_read_kernel(s->head + to + 1, n - 1, s->name);
	}
	at += base_len;
	if (at >= OPEN_PREFIX_MAX)
		return;
	if (flags & RB_PATH_DELETED) {
		__builtin_memcpy(s->head + at, " (deleted)", 10);
		at += 10;
	}
	if (at > 1 && data[0] != '/')
		s->head[at++] = '/';
	if (at < OPEN_PREFIX_MAX)
		bpf_probe_read_kernel(s->head + at, OPEN_PREFIX_MAX, data);
}

/* Ends a record in reserved memory: a copy of its own length, behind it, or none. */
static __always_inline void open_decide(struct rb_ledger *books, void *ring, struct open_scratch *s,
					struct open_event *e, __u8 *data, __u32 len, __u32 longest)
{
	bool wanted;

	if (e->head.flags >> OPEN_SOURCE_SHIFT > OPEN_ABSOLUTE) {
		open_join(s, e, data);
		wanted = open_has_prefix(s->head);
	} else {
		/* With its NUL still behind it, which no prefix has. */
		wanted = e->file_len && open_has_prefix(data);
	}
	if (!wanted) {
		rb_discard(books, ring, e);
		return;
	}
	rb_output(books, ring, e, sizeof(*e) + open_bounded(len, longest));
	rb_release(e);
}

/*
 * The paths of most calls are not wanted, so a path is made and looked at in memory
 * of the ring. That is taken from the ring until the reader has passed it: hence first
 * a record of a size that nearly always does.
 */
static __always_inline void open_with_prefix(struct rb_ledger *books, struct task_struct *task,
					     struct open_scratch *s, const struct open_call *call,
					     __s32 ret)
{
	struct open_short_record *most;
	struct open_record *longest;
	void *ring = rb_ring_of_event();
	int len;

	most = rb_reserve(books, ring, struct open_short_record);
	if (!most)
		return;
	len = open_fill(&most->event, most->data, OPEN_SHORT_FILE, OPEN_SHORT_NAMES, &s->path,
			books, task, call, ret);
	if (len >= 0) {
		open_decide(books, ring, s, &most->event, most->data, len,
			    OPEN_SHORT_FILE + OPEN_SHORT_NAMES);
		return;
	}
	rb_release(most);
	longest = rb_reserve(books, ring, struct open_record);
	if (!longest)
		return;
	len = open_fill(&longest->event, longest->data, OPEN_FILE_MAX, RB_PATH_MAX, &s->path, books,
			task, call, ret);
	open_decide(books, ring, s, &longest->event, longest->data, len,
		    OPEN_FILE_MAX + RB_PATH_MAX);
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_openat")
int rb_open(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id();
	struct rb_ledger *books = rb_hit();
	struct open_scratch *s;
	struct open_call call;
	long ret = ctx->ret;
	int len;

	if (!books)
		return 0;
	s = bpf_map_lookup_elem(&rb_scratch, &cpu);
	if (!s || (rb_failed && ret >= 0) || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	call = open_call(ctx);
	if (path_prefix_len) {
		open_with_prefix(books, task, s, &call, ret);
		return 0;
	}
	len = open_fill(&s->record.event, s->record.data, OPEN_FILE_MAX, RB_PATH_MAX, &s->path,
			books, task, &call, ret);
	rb_output(books, rb_ring_of_event(), &s->record,
		  sizeof(s->record.event) + open_bounded(len, OPEN_FILE_MAX + RB_PATH_MAX));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
