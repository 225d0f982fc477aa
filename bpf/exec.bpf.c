//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that start. Two sets of programs, of which user space takes one:
 *
 *  - rb_exec: every successful execve and execveat, from sched_process_exec;
 *  - rb_exec_enter, rb_exec_at_enter and rb_exec_exit: the failed ones, from the system calls'
 *    tracepoints, since sched_process_exec does not see them.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"

#define EXEC_FILE_MAX	4096	    /* PATH_MAX */
#define EXEC_ARGS_MAX	(32 * 1024) /* argv beyond this is cut */
#define EXEC_ARGS_TURNS 182	    /* squared: more than as many strings, with the end of argv */
#define AT_FDCWD	-100

enum exec_flags {
	EXEC_EXE_CUT = 1 << 0, /* enum rb_path_flags, three times over */
	EXEC_EXE_DELETED = 1 << 1,
	EXEC_CWD_CUT = 1 << 2,
	EXEC_CWD_DELETED = 1 << 3,
	EXEC_BASE_CUT = 1 << 4,
	EXEC_BASE_DELETED = 1 << 5,
	EXEC_ARGS_CUT = 1 << 6, /* not all of argv is here */
	EXEC_SCRIPT = 1 << 7,	/* an interpreter runs it */
	EXEC_BY_FD = 1 << 8,	/* execveat with a descriptor: file is below base, or base itself */
};

/*
 * Followed by file, exe, cwd, base (names from leaf to root, but for file, which
 * is as the caller gave it) and argv, of the lengths given here.
 */
struct exec_event {
	struct rb_head head;
	__u8 pcomm[TASK_COMM_LEN];
	__s32 ret;
	__u32 argc;
	__u32 args_bytes; /* what argv takes in the process; 0 where that is not known */
	__u32 args_len;	  /* what of it is here */
	__u16 file_len;
	__u16 exe_len;
	__u16 cwd_len;
	__u16 base_len;
};

/*
 * Too large for the stack and for a per-CPU map (32 KiB). One slot for each CPU;
 * user space sets the number. The kernel does not start a program on a CPU
 * where that program is under way already (it counts the miss instead, and user
 * space enters it as a loss), so a slot has one user at a time.
 */
struct exec_scratch {
	struct rb_path path;
	struct exec_event event; /* the record: event and the data behind it */
	/* argv twice: the verifier does not see that what is read and the room left add up. */
	__u8 data[EXEC_FILE_MAX + 3 * RB_PATH_ROOM + 2 * EXEC_ARGS_MAX];
	/* Of the failed ones alone, for rb_exec_arg: */
	__u64 argv;    /* where the next string's address is */
	__u32 args_at; /* where in data the strings begin */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_scratch);
} rb_scratch SEC(".maps");

static __always_inline struct exec_scratch *exec_scratch(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rb_scratch, &cpu);
}

static __always_inline void exec_fill(struct exec_event *e, const struct rb_ledger *books,
				      struct task_struct *task)
{
	rb_fill_head(&e->head, books, task);
	/* The leader's, since ppid is the leader's: real_parent is the thread that forked. */
	BPF_CORE_READ_STR_INTO(&e->pcomm, task, real_parent, group_leader, comm);
	e->ret = 0;
	e->argc = 0;
	e->args_bytes = 0;
	e->args_len = 0;
	e->file_len = 0;
	e->exe_len = 0;
	e->cwd_len = 0;
	e->base_len = 0;
}

/*
 * Walks s->path into the record at data + off. Neither static nor inlined: a
 * global function is verified once, however often it is called, and start-up is
 * mostly the verifier's time. That leaves it scalars as arguments.
 */
__noinline int rb_exec_path(__u32 off)
{
	struct exec_scratch *s = exec_scratch();

	if (s && off <= EXEC_FILE_MAX + 2 * RB_PATH_MAX)
		rb_path_names(s->data + off, &s->path);
	return 0;
}

/* Appends the path to the record at data + *off, and returns its length. */
static __always_inline __u32 exec_append(struct exec_scratch *s, __u32 *off, struct path *path)
{
	__u32 len;

	s->path.vfsmnt = (__u64)BPF_CORE_READ(path, mnt);
	s->path.dentry = (__u64)BPF_CORE_READ(path, dentry);
	rb_exec_path(*off);
	len = s->path.len;
	if (len > RB_PATH_MAX) /* never; for the verifier */
		len = 0;
	*off += len;
	return len;
}

/*
 * The length of file and paths, of which old verifiers lose track. The compiler
 * must not know it either, or it would remove this.
 */
