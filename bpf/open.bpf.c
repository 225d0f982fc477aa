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
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"

#define OPEN_PREFIX_MAX 256 /* with a NUL */

/* include/uapi/asm-generic/fcntl.h */
#define O_WRONLY 01
#define O_CREAT	 0100
#define O_TRUNC	 01000

#define RESOLVE_IN_ROOT 0x10 /* include/uapi/linux/openat2.h */

/* Only paths that begin with these bytes. */
const volatile __u8 path_prefix[OPEN_PREFIX_MAX] __attribute__((aligned(8))) = {};
const volatile __u32 path_prefix_len = 0; /* 0: any path */

/*
 * Followed by the path as struct rb_file has it, whose flags are in head.flags. Flags
 * are those of x86, which are asm-generic's.
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
	__u8 data[RB_FILE_MAX + RB_PATH_ROOM];
};

/* One that nearly all calls fit in. */
#define OPEN_SHORT_FILE	 256
#define OPEN_SHORT_NAMES 512

struct open_short_record {
	struct open_event event;
	__u8 data[OPEN_SHORT_FILE + OPEN_SHORT_NAMES + RB_NAME_MAX];
};

/* What a call was given. */
struct open_call {
	__u64 file; /* the address of its path */
	__u64 flags;
	__u64 mode;
	__u64 resolve;
	__s32 dirfd;
};

/*
 * One slot for each CPU; user space sets the number. It has one user at a time: see
 * struct exec_scratch.
 */
struct open_scratch {
	struct rb_path path;
	struct open_record record;
	struct open_call call;
	/* For a path that has to begin with path_prefix: */
	__u64 data; /* where the record has file and base */
	__u32 file_len;
	__u32 base_len;
	__u32 flags;		       /* of the record's head */
	__u32 at;		       /* how far its base's names have been turned round */
	__u8 name[RB_NAME_MAX];	       /* the one at hand */
	__u8 head[2 * OPEN_PREFIX_MAX] /* the beginning of the path */
		__attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct open_scratch);
} rb_scratch SEC(".maps");

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

	switch (rb_nr_at_exit(ctx)) {
	case OPEN_NR_OPENAT:
		call.dirfd = (__s32)regs.arg[0];
		call.file = regs.arg[1];
		call.flags = (__u32)regs.arg[2];
		call.mode = (__u16)regs.arg[3]; /* umode_t */
		break;
	case OPEN_NR_OPENAT2:
		call.dirfd = (__s32)regs.arg[0];
		call.file = regs.arg[1];
		/* Of a call that fails it may be shorter, or not be there. */
		bpf_probe_read_user(&how, sizeof(how), (void *)regs.arg[2]);
		call.flags = how.flags;
		call.mode = how.mode;
		call.resolve = how.resolve;
		break;
	case OPEN_NR_OPEN:
		call.file = regs.arg[0];
		call.flags = (__u32)regs.arg[1];
		call.mode = (__u16)regs.arg[2];
		break;
	case OPEN_NR_CREAT:
		call.file = regs.arg[0];
		call.flags = O_CREAT | O_WRONLY | O_TRUNC;
		call.mode = (__u16)regs.arg[1];
		break;
	}
	return call;
}

/* Adds its path to a record. Returns what rb_file_fill() does, which explains the rest. */
static __always_inline int open_fill_file(struct open_event *e, __u8 *data, __u32 file_max,
					  __u32 names_max, struct rb_path *path,
					  struct task_struct *task, const struct open_call *call,
					  const struct file *opened)
{
	struct rb_file f;
	int len =
		rb_file_fill(&f, data, file_max, names_max, path, task, (const char *)call->file,
			     call->dirfd, call->resolve & RESOLVE_IN_ROOT ? RB_IN_ROOT : 0, opened);

	e->file_len = f.file_len;
	e->base_len = f.base_len;
	e->head.flags = f.flags;
	return len;
}

/* Makes the record of a call. Returns the same. */
static __always_inline int open_fill(struct open_event *e, __u8 *data, __u32 file_max,
				     __u32 names_max, struct rb_path *path,
				     const struct rb_ledger *books, struct task_struct *task,
				     const struct open_call *call, __s32 ret)
{
	rb_fill_head(&e->head, books, task);
	e->flags = open_generic_flags(call->flags);
	e->ret = ret;
	e->mode = call->mode;
	e->resolve = call->resolve;
	return open_fill_file(e, data, file_max, names_max, path, task, call,
			      ret >= 0 ? rb_file_of_fd(task, ret) : NULL);
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

/* Notes in the scratch where that path is. */
static __always_inline void open_note(struct open_scratch *s, const struct open_event *e,
				      const __u8 *data)
{
	s->data = (__u64)data;
	s->file_len = e->file_len;
	s->base_len = e->base_len;
	s->flags = e->head.flags;
}

static __always_inline __u32 open_source(__u32 flags)
{
	return flags >> RB_SOURCE_SHIFT & RB_SOURCE_MASK;
}

/*
 * Writes at s->head how a path begins, as user space joins base and file: as far as path_prefix
 * can reach, and with anything behind that.
 */
static __always_inline void open_join(struct open_scratch *s)
{
	__u32 file_len = s->file_len, base_len = s->base_len, flags = s->flags, at = 0;
	bool is_root = !base_len && !(flags & (RB_PATH_CUT | RB_PATH_DELETED));
	const char *data = (void *)s->data;
	__u8 first;

	if (flags & RB_PATH_CUT) {
		__builtin_memcpy(s->head, "…", 3);
		at = 3;
	} else if (flags & RB_PATH_UNREACHABLE) {
		__builtin_memcpy(s->head, "(unreachable)", 13);
		at = 13;
	}
	if (!base_len && !(flags & RB_PATH_CUT))
		s->head[at++] = '/';
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
		barrier_var(to); /* or 5.10 does not see what is known of it */
		if (to >= OPEN_PREFIX_MAX)
			continue;
		s->head[to] = '/';
		bpf_probe_read_kernel(s->head + to + 1, n - 1, s->name);
	}
	at += base_len;
	barrier_var(at);
	if (at >= OPEN_PREFIX_MAX)
		return;
	if (flags & RB_PATH_DELETED) {
		__builtin_memcpy(s->head + at, " (deleted)", 10);
		at += 10;
	}
	if (open_source(flags) == RB_OPENED) {
		s->head[at] = 0;
		return;
	}
	bpf_probe_read_kernel(&first, sizeof(first), data);
	if (!is_root && first != '/')
		s->head[at++] = '/';
	if (at < OPEN_PREFIX_MAX)
		bpf_probe_read_kernel(s->head + at, OPEN_PREFIX_MAX, data);
}

