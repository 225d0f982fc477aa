// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Types returns the running kernel's types of the given names, and what they
// hold by value, as a spec of its own. Pointers in them point to void.
//
// That is all that CO-RE looks at: fields are found by name along members, and
// what a pointer points to is a relocation of its own. Making sense of all of
// the kernel's 150,000 types, and of every module's, takes several times as long
// as everything else between the start of a tracer and its first event.
func Types(names []string) (*btf.Spec, error) {
	raw, unmap, err := mapBTF()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's types: %w", err)
	}
	small, err := reduce(raw, names)
	unmap()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's types from %s: %w", BTFPath, err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(small))
	if err != nil {
		return nil, fmt.Errorf("loading the kernel's types: %w", err)
	}
	return spec, nil
}

// mapBTF returns the running kernel's BTF, until unmap is called. The file can be
// mapped since 6.16, which spares a copy of several MiB.
func mapBTF() (raw []byte, unmap func(), err error) {
	f, err := os.Open(BTFPath)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		// All of it is read, so all pages are mapped at once.
		raw, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err == nil {
			return raw, func() { _ = unix.Munmap(raw) }, nil // it was mapped just so
		}
	}
	raw, err = os.ReadFile(BTFPath)
	return raw, func() {}, err
}

// The kinds of BTF types (include/uapi/linux/btf.h) that a value can have.
const (
	kindInt       = 1
	kindPtr       = 2
	kindArray     = 3
	kindStruct    = 4
	kindUnion     = 5
	kindEnum      = 6
	kindFwd       = 7
	kindTypedef   = 8
	kindVolatile  = 9
	kindConst     = 10
	kindRestrict  = 11
	kindFunc      = 12
	kindFuncProto = 13
	kindVar       = 14
	kindDatasec   = 15
	kindFloat     = 16
	kindDeclTag   = 17
	kindTypeTag   = 18
	kindEnum64    = 19
)

const (
	btfHeaderLen = 24
	btfTypeLen   = 12
	averageType  = 24 // bytes: a little less than types have on the average
)

var errBTF = errors.New("not BTF that this program understands")

// btfType is one type in a blob: struct btf_type and what follows it.
type btfType []byte

func (t btfType) name() uint32 { return binary.NativeEndian.Uint32(t) }
func (t btfType) info() uint32 { return binary.NativeEndian.Uint32(t[4:]) }
func (t btfType) kind() uint32 { return t.info() >> 24 & 0x1f }
func (t btfType) vlen() int    { return int(t.info() & 0xffff) }

// btfSizes are the lengths of types in bytes, by kind, and of each of their members.
var btfSizes = [32]struct{ length, each uint8 }{
	kindPtr: {btfTypeLen, 0}, kindFwd: {btfTypeLen, 0}, kindTypedef: {btfTypeLen, 0}, kindVolatile: {btfTypeLen, 0},
	kindConst: {btfTypeLen, 0}, kindRestrict: {btfTypeLen, 0}, kindFunc: {btfTypeLen, 0}, kindFloat: {btfTypeLen, 0},
	kindTypeTag: {btfTypeLen, 0},
	kindInt:     {btfTypeLen + 4, 0}, kindVar: {btfTypeLen + 4, 0}, kindDeclTag: {btfTypeLen + 4, 0},
	kindArray:  {btfTypeLen + 12, 0},
	kindStruct: {btfTypeLen, 12}, kindUnion: {btfTypeLen, 12}, kindDatasec: {btfTypeLen, 12}, kindEnum64: {btfTypeLen, 12},
	kindEnum: {btfTypeLen, 8}, kindFuncProto: {btfTypeLen, 8},
}

// size returns the length of a type in bytes, from its first btfTypeLen.
func (t btfType) size() (int, error) {
	size := &btfSizes[t.kind()]
	if size.length == 0 {
		return 0, fmt.Errorf("%w: kind %d", errBTF, t.kind())
	}
	return int(size.length) + int(size.each)*t.vlen(), nil
}

// refs calls f for each place in t that holds the id of another type.
func (t btfType) refs(f func(place []byte)) {
	switch t.kind() {
	case kindPtr, kindTypedef, kindVolatile, kindConst, kindRestrict, kindTypeTag:
		f(t[8:])
	case kindArray:
		f(t[btfTypeLen:])
		f(t[btfTypeLen+4:])
	case kindStruct, kindUnion:
		for i := range t.vlen() {
			f(t[btfTypeLen+12*i+4:])
		}
	}
}

// names calls f for each place in t that holds the offset of a string.
func (t btfType) names(f func(place []byte)) {
	f(t)
	each := 0
	switch t.kind() {
	case kindStruct, kindUnion, kindEnum64:
		each = 12
	case kindEnum:
		each = 8
	}
	if each > 0 {
		for i := range t.vlen() {
			f(t[btfTypeLen+each*i:])
		}
	}
}

