// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// StackKind is one of the stacks that a task has (enum rb_stack_kinds of
// bpf/include/rbtrace/stack.h).
type StackKind uint32

// The kinds.
const (
	KernelStack StackKind = 1 << iota
	UserStack
)

// stackDepth is RB_STACK_DEPTH, and stackKinds how many stacks are behind a record that has any.
const (
	stackDepth = 127
	stackKinds = 2
)

// StackParam is the Name of the Param that Stacks returns.
const StackParam = "stack"

// Stacks returns the Param of tracers that can show stacks of these kinds. Their programs end a
// record with rb_fill_stacks, and Decode may ignore what is behind its record.
func Stacks(kinds StackKind) Param {
	values, list := []string{"kernel"}, "kernel"
	if kinds&UserStack != 0 {
		values, list = append(values, "user", "both"), "kernel, user or both"
	}
	return Param{
		Name: StackParam, Value: "WHICH", Max: 6, Text: &Text{
			Check: func(text string) error {
				if !slices.Contains(values, text) {
					return errors.New("want " + list)
				}
				return nil
			},
			Constants: func(text string) map[string]any {
				return map[string]any{"rb_stacks": uint64(StackKindOf(text))}
			},
		},
		Usage: "show by which functions it came to the event, the innermost first; `WHICH` stack: " + list,
	}
}

// StackKindOf returns the kinds that a value of that Param stands for.
func StackKindOf(text string) StackKind {
	switch text {
	case "kernel":
		return KernelStack
	case "user":
		return UserStack
	case "both":
		return KernelStack | UserStack
	}
	return 0
}

// stackColumns are the columns that WithStacks adds.
var stackColumns = map[StackKind]Column{
	KernelStack: {
		Key: "kernel_stack", Header: "KSTACK", Type: "array of strings",
		Doc: "the kernel's functions, the innermost first: FUNCTION+OFFSET [MODULE], or an address",
	},
	UserStack: {
		Key: "user_stack", Header: "USTACK", Type: "array of strings",
		Doc: "the program's functions, the innermost first: FUNCTION+OFFSET [FILE], where it has no name the offset in the file, or an address; those that the frame pointers lead to",
	},
}

// WithStacks returns a tracer like t whose events have one more column for each of the kinds,
// behind all others. name appends what to print of a stack's addresses, as field.Stack has it.
func (t *Tracer) WithStacks(kinds StackKind, name func(b []byte, kind StackKind, who *wire.Who, addresses []uint64) []byte) *Tracer {
	with := *t
	schema := slices.Clone(t.Schema())
	with.Columns, with.FailedColumns = slices.Clone(t.Columns), slices.Clone(t.FailedColumns)
	var wanted []StackKind
	for _, kind := range []StackKind{KernelStack, UserStack} {
		if kinds&kind != 0 {
			column := stackColumns[kind]
			wanted, schema = append(wanted, kind), append(schema, column)
			with.Columns, with.FailedColumns = append(with.Columns, column.Key), append(with.FailedColumns, column.Key)
		}
	}
	with.schema = func() Schema { return schema }
	with.newDecoder = func() *Decoder {
		d := t.newDecoder()
		stacks := make([]field.Stack, len(wanted))
		for i := range stacks {
			d.Event = append(d.Event, &stacks[i])
		}
		addresses := make([]uint64, 0, stackDepth)
		decode := d.decode
		d.decode = func(rec []byte) error {
			if len(rec)-t.WireSize < stackKinds*stackDepth*8 {
				return errors.New("the stacks behind the record are missing")
			}
			for i, kind := range wanted {
				stack := rec[t.WireSize:]
				if kind == UserStack {
					stack = stack[stackDepth*8:]
				}
				addresses = addresses[:0]
				for n := range stackDepth {
					address := binary.NativeEndian.Uint64(stack[8*n:])
					if address == 0 {
						break
					}
					addresses = append(addresses, address)
				}
				stacks[i] = name(stacks[i][:0], kind, &Head(rec).Who, addresses)
			}
			return decode(rec)
		}
		return d
	}
	return &with
}
