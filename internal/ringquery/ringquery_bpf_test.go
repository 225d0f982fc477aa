// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// The program types, by the kernel that brought them (as rings can be asked).
var programs = []struct {
	program ebpf.ProgramType
	since   kernel.Version
}{
	{ebpf.Syscall, kernel.Version{Major: 5, Minor: 14}},
	{ebpf.RawTracepoint, kernel.Version{Major: 5, Minor: 10}},
}

// snapshot takes one of the rings with these ids, or of all.
func snapshot(q *Querier, ids ...ebpf.MapID) (*Snapshot, error) {
	return q.Snapshot(context.Background(), Request{Select: Selection{IDs: ids}})
}

func running(tb testing.TB) kernel.Version {
	tb.Helper()
	v, err := kernel.ParseVersion(kernel.Release())
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func open(tb testing.TB, opts *Options) *Querier {
	tb.Helper()
	bpftest.Require(tb)
	if !kernel.HasSysAdmin() {
		bpftest.Skipf(tb, "missing CAP_SYS_ADMIN, which opening the maps of others needs")
	}
	q, err := Open(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := q.Close(); err != nil {
			tb.Error(err)
		}
	})
	return q
}

// perSource runs a test with the mapping, and with the helper in each program type that
// this kernel has.
func perSource(t *testing.T, test func(t *testing.T, q *Querier)) {
	t.Run(string(Mmap), func(t *testing.T) { test(t, open(t, &Options{Source: Mmap})) })
	for _, p := range programs {
		t.Run(p.program.String(), func(t *testing.T) {
			if running(t).Less(p.since) {
				t.Skipf("needs Linux %s", p.since)
			}
			test(t, open(t, &Options{Program: p.program}))
		})
	}
}

func newRing(tb testing.TB, spec ebpf.MapSpec) (*ebpf.Map, ebpf.MapID) {
	tb.Helper()
	bpftest.Require(tb)
	spec.Type = ebpf.RingBuf
	if spec.MaxEntries == 0 {
		spec.MaxEntries = uint32(os.Getpagesize())
	}
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m, idOf(tb, m)
}

func idOf(tb testing.TB, m *ebpf.Map) ebpf.MapID {
	tb.Helper()
	info, err := m.Info()
	if err != nil {
		tb.Fatal(err)
	}
	id, ok := info.ID()
	if !ok {
		tb.Fatal("the map has no id")
	}
	return id
}

const (
	payload = 24 // of the records that newProducer makes
	record  = 32 // with its header
)

// newProducer returns a function that makes up to n records and returns how many
// fitted. Each holds its number, counted from 0.
func newProducer(tb testing.TB, m *ebpf.Map) func(n int) int {
	tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "rbtrace_test", Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 0, asm.DWord),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Imm(asm.R2, payload),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "full"),
			asm.StoreMem(asm.R0, 0, asm.R6, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRingbufSubmit.Call(),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return().WithSymbol("full"),
		},
	})
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() { prog.Close() })
	var next uint64
	return func(n int) int {
		for made := range n {
			fitted, err := prog.Run(&ebpf.RunOptions{Context: next})
			if err != nil {
				tb.Error(err) // not Fatal: producers run in goroutines as well
			}
			if fitted == 0 {
				return made
			}
			next++
		}
		return n
	}
}

// The answers against arithmetic, and against the positions in the ring's pages.
func TestState(t *testing.T) {
	const numaNode = 1 << 2 // BPF_F_NUMA_NODE
	perSource(t, func(t *testing.T, q *Querier) {
		for _, spec := range []ebpf.MapSpec{
			{MaxEntries: uint32(os.Getpagesize())},
			{MaxEntries: 64 << 10},
			{MaxEntries: 64 << 10, Flags: numaNode},
			{MaxEntries: 1 << 20},
		} {
			m, id := newRing(t, spec)
			r, err := ringbuf.Open(m)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			produce := newProducer(t, m)
			var produced, consumed int
			check := func() {
				t.Helper()
				ring, err := q.Ring(id)
				if err != nil {
					t.Fatal(err)
				}
				want := State{
					AvailData: uint64(produced-consumed) * record,
					RingSize:  uint64(spec.MaxEntries),
					ConsPos:   uint64(consumed) * record,
					ProdPos:   uint64(produced) * record,
				}
				if ring.State != want {
					t.Errorf("%+v: got %+v, want %+v", spec, ring.State, want)
				}
				if cons, prod := r.Positions(); ring.ConsPos != cons || ring.ProdPos != prod || ring.AvailData != r.Avail() {
					t.Errorf("%+v: got %+v, the pages have %d, %d", spec, ring.State, cons, prod)
				}
			}
			check()
			for _, step := range []struct{ produce, consume int }{{1, 0}, {52, 17}, {7, 43}, {1 << 20, 0}, {0, 101}, {1 << 20, 0}} {
				produced += produce(step.produce)
				for range step.consume {
					if _, ok := r.Next(); !ok {
						t.Fatalf("%+v: the ring ran dry", spec)
					}
				}
				r.Commit()
				consumed += step.consume
				check()
			}
			// producer_pos stays below consumer_pos + size.
			if want := int(spec.MaxEntries)/record - 1; produced-consumed != want {
				t.Errorf("%+v: %d records in a full ring, want %d", spec, produced-consumed, want)
			}
		}
	})
}

