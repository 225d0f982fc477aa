/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filters that every tracer shares. They are constants, so the verifier
 * removes the ones that are not in use, and they come before the reserve, so
 * that what is not wanted costs the ring nothing.
 */
#ifndef __RBTRACE_FILTER_H__
#define __RBTRACE_FILTER_H__

const volatile __u32 rb_pid = 0; /* 0: any */
const volatile __u32 rb_tid = 0;
const volatile __u32 rb_ppid = 0;
const volatile bool rb_by_uid = false;
const volatile __u32 rb_uid = 0;
const volatile bool rb_by_comm = false;
const volatile char rb_comm[TASK_COMM_LEN] = {};
const volatile bool rb_by_cgroup = false;
const volatile bool rb_by_tree = false;
const volatile bool rb_failed = false; /* for those tracers that see both: only what failed */

/* One slot: the cgroup whose members, and those of the cgroups below it, are wanted. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} rb_cgroup SEC(".maps");

/*
 * The processes (thread groups) that are followed, kept by follow.bpf.c, and since
 * when each is there (start_boottime): an entry outlives its process a little, and the
 * pid may be another's by then. 0: user space put it there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space sets the real size where it is used */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} rb_tree SEC(".maps");

static __always_inline bool rb_task_is_followed(struct task_struct *task, __u32 pid)
{
	__u64 *start = bpf_map_lookup_elem(&rb_tree, &pid);

	return start && (!*start || *start == BPF_CORE_READ(task, group_leader, start_boottime));
}

/* Is text, in memory of that size, the same as the constant wanted, up to its NUL? */
static __always_inline bool rb_is_text(const char *text, const volatile char *wanted, __u32 size)
{
	for (__u32 i = 0; i < size; i++) {
		if (text[i] != wanted[i])
			return false;
		if (!text[i])
			break;
	}
	return true;
}

static __always_inline bool rb_comm_is_wanted(void)
{
	char comm[TASK_COMM_LEN] = {};

	return !bpf_get_current_comm(comm, sizeof(comm)) && rb_is_text(comm, rb_comm, sizeof(comm));
}

/* The current task's, where somebody filters by it. */
static __always_inline __u32 rb_uid_of_current(void)
{
	return rb_by_uid ? (__u32)bpf_get_current_uid_gid() : 0;
}

/* Are events of the current task wanted, if those are its ids? */
static __always_inline bool rb_task_is_wanted_as(struct task_struct *task, __u32 pid, __u32 tid,
						 __u32 uid)
{
	if (rb_pid && pid != rb_pid)
		return false;
	if (rb_tid && tid != rb_tid)
		return false;
	if (rb_by_tree && !rb_task_is_followed(task, pid))
		return false;
	if (rb_by_uid && uid != rb_uid)
		return false;
	if (rb_ppid && (__u32)BPF_CORE_READ(task, real_parent, tgid) != rb_ppid)
		return false;
	if (rb_by_cgroup && bpf_current_task_under_cgroup(&rb_cgroup, 0) != 1)
		return false;
	if (rb_by_comm && !rb_comm_is_wanted())
		return false;
	return true;
}

/* Is the current task one whose events are wanted? */
static __always_inline bool rb_task_is_wanted(struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	return rb_task_is_wanted_as(task, pid_tgid >> 32, (__u32)pid_tgid, rb_uid_of_current());
}

/* Is any of these filters set? Then an event whose task nobody knows is not wanted. */
static __always_inline bool rb_has_filters(void)
{
	return rb_pid || rb_tid || rb_ppid || rb_by_tree || rb_by_uid || rb_by_cgroup || rb_by_comm;
}

#endif /* __RBTRACE_FILTER_H__ */
