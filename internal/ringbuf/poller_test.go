package ringbuf

import (
	"errors"
	"sync"
	"testing"
	"time"
)

func newPoller(tb testing.TB, rings ...*Ring) *Poller {
	tb.Helper()
	p, err := NewPoller(rings...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

func wait(tb testing.TB, p *Poller, timeout time.Duration, want Wake) {
	tb.Helper()
	got, err := p.Wait(timeout)
	if err != nil {
		tb.Fatal(err)
	}
	if got != want {
		tb.Fatalf("Wait(%v) = %v, want %v", timeout, got, want)
	}
}

func TestWaitData(t *testing.T) {
	f := newFake(4096, 8)
	r := f.openPollable(t)
	p := newPoller(t, r)
	wait(t, p, 0, Timeout)
	wait(t, p, time.Millisecond, Timeout)
	f.submit(numbered(1, 8), noWakeup) // which no epoll reports
	for _, timeout := range []time.Duration{0, time.Hour, -1} {
		blocks := p.blocks
		wait(t, p, timeout, Data)
		if p.blocks != blocks {
			t.Errorf("Wait(%v) blocked with data in the ring", timeout)
		}
	}
	next(t, r)
	wait(t, p, 0, Timeout)
	if r.Held() != 0 {
		t.Errorf("Wait left %d bytes uncommitted", r.Held())
	}
}

// A discarded record is not data, but Wait has to pass it: until it has, the
// reader has not caught up, and no later submit wakes it.
func TestWaitPassesDiscarded(t *testing.T) {
	f := newFake(4096, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	f.discard(t, pattern(8))
	f.discard(t, pattern(8))
	wait(t, p, 0, Timeout)
	if cons, prod := r.Positions(); cons != prod {
		t.Errorf("consumer position %d, want %d", cons, prod)
	}
	time.AfterFunc(time.Millisecond, func() { f.submit(numbered(1, 8), 0) })
	wait(t, p, -1, Data)
}

// TestWaitPaces: discarded records alone do not keep a paced reader busy, and what
// comes among them is found.
func TestWaitPaces(t *testing.T) {
	const discarded = 1000
	f := newFake(1<<20, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	p.Pace = 5 * time.Millisecond
	began := time.Now()
	took := make(chan time.Duration)
	go func() {
		for range discarded {
			pos, _ := f.reserve(pattern(8))
			f.commit(pos, true, 0)
			time.Sleep(20 * time.Microsecond)
		}
		f.submit(numbered(1, 8), 0)
		took <- time.Since(began)
	}()
	wait(t, p, -1, Data)
	// Each pause ends with one block that finds the wakeup of before.
	if most := 2*uint64(<-took/p.Pace) + 10; p.blocks > most || p.blocks == 0 {
		t.Errorf("blocked %d times for %d discarded records, want at most %d", p.blocks, discarded, most)
	}
	// Who interrupts is heard meanwhile.
	p.Pace = time.Hour
	next(t, r)
	time.AfterFunc(time.Millisecond, func() {
		pos, _ := f.reserve(pattern(8))
		f.commit(pos, true, 0)
		time.AfterFunc(time.Millisecond, p.Interrupt)
	})
	wait(t, p, -1, Interrupted)
}

func TestWaitIdleBlocksOnce(t *testing.T) {
	f := newFake(4096, 0)
	p := newPoller(t, f.openPollable(t))
	time.AfterFunc(20*time.Millisecond, p.Interrupt)
	wait(t, p, -1, Interrupted)
	if p.blocks != 1 {
		t.Errorf("blocked %d times, want once", p.blocks)
	}
}

func TestWaitBusy(t *testing.T) {
	f := newFake(4096, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	pos, _ := f.reserve(numbered(1, 8))
	f.submit(numbered(2, 8), forceWakeup) // an edge, but nothing to read
	wait(t, p, 0, Timeout)
	wait(t, p, 40*time.Millisecond, Timeout)
	// 50 µs doubled eight times is more than 10 ms, which the rest is made of.
	if p.blocks > 8+4+2 {
		t.Errorf("blocked %d times in 40 ms on a busy head", p.blocks)
	}
	if age, ok := r.Busy(); !ok || age < 40*time.Millisecond {
		t.Errorf("busy %v for %v", ok, age)
	}
	// Nothing wakes for this one: only the back-off finds it.
	time.AfterFunc(time.Millisecond, func() { f.commit(pos, false, noWakeup) })
	wait(t, p, -1, Data)
	next(t, r)
	next(t, r)
	none(t, r)
}

// One ring's busy head does not hide the other's data, in either order.
func TestWaitManyRings(t *testing.T) {
	a, b := newFake(4096, 0), newFake(4096, 0)
	ra, rb := a.openPollable(t), b.openPollable(t)
	p := newPoller(t, ra, rb)
	a.reserve(pattern(8))
	b.submit(numbered(1, 8), 0)
	wait(t, p, -1, Data)
	next(t, rb)
	wait(t, p, 0, Timeout)

	if err := p.Remove(ra); err != nil {
		t.Fatal(err)
	}
	blocks := p.blocks
	time.AfterFunc(5*time.Millisecond, p.Interrupt)
	wait(t, p, -1, Interrupted)
	if p.blocks > blocks+2 { // what a had rung before may end one
		t.Errorf("blocked %d times for a ring that was removed", p.blocks-blocks)
	}
	if err := p.Remove(ra); err != nil {
		t.Errorf("removing a ring a second time: %v", err)
	}
	if err := p.Add(ra); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(ra); err == nil {
		t.Error("a ring was added twice")
	}
	if _, err := NewPoller(ra); err == nil {
		t.Error("a ring was added to two pollers")
	}
	if err := rb.Close(); err != nil {
		t.Fatal(err)
	}
	if len(p.rings) != 1 || p.rings[0] != ra {
		t.Error("Close did not remove the ring from its poller")
	}
}

func TestWaitCorrupt(t *testing.T) {
	f := newFake(4096, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	*f.prod = 5000
	for range 2 {
		if _, err := p.Wait(-1); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("Wait returned %v, want ErrCorrupt", err)
		}
	}
	if err := p.Remove(r); err != nil {
		t.Fatal(err)
	}
	wait(t, p, 0, Timeout)
}

func TestInterrupt(t *testing.T) {
	p := newPoller(t)
	// Before the wait: kept, and several are one.
	p.Interrupt()
	p.Interrupt()
	wait(t, p, -1, Interrupted)
	wait(t, p, 0, Timeout)
	blocks := p.blocks
	wait(t, p, time.Millisecond, Timeout)
	if p.blocks > blocks+2 {
		t.Errorf("blocked %d times after an interrupt", p.blocks-blocks)
	}
	p.Interrupt()
	if got, err := p.Pause(time.Hour); got != Interrupted || err != nil {
		t.Fatalf("Pause = %v, %v", got, err)
	}

	// From many goroutines: every one of them is followed by a return that
	// sees what it wrote.
	const goroutines, calls = 7, 211
	var mu sync.Mutex
	written := 0
	for range goroutines {
		go func() {
			for range calls {
				mu.Lock()
				written++
				mu.Unlock()
				p.Interrupt()
			}
		}()
	}
	for seen := 0; seen < goroutines*calls; {
		wait(t, p, -1, Interrupted)
		mu.Lock()
		seen = written
		mu.Unlock()
	}
}

func TestInterruptAfterClose(t *testing.T) {
	before := openDescriptors(t)
	f := newFake(4096, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.Interrupt()
	q := newPoller(t, r) // free again
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func TestPause(t *testing.T) {
	f := newFake(4096, 0)
	r := f.openPollable(t)
	p := newPoller(t, r)
	f.submit(numbered(1, 8), 0)
	f.submit(numbered(2, 8), 0)
	sample := next(t, r)
	begin := time.Now()
	if got, err := p.Pause(2 * time.Millisecond); got != Timeout || err != nil {
		t.Fatalf("Pause = %v, %v", got, err)
	}
	if took := time.Since(begin); took < 2*time.Millisecond {
		t.Errorf("paused for %v, want 2ms", took)
	}
	if r.Held() != 16 || number(sample) != 1 {
		t.Error("Pause committed")
	}
	if got, err := p.Pause(-1); got != Timeout || err != nil {
		t.Fatalf("Pause(-1) = %v, %v", got, err)
	}
	time.AfterFunc(time.Millisecond, p.Interrupt)
	if got, err := p.Pause(time.Hour); got != Interrupted || err != nil {
		t.Fatalf("Pause = %v, %v", got, err)
	}
}
