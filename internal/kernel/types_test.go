// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// Each member of the reduced types is where the whole of the kernel's types has
// it, and has the same size.
func TestTypes(t *testing.T) {
	whole, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	names := []string{"task_struct", "linux_binprm", "sock", "file", "mount", "dentry___flavour", "no_such_struct"}
	reduced, err := Types(names)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"task_struct", "linux_binprm", "sock", "file", "mount", "dentry"} {
		var want, got *btf.Struct
		if err := whole.TypeByName(name, &want); err != nil {
			t.Fatal(err)
		}
		if err := reduced.TypeByName(name, &got); err != nil {
			t.Fatal(err)
		}
		compare(t, name, want, got)
	}
	var none *btf.Struct
	if err := reduced.TypeByName("no_such_struct", &none); err == nil {
		t.Error("a type that the kernel does not have is there")
	}
}

func compare(t *testing.T, path string, want, got *btf.Struct) {
	t.Helper()
	if want.Size != got.Size || len(want.Members) != len(got.Members) {
		t.Fatalf("%s: %d bytes and %d members, want %d and %d", path, got.Size, len(got.Members), want.Size, len(want.Members))
	}
	for i, w := range want.Members {
		g := got.Members[i]
		if w.Name != g.Name || w.Offset != g.Offset || w.BitfieldSize != g.BitfieldSize {
			t.Errorf("%s.%s at %d, want %s at %d", path, g.Name, g.Offset, w.Name, w.Offset)
		}
		wantSize, err := btf.Sizeof(w.Type)
		if err != nil {
			continue // a function or a flexible array
		}
		if size, err := btf.Sizeof(g.Type); err != nil || size != wantSize {
			t.Errorf("%s.%s has %d bytes (%v), want %d", path, w.Name, size, err, wantSize)
		}
		if w, ok := w.Type.(*btf.Struct); ok {
			compare(t, path+"."+w.Name, w, g.Type.(*btf.Struct))
		}
	}
}

// smallBTF is struct a { int x; }; in BTF.
func smallBTF() []byte {
	words := func(w ...uint32) []byte {
		var b []byte
		for _, v := range w {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
		return b
	}
	types := bytes.Join([][]byte{
		words(1, kindInt<<24, 4, 1<<24|32),          // int
		words(5, kindStruct<<24|1, 4, 7, 1, 0),      // struct a, member x
		words(9, kindTypedef<<24, 2),                // typedef of it
		words(0, kindPtr<<24, 2, 0, kindFwd<<24, 0), // what nothing refers to
	}, nil)
	table := []byte("\x00int\x00a\x00x\x00t\x00")
	head := words(0x0001eb9f, btfHeaderLen, 0, uint32(len(types)), uint32(len(types)), uint32(len(table)))
	return bytes.Join([][]byte{head, types, table}, nil)
}

func FuzzReduce(f *testing.F) {
	f.Add(smallBTF(), "a")
	f.Add(smallBTF(), "t")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		small, err := reduce(raw, []string{name})
		if err == nil && len(small) > len(raw)+8*len(raw) {
			t.Errorf("%d bytes became %d", len(raw), len(small))
		}
	})
}

func TestReduce(t *testing.T) {
	small, err := reduce(smallBTF(), []string{"t"})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	var typedef *btf.Typedef
	if err := spec.TypeByName("t", &typedef); err != nil {
		t.Fatal(err)
	}
	if s, ok := typedef.Type.(*btf.Struct); !ok || s.Name != "a" || s.Members[0].Name != "x" || s.Members[0].Type.(*btf.Int).Size != 4 {
		t.Errorf("t is %v", typedef.Type)
	}
	if len(small) >= len(smallBTF()) {
		t.Errorf("%d bytes became %d", len(smallBTF()), len(small))
	}
	none := smallBTF()
	binary.NativeEndian.PutUint32(none[12:], 0) // the length of its types
	if _, err := reduce(none, []string{"a"}); err != nil {
		t.Errorf("BTF without types: %v", err)
	}
	for _, broken := range [][]byte{nil, smallBTF()[:20], smallBTF()[:40]} {
		if _, err := reduce(broken, []string{"a"}); err == nil {
			t.Errorf("%d bytes of BTF are taken for whole", len(broken))
		}
	}
}

// BenchmarkTypes is most of what a tracer's start takes in user space.
func BenchmarkTypes(b *testing.B) {
	names := []string{"task_struct", "mm_struct", "file", "fs_struct", "dentry", "vfsmount", "mount", "nsproxy", "pid", "cred"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Types(names); err != nil {
			b.Fatal(err)
		}
	}
}

func TestVersion(t *testing.T) {
	for release, want := range map[string]Version{
		"5.10.0-33-cloud-amd64": {5, 10}, "6.18.44": {6, 18}, "7.0-rc1": {7, 0}, "5.7.19+": {5, 7},
	} {
		got, err := ParseVersion(release)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", release, got, err)
		}
	}
	if _, err := ParseVersion("unknown"); err == nil {
		t.Error("a release without a version has one")
	}
	if CheckVersion("5.7.19") == nil || CheckVersion("5.8.0") != nil {
		t.Error("ring buffers came with 5.8")
	}
}

func TestTypeName(t *testing.T) {
	raw, err := os.ReadFile(BTFPath)
	if err != nil {
		t.Skip(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"do_exit", "task_struct", "btf_trace_sched_process_exec"} {
		types, err := spec.AnyTypesByName(want)
		if err != nil {
			t.Fatal(err)
		}
		id, err := spec.TypeID(types[0])
		if err != nil {
			t.Fatal(err)
		}
		if name, err := TypeName(uint32(id)); err != nil || name != want {
			t.Errorf("type %d: %q, %v; want %q", id, name, err, want)
		}
	}
	if name, err := typeName(raw, 1<<31); err == nil {
		t.Errorf("a type that does not exist is %q", name)
	}
}
