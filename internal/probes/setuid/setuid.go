// SPDX-License-Identifier: Apache-2.0

// Package setuid traces threads that change their user or group ids.
package setuid

import (
	"errors"
	"strconv"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type setuid_event -type setuid_ids -target amd64,arm64 bpf ../../../bpf/setuid.bpf.c -- -I../../../bpf/include

// Event is one call that changes ids, or shall.
type Event struct {
	tracer.Common
	Call         Call         `json:"call" col:"CALL,w=9" doc:"the system call"`
	Given        Given        `json:"given" col:"GIVEN,w=11" doc:"the ids as given, in the caller's user namespace, -1 for one that shall stay; of setgroups how many"`
	Before       IDs          `json:"old" col:"OLD,w=11" doc:"the ids before: real/effective/saved, the one for file systems behind them where it is another than the effective one, and one number where all are the same; of setgroups the first 16 supplementary groups"`
	After        IDs          `json:"new" col:"NEW,w=11" doc:"the ids after, in the same way"`
	OldReal      field.Uint32 `json:"old_real" col:"OLDR,w=5,right" doc:"real user id before; of a call for groups, also below, the group id"`
	OldEffective field.Uint32 `json:"old_effective" col:"OLDE,w=5,right" doc:"effective id before"`
	OldSaved     field.Uint32 `json:"old_saved" col:"OLDS,w=5,right" doc:"saved id before"`
	OldFS        field.Uint32 `json:"old_fs" col:"OLDFS,w=5,right" doc:"id for file systems before"`
	NewReal      field.Uint32 `json:"new_real" col:"NEWR,w=5,right" doc:"real id after"`
	NewEffective field.Uint32 `json:"new_effective" col:"NEWE,w=5,right" doc:"effective id after"`
	NewSaved     field.Uint32 `json:"new_saved" col:"NEWS,w=5,right" doc:"saved id after"`
	NewFS        field.Uint32 `json:"new_fs" col:"NEWFS,w=5,right" doc:"id for file systems after"`
	OldGroups    field.Uint32 `json:"old_groups" col:"OLDG,w=5,right" doc:"number of supplementary groups before"`
	NewGroups    field.Uint32 `json:"new_groups" col:"NEWG,w=5,right" doc:"number of supplementary groups after"`
	Ret          field.Int64  `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number; of setfsuid and setfsgid, which know no error, the id before"`
	Errno        field.Errno  `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
}

// Call is a system call: enum setuid_calls of bpf/setuid.bpf.c.
type Call uint32

var calls = [...]string{
	"setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid", "setgroups",
}

// How many ids each takes.
var arguments = [len(calls)]int{1, 2, 3, 1, 1, 2, 3, 1, 1}

const setgroups Call = 8

// AppendText implements field.Value.
func (c Call) AppendText(b []byte) []byte { return append(b, calls[c]...) }

// AppendJSON implements field.Value: a string.
func (c Call) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), calls[c]...), '"')
}

// Given are the arguments of a call, ids of its kind.
type Given struct {
	args [3]uint32
	n    int
}

// AppendText implements field.Value.
func (g Given) AppendText(b []byte) []byte {
	for i, arg := range g.args[:g.n] {
		if i > 0 {
			b = append(b, ',')
		}
		if arg == 1<<32-1 {
			b = append(b, "-1"...)
		} else {
			b = strconv.AppendUint(b, uint64(arg), 10)
		}
	}
	return b
}

// AppendJSON implements field.Value: a string.
func (g Given) AppendJSON(b []byte) []byte { return append(g.AppendText(append(b, '"')), '"') }

// IDs are the ids of the kind that a call changes.
type IDs struct {
	ids       field.IDs
	groups    field.Groups
	areGroups bool
}

// AppendText implements field.Value.
func (i IDs) AppendText(b []byte) []byte {
	if i.areGroups {
		return i.groups.AppendText(b)
	}
	return i.ids.AppendText(b)
}

// AppendJSON implements field.Value: a string.
func (i IDs) AppendJSON(b []byte) []byte { return append(i.AppendText(append(b, '"')), '"') }

// of returns the places of the nine calls in a group of tracepoints, but for the first.
func of(prefix string) []string {
	var places []string
	for _, call := range calls[1:] {
		places = append(places, prefix+call)
	}
	return places
}

var programs = []tracer.Program{
	{Name: bpfProgRbSetuidEnter, Also: of("syscalls/sys_enter_"), ForFilters: true},
	{Name: bpfProgRbSetuid, Also: of("syscalls/sys_exit_")},
}

// Tracer is rbtrace setuid.
var Tracer = tracer.New(tracer.Def[bpfSetuidEvent, Event]{
	Name:  "setuid",
	Short: "Threads that change their user or group ids",
	Long: `Shows every call of setuid, setreuid, setresuid, setfsuid, of the same for groups, and of
setgroups, with the ids before and after. With --failed it shows those that fail; setfsuid
and setfsgid tell no failure, and are among them only where a seccomp filter says no.

uid, gid and --uid mean the caller before the call. The ids old and new are those of the
initial user namespace, as uid is; given is what the caller's own has. A C library makes the
call in each thread of a process, so there is an event for each.

A program with the set-user-ID bit changes ids without a call: rbtrace exec shows what it runs
with, as euid and egid. Calls of
32-bit programs on a 64-bit kernel do not pass the tracepoints.`,
	Examples: []tracer.Example{
		{Args: "setuid", What: "every change of ids"},
		{Args: "setuid -x", What: "changes that are not allowed"},
		{Args: "setuid --filter 'old_effective != 0 && new_effective == 0'", What: "who becomes root"},
		{Args: "setuid -C +given -- su - nobody -s /bin/true", What: "how a command gives up its rights"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "call", "old", "new", "errno"},
	Decode:  decode,
})

var errCall = errors.New("the record has no such call")

func decode(w *bpfSetuidEvent, _ []byte, e *Event) error {
	if w.Call >= uint32(len(calls)) {
		return errCall
	}
	e.Call = Call(w.Call)
	e.Given = Given{args: w.Args, n: arguments[e.Call]}
	e.Before = ids(&w.Before, e.Call)
	e.After = ids(&w.After, e.Call)
	e.OldReal, e.OldEffective = field.Uint32(w.Before.Real), field.Uint32(w.Before.Effective)
	e.OldSaved, e.OldFS = field.Uint32(w.Before.Saved), field.Uint32(w.Before.Fs)
	e.NewReal, e.NewEffective = field.Uint32(w.After.Real), field.Uint32(w.After.Effective)
	e.NewSaved, e.NewFS = field.Uint32(w.After.Saved), field.Uint32(w.After.Fs)
	e.OldGroups, e.NewGroups = field.Uint32(w.Before.Ngroups), field.Uint32(w.After.Ngroups)
	e.Ret, e.Errno = field.Int64(w.Ret), field.Errno(min(w.Ret, 0))
	return nil
}

// ids returns the ids that w has, whose groups alias it.
func ids(w *bpfSetuidIds, call Call) IDs {
	return IDs{
		ids:       field.IDs{Real: w.Real, Effective: w.Effective, Saved: w.Saved, FS: w.Fs},
		groups:    field.Groups{IDs: w.Groups[:min(int(w.Ngroups), len(w.Groups))], Count: w.Ngroups},
		areGroups: call == setgroups,
	}
}
