// SPDX-License-Identifier: Apache-2.0

// Package open traces files that are opened.
package open

import (
	"bytes"
	"errors"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type open_event -target amd64,arm64 bpf ../../../bpf/open.bpf.c -- -I../../../bpf/include

// Event is one open, openat, openat2 or creat.
type Event struct {
	tracer.Common
	FD         field.Int32        `json:"fd" col:"FD,w=4,right,void=-1" doc:"the new descriptor, -1 when the call failed"`
	Ret        field.Int32        `json:"ret" col:"RET,w=4,right" doc:"what the call returned: the descriptor, or the negative error number"`
	Errno      field.Errno        `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
	Flags      field.OpenFlags    `json:"flags" col:"FLAGS,w=28" doc:"the flags as given, of creat those that it stands for; what has no name is in hexadecimal"`
	Mode       field.Mode         `json:"mode" col:"MODE,w=5,right" doc:"the mode for a file that is made (O_CREAT, O_TMPFILE), in octal and before the umask; else empty"`
	Resolve    field.ResolveFlags `json:"resolve" col:"RESOLVE,w=15" doc:"how openat2 is to resolve the path"`
	PathSource field.PathSource   `json:"path_source" col:"SOURCE,w=10" doc:"where path is from: opened, what was opened; or what was asked for: absolute (as given), below cwd, below dirfd, or unresolved: nobody knows"`
	File       field.Text         `json:"file" col:"FILE,w=24" doc:"the path as given"`
	Path       field.Text         `json:"path" col:"PATH" doc:"the absolute path of what was opened; of a call that fails what was asked for: that given, or joined to the directory's where it is relative, with symbolic links, . and .. as they are; where the directory is unknown the path as given"`

	path tracer.File
}

// The four calls. On arm64 there are but two.
var programs = []tracer.Program{{
	Name:   bpfProgRbOpen,
	AlsoIf: []string{"syscalls/sys_exit_open", "syscalls/sys_exit_openat2", "syscalls/sys_exit_creat"},
}}

// Tracer is rbtrace open.
var Tracer = tracer.New(tracer.Def[bpfOpenEvent, Event]{
	Name:  "open",
	Short: "Files that are opened",
	Long: `Shows every open, openat, openat2 and creat of every thread on the machine, when it
returns: those that succeed and those that fail, or with --failed only these.

path is that of what was opened, as the kernel has it for the new descriptor: symbolic links,
. and .. are resolved. It begins at the root of the caller's mount namespace: a chroot's own
directories are in front. What was asked for is in file.

Of a call that fails path is what was asked for: a relative one is joined to the path of the
working directory, or of the directory that the call named by a descriptor; symbolic links, .
and .. stay as they are, and an absolute one in a chroot begins at the root of that.

What has been removed ends in " (deleted)". What is in a mount that is in no mount namespace,
as it was unmounted while in use or is not mounted yet, begins with "(unreachable)", what is too
deep or long to be followed with "…". What is in no directory is named as in /proc/PID/fd
(pipe:[4711]).

file and, of a call that fails, path are read when the call returns. A thread that has changed
the path in memory, the working directory or the descriptor meanwhile can hide what was asked
for, but not what was opened.

A call that a signal interrupts, as on a FIFO or a network file system, has the error ERESTARTSYS
and is no failure for --failed: it begins anew and is shown again, or the program gets EINTR.

--path-prefix looks at path, and at what was asked for where that is another one, as they are, byte
by byte, before anything is escaped; end it with / to mean one directory. The paths are made in memory of the ring, so each call
takes 1.1 KiB of it (8.4 KiB where the path is long) until rbtrace has passed it: with
a small --buffer-size, or a long --wakeup interval, calls may be lost.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints. What io_uring
opens does not either, nor does open_by_handle_at, which is given no path.`,
	Examples: []tracer.Example{
		{Args: "open", What: "every file opened, and every attempt"},
		{Args: "open -x", What: "files that cannot be opened, with the error"},
		{Args: "open --path-prefix /etc/", What: "what is read below /etc"},
		{Args: "open -C +flags,+mode -- make", What: "what a build opens, and how, until it ends"},
		{Args: `open -o json | jq -r 'select(.flags | index("O_CREAT")) | .path'`, What: "files that may be made"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "fd", "errno", "path"},
	Params: []tracer.Param{{
		Name: "path-prefix", Value: "TEXT", Usage: "only what is opened, or asked for, at a path that begins with this `TEXT`",
		Const: bpfVarPathPrefix, Max: 255, Column: "path", Or: "file",
		Text: &tracer.Text{
			Check: checkPrefix,
			Constants: func(text string) map[string]any {
				return map[string]any{bpfVarPathPrefixLen: uint64(len(text))}
			},
			Match: func(value field.Value, text string) bool {
				return bytes.HasPrefix(*value.(*field.Text), []byte(text))
			},
		},
	}},
	Decode: decode,
})

// checkPrefix returns an error where no path whose directory is known begins with the text.
func checkPrefix(text string) error {
	for _, begin := range []string{"/", "…", "(unreachable)"} {
		if strings.HasPrefix(text, begin) {
			return nil
		}
	}
	return errors.New("want a text that begins with /, as paths are absolute")
}

func decode(w *bpfOpenEvent, tail []byte, e *Event) error {
	if _, err := e.path.Decode(tail, tracer.FileRecord{FileLen: w.FileLen, BaseLen: w.BaseLen, Flags: w.Head.Flags}); err != nil {
		return err
	}
	e.PathSource, e.File, e.Path = e.path.Source, e.path.Given, e.path.Path
	e.FD, e.Ret, e.Errno = field.Int32(w.Ret), field.Int32(w.Ret), 0
	if w.Ret < 0 {
		e.FD, e.Errno = -1, field.Errno(w.Ret)
	}
	e.Flags, e.Resolve = field.OpenFlags(w.Flags), field.ResolveFlags(w.Resolve)
	e.Mode = field.Mode{}
	if e.Flags.HasMode() {
		e.Mode = field.Mode{Bits: w.Mode, Given: true}
	}
	return nil
}
