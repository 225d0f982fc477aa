// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// MaxRecord is the largest record that a Writer writes.
const MaxRecord = 512

// Writer writes records to a ring, as a BPF program does.
type Writer struct {
	prog   *ebpf.Program
	source *ebpf.Map // what the program copies from
}

// NewRing makes a ring of size bytes and a writer to it. They go away with the
// test.
func NewRing(tb testing.TB, size int) (*ebpf.Map, *Writer) {
	tb.Helper()
	Require(tb)
	newMap := func(spec ebpf.MapSpec) *ebpf.Map {
		m, err := ebpf.NewMap(&spec)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { m.Close() })
		return m
	}
	ring := newMap(ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(size)})
	source := newMap(ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: MaxRecord, MaxEntries: 1})
	// A raw tracepoint program, since BPF_PROG_RUN of those works from 5.10 on. Its
	// context has the record's size and the flags.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R3, asm.R1, 0, asm.DWord),
			asm.LoadMem(asm.R4, asm.R1, 8, asm.DWord),
			asm.JGT.Imm(asm.R3, MaxRecord, "full"),
			asm.LoadMapPtr(asm.R1, ring.FD()),
			asm.LoadMapValue(asm.R2, source.FD(), 0),
			asm.FnRingbufOutput.Call(),
			asm.JNE.Imm(asm.R0, 0, "full"),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("full"),
			asm.Return(),
		},
	})
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() { prog.Close() })
	return ring, &Writer{prog, source}
}

// Write writes one record, with flags as bpf_ringbuf_output has them. It reports
// whether there was room. It may be called from one goroutine, any.
func (w *Writer) Write(tb testing.TB, record []byte, flags uint64) bool {
	tb.Helper()
	value := make([]byte, MaxRecord)
	copy(value, record)
	if err := w.source.Put(uint32(0), value); err != nil {
		tb.Error(err)
		return false
	}
	wrote, err := w.prog.Run(&ebpf.RunOptions{Context: [2]uint64{uint64(len(record)), flags}})
	if err != nil {
		tb.Error(err)
	}
	return wrote == 1
}
