package ringbuf

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// mappings counts the BPF maps mapped into this process.
func mappings(tb testing.TB) int {
	tb.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.Count(maps, []byte("bpf-map"))
}

func TestReserved(t *testing.T) {
	const records = 4001
	for _, size := range []int{0, 1, 8, 13, 64, 1000} {
		m := newMap(t, 64<<10)
		r, p := openRing(t, m), newReserver(t, m, size)
		var want Counters
		for want.Records < records {
			first := p.next
			batch := p.run(t, int(min(53, records-want.Records)), 0, false, 0)
			if batch == 0 {
				t.Fatalf("size %d: no record fitted", size)
			}
			for n := first; n < p.next; n++ {
				payload := bytes.Repeat([]byte{byte(n)}, size)
				for off := 0; off+8 <= size; off += 8 {
					copy(payload[off:], numbered(n, 8))
				}
				if got := next(t, r); !bytes.Equal(got, payload) {
					t.Fatalf("size %d, record %d: got %x, want %x", size, n, got, payload)
				}
			}
			none(t, r)
			if r.Held() >= uint64(r.Size()/8) {
				r.Commit()
			}
			want.Records += uint64(batch)
			want.Bytes += uint64(batch) * recordSize(uint32(size))
		}
		r.Commit()
		cons, prod := r.Positions()
		if got := r.Counters(); got != want || cons != want.Bytes || prod != want.Bytes {
			t.Errorf("size %d: counters %+v, want %+v, at positions %d, %d", size, got, want, cons, prod)
		}
	}
}

func TestOutput(t *testing.T) {
	size := os.Getpagesize()
	limit := size - 16 // the largest payload
	m := newMap(t, size)
	r, p := openRing(t, m), newOutputter(t, m, size)
	for n := range 1009 {
		payload := 8 + n*n*31%(limit-7)
		if n == 0 {
			payload = limit
		}
		if p.run(t, 1, 0, false, payload) != 1 {
			t.Fatalf("record %d of %d bytes did not fit", n, payload)
		}
		if got := next(t, r); !bytes.Equal(got, numbered(uint64(n), payload)) {
			t.Fatalf("record %d of %d bytes differs", n, payload)
		}
		none(t, r)
		r.Commit()
	}
	if p.run(t, 1, 0, false, limit+1) != 0 {
		t.Errorf("a record of %d bytes fitted in a ring of %d", limit+1, size)
	}
}

func TestDiscardedByKernel(t *testing.T) {
	m := newMap(t, 64<<10)
	r, p := openRing(t, m), newReserver(t, m, 24)
	want := Counters{Bytes: (11 + 7 + 101 + 13) * 32}
	p.discard(t, 11, 0)
	p.submit(t, 7, 0)
	p.discard(t, 101, noWakeup)
	p.submit(t, 13, 0)
	want.Records, want.Discarded = 7+13, 11+101
	if got := r.Unread(); got != (Unread{Records: want.Records, Discarded: want.Discarded}) {
		t.Errorf("unread %+v, want those of %+v", got, want)
	}
	for n := uint64(0); n < want.Records; n++ {
		number := number(next(t, r))
		if expect := 11 + n; n < 7 && number != expect || n >= 7 && number != expect+101 {
			t.Fatalf("record %d has number %d", n, number)
		}
	}
	none(t, r)
	if got := r.Counters(); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestFull(t *testing.T) {
	const size, record = 64 << 10, 72
	m := newMap(t, size)
	r, p := openRing(t, m), newReserver(t, m, 64)
	const fit = (size - 1) / record // producer_pos stays below consumer_pos + size
	for round := range 7 {
		if got := p.run(t, size, noWakeup, false, 0); got != fit {
			t.Fatalf("round %d: %d records fitted, want %d", round, got, fit)
		}
		if got := r.Avail(); got != fit*record {
			t.Errorf("%d bytes available, want %d", got, fit*record)
		}
		if got := r.Unread(); got != (Unread{Records: fit}) {
			t.Errorf("unread %+v, want %d records", got, fit)
		}
		for n := range uint64(fit) {
			if got, want := number(next(t, r)), uint64(round)*fit+n; got != want {
				t.Fatalf("record %d, want %d", got, want)
			}
		}
		none(t, r)
		if got := p.run(t, 1, 0, false, 0); got != 0 {
			t.Error("a record fitted before the commit")
		}
		r.Commit()
	}
}

// A ring that outlives its reader, by a pin, is taken up where it was committed.
func TestPinned(t *testing.T) {
	bpftest.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		bpftest.Skipf(t, "mounting a BPF file system: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	pin := filepath.Join(dir, "ring")

	m := newMap(t, 64<<10)
	if err := m.Pin(pin); err != nil {
		t.Fatal(err)
	}
	p := newReserver(t, m, 64)
	r := openRing(t, m)
	p.submit(t, 499, 0)
	for range 211 {
		next(t, r)
	}
	r.Commit()
	for range 23 {
		next(t, r) // not committed: they come again
	}
	if err := errors.Join(r.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}

	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	r = openRing(t, m)
	if err := m.Close(); err != nil { // the ring does not need it
		t.Fatal(err)
	}
	if cons, prod := r.Positions(); cons != 211*72 || prod != 499*72 {
		t.Errorf("positions %d, %d, want %d, %d", cons, prod, 211*72, 499*72)
	}
	for want := uint64(211); want < 499; want++ {
		if got := number(next(t, r)); got != want {
			t.Fatalf("record %d, want %d", got, want)
		}
	}
	none(t, r)

	readOnly, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if _, err := Open(readOnly); !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "opened read-only") {
		t.Errorf("Open of a read-only descriptor: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	frozen := newMap(t, 64<<10)
	if err := frozen.Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(frozen); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "the map is frozen") {
		t.Errorf("Open of a frozen map: %v", err)
	}

	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	if _, err := Open(array); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Open of an array: %v", err)
	}
}

func TestOpenRefusesOverwriting(t *testing.T) {
	bpftest.Require(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 64 << 10, Flags: overwriteFlag})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("BPF_F_RB_OVERWRITE needs Linux 6.19")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := Open(m); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Open of an overwriting ring: %v", err)
	}
}

