/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Records of calls that are given paths, built in a slot of rb_scratch: an event, and
 * behind it the paths, each as long as it is. Before this is included, RB_EVENT is
 * the event's type, and RB_FILES says how many paths there are at most.
 */
#ifndef __RBTRACE_RECORD_H__
#define __RBTRACE_RECORD_H__

#define RB_FILE_ROOM (RB_FILE_MAX + RB_PATH_MAX) /* more than a path takes */

struct rb_record {
	RB_EVENT event;
	__u8 data[RB_FILES * RB_FILE_ROOM + RB_NAME_MAX];
};

/*
 * One slot for each CPU; user space sets the number. It has one user at a time: see
 * struct exec_scratch. An object has but one program that uses it.
 */
struct rb_scratch_slot {
	struct rb_path path;
	struct rb_file file; /* that was appended last */
	__u32 len;	     /* of record.data, what is there */
	struct rb_record record;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rb_scratch_slot);
} rb_scratch SEC(".maps");

static __always_inline struct rb_scratch_slot *rb_scratch_slot(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rb_scratch, &cpu);
}

/* Global, so that the verifier walks it once, and not for each path and all that was before it. */
__noinline int rb_append_file(__u64 file, __s32 dirfd, __u32 how)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_scratch_slot *s = rb_scratch_slot();
	__u32 len;
	int n;

	if (!s)
		return 0;
	len = rb_bounded(s->len, (RB_FILES - 1) * RB_FILE_ROOM);
	n = rb_file_fill(&s->file, s->record.data + len, RB_FILE_MAX, RB_PATH_MAX, &s->path, task,
			 (const char *)file, dirfd, how, NULL);
	if (n > 0)
		s->len = len + n;
	return 0;
}

/* Appends a path to the record, and returns what of it stands in the event. */
static __always_inline struct rb_file rb_append(struct rb_scratch_slot *s, __u64 file, __s32 dirfd,
						__u32 how)
{
	rb_append_file(file, dirfd, how);
	return s->file;
}

/* Copies the record into the ring. */
static __always_inline void rb_output_record(struct rb_ledger *books, struct rb_scratch_slot *s)
{
	__u32 len = rb_bounded(s->len, RB_FILES * RB_FILE_ROOM);

	rb_output(books, rb_ring_of_event(), &s->record, sizeof(s->record.event) + len);
}

#endif /* __RBTRACE_RECORD_H__ */
