/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Drains the ring of descriptor 3 by libbpf, once for each byte on standard input,
 * and answers with a line: nanoseconds, records, and the sum of their numbers.
 *
 *	cc -O2 -o drain drain.c -lbpf
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <bpf/libbpf.h>

static int add(void *sum, void *sample, size_t size)
{
	(void)size;
	*(uint64_t *)sum += *(uint64_t *)sample;
	return 0;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int main(void)
{
	uint64_t sum;
	struct ring_buffer *ring = ring_buffer__new(3, add, &sum, NULL);

	if (!ring) {
		perror("ring_buffer__new");
		return 1;
	}
	while (getchar() != EOF) {
		uint64_t begin, end;
		int n;

		sum = 0;
		begin = now();
		n = ring_buffer__consume(ring);
		end = now();
		printf("%llu %d %llu\n", (unsigned long long)(end - begin), n, (unsigned long long)sum);
		fflush(stdout);
	}
	return 0;
}
