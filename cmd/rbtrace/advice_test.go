// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/rbtrace/rbtrace/internal/consumer"
)

func TestAdvice(t *testing.T) {
	full := consumer.Losses{NoRoom: 10_000, NoEntry: 100, Missed: 9_999}
	for _, test := range []struct {
		advice advice
		want   string
	}{
		{advice{forced: true, refused: true}, ""},
		{
			advice{losses: full, rings: 1, ringSize: 8 << 20, recordSize: 128, available: 1 << 30},
			"most were lost without room in the ring: --buffer-size 16M",
		},
		{
			advice{losses: full, rings: 1, ringSize: 1 << 20, recordSize: 128, available: 1 << 30, refused: true},
			"most were lost without room in the ring: give rbtrace CAP_SYS_NICE, so that its reader gets a CPU when all are busy, or --buffer-size 4M",
		},
		{
			advice{losses: full, rings: 1, ringSize: 1 << 20, recordSize: 128, available: 1 << 30, normal: true},
			"most were lost without room in the ring: leave out --reader-priority normal, or --buffer-size 4M",
		},
		{ // the memory that there is does not allow it
			advice{losses: full, rings: 64, ringSize: 1 << 20, recordSize: 128, available: 511 << 20},
			"most were lost without room in the ring: ask for less, by a filter",
		},
		{ // nor does the kernel
			advice{losses: consumer.Losses{NoRoom: 1 << 30}, rings: 1, ringSize: 1 << 20, recordSize: 128, available: 1 << 50},
			"most were lost without room in the ring: ask for less, by a filter",
		},
		{advice{losses: consumer.Losses{NoRoom: 1, Missed: 2}}, ""},
		{
			advice{losses: consumer.Losses{NoRoom: 1, Missed: 2}, forced: true},
			"most were missed by the kernel: leave out --hook, as another kind misses fewer",
		},
		{
			advice{losses: consumer.Losses{NoEntry: 3, Missed: 2}},
			"most were lost as too much was under way at once: ask for less, by a filter",
		},
	} {
		if got := test.advice.String(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.advice, got, test.want)
		}
	}
}
