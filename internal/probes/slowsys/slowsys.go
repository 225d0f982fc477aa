// SPDX-License-Identifier: Apache-2.0

// Package slowsys traces system calls that take long.
package slowsys

import (
	"fmt"
	"math"
	"runtime"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type slowsys_event -target amd64,arm64 bpf ../../../bpf/slowsys.bpf.c -- -I../../../bpf/include

// Event is one system call, when it returns.
type Event struct {
	tracer.Common
	Syscall field.Syscall `json:"syscall" col:"SYSCALL,w=16" doc:"the system call's name, or its number where it has none"`
	Number  field.Uint32  `json:"number" col:"NR,w=4,right" doc:"its number, which the ABI gives a meaning"`
	ABI     field.ABI     `json:"abi" col:"ABI,w=6" doc:"x86_64 or arm64, or of 32-bit programs i386, x32 or arm"`
	Latency field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"how long it took, from its entry into the kernel to its exit, also while the thread slept"`
	Ret     field.Int64   `json:"ret" col:"RET,w=8,right" doc:"what it returned"`
	Errno   field.Errno   `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none; ERESTART… where a signal interrupted it"`
}

// Tracer is rbtrace slowsys.
var Tracer = tracer.New(tracer.Def[bpfSlowsysEvent, Event]{
	Name:  "slowsys",
	Short: "System calls that take long",
	Long: `Shows the system calls that take 10 ms or longer, or as long as --min says, when they return.
Those that are there to wait, as futex, poll, epoll_wait, nanosleep or a read from a terminal,
are shown like all others: --syscall takes one of them all, --filter leaves some out.
Those that were entered before tracing began are not shown, nor those that a seccomp filter
answers, as nobody knows how long they took, nor exit and exit_group, which do not return. One
that a signal interrupts (ERESTARTSYS and its kin) is no failure for --failed: it begins anew, or
the program gets EINTR.

Calls of 32-bit programs are shown as well, with the names that they have there; "abi" tells.

Each system call of all wanted threads takes up to 1 µs longer, however short it is, and those
of others about 0.3 µs. On a busy machine, narrow it to a process, a cgroup or
a command. With --min 0 it shows every call, which can be a million in a second.`,
	Examples: []tracer.Example{
		{Args: "slowsys -p 4711", What: "what a process waits for"},
		{Args: "slowsys --min 100ms --filter 'not (syscall in [\"futex\", \"epoll_wait\", \"poll\", \"ppoll\"])'", What: "without those that wait by design"},
		{Args: "slowsys --syscall fsync --min 1ms", What: "slow disks"},
		{Args: "slowsys --min 0 -- ls", What: "all system calls of a command"},
	},
	Costly: true,

	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "syscall", "latency_ns", "ret", "errno"},
	Params: []tracer.Param{
		{
			Name: "min", Value: "TIME", Usage: "only calls that take this `TIME` or longer: 500us, 10ms, 1s",
			Const: bpfVarMinNs, Max: math.MaxInt64, Duration: true, Default: "10ms", Column: "latency_ns",
		},
		{
			Name: "syscall", Value: "NAME", Usage: "only the system call of this `NAME`, or number", Max: 64, Column: "syscall",
			Text: &tracer.Text{Check: checkSyscall, Constants: syscallConstants, Match: matchSyscall},
		},
	},
	Decode: decode,
})

// What the entry misses, the exit does not know to be a loss: so its misses count.
var programs = []tracer.Program{
	{Name: bpfProgRbSlowsysEnter},
	{Name: bpfProgRbSlowsys},
	{Name: bpfProgRbSlowsysEnd, Prepares: true},
}

// abis are those of this machine's kernel.
func abis() (native, compat field.ABI) {
	if runtime.GOARCH == "arm64" {
		return field.ARM64, field.ARM
	}
	return field.X86, field.I386
}

func checkSyscall(name string) error {
	native, compat := abis()
	_, ok := field.FindSyscall(name, native)
	_, ok32 := field.FindSyscall(name, compat)
	if !ok && !ok32 {
		return fmt.Errorf("there is no system call %q", name)
	}
	return nil
}

func syscallConstants(name string) map[string]any {
	number := func(abi field.ABI) uint64 {
		n, ok := field.FindSyscall(name, abi)
		if !ok {
			return math.MaxUint32 // which none has
		}
		return uint64(n)
	}
	native, compat := abis()
	return map[string]any{
		bpfVarBySyscall: true, bpfVarSyscallNr: number(native), bpfVarSyscallNr32: number(compat),
	}
}

func matchSyscall(value field.Value, name string) bool {
	s := value.(*field.Syscall)
	n, ok := field.FindSyscall(name, s.ABI)
	return ok && n == s.Number
}

func decode(w *bpfSlowsysEvent, _ []byte, e *Event) error {
	e.Number, e.ABI = field.Uint32(w.Nr), field.ABI(min(w.Abi, math.MaxUint8))
	e.Syscall = field.Syscall{Number: w.Nr, ABI: e.ABI}
	e.Latency, e.Ret, e.Errno = field.Latency(w.Latency), field.Int64(w.Ret), 0
	const highest = 4095 // MAX_ERRNO, include/linux/err.h
	if w.Ret < 0 && w.Ret >= -highest {
		e.Errno = field.Errno(w.Ret)
	}
	return nil
}
