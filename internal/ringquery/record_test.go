// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/cilium/ebpf/btf"
)

var (
	btfU8   = &btf.Int{Name: "unsigned char", Size: 1}
	btfChar = &btf.Int{Name: "char", Size: 1, Encoding: btf.Signed}
	btfU32  = &btf.Int{Name: "unsigned int", Size: 4}
	btfInt  = &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	btfU64  = &btf.Typedef{Name: "__u64", Type: &btf.Int{Name: "unsigned long long", Size: 8}}
	btfBool = &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}
)

func TestAppendValue(t *testing.T) {
	event := &btf.Struct{Name: "event", Size: 88, Members: []btf.Member{
		{Name: "pid", Type: btfU32},
		{Name: "ret", Type: btfInt, Offset: 32},
		{Name: "ns", Type: btfU64, Offset: 64},
		{Name: "comm", Type: &btf.Array{Type: btfChar, Index: btfU32, Nelems: 8}, Offset: 128},
		{Name: "addr", Type: &btf.Array{Type: btfU8, Index: btfU32, Nelems: 4}, Offset: 192},
		{Name: "ok", Type: btfBool, Offset: 224},
		{Name: "", Type: &btf.Struct{Size: 2, Members: []btf.Member{{Name: "a", Type: btfU8}, {Name: "b", Type: btfU8, Offset: 8}}}, Offset: 232},
		{Name: "low", Type: btfU32, Offset: 256, BitfieldSize: 3},
		{Name: "high", Type: btfInt, Offset: 259, BitfieldSize: 5},
		{Name: "kind", Type: &btf.Enum{Name: "kind", Size: 4, Values: []btf.EnumValue{{Name: "A", Value: 1}}}, Offset: 288},
		{Name: "p", Type: &btf.Pointer{Target: (*btf.Void)(nil)}, Offset: 320},
		{Name: "u", Type: &btf.Union{Name: "u", Size: 4, Members: []btf.Member{{Name: "x", Type: btfU32}}}, Offset: 384},
		{Name: "f", Type: &btf.Float{Name: "float", Size: 4}, Offset: 416},
		{Name: "d", Type: &btf.Float{Name: "double", Size: 8}, Offset: 448},
		{Name: "pair", Type: &btf.Array{Type: &btf.Struct{Size: 4, Members: []btf.Member{{Name: "n", Type: btfInt}}}, Index: btfU32, Nelems: 2}, Offset: 512},
		{Name: "rest", Type: &btf.Array{Type: btfChar, Index: btfU32}, Offset: 704},
	}}
	data := make([]byte, 88)
	put := func(at int, b ...byte) { copy(data[at:], b) }
	put(0, 1, 2, 0, 0)
	put(4, 0xfe, 0xff, 0xff, 0xff)
	for i := range 8 {
		put(8+i, 0xff)
	}
	put(16, []byte("a\x1b\"\x00zzz")...)
	put(24, 127, 0, 0, 1)
	put(28, 1, 7, 9)
	put(32, 0b11110_101) // -2 and 5
	put(36, 1)
	put(40, 0xef, 0xbe)
	put(48, 0xaa, 0xbb)
	f := math.Float32bits(1.5)
	put(52, byte(f), byte(f>>8), byte(f>>16), byte(f>>24))
	nan := math.Float64bits(math.NaN())
	for i := range 8 {
		put(56+i, byte(nan>>(8*i)))
	}
	put(64, 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
	const want = `{"pid":513,"ret":-2,"ns":18446744073709551615,"comm":"a\u001b\"","addr":[127,0,0,1],"ok":true,"a":7,"b":9,"low":5,"high":-2,` +
		`"kind":1,"p":"0xbeef","u":"aabb0000","f":1.5,"d":0,"pair":[{"n":3},{"n":-1}],"rest":""}`
	got, err := AppendValue(nil, event, append(data, "more"...))
	if err != nil || string(got) != want || !json.Valid(got) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
	if _, err := AppendValue(nil, event, data[:87]); err == nil {
		t.Error("a record that is too short has a value")
	}

	// Whoever loads a program may load such types.
	outside := &btf.Struct{Name: "outside", Size: 4, Members: []btf.Member{{Name: "x", Type: btfU32, Offset: 8}}}
	if _, err := AppendValue(nil, outside, data); err == nil {
		t.Error("a member outside of its struct has a value")
	}
	deep := btf.Type(btfU32)
	for range 100 {
		deep = &btf.Struct{Name: "deep", Size: 4, Members: []btf.Member{{Name: "x", Type: deep}}}
	}
	if _, err := AppendValue(nil, deep, data); err == nil {
		t.Error("types may nest without bounds")
	}
}
