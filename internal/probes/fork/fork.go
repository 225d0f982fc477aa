// SPDX-License-Identifier: Apache-2.0

// Package fork traces processes and threads that are made.
package fork

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type fork_event -target amd64,arm64 bpf ../../../bpf/fork.bpf.c -- -I../../../bpf/include

// Event is one fork, vfork, clone or clone3 that succeeded.
type Event struct {
	tracer.Common
	Child  field.Uint32     `json:"child_pid" col:"CHILD,w=7,right" doc:"process id of what was made: for a thread that of its process"`
	CTID   field.Uint32     `json:"child_tid" col:"CTID,w=7,right" doc:"its thread id"`
	Thread field.Bool       `json:"thread" col:"THREAD,w=6" doc:"whether it is a thread of the caller's process"`
	Flags  field.CloneFlags `json:"flags" col:"FLAGS" doc:"the flags of clone, also where a C library's fork is one; of vfork CLONE_VM and CLONE_VFORK"`
}

// Tracer is rbtrace fork.
var Tracer = tracer.New(tracer.Def[bpfForkEvent, Event]{
	Name:  "fork",
	Short: "Processes and threads that are made",
	Long: `Shows every process and every thread that is made, by whichever of fork, vfork, clone and
clone3, before it runs. pid and the other common columns are those of the caller; the child
has the caller's name until it chooses another. Threads of the kernel's own are made by
kthreadd.

A child made with CLONE_PARENT has another parent than the caller.`,
	Examples: []tracer.Example{
		{Args: "fork", What: "every process and thread that is made"},
		{Args: "fork --filter '!thread'", What: "processes alone"},
		{Args: "fork -o json --filter '\"CLONE_NEWUSER\" in flags'", What: "user namespaces made by clone"},
		{Args: "trace fork,exec,exit -- make", What: "the life of all processes of a build"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbFork}}},
	},
	Columns: []string{"time", "pid", "comm", "child_pid", "child_tid", "thread", "flags"},
	Decode:  decode,
})

func decode(w *bpfForkEvent, _ []byte, e *Event) error {
	e.Child, e.CTID = field.Uint32(w.ChildPid), field.Uint32(w.ChildTid)
	e.Thread = w.ChildPid != w.ChildTid
	e.Flags = field.CloneFlags(w.Flags)
	return nil
}
