package ringbuf

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// starts are positions to begin a fake ring of size bytes at: 0, as of a new
// ring; others, as of a pinned one; and ones whose records run over the end of
// the data, over 2³², and over 2⁶⁴.
func starts(size uint64) []uint64 {
	return []uint64{0, 8, size - 8, 3*size + 64, math.MaxUint32 - 7, math.MaxUint64 - 7, math.MaxUint64 - size + 1}
}

// next reads a record that must be there.
func next(tb testing.TB, r *Ring) []byte {
	tb.Helper()
	sample, ok := r.Next()
	if !ok {
		tb.Fatalf("Next found no record: %d unread, error %v", r.Unread().Records, r.Err())
	}
	if len(sample) != cap(sample) {
		tb.Errorf("sample of %d bytes with a capacity of %d", len(sample), cap(sample))
	}
	return sample
}

// none checks that there is nothing to read.
func none(tb testing.TB, r *Ring) {
	tb.Helper()
	if sample, ok := r.Next(); ok {
		tb.Fatalf("Next returned a record of %d bytes, want none", len(sample))
	}
}

func TestNext(t *testing.T) {
	const size = 4096
	for _, start := range starts(size) {
		t.Run(fmt.Sprint(start), func(t *testing.T) {
			f := newFake(size, start)
			r := f.open()
			none(t, r)
			var want Counters
			for n := range uint64(1009) {
				payload := numbered(n, 8+int(n*13%500))
				f.submit(payload, 0)
				if got := next(t, r); !bytes.Equal(got, payload) {
					t.Fatalf("record %d: got %x, want %x", n, got, payload)
				}
				want.Records++
				want.Bytes += recordSize(uint32(len(payload)))
				if n%3 == 0 || r.Held() > size/2 {
					r.Commit()
				}
			}
			none(t, r)
			r.Commit()
			if got := r.Counters(); got != want {
				t.Errorf("counters %+v, want %+v", got, want)
			}
			if cons, prod := r.Positions(); cons != prod || cons != start+want.Bytes {
				t.Errorf("positions %d, %d, want both %d", cons, prod, start+want.Bytes)
			}
			if r.Held() != 0 || r.Avail() != 0 || r.Err() != nil {
				t.Errorf("held %d, available %d, error %v", r.Held(), r.Avail(), r.Err())
			}
		})
	}
}

func TestNextEmptyAndLargest(t *testing.T) {
	const size = 4096
	for _, start := range starts(size) {
		f := newFake(size, start)
		r := f.open()
		f.submit(nil, 0)
		if got := next(t, r); got == nil || len(got) != 0 {
			t.Errorf("empty record: got %v", got)
		}
		r.Commit()
		largest := pattern(size - 16)
		f.submit(largest, 0)
		if got := next(t, r); !bytes.Equal(got, largest) {
			t.Errorf("largest record from position %d on differs", start)
		}
		none(t, r)
	}
}

// A sample stays, and its space is not given to producers, until Commit.
func TestCommit(t *testing.T) {
	const size = 4096
	f := newFake(size, 0)
	r := f.open()
	payload := pattern(1000)
	for range 4 {
		f.submit(payload, 0)
	}
	var samples [][]byte
	for range 4 {
		samples = append(samples, next(t, r))
	}
	if _, ok := f.reserve(payload); ok {
		t.Error("a producer got the space of a record that was not committed")
	}
	if got, want := r.Held(), uint64(4*1008); got != want || r.Avail() != want {
		t.Errorf("held %d, available %d, want both %d", got, r.Avail(), want)
	}
	for i, sample := range samples {
		if !bytes.Equal(sample, payload) {
			t.Errorf("sample %d has changed before Commit", i)
		}
	}
	r.Commit()
	if r.Held() != 0 || r.Avail() != 0 {
		t.Errorf("after Commit: held %d, available %d", r.Held(), r.Avail())
	}
	if _, ok := f.reserve(payload); !ok {
		t.Error("a producer did not get the space that was committed")
	}
}

