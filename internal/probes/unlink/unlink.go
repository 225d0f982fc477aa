// SPDX-License-Identifier: Apache-2.0

// Package unlink traces files and directories that are removed.
package unlink

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type unlink_event -target amd64,arm64 bpf ../../../bpf/unlink.bpf.c -- -I../../../bpf/include

// Event is one unlink, unlinkat or rmdir.
type Event struct {
	tracer.Common
	Call       field.Word       `json:"call" col:"CALL,w=8" doc:"the call: unlink, unlinkat or rmdir"`
	Ret        field.Int32      `json:"ret" col:"RET,w=4,right,void=0" doc:"what the call returned: 0, or the negative error number"`
	Errno      field.Errno      `json:"errno" col:"ERR,w=9" doc:"the error's name, empty when there was none"`
	Age        field.Latency    `json:"age_ns" col:"AGE,w=7,right" doc:"how long ago the file was made, whichever name it had then; 0 where nobody knows, as with the tracepoints alone, and of a file that is older than the trace"`
	Flags      field.Flags      `json:"flags" col:"FLAGS,w=12" doc:"the flags of unlinkat: AT_REMOVEDIR makes it an rmdir; what has no name is in hexadecimal"`
	PathSource field.PathSource `json:"path_source" col:"SOURCE,w=10" doc:"where path begins: absolute (as given), cwd, dirfd, or unresolved: nobody knows"`
	File       field.Text       `json:"file" col:"FILE,w=24" doc:"the path as given"`
	Path       field.Text       `json:"path" col:"PATH" doc:"the absolute path: that given, or joined to the directory's where it is relative; neither symbolic links nor . and .. are resolved; where the directory is unknown the path as given"`

	path tracer.File
}

var calls = []field.Word{"unlink", "unlinkat", "rmdir"} // enum unlink_call of bpf/unlink.bpf.c

// The three calls. On arm64 there is but one.
var (
	entries = []string{"syscalls/sys_enter_unlink", "syscalls/sys_enter_rmdir"}
	exits   = []string{"syscalls/sys_exit_unlink", "syscalls/sys_exit_rmdir"}
)

var programs = []tracer.Program{{Name: bpfProgRbUnlink, AlsoIf: exits}}

// aged are the programs that know when files were made, by these functions.
func aged(functions ...string) []tracer.Program {
	all := []tracer.Program{{Name: bpfProgRbUnlinkExit, AlsoIf: exits}, {Name: bpfProgRbUnlinkEnter, AlsoIf: entries, Prepares: true}}
	for _, name := range functions {
		all = append(all, tracer.Program{Name: name, Prepares: true})
	}
	return all
}

var (
	fentry = aged(bpfProgRbUnlinkForgetsFentry, bpfProgRbUnlinkMadeFentry, bpfProgRbUnlinkFileFentry, bpfProgRbUnlinkDirFentry)
	kprobe = aged(bpfProgRbUnlinkForgetsKprobe, bpfProgRbUnlinkMadeKprobe, bpfProgRbUnlinkFileKprobe, bpfProgRbUnlinkDirKprobe)
)

// Tracer is rbtrace unlink.
var Tracer = tracer.New(tracer.Def[bpfUnlinkEvent, Event]{
	Name:  "unlink",
	Short: "Files and directories that are removed",
	Long: `Shows every unlink, unlinkat and rmdir of every thread on the machine, when it returns:
those that succeed and those that fail, or with --failed only these. What goes is a name:
the file itself stays as long as it has another one, or somebody has it open.

path is absolute: a relative one is joined to the path of the working directory, or of
the directory that the call named by a descriptor, across mount points. It is what was
asked for, not what was found: symbolic links, . and .. stay as they are. In a chroot
or a container an absolute path begins at the root of that, as its processes see it.
A directory that has been removed ends in " (deleted)", as does the working directory
of one who has just removed it.
One in a mount that is in no mount namespace, as it was unmounted while in use or is not
mounted yet, begins with "(unreachable)", one too deep or long to be followed with "…".

With --hook fentry or kprobe age_ns says how old the file was that goes, if it was made while
rbtrace ran. No tracepoint tells that, and the functions that do are called for every file
that is made or forgotten on the machine. It is known of file systems that make their files on
this machine: not of NFS, CIFS or FUSE.

A call that a signal interrupts, on a network file system, has the error ERESTARTSYS and is no
failure for --failed: it begins anew and is shown again, or the program gets EINTR.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints. What io_uring,
a network file server or another part of the kernel removes does not either, nor does a
file that rename replaces: see rbtrace rename.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "unlink", What: "every file and directory removed, and every attempt"},
		{Args: "unlink -x", What: "what cannot be removed, with the error"},
		{Args: `unlink --filter 'path startsWith "/etc/"'`, What: "what is removed below /etc"},
		{Args: "unlink --hook fentry -C +age_ns", What: "how short-lived files are"},
		{Args: "unlink -C +call,+ppid -- make clean", What: "what a program removes, until it ends"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Fentry, Programs: fentry},
		{Kind: tracer.Kprobe, Programs: kprobe},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
		{Kind: tracer.Fentry, Failed: true, Programs: fentry},
		{Kind: tracer.Kprobe, Failed: true, Programs: kprobe},
	},
	Columns: []string{"time", "pid", "comm", "ret", "errno", "path"},
	Decode:  decode,
})

func decode(w *bpfUnlinkEvent, tail []byte, e *Event) error {
	p := &w.Path
	if _, err := e.path.Decode(tail, tracer.FileRecord{FileLen: p.FileLen, BaseLen: p.BaseLen, Flags: p.Flags}); err != nil {
		return err
	}
	e.PathSource, e.File, e.Path = e.path.Source, e.path.Given, e.path.Path
	e.Call = field.WordOf(calls, w.Call)
	e.Age = field.Latency(w.Age)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.Flags = field.Flags{Bits: uint64(w.Flags), Names: field.UnlinkFlags}
	return nil
}
