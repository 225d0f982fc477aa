//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that start. Two sets of programs, of which user space takes one:
 *
 *  - rb_exec: every successful execve and execveat, from sched_process_exec;
 *  - rb_exec_exit: the failed ones, from the exits of the system calls, since
 *    sched_process_exec does not see them.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/parts.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/fd.h"
#include "rbtrace/syscall.h"

#define EXEC_FILE_MAX	4096	      /* PATH_MAX */
#define EXEC_ARGS_MAX	RB_PARTS_ROOM /* argv beyond this is cut */
#define EXEC_ARG_ROOM	4096	      /* of a string, in one turn */
#define EXEC_ARGS_TURNS 51	      /* cubed: more than that many strings and turns take */

#define EXEC_LOOK_CHUNK 256  /* of argv, looked at in one turn */
#define EXEC_LOOK_ROOM	4096 /* memory of the ring that a short argv is looked at in */

/*
 * What an argument must contain, of at most 64 bytes: bit i of a byte's mask says
 * that the text has that byte at i. The one bit of rb_arg_last is that of the text's
 * last byte; 0: all arguments will do.
 */
const volatile __u64 rb_arg_masks[256] = {};
const volatile __u64 rb_arg_last = 0;

enum exec_flags {
	EXEC_EXE_CUT = 1 << 0, /* enum rb_path_flags, three times over, but for the highest one */
	EXEC_EXE_DELETED = 1 << 1,
	EXEC_CWD_CUT = 1 << 2,
	EXEC_CWD_DELETED = 1 << 3,
	EXEC_BASE_CUT = 1 << 4,
	EXEC_BASE_DELETED = 1 << 5,
	EXEC_ARGS_CUT = 1 << 6, /* not all of argv is here */
	EXEC_SCRIPT = 1 << 7,	/* an interpreter runs it */
	EXEC_BY_FD = 1 << 8,	/* execveat with a descriptor: file is below base, or base itself */
	EXEC_EXE_UNREACHABLE = 1 << 9, /* that one */
	EXEC_CWD_UNREACHABLE = 1 << 10,
	EXEC_BASE_UNREACHABLE = 1 << 11,
};

/*
 * Followed by file, exe, cwd, base (names from leaf to root, but for file, which
 * is as the caller gave it) and argv, of the lengths given here. An argv above
 * RB_PART_ROOM comes in parts.
 */
struct exec_event {
	struct rb_head head;
	__u8 pcomm[TASK_COMM_LEN];
	__s32 ret;
	__u32 euid; /* of the program that runs, or of who called in vain; initial user namespace */
	__u32 egid;
	__u32 loginuid; /* of the audit log; ~0: none */
	__u32 sessionid;
	__u32 argc;
	__u32 args_bytes; /* what argv takes in the process; 0 where that is not known */
	__u32 args_len;	  /* what of it is here */
	__u16 file_len;
	__u16 exe_len;
	__u16 cwd_len;
	__u16 base_len;
};

/*
 * Where looking for the text stands. Bit i of state says that the text up to i is
 * what the bytes up to here end with (the shift-and method of Baeza-Yates and
 * Gonnet): no byte is looked at twice, whatever the text, and the verifier sees no
 * branch. Arguments end with a NUL, which is in no text, so none begins in one and
 * ends in the next.
 */
struct exec_look {
	__u64 from; /* an address in the kernel */
	__u64 left; /* bytes from there on */
	__u64 state;
	__u64 found; /* not 0: it is there */
	__u8 chunk[EXEC_LOOK_CHUNK];
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
	__u8 data[EXEC_FILE_MAX + 3 * RB_PATH_ROOM + RB_PART_ROOM];
	__u32 paths_len; /* of file, exe, cwd and base */
	struct exec_look look;
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
	const struct cred *cred = BPF_CORE_READ(task, cred);

