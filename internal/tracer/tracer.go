// SPDX-License-Identifier: Apache-2.0

// Package tracer says what a tracer is: its BPF programs, the hooks they may
// take, its flags, and the columns and JSON keys of its events. Commands, help,
// tables, JSON and documentation all follow from one such declaration. The
// package knows neither the command line nor the kernel.
package tracer

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// HookKind is a way to get at an event.
type HookKind string

// The kinds of hooks, in the order in which auto tries them: tracepoints hold
// across kernel versions and work without CONFIG_KPROBES.
const (
	// KprobeMulti has the programs of tracepoints on functions: those of system calls on the
	// ones that do these calls, those of raw tracepoints on the ones that call their programs.
	// It is for Linux 7.0 and later, which may preempt the program of such a tracepoint, and
	// until its task runs again skips it for every other task on that CPU
	// (trace_call_bpf_faultable and __bpf_trace_run, kernel/trace/bpf_trace.c). Before,
	// kretprobe.multi lost calls, and no counter showed it.
	KprobeMulti HookKind = "kprobe.multi"
	Tracepoint  HookKind = "tracepoint" // classic, raw or BTF
	Fentry      HookKind = "fentry"     // fentry and fexit: BPF trampolines
	Kprobe      HookKind = "kprobe"     // kprobe and kretprobe
	Uprobe      HookKind = "uprobe"     // uprobe and uretprobe: functions of programs and libraries
)

// Kinds returns all kinds, in the order in which auto tries them.
func Kinds() []HookKind { return []HookKind{KprobeMulti, Tracepoint, Fentry, Kprobe, Uprobe} }

// Hook is one set of programs that together deliver a tracer's events. The
// schema is the same whichever hook carries them.
type Hook struct {
	Kind HookKind
	// Failed says that the hook carries the failed calls instead, and is taken
	// for --failed.
	Failed bool
	// Programs are all attached; their ELF sections say where.
	Programs []Program
}

// Program is one BPF program of a hook.
type Program struct {
	Name string // the C function's name
	// Also are more places of the same kind to attach to, written as behind the
	// slash of an ELF section: "syscalls/sys_exit_execveat".
	Also []string
	// AlsoIf are such places that not every kernel or architecture has. It is
	// attached to those that are there.
	AlsoIf []string
	// Files are of a uprobe, and say in which files its functions are: libraries without
	// their version (libssl.so), and programs (bash). It is attached in each file of such
	// a name that is found and has all that the hook's programs with the same Files look for.
	Files []string
	// Atomic says that KprobeMulti leaves it as it is: the kernel comes to the tracepoint where nothing is
	// preempted, or another of the hook's programs has what is missed there.
	Atomic bool
	// Optional says that the function need not be there.
	Optional bool
	// Prepares says that the program makes no events and counts no hits itself, and that
	// none is lost silently where the kernel does not run it: the one that makes events
	// enters a loss then, or shows the event without what was to be prepared. It may also make
	// events, where another one shows those that it misses.
	Prepares bool
	// ForFilters says the same, but where something is filtered by process: what such a
	// filter asks for is then not known, and an event that is wanted not shown.
	ForFilters bool
}

// Example is a command line and what it is for.
type Example struct {
	Args string // without the program's name: "exec -x"
	What string
}

// Def declares a tracer. W is the wire type that bpf2go made of the C struct,
// with the head first; E is the event that people see: a struct that embeds
// Common and whose other fields are field.Values with tags
//
//	`json:"key" col:"HEADER,w=12,right" doc:"what it is"`
//
// (see Column for what they mean).
type Def[W, E any] struct {
	Name     string // the command
	Short    string // one line, as of a man page's NAME
	Long     string // paragraphs for the help and the docs
	Examples []Example
	// Costly says that the tracer costs a busy machine much, since its hooks are hit so
	// often: the help says so, and the command when it falls behind.
	Costly bool

	Load  func() (*ebpf.CollectionSpec, error) // bpf2go's
	Hooks []Hook                               // in the order in which auto tries them

	// Columns are the keys of the default table, in order. FailedColumns are
	// those for --failed; empty means the same.
	Columns, FailedColumns []string

	Params []Param
	Enums  []Enum

	// Decode fills e from one record: w, and tail, the bytes behind it. Both alias
	// ring memory, as e may until the next record. The runtime fills e.Common before.
	// An error counts the record as undecodable.
	Decode func(w *W, tail []byte, e *E) error
}

// Tracer is a declaration with its types erased; make one with New.
type Tracer struct {
	Name, Short, Long      string
	Examples               []Example
	Costly                 bool
	Load                   func() (*ebpf.CollectionSpec, error)
	Hooks                  []Hook
	Columns, FailedColumns []string
	Params                 []Param
	Enums                  []Enum

	// WireSize is the size of the wire type: a record is never shorter.
	WireSize int

	schema     func() Schema
	wireType   reflect.Type
	newDecoder func() *Decoder
}

// New returns a declaration as a Tracer. What it says of types is looked at when that is
// first needed, as a program has many tracers and uses few: it panics then, where the
// declaration is wrong, which is a mistake in this program's source and shows in the
// tests of all tracers.
func New[W, E any](def Def[W, E]) *Tracer {
	if len(def.FailedColumns) == 0 {
		def.FailedColumns = def.Columns
	}
	t := &Tracer{
		Name: def.Name, Short: def.Short, Long: def.Long, Examples: def.Examples, Costly: def.Costly,
		Load: def.Load, Hooks: withFunctions(def.Hooks), Params: def.Params, Enums: def.Enums,
		Columns: def.Columns, FailedColumns: def.FailedColumns,
		WireSize: int(unsafe.Sizeof(*new(W))),
		wireType: reflect.TypeFor[W](),
	}
	t.schema = sync.OnceValue(func() Schema {
		schema, err := t.check(reflect.TypeFor[E]())
		if err != nil {
			panic(fmt.Sprintf("tracer %s: %v", t.Name, err))
		}
		return schema
	})
	t.newDecoder = func() *Decoder {
		e := new(E)
		d := &Decoder{
			Event:  t.Schema().bind(reflect.ValueOf(e).Elem()),
			common: reflect.ValueOf(e).Elem().FieldByName("Common").Addr().Interface().(*Common),
			size:   t.WireSize,
		}
		d.decode = func(rec []byte) error {
			w, tail := view[W](rec)
			return def.Decode(w, tail, e)
		}
		return d
	}
	return t
}