func TestCloseReleases(t *testing.T) {
	m := newMap(t, 64<<10)
	descriptors, mapped := openDescriptors(t), mappings(t)
	r := openRing(t, m)
	p := newPoller(t, r)
	if mappings(t) == mapped {
		t.Error("the mappings of a ring are not recognized")
	}
	if err := errors.Join(r.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if n := openDescriptors(t); n != descriptors {
		t.Errorf("%d descriptors open, %d before", n, descriptors)
	}
	if n := mappings(t); n != mapped {
		t.Errorf("%d maps mapped, %d before", n, mapped)
	}
}

// read reads n records, waiting for as long as it takes, and calls see for each.
func read(t *testing.T, p *Poller, n int, timeout time.Duration, see func(sample []byte), rings ...*Ring) {
	t.Helper()
	for n > 0 {
		for _, r := range rings {
			for {
				sample, ok := r.Next()
				if !ok {
					break
				}
				see(sample)
				n--
				if r.Held() >= uint64(r.Size()/8) {
					r.Commit()
				}
			}
		}
		if n > 0 {
			if _, err := p.Wait(timeout); err != nil {
				t.Fatal(err)
			}
			if t.Failed() {
				t.FailNow() // a producer gave up
			}
		}
	}
	if n < 0 {
		t.Fatalf("%d records too many", -n)
	}
	for _, r := range rings {
		none(t, r)
	}
}

// Two producers and the reader race for one small ring. Each record that comes
// when the reader has caught up has to wake it, as nothing else would: a lost
// wakeup hangs the test.
func TestWakeup(t *testing.T) {
	m := newMap(t, os.Getpagesize())
	r := openRing(t, m)
	poller := newPoller(t, r)
	testProducers(t, 0, -1, poller, [2]*ebpf.Map{m, m}, r)
}

// The same with data that no epoll reports: the look at the positions finds it.
func TestNoWakeup(t *testing.T) {
	m := newMap(t, os.Getpagesize())
	r := openRing(t, m)
	poller := newPoller(t, r)
	testProducers(t, noWakeup, time.Millisecond, poller, [2]*ebpf.Map{m, m}, r)

	p := newReserver(t, m, 8)
	p.submit(t, 13, noWakeup)
	blocks := poller.blocks
	wait(t, poller, -1, Data)
	if poller.blocks != blocks {
		t.Error("Wait blocked with data in the ring")
	}
}

func TestTwoRings(t *testing.T) {
	a, b := newMap(t, os.Getpagesize()), newMap(t, 64<<10)
	ra, rb := openRing(t, a), openRing(t, b)
	poller := newPoller(t, ra)
	if err := poller.Add(rb); err != nil {
		t.Fatal(err)
	}
	testProducers(t, 0, -1, poller, [2]*ebpf.Map{a, b}, ra, rb)
}

// testProducers has two goroutines produce records into the two maps, and reads
// all of them: each producer's in its order, none lost, none twice.
func testProducers(t *testing.T, flags uint64, timeout time.Duration, poller *Poller, maps [2]*ebpf.Map, rings ...*Ring) {
	t.Helper()
	const each = 20011
	var producers sync.WaitGroup
	defer producers.Wait()
	for i, m := range maps {
		p := newReserver(t, m, 64)
		p.next = uint64(i) << 32
		producers.Go(func() {
			for n := 0; n < each && !t.Failed(); {
				// Small batches of changing size, so that the reader catches
				// up now and then, and the ring is full now and then.
				batch := min(1+n%61, each-n)
				made := p.run(t, batch, flags, false, 0)
				if n += made; made < batch {
					runtime.Gosched()
				}
			}
			if t.Failed() {
				poller.Interrupt() // or the reader would wait for ever
			}
		})
	}
	var seen [2]uint64
	read(t, poller, len(maps)*each, timeout, func(sample []byte) {
		i, n := number(sample)>>32, number(sample)&(1<<32-1)
		if len(sample) != 64 || n != seen[i] {
			t.Fatalf("producer %d: record %d of %d bytes, want record %d", i, n, len(sample), seen[i])
		}
		seen[i]++
	}, rings...)
	if seen != [2]uint64{each, each} {
		t.Errorf("records by producer %v, want %d each", seen, each)
	}
}

// Idle is one blocked wait, and the record ends it.
func TestWaitBlocksOnce(t *testing.T) {
	m := newMap(t, 64<<10)
	r, p := openRing(t, m), newReserver(t, m, 8)
	poller := newPoller(t, r)
	produced := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() {
		defer close(produced)
		p.run(t, 1, 0, false, 0)
	})
	wait(t, poller, -1, Data)
	<-produced
	// Twice where the first wakeup and the one record crossed.
	if poller.blocks > 2 {
		t.Errorf("blocked %d times, want once", poller.blocks)
	}
	next(t, r)
	time.AfterFunc(time.Millisecond, poller.Interrupt)
	wait(t, poller, -1, Interrupted)
}