static __always_inline __u32 exec_bounded(__u32 off)
{
	barrier_var(off);
	return off <= EXEC_FILE_MAX + 3 * RB_PATH_MAX ? off : 0;
}

static __always_inline void exec_append_exe(struct exec_scratch *s, __u32 *off, struct file *file)
{
	s->event.exe_len = exec_append(s, off, __builtin_preserve_access_index(&file->f_path));
	s->event.head.flags |= EXEC_EXE_CUT * s->path.flags;
}

static __always_inline void exec_append_cwd(struct exec_scratch *s, __u32 *off,
					    struct task_struct *task)
{
	struct fs_struct *fs = BPF_CORE_READ(task, fs);

	s->event.cwd_len = exec_append(s, off, __builtin_preserve_access_index(&fs->pwd));
	s->event.head.flags |= EXEC_CWD_CUT * s->path.flags;
}

/* The path of the current task's descriptor, if it has one of that number. */
static __always_inline void exec_append_base(struct exec_scratch *s, __u32 *off,
					     struct task_struct *task, __u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;

	if (fd < BPF_CORE_READ(fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + fd);
	if (!file)
		return;
	s->event.base_len = exec_append(s, off, __builtin_preserve_access_index(&file->f_path));
	s->event.head.flags |= EXEC_BY_FD | EXEC_BASE_CUT * s->path.flags;
}

/* The number in "/dev/fd/N" or "/dev/fd/N/NAME", as do_execveat_common() writes it. */
static __always_inline __u32 exec_fdpath_fd(const char *fdpath)
{
	char digits[12] = {};
	__u32 fd = 0;

	bpf_probe_read_kernel_str(digits, sizeof(digits), fdpath + sizeof("/dev/fd/") - 1);
	for (int i = 0; i < 10; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			break;
		fd = fd * 10 + (digits[i] - '0');
	}
	return fd;
}

/*
 * exec_binprm() calls this when the new image is in place: current has the new mm
 * and comm, arg_start..arg_end were written a moment ago and are resident, and a
 * thread that was not the leader has taken over the leader's pid (de_thread()).
 */
SEC("raw_tp/sched_process_exec")
int rb_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct linux_binprm *bprm = (void *)ctx->args[2];
	struct rb_ledger *books = rb_hit();
	unsigned long arg_start, arg_len;
	__u32 off = 0;
	struct exec_scratch *s;
	struct exec_event *e;
	const char *fdpath;
	long n;

	if (!books)
		return 0;
	s = exec_scratch();
	if (!s || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e = &s->event;
	exec_fill(e, books, task);
	e->head.tid = (__u32)ctx->args[1]; /* who called */

	n = bpf_probe_read_kernel_str(s->data, EXEC_FILE_MAX, BPF_CORE_READ(bprm, filename));
	if (n > 0 && n <= EXEC_FILE_MAX) {
		off = n;
		e->file_len = n;
	}
	if (BPF_CORE_READ(bprm, interp) != BPF_CORE_READ(bprm, filename))
		e->head.flags |= EXEC_SCRIPT;

	exec_append_exe(s, &off, BPF_CORE_READ(bprm, file));
	exec_append_cwd(s, &off, task);
	fdpath = BPF_CORE_READ(bprm, fdpath);
	if (fdpath) {
		/* Without an interpreter exe tells the path, and the descriptor may be closed. */
		if (e->head.flags & EXEC_SCRIPT)
			exec_append_base(s, &off, task, exec_fdpath_fd(fdpath));
		else
			e->head.flags |= EXEC_BY_FD;
	}

	off = exec_bounded(off);
	e->argc = BPF_CORE_READ(bprm, argc);
	arg_start = BPF_CORE_READ(task, mm, arg_start);
	arg_len = BPF_CORE_READ(task, mm, arg_end) - arg_start;
	e->args_bytes = arg_len;
	if (arg_len > EXEC_ARGS_MAX) {
		arg_len = EXEC_ARGS_MAX;
		e->head.flags |= EXEC_ARGS_CUT;
	}
	if (bpf_probe_read_user(s->data + off, arg_len, (void *)arg_start)) {
		e->head.flags |= EXEC_ARGS_CUT;
		arg_len = 0;
	}
	e->args_len = arg_len;
	off += arg_len;

	rb_output(books, rb_ring_of_event(), e, sizeof(*e) + off);
	return 0;
}

/* What a call of execve or execveat was given, from its entry to its exit. */
struct exec_call {
	__u64 file;
	__u64 argv;
	__s32 dirfd;
	__u32 by_fd;
};

/*
 * Keyed by the task's address, which stays the same while an exec changes the
 * task's pid.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct exec_call);
} rb_exec_calls SEC(".maps");

static __always_inline int exec_enter(__s32 dirfd, unsigned long file, unsigned long argv)
{
	struct exec_call call = {.file = file, .argv = argv, .dirfd = dirfd, .by_fd = dirfd >= 0};
	__u64 key = bpf_get_current_task();

	/* Where there is no room, the exit finds no call and enters a loss. */
	bpf_map_update_elem(&rb_exec_calls, &key, &call, BPF_ANY);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_execve")
int rb_exec_enter(struct trace_event_raw_sys_enter *ctx)
{
	return exec_enter(AT_FDCWD, ctx->args[0], ctx->args[1]);
}

SEC("tracepoint/syscalls/sys_enter_execveat")
int rb_exec_at_enter(struct trace_event_raw_sys_enter *ctx)
{
	return exec_enter((__s32)ctx->args[0], ctx->args[1], ctx->args[2]);
}

/*
 * Appends the next string of argv to those that are there. Returns whether there
 * may be more. Global, as rb_exec_path() is, so that the verifier walks a loop of
 * calls and not of all this.
 */
__noinline int rb_exec_arg(void)
{
	struct exec_scratch *s = exec_scratch();
	const char *arg = NULL;
	struct exec_event *e;
	__u32 at, len, room;
	long n;

	if (!s)
		return 0;
	e = &s->event;
	at = exec_bounded(s->args_at);
	len = e->args_len;
	if (len > EXEC_ARGS_MAX) /* never; for the verifier */
		return 0;
	if (bpf_probe_read_user(&arg, sizeof(arg), (void *)s->argv)) {
		if (s->argv) /* a NULL argv is an empty one */
			e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	if (!arg)
		return 0;
	room = EXEC_ARGS_MAX - len;
	/* With the NUL that takes the place of what does not fit, one more. */
	n = room ? bpf_probe_read_user_str(s->data + at + len, room + 1, arg) : -1;
	if (n < 0) { /* no room left, not resident, or not there */
		e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	if (n == 0) /* as long as a string was empty; with its NUL like any other since 6.18 */
		n = 1;
	e->argc++;
	if (n > room) {
		e->args_len = EXEC_ARGS_MAX;
		e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	e->args_len = len + n;
	s->argv += sizeof(arg);
	return 1;
}

/* The same for many, since one loop for all that there may be is a long way for the verifier. */
__noinline int rb_exec_args(void)
{
	for (int i = 0; i < EXEC_ARGS_TURNS; i++) {
		if (!rb_exec_arg())
			return 0;
	}
	return 1;
}

/*
 * The caller's memory is as it was, so what the call was given can still be read.
 * Attached to sys_exit_execveat as well.
 */
SEC("tracepoint/syscalls/sys_exit_execve")
int rb_exec_exit(struct trace_event_raw_sys_exit *ctx)
{
	long ret = ctx->ret;
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = (__u64)task;
	struct exec_call *found, call = {};
	struct exec_scratch *s;
	struct rb_ledger *books;
	struct exec_event *e;
	__u32 off = 0, args_len;
	long n;

	books = rb_hit();
	if (!books)
		return 0;
	found = bpf_map_lookup_elem(&rb_exec_calls, &key);
	if (found) {
		call = *found;
		bpf_map_delete_elem(&rb_exec_calls, &key);
	}
	s = exec_scratch();
	if (ret >= 0 || !s || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	if (!found) { /* entered before tracing began, or there was no room for it */
		RB_COUNT(books, lost);
		return 0;
	}
	e = &s->event;
	exec_fill(e, books, task);
	e->ret = ret;

	n = bpf_probe_read_user_str(s->data, EXEC_FILE_MAX, (void *)call.file);
	if (n > 0 && n <= EXEC_FILE_MAX) {
		off = n;
		e->file_len = n;
	}
	exec_append_cwd(s, &off, task);
	/* An absolute path does not begin at the descriptor. */
	if (call.by_fd && !(n > 1 && s->data[0] == '/'))
		exec_append_base(s, &off, task, call.dirfd);

	off = exec_bounded(off);
	s->argv = call.argv;
	s->args_at = off;
	for (int i = 0; i < EXEC_ARGS_TURNS; i++) {
		if (!rb_exec_args())
			break;
	}
	args_len = e->args_len;
	if (args_len > EXEC_ARGS_MAX) /* never; for the verifier */
		args_len = 0;
	rb_output(books, rb_ring_of_event(), e, sizeof(*e) + off + args_len);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