	rb_fill_head(&e->head, books, task);
	/* The leader's, since ppid is the leader's: real_parent is the thread that forked. */
	__builtin_memset(e->pcomm, 0, sizeof(e->pcomm));
	BPF_CORE_READ_STR_INTO(&e->pcomm, task, real_parent, group_leader, comm);
	e->ret = 0;
	e->euid = BPF_CORE_READ(cred, euid.val);
	e->egid = BPF_CORE_READ(cred, egid.val);
	e->loginuid = -1;
	e->sessionid = -1;
	if (bpf_core_field_exists(task->loginuid)) { /* CONFIG_AUDIT */
		e->loginuid = BPF_CORE_READ(task, loginuid.val);
		e->sessionid = BPF_CORE_READ(task, sessionid);
	}
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

/* What the walk that was last says, as exec_flags. */
static __always_inline __u32 exec_path_flags(struct exec_scratch *s, __u32 cut, __u32 unreachable)
{
	__u32 flags = s->path.flags;

	return cut * (flags & (RB_PATH_CUT | RB_PATH_DELETED)) |
	       (flags & RB_PATH_UNREACHABLE ? unreachable : 0);
}

static __always_inline void exec_append_exe(struct exec_scratch *s, __u32 *off, struct file *file)
{
	s->event.exe_len = exec_append(s, off, __builtin_preserve_access_index(&file->f_path));
	s->event.head.flags |= exec_path_flags(s, EXEC_EXE_CUT, EXEC_EXE_UNREACHABLE);
}

static __always_inline void exec_append_cwd(struct exec_scratch *s, __u32 *off,
					    struct task_struct *task)
{
	struct fs_struct *fs = BPF_CORE_READ(task, fs);

	s->event.cwd_len = exec_append(s, off, __builtin_preserve_access_index(&fs->pwd));
	s->event.head.flags |= exec_path_flags(s, EXEC_CWD_CUT, EXEC_CWD_UNREACHABLE);
}

/* The path of the current task's descriptor, if it has one of that number. */
static __always_inline void exec_append_base(struct exec_scratch *s, __u32 *off,
					     struct task_struct *task, __u32 fd)
{
	struct file *file = rb_file_of_fd(task, fd);