// withFunctions returns hooks with one more of the kind KprobeMulti in front of them, and of those for
// failed calls: with the programs of the first on tracepoints, or else on kprobes. A tracer whose programs are
// never preempted there has none, and one that declares such a hook has that.
func withFunctions(hooks []Hook) (all []Hook) {
	if slices.ContainsFunc(hooks, func(h Hook) bool { return h.Kind == KprobeMulti }) {
		return hooks
	}
	for _, failed := range []bool{false, true} {
		for _, kind := range []HookKind{Tracepoint, Kprobe} {
			i := slices.IndexFunc(hooks, func(h Hook) bool { return h.Failed == failed && h.Kind == kind })
			if i < 0 {
				continue
			}
			if multi := hooks[i]; slices.ContainsFunc(multi.Programs, func(p Program) bool { return !p.Atomic }) {
				multi.Kind = KprobeMulti
				all = append(all, multi)
			}
			break
		}
	}
	return append(all, hooks...)
}

// check returns the schema of the events, if the declaration is right.
func (t *Tracer) check(event reflect.Type) (Schema, error) {
	schema, err := schemaOf(event)
	if err != nil {
		return nil, err
	}
	head, ok := t.wireType.FieldByName("Head")
	if !ok || head.Offset != 0 || head.Type.Size() != unsafe.Sizeof(wire.Head{}) {
		return nil, errors.New("the wire type does not begin with struct rb_head")
	}
	for _, key := range slices.Concat(t.Columns, t.FailedColumns) {
		if schema.Index(key) < 0 {
			return nil, fmt.Errorf("no column %q", key)
		}
	}
	return schema, nil
}

// Schema lists every column, those of Common first.
func (t *Tracer) Schema() Schema { return t.schema() }

// HasFailed reports whether the tracer can show failed calls instead.
func (t *Tracer) HasFailed() bool {
	return slices.ContainsFunc(t.Hooks, func(h Hook) bool { return h.Failed })
}

// Variant returns the program that one of the tracer's hooks has and those that may be tried
// instead of it, of the same kind, have not, or its first one: they are for other kernels, and
// their places may be the same. Empty: there are no such hooks.
func (t *Tracer) Variant(hook *Hook) string {
	others := make(map[string]bool)
	several := false
	for i := range t.Hooks {
		if h := &t.Hooks[i]; h != hook && h.Kind == hook.Kind && h.Failed == hook.Failed {
			several = true
			for _, p := range h.Programs {
				others[p.Name] = true
			}
		}
	}
	if !several {
		return ""
	}
	for _, p := range hook.Programs {
		if !others[p.Name] {
			return p.Name
		}
	}
	return hook.Programs[0].Name
}

// WithHooks returns a tracer like t that has these of its hooks alone.
func (t *Tracer) WithHooks(hooks []Hook) *Tracer {
	with := *t
	with.Hooks = hooks
	return &with
}

// NewDecoder returns a decoder with an event of its own.
func (t *Tracer) NewDecoder() *Decoder { return t.newDecoder() }

// Decoder turns the records of one tracer into events, all in the same memory:
// Event holds one event at a time.
type Decoder struct {
	// Event are the values of the schema's columns, in its order. They change with
	// each Decode.
	Event []field.Value

	common *Common
	size   int
	decode func(rec []byte) error
}

// Decode fills Event from rec, which must be 8-byte aligned, as ring memory is.
// Event may alias rec. wall is what to add to a boot-clock time to get Unix
// time, in ns.
func (d *Decoder) Decode(rec []byte, wall int64) error {
	if len(rec) < d.size {
		return fmt.Errorf("record of %d bytes is shorter than its type (%d)", len(rec), d.size)
	}
	d.common.fill(Head(rec), wall)
	return d.decode(rec)
}

// Time is the instant of the event; set its Style once to choose how tables
// show it.
func (d *Decoder) Time() *field.Time { return &d.common.Time }

// Head returns the head of a record: nil where rec is too short to have one.
func Head(rec []byte) *wire.Head {
	if len(rec) < int(unsafe.Sizeof(wire.Head{})) {
		return nil
	}
	h, _ := view[wire.Head](rec)
	return h
}

// Part returns a record as a part of an event: nil where it has not the length of
// one.
func Part(rec []byte) *wire.Part {
	if len(rec) != int(unsafe.Sizeof(wire.Part{})) {
		return nil
	}
	p, _ := view[wire.Part](rec)
	return p
}

// view returns rec's beginning as a T, and the rest.
//
// This is the package's one use of unsafe. It holds because the caller has
// checked that rec is at least as long as a T, because records are 8-byte aligned
// (kernel/bpf/ringbuf.c; recordings keep it), because T is generated from the C
// struct that the kernel wrote, in the machine's byte order, and because T has
// no pointers, so that any bytes make a valid T.
func view[T any](rec []byte) (*T, []byte) {
	return (*T)(unsafe.Pointer(unsafe.SliceData(rec))), rec[unsafe.Sizeof(*new(T)):]
}
