// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// TestDropMaps: the maps of the programs that are not loaded are not created.
func TestDropMaps(t *testing.T) {
	failedOnly := []string{"rb_scratch_args"}
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

// TestLoses: what the kernel does not run is a loss, unless nobody will miss it.
func TestLoses(t *testing.T) {
	for _, test := range []struct {
		program        tracer.Program
		none, filtered bool
	}{
		{tracer.Program{}, true, true},
		{tracer.Program{ForFilters: true}, false, true},
		{tracer.Program{Prepares: true}, false, false},
	} {
		for filter, want := range map[Filter]bool{{}: test.none, {PID: 1}: test.filtered, {Follow: true}: test.filtered} {
			s := &Session{opts: Options{Filter: filter}}
			if got := s.loses(&test.program); got != want {
				t.Errorf("%+v, filter %+v: %v", test.program, filter, got)
			}
		}
	}
}

// TestPreallocate: where the kernel would warn of a hash that is allocated as it is
// filled, and no other map, it is not.
func TestPreallocate(t *testing.T) {
	for _, test := range []struct {
		typ     ebpf.MapType
		release string
		want    uint32
	}{
		{ebpf.Hash, "5.10.0-32-amd64", 0},
		{ebpf.Hash, "5.19.17", 0},
		{ebpf.Hash, "6.1.0-50-amd64", unix.BPF_F_NO_PREALLOC},
		{ebpf.Hash, "7.2.13", unix.BPF_F_NO_PREALLOC},
		{ebpf.Hash, "of no version", unix.BPF_F_NO_PREALLOC},
		{ebpf.Array, "5.10.0-32-amd64", unix.BPF_F_NO_PREALLOC},
	} {
		m := &ebpf.MapSpec{Type: test.typ, Flags: unix.BPF_F_NO_PREALLOC}
		if preallocate(m, test.release); m.Flags != test.want {
			t.Errorf("%s on %s: flags %#x, want %#x", test.typ, test.release, m.Flags, test.want)
		}
	}
}
