// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
)

// nice checks the nice value of the calling thread.
func nice(t *testing.T, want int32) {
	t.Helper()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Nice != want {
		t.Errorf("nice %+v, %v, want %d", attr, err, want)
	}
}

// TestPrefer: the thread has a higher priority until it is given back; what it starts has the usual one, and one
// that somebody chose stays.
func TestPrefer(t *testing.T) {
	if !kernel.Has(capability.CAP_SYS_NICE) {
		t.Skip("needs CAP_SYS_NICE")
	}
	bpftest.OnThread(t, "rbtrace-prefer", func() {
		bpftest.Must(unix.Setpriority(unix.PRIO_PROCESS, 0, 0)) // whatever the tests themselves have
		restore, err := kernel.Prefer()
		bpftest.Must(err)
		nice(t, -10)
		if out, err := exec.Command("nice").Output(); err != nil || strings.TrimSpace(string(out)) != "0" {
			t.Errorf("a child's nice value: %q, %v, want 0", out, err)
		}
		restore()
		nice(t, 0)
		bpftest.Must(unix.Setpriority(unix.PRIO_PROCESS, 0, 3))
		restore, err = kernel.Prefer()
		bpftest.Must(err)
		nice(t, 3)
		restore()
		nice(t, 3)
	})
}
