// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/rbtrace/rbtrace/internal/field"
)

// AtExitHelp is for the help of a tracer that reads what a call was given when it returns, and has
// nothing to hold it against.
const AtExitHelp = `

What a call was given is read when it returns. A thread that meanwhile changes it in memory, or the
working directory or descriptor that a path begins at, can hide what was asked for.`

// File is a path that a system call was given: struct rb_file of
// bpf/include/rbtrace/file.h and what the record has of it. Its memory is used
// again for each event.
type File struct {
	Source field.PathSource
	Given  field.Text // as the caller gave it; aliases the record
	// Path is absolute: what was given, or, where that is relative, joined to the path
	// of its directory. Where nobody knows that directory, or it is a text, it is what
	// was given. Where that is empty it is what a descriptor refers to, and where the
	// call has opened something it is that.
	Path field.Text

	path []byte
}

// FileRecord is struct rb_file: what an event says of a path behind it.
type FileRecord struct{ FileLen, BaseLen, Flags uint16 }

// What the flags of struct rb_file hold beside PathFlags.
const (
	sourceShift = 2
	sourceMask  = 7
	isPseudo    = 1 << 5
	fileFlags   = 1<<7 - 1 // all of them
)

var (
	errFileLengths = errors.New("the lengths in the record do not add up")
	errFileSource  = errors.New("the record does not say where its path begins")
)

// Decode takes f from the beginning of tail, and returns what is behind it there.
func (f *File) Decode(tail []byte, r FileRecord) ([]byte, error) {
	n, flags := int(r.FileLen), r.Flags
	end := n + int(r.BaseLen)
	if end > len(tail) {
		return nil, errFileLengths
	}
	file, base := tail[:n:n], tail[n:end]
	f.Source = field.PathSource(flags >> sourceShift & sourceMask)
	if flags > fileFlags || !f.Source.Valid() {
		return nil, errFileSource
	}
	f.Given, f.Path = file, file
	switch f.Source {
	case field.SourceCwd, field.SourceDirfd, field.SourceOpened:
		f.path = f.path[:0]
		if flags&isPseudo != 0 {
			if len(base) < pseudoSize {
				return nil, errFileLengths
			}
			f.path = appendPseudo(f.path, base, PathFlags(flags)&PathMask)
		} else {
			f.path = AppendPath(f.path, base, PathFlags(flags)&PathMask)
		}
		if len(file) > 0 && f.Source != field.SourceOpened {
			f.path = appendBelow(f.path, file)
		}
		f.Path = f.path
	}
	return tail[end:], nil
}

// appendBelow appends to a directory's path that of a file below it. file begins
// with a slash where the directory was to be its root (RESOLVE_IN_ROOT).
func appendBelow(path, file []byte) []byte {
	if path[len(path)-1] != '/' && !bytes.HasPrefix(file, []byte{'/'}) {
		path = append(path, '/')
	}
	return append(path, file...)
}

// The size of struct rb_pseudo, and what magic may be there
// (include/uapi/linux/magic.h).
const (
	pseudoSize = 16
	pipefs     = 0x50495045
	sockfs     = 0x534f434b
	anonInode  = 0x09041934
	pidfs      = 0x50494446
	nsfs       = 0x6e736673
)

// appendPseudo appends the name of a file in no directory as /proc/PID/fd has it. It
// is the only name, if any, in front of the struct rb_pseudo.
func appendPseudo(path, base []byte, flags PathFlags) []byte {
	at := len(base) - pseudoSize
	name, magic, ino := base[:at], binary.LittleEndian.Uint64(base[at:]), binary.LittleEndian.Uint64(base[at+8:])
	switch magic {
	case pipefs:
		path = append(path, "pipe:["...)
	case sockfs:
		path = append(path, "socket:["...)
	case anonInode:
		path = append(path, "anon_inode:"...)
		return append(path, bytes.TrimRight(name, "\x00")...)
	case nsfs: // name is that of the kind
		path = append(append(path, bytes.TrimRight(name, "\x00")...), ":["...)
	case pidfs:
		return append(path, "anon_inode:[pidfd]"...)
	default:
		return AppendPath(path, name, flags)
	}
	return append(strconv.AppendUint(path, ino, 10), ']')
}
