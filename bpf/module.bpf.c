//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernel modules. Two sets of programs, of which user space takes one:
 *
 *  - rb_module_load, rb_module_free: each module that comes or goes;
 *  - rb_module_exit: the calls of init_module, finit_module and delete_module that fail.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define RB_RARE 1
#include "rbtrace/ring.h"
#include "rbtrace/filter.h"
#include "rbtrace/path.h"
#include "rbtrace/file.h"
#include "rbtrace/syscall.h"
#include "rbtrace/fd.h"

#define MODULE_NAME_MAX	  64   /* MODULE_NAME_LEN is 56 */
#define MODULE_PARAMS_MAX 1023 /* without its NUL */

enum module_call {
	MODULE_NONE,
	MODULE_INIT,
	MODULE_FINIT,
	MODULE_DELETE,
};

/* In head.flags: enum rb_path_flags of the file, and these. */
enum module_flags {
	MODULE_UNLOAD = 1 << 2,
	MODULE_FILE = 1 << 3,	    /* there is one */
	MODULE_PARAMS_CUT = 1 << 4, /* or not readable */
};

/* Followed by params, and by the names of the file's path from leaf to root. */
struct module_event {
	struct rb_head head;
	__u64 taints;
	__s32 ret;
	__u32 flags; /* of the call */
	__u16 call;  /* enum module_call */
	__u16 params_len;
	__u16 file_len;
	__u16 unused;
	__u8 name[MODULE_NAME_MAX];
};

/*
 * One slot for each CPU; user space sets the number. It has one user at a time: see
 * struct exec_scratch.
 */
struct module_scratch {
	struct rb_path path;
	struct module_event event;
	__u8 data[MODULE_PARAMS_MAX + RB_PATH_ROOM];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct module_scratch);
} rb_scratch SEC(".maps");

static __always_inline int module_event(struct module *module, __u32 flags)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rb_ledger *books = rb_hit();
	struct module_event *e;
	void *ring;

	if (!books)
		return 0;
	if (!rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	ring = rb_ring_of_event();
	e = rb_reserve(books, ring, struct module_event);
	if (!e)
		return 0;
	rb_fill_head(&e->head, books, task);
	e->head.flags = flags;
	e->taints = BPF_CORE_READ(module, taints);
	e->ret = 0;
	e->flags = 0;
	e->call = MODULE_NONE;
	e->params_len = 0;
	e->file_len = 0;
	e->unused = 0;
	__builtin_memset(e->name, 0, sizeof(e->name));
	BPF_CORE_READ_STR_INTO(&e->name, module, name);
	rb_submit(books, ring, e);
	return 0;
}

/* load_module() calls this when the module is in place, before its own init runs. */
SEC("raw_tp/module_load")
int rb_module_load(struct bpf_raw_tracepoint_args *ctx)
{
	return module_event((void *)rb_arg(ctx, 0), 0);
}

/* free_module() begins with this: of delete_module, and of a load whose init failed. */
SEC("raw_tp/module_free")
int rb_module_free(struct bpf_raw_tracepoint_args *ctx)
{
	return module_event((void *)rb_arg(ctx, 0), MODULE_UNLOAD);
}

#if defined(__TARGET_ARCH_x86)
#define NR_INIT_MODULE	 175
#define NR_DELETE_MODULE 176
#elif defined(__TARGET_ARCH_arm64)
#define NR_INIT_MODULE	 105
#define NR_DELETE_MODULE 106
#endif

/* Attached to the exits of init_module and delete_module as well. */
SEC("tracepoint/syscalls/sys_exit_finit_module")
int rb_module_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 cpu = bpf_get_smp_processor_id(), len = 0, params_len = 0, file_len;
	struct rb_ledger *books = rb_call_hit(ctx);
	struct rb_syscall_args args;
	struct module_scratch *s;
	struct module_event *e;
	struct file *file = NULL;
	long ret = rb_syscall_ret(ctx), n;
	__u64 params = 0;

	if (!books)
		return 0;
	s = bpf_map_lookup_elem(&rb_scratch, &cpu);
	if (!s || ret >= 0 || !rb_task_is_wanted(task)) {
		RB_COUNT(books, filtered);
		return 0;
	}
	e = &s->event;
	rb_fill_head(&e->head, books, task);
	e->taints = 0;
	e->ret = ret;
	e->flags = 0;
	e->params_len = 0;
	e->file_len = 0;
	e->unused = 0;
	__builtin_memset(e->name, 0, sizeof(e->name));
	args = rb_syscall_args(ctx);
	switch (rb_nr_at_exit(ctx)) {
	case NR_INIT_MODULE:
		e->call = MODULE_INIT;
		params = args.arg[2];
		break;
	case NR_DELETE_MODULE:
		e->call = MODULE_DELETE;
		e->head.flags |= MODULE_UNLOAD;
		e->flags = args.arg[1];
		bpf_probe_read_user_str(e->name, sizeof(e->name), (void *)args.arg[0]);
		break;
	default:
		e->call = MODULE_FINIT;
		params = args.arg[1];
		e->flags = args.arg[2];
		file = rb_file_of_fd(task, (__s32)args.arg[0]);
	}
	if (e->call != MODULE_DELETE) {
		/* With its NUL; until 6.18 an empty one has none. */
		n = bpf_probe_read_user_str(s->data, MODULE_PARAMS_MAX + 2, (void *)params);
		if (n < 0 || n > MODULE_PARAMS_MAX + 1) {
			e->head.flags |= MODULE_PARAMS_CUT;
			n--;
		}
		if (n > 1)
			params_len = rb_bounded(n - 1, MODULE_PARAMS_MAX);
		e->params_len = params_len;
		len = params_len;
	}
	if (file) {
		s->path.vfsmnt = (__u64)BPF_CORE_READ(file, f_path.mnt);
		s->path.dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
		rb_path_names(s->data + params_len, &s->path);
		file_len = s->path.len;
		e->file_len = file_len;
		e->head.flags |= MODULE_FILE | s->path.flags;
		len = params_len + file_len;
	}
	rb_output(books, rb_ring_of_event(), e,
		  sizeof(*e) + rb_bounded(len, MODULE_PARAMS_MAX + RB_PATH_MAX));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