// reduce returns the BTF blob raw cut down to the types of the given names and
// what they hold by value.
func reduce(raw []byte, names []string) ([]byte, error) {
	types, stringTable, err := btfSections(raw)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(names))
	var begins [1 << 16]bool // by their first two bytes, which few of the others have
	for _, name := range names {
		// A flavour (task_struct___old) is another view of the type before the ___.
		essential, _, _ := strings.Cut(name, "___")
		wanted[essential] = true
		begins[binary.NativeEndian.Uint16(append([]byte(essential), 0, 0))] = true
	}
	var (
		start = make([]uint32, 1, 1+len(types)/averageType) // of each type, by id; void has none
		found []uint32
	)
	for at := 0; at < len(types); {
		if len(types)-at < btfTypeLen {
			return nil, errBTF
		}
		t := btfType(types[at:])
		size, err := t.size()
		if err != nil {
			return nil, err
		}
		if size > len(types)-at {
			return nil, errBTF
		}
		switch t.kind() {
		case kindStruct, kindUnion, kindEnum, kindEnum64, kindTypedef:
			if offset := uint64(t.name()); offset+2 < uint64(len(stringTable)) && !begins[binary.NativeEndian.Uint16(stringTable[offset:])] {
				break
			}
			name, err := btfString(stringTable, t.name())
			if err != nil {
				return nil, err
			}
			if wanted[string(name)] {
				found = append(found, uint32(len(start)))
			}
		}
		start = append(start, uint32(at))
		at += size
	}
	out := reduced{ids: map[uint32]uint32{0: 0}, strings: []byte{0}, offsets: map[uint32]uint32{0: 0}}
	for _, id := range found {
		out.want(id)
	}
	for i := 0; i < len(out.order); i++ { // it grows while it runs
		id := out.order[i]
		if int64(id) >= int64(len(start)) {
			return nil, errBTF
		}
		t := btfType(types[start[id]:])
		size, err := t.size()
		if err != nil {
			return nil, err
		}
		if err := out.add(t[:size], stringTable); err != nil {
			return nil, err
		}
	}
	return out.blob(raw), nil
}

// btfSections returns the types and the strings of a blob.
func btfSections(raw []byte) (types, stringTable []byte, err error) {
	if len(raw) < btfHeaderLen || binary.NativeEndian.Uint16(raw) != 0xeb9f {
		return nil, nil, errBTF
	}
	header := binary.NativeEndian.Uint32(raw[4:])
	section := func(at int) []byte {
		begin := uint64(header) + uint64(binary.NativeEndian.Uint32(raw[at:]))
		end := begin + uint64(binary.NativeEndian.Uint32(raw[at+4:]))
		if end > uint64(len(raw)) {
			return nil
		}
		return raw[begin:end]
	}
	types, stringTable = section(8), section(16)
	if types == nil || stringTable == nil {
		return nil, nil, errBTF
	}
	return types, stringTable, nil
}

func btfString(table []byte, offset uint32) ([]byte, error) {
	if uint64(offset) >= uint64(len(table)) {
		return nil, errBTF
	}
	end := bytes.IndexByte(table[offset:], 0)
	if end < 0 {
		return nil, errBTF
	}
	return table[offset : int(offset)+end], nil
}

// reduced is a blob in the making.
type reduced struct {
	types   []byte
	strings []byte
	order   []uint32          // old ids, in the order of the new ones
	ids     map[uint32]uint32 // new id by old id
	offsets map[uint32]uint32 // new string offset by old offset
}

// want returns the new id of a type, which is added later.
func (r *reduced) want(old uint32) uint32 {
	id, ok := r.ids[old]
	if !ok {
		r.order = append(r.order, old)
		id = uint32(len(r.order))
		r.ids[old] = id
	}
	return id
}

// add appends a copy of t that refers to new ids and strings.
func (r *reduced) add(t btfType, stringTable []byte) error {
	at := len(r.types)
	r.types = append(r.types, t...)
	t = btfType(r.types[at:])
	pointer := t.kind() == kindPtr
	t.refs(func(place []byte) {
		id := uint32(0)
		if !pointer {
			id = r.want(binary.NativeEndian.Uint32(place))
		}
		binary.NativeEndian.PutUint32(place, id)
	})
	var err error
	t.names(func(place []byte) {
		old := binary.NativeEndian.Uint32(place)
		offset, ok := r.offsets[old]
		if !ok {
			name, nameErr := btfString(stringTable, old)
			if nameErr != nil {
				err = nameErr
				return
			}
			offset = uint32(len(r.strings))
			r.strings = append(append(r.strings, name...), 0)
			r.offsets[old] = offset
		}
		binary.NativeEndian.PutUint32(place, offset)
	})
	return err
}

func (r *reduced) blob(raw []byte) []byte {
	b := append([]byte(nil), raw[:btfHeaderLen]...)
	for i, v := range []int{btfHeaderLen, 0, len(r.types), len(r.types), len(r.strings)} {
		binary.NativeEndian.PutUint32(b[4+4*i:], uint32(v))
	}
	return append(append(b, r.types...), r.strings...)
}

// TypeName returns the name of the kernel's own type with this id, empty where it has
// none.
func TypeName(id uint32) (string, error) {
	raw, unmap, err := mapBTF()
	if err != nil {
		return "", fmt.Errorf("reading the kernel's types: %w", err)
	}
	defer unmap()
	name, err := typeName(raw, id)
	if err != nil {
		return "", fmt.Errorf("looking for type %d in %s: %w", id, BTFPath, err)
	}
	return name, nil
}

func typeName(raw []byte, id uint32) (string, error) {
	types, stringTable, err := btfSections(raw)
	if err != nil {
		return "", err
	}
	for n := uint32(1); len(types) >= btfTypeLen; n++ { // void has no entry
		t := btfType(types)
		if n == id {
			name, err := btfString(stringTable, t.name())
			return string(name), err
		}
		size, err := t.size()
		if err != nil {
			return "", err
		}
		if size > len(types) {
			return "", errBTF
		}
		types = types[size:]
	}
	return "", errors.New("there is no such type")
}
