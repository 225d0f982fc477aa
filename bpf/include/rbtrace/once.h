/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes that an event is made of once, although the kernel may tell of it again. */
#ifndef __RBTRACE_ONCE_H__
#define __RBTRACE_ONCE_H__

/* One of all processes that there ever are. */
struct rb_process {
	__u64 leader; /* its address */
	__u64 start;
};

/* Those of which there was an event; old ones are forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct rb_process);
	__type(value, __u8);
} rb_seen SEC(".maps");

static __always_inline struct rb_process rb_process_of(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	return (struct rb_process){
		.leader = (__u64)leader,
		.start = BPF_CORE_READ(leader, start_boottime),
	};
}

#define EEXIST 17

/* Is this the first time that it is asked for? Where the kernel cannot tell, it is. */
static __always_inline bool rb_is_first(const struct rb_process *process)
{
	__u8 one = 1;
	int err; /* before 6.4 no more of what is returned means anything */

	err = bpf_map_update_elem(&rb_seen, process, &one, BPF_NOEXIST);
	return err != -EEXIST;
}

#endif /* __RBTRACE_ONCE_H__ */