func TestDiscarded(t *testing.T) {
	f := newFake(4096, 0)
	r := f.open()
	f.discard(t, pattern(24))
	f.discard(t, nil)
	f.submit(numbered(1, 8), 0)
	f.discard(t, pattern(100))
	f.submit(numbered(2, 8), 0)
	f.discard(t, pattern(1))
	if got, want := r.Unread(), (Unread{Records: 2, Discarded: 4}); got != want {
		t.Errorf("unread %+v, want %+v", got, want)
	}
	for want := range uint64(2) {
		if got := number(next(t, r)); got != want+1 {
			t.Errorf("record %d, want %d", got, want+1)
		}
	}
	none(t, r)
	if got, want := r.Counters(), (Counters{Records: 2, Discarded: 4, Bytes: 32 + 8 + 16 + 112 + 16 + 16}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
	r.Commit()
	if r.Avail() != 0 {
		t.Errorf("%d bytes available after reading past discarded records", r.Avail())
	}
}

func TestBusy(t *testing.T) {
	f := newFake(4096, 0)
	r := f.open()
	if _, ok := r.Busy(); ok {
		t.Error("an empty ring is busy")
	}
	f.submit(numbered(1, 8), 0)
	held, _ := f.reserve(numbered(2, 8))
	f.submit(numbered(3, 8), 0)
	gone, _ := f.reserve(numbered(4, 8))
	if _, ok := r.Busy(); ok {
		t.Error("busy with a committed record at the head")
	}
	if got, want := r.Unread(), (Unread{Records: 2, Busy: 2}); got != want {
		t.Errorf("unread %+v, want %+v", got, want)
	}

	next(t, r)
	none(t, r)
	none(t, r)
	first, ok := r.Busy()
	if !ok || first < 0 {
		t.Errorf("behind a busy record: %v, %v", first, ok)
	}
	since := r.busySince
	if _, ok := r.Busy(); !ok || r.busySince != since {
		t.Error("the age of a busy record does not count from when it was first met")
	}

	f.commit(held, false, 0)
	if _, ok := r.Busy(); ok {
		t.Error("busy after the commit")
	}
	for want := range uint64(2) {
		if got := number(next(t, r)); got != want+2 {
			t.Errorf("record %d, want %d", got, want+2)
		}
	}
	none(t, r)
	if _, ok := r.Busy(); !ok || !r.busySince.After(since) {
		t.Error("a second busy record is taken for the first")
	}
	f.commit(gone, true, 0)
	if _, ok := r.Busy(); ok {
		t.Error("busy after the discard")
	}
	none(t, r)
	if got, want := r.Counters(), (Counters{Records: 3, Discarded: 1, Bytes: 64}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestCorrupt(t *testing.T) {
	const size = 4096
	set := func(cons, prod uint64, hdr uint32) func() *fake {
		return func() *fake {
			f := newFake(size, cons)
			*f.prod = prod
			f.length(cons, hdr)
			return f
		}
	}
	for name, broken := range map[string]func() *fake{
		"consumer position not aligned":  set(12, 32, 8),
		"producer position not aligned":  set(16, 36, 8),
		"producer behind consumer":       set(64, 48, 8),
		"producer more than a ring away": set(64, 64+size, 8),
		"length past the producer":       set(64, 80, 9),
		"length past the mapping":        set(64, size, discardBit-1),
		"busy past the producer":         set(64, 80, busyBit|9),
		"discarded past the producer":    set(64, 80, discardBit|9),
		"both bits past the producer":    set(64, 80, math.MaxUint32),
	} {
		t.Run(name, func(t *testing.T) {
			r := broken().open()
			pos := r.pos
			for range 2 {
				none(t, r)
				if !errors.Is(r.Err(), ErrCorrupt) {
					t.Fatalf("error %v, want ErrCorrupt", r.Err())
				}
			}
			if got := r.Unread(); got != (Unread{}) {
				t.Errorf("unread %+v", got)
			}
			if _, ok := r.Busy(); ok {
				t.Error("busy")
			}
			r.Commit()
			if cons, _ := r.Positions(); cons != pos {
				t.Errorf("consumer position moved from %d to %d", pos, cons)
			}
		})
	}
}

// What comes before the corruption is read all the same.
func TestCorruptLater(t *testing.T) {
	f := newFake(4096, 0)
	r := f.open()
	f.submit(numbered(1, 8), 0)
	f.submit(numbered(2, 8), 0)
	f.length(16, 4000)
	if got, want := r.Unread(), (Unread{Records: 1}); got != want {
		t.Errorf("unread %+v, want %+v", got, want)
	}
	if got := number(next(t, r)); got != 1 {
		t.Errorf("record %d, want 1", got)
	}
	none(t, r)
	if !errors.Is(r.Err(), ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", r.Err())
	}
}

func TestClose(t *testing.T) {
	f := newFake(4096, 0)
	r := f.open()
	f.submit(numbered(1, 8), 0)
	f.submit(numbered(2, 8), 0)
	next(t, r)
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	none(t, r)
	r.Commit()
	if *f.cons != 0 {
		t.Errorf("the position was published to the ring after Close: %d", *f.cons)
	}
	if cons, prod := r.Positions(); cons != 16 || prod != 16 {
		t.Errorf("positions %d, %d, want 16, 16", cons, prod)
	}
	if got := r.Unread(); got != (Unread{}) {
		t.Errorf("unread %+v", got)
	}
	if got, want := r.Counters(), (Counters{Records: 1, Bytes: 16}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	f := newFake(4096, 0)
	r := f.open()
	payload := pattern(40)
	if n := testing.AllocsPerRun(1009, func() {
		f.submit(payload, 0)
		next(t, r)
		none(t, r)
		r.Commit()
	}); n != 0 {
		t.Errorf("%v allocations a record", n)
	}
}

// Under -race, this also is the proof that a payload is read only between its
// commit by the producer and the Commit that gives its space back.
func TestConcurrent(t *testing.T) {
	const records = 20011
	f := newFake(4096, math.MaxUint64-4095)
	r := f.openPollable(t)
	p := newPoller(t, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range uint64(records) {
			f.submit(numbered(n, 8+int(n%97)), 0)
		}
	}()
	for n := uint64(0); n < records; {
		sample, ok := r.Next()
		if !ok {
			if _, err := p.Wait(-1); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !bytes.Equal(sample, numbered(n, 8+int(n%97))) {
			t.Fatalf("record %d: got %x", n, sample)
		}
		n++
		if r.Held() > 1024 {
			r.Commit()
		}
	}
	<-done
	none(t, r)
}

func TestSizes(t *testing.T) {
	page := uint64(os.Getpagesize())
	type nearest struct{ Below, Above uint64 }
	for n, want := range map[uint64]nearest{
		0:              {0, page},
		1:              {0, page},
		page - 1:       {0, page},
		page:           {page, page},
		page + 1:       {page, 2 * page},
		3 * page:       {2 * page, 4 * page},
		600_000:        {512 << 10, 1 << 20},
		1 << 20:        {1 << 20, 1 << 20},
		1<<31 - 1:      {1 << 30, 1 << 31},
		1 << 31:        {1 << 31, 1 << 31},
		1<<31 + 1:      {1 << 31, 0},
		math.MaxUint64: {1 << 31, 0},
	} {
		var got nearest
		got.Below, got.Above = NearestSizes(n)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("NearestSizes(%d) (-want +got):\n%s", n, diff)
		}
		if err := ValidSize(n); (err == nil) != (want.Below == n && want.Above == n) {
			t.Errorf("ValidSize(%d) = %v", n, err)
		}
	}
}

// FuzzRing reads whatever memory it is given, between two pages that fault: a
// reader that walks out of the ring kills the test.
func FuzzRing(f *testing.F) {
	page := os.Getpagesize()
	guarded := func() []byte {
		size := page
		mem, err := unix.Mmap(-1, 0, 2*page+2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { _ = unix.Munmap(mem) })
		for _, guard := range [][]byte{mem[:page], mem[page+2*size:]} {
			if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
				f.Fatal(err)
			}
		}
		return mem[page : page+2*size]
	}()
	size := uint64(len(guarded) / 2)

	sound := newFake(int(size), 0)
	for n := range uint64(29) {
		switch pos, _ := sound.reserve(numbered(n, 8+int(n))); n % 7 {
		case 3:
			sound.commit(pos, true, 0)
		case 5: // busy
		default:
			sound.commit(pos, false, 0)
		}
	}
	f.Add(uint64(0), *sound.prod, sound.data[:size])
	f.Add(size-8, size+16, []byte{8})
	f.Add(uint64(math.MaxUint64-7), uint64(8), bytes.Repeat([]byte{1, 0, 0, 0x40}, 100))
	f.Add(uint64(64), size+56, []byte{0xff})

	f.Fuzz(func(t *testing.T, cons, prod uint64, data []byte) {
		clear(guarded)
		copy(guarded[:size], data)
		copy(guarded[size:], guarded[:size])
		// Positions that are far apart, or not aligned, are refused at once:
		// look at these rarely.
		if cons%5 != 0 {
			cons &^= 7
			prod = cons + prod%size&^7
		}
		start := cons
		r := newRing(&cons, &prod, guarded)
		unread := r.Unread()
		var got, sum uint64
		for {
			sample, ok := r.Next()
			if !ok {
				break
			}
			got++
			for _, b := range sample { // touch it all
				sum += uint64(b)
			}
			if sum%3 == 0 {
				r.Commit()
			}
			if r.Held() > size {
				t.Fatalf("held %d of %d bytes", r.Held(), size)
			}
		}
		r.Commit()
		_, busy := r.Busy()
		c := r.Counters()
		left := r.Unread()
		switch {
		case c.Records != got || c.Bytes != cons-start:
			t.Errorf("counters %+v after %d records, consumer position %d to %d", c, got, start, cons)
		case c.Records+left.Records != unread.Records || c.Discarded+left.Discarded != unread.Discarded:
			// Unread stops where the corruption is, as Next does.
			t.Errorf("read %+v, left %+v, unread before %+v", c, left, unread)
		case r.Err() != nil && (busy || left != Unread{}):
			t.Errorf("error %v, but busy %v, left %+v", r.Err(), busy, left)
		case r.Err() == nil && !busy && cons != prod:
			t.Errorf("stopped at %d, not busy, before producer position %d", cons, prod)
		}
	})
}
