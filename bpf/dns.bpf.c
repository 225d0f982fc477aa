//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Host names that programs look up by the C library.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/bounded.h"
#include "rbtrace/user.h"

#define DNS_HOST_MAX 1025 /* NI_MAXHOST, with a NUL */

enum dns_function {
	DNS_GETADDRINFO,
	DNS_GETHOSTBYNAME,
	DNS_GETHOSTBYNAME2,
};

/* In head.flags. */
enum dns_flags {
	DNS_CUT = 1,
};

/* Followed by the name. */
struct dns_event {
	struct rb_head head;
	__u64 latency;
	__s32 ret; /* of gethostbyname: -1 for NULL */
	__u32 len;
	__u32 function;
	__u32 unused;
};

struct dns_record {
	struct dns_event event;
	__u8 host[DNS_HOST_MAX + 7];
};

/* Attached to the others as well: all have the name first. */
SEC("uprobe/getaddrinfo")
int rb_dns_enter(struct pt_regs *ctx)
{
	if (!PT_REGS_PARM1(ctx)) /* the caller's own address is asked for */
		return 0;
	return rb_user_enter(ctx, PT_REGS_PARM1(ctx), 0, 0);
}

/* The name is still the caller's; by now it has been read, and so is resident. */
static __always_inline int dns_return(struct pt_regs *ctx, __u32 function, __s32 ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct rb_user_call call;
	struct dns_record *r;
	__u64 len = 0;
	void *ring;
	long n;

	if (!books)
		return 0;
	if (!rb_user_return(ctx, &call) || (rb_failed && !ret)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	r = rb_reserve(books, ring, struct dns_record); /* see user.h */
	if (!r)
		return 0;
	rb_fill_head(&r->event.head, books, task);
	r->event.latency = bpf_ktime_get_ns() - call.start;
	r->event.ret = ret;
	r->event.function = function;
	r->event.unused = 0;
	/* With its NUL; until 6.18 an empty one has none. One byte more tells the longest from those that are longer. */
	n = bpf_probe_read_user_str(r->host, DNS_HOST_MAX + 1, (void *)call.arg[0]);
	if (n > DNS_HOST_MAX)
		len = DNS_HOST_MAX - 1;
	else if (n > 1)
		len = n - 1;
	if (n < 0 || n > DNS_HOST_MAX)
		r->event.head.flags = DNS_CUT;
	r->event.len = len;
	rb_output_bounded(books, ring, r, sizeof(r->event), len, DNS_HOST_MAX);
	rb_release(r);
	return 0;
}

SEC("uretprobe/getaddrinfo")
int rb_dns_getaddrinfo(struct pt_regs *ctx)
{
	return dns_return(ctx, DNS_GETADDRINFO, (__s32)PT_REGS_RC(ctx));
}

SEC("uretprobe/gethostbyname")
int rb_dns_gethostbyname(struct pt_regs *ctx)
{
	return dns_return(ctx, DNS_GETHOSTBYNAME, PT_REGS_RC(ctx) ? 0 : -1);
}

SEC("uretprobe/gethostbyname2")
int rb_dns_gethostbyname2(struct pt_regs *ctx)
{
	return dns_return(ctx, DNS_GETHOSTBYNAME2, PT_REGS_RC(ctx) ? 0 : -1);
}

/* For the Go side: a type that nothing here names. */
const struct dns_event *const dns_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