	if (!file)
		return;
	s->event.base_len = exec_append(s, off, __builtin_preserve_access_index(&file->f_path));
	s->event.head.flags |=
		EXEC_BY_FD | exec_path_flags(s, EXEC_BASE_CUT, EXEC_BASE_UNREACHABLE);
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

/* File and paths of the program that bprm loads, for the record. Global, as rb_exec_path() is. */
__noinline int rb_exec_paths(__u64 bprm_address)
{
	struct linux_binprm *bprm = (void *)bprm_address;
	struct exec_scratch *s = exec_scratch();
	struct task_struct *task = (void *)bpf_get_current_task();
	struct exec_event *e;
	const char *fdpath;
	__u32 off = 0;
	long n;

	if (!s)
		return 0;
	e = &s->event;
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
	s->paths_len = off;
	return 0;
}

/* Looks at the next chunk. Returns whether there is more to look at. */
__noinline int rb_exec_look_chunk(void)
{
	struct exec_scratch *s = exec_scratch();
	struct exec_look *l;
	__u64 n, state, states = 0;

	if (!s)
		return 0;
	l = &s->look;
	n = l->left;
	if (n > EXEC_LOOK_CHUNK)
		n = EXEC_LOOK_CHUNK;
	if (!n || l->found || bpf_probe_read_kernel(l->chunk, n, (void *)l->from))
		return 0;
	state = l->state;
	for (__u32 i = 0; i < EXEC_LOOK_CHUNK; i++) {
		if (i >= n)
			break;
		state = (state << 1 | 1) & rb_arg_masks[l->chunk[i]];
		states |= state;
	}
	l->state = state;
	l->found = states & rb_arg_last;
	l->from += n;
	l->left -= n;
	return 1;
}

/* Looks at the next RB_PART_ROOM bytes, or what is left. */
__noinline int rb_exec_look(void)
{
	for (int i = 0; i < RB_PART_ROOM / EXEC_LOOK_CHUNK; i++) {
		if (!rb_exec_look_chunk())
			return 0;
	}
	return 1;
}

/* Whether there is an argument with the text in len bytes of argv, at most RB_PART_ROOM. */
static __always_inline bool exec_has_arg(struct exec_scratch *s, void *args, __u64 len)
{
	volatile struct exec_look *l = &s->look;

	l->state = 0;
	l->found = 0;
	l->from = (__u64)args;
	l->left = len;
	rb_exec_look();
	return l->found;
}

/* The same for argv of len bytes in parts. */
static __always_inline bool exec_parts_have_arg(struct exec_scratch *s, struct rb_parts *p,
						__u64 len)
{
	volatile struct exec_look *l = &s->look;
	__u64 n = p->n;

	l->state = 0;
	l->found = 0;
	rb_for_each_part(i, n)
	{
		__u64 seen = (__u64)i * RB_PART_ROOM - rb_part_offset(i, n, len);

		l->from = (__u64)p->part[i]->data;
		l->from += seen;
		l->left = RB_PART_ROOM - seen;
		rb_exec_look();
	}
	return l->found;
}

/* Fills the parts with argv, of len bytes, from user memory or the kernel's. */
static __always_inline bool exec_fill_parts(struct rb_parts *p, __u64 args, __u64 len, bool user)
{
	__u64 n = p->n;
	long err = 0;

	rb_for_each_part(i, n)
	{
		__u64 offset = rb_part_offset(i, n, len);
		void *from = (void *)(args + offset);

		p->part[i]->offset = offset;
		err |= user ? bpf_probe_read_user(p->part[i]->data, RB_PART_ROOM, from)
			    : bpf_probe_read_kernel(p->part[i]->data, RB_PART_ROOM, from);
	}
	return !err;
}

/*
 * An exec of which no more of argv is wanted than len bytes, which fit into room
 * bytes: argv is looked at in memory of the ring, and only where it has the text
 * the record is made and copied behind that.
 */
static __always_inline void exec_with_arg(struct exec_scratch *s, struct rb_ledger *books,
					  void *ring, __u64 bprm, __u64 args, __u64 len,
					  const __u64 room)
{
	struct exec_event *e = &s->event;
	__u8 *scratch = bpf_ringbuf_reserve(ring, room, 0);
	__u32 off;

	if (!scratch) {
		RB_COUNT(books, lost);
		return;
	}
	if (bpf_probe_read_user(scratch, len, (void *)args) || !exec_has_arg(s, scratch, len)) {
		rb_discard(books, ring, scratch);
		return;
	}
	rb_exec_paths(bprm);
	off = exec_bounded(s->paths_len);
	bpf_probe_read_kernel(s->data + off, len, scratch);
	e->args_len = len;
	rb_output_from(books, ring, scratch, e, sizeof(*e) + off + len);
}

/*
 * exec_binprm() calls this when the new image is in place: current has the new mm
 * and comm, arg_start..arg_end were written a moment ago and are resident, and a
 * thread that was not the leader has taken over the leader's pid (de_thread()). The
 * tracepoint tells the id that it called with.
 */
SEC("raw_tp/sched_process_exec")
int rb_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)rb_arg(ctx, 0);
	struct linux_binprm *bprm = (void *)rb_arg(ctx, 2);
	struct rb_ledger *books = rb_hit();
	__u32 tid = (__u32)rb_arg(ctx, 1);
	__u64 args, len;
	struct rb_parts parts;
	struct exec_scratch *s;
	struct exec_event *e;
	bool reserved, filled;
	void *ring;
	__u32 off;

	if (!books)
		return 0;
	s = exec_scratch();
	if (!s || !rb_task_is_wanted_as(task, bpf_get_current_pid_tgid() >> 32, tid,
					rb_uid_of_current())) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e = &s->event;
	exec_fill(e, books, task);
	/* Who called. Any other thread's id in a namespace of its own is gone. */
	if (e->head.who.tid != tid) {
		e->head.who.tid = tid;
		e->head.who.ns_tid = e->head.who.pid_ns == RB_INITIAL_PID_NS ? e->head.who.tid : 0;
	}
	e->argc = BPF_CORE_READ(bprm, argc);
	if (!rb_arg_last)
		rb_exec_paths((__u64)bprm);