/*
 * Does the path that is noted in the scratch begin with path_prefix? Global, and so given what it
 * needs by way of a map, so that the verifier walks it once, and not for each way to it.
 */
__noinline int open_is_wanted(void)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct open_scratch *s = bpf_map_lookup_elem(&rb_scratch, &cpu);

	if (!s || s->flags & RB_IS_PSEUDO) /* which begins with no slash */
		return 0;
	if (open_source(s->flags) > RB_ABSOLUTE) {
		open_join(s);
	} else {
		if (!s->file_len)
			return 0;
		/* With its NUL still behind it, which no prefix has. */
		bpf_probe_read_kernel(s->head, OPEN_PREFIX_MAX, (void *)s->data);
	}
	return open_has_prefix(s->head);
}

/*
 * Does the path that the call has asked for begin with path_prefix, where that of what it has
 * opened does not? Global, too.
 */
__noinline int open_is_asked(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id();
	struct open_scratch *s = bpf_map_lookup_elem(&rb_scratch, &cpu);

	if (!s)
		return 0;
	open_fill_file(&s->record.event, s->record.data, RB_FILE_MAX, RB_PATH_MAX, &s->path, task,
		       &s->call, NULL);
	open_note(s, &s->record.event, s->record.data);
	return open_is_wanted();
}

/* Ends a record in reserved memory: a copy of its own length, behind it, or none. */
static __always_inline void open_decide(struct rb_ledger *books, void *ring, struct open_scratch *s,
					struct open_event *e, __u8 *data, __u32 len, __u32 longest)
{
	open_note(s, e, data);
	if (!open_is_wanted() && (open_source(e->head.flags) != RB_OPENED || !open_is_asked())) {
		rb_discard(books, ring, e);
		return;
	}
	rb_output(books, ring, e, sizeof(*e) + rb_bounded(len, longest));
	rb_release(e);
}

/*
 * The paths of most calls are not wanted, so a path is made and looked at in memory
 * of the ring. That is taken from the ring until the reader has passed it: hence first
 * a record of a size that nearly always does.
 */
static __always_inline void open_with_prefix(struct rb_ledger *books, struct task_struct *task,
					     struct open_scratch *s, __s32 ret)
{
	struct open_short_record *most;
	struct open_record *longest;
	void *ring = rb_ring_of_event();
	int len;

	most = rb_reserve(books, ring, struct open_short_record);
	if (!most)
		return;
	len = open_fill(&most->event, most->data, OPEN_SHORT_FILE, OPEN_SHORT_NAMES, &s->path,
			books, task, &s->call, ret);
	if (len >= 0) {
		open_decide(books, ring, s, &most->event, most->data, len,
			    OPEN_SHORT_FILE + OPEN_SHORT_NAMES);
		return;
	}
	rb_release(most);
	longest = rb_reserve(books, ring, struct open_record);
	if (!longest)
		return;
	len = open_fill(&longest->event, longest->data, RB_FILE_MAX, RB_PATH_MAX, &s->path, books,
			task, &s->call, ret);
	open_decide(books, ring, s, &longest->event, longest->data, len, RB_FILE_MAX + RB_PATH_MAX);
}

/* Attached to the other calls' exits as well. */
SEC("tracepoint/syscalls/sys_exit_openat")
int rb_open(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct open_scratch *s;
	long ret = rb_syscall_ret(ctx);
	int len;

	if (!books)
		return 0;
	s = bpf_map_lookup_elem(&rb_scratch, &cpu);
	if (!s || !rb_call_is_wanted(task, ret)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	s->call = open_call(ctx);
	if (path_prefix_len) {
		open_with_prefix(books, task, s, ret);
		return 0;
	}
	len = open_fill(&s->record.event, s->record.data, RB_FILE_MAX, RB_PATH_MAX, &s->path, books,
			task, &s->call, ret);
	rb_output(books, rb_ring_of_event(), &s->record,
		  sizeof(s->record.event) + rb_bounded(len, RB_FILE_MAX + RB_PATH_MAX));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