func TestOverwriting(t *testing.T) {
	const overwrite = 1 << 19 // BPF_F_RB_OVERWRITE
	if since := (kernel.Version{Major: 6, Minor: 19}); running(t).Less(since) {
		t.Skipf("BPF_F_RB_OVERWRITE needs Linux %s", since)
	}
	perSource(t, func(t *testing.T, q *Querier) {
		m, id := newRing(t, ebpf.MapSpec{Flags: overwrite})
		n := os.Getpagesize()/record*3 + 1
		if made := newProducer(t, m)(n); made != n {
			t.Fatalf("%d records fitted, want %d", made, n)
		}
		ring, err := q.Ring(id)
		if err != nil {
			t.Fatal(err)
		}
		if ring.ProdPos != uint64(n)*record || ring.ConsPos != 0 || ring.AvailData > ring.RingSize || ring.AvailData < ring.RingSize-record ||
			ring.OverwritePos+ring.AvailData != ring.ProdPos || !ring.Overwrites {
			t.Errorf("got %+v", ring)
		}
	})
}

func TestSnapshot(t *testing.T) {
	perSource(t, func(t *testing.T, q *Querier) {
		array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer array.Close()
		var want []Ring
		var ids []ebpf.MapID
		for i := range 7 {
			ring := Ring{
				Name: fmt.Sprintf("rbtrace.test_%d", i), Type: ebpf.RingBuf, State: State{RingSize: uint64(os.Getpagesize()) << i},
				Motion: Motion{Verdict: Unknown, TimeToFull: -1},
			}
			_, ring.ID = newRing(t, ebpf.MapSpec{Name: ring.Name, MaxEntries: uint32(ring.RingSize)})
			want, ids = append(want, ring), append(ids, ring.ID)
		}
		before := time.Now()
		all, err := snapshot(q)
		if err != nil {
			t.Fatal(err)
		}
		if all.Time.Before(before) || all.Time.After(time.Now()) {
			t.Errorf("time %s is not that of the snapshot", all.Time)
		}
		byID := func(a, b Ring) int { return int(a.ID) - int(b.ID) }
		if !slices.IsSortedFunc(all.Rings, byID) {
			t.Errorf("not by id: %+v", all.Rings)
		}
		var got []Ring
		for _, ring := range all.Rings {
			if ring.ID == idOf(t, array) || q.helpers != nil && ring.ID == idOf(t, q.helpers.answer) {
				t.Errorf("%+v is no ring", ring)
			}
			if slices.Contains(ids, ring.ID) {
				if ring.Memory < ring.RingSize || ring.Memory > 2*ring.RingSize+16<<10 {
					t.Errorf("a ring of %d bytes is charged for %d", ring.RingSize, ring.Memory)
				}
				ring.Memory = 0
				if want := q.source; ring.Source != want {
					t.Errorf("the source is %s, want %s", ring.Source, want)
				}
				ring.Source = ""
				got = append(got, ring)
			}
		}
		slices.SortFunc(want, byID) // ids are handed out in ascending order, until they wrap
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}

		some, err := snapshot(q, ids[3], ids[1], ids[3])
		if err != nil {
			t.Fatal(err)
		}
		if len(some.Rings) != 2 || some.Rings[0].ID != want[1].ID || some.Rings[1].ID != want[3].ID {
			t.Errorf("got %+v, want %+v", some.Rings, []Ring{want[1], want[3]})
		}
	})
}

