// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

const (
	// MaxRecord is the largest record that a Writer writes.
	MaxRecord = 512
	// RepeatAfter is the time between the records of Writer.Repeat, in ns.
	RepeatAfter = 1009
	// maxPerRun is how many records one run of the program writes at the most: the
	// verifier walks its loop turn by turn.
	maxPerRun = 499
)

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
	// context has the record's size, the flags, and how many are wanted.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.Mov.Imm(asm.R7, 0), // records written
			asm.LoadMapValue(asm.R8, source.FD(), 0),
			asm.JGE.Imm(asm.R7, maxPerRun, "out").WithSymbol("next"),
			asm.LoadMem(asm.R1, asm.R6, 16, asm.DWord),
			asm.JGE.Reg(asm.R7, asm.R1, "out"),
			asm.LoadMem(asm.R3, asm.R6, 0, asm.DWord),
			asm.LoadMem(asm.R4, asm.R6, 8, asm.DWord),
			asm.JGT.Imm(asm.R3, MaxRecord, "out"),
			asm.LoadMapPtr(asm.R1, ring.FD()),
			asm.Mov.Reg(asm.R2, asm.R8),
			asm.FnRingbufOutput.Call(),
			asm.JNE.Imm(asm.R0, 0, "out"),
			asm.Add.Imm(asm.R7, 1),
			asm.LoadMem(asm.R1, asm.R8, 0, asm.DWord),
			asm.Add.Imm(asm.R1, RepeatAfter),
			asm.StoreMem(asm.R8, 0, asm.R1, asm.DWord),
			asm.Ja.Label("next"),
			asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("out"),
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
	return w.Repeat(tb, record, 1, flags) == 1
}

// Repeat writes a record n times, each with a time (its first word) that is later
// than the one before by RepeatAfter. It returns how many had room.
func (w *Writer) Repeat(tb testing.TB, record []byte, n int, flags uint64) int {
	tb.Helper()
	value := make([]byte, MaxRecord)
	copy(value, record)
	if err := w.source.Put(uint32(0), value); err != nil {
		tb.Error(err)
		return 0
	}
	for wrote := 0; ; {
		want := min(n-wrote, maxPerRun)
		run, err := w.prog.Run(&ebpf.RunOptions{Context: [3]uint64{uint64(len(record)), flags, uint64(want)}})
		if err != nil {
			tb.Error(err)
		}
		wrote += int(run)
		if int(run) < want || wrote == n {
			return wrote
		}
	}
}
