// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/rbtrace/rbtrace/internal/field"
)

// Enum is an enum of the kernel whose values have other numbers in other kernels. The
// BPF programs get the names that the values have in the one at hand, and write them into
// their records: struct rb_enum_names of bpf/include/rbtrace/packet.h.
type Enum struct {
	Const  string // the C constant that takes the names
	Type   string // the kernel's name of the enum
	Prefix string // what all names begin with; it is left out
}

// enumName is RB_NAME_OF_ENUM.
const enumName = 48

// Constant returns what to set e.Const to, which has that size, in a kernel that has those
// types: empty names where it does not know the enum.
func (e *Enum) Constant(types *btf.Spec, size uint32) []byte {
	b := make([]byte, size)
	all, err := types.AnyTypesByName(e.Type) // some kernels have the same one several times
	if err != nil {
		return b
	}
	for _, t := range all {
		enum, ok := t.(*btf.Enum)
		if !ok {
			continue
		}
		for _, v := range enum.Values {
			if v.Value < uint64(size)/enumName {
				copy(b[v.Value*enumName:][:enumName-1], strings.TrimPrefix(v.Name, e.Prefix))
			}
		}
	}
	return b
}

// CString returns what is in front of the first NUL of b. It aliases b.
func CString(b []byte) field.Text {
	text, _, _ := bytes.Cut(b, []byte{0})
	return text
}
