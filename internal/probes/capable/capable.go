// SPDX-License-Identifier: Apache-2.0

// Package capable traces the capabilities that the kernel asks for.
package capable

import (
	"math"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type capable_event -target amd64,arm64 bpf ../../../bpf/capable.bpf.c -- -I../../../bpf/include

// Event is one question for a capability, and the answer.
type Event struct {
	tracer.Common
	Cap     field.Capability `json:"cap" col:"CAP,w=22" doc:"the capability; what has no name as a number"`
	Verdict Verdict          `json:"verdict" col:"VERDICT,w=7" doc:"allowed or denied"`
	Ret     field.Int32      `json:"ret" col:"RET,w=4,right" doc:"what the kernel's function returned: 0, or the negative error number"`
	Audit   field.Maybe      `json:"audit" col:"AUDIT,w=5" doc:"yes: what is done depends on it, and a denial is worth an audit message; no: the kernel only wants to know; empty where the hook does not tell, which is the tracepoint"`
	SetID   field.Maybe      `json:"insetid" col:"INSETID,w=7" doc:"whether it is asked for within a call like setuid; empty where the hook does not tell"`
	Own     field.Bool       `json:"own" col:"OWN,w=3" doc:"whether the credentials are the task's own: not those of another task, of who opened a file or socket, of who mounted an overlay, or of the real user for access(2)"`
	Syscall Syscall          `json:"syscall" col:"SYSCALL,w=14" doc:"name or number of the system call during which it was asked; empty where there is none, and before Linux 5.15"`
	UserNS  field.Uint32     `json:"user_ns" col:"USERNS,w=10,right" doc:"the user namespace that the capability is needed in, as an inode number: /proc/PID/ns/user"`
}

// Syscall is a system call, or none.
type Syscall struct{ field.Syscall }

// noSyscall is RB_NO_SYSCALL of bpf/include/rbtrace/abi.h.
const noSyscall = math.MaxUint32

// AppendText implements field.Value.
func (s Syscall) AppendText(b []byte) []byte {
	if s.Number == noSyscall {
		return b
	}
	return s.Syscall.AppendText(b)
}

// AppendJSON implements field.Value: a string.
func (s Syscall) AppendJSON(b []byte) []byte {
	return append(s.AppendText(append(b, '"')), '"')
}

// Verdict is an answer: whether it is no.
type Verdict bool

func (v Verdict) name() string {
	if v {
		return "denied"
	}
	return "allowed"
}

// AppendText implements field.Value.
func (v Verdict) AppendText(b []byte) []byte { return append(b, v.name()...) }

// AppendJSON implements field.Value: a string.
func (v Verdict) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), v.name()...), '"')
}

// The hooks, which are the same for --failed.
func hooks() (hooks []tracer.Hook) {
	for _, failed := range []bool{false, true} {
		hooks = append(hooks,
			tracer.Hook{Kind: tracer.Tracepoint, Failed: failed, Programs: []tracer.Program{{Name: bpfProgRbCapable}}},
			tracer.Hook{Kind: tracer.Fentry, Failed: failed, Programs: []tracer.Program{{Name: bpfProgRbCapableFexit}}},
			tracer.Hook{Kind: tracer.Kprobe, Failed: failed, Programs: []tracer.Program{
				// The one that is attached last runs first: the kretprobe takes the way back out of the stack.
				{Name: bpfProgRbCapableKretprobe},
				{Name: bpfProgRbCapableKprobe},
			}},
		)
	}
	return hooks
}

// Tracer is rbtrace capable.
var Tracer = tracer.New(tracer.Def[bpfCapableEvent, Event]{
	Name:  "capable",
	Short: "Capabilities that are asked for, and whether they are there",
	Long: `Shows every time that the kernel looks whether a task has a capability, and the answer; with
--failed only where it has not. So one sees what a service needs, and what it is not let.

Many of these questions are about no right that anybody wants: the kernel asks for
CAP_SYS_ADMIN, without audit, whenever memory is mapped, to know whether it may touch the last
reserve. audit tells them apart, where the hook is a function (--hook fentry or kprobe). Newer
kernels have a tracepoint (capability:cap_capable), which is taken first, and that does not tell.
On those without, some questions, that one among them, may not be seen: the compiler can make the
function a part of others in the same file.

uid, gid and --uid mean the user that the task is, also where it is asked with the rights of
another: own tells.

It is one of the most frequent events of a machine: several for each program that starts.
--cap shows one capability alone.`,
	Examples: []tracer.Example{
		{Args: "capable -x", What: "capabilities that somebody lacks"},
		{Args: "capable --cap net_admin", What: "who changes the network"},
		{Args: "capable -C cap,verdict,comm,syscall -- su nobody -s /bin/true", What: "what a command needs"},
		{Args: "capable -x --stack both -o json", What: "what asked for what was not there, in the kernel and in the program"},
		{Args: `capable --hook fentry --filter 'audit == "yes"'`, What: "without what the kernel only wants to know"},
	},
	Load:    loadBpf,
	Hooks:   hooks(),
	Columns: []string{"time", "uid", "pid", "comm", "cap", "verdict", "audit"},
	Params: []tracer.Param{{
		Name: "cap", Value: "NAME", Usage: "only the capability of this `NAME` (sys_admin) or number",
		Const: bpfVarCap, Max: 63, Column: "cap", Enum: field.ParseCapability,
	}, tracer.Stacks(tracer.KernelStack | tracer.UserStack)},
	Decode: decode,
})

// The flags of bpf/capable.bpf.c.
const (
	noAudit = 1 << iota
	inSetID
	options
	own
)

func decode(w *bpfCapableEvent, _ []byte, e *Event) error {
	flags := w.Head.Flags
	e.Cap = field.Capability(w.Cap)
	e.Ret, e.Verdict = field.Int32(w.Ret), w.Ret < 0
	known := flags&options != 0
	e.Audit = field.Maybe{Known: known, Yes: flags&noAudit == 0}
	e.SetID = field.Maybe{Known: known, Yes: flags&inSetID != 0}
	e.Own = flags&own != 0
	e.Syscall = Syscall{field.Syscall{Number: w.Syscall.Nr, ABI: field.ABI(w.Syscall.Abi)}}
	e.UserNS = field.Uint32(w.UserNs)
	return nil
}
