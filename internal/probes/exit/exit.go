// SPDX-License-Identifier: Apache-2.0

// Package exit traces processes that end.
package exit

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type exit_event -target amd64,arm64 bpf ../../../bpf/exit.bpf.c -- -I../../../bpf/include

// Event is the end of one process.
type Event struct {
	tracer.Common
	Age    field.Latency `json:"age_ns" col:"AGE,w=9,right" doc:"how long the process lived"`
	Code   field.Int32   `json:"code" col:"CODE,w=4,right,void=-1" doc:"exit status; -1 where a signal ended it"`
	Signal field.Signal  `json:"signal" col:"SIGNAL,w=11" doc:"the signal that ended it, empty where none did"`
	Signo  field.Int32   `json:"signo" col:"SIGNO,w=5,right" doc:"the same by its number, 0 where none did"`
	Core   field.Bool    `json:"core_dumped" col:"CORE,w=4" doc:"whether a core was dumped"`
}

// Tracer is rbtrace exit.
var Tracer = tracer.New(tracer.Def[bpfExitEvent, Event]{
	Name:  "exit",
	Short: "Processes that end",
	Long: `Shows every process that ends, when the last of its threads does: its exit status, or the
signal that killed it, and how long it lived. Threads that end before the last are not
shown. An exec does not make a process younger.

tid is the thread that ended last. A parent learns of the end a moment later.`,
	Examples: []tracer.Example{
		{Args: "exit", What: "every process that ends"},
		{Args: "exit -x", What: "those that end with another status than 0, or by a signal"},
		{Args: "exit --filter 'signal == \"SIGSEGV\"'", What: "those that crash"},
		{Args: "exit -o json | jq 'select(.age_ns < 1e7)'", What: "the short-lived ones"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbExit}}},
		{Kind: tracer.Tracepoint, Failed: true, Programs: []tracer.Program{{Name: bpfProgRbExit}}},
	},
	Columns: []string{"time", "pid", "ppid", "comm", "age_ns", "code", "signal", "core_dumped"},
	Decode:  decode,
})

func decode(w *bpfExitEvent, _ []byte, e *Event) error {
	// wait(2): the signal, whether there is a core, and above them the exit status.
	const signal, core, shift = 0x7f, 0x80, 8
	e.Age = field.Latency(w.Age)
	e.Signal, e.Core = field.Signal(w.Status&signal), w.Status&core != 0
	e.Code = field.Int32(w.Status >> shift & 0xff)
	e.Signo = field.Int32(e.Signal)
	if e.Signal != 0 {
		e.Code = -1
	}
	return nil
}
