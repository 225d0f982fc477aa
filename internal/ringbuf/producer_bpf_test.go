package ringbuf

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// maxPerRun is what one run of a program produces at the most: the verifier
// walks the loop iteration by iteration.
const maxPerRun = 499

// A producer writes records to a ring. It is a raw tracepoint program that is
// run on request, since BPF_PROG_RUN of these works from Linux 5.10 on; its
// context carries the arguments.
type producer struct {
	prog *ebpf.Program
	next uint64 // the number of the next record
}

func newMap(tb testing.TB, size int) *ebpf.Map {
	tb.Helper()
	bpftest.Require(tb)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "rbtrace_test", Type: ebpf.RingBuf, MaxEntries: uint32(size)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

func openRing(tb testing.TB, m *ebpf.Map) *Ring {
	tb.Helper()
	r, err := Open(m)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

func newProducer(tb testing.TB, insns asm.Instructions) *producer {
	tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "rbtrace_test",
		Type:         ebpf.RawTracepoint,
		Instructions: insns,
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() { prog.Close() })
	return &producer{prog: prog}
}

// Offsets of the arguments in the context.
const (
	argCount   = 8 * iota
	argSeq     // number of the first record
	argFlags   // for the helper
	argDiscard // reserve only: discard rather than submit
	argSize    // output only: the payload's size
	argWords
)

// loop wraps body, which makes one record numbered by R8 and jumps to "out" if
// it cannot. The program returns the number of records made.
func loop(body ...asm.Instruction) asm.Instructions {
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R7, 0),
		asm.LoadMem(asm.R8, asm.R6, argSeq, asm.DWord),
		asm.JGE.Imm(asm.R7, maxPerRun, "out").WithSymbol("next"),
		asm.LoadMem(asm.R1, asm.R6, argCount, asm.DWord),
		asm.JGE.Reg(asm.R7, asm.R1, "out"),
	}
	insns = append(insns, body...)
	return append(insns,
		asm.Add.Imm(asm.R7, 1).WithSymbol("made"),
		asm.Add.Imm(asm.R8, 1),
		asm.Ja.Label("next"),
		asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("out"),
		asm.Return(),
	)
}

// newReserver makes records of size bytes by reserve and submit or discard. Each
// word of the payload is the record's number, and so is each byte of a rest.
func newReserver(tb testing.TB, m *ebpf.Map, size int) *producer {
	tb.Helper()
	body := []asm.Instruction{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R2, int32(size)),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
	}
	for off := 0; off+8 <= size; off += 8 {
		body = append(body, asm.StoreMem(asm.R0, int16(off), asm.R8, asm.DWord))
	}
	for off := size &^ 7; off < size; off++ {
		body = append(body, asm.StoreMem(asm.R0, int16(off), asm.R8, asm.Byte))
	}
	body = append(body,
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.LoadMem(asm.R2, asm.R6, argFlags, asm.DWord),
		asm.LoadMem(asm.R3, asm.R6, argDiscard, asm.DWord),
		asm.JNE.Imm(asm.R3, 0, "discard"),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("made"),
		asm.FnRingbufDiscard.Call().WithSymbol("discard"),
	)
	return newProducer(tb, loop(body...))
}

// newOutputter makes records of any size up to limit by output. The first word
// of a payload of 8 bytes or more is the record's number, the rest is as in
// pattern.
func newOutputter(tb testing.TB, m *ebpf.Map, limit int) *producer {
	tb.Helper()
	source, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rbtrace_test", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(limit), MaxEntries: 1,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { source.Close() })
	if err := source.Put(uint32(0), pattern(limit)); err != nil {
		tb.Fatal(err)
	}
	return newProducer(tb, loop(
		asm.LoadMapValue(asm.R2, source.FD(), 0),
		asm.StoreMem(asm.R2, 0, asm.R8, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.LoadMem(asm.R3, asm.R6, argSize, asm.DWord),
		asm.JGT.Imm(asm.R3, int32(limit), "out"),
		asm.LoadMem(asm.R4, asm.R6, argFlags, asm.DWord),
		asm.FnRingbufOutput.Call(),
		asm.JNE.Imm(asm.R0, 0, "out"),
	))
}

// run makes up to n records and returns how many fitted. Size is for output.
func (p *producer) run(tb testing.TB, n int, flags uint64, discard bool, size int) int {
	tb.Helper()
	var args [argWords / 8]uint64
	args[argFlags/8], args[argSize/8] = flags, uint64(size)
	if discard {
		args[argDiscard/8] = 1
	}
	for made := 0; ; {
		args[argCount/8], args[argSeq/8] = uint64(min(n-made, maxPerRun)), p.next
		fitted, err := p.prog.Run(&ebpf.RunOptions{Context: args[:]})
		if err != nil {
			tb.Error(err) // not Fatal: producers run in goroutines as well
			return made
		}
		made += int(fitted)
		p.next += uint64(fitted)
		if uint64(fitted) < args[argCount/8] || made == n {
			return made
		}
	}
}

// submit submits n records, all of which must fit.
func (p *producer) submit(tb testing.TB, n int, flags uint64) {
	tb.Helper()
	if made := p.run(tb, n, flags, false, 0); made != n {
		tb.Fatalf("%d records fitted, want %d", made, n)
	}
}

// discard reserves and discards n records, all of which must fit.
func (p *producer) discard(tb testing.TB, n int, flags uint64) {
	tb.Helper()
	if made := p.run(tb, n, flags, true, 0); made != n {
		tb.Fatalf("%d discarded records fitted, want %d", made, n)
	}
}
