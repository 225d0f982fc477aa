// SPDX-License-Identifier: Apache-2.0

// Package exec traces programs that start.
package exec

import (
	"bytes"
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type exec_event -target amd64,arm64 bpf ../../../bpf/exec.bpf.c -- -I../../../bpf/include

// Event is one execve or execveat.
type Event struct {
	tracer.Common
	PComm     field.Comm   `json:"pcomm" col:"PCOMM,w=15" doc:"the parent's name"`
	EUID      field.Uint32 `json:"euid" col:"EUID,w=5,right" doc:"effective user id that the program runs with: another than uid where it has the set-user-ID bit; of a failed call the caller's; ids of the initial user namespace"`
	EGID      field.Uint32 `json:"egid" col:"EGID,w=5,right" doc:"effective group id, in the same way"`
	LoginUID  field.Uint32 `json:"loginuid" col:"LOGIN,w=5,right" doc:"user id that was logged in with, whatever su and sudo have made of it since; 4294967295 for none, as /proc/PID/loginuid has it"`
	SessionID field.Uint32 `json:"sessionid" col:"SESSION,w=7,right" doc:"number of that login; 4294967295 for none"`
	Ret       field.Int32  `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number"`
	Errno     field.Errno  `json:"errno" col:"ERR,w=12" doc:"the error's name, empty when there was none"`
	File      field.Text   `json:"file" col:"FILE,w=24" doc:"what the caller asked for: the path as given, relative to cwd unless absolute; by way of a descriptor (fexecve) the path of what it refers to"`
	Exe       field.Text   `json:"exe" col:"EXE,w=28" doc:"absolute path of the image that runs, as /proc/PID/exe shows it, or like cwd: for a script its interpreter; empty for a failed call"`
	Cwd       field.Text   `json:"cwd" col:"CWD,w=24" doc:"working directory; it begins with (unreachable) where its mount is in no mount namespace"`
	Argc      field.Uint32 `json:"argc" col:"ARGC,w=4,right" doc:"number of arguments; of a failed call whose arguments were cut, of those that are here"`
	ArgsBytes field.Uint32 `json:"args_bytes" col:"BYTES,w=7,right" doc:"bytes of all arguments, a NUL behind each counted"`
	Truncated field.Bool   `json:"args_truncated" col:"CUT,w=3" doc:"whether args is not all of them: above 128 KiB, or not readable"`
	Args      field.Args   `json:"args" col:"ARGS" doc:"the arguments that the program runs with, its name among them; for a script those of the interpreter"`

	exe, cwd, file []byte // memory of the fields above, used again for each event
}

// Tracer is rbtrace exec.
var Tracer = tracer.New(tracer.Def[bpfExecEvent, Event]{
	Name:  "exec",
	Short: "Programs that start",
	Long: `Shows every successful execve and execveat of every thread on the machine, at the
moment when the new program is in place: what really runs, not what was asked for.
argv comes whole up to 128 KiB; a longer one is cut and says so.

With --failed it shows the calls that failed instead: a shell that looks for a
command along PATH (ENOENT), a file without execute permission (EACCES), a file of
no known format (ENOEXEC), a seccomp filter that says no (EPERM). Arguments that a failed
call never touched may not be in memory; then they are marked as truncated. Calls of 32-bit programs on a 64-bit
kernel do not pass the tracepoints that --failed needs.

--arg TEXT shows those that have TEXT within one of their arguments, byte for byte, in
the 128 KiB that are looked at. Arguments that cannot be read do not have it.

tid is the thread that called. Where that was not the leader, it goes on as the
leader: with the process's id. --tid means the same thread. --comm means the name after the exec, with --failed
the caller's.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "exec", What: "every program that starts"},
		{Args: "exec -x", What: "execs that fail, with the error"},
		{Args: "exec -u www-data -C +cwd,+file", What: "what a user runs, and where"},
		{Args: "exec -o json | jq -r '.args | @sh'", What: "commands, quoted for the shell"},
		{Args: "exec --filter 'euid != uid' -C +uid,+euid,+exe", What: "programs with the set-user-ID bit"},
		{Args: "exec --arg /etc/shadow", What: "who has a hand in that file, by its arguments"},
		{Args: "exec -- make -j2", What: "what a build starts, until it ends"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbExec}}},
		{Kind: tracer.Tracepoint, Failed: true, Programs: []tracer.Program{
			{Name: bpfProgRbExecExit, Also: []string{"syscalls/sys_exit_execveat"}},
		}},
	},
	Params: []tracer.Param{{
		Name: "arg", Value: "TEXT", Column: "args", Max: 64,
		Usage: "only programs with TEXT in one of their arguments",
		Text:  &tracer.Text{Constants: argConstants, Match: hasArg},
	}},
	Columns:       []string{"time", "pid", "ppid", "pcomm", "comm", "args"},
	FailedColumns: []string{"time", "pid", "comm", "errno", "file", "args"},
	Decode:        decode,
})

// argConstants returns what bpf/exec.bpf.c needs to look for a text: of each byte
// where the text has it, as bits.
func argConstants(text string) map[string]any {
	var masks [256]uint64
	for i := range len(text) {
		masks[text[i]] |= 1 << i
	}
	return map[string]any{"rb_arg_masks": masks, "rb_arg_last": uint64(1) << (len(text) - 1)}
}

// hasArg reports whether one of the arguments contains text, in which no NUL is.
func hasArg(args field.Value, text string) bool {
	return bytes.Contains(args.(*field.Args).Raw, []byte(text))
}

var errLengths = errors.New("the lengths in the record do not add up")

// The flags of bpf/exec.bpf.c.
const (
	exeShift, cwdShift, baseShift = 0, 2, 4
	pathMask                      = tracer.PathCut | tracer.PathDeleted

	argsCut = 1 << 6
	script  = 1 << 7
	byFD    = 1 << 8

	exeUnreachable, cwdUnreachable, baseUnreachable = 1 << 9, 1 << 10, 1 << 11
)

func decode(w *bpfExecEvent, tail []byte, e *Event) error {
	parts := [...]int{int(w.FileLen), int(w.ExeLen), int(w.CwdLen), int(w.BaseLen), int(w.ArgsLen)}
	var part [len(parts)][]byte
	for i, n := range parts {
		if n > len(tail) {
			return errLengths
		}
		part[i], tail = tail[:n:n], tail[n:]
	}
	file, exe, cwd, base, args := part[0], part[1], part[2], part[3], part[4]
	flags := w.Head.Flags
	pathFlags := func(shift int, unreachable uint16) tracer.PathFlags {
		f := tracer.PathFlags(flags>>shift) & pathMask
		if flags&unreachable != 0 {
			f |= tracer.PathUnreachable
		}
		return f
	}

	e.PComm = w.Pcomm
	e.EUID, e.EGID = field.Uint32(w.Euid), field.Uint32(w.Egid)
	e.LoginUID, e.SessionID = field.Uint32(w.Loginuid), field.Uint32(w.Sessionid)
	e.Ret = field.Int32(w.Ret)
	e.Errno = field.Errno(w.Ret)
	e.cwd = tracer.AppendPath(e.cwd[:0], cwd, pathFlags(cwdShift, cwdUnreachable))
	e.Cwd = e.cwd
	e.Exe = nil
	if w.Ret >= 0 {
		e.exe = tracer.AppendPath(e.exe[:0], exe, pathFlags(exeShift, exeUnreachable))
		e.Exe = e.exe
	}
	file = bytes.TrimSuffix(file, []byte{0})
	switch {
	case flags&byFD == 0:
		e.File = file
	case w.Ret >= 0 && flags&script == 0:
		e.File = e.Exe
	default:
		e.file = appendBelow(tracer.AppendPath(e.file[:0], base, pathFlags(baseShift, baseUnreachable)), file)
		e.File = e.file
	}

	e.Truncated = flags&argsCut != 0
	e.Argc = field.Uint32(w.Argc)
	e.ArgsBytes = field.Uint32(w.ArgsBytes)
	e.Args = field.Args{Raw: args, Argc: w.Argc}
	if w.Ret < 0 {
		// Read string by string: all that is known is what is here.
		e.ArgsBytes = field.Uint32(len(args))
		if e.Truncated {
			e.Args.Argc++ // so that the table shows that there was more
		}
	}
	return nil
}

// appendBelow appends to a directory's path (or a file's, when file has no
// name) what was opened below it. file is what execveat was given, or the
// kernel's /dev/fd/N/name for it.
func appendBelow(path, file []byte) []byte {
	if rest, ok := bytes.CutPrefix(file, []byte("/dev/fd/")); ok {
		_, file, _ = bytes.Cut(rest, []byte{'/'})
	}
	if len(file) == 0 {
		return path
	}
	if path[len(path)-1] != '/' {
		path = append(path, '/')
	}
	return append(path, file...)
}
