//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lines that people type, by the return of readline().
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/bounded.h"

#define READLINE_MAX 4096 /* with a NUL */

/* In head.flags. */
enum readline_flags {
	READLINE_CUT = 1,
};

/* Followed by the line. */
struct readline_event {
	struct rb_head head;
	__u64 len;
};

struct readline_record {
	struct readline_event event;
	__u8 line[READLINE_MAX + 8];
};

/*
 * The line is the caller's from here on, and was written a moment ago. NULL is the end of the input.
 * See user.h why the record is made in memory of the ring.
 */
SEC("uretprobe/readline")
int rb_readline(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const void *line = (const void *)PT_REGS_RC(ctx);
	struct rb_ledger *books = rb_hit();
	struct readline_record *r;
	__u64 len = 0;
	void *ring;
	long n;

	if (!books)
		return 0;
	if (!line || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	r = rb_reserve(books, ring, struct readline_record);
	if (!r)
		return 0;
	rb_fill_head(&r->event.head, books, task);
	/* With its NUL; until 6.18 an empty one has none. One byte more tells the longest from those that are longer. */
	n = bpf_probe_read_user_str(r->line, READLINE_MAX + 1, line);
	if (n > READLINE_MAX)
		len = READLINE_MAX - 1;
	else if (n > 1)
		len = n - 1;
	if (n < 0 || n > READLINE_MAX)
		r->event.head.flags = READLINE_CUT;
	r->event.len = len;
	rb_output_bounded(books, ring, r, sizeof(r->event), len, READLINE_MAX);
	rb_release(r);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct readline_event *const readline_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
