/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a task's descriptors refer to. */
#ifndef __RBTRACE_FD_H__
#define __RBTRACE_FD_H__

/* The file of a descriptor, NULL where it is not open. */
static __always_inline struct file *rb_file_of_fd(struct task_struct *task, __s32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;

	if ((__u32)fd < BPF_CORE_READ(fdt, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + fd);
	return file;
}

#endif /* __RBTRACE_FD_H__ */