	args = BPF_CORE_READ(task, mm, arg_start);
	len = BPF_CORE_READ(task, mm, arg_end) - args;
	e->args_bytes = len;
	if (len > EXEC_ARGS_MAX) {
		len = EXEC_ARGS_MAX;
		e->head.flags |= EXEC_ARGS_CUT;
	}
	ring = rb_ring_of_event();
	if (len > RB_PART_ROOM) {
		e->args_len = len;
		reserved = rb_reserve_parts(&parts, ring, rb_parts_of(len));
		filled = reserved && exec_fill_parts(&parts, args, len, true);
		if (rb_arg_last && filled) {
			if (!exec_parts_have_arg(s, &parts, len)) {
				rb_release_parts(&parts, rb_discard_flags(ring));
				RB_COUNT(books, discarded);
				return 0;
			}
			rb_exec_paths((__u64)bprm);
		}
		off = exec_bounded(s->paths_len);
		if (filled && rb_output_group(books, ring, &parts, &e->head, sizeof(*e) + off))
			return 0;
		rb_release_parts(&parts, rb_discard_flags(ring));
		if (!reserved || filled) {
			rb_lose_group(books);
			return 0;
		}
		len = RB_PART_ROOM; /* perhaps the beginning can be read */
		e->head.flags |= EXEC_ARGS_CUT;
	}
	if (rb_arg_last) {
		if (len <= EXEC_LOOK_ROOM)
			exec_with_arg(s, books, ring, (__u64)bprm, args, len, EXEC_LOOK_ROOM);
		else
			exec_with_arg(s, books, ring, (__u64)bprm, args, len, RB_PART_ROOM);
		return 0;
	}
	off = exec_bounded(s->paths_len);
	if (bpf_probe_read_user(s->data + off, len, (void *)args)) {
		e->head.flags |= EXEC_ARGS_CUT;
		len = 0;
	}
	e->args_len = len;
	rb_output(books, ring, e, sizeof(*e) + off + len);
	return 0;
}

/*
 * The strings of argv, gathered for rb_exec_exit(): a slot for each CPU, as in
 * rb_scratch.
 */
struct exec_args {
	__u64 argv;   /* where the next string's address is */
	__u64 string; /* what of a string is still to come; 0: the next one is */
	__u32 len;    /* of data, what is there */
	__u8 data[EXEC_ARGS_MAX + EXEC_ARG_ROOM]; /* that much is read, wherever it goes */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_args);
} rb_scratch_args SEC(".maps");

static __always_inline struct exec_args *exec_args(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rb_scratch_args, &cpu);
}

/*
 * Appends the next string of argv, or the beginning of what is left of it, to
 * those that are there. Returns whether there may be more. Global, as
 * rb_exec_path() is, so that the verifier walks a loop of calls and not of all this.
 */
