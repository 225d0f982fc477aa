// SPDX-License-Identifier: Apache-2.0

package open

import (
	"bytes"
	"errors"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// record is what decode gets.
func record(source Source, flags tracer.PathFlags, file, base string) (*bpfOpenEvent, []byte) {
	w := &bpfOpenEvent{Ret: 3, FileLen: uint16(len(file)), BaseLen: uint16(len(base))}
	w.Head.Flags = uint16(source)<<sourceShift | uint16(flags)
	return w, []byte(file + base)
}

func TestDecodePath(t *testing.T) {
	for _, test := range []struct {
		source     Source
		flags      tracer.PathFlags
		file, base string
		want       string
	}{
		{Absolute, 0, "/a/../b", "", "/a/../b"},
		{Unresolved, 0, "", "", ""},
		{Unresolved, 0, "a", "", "a"},
		{Cwd, 0, "a", "", "/a"},
		{Cwd, 0, "a", "usr\x00", "/usr/a"},
		{Dirfd, 0, "./a", "bin\x00usr\x00", "/usr/bin/./a"},
		{Dirfd, 0, "/a", "bin\x00usr\x00", "/usr/bin/a"}, // RESOLVE_IN_ROOT
		{Dirfd, 0, "/a", "", "//a"},
		{Cwd, tracer.PathCut, "a", "", "…/a"},
		{Cwd, tracer.PathCut, "a", "c\x00b\x00", "…/b/c/a"},
		{Cwd, tracer.PathDeleted, "a", "c\x00b\x00", "/b/c (deleted)/a"},
		{Cwd, tracer.PathDeleted | tracer.PathCut, "/a", "c\x00b\x00", "…/b/c (deleted)/a"},
	} {
		e := new(Event)
		for range 2 { // memory is used again
			w, tail := record(test.source, test.flags, test.file, test.base)
			if err := decode(w, tail, e); err != nil {
				t.Fatal(err)
			}
			if string(e.Path) != test.want || string(e.File) != test.file || e.PathSource != test.source {
				t.Errorf("%+v: path %q, file %q, source %d", test, e.Path, e.File, e.PathSource)
			}
		}
	}
}

func TestDecodeResult(t *testing.T) {
	e := new(Event)
	w, tail := record(Absolute, 0, "/a", "")
	w.Flags, w.Mode = 0x41, 0o644
	if err := decode(w, tail, e); err != nil || e.FD != 3 || e.Ret != 3 || e.Errno != 0 || e.Mode != (field.Mode{Bits: 0o644, Given: true}) {
		t.Errorf("%v, %+v", err, e)
	}
	w.Flags, w.Ret = 0, -2
	if err := decode(w, tail, e); err != nil || e.FD != -1 || e.Ret != -2 || e.Errno != -2 || e.Mode != (field.Mode{}) {
		t.Errorf("%v, %+v", err, e)
	}
}

// A record that does not agree with itself is no event.
func TestDecodeErrors(t *testing.T) {
	w, tail := record(Cwd, 0, "file", "base\x00")
	if err := decode(w, tail[:len(tail)-1], new(Event)); !errors.Is(err, errLengths) {
		t.Errorf("lengths: %v", err)
	}
	w, tail = record(Dirfd+1, 0, "file", "")
	if err := decode(w, tail, new(Event)); !errors.Is(err, errSource) {
		t.Errorf("source: %v", err)
	}
}

// What replay shows is what the kernel let pass: bytes, not characters.
func TestMatch(t *testing.T) {
	p := Tracer.Params[0]
	for path, want := range map[string]bool{"/etc/x": true, "/etc/": true, "/etc": false, "": false, "x/etc/": false} {
		text := field.Text(path)
		if got := p.Match(&text, "/etc/"); got != want {
			t.Errorf("%q matches: %v", path, got)
		}
	}
	split := field.Text("/\xc3\xbc")
	if !p.Match(&split, "/\xc3") {
		t.Error("half a character does not match")
	}
	constants, err := p.Constants("/etc/")
	if err != nil || constants[bpfVarPathPrefixLen] != uint64(5) || !bytes.Equal(constants[bpfVarPathPrefix].([]byte), append([]byte("/etc/"), make([]byte, 251)...)) {
		t.Errorf("%v, constants %v", err, constants)
	}
	if p.Check(string(make([]byte, 256))) == nil {
		t.Error("256 bytes are too many")
	}
}
