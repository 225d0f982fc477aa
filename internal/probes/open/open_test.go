// SPDX-License-Identifier: Apache-2.0

package open

import (
	"bytes"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

func TestDecodeResult(t *testing.T) {
	e := new(Event)
	w, tail := &bpfOpenEvent{Ret: 3, FileLen: 2, Flags: 0x41, Mode: 0o644}, []byte("/a")
	w.Head.Flags = 1 << 2 // absolute
	if err := decode(w, tail, e); err != nil || e.FD != 3 || e.Ret != 3 || e.Errno != 0 || e.Mode != (field.Mode{Bits: 0o644, Given: true}) || string(e.Path) != "/a" || e.PathSource != field.SourceAbsolute {
		t.Errorf("%v, %+v", err, e)
	}
	w.Flags, w.Ret = 0, -2
	if err := decode(w, tail, e); err != nil || e.FD != -1 || e.Ret != -2 || e.Errno != -2 || e.Mode != (field.Mode{}) {
		t.Errorf("%v, %+v", err, e)
	}
	if decode(w, tail[:1], new(Event)) == nil {
		t.Error("a record that is too short is an event")
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
