// SPDX-License-Identifier: Apache-2.0

// Package module traces kernel modules that are loaded and unloaded.
package module

import (
	"bytes"
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type module_event -target amd64,arm64 bpf ../../../bpf/module.bpf.c -- -I../../../bpf/include

// Event is a module that comes or goes, or one call that fails to do that.
type Event struct {
	tracer.Common
	Op        Op           `json:"op" col:"OP,w=6" doc:"load or unload"`
	Name      field.Text   `json:"name" col:"NAME,w=14" doc:"the module's name; of a load that failed, empty"`
	Taints    field.Taints `json:"taints" col:"TAINTS,w=6" doc:"what it taints the kernel with, as in /proc/modules: P proprietary, O not of the kernel's source, E not signed, F forced"`
	Call      Call         `json:"call" col:"CALL,w=13" doc:"the system call that failed, empty for a module that came or went"`
	File      field.Text   `json:"file" col:"FILE" doc:"of a finit_module that failed: absolute path of the module's file"`
	Params    field.Text   `json:"params" col:"PARAMS,w=16" doc:"of a load that failed: the parameters for the module, up to 1023 bytes"`
	Truncated field.Bool   `json:"params_truncated" col:"CUT,w=3" doc:"whether params is not all of them, or not readable"`
	Flags     field.Flags  `json:"flags" col:"FLAGS,w=24" doc:"flags of a finit_module or delete_module that failed"`
	Ret       field.Int32  `json:"ret" col:"RET,w=4,right" doc:"what a failed call returned; else 0"`
	Errno     field.Errno  `json:"errno" col:"ERR,w=9" doc:"the error's name, empty when there was none"`

	file []byte // memory of File, used again for each event
}

// Op is what becomes of the module: whether it goes.
type Op bool

func (o Op) name() string {
	if o {
		return "unload"
	}
	return "load"
}

// AppendText implements field.Value.
func (o Op) AppendText(b []byte) []byte { return append(b, o.name()...) }

// AppendJSON implements field.Value: a string.
func (o Op) AppendJSON(b []byte) []byte { return append(append(append(b, '"'), o.name()...), '"') }

// Call is enum module_call of bpf/module.bpf.c.
type Call uint16

func (c Call) name() string {
	return [...]string{"", "init_module", "finit_module", "delete_module"}[c&3]
}

// AppendText implements field.Value.
func (c Call) AppendText(b []byte) []byte { return append(b, c.name()...) }

// AppendJSON implements field.Value: a string.
func (c Call) AppendJSON(b []byte) []byte { return append(append(append(b, '"'), c.name()...), '"') }

// Tracer is rbtrace module.
var Tracer = tracer.New(tracer.Def[bpfModuleEvent, Event]{
	Name:  "module",
	Short: "Kernel modules that are loaded and unloaded",
	Long: `Shows every kernel module that is loaded, at the moment when it is in place and none of its
code has run, and every one that goes. A module whose own init fails comes, and goes at once.

With --failed it shows the calls of init_module, finit_module and delete_module that fail: no
module at all (ENOEXEC), one that is there already (EEXIST), one that must not be loaded
(EPERM, EKEYREJECTED). Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints
that this needs.

pid and comm are mostly those of modprobe, which the kernel starts itself for what needs a module.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "module", What: "modules that come and go"},
		{Args: "module -x", What: "modules that cannot be loaded or unloaded, with the error"},
		{Args: `module --filter 'taints contains "E"'`, What: "those without a signature"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbModuleLoad}, {Name: bpfProgRbModuleFree}}},
		{Kind: tracer.Tracepoint, Failed: true, Programs: []tracer.Program{{
			Name: bpfProgRbModuleExit, Also: []string{"syscalls/sys_exit_init_module"},
			AlsoIf: []string{"syscalls/sys_exit_delete_module"}, // CONFIG_MODULE_UNLOAD
		}}},
	},
	Columns:       []string{"time", "pid", "comm", "op", "taints", "name"},
	FailedColumns: []string{"time", "pid", "comm", "call", "errno", "name", "file"},
	Decode:        decode,
})

var errLengths = errors.New("the lengths in the record do not add up")

// The flags of bpf/module.bpf.c.
const (
	unload    = 1 << 2
	hasFile   = 1 << 3
	paramsCut = 1 << 4
)

func decode(w *bpfModuleEvent, tail []byte, e *Event) error {
	n, m := int(w.ParamsLen), int(w.FileLen)
	if n+m > len(tail) {
		return errLengths
	}
	flags := w.Head.Flags
	name, _, _ := bytes.Cut(w.Name[:], []byte{0})
	e.Op, e.Call, e.Name, e.Taints = flags&unload != 0, Call(w.Call), name, field.Taints(w.Taints)
	e.Params, e.Truncated = tail[:n:n], flags&paramsCut != 0
	e.File = nil
	if flags&hasFile != 0 {
		e.file = tracer.AppendPath(e.file[:0], tail[n:n+m], tracer.PathFlags(flags)&tracer.PathMask)
		e.File = e.file
	}
	e.Flags = field.Flags{Bits: uint64(w.Flags), Names: field.FinitModuleFlags}
	if e.Op {
		e.Flags.Names = field.DeleteModuleFlags
	}
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(w.Ret)
	return nil
}
