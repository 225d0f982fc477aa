//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests to block devices: from when they are queued, if they are, over when they go
 * to the device, until that is done with them.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/other.h"

#define DISK_NAME_LEN 32 /* include/linux/blkdev.h */

/* include/linux/blk_types.h, and the first of REQ_OP_SCSI_IN, which is gone, and REQ_OP_DRV_IN. */
#define REQ_OP_MASK	   0xff
#define REQ_OP_FLUSH	   2
#define REQ_OP_PASSTHROUGH 32

/* Only requests that take as long, in ns. */
const volatile __u64 min_ns = 0;

/* Only this disk. */
const volatile bool by_disk = false;
const volatile char disk[DISK_NAME_LEN] = {};

enum bio_flags {
	BIO_SYNC = 1 << 0,
	BIO_META = 1 << 1,
	BIO_PRIO = 1 << 2,
	BIO_FUA = 1 << 3,
	BIO_PREFLUSH = 1 << 4,
	BIO_AHEAD = 1 << 5,
};

struct bio_event {
	struct rb_head head; /* of whose request it is; zeros: nobody knows */
	__u64 latency;
	__u64 queued; /* how long it was before */
	__u64 sector;
	__u32 bytes;
	__s32 status; /* negative: an errno; positive: a blk_status_t */
	__u32 op;
	__u32 flags;
	__u32 major;
	__u32 minor;
	__u8 disk[DISK_NAME_LEN];
};

enum bio_request_flags {
	BIO_UNWANTED = 1 << 0,
	BIO_STARTED = 1 << 1, /* whose it is, block_io_start said */
	BIO_REQUEUED =
		1 << 2, /* the device has not done it, or not all of it; it is to get it again */
};

struct bio_request {
	struct rb_who who;
	__u64 queued; /* CLOCK_MONOTONIC, ns; 0: it was not, or before tracing began */
	__u64 issued; /* the first time; 0: not yet */
	__u64 sector;
	__u32 bytes;
	__u32 flags;
	__s32 status; /* of a part of it that is done */
	__u32 unused;
};

/*
 * Keyed by the request's address. Requests are made when a device is set up and used
 * again and again, so what stays behind of one that goes another way takes no more room
 * than there are requests, and is written over.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, struct bio_request);
} rb_bio_requests SEC(".maps");

/* Before 5.17 (f3fa33acca9f). */
struct request___old {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

/* NULL for requests that manage a device. */
static __always_inline struct gendisk *bio_disk(struct request *rq)
{
	struct request___old *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return BPF_CORE_READ(old, rq_disk);
	return BPF_CORE_READ(rq, q, disk);
}

static __always_inline bool bio_disk_is_wanted(struct request *rq)
{
	struct gendisk *gd = bio_disk(rq);
	char name[DISK_NAME_LEN] = {};

	if (!by_disk)
		return true;
	if (!gd)
		return false;
	BPF_CORE_READ_STR_INTO(&name, gd, disk_name);
	return rb_is_text(name, disk, sizeof(name));
}

/* A flush has no place (-1), and of what is passed to the device it means nothing. */
static __always_inline __u64 bio_sector(struct request *rq)
{
	__u64 sector = BPF_CORE_READ(rq, __sector);
	__u32 op = BPF_CORE_READ(rq, cmd_flags) & REQ_OP_MASK;

	return sector == -1ULL || op >= REQ_OP_PASSTHROUGH ? 0 : sector;
}

static __always_inline void bio_remember(struct request *rq, struct bio_request *r)
{
	__u64 key = (__u64)rq;

	if (!bpf_map_update_elem(&rb_bio_requests, &key, r, BPF_ANY))
		return;
	/* No room: nobody will know how long it took. */
	rb_lose();
}

static __always_inline void bio_is_current(struct bio_request *r)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	rb_who_of_current(&r->who, task);
	if (!rb_task_is_wanted(task))
		r->flags |= BIO_UNWANTED;
}

/*
 * A bio becomes a request, in the task that submits it. One whose data comes behind a
 * flush, or is followed by one, is queued by a kworker later (block/blk-flush.c). Since
 * 6.5 (5a80bd075f3b).
 */
