// SPDX-License-Identifier: Apache-2.0

// Package bpf traces what processes do with BPF and perf events.
package bpf

import (
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type bpf_event -target amd64,arm64 bpf ../../../bpf/bpf.bpf.c -- -I../../../bpf/include

// Event is one call of bpf or perf_event_open.
type Event struct {
	tracer.Common
	Cmd       field.BPFCommand `json:"cmd" col:"CMD,w=16" doc:"the command of bpf, less BPF_, or perf_event_open; what has no name as a number"`
	Type      field.BPFType    `json:"type_name" col:"TYPE,w=13" doc:"type of the map (MAP_CREATE), the program (PROG_LOAD), the place (PROG_ATTACH, PROG_DETACH, PROG_QUERY, LINK_CREATE) or the perf event; empty for other commands"`
	Name      field.Text       `json:"name" col:"NAME" doc:"name of the map or program, as the kernel has it and of a call that failed as the caller gave it; path of a pin (OBJ_PIN, OBJ_GET); the tracepoint (RAW_TRACEPOINT_OPEN)"`
	ID        field.Uint32     `json:"id" col:"ID,w=6,right" doc:"the kernel's id of the map, program, link or BTF; 0: none"`
	FD        field.Int32      `json:"fd" col:"FD,w=4,right,void=-1" doc:"its descriptor: the new one, or the one that was given; -1: none"`
	Config    field.Hex        `json:"config" col:"CONFIG,w=10,right" doc:"of a perf event: which one of its type; the id of a tracepoint"`
	TargetPID field.Int32      `json:"target_pid" col:"TARGET,w=7,right" doc:"of a perf event: the thread, in the caller's pid namespace; 0 the caller, -1 all"`
	TargetCPU field.Int32      `json:"target_cpu" col:"TCPU,w=4,right" doc:"of a perf event: the CPU, -1 any"`
	Ret       field.Int32      `json:"ret" col:"RET,w=4,right" doc:"what the call returned: a descriptor, 0 or more, or the negative error number"`
	Errno     field.Errno      `json:"errno" col:"ERR,w=6" doc:"the error's name, empty when there was none"`
}

var programs = []tracer.Program{{Name: bpfProgRbBpf, AlsoIf: []string{"syscalls/sys_exit_perf_event_open"}}}

// Tracer is rbtrace bpf.
var Tracer = tracer.New(tracer.Def[bpfBpfEvent, Event]{
	Name:  "bpf",
	Short: "BPF programs and maps, and perf events",
	Long: `Shows every call of bpf and perf_event_open when it returns: programs that are loaded, maps that
are made, what is attached, pinned and looked up, and what is counted or sampled. With --failed it
shows those that fail.

What a call was given is read from the caller's memory when it returns, and what it was about from
the kernel, by the descriptor: with several threads, others may have changed either by then. An error
may be an answer: ENOENT is the end of a map, or of a list of ids.

A program that reads its maps makes many calls: --cmd shows those of one command. rbtrace's own calls
are among them, such as those with which it attaches, once they come behind the first one.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "bpf", What: "every call"},
		{Args: "bpf --cmd prog_load -C +id,+uid", What: "programs that are loaded"},
		{Args: "bpf --cmd perf_event_open -C -name,+config,+target_pid", What: "who counts or samples what"},
		{Args: "bpf -x --filter 'errno in [\"EPERM\", \"EACCES\"]'", What: "what is not let"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "cmd", "type_name", "errno", "name"},
	Params: []tracer.Param{{
		Name: "cmd", Value: "COMMAND", Usage: "only this `COMMAND`, by name (prog_load, perf_event_open) or number",
		Const: bpfVarCmd, Max: 0xffff, Column: "cmd", Enum: field.ParseBPFCommand,
	}},
	Decode: decode,
})

var errLengths = errors.New("the lengths in the record do not add up")

func decode(w *bpfBpfEvent, tail []byte, e *Event) error {
	n := int(w.NameLen)
	if n > len(tail) {
		return errLengths
	}
	e.Cmd = field.BPFCommand(w.Cmd)
	e.Type = field.BPFType{Of: typesOf[e.Cmd], Number: w.Type}
	e.Name = tail[:n:n]
	e.ID, e.FD = field.Uint32(w.Id), field.Int32(max(w.Fd, -1))
	e.Config, e.TargetPID, e.TargetCPU = field.Hex(w.Config), field.Int32(w.TargetPid), field.Int32(w.TargetCpu)
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(min(w.Ret, 0))
	return nil
}

// typesOf says of which kind the types of a command are.
var typesOf = map[field.BPFCommand]field.BPFTypes{
	0: field.BPFMapType, 5: field.BPFProgType, 8: field.BPFAttachType, 9: field.BPFAttachType, 16: field.BPFAttachType,
	28: field.BPFAttachType, field.PerfEventOpen: field.PerfType,
}
