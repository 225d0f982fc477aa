/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a ring buffer, as programs on libbpf do. It says the id of the map on standard
 * output. For each line on standard input it does what that says, and answers with how many
 * bytes of the ring it has produced and consumed by its own account:
 *
 *   produce N   makes N records of 24 bytes
 *   consume     takes all there are
 */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
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

int main(void)
{
	int ring = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "c_events", 0, 0, 64 * 1024, NULL);

	if (ring < 0)
		die("creating the ring");
	/* Reserves a record, and submits it: returns whether there was room. */
	struct bpf_insn insns[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = ring },
		{ 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = SAMPLE },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_reserve },
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .imm = 0, .off = 4 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_submit },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int prog = bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, "c_produce", "Dual BSD/GPL", insns,
				 sizeof(insns) / sizeof(insns[0]), NULL);

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
