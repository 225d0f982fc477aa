// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"testing"

	"github.com/cilium/ebpf"
)

func TestObject(t *testing.T) {
	spec, err := loadQuery()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(spec.Maps); n != 2 {
		t.Errorf("the object has %d maps, want %s and %s: rings are asked without the others", n, queryMapRbAsked, queryMapRbAnswer)
	}
	for name, want := range map[string]ebpf.ProgramType{
		queryProgRbAskSyscall: ebpf.Syscall,
		queryProgRbAskRawTp:   ebpf.RawTracepoint,
	} {
		if got := spec.Programs[name].Type; got != want {
			t.Errorf("program %s is of type %s, want %s", name, got, want)
		}
	}
}

func TestNotRingError(t *testing.T) {
	err := &NotRingError{ID: 7, Type: ebpf.Hash}
	if got, want := err.Error(), "BPF map 7 is not a ring buffer: its type is Hash"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