SEC("raw_tp/block_io_start")
int rb_bio_start(struct bpf_raw_tracepoint_args *ctx)
{
	struct request *rq = (void *)rb_arg(ctx, 0);
	struct bio_request r = {.flags = BIO_STARTED};

	if (!bio_disk_is_wanted(rq))
		return 0;
	bio_is_current(&r);
	bio_remember(rq, &r);
	return 0;
}

/*
 * The current task is the one whose request it is, but for those of rb_bio_start and
 * those that are queued again: it empties its plug, at the end of its system call or
 * where it has to sleep.
 */
static __always_inline int bio_insert(struct request *rq)
{
	struct bio_request *found, r = {};
	__u64 key = (__u64)rq;

	if (!bio_disk_is_wanted(rq))
		return 0;
	found = bpf_map_lookup_elem(&rb_bio_requests, &key);
	if (found && found->flags & BIO_REQUEUED)
		return 0;
	if (found && found->flags & BIO_STARTED && !found->issued) {
		found->queued = bpf_ktime_get_ns();
		return 0;
	}
	bio_is_current(&r);
	r.queued = bpf_ktime_get_ns();
	bio_remember(rq, &r);
	return 0;
}

/*
 * Whose is a request that comes to the device, and nobody has seen before? With a
 * scheduler it was queued before tracing began, but for those that go by it
 * (blk_mq_insert_request()): a flush, which is a kworker's, and what is passed to the device.
 */
static __always_inline bool bio_nobody_knows(struct request *rq)
{
	__u32 op = BPF_CORE_READ(rq, cmd_flags) & REQ_OP_MASK;

	return BPF_CORE_READ(rq, q, elevator) && op != REQ_OP_FLUSH && op < REQ_OP_PASSTHROUGH;
}

/*
 * blk_mq_start_request() calls this, for one that was queued in whichever task or
 * interrupt runs the queue, else in the task whose request it is. It comes again for
 * a request that the device did not take, or has not done all of.
 */
static __always_inline int bio_issue(struct request *rq)
{
	struct bio_request *found, r = {};
	__u64 key = (__u64)rq;

	if (!bio_disk_is_wanted(rq))
		return 0;
	found = bpf_map_lookup_elem(&rb_bio_requests, &key);
	if (found && found->flags & BIO_REQUEUED) {
		found->flags &= ~BIO_REQUEUED;
		return 0;
	}
	if (found && !found->issued) {
		found->sector = bio_sector(rq);
		found->bytes = BPF_CORE_READ(rq, __data_len);
		found->issued = bpf_ktime_get_ns();
		return 0;
	}
	if (bio_nobody_knows(rq))
		r.flags = rb_has_filters() ? BIO_UNWANTED : 0;
	else
		bio_is_current(&r);
	r.sector = bio_sector(rq);
	r.bytes = BPF_CORE_READ(rq, __data_len);
	r.issued = bpf_ktime_get_ns();
	bio_remember(rq, &r);
	return 0;
}

/* The device did not take it, or has not done all of it: __blk_mq_requeue_request(). */
static __always_inline int bio_requeue(struct request *rq)
{
	__u64 key = (__u64)rq;
	struct bio_request *found = bpf_map_lookup_elem(&rb_bio_requests, &key);

	if (found && found->issued)
		found->flags |= BIO_REQUEUED;
	return 0;
}

/* It became a part of another one, and is no more: attempt_merge(), block/blk-merge.c. */
static __always_inline int bio_merge(struct request *rq)
{
	__u64 key = (__u64)rq;

	bpf_map_delete_elem(&rb_bio_requests, &key);
	return 0;
}

/*
 * Until 5.11 (a54895fa057c, and 5.10.y too) the queue came first. Nothing in the types
 * tells; but the kernel does not attach a program to a tracepoint with fewer arguments
 * than it looks at. So user space tries those with _q first.
 */
SEC("raw_tp/block_rq_insert")
int rb_bio_insert_q(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_insert((void *)rb_arg(ctx, 1));
}

SEC("raw_tp/block_rq_issue")
int rb_bio_issue_q(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_issue((void *)rb_arg(ctx, 1));
}

