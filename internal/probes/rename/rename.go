// SPDX-License-Identifier: Apache-2.0

// Package rename traces files and directories that are renamed.
package rename

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type rename_event -target amd64,arm64 bpf ../../../bpf/rename.bpf.c -- -I../../../bpf/include

// Event is one rename, renameat or renameat2.
type Event struct {
	tracer.Common
	tracer.Names
}

var calls = []field.Word{"rename", "renameat", "renameat2"} // enum rename_call of bpf/rename.bpf.c

// The three calls. On arm64 there are but two.
var programs = []tracer.Program{{
	Name:   bpfProgRbRename,
	AlsoIf: []string{"syscalls/sys_exit_rename", "syscalls/sys_exit_renameat"},
}}

// Tracer is rbtrace rename.
var Tracer = tracer.New(tracer.Def[bpfRenameEvent, Event]{
	Name:  "rename",
	Short: "Files and directories that are renamed",
	Long: `Shows every rename, renameat and renameat2 of every thread on the machine, when it
returns: those that succeed and those that fail, or with --failed only these. What had the
new name before is gone, but with the flags RENAME_NOREPLACE (then the call fails) and
RENAME_EXCHANGE (then it has the old name now).

old and new are absolute: a relative one is joined to the path of the working directory, or
of the directory that the call named by a descriptor, across mount points, as that path is
when the call returns: of one who renames the directory that it works in, it is the new
one. They are what was asked for, not what was found: symbolic links, . and .. stay as they
are. In a chroot or a container an absolute path begins at the root of that, as its
processes see it. A directory that has been removed ends in " (deleted)".
One in a mount that is in no mount namespace, as it was unmounted while in use or is not
mounted yet, begins with "(unreachable)", one too deep or long to be followed with "…".

A call that a signal interrupts, on a network file system, has the error ERESTARTSYS and is no
failure for --failed: it begins anew and is shown again, or the program gets EINTR.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints. What io_uring or a
network file server renames does not either.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "rename", What: "every rename, and every attempt"},
		{Args: "rename -x", What: "those that fail, with the error"},
		{Args: `rename --filter 'new startsWith "/etc/"'`, What: "what gets a name below /etc"},
		{Args: "rename -o json | jq -r '[.old, .new] | @tsv'", What: "old and new names"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "ret", "errno", "old", "new"},
	Decode:  decode,
})

func decode(w *bpfRenameEvent, tail []byte, e *Event) error {
	e.Call = field.WordOf(calls, w.Call)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.Flags = field.Flags{Bits: uint64(w.Flags), Names: field.RenameFlags}
	return e.DecodeFiles(tail,
		tracer.FileRecord{FileLen: w.Old.FileLen, BaseLen: w.Old.BaseLen, Flags: w.Old.Flags},
		tracer.FileRecord{FileLen: w.New.FileLen, BaseLen: w.New.BaseLen, Flags: w.New.Flags})
}
