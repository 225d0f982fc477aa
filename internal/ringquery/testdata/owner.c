/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a ring buffer, as programs on libbpf do. It says the id of the map on standard
 * output. For each line on standard input it does what that says, and answers with how many
 * bytes of the ring it has produced and consumed by its own account:
 *
 *   produce N   makes N records of 24 bytes, each a struct c_event {u64 n; char text[16];}
 *   consume     takes all there are
 */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#define SAMPLE 24

static unsigned long long produced, consumed;

static int taken(void *ctx, void *data, size_t size)
{
	(void)ctx;
	(void)data;
	consumed += (size + 8 + 7) / 8 * 8; /* with its header, rounded up */
	return 0;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/*
 * The types that a compiler makes of
 *
 *	struct {
 *		__uint(type, BPF_MAP_TYPE_RINGBUF);
 *		__type(value, struct c_event);
 *	} c_events SEC(".maps");
 *
 * and of the program. Returns a descriptor, and the program's type.
 */
static int load_btf(int *func)
{
	struct btf *btf = btf__new_empty();
	int chr = btf__add_int(btf, "char", 1, BTF_INT_SIGNED);
	int u32 = btf__add_int(btf, "unsigned int", 4, 0);
	int u64 = btf__add_int(btf, "unsigned long long", 8, 0);
	int text = btf__add_array(btf, u32, chr, 16);
	int event = btf__add_struct(btf, "c_event", SAMPLE);

	btf__add_field(btf, "n", u64, 0, 0);
	btf__add_field(btf, "text", text, 64, 0);

	int type = btf__add_ptr(btf, btf__add_array(btf, u32, u32, BPF_MAP_TYPE_RINGBUF));
	int value = btf__add_ptr(btf, event);
	int def = btf__add_struct(btf, NULL, 16);

	btf__add_field(btf, "type", type, 0, 0);
	btf__add_field(btf, "value", value, 64, 0);

	int var = btf__add_var(btf, "c_events", BTF_VAR_GLOBAL_ALLOCATED, def);

	btf__add_datasec(btf, ".maps", 16);
	btf__add_datasec_var_info(btf, var, 0, 16);

	int proto = btf__add_func_proto(btf, u32);

	*func = btf__add_func(btf, "c_produce", BTF_FUNC_STATIC, proto);
	if (*func < 0 || btf__load_into_kernel(btf))
		die("loading the types");
	return btf__fd(btf);
}

int main(void)
{
	int ring = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "c_events", 0, 0, 64 * 1024, NULL);

	if (ring < 0)
		die("creating the ring");
	/* Reserves a record, fills and submits it: returns whether there was room. */
	struct bpf_insn insns[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = ring },
		{ 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = SAMPLE },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_reserve },
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .imm = 0, .off = 7 },
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 0, .off = 0, .imm = 42 },
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 0, .off = 8, .imm = 0x6c6c6568 }, /* hell */
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 0, .off = 16, .imm = 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_submit },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_func_info func = { 0 };
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .func_info = &func, .func_info_cnt = 1,
		    .func_info_rec_size = sizeof(func));

	opts.prog_btf_fd = load_btf((int *)&func.type_id);

	int prog = bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, "c_produce", "Dual BSD/GPL", insns,
				 sizeof(insns) / sizeof(insns[0]), &opts);

	if (prog < 0)
		die("loading the program");
	struct ring_buffer *reader = ring_buffer__new(ring, taken, NULL, NULL);

	if (!reader)
		die("reading the ring");
	struct bpf_map_info info = { 0 };
	__u32 len = sizeof(info);

	if (bpf_obj_get_info_by_fd(ring, &info, &len))
		die("asking for the id");
	printf("%u\n", info.id);
	fflush(stdout);

	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		unsigned long n;

		if (sscanf(line, "produce %lu", &n) == 1) {
			for (; n; n--) {
				LIBBPF_OPTS(bpf_test_run_opts, opts);

				if (bpf_prog_test_run_opts(prog, &opts))
					die("running the program");
				if (opts.retval)
					produced += SAMPLE + 8;
			}
		} else if (!strcmp(line, "consume\n")) {
			if (ring_buffer__consume(reader) < 0)
				die("consuming");
		}
		printf("%llu %llu\n", produced, consumed);
		fflush(stdout);
	}
	return 0;
}