SEC("raw_tp/block_rq_requeue")
int rb_bio_requeue_q(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_requeue((void *)rb_arg(ctx, 1));
}

SEC("raw_tp/block_rq_merge")
int rb_bio_merge_q(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_merge((void *)rb_arg(ctx, 1));
}

SEC("raw_tp/block_rq_insert")
int rb_bio_insert(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_insert((void *)rb_arg(ctx, 0));
}

SEC("raw_tp/block_rq_issue")
int rb_bio_issue(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_issue((void *)rb_arg(ctx, 0));
}

SEC("raw_tp/block_rq_requeue")
int rb_bio_requeue(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_requeue((void *)rb_arg(ctx, 0));
}

SEC("raw_tp/block_rq_merge")
int rb_bio_merge(struct bpf_raw_tracepoint_args *ctx)
{
	return bio_merge((void *)rb_arg(ctx, 0));
}

#define BIO_FLAG(cmd_flags, name, flag)                                                            \
	((cmd_flags) >> bpf_core_enum_value(enum req_flag_bits, name) & 1 ? (flag) : 0)

/*
 * blk_update_request() calls this first of all, with a status and how many bytes are
 * done; so what the request has yet to do tells whether it is done.
 */
SEC("raw_tp/block_rq_complete")
int rb_bio(struct bpf_raw_tracepoint_args *ctx)
{
	struct request *rq = (void *)ctx->args[0];
	__s32 status = (__s32)ctx->args[1];
	struct rb_ledger *books = rb_hit();
	struct bio_request *found, r;
	__u64 key = (__u64)rq, now;
	struct bio_event *e;
	struct gendisk *gd;
	__u32 cmd_flags;
	void *ring;

	if (!books)
		return 0;
	found = bpf_map_lookup_elem(&rb_bio_requests, &key);
	if (!found) {
		RB_COUNT(books, filtered);
		return 0;
	}
	if ((__u32)ctx->args[2] < BPF_CORE_READ(rq, __data_len)) {
		if (status)
			found->status = status;
		RB_COUNT(books, filtered);
		return 0;
	}
	r = *found;
	bpf_map_delete_elem(&rb_bio_requests, &key);
	if (!status)
		status = r.status;
	now = bpf_ktime_get_ns();
	/* What asks for nothing but a flush ends without having been to the device itself. */
	if (!r.issued || r.flags & BIO_UNWANTED || (rb_failed && !status) ||
	    now - r.issued < min_ns) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_other(&r.who);
	e = rb_reserve(books, ring, struct bio_event);
	if (!e)
		return 0;
	rb_fill_head_of(&e->head, books, &r.who);
	e->latency = now - r.issued;
	e->queued = r.queued ? r.issued - r.queued : 0;
	e->sector = r.sector;
	e->bytes = r.bytes;
	e->status = status;
	cmd_flags = BPF_CORE_READ(rq, cmd_flags);
	e->op = cmd_flags & REQ_OP_MASK;
	e->flags = BIO_FLAG(cmd_flags, __REQ_SYNC, BIO_SYNC) |
		   BIO_FLAG(cmd_flags, __REQ_META, BIO_META) |
		   BIO_FLAG(cmd_flags, __REQ_PRIO, BIO_PRIO) |
		   BIO_FLAG(cmd_flags, __REQ_FUA, BIO_FUA) |
		   BIO_FLAG(cmd_flags, __REQ_PREFLUSH, BIO_PREFLUSH) |
		   BIO_FLAG(cmd_flags, __REQ_RAHEAD, BIO_AHEAD);
	gd = bio_disk(rq);
	__builtin_memset(e->disk, 0, sizeof(e->disk));
	e->major = 0;
	e->minor = 0;
	if (gd) {
		e->major = BPF_CORE_READ(gd, major);
		e->minor = BPF_CORE_READ(gd, first_minor);
		BPF_CORE_READ_STR_INTO(&e->disk, gd, disk_name);
	}
	rb_submit(books, ring, e);
	return 0;
}

/* For the Go side: a type that nothing here names. */
const struct bio_event *const bio_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
