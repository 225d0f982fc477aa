// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

// fileRecord is what File.Decode gets, with two bytes of something else behind it.
func fileRecord(source field.PathSource, flags PathFlags, file, base string) ([]byte, FileRecord) {
	return []byte(file + base + "++"), FileRecord{uint16(len(file)), uint16(len(base)), uint16(source)<<sourceShift | uint16(flags)}
}

func TestFile(t *testing.T) {
	for _, test := range []struct {
		source     field.PathSource
		flags      PathFlags
		file, base string
		want       string
	}{
		{field.SourceAbsolute, 0, "/a/../b", "", "/a/../b"},
		{field.SourceUnresolved, 0, "", "", ""},
		{field.SourceUnresolved, 0, "a", "", "a"},
		{field.SourceCwd, 0, "a", "", "/a"},
		{field.SourceCwd, 0, "a", "usr\x00", "/usr/a"},
		{field.SourceDirfd, 0, "./a", "bin\x00usr\x00", "/usr/bin/./a"},
		{field.SourceDirfd, 0, "/a", "bin\x00usr\x00", "/usr/bin/a"}, // RESOLVE_IN_ROOT
		{field.SourceDirfd, 0, "/a", "", "//a"},
		{field.SourceCwd, 0, "", "b\x00", "/b"}, // AT_EMPTY_PATH
		{field.SourceDirfd, 0, "", "", "/"},
		{field.SourceDirfd, PathDeleted, "", "#12\x00tmp\x00", "/tmp/#12 (deleted)"},
		{field.SourceText, 0, "../a", "", "../a"},
		{field.SourceText, 0, "", "", ""},
		{field.SourceCwd, PathCut, "a", "", "…/a"},
		{field.SourceCwd, PathCut, "a", "c\x00b\x00", "…/b/c/a"},
		{field.SourceCwd, PathDeleted, "a", "c\x00b\x00", "/b/c (deleted)/a"},
		{field.SourceCwd, PathUnreachable, "a", "c\x00b\x00", "(unreachable)/b/c/a"},
		{field.SourceDirfd, PathUnreachable, "a", "", "(unreachable)/a"},
		{field.SourceDirfd, PathDeleted, "a", "", "/ (deleted)/a"},
		{field.SourceCwd, PathDeleted | PathCut, "/a", "c\x00b\x00", "…/b/c (deleted)/a"},
	} {
		f := new(File)
		for range 2 { // memory is used again
			rest, err := f.Decode(fileRecord(test.source, test.flags, test.file, test.base))
			if err != nil || string(rest) != "++" {
				t.Fatalf("%+v: %v, and %q is left", test, err, rest)
			}
			if string(f.Path) != test.want || string(f.Given) != test.file || f.Source != test.source {
				t.Errorf("%+v: path %q, file %q, source %d", test, f.Path, f.Given, f.Source)
			}
		}
	}
}

// TestPseudo: files in no directory, as /proc/PID/fd names them.
func TestPseudo(t *testing.T) {
	for _, test := range []struct {
		magic uint64
		name  string
		want  string
	}{
		{pipefs, "", "pipe:[4711]"},
		{pipefs, "\x00", "pipe:[4711]"},
		{sockfs, "TCP\x00", "socket:[4711]"},
		{anonInode, "[eventpoll]\x00", "anon_inode:[eventpoll]"},
		{nsfs, "net\x00", "net:[4711]"},
		{pidfs, "", "anon_inode:[pidfd]"},
		{0x01021994, "memfd:x\x00", "/memfd:x (deleted)"},
	} {
		f := new(File)
		base := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64([]byte(test.name), test.magic), 4711)
		tail, r := fileRecord(field.SourceDirfd, PathDeleted|isPseudo, "", string(base))
		rest, err := f.Decode(tail, r)
		if err != nil || string(rest) != "++" || string(f.Path) != test.want {
			t.Errorf("%+v: %v, %q", test, err, f.Path)
		}
		r.BaseLen = pseudoSize - 1
		if _, err := f.Decode(tail, r); !errors.Is(err, errFileLengths) {
			t.Errorf("too short: %v", err)
		}
	}
}

// A record that does not agree with itself is no event.
func TestFileErrors(t *testing.T) {
	f := new(File)
	if _, err := f.Decode([]byte("filebas"), FileRecord{4, 4, 0}); !errors.Is(err, errFileLengths) {
		t.Errorf("lengths: %v", err)
	}
	for _, flags := range []uint16{31 << sourceShift, 1 << 10, 1 << 15} {
		if _, err := f.Decode([]byte("file"), FileRecord{4, 0, flags}); !errors.Is(err, errFileSource) {
			t.Errorf("flags %#x: %v", flags, err)
		}
	}
}
