/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events of a task that is not the current one: who it is, whether it is wanted, and
 * the ring that they go to. What the helpers know of the current task is read from the
 * other one's task_struct.
 */
#ifndef __RBTRACE_OTHER_H__
#define __RBTRACE_OTHER_H__

/* The cgroup of --cgroup, by its id: no helper tells whether another task is under it. */
const volatile __u64 rb_cgroup_id = 0;

#define RB_CGROUP_DEPTH 32 /* cgroups between a task's and the root at the most */

static __always_inline bool rb_other_is_under_cgroup(struct task_struct *task)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);

	for (int i = 0; i < RB_CGROUP_DEPTH; i++) {
		struct cgroup_subsys_state *parent;

		if (BPF_CORE_READ(cgroup, kn, id) == rb_cgroup_id)
			return true;
		parent = BPF_CORE_READ(cgroup, self.parent);
		if (!parent)
			return false;
		cgroup = (void *)parent - bpf_core_field_offset(struct cgroup, self);
	}
	return false;
}

static __always_inline bool rb_other_comm_is_wanted(struct task_struct *task)
{
	char comm[TASK_COMM_LEN] = {};

	BPF_CORE_READ_STR_INTO(&comm, task, comm);
	return rb_is_text(comm, rb_comm, sizeof(comm));
}

/* Is any task one whose events are wanted? */
static __always_inline bool rb_other_is_wanted(struct task_struct *task)
{
	if (rb_pid && (__u32)BPF_CORE_READ(task, tgid) != rb_pid)
		return false;
	if (rb_tid && (__u32)BPF_CORE_READ(task, pid) != rb_tid)
		return false;
	if (rb_by_tree && !rb_task_is_followed(task, BPF_CORE_READ(task, tgid)))
		return false;
	if (rb_by_uid && BPF_CORE_READ(task, cred, uid.val) != rb_uid)
		return false;
	if (rb_ppid && (__u32)BPF_CORE_READ(task, real_parent, tgid) != rb_ppid)
		return false;
	if (rb_by_cgroup && !rb_other_is_under_cgroup(task))
		return false;
	if (rb_by_comm && !rb_other_comm_is_wanted(task))
		return false;
	return true;
}

static __always_inline void rb_who_of_other(struct rb_who *who, struct task_struct *task)
{
	who->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	who->start = BPF_CORE_READ(task, group_leader, start_boottime);
	who->pid = BPF_CORE_READ(task, tgid);
	who->tid = BPF_CORE_READ(task, pid);
	who->ppid = BPF_CORE_READ(task, real_parent, tgid);
	who->uid = BPF_CORE_READ(task, cred, uid.val);
	who->gid = BPF_CORE_READ(task, cred, gid.val);
	rb_who_in_own_ns(who, task, BPF_CORE_READ(task, thread_pid, level));
	__builtin_memset(who->comm, 0, sizeof(who->comm));
	BPF_CORE_READ_STR_INTO(&who->comm, task, comm);
}

/* The ring of that task's event: what rb_ring_of_event() is for the current one's. */
static __always_inline void *rb_ring_of_other(const struct rb_who *who)
{
	void *ring = NULL;
	__u64 cgroup;
	__u32 i;

	switch (rb_topology) {
	case RB_HASH:
		i = rb_ring_of_pid(who->pid);
		ring = bpf_map_lookup_elem(&rb_rings, &i);
		break;
	case RB_CGROUP:
		cgroup = who->cgroup;
		ring = bpf_map_lookup_elem(&rb_cgroup_rings, &cgroup);
		break;
	default:
		return rb_ring_of_event();
	}
	return ring ? ring : (void *)&rb_ring;
}

#endif /* __RBTRACE_OTHER_H__ */
