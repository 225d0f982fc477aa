// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
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

// perProgram runs a test with each program type that this kernel has.
func perProgram(t *testing.T, test func(t *testing.T, q *Querier)) {
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
	perProgram(t, func(t *testing.T, q *Querier) {
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
	perProgram(t, func(t *testing.T, q *Querier) {
		m, id := newRing(t, ebpf.MapSpec{Flags: overwrite})
		n := os.Getpagesize()/record*3 + 1
		if made := newProducer(t, m)(n); made != n {
			t.Fatalf("%d records fitted, want %d", made, n)
		}
		ring, err := q.Ring(id)
		if err != nil {
			t.Fatal(err)
		}
		if ring.ProdPos != uint64(n)*record || ring.ConsPos != 0 || ring.AvailData > ring.RingSize || ring.AvailData < ring.RingSize-record {
			t.Errorf("got %+v", ring)
		}
	})
}

func TestSnapshot(t *testing.T) {
	perProgram(t, func(t *testing.T, q *Querier) {
		array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer array.Close()
		var want []Ring
		var ids []ebpf.MapID
		for i := range 7 {
			ring := Ring{Name: fmt.Sprintf("rbtrace.test_%d", i), State: State{RingSize: uint64(os.Getpagesize()) << i}}
			_, ring.ID = newRing(t, ebpf.MapSpec{Name: ring.Name, MaxEntries: uint32(ring.RingSize)})
			want, ids = append(want, ring), append(ids, ring.ID)
		}
		before := time.Now()
		all, err := q.Snapshot()
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
			if ring.ID == idOf(t, array) || ring.ID == idOf(t, q.answer) {
				t.Errorf("%+v is no ring", ring)
			}
			if slices.Contains(ids, ring.ID) {
				got = append(got, ring)
			}
		}
		slices.SortFunc(want, byID) // ids are handed out in ascending order, until they wrap
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}

		some, err := q.Snapshot(ids[3], ids[1], ids[3])
		if err != nil {
			t.Fatal(err)
		}
		if want := []Ring{want[1], want[3]}; !slices.Equal(some.Rings, want) {
			t.Errorf("got %+v, want %+v", some.Rings, want)
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

	s, err := q.Snapshot(idOf(t, array), id)
	if !errors.As(err, &notRing) || len(s.Rings) != 1 || s.Rings[0].ID != id {
		t.Errorf("an array and a ring: %+v, %v", s, err)
	}

	m.Close()
	s, err = q.Snapshot(gone(t, id))
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
		if _, err := q.Snapshot(); err != nil {
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
	perProgram(t, func(t *testing.T, q *Querier) {
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
	q := open(t, nil)
	_, id := newRing(t, ebpf.MapSpec{})
	if _, err := q.Ring(id); err != nil {
		t.Fatal(err)
	}
	want := ebpf.Syscall
	if running(t).Less(programs[0].since) {
		want = ebpf.RawTracepoint
	}
	if len(q.programs) != 1 || q.programs[0].Type != want {
		t.Errorf("asked by %v, want %s", q.programs, want)
	}

	// A kernel that does not know the first type.
	q = open(t, nil)
	q.programs[0] = q.programs[0].Copy()
	q.programs[0].Type = 0xffff
	if _, err := q.Ring(id); err != nil {
		t.Fatal(err)
	}
	if len(q.programs) != 1 || q.programs[0].Type != ebpf.RawTracepoint {
		t.Errorf("asked by %v, want %s", q.programs, ebpf.RawTracepoint)
	}

	if _, err := Open(&Options{Program: ebpf.XDP}); err == nil || !strings.Contains(err.Error(), "no program of type XDP") {
		t.Errorf("by an XDP program: %v", err)
	}
}

// noHash is no program's hash. A package's variable, unlike a function's, never moves.
var noHash [32]byte

// A ring that only one program may use (excl_prog_hash of union bpf_attr, Linux 6.18)
// cannot be asked. That hides no other ring.
func TestExclusive(t *testing.T) {
	q := open(t, nil)
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
	s, err := q.Snapshot()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("asking ring buffer %d: ", idOf(t, exclusive))) {
		t.Errorf("error %v does not name ring %d", err, idOf(t, exclusive))
	}
	if !slices.ContainsFunc(s.Rings, func(r Ring) bool { return r.ID == id }) {
		t.Error("another ring is missing")
	}
}

func TestWithoutSysAdmin(t *testing.T) {
	q := open(t, nil)
	result := make(chan [2]error)
	go func() {
		// The goroutine ends locked, and takes the thread along.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			result <- [2]error{err, err}
			return
		}
		data[unix.CAP_SYS_ADMIN/32].Effective &^= 1 << (unix.CAP_SYS_ADMIN % 32)
		if err := unix.Capset(&header, &data[0]); err != nil {
			result <- [2]error{err, err}
			return
		}
		_, openErr := Open(nil)
		_, err := q.Snapshot() // as in a user namespace, where having it does not do
		result <- [2]error{openErr, err}
	}()
	got := <-result
	if got[0] == nil || !strings.Contains(got[0].Error(), "missing CAP_SYS_ADMIN") {
		t.Errorf("Open: %v", got[0])
	}
	if !errors.Is(got[1], fs.ErrPermission) || !strings.Contains(got[1].Error(), "user namespace") {
		t.Errorf("Snapshot: %v", got[1])
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
	m, id := newRing(t, ebpf.MapSpec{})
	open(t, nil) // whatever the library keeps, it has now
	before := descriptors()
	q, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Snapshot(); err != nil {
		t.Fatal(err)
	}
	answer := idOf(t, q.answer)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
	gone(t, answer)
	m.Close()
	gone(t, id)
}

func BenchmarkRing(b *testing.B) {
	for _, p := range programs {
		b.Run(p.program.String(), func(b *testing.B) {
			if running(b).Less(p.since) {
				b.Skipf("needs Linux %s", p.since)
			}
			q := open(b, &Options{Program: p.program})
			_, id := newRing(b, ebpf.MapSpec{})
			for b.Loop() {
				if _, err := q.Ring(id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// All rings of the machine, of which the benchmark itself makes 200.
func BenchmarkSnapshot200(b *testing.B) {
	q := open(b, nil)
	for range 200 {
		newRing(b, ebpf.MapSpec{})
	}
	for b.Loop() {
		if s, err := q.Snapshot(); err != nil || len(s.Rings) < 200 {
			b.Fatal(s, err)
		}
	}
}