__noinline int rb_exec_arg(void)
{
	struct exec_scratch *s = exec_scratch();
	struct exec_args *a = exec_args();
	struct exec_event *e;
	__u64 string;
	__u32 len, room;
	bool begins;
	long n;

	if (!s || !a)
		return 0;
	e = &s->event;
	len = a->len;
	string = a->string;
	begins = !string;
	if (begins) {
		if (bpf_probe_read_user(&string, sizeof(string), (void *)a->argv)) {
			if (a->argv) /* a NULL argv is an empty one */
				e->head.flags |= EXEC_ARGS_CUT;
			return 0;
		}
		if (!string)
			return 0;
		a->argv += sizeof(string);
	}
	room = EXEC_ARGS_MAX - len;
	if (len >= EXEC_ARGS_MAX) {
		e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	n = bpf_probe_read_user_str(a->data + len, EXEC_ARG_ROOM, (void *)string);
	if (n < 0) { /* not resident, or not there */
		e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	if (begins)
		e->argc++;
	if (n == 0) /* as long as a string was empty; with its NUL like any other since 6.18 */
		n = 1;
	a->string = 0;
	if (n == EXEC_ARG_ROOM) { /* a NUL stands where it may go on */
		n--;
		a->string = string + n;
	}
	if (n > room) {
		a->len = EXEC_ARGS_MAX;
		e->head.flags |= EXEC_ARGS_CUT;
		return 0;
	}
	a->len = len + n;
	return 1;
}

/* The same for many, and for many times as many, since one loop for all that there may be is a long way for the verifier. */
__noinline int rb_exec_args(void)
{
	for (int i = 0; i < EXEC_ARGS_TURNS; i++) {
		if (!rb_exec_arg())
			return 0;
	}
	return 1;
}

__noinline int rb_exec_all_args(void)
{
	for (int i = 0; i < EXEC_ARGS_TURNS; i++) {
		if (!rb_exec_args())
			return 0;
	}
	return 1;
}

/* Whether there is an argument with the text in the first len bytes. */
static __always_inline bool exec_args_have_arg(struct exec_scratch *s, struct exec_args *a,
					       __u32 len)
{
	exec_has_arg(s, a->data, len);
	for (int i = 1; i < RB_PARTS_MAX; i++)
		rb_exec_look();
	return s->look.found;
}

#if defined(__TARGET_ARCH_x86)
#define NR_EXECVEAT 322
#elif defined(__TARGET_ARCH_arm64)
#define NR_EXECVEAT 281
#endif

/*
 * A call that fails leaves the caller's registers and memory as they were, so what it was
 * given can be read at its exit, as far as it is resident. One that fails when the old
 * program is gone has the registers still, and what they point to is gone. A call that
 * seccomp answers has this exit, too, and no entry. Attached to sys_exit_execveat as well.
 */
SEC("tracepoint/syscalls/sys_exit_execve")
int rb_exec_exit(struct trace_event_raw_sys_exit *ctx)
{
	const bool at = rb_nr_at_exit(ctx) == NR_EXECVEAT;
	long ret = rb_syscall_ret(ctx);
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_syscall_args args;
	struct rb_parts parts;
	struct exec_scratch *s;
	struct rb_ledger *books;
	struct exec_event *e;
	struct exec_args *a;
	__u32 off = 0, len;
	__s32 dirfd = -1;
	__u64 file;
	void *ring;
	long n;

	books = rb_call_hit(ctx);
	if (!books)
		return 0;
	s = exec_scratch();
	a = exec_args();
	if (ret >= 0 || !s || !a || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	args = rb_syscall_args(ctx);
	file = args.arg[0];
	a->argv = args.arg[1];
	if (at) {
		dirfd = (__s32)args.arg[0];
		file = args.arg[1];
		a->argv = args.arg[2];
	}
	e = &s->event;
	exec_fill(e, books, task);
	e->ret = ret;

	a->string = 0;
	a->len = 0;
	for (int i = 0; i < EXEC_ARGS_TURNS; i++) {
		if (!rb_exec_all_args())
			break;
	}
	len = a->len;
	e->args_len = len;
	/* These are no memory of the ring: nothing is discarded. */
	if (rb_arg_last && !exec_args_have_arg(s, a, len)) {
		RB_COUNT(books, filtered);
		return 0;
	}

	n = bpf_probe_read_user_str(s->data, EXEC_FILE_MAX, (void *)file);
	if (n > 0 && n <= EXEC_FILE_MAX) {
		off = n;
		e->file_len = n;
	}
	exec_append_cwd(s, &off, task);
	/* An absolute path does not begin at the descriptor. */
	if (dirfd >= 0 && !(n > 1 && s->data[0] == '/'))
		exec_append_base(s, &off, task, dirfd);

	off = exec_bounded(off);
	ring = rb_ring_of_event();
	if (len > RB_PART_ROOM) {
		if (rb_reserve_parts(&parts, ring, rb_parts_of(len)) &&
		    exec_fill_parts(&parts, (__u64)a->data, len, false) &&
		    rb_output_group(books, ring, &parts, &e->head, sizeof(*e) + off))
			return 0;
		rb_release_parts(&parts, rb_discard_flags(ring));
		rb_lose_group(books);
		return 0;
	}
	bpf_probe_read_kernel(s->data + off, len, a->data);
	rb_output(books, ring, e, sizeof(*e) + off + len);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