func TestNoRing(t *testing.T) {
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{})
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	var notRing *NotRingError
	if _, err := q.Ring(idOf(t, array)); !errors.As(err, &notRing) || *notRing != (NotRingError{idOf(t, array), ebpf.Array}) {
		t.Errorf("an array: %v", err)
	}

	s, err := snapshot(q, idOf(t, array), id)
	if !errors.As(err, &notRing) || len(s.Rings) != 1 || s.Rings[0].ID != id {
		t.Errorf("an array and a ring: %+v, %v", s, err)
	}

	m.Close()
	s, err = snapshot(q, gone(t, id))
	if !errors.Is(err, fs.ErrNotExist) || len(s.Rings) != 0 {
		t.Errorf("a ring that is gone: %+v, %v", s, err)
	}
}

// gone waits until a map has gone. The kernel frees programs, and with them their
// maps, after an RCU grace period.
func gone(t *testing.T, id ebpf.MapID) ebpf.MapID {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return id
		}
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		if time.Now().After(deadline) {
			t.Fatalf("map %d is still there", id)
		}
	}
}

func TestVanishing(t *testing.T) {
	q := open(t, nil)
	stop := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			var rings [7]*ebpf.Map
			for i := range rings {
				var err error
				rings[i], err = ebpf.NewMap(&ebpf.MapSpec{Name: "rbtrace_test", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
				if err != nil {
					t.Error(err)
				}
			}
			for _, m := range rings {
				m.Close() // which may be nil
			}
		}
	})
	for range 211 {
		if _, err := snapshot(q); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	owner.Wait()
}

// A ring that is asked all the time gives its reader every record, and what is told
// of it holds together.
func TestOwnerUndisturbed(t *testing.T) {
	const records = 20011
	perSource(t, func(t *testing.T, q *Querier) {
		m, id := newRing(t, ebpf.MapSpec{})
		r, err := ringbuf.Open(m)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		produce := newProducer(t, m)
		done := make(chan struct{})
		var owner sync.WaitGroup
		owner.Go(func() {
			for made := 0; made < records && !t.Failed(); runtime.Gosched() {
				made += produce(min(61, records-made))
			}
		})
		owner.Go(func() {
			defer close(done)
			for want := uint64(0); want < records && !t.Failed(); {
				sample, ok := r.Next()
				if !ok {
					r.Commit()
					runtime.Gosched()
					continue
				}
				if got := binary.NativeEndian.Uint64(sample); got != want {
					t.Errorf("record %d, want %d", got, want)
				}
				want++
			}
			r.Commit()
		})
		var last State
		for asking := true; asking && !t.Failed(); {
			select {
			case <-done:
				asking = false
			default:
			}
			ring, err := q.Ring(id)
			if err != nil {
				t.Error(err)
				break
			}
			s := ring.State
			if s.ConsPos > s.ProdPos || s.AvailData > s.ProdPos-s.ConsPos || s.ConsPos < last.ConsPos || s.ProdPos < last.ProdPos {
				t.Errorf("%+v after %+v", s, last)
			}
			last = s
		}
		owner.Wait()
		if last.ConsPos != records*record || last.AvailData != 0 {
			t.Errorf("at the end: %+v", last)
		}
	})
}

func TestProgramType(t *testing.T) {
	q := open(t, &Options{Source: Helper})
	_, id := newRing(t, ebpf.MapSpec{})
	if _, err := q.Ring(id); err != nil {
		t.Fatal(err)
	}
	want := ebpf.Syscall
	if running(t).Less(programs[0].since) {
		want = ebpf.RawTracepoint
	}
	if p := q.helpers.programs; len(p) != 1 || p[0].Type != want {
		t.Errorf("asked by %v, want %s", p, want)
	}

	// A kernel that does not know the first type.
	q = open(t, &Options{Source: Helper})
	h, err := openHelpers(ebpf.UnspecifiedProgram)
	if err != nil {
		t.Fatal(err)
	}
	q.helpers = h
	h.programs[0] = h.programs[0].Copy()
	h.programs[0].Type = 0xffff
	if _, err := q.Ring(id); err != nil {
		t.Fatal(err)
	}
	if len(h.programs) != 1 || h.programs[0].Type != ebpf.RawTracepoint {
		t.Errorf("asked by %v, want %s", h.programs, ebpf.RawTracepoint)
	}

	if _, err := Open(&Options{Program: ebpf.XDP}); err == nil || !strings.Contains(err.Error(), "no program of type XDP") {
		t.Errorf("by an XDP program: %v", err)
	}
}

// noHash is no program's hash. A package's variable, unlike a function's, never moves.
var noHash [32]byte

