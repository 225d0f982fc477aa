//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What processes do with BPF and with perf events: the exits of bpf and
 * perf_event_open. What these were given is still in the caller's memory.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/syscall.h"
#include "rbtrace/fd.h"

/* Only this command, and one more, as 0 is one (BPF_MAP_CREATE). */
const volatile __u32 cmd = 0; /* 0: any */

#define BPF_PERF_EVENT_OPEN 0xffff /* in the place of a command */

#define BPF_NAME_MAX 4096 /* a path's; with a NUL */
#define BPF_OBJ_NAME 16	  /* BPF_OBJ_NAME_LEN */

/* enum bpf_cmd, include/uapi/linux/bpf.h. Since 7.2 a flag may be in it. */
#define BPF_COMMON_ATTRS 0x10000

enum {
	MAP_CREATE,
	MAP_LOOKUP_ELEM,
	MAP_UPDATE_ELEM,
	MAP_DELETE_ELEM,
	MAP_GET_NEXT_KEY,
	PROG_LOAD,
	OBJ_PIN,
	OBJ_GET,
	PROG_ATTACH,
	PROG_DETACH,
	PROG_TEST_RUN,
	PROG_GET_NEXT_ID,
	MAP_GET_NEXT_ID,
	PROG_GET_FD_BY_ID,
	MAP_GET_FD_BY_ID,
	OBJ_GET_INFO_BY_FD,
	PROG_QUERY,
	RAW_TRACEPOINT_OPEN,
	BTF_LOAD,
	BTF_GET_FD_BY_ID,
	TASK_FD_QUERY,
	MAP_LOOKUP_AND_DELETE_ELEM,
	MAP_FREEZE,
	BTF_GET_NEXT_ID,
	MAP_LOOKUP_BATCH,
	MAP_LOOKUP_AND_DELETE_BATCH,
	MAP_UPDATE_BATCH,
	MAP_DELETE_BATCH,
	LINK_CREATE,
	LINK_UPDATE,
	LINK_GET_FD_BY_ID,
	LINK_GET_NEXT_ID,
	ENABLE_STATS,
	ITER_CREATE,
	LINK_DETACH,
	PROG_BIND_MAP,
	TOKEN_CREATE,
	PROG_STREAM_READ_BY_FD,
	PROG_ASSOC_STRUCT_OPS,
};

/* What a call is about. */
enum bpf_objects {
	OBJECT_NONE,
	OBJECT_MAP,
	OBJECT_PROG,
	OBJECT_LINK,
	OBJECT_BTF,
};

/* Followed by a name. */
struct bpf_event {
	struct rb_head head;
	__u64 config; /* of a perf event */
	__u32 cmd;
	__u32 type; /* of what, the command tells */
	__u32 id;
	__s32 fd; /* -1: none */
	__s32 ret;
	__s32 target_pid; /* of a perf event */
	__s32 target_cpu;
	__u16 name_len;
	__u16 unused;
};

/*
 * One slot for each CPU; user space sets the number. It has one user at a time: see
 * struct exec_scratch.
 */
struct bpf_scratch {
	struct bpf_event event;
	__u8 name[BPF_NAME_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bpf_scratch);
} rb_scratch SEC(".maps");

/* The beginning of union bpf_attr, and of struct perf_event_attr: kernel ABI. */
union bpf_words {
	__u32 u32[16];
	__u64 u64[8];
};

#if defined(__TARGET_ARCH_x86)
#define NR_BPF 321
#elif defined(__TARGET_ARCH_arm64)
#define NR_BPF 280
#endif

/* What a command is about, and how the caller names it: a descriptor, in fd. */
static __always_inline __u32 bpf_object(__u32 command, const union bpf_words *attr, __s32 ret,
					__s32 *fd)
{
	*fd = -1;
	switch (command) {
	case MAP_LOOKUP_ELEM:
	case MAP_UPDATE_ELEM:
	case MAP_DELETE_ELEM:
	case MAP_GET_NEXT_KEY:
	case MAP_LOOKUP_AND_DELETE_ELEM:
	case MAP_FREEZE:
		*fd = attr->u32[0];
		return OBJECT_MAP;
	case MAP_LOOKUP_BATCH:
	case MAP_LOOKUP_AND_DELETE_BATCH:
	case MAP_UPDATE_BATCH:
	case MAP_DELETE_BATCH:
		*fd = attr->u32[9];
		return OBJECT_MAP;
	case PROG_TEST_RUN:
	case PROG_BIND_MAP:
		*fd = attr->u32[0];
		return OBJECT_PROG;
	case PROG_ATTACH:
	case PROG_ASSOC_STRUCT_OPS:
		*fd = attr->u32[1];
		return OBJECT_PROG;
	case PROG_STREAM_READ_BY_FD:
		*fd = attr->u32[4];
		return OBJECT_PROG;
	case PROG_DETACH: /* need not be given, and then is 0 and perhaps anything */
		*fd = attr->u32[1];
		return OBJECT_NONE;
	case LINK_UPDATE:
	case LINK_DETACH:
		*fd = attr->u32[0];
		return OBJECT_LINK;
	case OBJ_GET_INFO_BY_FD:
		*fd = attr->u32[0];
		return OBJECT_NONE;
	case OBJ_PIN:
		*fd = attr->u32[2];
		return OBJECT_NONE;
	}
	/* Those that make one return it. */
	switch (command) {
	case MAP_CREATE:
	case MAP_GET_FD_BY_ID:
		*fd = ret;
		return OBJECT_MAP;
	case PROG_LOAD:
	case PROG_GET_FD_BY_ID:
		*fd = ret;
		return OBJECT_PROG;
	case LINK_CREATE:
	case LINK_GET_FD_BY_ID:
	case RAW_TRACEPOINT_OPEN:
		*fd = ret;
		return OBJECT_LINK;
	case BTF_LOAD:
	case BTF_GET_FD_BY_ID:
		*fd = ret;
		return OBJECT_BTF;
	case OBJ_GET:
	case ENABLE_STATS:
	case ITER_CREATE:
	case TOKEN_CREATE:
	case BPF_PERF_EVENT_OPEN:
		*fd = ret;
	}
	return OBJECT_NONE;
}

