//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What goes through TLS, before it is encrypted and after it was decrypted: the
 * reading and writing functions of OpenSSL and GnuTLS. And their handshakes.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/bounded.h"
#include "rbtrace/user.h"

/* So many bytes of the data, at most TLS_DATA_MAX. */
const volatile __u32 max_data = 0;

/* Rooms for the data: the last one is what a TLS record holds at the most. */
#define TLS_DATA_SMALL	512
#define TLS_DATA_MIDDLE 4096
#define TLS_DATA_MAX	16384

enum tls_function {
	TLS_SSL_READ,
	TLS_SSL_WRITE,
	TLS_SSL_READ_EX,
	TLS_SSL_WRITE_EX,
	TLS_GNUTLS_RECV,
	TLS_GNUTLS_SEND,
	TLS_GNUTLS_RECV_SEQ,
	TLS_SSL_HANDSHAKE,
	TLS_GNUTLS_HANDSHAKE,
};

/* Followed by data_len bytes of data. */
struct tls_event {
	struct rb_head head;
	__u64 latency;
	__u64 session; /* the address of what stands for the connection in its process */
	__u64 len;
	__s32 ret;
	__u32 data_len;
	__u32 function;
	__u32 unused;
};

/*
 * The entries of all of them: session, buffer, its size, and for those with _ex where the length
 * goes. Handshakes have the session alone, and no data.
 */
SEC("uprobe/SSL_read")
int rb_tls_ssl_enter(struct pt_regs *ctx)
{
	return rb_user_enter(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM4(ctx));
}

SEC("uprobe/gnutls_record_recv")
int rb_tls_gnutls_enter(struct pt_regs *ctx)
{
	return rb_user_enter(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), 0);
}

/*
 * gnutls_record_send() is a call of this one, or a jump to it, which is one call of two functions
 * and returns twice. It is shown once: by its outer call, or by the first return.
 */
SEC("uprobe/gnutls_record_send2")
int rb_tls_gnutls_send2_enter(struct pt_regs *ctx)
{
	__u64 session = PT_REGS_PARM1(ctx), data = PT_REGS_PARM2(ctx), sp = rb_user_sp_behind(ctx);
	struct rb_user_call *outer;
	__u64 key = rb_user_key();

	barrier_var(sp); /* or it is looked for in ctx by a pointer that verifiers refuse */
	outer = bpf_map_lookup_elem(&rb_user_calls, &key);
	if (outer && outer->sp > sp && outer->arg[0] == session && outer->arg[1] == data)
		return 0;
	return rb_user_enter(ctx, session, data, 0);
}

/*
 * The data is in memory that the function has just written to or read from, so it
 * is resident, and still the caller's. The record is made in memory of the ring, see user.h.
 */
#define tls_output(books, ring, task, call, from, size)                                            \
	({                                                                                         \
		struct {                                                                           \
			struct tls_event event;                                                    \
			__u8 data[size];                                                           \
		} *r = bpf_ringbuf_reserve(ring, sizeof(*r), 0);                                   \
		__u64 n = rb_bounded((from)->data_len, size);                                      \
		if (r) {                                                                           \
			r->event = *(from);                                                        \
			rb_fill_head(&r->event.head, books, task);                                 \
			if (bpf_probe_read_user(r->data, n, (void *)(call)->arg[1]))               \
				n = 0;                                                             \
			r->event.data_len = n;                                                     \
			rb_output_bounded(books, ring, r, sizeof(r->event), n, size);              \
			rb_release(r);                                                             \
		} else {                                                                           \
			RB_COUNT(books, lost);                                                     \
		}                                                                                  \
	})

static __always_inline int tls_return(struct pt_regs *ctx, __u32 function)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct tls_event e = {.function = function};
	struct rb_user_call call;
	bool failed;
	void *ring;

	if (!books)
		return 0;
	if (!rb_user_return(ctx, &call)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e.ret = (__s32)PT_REGS_RC(ctx);
	if (function == TLS_SSL_READ_EX || function == TLS_SSL_WRITE_EX) {
		failed = e.ret != 1;
		if (!failed)
			bpf_probe_read_user(&e.len, sizeof(e.len), (void *)call.arg[2]);
	} else if (function == TLS_SSL_HANDSHAKE) {
		failed = e.ret != 1;
	} else if (function == TLS_GNUTLS_HANDSHAKE) {
		failed = e.ret != 0; /* GNUTLS_E_SUCCESS */
	} else {
		failed = e.ret <= 0;
		if (!failed)
			e.len = e.ret;
	}
	if (failed != rb_failed) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e.latency = bpf_ktime_get_ns() - call.start;
	e.session = call.arg[0];
	e.data_len = e.len < max_data ? e.len : max_data;
	ring = rb_ring_of_event();
	if (e.data_len <= TLS_DATA_SMALL)
		tls_output(books, ring, task, &call, &e, TLS_DATA_SMALL);
	else if (e.data_len <= TLS_DATA_MIDDLE)
		tls_output(books, ring, task, &call, &e, TLS_DATA_MIDDLE);
	else
		tls_output(books, ring, task, &call, &e, TLS_DATA_MAX);
	return 0;
}

SEC("uretprobe/SSL_read")
int rb_tls_ssl_read(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_SSL_READ);
}

SEC("uretprobe/SSL_write")
int rb_tls_ssl_write(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_SSL_WRITE);
}

SEC("uretprobe/SSL_read_ex")
int rb_tls_ssl_read_ex(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_SSL_READ_EX);
}

SEC("uretprobe/SSL_write_ex")
int rb_tls_ssl_write_ex(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_SSL_WRITE_EX);
}

SEC("uretprobe/gnutls_record_recv")
int rb_tls_gnutls_recv(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_GNUTLS_RECV);
}

SEC("uretprobe/gnutls_record_send")
int rb_tls_gnutls_send(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_GNUTLS_SEND);
}

SEC("uretprobe/gnutls_record_send2")
int rb_tls_gnutls_send2(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_GNUTLS_SEND);
}

SEC("uretprobe/gnutls_record_recv_seq")
int rb_tls_gnutls_recv_seq(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_GNUTLS_RECV_SEQ);
}

SEC("uretprobe/SSL_do_handshake")
int rb_tls_ssl_handshake(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_SSL_HANDSHAKE);
}

SEC("uretprobe/gnutls_handshake")
int rb_tls_gnutls_handshake(struct pt_regs *ctx)
{
	return tls_return(ctx, TLS_GNUTLS_HANDSHAKE);
}

/* For the Go side: a type that nothing here names. */
const struct tls_event *const tls_export __attribute__((unused)) = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
