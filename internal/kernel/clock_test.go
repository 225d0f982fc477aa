// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"
	"time"
)

// TestReadWall: the boot clock and the offset give the wall clock.
func TestReadWall(t *testing.T) {
	for range 1000 {
		w := ReadWall()
		before := time.Now().UnixNano()
		wall := int64(BootTime()) + w.Offset()
		after := time.Now().UnixNano()
		if within := w.within(); within < 0 || wall < before-within || wall > after+within {
			t.Fatalf("%d is not between %d and %d, within %d ns", wall, before, after, within)
		}
	}
}

func TestFollow(t *testing.T) {
	w := Wall{1000, 1200}
	for _, test := range []struct {
		later Wall
		want  Wall
	}{
		{Wall{1100, 1110}, w},
		{Wall{1200, 1300}, w},
		{Wall{900, 1000}, w},
		{Wall{-1 << 40, 1 << 40}, w}, // was preempted in between
		{Wall{1201, 1300}, Wall{1201, 1300}},
		{Wall{-500, 999}, Wall{-500, 999}},
	} {
		if got := w.Follow(test.later); got != test.want {
			t.Errorf("%v after %v is %v", test.later, w, got)
		}
	}
}

func TestBootOffset(t *testing.T) {
	for text, want := range map[string]int64{
		"monotonic           0         0\nboottime      8640000         7\n": 8640000000000007,
		"monotonic          12         5\nboottime           -3 250000000\n": -2750000000,
		"": 0,
	} {
		if got := bootOffset(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
