// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"runtime"
	"testing"
)

func TestParseCPUs(t *testing.T) {
	for _, test := range []struct {
		list string
		want string // as fmt.Sprint shows it
	}{
		{"0", "[0]"},
		{"0-3", "[0 1 2 3]"},
		{"0,2-3,9", "[0 2 3 9]"},
		{"", "error"},
		{"x", "error"},
		{"0-", "error"},
		{"-1", "error"},
		{"0,,1", "error"},
	} {
		cpus, err := parseCPUs(test.list)
		got := fmt.Sprint(cpus)
		if err != nil {
			got = "error"
		}
		if got != test.want {
			t.Errorf("%q: %s, want %s", test.list, got, test.want)
		}
	}
	if cpus, err := OnlineCPUs(); err != nil || len(cpus) < runtime.NumCPU() {
		t.Errorf("online are %v, of which this process may use %d: %v", cpus, runtime.NumCPU(), err)
	}
}

func TestMemAvailable(t *testing.T) {
	if n, err := MemAvailable(); err != nil || n < 1<<20 || n > 1<<50 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
