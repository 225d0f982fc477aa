// SPDX-License-Identifier: Apache-2.0

// Package signal traces signals.
package signal

import (
	"errors"
	"math"
	"strconv"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type signal_event -target amd64,arm64 bpf ../../../bpf/signal.bpf.c -- -I../../../bpf/include

// Event is one signal, or one call that did not send it.
type Event struct {
	tracer.Common
	Signal field.Signal `json:"signal" col:"SIGNAL,w=11" doc:"the signal, empty for none (kill -0)"`
	Signo  field.Int32  `json:"signo" col:"SIGNO,w=5,right" doc:"the same by its number"`
	TPID   field.Int32  `json:"tpid" col:"TPID,w=7,right" doc:"process id of whom it is for; of a failed call what that was given: 0 and below mean process groups, but for tkill, which is given a thread and has 0 here, and for pidfd_send_signal, which has the id that its descriptor was made for, or -1 where that is none of a process"`
	TTID   field.Int32  `json:"ttid" col:"TTID,w=7,right" doc:"thread id of whom it is for: of a signal to a process, the thread that was found first; of a failed call the one that it was given, 0 for a process"`
	TComm  field.Comm   `json:"tcomm" col:"TCOMM,w=13" doc:"name of whom it is for"`
	Group  field.Bool   `json:"to_process" col:"GROUP,w=5" doc:"whether it is for the process, and not for that thread alone"`
	Kernel field.Bool   `json:"from_kernel" col:"KERNEL,w=6" doc:"whether it is the kernel's own doing; then pid is who was running"`
	Code   Code         `json:"si_code" col:"CODE,w=9" doc:"si_code: SI_USER by kill, SI_TKILL by tkill and tgkill, SI_QUEUE by sigqueue, SI_TIMER by a timer of timer_create, SI_MESGQ by a message queue, SI_ASYNCIO and SI_SIGIO by asynchronous I/O, SI_KERNEL by the kernel, others by number; empty for a failed call"`
	Result Result       `json:"result" col:"RESULT,w=9" doc:"delivered, ignored, pending (it was already), overflow or lost info (no memory for it); empty for a failed call"`
	Call   Call         `json:"call" col:"CALL,w=17" doc:"the system call that failed; else empty"`
	Ret    field.Int32  `json:"ret" col:"RET,w=4,right" doc:"what a failed call returned; else 0"`
	Errno  field.Errno  `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
}

// Code is a signal's si_code, or noCode.
type Code int32

// noCode is none that the kernel has.
const noCode Code = math.MinInt32

func (c Code) append(b []byte) []byte {
	// include/uapi/asm-generic/siginfo.h
	switch c {
	case noCode:
		return b
	case 0:
		return append(b, "SI_USER"...)
	case 0x80:
		return append(b, "SI_KERNEL"...)
	case -1:
		return append(b, "SI_QUEUE"...)
	case -2:
		return append(b, "SI_TIMER"...)
	case -3:
		return append(b, "SI_MESGQ"...)
	case -4:
		return append(b, "SI_ASYNCIO"...)
	case -5:
		return append(b, "SI_SIGIO"...)
	case -6:
		return append(b, "SI_TKILL"...)
	}
	return strconv.AppendInt(b, int64(c), 10)
}

// AppendText implements field.Value.
func (c Code) AppendText(b []byte) []byte { return c.append(b) }

// AppendJSON implements field.Value: a string.
func (c Code) AppendJSON(b []byte) []byte { return append(c.append(append(b, '"')), '"') }

// Result is what became of a signal: enum of include/trace/events/signal.h, and -1
// where there is none.
type Result int32

func (r Result) append(b []byte) []byte {
	names := [...]string{"delivered", "ignored", "pending", "overflow", "lost info"}
	switch {
	case r < 0:
		return b
	case int(r) < len(names):
		return append(b, names[r]...)
	}
	return strconv.AppendInt(b, int64(r), 10)
}

// AppendText implements field.Value.
func (r Result) AppendText(b []byte) []byte { return r.append(b) }

// AppendJSON implements field.Value: a string.
func (r Result) AppendJSON(b []byte) []byte { return append(r.append(append(b, '"')), '"') }

// Call is a system call: enum signal_calls of bpf/signal.bpf.c.
type Call uint32

var calls = [...]string{"", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}

// AppendText implements field.Value.
func (c Call) AppendText(b []byte) []byte { return append(b, calls[c]...) }

// AppendJSON implements field.Value: a string.
func (c Call) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), calls[c]...), '"')
}

// exits returns the places of the calls' exits, but for the first.
func exits() []string {
	var places []string
	for _, call := range calls[2:] {
		places = append(places, "syscalls/sys_exit_"+call)
	}
	return places
}

// Tracer is rbtrace signal.
var Tracer = tracer.New(tracer.Def[bpfSignalEvent, Event]{
	Name:  "signal",
	Short: "Signals that are sent",
	Long: `Shows every signal, whoever sends it: by kill, tkill, tgkill, sigqueue, a pidfd, the terminal,
a timer, a crash, or the end of a child. With --failed it shows the calls that fail instead:
kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo and pidfd_send_signal. A signal to a
process group is one for each process.

pid and comm are whose doing it is, and for a signal of the kernel's who was running when
it came: a child that ends, a program that crashes, who writes to a message queue, or anybody
for a timer. si_code and with it from_kernel are what the signal says of itself: a process can
send one that looks as if it came from a timer, or to itself from the kernel
(rt_sigqueueinfo). Signals that the target ignores are shown, too. kill -0 sends none.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints that --failed needs.`,
	Examples: []tracer.Example{
		{Args: "signal", What: "every signal"},
		{Args: "signal --signal KILL", What: "who kills whom"},
		{Args: "signal -x", What: "kills that fail"},
		{Args: "signal --filter 'signal == \"SIGSEGV\" && from_kernel'", What: "crashes"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbSignal, Atomic: true}}},
		{Kind: tracer.Tracepoint, Failed: true, Programs: []tracer.Program{{
			Name: bpfProgRbSignalExit, Also: exits(),
		}}},
	},
	Columns:       []string{"time", "pid", "comm", "signal", "tpid", "tcomm", "result"},
	FailedColumns: []string{"time", "pid", "comm", "signal", "tpid", "ttid", "errno"},
	Params: []tracer.Param{{
		Name: "signal", Value: "SIGNAL", Usage: "only this `SIGNAL`, by name (KILL, SIGKILL) or number; 0: none, as of kill -0",
		Const: bpfVarSignal, Max: 64, Column: "signal", Enum: field.ParseSignal,
	}},
	Decode: decode,
})

// The flags of bpf/signal.bpf.c.
const (
	group = 1 << iota
	kernel
)

var errCall = errors.New("the record has no such call")

func decode(w *bpfSignalEvent, _ []byte, e *Event) error {
	if w.Call >= uint32(len(calls)) {
		return errCall
	}
	e.Signal, e.Signo = field.Signal(w.Sig), field.Int32(w.Sig)
	e.TPID, e.TTID, e.TComm = field.Int32(w.Tpid), field.Int32(w.Ttid), w.Tcomm
	e.Group, e.Kernel = w.Head.Flags&group != 0, w.Head.Flags&kernel != 0
	e.Code, e.Result, e.Call = Code(w.Code), Result(w.Result), Call(w.Call)
	if e.Call != 0 {
		e.Code, e.Result = noCode, -1
	}
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(w.Ret)
	return nil
}
