// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func TestEnumConstant(t *testing.T) {
	long := strings.Repeat("x", 100)
	b, err := btf.NewBuilder([]btf.Type{&btf.Enum{Name: "reason", Size: 4, Values: []btf.EnumValue{
		{Name: "R_NONE", Value: 0}, {Name: "OTHER", Value: 2}, {Name: "R_" + long, Value: 3}, {Name: "R_FAR", Value: 4}, {Name: "R_MAX", Value: 1 << 31},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	types, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	names := func(typ string) (all []string) {
		e := Enum{Type: typ, Prefix: "R_"}
		constant := e.Constant(types, 4*enumName)
		if len(constant) != 4*enumName {
			t.Fatalf("%d bytes", len(constant))
		}
		for i := range 4 {
			all = append(all, string(CString(constant[i*enumName:][:enumName])))
		}
		return all
	}
	if got, want := strings.Join(names("reason"), ","), "NONE,,OTHER,"+long[:enumName-1]; got != want {
		t.Errorf("names %s, want %s", got, want)
	}
	if got := strings.Join(names("missing"), ","); got != ",,," {
		t.Errorf("names %s of an enum that is not there", got)
	}
	if got := string(CString([]byte("whole"))); got != "whole" {
		t.Errorf("without a NUL: %q", got)
	}
}
