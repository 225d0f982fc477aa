// SPDX-License-Identifier: Apache-2.0

// Package signal traces signals.
package signal

import (
	"strconv"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type signal_event -target amd64,arm64 bpf ../../../bpf/signal.bpf.c -- -I../../../bpf/include

// Event is one signal, or one call that did not send it.
type Event struct {
	tracer.Common
	Signal field.Signal `json:"signal" col:"SIGNAL,w=11" doc:"the signal, empty for none (kill -0)"`
	TPID   field.Int32  `json:"tpid" col:"TPID,w=7,right" doc:"process id of whom it is for; of a failed call what kill was given: 0 and below mean process groups"`
	TTID   field.Int32  `json:"ttid" col:"TTID,w=7,right" doc:"thread id of whom it is for: of a signal to a process, the thread that was found first; of a failed kill 0"`
	TComm  field.Comm   `json:"tcomm" col:"TCOMM,w=13" doc:"name of whom it is for"`
	Group  field.Bool   `json:"to_process" col:"GROUP,w=5" doc:"whether it is for the process, and not for that thread alone"`
	Kernel field.Bool   `json:"from_kernel" col:"KERNEL,w=6" doc:"whether it is the kernel's own doing; then pid is who was running"`
	Code   Code         `json:"code" col:"CODE,w=9" doc:"si_code: SI_USER by kill, SI_TKILL by tkill and tgkill, SI_KERNEL by the kernel, others by number"`
	Result Result       `json:"result" col:"RESULT,w=9" doc:"delivered, ignored, pending (it was already), overflow or lost info (no memory for it); empty for a failed call"`
	Ret    field.Int32  `json:"ret" col:"RET,w=4,right" doc:"what a failed call returned; else 0"`
	Errno  field.Errno  `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
}

// Code is a signal's si_code.
type Code int32

func (c Code) append(b []byte) []byte {
	// include/uapi/asm-generic/siginfo.h
	switch c {
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

// Tracer is rbtrace signal.
var Tracer = tracer.New(tracer.Def[bpfSignalEvent, Event]{
	Name:  "signal",
	Short: "Signals that are sent",
	Long: `Shows every signal, whoever sends it: by kill, tkill, tgkill, sigqueue, the terminal, a timer,
a crash, or the end of a child. With --failed it shows the calls of kill, tkill and tgkill
that fail instead. A signal to a process group is one for each process.

pid and comm are whose doing it is, and for a signal of the kernel's who was running when
it came: a child that ends, a program that crashes, or anybody for a timer. Signals that the
target ignores are shown, too. kill -0 sends none.`,
	Examples: []tracer.Example{
		{Args: "signal", What: "every signal"},
		{Args: "signal --signal 9", What: "who kills whom"},
		{Args: "signal -x", What: "kills that fail"},
		{Args: "signal --filter 'signal == \"SIGSEGV\" && from_kernel'", What: "crashes"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbSignal}}},
		{Kind: tracer.Tracepoint, Failed: true, Programs: []tracer.Program{{
			Name: bpfProgRbSignalExit, Also: []string{"syscalls/sys_exit_tkill", "syscalls/sys_exit_tgkill"},
		}}},
	},
	Columns:       []string{"time", "pid", "comm", "signal", "tpid", "tcomm", "result"},
	FailedColumns: []string{"time", "pid", "comm", "signal", "tpid", "ttid", "errno"},
	Params: []tracer.Param{{
		Name: "signal", Value: "NUMBER", Usage: "only the signal of this number", Const: bpfVarSignal, Max: 64,
	}},
	Decode: decode,
})

// The flags of bpf/signal.bpf.c.
const (
	group = 1 << iota
	kernel
	target
)

func decode(w *bpfSignalEvent, _ []byte, e *Event) error {
	e.Signal = field.Signal(uint32(w.Sig))
	e.TPID, e.TTID, e.TComm = field.Int32(w.Tpid), field.Int32(w.Ttid), w.Tcomm
	e.Group, e.Kernel = w.Head.Flags&group != 0, w.Head.Flags&kernel != 0
	e.Code, e.Result = Code(w.Code), Result(w.Result)
	if w.Head.Flags&target != 0 {
		e.Result = -1
	}
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(w.Ret)
	return nil
}