/* What the kernel knows of it by the descriptor, of a call that did not fail. */
static __always_inline void bpf_look(struct bpf_scratch *s, struct task_struct *task, __u32 object)
{
	struct file *file = rb_file_of_fd(task, s->event.fd);
	void *of = file ? BPF_CORE_READ(file, private_data) : NULL;
	long n = 0;

	if (!of)
		return;
	switch (object) {
	case OBJECT_MAP:
		s->event.id = BPF_CORE_READ((struct bpf_map *)of, id);
		n = bpf_probe_read_kernel_str(s->name, BPF_OBJ_NAME, &((struct bpf_map *)of)->name);
		break;
	case OBJECT_PROG:
		of = BPF_CORE_READ((struct bpf_prog *)of, aux);
		s->event.id = BPF_CORE_READ((struct bpf_prog_aux *)of, id);
		n = bpf_probe_read_kernel_str(s->name, BPF_OBJ_NAME,
					      &((struct bpf_prog_aux *)of)->name);
		break;
	case OBJECT_LINK:
		s->event.id = BPF_CORE_READ((struct bpf_link *)of, id);
		break;
	case OBJECT_BTF:
		s->event.id = BPF_CORE_READ((struct btf *)of, id);
	}
	if (n > 1)
		s->event.name_len = n - 1;
}

/* What of a command's attributes is shown. */
static __always_inline void bpf_attributes(struct bpf_scratch *s, struct task_struct *task,
					   const union bpf_words *attr)
{
	struct bpf_event *e = &s->event;
	const void *text = NULL;
	__u32 object;
	long n = 0;

	object = bpf_object(e->cmd, attr, e->ret, &e->fd);
	switch (e->cmd) {
	case MAP_CREATE:
		e->type = attr->u32[0];
		n = bpf_probe_read_kernel_str(s->name, BPF_OBJ_NAME, &attr->u32[7]);
		break;
	case PROG_LOAD:
		e->type = attr->u32[0];
		n = bpf_probe_read_kernel_str(s->name, BPF_OBJ_NAME, &attr->u32[12]);
		break;
	case PROG_ATTACH:
	case PROG_DETACH:
	case LINK_CREATE:
		e->type = attr->u32[2];
		break;
	case PROG_QUERY:
		e->type = attr->u32[1];
		break;
	case PROG_GET_FD_BY_ID:
	case MAP_GET_FD_BY_ID:
	case BTF_GET_FD_BY_ID:
	case LINK_GET_FD_BY_ID:
		e->id = attr->u32[0];
		break;
	case PROG_GET_NEXT_ID:
	case MAP_GET_NEXT_ID:
	case BTF_GET_NEXT_ID:
	case LINK_GET_NEXT_ID: /* which the kernel has written there */
		e->id = e->ret < 0 ? 0 : attr->u32[1];
		break;
	case OBJ_PIN:
	case OBJ_GET:
	case RAW_TRACEPOINT_OPEN:
		text = (void *)attr->u64[0];
		break;
	case BPF_PERF_EVENT_OPEN:
		e->type = attr->u32[0];
		e->config = attr->u64[1];
	}
	if (text)
		n = bpf_probe_read_user_str(s->name, BPF_NAME_MAX, text);
	if (n > 1)
		e->name_len = n - 1;
	if (object != OBJECT_NONE && e->ret >= 0)
		bpf_look(s, task, object);
}

/* Attached to the exit of perf_event_open as well. */
SEC("tracepoint/syscalls/sys_exit_bpf")
int rb_bpf(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id(), command, size, len;
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	union bpf_words attr = {};
	struct bpf_scratch *s;
	const void *from;
	struct bpf_event *e;
	long ret = rb_syscall_ret(ctx);
	bool is_bpf;

	if (!books)
		return 0;
	args = rb_syscall_args(ctx);
	is_bpf = rb_nr_at_exit(ctx) == NR_BPF;
	command = is_bpf ? (__u32)args.arg[0] & ~BPF_COMMON_ATTRS : BPF_PERF_EVENT_OPEN;
	s = bpf_map_lookup_elem(&rb_scratch, &cpu);
	if (!s || (rb_failed && ret >= 0) || (cmd && command != cmd - 1) ||
	    !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e = &s->event;
	rb_fill_head(&e->head, books, task);
	e->config = 0;
	e->cmd = command;
	e->type = 0;
	e->id = 0;
	e->ret = ret;
	e->target_pid = is_bpf ? 0 : (__s32)args.arg[1];
	e->target_cpu = is_bpf ? 0 : (__s32)args.arg[2];
	e->name_len = 0;
	e->unused = 0;
	from = (void *)args.arg[is_bpf ? 1 : 0];
	size = is_bpf ? (__u32)args.arg[2] : sizeof(attr);
	if (size < sizeof(attr))
		bpf_probe_read_user(&attr, size & (sizeof(attr) - 1), from);
	else
		bpf_probe_read_user(&attr, sizeof(attr), from);
	bpf_attributes(s, task, &attr);
	len = e->name_len;
	rb_output(books, rb_ring_of_event(), e, sizeof(*e) + (len < BPF_NAME_MAX ? len : 0));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
