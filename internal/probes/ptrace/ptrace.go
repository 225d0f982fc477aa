// SPDX-License-Identifier: Apache-2.0

// Package ptrace traces what processes do to others by ptrace.
package ptrace

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type ptrace_event -target amd64,arm64 bpf ../../../bpf/ptrace.bpf.c -- -I../../../bpf/include

// Event is one call of ptrace.
type Event struct {
	tracer.Common
	Request   field.PtraceRequest `json:"request" col:"REQUEST,w=17" doc:"what is asked for; what has no name as a number"`
	TPID      field.Int32         `json:"tpid" col:"TPID,w=7,right" doc:"id of the target as the caller gave it: of a thread, in the caller's pid namespace; PTRACE_TRACEME takes none"`
	TargetPID field.Uint32        `json:"target_pid" col:"TARGET,w=7,right" doc:"process id of the target in the initial pid namespace; 0 when the caller does not trace it, as when attaching failed or the call let it go, or it is not among the 32 that it traces since last"`
	TargetTID field.Uint32        `json:"target_tid" col:"TTID,w=7,right" doc:"thread id of the same"`
	TComm     field.Comm          `json:"tcomm" col:"TCOMM,w=10" doc:"name of the same"`
	Addr      field.Hex           `json:"addr" col:"ADDR,w=14,right" doc:"the address that the request has as an argument"`
	Data      field.Hex           `json:"data" col:"DATA,w=14,right" doc:"the data that it has: a signal for those that let the target go on, an address for many"`
	Ret       field.Int64         `json:"ret" col:"RET,w=4,right" doc:"what the call returned: for a few requests a length, for most 0, or the negative error number"`
	Errno     field.Errno         `json:"errno" col:"ERR,w=6" doc:"the error's name, empty when there was none"`
}

var programs = []tracer.Program{{Name: bpfProgRbPtrace}}

// Tracer is rbtrace ptrace.
var Tracer = tracer.New(tracer.Def[bpfPtraceEvent, Event]{
	Name:  "ptrace",
	Short: "Processes that trace, stop or change others",
	Long: `Shows every call of ptrace when it returns: debuggers, strace, and whoever else looks into
another process or changes it. With --failed it shows those that fail, such as an attempt
on a process of somebody else (EPERM).

tpid is what the caller named. Who that is, target_pid and tcomm say of one that it traces
when the call returns. strace makes several calls for each call of the program that it watches: --request
shows those of one kind, PTRACE_ATTACH and PTRACE_SEIZE for example.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoint.`,
	Examples: []tracer.Example{
		{Args: "ptrace", What: "every call"},
		{Args: "ptrace --request attach", What: "who attaches to whom"},
		{Args: "ptrace -x -C +uid", What: "who is not let"},
		{Args: "ptrace --filter 'request startsWith \"PTRACE_POKE\"'", What: "memory and registers that are changed"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "request", "tpid", "tcomm", "errno"},
	Params: []tracer.Param{{
		Name: "request", Value: "REQUEST", Usage: "only this `REQUEST`, by name (attach) or number",
		Const: bpfVarRequest, Max: 0xffff, Column: "request", Enum: field.ParsePtraceRequest,
	}},
	Decode: decode,
})

// The flags of bpf/ptrace.bpf.c.
const arm64 = 1 << 0

func decode(w *bpfPtraceEvent, _ []byte, e *Event) error {
	e.Request = field.PtraceRequest{Number: w.Request, ARM64: w.Head.Flags&arm64 != 0}
	e.TPID, e.TargetPID, e.TargetTID = field.Int32(w.Tpid), field.Uint32(w.TargetPid), field.Uint32(w.TargetTid)
	e.TComm = w.Tcomm
	e.Addr, e.Data = field.Hex(w.Addr), field.Hex(w.Data)
	e.Ret, e.Errno = field.Int64(w.Ret), field.Errno(0)
	if w.Ret < 0 {
		e.Errno = field.Errno(w.Ret)
	}
	return nil
}
