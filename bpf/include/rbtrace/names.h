/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls that are given two names, of which they make the second one: rename and link.
 * Before this is included, RB_NAMES_EVENT is what the struct of the event is to be called.
 */
#ifndef __RBTRACE_NAMES_H__
#define __RBTRACE_NAMES_H__

/* Followed by the paths, the old one first. */
struct RB_NAMES_EVENT {
	struct rb_head head;
	__s32 ret;
	__u32 flags;
	__u32 call; /* which of the tracer's */
	__u32 unused;
	struct rb_file old;
	struct rb_file new;
};

#define RB_EVENT struct RB_NAMES_EVENT
#define RB_FILES 2
#include "record.h"

/* What a call was given. */
struct rb_names_call {
	__u64 old;
	__u64 new;
	__s32 old_dirfd;
	__s32 new_dirfd;
	__u32 old_how; /* enum rb_file_how */
	__u32 flags;
	__u32 call;
};

/* Makes the event of a call, and ends its hit. */
static __always_inline void rb_output_names(struct rb_ledger *books, struct task_struct *task,
					    const struct rb_names_call *call, __s32 ret)
{
	struct rb_scratch_slot *s = rb_scratch_slot();
	RB_EVENT *e;

	if (!s) { /* never: there is one for each CPU */
		RB_COUNT(books, lost);
		return;
	}
	e = &s->record.event;
	rb_fill_head(&e->head, books, task);
	e->ret = ret;
	e->flags = call->flags;
	e->call = call->call;
	e->unused = 0;
	s->len = 0;
	e->old = rb_append(s, call->old, call->old_dirfd, call->old_how);
	e->new = rb_append(s, call->new, call->new_dirfd, 0);
	rb_output_record(books, s);
}

#endif /* __RBTRACE_NAMES_H__ */
