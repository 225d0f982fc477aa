//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads that change their user or group ids. The exits of the calls make the events.
 * The ids that a thread had are gone by then (commit_creds() puts other credentials in
 * the place of the old ones), so they are kept from the entry, and so is who it was:
 * the head, too, tells of the caller before the call. A call that seccomp answers has no
 * entry, only an exit, and changes nothing.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"

#define SETUID_GROUPS 16 /* of a thread's groups, how many are shown */

/* Those of group ids are behind those of user ids. */
enum setuid_calls {
	SETUID_SETUID,
	SETUID_SETREUID,
	SETUID_SETRESUID,
	SETUID_SETFSUID,
	SETUID_SETGID,
	SETUID_SETREGID,
	SETUID_SETRESGID,
	SETUID_SETFSGID,
	SETUID_SETGROUPS,
};

/* As the initial user namespace has them. */
struct setuid_ids {
	__u32 real;
	__u32 effective;
	__u32 saved;
	__u32 fs;
	__u32 ngroups;
	__u32 groups[SETUID_GROUPS]; /* of setgroups; else, and behind the last one, 0 */
};

struct setuid_event {
	struct rb_head head;
	__s64 ret;
	__u32 call; /* enum setuid_calls */
	__u32 args[3];
	struct setuid_ids before;
	struct setuid_ids after;
};

/* wanted: before the call, which may make another of the caller, for --uid. */
struct setuid_begin {
	struct rb_who who;
	struct setuid_ids ids;
	__u32 wanted;
};

/*
 * The calls that are under way, by the address of the thread: they do not wait for
 * anything, so that they are few.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct setuid_begin);
} rb_setuid_calls SEC(".maps");

#if defined(__TARGET_ARCH_x86)
#define NR_SETUID    105
#define NR_SETREUID  113
#define NR_SETRESUID 117
#define NR_SETFSUID  122
#define NR_SETGID    106
#define NR_SETREGID  114
#define NR_SETRESGID 119
#define NR_SETFSGID  123
#elif defined(__TARGET_ARCH_arm64)
#define NR_SETUID    146
#define NR_SETREUID  145
#define NR_SETRESUID 147
#define NR_SETFSUID  151
#define NR_SETGID    144
#define NR_SETREGID  143
#define NR_SETRESGID 149
#define NR_SETFSGID  152
#endif

/* Which call has that number? */
static __always_inline __u32 setuid_call(__s32 nr)
{
	switch (nr) {
	case NR_SETUID:
		return SETUID_SETUID;
	case NR_SETREUID:
		return SETUID_SETREUID;
	case NR_SETRESUID:
		return SETUID_SETRESUID;
	case NR_SETFSUID:
		return SETUID_SETFSUID;
	case NR_SETGID:
		return SETUID_SETGID;
	case NR_SETREGID:
		return SETUID_SETREGID;
	case NR_SETRESGID:
		return SETUID_SETRESGID;
	case NR_SETFSGID:
		return SETUID_SETFSGID;
	}
	return SETUID_SETGROUPS;
}

/* The current ids of a thread, of the kind that call changes. */
static __always_inline void setuid_read(struct setuid_ids *ids, struct task_struct *task,
					__u32 call)
{
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct group_info *groups = BPF_CORE_READ(cred, group_info);
	__u32 n;

	if (call < SETUID_SETGID) {
		ids->real = BPF_CORE_READ(cred, uid.val);
		ids->effective = BPF_CORE_READ(cred, euid.val);
		ids->saved = BPF_CORE_READ(cred, suid.val);
		ids->fs = BPF_CORE_READ(cred, fsuid.val);
	} else {
		ids->real = BPF_CORE_READ(cred, gid.val);
		ids->effective = BPF_CORE_READ(cred, egid.val);
		ids->saved = BPF_CORE_READ(cred, sgid.val);
		ids->fs = BPF_CORE_READ(cred, fsgid.val);
	}
	n = BPF_CORE_READ(groups, ngroups);
	ids->ngroups = n;
	__builtin_memset(ids->groups, 0, sizeof(ids->groups));
	if (call != SETUID_SETGROUPS)
		return;
	if (n > SETUID_GROUPS)
		n = SETUID_GROUPS;
	bpf_probe_read_kernel(ids->groups, n * sizeof(ids->groups[0]),
			      (void *)groups + bpf_core_field_offset(struct group_info, gid));
}

/* Attached to the entries of the other calls as well. */
SEC("tracepoint/syscalls/sys_enter_setuid")
int rb_setuid_enter(struct trace_event_raw_sys_enter *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct setuid_begin begin = {};
	__u64 key = (__u64)task;

	if (!rb_call_enters(ctx))
		return 0;
	rb_who_of_current(&begin.who, task);
	setuid_read(&begin.ids, task, setuid_call(rb_nr_at_entry(ctx)));
	begin.wanted = rb_task_is_wanted(task);
	/* Where there is no room, the exit finds no call. */
	bpf_map_update_elem(&rb_setuid_calls, &key, &begin, BPF_ANY);
	return 0;
}

/* Attached to the exits of the other calls as well. */
SEC("tracepoint/syscalls/sys_exit_setuid")
int rb_setuid(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_call_hit(ctx);
	struct setuid_begin *begin;
	struct rb_syscall_args args;
	__u64 key = (__u64)task;
	struct setuid_event *e;
	long ret = rb_syscall_ret(ctx);
	bool wanted;
	void *ring;

	if (!books)
		return 0;
	begin = bpf_map_lookup_elem(&rb_setuid_calls, &key);
	if (begin && begin->who.tid != (__u32)bpf_get_current_pid_tgid()) {
		/* Of a thread whose exit was missed. */
		bpf_map_delete_elem(&rb_setuid_calls, &key);
		begin = NULL;
	}
	wanted = begin ? begin->wanted : rb_task_is_wanted(task);
	if (!wanted || (rb_failed && ret >= 0)) {
		RB_COUNT(books, filtered);
		goto end;
	}
	/*
	 * No entry of a call that failed: the ids are as they were. Of another one nobody
	 * knows them: it began before tracing did, its entry was missed, there was no room
	 * for it, or seccomp says that it was made and it was not.
	 */
	if (!begin && ret >= 0) {
		rb_lose_without_entry(books);
		goto end;
	}
	args = rb_syscall_args(ctx);
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct setuid_event);
	if (!e)
		goto end;
	if (begin)
		rb_fill_head_of(&e->head, books, &begin->who);
	else
		rb_fill_head(&e->head, books, task);
	e->ret = ret;
	e->call = setuid_call(rb_nr_at_exit(ctx));
	e->args[0] = args.arg[0];
	e->args[1] = args.arg[1];
	e->args[2] = args.arg[2];
	setuid_read(&e->after, task, e->call);
	e->before = begin ? begin->ids : e->after;
	rb_submit(books, ring, e);
end:
	if (begin)
		bpf_map_delete_elem(&rb_setuid_calls, &key);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct setuid_event *const setuid_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
