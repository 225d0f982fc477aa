// SPDX-License-Identifier: Apache-2.0

// Package stat traces files that somebody asks about.
package stat

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type stat_event -target amd64,arm64 bpf ../../../bpf/stat.bpf.c -- -I../../../bpf/include

// Event is one stat, lstat, newfstatat, statx or statfs.
type Event struct {
	tracer.Common
	Call       field.Word       `json:"syscall" col:"SYSCALL,w=10" doc:"the call: stat, lstat, newfstatat, statx or statfs"`
	Ret        field.Int32      `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number"`
	Errno      field.Errno      `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
	Flags      field.Flags      `json:"flags" col:"FLAGS,w=19" doc:"the flags of newfstatat or statx; what has no name is in hexadecimal"`
	PathSource field.PathSource `json:"path_source" col:"SOURCE,w=10" doc:"where path begins: absolute (as given), cwd, dirfd, or unresolved: nobody knows"`
	File       field.Text       `json:"file" col:"FILE,w=24" doc:"the path as given"`
	Path       field.Text       `json:"path" col:"PATH" doc:"the absolute path: that given, or joined to the directory's where it is relative; neither symbolic links nor . and .. are resolved; where the directory is unknown the path as given; with AT_EMPTY_PATH and an empty path that of the descriptor"`

	path tracer.File
}

var calls = []field.Word{"stat", "lstat", "newfstatat", "statx", "statfs"} // enum stat_call of bpf/stat.bpf.c

// The five calls. On arm64 there are but three.
var programs = []tracer.Program{{
	Name:   bpfProgRbStat,
	Also:   []string{"syscalls/sys_exit_newfstatat", "syscalls/sys_exit_statfs"},
	AlsoIf: []string{"syscalls/sys_exit_newstat", "syscalls/sys_exit_newlstat"},
}}

// Tracer is rbtrace stat.
var Tracer = tracer.New(tracer.Def[bpfStatEvent, Event]{
	Name:  "stat",
	Short: "Files that somebody asks about",
	Long: `Shows every stat, lstat, newfstatat (which the C library calls fstatat), statx and statfs of
every thread on the machine, when it returns: those that succeed and those that fail, or
with --failed only these. It tells what a program looks for, and where. fstat has no path
and is not shown; where a C library makes it a newfstatat with AT_EMPTY_PATH it is, and path
is that of the open file.

These are among the most frequent calls: whatever walks directories, a build or a search,
is slowed down by each event, the more the deeper its directory is. --failed and the
filters but --filter leave an event out before it costs much.

path is absolute: a relative one is joined to the path of the working directory, or of
the directory that the call named by a descriptor, across mount points. It is what was
asked for, not what was found: symbolic links, . and .. stay as they are. In a chroot
or a container an absolute path begins at the root of that, as its processes see it.
A directory, or file, that has been removed ends in " (deleted)".
One in a mount that is in no mount namespace, as it was unmounted while in use or is not
mounted yet, begins with "(unreachable)", one too deep or long to be followed with "…".

A call that a signal interrupts, on a network file system, has the error ERESTARTSYS and is no
failure for --failed: it begins anew and is shown again, or the program gets EINTR.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints, nor do the calls
that only 32-bit kernels have. What io_uring asks for does not either.` + tracer.AtExitHelp,
	Costly: true,
	Examples: []tracer.Example{
		{Args: "stat -n nginx", What: "what one program asks about"},
		{Args: "stat -x -- python3 -c 'import json'", What: "where a program looks in vain, until it ends"},
		{Args: `stat --filter 'syscall == "statfs"'`, What: "who asks for free space"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "errno", "syscall", "path"},
	Decode:  decode,
})

func decode(w *bpfStatEvent, tail []byte, e *Event) error {
	p := &w.Path
	if _, err := e.path.Decode(tail, tracer.FileRecord{FileLen: p.FileLen, BaseLen: p.BaseLen, Flags: p.Flags}); err != nil {
		return err
	}
	e.PathSource, e.File, e.Path = e.path.Source, e.path.Given, e.path.Path
	e.Call = field.WordOf(calls, w.Call)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.Flags = field.Flags{Bits: uint64(w.Flags), Names: field.AtFlags}
	return nil
}
