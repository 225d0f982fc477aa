// SPDX-License-Identifier: Apache-2.0

// Package link traces links that are made.
package link

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type link_event -target amd64,arm64 bpf ../../../bpf/link.bpf.c -- -I../../../bpf/include

// Event is one link, linkat, symlink or symlinkat.
type Event struct {
	tracer.Common
	tracer.Names
}

var calls = []field.Word{"link", "linkat", "symlink", "symlinkat"} // enum link_call of bpf/link.bpf.c

// The four calls. On arm64 there are but two.
var programs = []tracer.Program{{
	Name:   bpfProgRbLink,
	Also:   []string{"syscalls/sys_exit_symlinkat"},
	AlsoIf: []string{"syscalls/sys_exit_link", "syscalls/sys_exit_symlink"},
}}

// Tracer is rbtrace link.
var Tracer = tracer.New(tracer.Def[bpfLinkEvent, Event]{
	Name:  "link",
	Short: "Hard and symbolic links that are made",
	Long: `Shows every link, linkat, symlink and symlinkat of every thread on the machine, when it
returns: those that succeed and those that fail, or with --failed only these. new is the
name that is made. old is the file that a hard link is made of; of a symbolic link it is
the text that the link holds, as given, since that begins wherever the link is followed:
old_source is text then.

Paths are absolute: a relative one is joined to the path of the working directory, or of
the directory that the call named by a descriptor, across mount points. They are what was
asked for, not what was found: symbolic links, . and .. stay as they are. In a chroot or a
container an absolute path begins at the root of that, as its processes see it. A
directory, or file, that has been removed ends in " (deleted)"; one in a mount that is in no
mount namespace, as it was unmounted while in use or is not mounted yet, begins with
"(unreachable)", one too deep or long to be followed with "…"; with AT_EMPTY_PATH and an
empty path, old is the path of the open file.

A call that a signal interrupts, on a network file system, has the error ERESTARTSYS and is no
failure for --failed: it begins anew and is shown again, or the program gets EINTR.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints. What io_uring or a
network file server links does not either.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "link", What: "every link, and every attempt"},
		{Args: "link -x", What: "those that fail, with the error"},
		{Args: `link --filter 'old_source == "text"'`, What: "symbolic links"},
		{Args: `link --filter 'old startsWith "/etc/"'`, What: "what becomes of files below /etc"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "ret", "errno", "old", "new"},
	Decode:  decode,
})

func decode(w *bpfLinkEvent, tail []byte, e *Event) error {
	e.Call = field.WordOf(calls, w.Call)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.Flags = field.Flags{Bits: uint64(w.Flags), Names: field.AtFlags}
	return e.DecodeFiles(tail,
		tracer.FileRecord{FileLen: w.Old.FileLen, BaseLen: w.Old.BaseLen, Flags: w.Old.Flags},
		tracer.FileRecord{FileLen: w.New.FileLen, BaseLen: w.New.BaseLen, Flags: w.New.Flags})
}
