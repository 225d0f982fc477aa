// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// TestDropMaps: the maps of the programs that are not loaded are not created.
func TestDropMaps(t *testing.T) {
	failedOnly := []string{"rb_exec_calls", "rb_scratch_args"}
	for _, hook := range exec.Tracer.Hooks {
		spec, err := exec.Tracer.Load()
		if err != nil {
			t.Fatal(err)
		}
		all := len(spec.Maps)
		maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
			return !slices.ContainsFunc(hook.Programs, func(p tracer.Program) bool { return p.Name == name })
		})
		dropMaps(spec)
		for _, name := range failedOnly {
			if got := spec.Maps[name] != nil; got != hook.Failed {
				t.Errorf("failed=%v: the map %s is there: %v", hook.Failed, name, got)
			}
		}
		if want := all - len(failedOnly); !hook.Failed && len(spec.Maps) != want {
			t.Errorf("%d maps are left, want %d", len(spec.Maps), want)
		}
	}
}
