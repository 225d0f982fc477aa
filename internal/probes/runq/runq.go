// SPDX-License-Identifier: Apache-2.0

// Package runq traces threads that wait long for a CPU.
package runq

import (
	"math"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type runq_event -target amd64,arm64 bpf ../../../bpf/runq.bpf.c -- -I../../../bpf/include

// Event is a thread that gets a CPU.
type Event struct {
	tracer.Common
	Latency   field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"how long it waited"`
	Preempted field.Bool    `json:"preempted" col:"PREEMPT,w=7" doc:"whether it had run before and had to make room; else it was woken"`
	PrevPID   field.Uint32  `json:"prev_pid" col:"PREVPID,w=7,right" doc:"process id of who had the CPU before, 0 where it was idle"`
	PrevTID   field.Uint32  `json:"prev_tid" col:"PREVTID,w=7,right" doc:"thread id of who had the CPU before, 0 where it was idle"`
	PrevComm  field.Comm    `json:"prev_comm" col:"PREVCOMM,w=15" doc:"name of who had the CPU before: swapper/N where it was idle"`
}

// Tracer is rbtrace runq.
var Tracer = tracer.New(tracer.Def[bpfRunqEvent, Event]{
	Name:  "runq",
	Short: "Threads that wait long for a CPU",
	Long: `Shows the threads that could run and waited for a CPU for 10 ms or longer, or as long as --min
says, when they get it: from when they were woken, or had to make room for others, in the run queue.
Who had the CPU just before need not have had it all that time.

pid and comm are those of the thread that waited. All filters apply to it; a cgroup at most
32 levels below --cgroup belongs to it. Idle CPUs count for nobody, nor do threads that waited
already when tracing began until they wait again.

Each wakeup and each switch from one thread to another runs a program, at least 0.1 µs, and for
the threads that are wanted several times as much. Machines have up to a million of these in
a second. With --min 0 every switch is an event, those to rbtrace itself among them.`,
	Examples: []tracer.Example{
		{Args: "runq", What: "threads that wait for a CPU for 10 ms and more"},
		{Args: "runq -p 4711 --min 1ms", What: "of one process, from 1 ms on"},
		{Args: "runq --filter 'cpu == 3'", What: "who waits for one CPU"},
	},
	Costly: true,

	Load: loadBpf,
	Hooks: []tracer.Hook{{Kind: tracer.Tracepoint, Programs: []tracer.Program{
		// What these miss, rb_runq does not know to be a loss: so their misses count.
		{Name: bpfProgRbRunqWakeup, Also: []string{"sched_wakeup_new"}, Atomic: true},
		{Name: bpfProgRbRunq, Atomic: true},
	}}},
	Columns: []string{"time", "pid", "comm", "latency_ns", "preempted", "prev_tid", "prev_comm"},
	Params: []tracer.Param{{
		Name: "min", Value: "TIME", Usage: "only threads that waited for this `TIME` or longer: 500us, 10ms, 1s",
		Const: bpfVarMinNs, Max: math.MaxInt64, Duration: true, Default: "10ms", Column: "latency_ns",
	}},
	Decode: decode,
})

// preempted is the flag of the record's head.
const preempted = 1

func decode(w *bpfRunqEvent, _ []byte, e *Event) error {
	e.Latency, e.Preempted = field.Latency(w.Latency), w.Head.Flags&preempted != 0
	e.PrevPID, e.PrevTID, e.PrevComm = field.Uint32(w.PrevPid), field.Uint32(w.PrevTid), w.PrevComm
	return nil
}