// A ring that only one program may use (excl_prog_hash of union bpf_attr, Linux 6.18)
// cannot be asked by the helper. That hides no other ring, and the mapping shows it.
func TestExclusive(t *testing.T) {
	q := open(t, &Options{Source: Helper})
	if since := (kernel.Version{Major: 6, Minor: 18}); running(t).Less(since) {
		t.Skipf("exclusive maps need Linux %s", since)
	}
	// The library has no field for it.
	attr := struct {
		mapType, keySize, valueSize, maxEntries uint32
		_                                       [16]uint32
		hash                                    uint64
		hashSize                                uint32
		_                                       uint32
	}{
		mapType: uint32(ebpf.RingBuf), maxEntries: uint32(os.Getpagesize()),
		hash: uint64(uintptr(unsafe.Pointer(&noHash))), hashSize: uint32(len(noHash)),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		t.Fatal(errno)
	}
	exclusive, err := ebpf.NewMapFromFD(int(fd))
	if err != nil {
		t.Fatal(err)
	}
	defer exclusive.Close()
	_, id := newRing(t, ebpf.MapSpec{})
	s, err := snapshot(q)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("asking ring buffer %d: ", idOf(t, exclusive))) {
		t.Errorf("error %v does not name ring %d", err, idOf(t, exclusive))
	}
	if !slices.ContainsFunc(s.Rings, func(r Ring) bool { return r.ID == id }) {
		t.Error("another ring is missing")
	}
	if _, err := open(t, nil).Ring(idOf(t, exclusive)); err != nil {
		t.Errorf("by the mapping: %v", err)
	}
}

// Nothing is left in the process, nor in the kernel.
func TestClose(t *testing.T) {
	bpftest.Require(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	everything := Request{Look: 20 * time.Millisecond, Details: true}
	for _, source := range []Source{Mmap, Helper} {
		m, id := newRing(t, ebpf.MapSpec{})
		if _, err := open(t, &Options{Source: source}).Snapshot(t.Context(), everything); err != nil {
			t.Fatal(err) // whatever the library keeps, it has now
		}
		before := descriptors()
		q, err := Open(&Options{Source: source})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Snapshot(t.Context(), everything); err != nil {
			t.Fatal(err)
		}
		if maps, err := os.ReadFile("/proc/self/maps"); err != nil || strings.Contains(string(maps), "bpf-map") {
			t.Errorf("a ring is still mapped, or %v", err)
		}
		var answer ebpf.MapID
		if q.helpers != nil {
			answer = idOf(t, q.helpers.answer)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if after := descriptors(); after != before {
			t.Errorf("%s: %d descriptors open, %d before", source, after, before)
		}
		if answer != 0 {
			gone(t, answer)
		}
		m.Close()
		gone(t, id)
	}
}

// benchmarkSources runs a benchmark with each source.
func benchmarkSources(b *testing.B, bench func(b *testing.B, q *Querier)) {
	b.Run(string(Mmap), func(b *testing.B) { bench(b, open(b, &Options{Source: Mmap})) })
	for _, p := range programs {
		b.Run(p.program.String(), func(b *testing.B) {
			if running(b).Less(p.since) {
				b.Skipf("needs Linux %s", p.since)
			}
			bench(b, open(b, &Options{Program: p.program}))
		})
	}
}

// The state of one ring: to be under 100 µs.
func BenchmarkRing(b *testing.B) {
	benchmarkSources(b, func(b *testing.B, q *Querier) {
		_, id := newRing(b, ebpf.MapSpec{})
		for b.Loop() {
			if _, err := q.Ring(id); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// All rings of the machine, of which the benchmark itself makes 200: to be under 50 ms.
func BenchmarkSnapshot200(b *testing.B) {
	benchmarkSources(b, func(b *testing.B, q *Querier) { benchmarkSnapshot(b, q, Request{}) })
}

// The same with owners, programs, pins and outer maps, gathered anew each time.
func BenchmarkDetails200(b *testing.B) {
	benchmarkSnapshot(b, open(b, nil), Request{Details: true})
}

// The same with details that are kept.
func BenchmarkKeptDetails200(b *testing.B) {
	benchmarkSnapshot(b, open(b, nil), Request{Details: true, DetailsAge: time.Hour})
}

func benchmarkSnapshot(b *testing.B, q *Querier, req Request) {
	for range 200 {
		newRing(b, ebpf.MapSpec{})
	}
	for b.Loop() {
		if s, err := q.Snapshot(b.Context(), req); err != nil || len(s.Rings) < 200 {
			b.Fatal(s, err)
		}
	}
}
