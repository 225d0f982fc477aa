// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/rbtrace/rbtrace/internal/field"
)

// RecordType returns the type of a ring's records, where the BTF of a program that uses
// the ring names it: by the value in the definition of the map (__type(value, T)), which
// is in the section .maps. The kernel itself keeps no types of a ring. The ring must have
// its details.
func (q *Querier) RecordType(ring *Ring) (t btf.Type, ok bool) {
	if ring.Details == nil || ring.Name == "" {
		return nil, false
	}
	for _, p := range ring.Details.Programs {
		if t, ok := recordType(p.ID, ring.Name); ok {
			return t, true
		}
	}
	return nil, false
}

func recordType(id ebpf.ProgramID, ring string) (btf.Type, bool) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, false
	}
	defer prog.Close()
	handle, err := prog.Handle()
	if err != nil {
		return nil, false // it has none
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return nil, false
	}
	var maps *btf.Datasec
	if err := spec.TypeByName(".maps", &maps); err != nil {
		return nil, false
	}
	for _, v := range maps.Vars {
		// The kernel cuts names to 15 bytes.
		def, ok := v.Type.(*btf.Var)
		if !ok || def.Name != ring && (len(ring) != 15 || !strings.HasPrefix(def.Name, ring)) {
			continue
		}
		members, ok := btf.As[*btf.Struct](def.Type)
		if !ok {
			continue
		}
		for _, m := range members.Members {
			if p, ok := btf.As[*btf.Pointer](m.Type); ok && m.Name == "value" {
				size, err := btf.Sizeof(p.Target)
				return p.Target, err == nil && size > 0
			}
		}
	}
	return nil, false
}

// TypeString returns a type as C has it, for types that RecordType returns.
func TypeString(t btf.Type) string {
	switch v := t.(type) {
	case *btf.Struct:
		return "struct " + v.Name
	case *btf.Union:
		return "union " + v.Name
	}
	return t.TypeName()
}

// maxDepth bounds the nesting of values, as BTF may come from anybody.
const maxDepth = 16

// AppendValue appends the value of type t at the beginning of data as JSON, the type of
// which depends on t alone: an object for a struct, an array, a string for an array of
// char, until its NUL, and for pointers and unions, in hexadecimal, and a number for
// what is left, enumerators included.
func AppendValue(b []byte, t btf.Type, data []byte) ([]byte, error) {
	size, err := btf.Sizeof(t)
	if err != nil {
		return b, fmt.Errorf("a value of type %s: %w", TypeString(t), err)
	}
	if size > len(data) {
		return b, fmt.Errorf("a value of type %s takes %d bytes, and there are %d", TypeString(t), size, len(data))
	}
	return appendValue(b, t, data[:size], maxDepth)
}

func appendValue(b []byte, t btf.Type, data []byte, depth int) ([]byte, error) {
	if depth == 0 {
		return b, fmt.Errorf("types nest deeper than %d", maxDepth)
	}
	switch v := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		b = append(b, '{')
		b, _, err := appendMembers(b, v.Members, data, true, depth)
		return append(b, '}'), err
	case *btf.Array:
		if isChar(v.Type) {
			text, _, _ := strings.Cut(string(data), "\x00")
			return field.AppendJSONString(b, []byte(text)), nil
		}
		size, err := btf.Sizeof(v.Type)
		if err != nil || size == 0 {
			return append(b, "[]"...), err
		}
		b = append(b, '[')
		for i := range int(v.Nelems) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, v.Type, data[i*size:][:size], depth-1); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case *btf.Int:
		return appendInt(b, integer(data), len(data)*8, v.Encoding), nil
	case *btf.Enum:
		encoding := btf.Unsigned
		if v.Signed {
			encoding = btf.Signed
		}
		return appendInt(b, integer(data), len(data)*8, encoding), nil
	case *btf.Float:
		f := float64(math.Float32frombits(uint32(integer(data))))
		if len(data) == 8 {
			f = math.Float64frombits(integer(data))
		}
		if math.IsNaN(f) || math.IsInf(f, 0) || len(data) > 8 {
			f = 0 // JSON has no other numbers
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64), nil
	case *btf.Pointer:
		return fmt.Appendf(b, `"%#x"`, integer(data)), nil
	}
	return append(hex.AppendEncode(append(b, '"'), data), '"'), nil
}

// appendMembers appends the members of a struct, those of anonymous ones inside it as if
// they were its own.
func appendMembers(b []byte, members []btf.Member, data []byte, first bool, depth int) ([]byte, bool, error) {
	for i, m := range members {
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			return b, first, err
		}
		offset := int(m.Offset.Bytes())
		if m.BitfieldSize > 0 {
			// In a word of the member's type that is aligned to its size.
			offset = offset / size * size
		}
		if offset+size > len(data) {
			return b, first, fmt.Errorf("member %q is outside of its struct", m.Name)
		}
		part := data[offset : offset+size]
		if inner, ok := btf.As[*btf.Struct](m.Type); ok && m.Name == "" && depth > 1 {
			if b, first, err = appendMembers(b, inner.Members, part, first, depth-1); err != nil {
				return b, first, err
			}
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		name := m.Name
		if name == "" {
			name = "anonymous_" + strconv.Itoa(i)
		}
		b = append(field.AppendJSONString(b, []byte(name)), ':')
		if m.BitfieldSize > 0 {
			encoding := btf.Unsigned
			if v, ok := btf.As[*btf.Int](m.Type); ok {
				encoding = v.Encoding
			}
			shift := uint(m.Offset) - uint(offset)*8
			b = appendInt(b, bits(part, shift, uint(m.BitfieldSize)), int(m.BitfieldSize), encoding)
			continue
		}
		if b, err = appendValue(b, m.Type, part, depth-1); err != nil {
			return b, first, err
		}
	}
	return b, first, nil
}

// isChar reports whether arrays of the type are texts.
func isChar(t btf.Type) bool {
	v, ok := btf.As[*btf.Int](t)
	return ok && v.Size == 1 && (v.Encoding == btf.Char || v.Name == "char")
}

// integer reads an unsigned number of up to 8 bytes.
func integer(data []byte) uint64 {
	switch len(data) {
	case 1:
		return uint64(data[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(data))
	case 4:
		return uint64(binary.NativeEndian.Uint32(data))
	case 8, 16: // of the latter the lower half, on the machines that there are
		return binary.NativeEndian.Uint64(data)
	}
	return 0
}

// bits takes a field out of a word. The machines that rbtrace is for are little-endian.
func bits(word []byte, shift, size uint) uint64 {
	return integer(word) >> shift & (1<<size - 1)
}

// appendInt appends a number of so many bits.
func appendInt(b []byte, n uint64, size int, encoding btf.IntEncoding) []byte {
	switch {
	case encoding == btf.Bool:
		return strconv.AppendBool(b, n != 0)
	case encoding == btf.Signed && size <= 64:
		unused := 64 - size
		return strconv.AppendInt(b, int64(n<<unused)>>unused, 10)
	}
	return strconv.AppendUint(b, n, 10)
}
