// SPDX-License-Identifier: Apache-2.0

package consumer_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
)

// noWakeup is BPF_RB_NO_WAKEUP (include/uapi/linux/bpf.h).
const noWakeup = 1

func onRing(t *testing.T, m *ebpf.Map, opts consumer.Options) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New([]*ebpf.Map{m}, tracers, make([][]int, 2), field.NewTimeStyle(field.TimeWall, nil), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func write(t *testing.T, w *bpftest.Writer, from, to int, flags uint64) {
	t.Helper()
	for n := from; n < to; n++ {
		if !w.Write(t, at(n, n%2, 0, 0, n), flags) {
			t.Fatalf("no room for record %d", n)
		}
	}
}

// inOrder fails the test where the notes are not those of all records that write
// wrote.
func inOrder(t *testing.T, notes []string, n int) {
	t.Helper()
	inOrderFrom(t, notes, 0, n)
}

func inOrderFrom(t *testing.T, notes []string, from, n int) {
	t.Helper()
	var want sink
	c := newConsumer(consumer.Options{})
	var records recording
	for i := from; i < from+n; i++ {
		records = append(records, at(i, i%2, 0, 0, i))
	}
	if err := c.Replay(context.Background(), &records, &want); err != nil {
		t.Fatal(err)
	}
	if strings.Join(notes, ",") != strings.Join(want.notes, ",") {
		t.Errorf("%d events, want %d in order", len(notes), n)
	}
}

// TestRun: what a program writes while the consumer runs comes out whole and in
// order, however full the ring and whatever wakes the consumer.
func TestRun(t *testing.T) {
	const n = 10007
	for _, test := range []struct {
		name  string
		opts  consumer.Options
		flags uint64
	}{
		{"no pace", consumer.Options{}, 0},
		{"default", consumer.Options{Pace: consumer.DefaultPace}, 0},
		{"hold", consumer.Options{Hold: 20 * time.Millisecond}, 0},
		{"timer", consumer.Options{LookEvery: time.Millisecond}, noWakeup},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, w := bpftest.NewRing(t, os.Getpagesize())
			c, s := onRing(t, m, test.opts), &sink{}
			ctx, end := context.WithCancel(context.Background())
			ran := make(chan error)
			go func() { ran <- c.Run(ctx, s) }()
			for i := range n {
				for !w.Write(t, at(i, i%2, 0, 0, i), test.flags) { // the ring is full
					if t.Failed() {
						break
					}
					runtime.Gosched()
				}
			}
			end()
			if err := <-ran; err != nil {
				t.Fatal(err)
			}
			count := func() uint64 { return c.Counts(0).Consumed + c.Counts(1).Consumed }
			if err := c.Finish(s, func() bool { return count() == n }); err != nil {
				t.Fatal(err)
			}
			inOrder(t, s.notes, n)
			same(t, []consumer.Counts{c.Counts(0), c.Counts(1)}, []consumer.Counts{
				{Consumed: n/2 + 1, Printed: n/2 + 1}, {Consumed: n / 2, Printed: n / 2},
			})
			if f := c.Fill(); f.Rings != 1 || f.Bytes != 0 || f.Fullest != 0 || f.HighWater == 0 || f.HighWater > f.RingSize || f.RingSize != uint64(os.Getpagesize()) {
				t.Errorf("fill %+v", f)
			}
		})
	}
}

// TestMaxEvents: exactly so many are shown, and what else is in the ring is left.
func TestMaxEvents(t *testing.T) {
	const n, most = 1009, 17
	m, w := bpftest.NewRing(t, 1<<20)
	write(t, w, 0, n, 0)
	c, s := onRing(t, m, consumer.Options{MaxEvents: most}), &sink{}
	if err := c.Run(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	write(t, w, n, n+2, 0)
	if err := c.Finish(s, func() bool { t.Error("asked"); return false }); err != nil {
		t.Fatal(err)
	}
	inOrder(t, s.notes, most)
	same(t, []consumer.Counts{c.Counts(0), c.Counts(1)}, []consumer.Counts{
		{Consumed: 9, Printed: 9, Left: (n+1)/2 + 1 - 9}, {Consumed: 8, Printed: 8, Left: n/2 + 1 - 8},
	})
}

// TestBehind: a ring that is half full is told once, one that is less full is not, and a
// loss is, too.
func TestBehind(t *testing.T) {
	size := os.Getpagesize()
	record := len(at(0, 0, 0, 0, 0)) + 8
	for _, test := range []struct {
		name       string
		fill, lost int
		want       int
	}{{"below", size/2/record - 4, 0, 0}, {"half", size / 2 / record, 0, 1}, {"loss", 1, 3, 1}} {
		t.Run(test.name, func(t *testing.T) {
			m, w := bpftest.NewRing(t, size)
			told := 0
			c, s := onRing(t, m, consumer.Options{MaxEvents: uint64(test.fill) + 2, Behind: func() { told++ }}), &sink{}
			write(t, w, 0, test.fill, 0)
			if !w.Write(t, at(test.fill, 0, 0, test.lost, 0), 0) || !w.Write(t, at(test.fill+1, 0, 0, 2*test.lost, 0), 0) {
				t.Fatal("no room")
			}
			if err := c.Run(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			if told != test.want {
				t.Errorf("told %d times, want %d", told, test.want)
			}
		})
	}
}

// TestDeadSink: once the sink fails, what is in the ring is left, and all counts
// add up.
func TestDeadSink(t *testing.T) {
	const n = 5003
	m, w := bpftest.NewRing(t, 1<<20)
	write(t, w, 0, n, 0)
	c, s := onRing(t, m, consumer.Options{}), output.NewJSON(&full{room: 100_000})
	if err := c.Run(context.Background(), s); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := c.Finish(s, func() bool { return false }); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	a, b := c.Counts(0), c.Counts(1)
	for _, n := range []consumer.Counts{a, b} {
		if n.Consumed != n.Printed+n.Unwritten || n.Printed == 0 || n.Unwritten == 0 || n.Left == 0 {
			t.Errorf("%+v", n)
		}
	}
	if a.Consumed+a.Left+b.Consumed+b.Left != n || a.Printed+b.Printed != s.Written() {
		t.Errorf("%+v and %+v, %d written; want %d", a, b, s.Written(), n)
	}
}

// TestFinish waits for records that are still under way, and not for ever.
func TestFinish(t *testing.T) {
	m, w := bpftest.NewRing(t, 1<<20)
	c, s := onRing(t, m, consumer.Options{}), &sink{}
	asked := 0
	err := c.Finish(s, func() bool {
		write(t, w, asked, asked+1, 0)
		asked++
		return asked == 4 // the fourth is too late
	})
	if err != nil {
		t.Fatal(err)
	}
	inOrder(t, s.notes, 3)
	if err := c.Finish(s, func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	inOrder(t, s.notes, 4)
}

// TestStats: they are shown at their interval while nothing comes, and while
// there is always something.
func TestStats(t *testing.T) {
	m, w := bpftest.NewRing(t, 1<<20)
	for _, busy := range []bool{false, true} {
		ctx, end := context.WithCancel(context.Background())
		shown, next := 0, 0
		c := onRing(t, m, consumer.Options{StatsEvery: time.Millisecond, Stats: func() {
			if shown++; shown == 5 {
				end()
			}
			if busy {
				write(t, w, next, next+2000, 0)
				next += 2000
			}
		}})
		if err := c.Run(ctx, &sink{}); err != nil || shown < 5 {
			t.Errorf("busy %v: shown %d times, %v", busy, shown, err)
		}
		end()
		_ = c.Close()
	}
}

// rings makes n rings, and a consumer of them all.
func rings(t *testing.T, n int, opts consumer.Options) (*consumer.Consumer, []*bpftest.Writer) {
	t.Helper()
	var maps []*ebpf.Map
	var writers []*bpftest.Writer
	for range n {
		m, w := bpftest.NewRing(t, 1<<20)
		maps, writers = append(maps, m), append(writers, w)
	}
	c, err := consumer.New(maps, tracers, make([][]int, 2), field.NewTimeStyle(field.TimeWall, nil), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, writers
}

// TestMerge: what several rings hold comes out in the order of its time, each ring
// in its own order, and what is older than what was shown already is counted.
func TestMerge(t *testing.T) {
	const n = 1009
	c, w := rings(t, 3, consumer.Options{})
	s := &sink{}
	for i := range n {
		write(t, w[(i*i)%3], i+1, i+2, 0)
	}
	done, end := context.WithCancel(context.Background())
	end()
	if err := c.Run(done, s); err != nil {
		t.Fatal(err)
	}
	inOrderFrom(t, s.notes, 1, n)
	same(t, c.Counts(0).Late+c.Counts(1).Late, 0)

	// Too late, of tracer 0; and in order again.
	write(t, w[1], 4, 5, 0)
	if err := c.Run(done, s); err != nil {
		t.Fatal(err)
	}
	write(t, w[2], n+1, n+2, 0)
	if err := c.Finish(s, func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	same(t, s.notes[n:], []string{"a 4", "a 1010"})
	same(t, []uint64{c.Counts(0).Late, c.Counts(1).Late}, []uint64{1, 0})
	if f := c.Fill(); f.Rings != 3 || f.Bytes != 0 || f.HighWater == 0 {
		t.Errorf("fill %+v", f)
	}
}

// TestMergeWaits: a record whose time is now waits for older ones of rings that are
// drained, though not for long.
func TestMergeWaits(t *testing.T) {
	c, w := rings(t, 2, consumer.Options{MaxEvents: 2})
	s := &sink{}
	now := int(kernel.BootTime()) + int(time.Second)
	w[0].Write(t, at(now, 0, 0, 0, 2), 0)
	ran := make(chan error)
	go func() { ran <- c.Run(context.Background(), s) }()
	time.Sleep(100 * time.Millisecond)
	w[1].Write(t, at(now-1, 0, 0, 0, 1), 0)
	select {
	case err := <-ran:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for ever")
	}
	same(t, s.notes, []string{"a 1", "a 2"})
	same(t, c.Counts(0).Late, 0)
}

// TestRings: rings come and go while the consumer runs.
func TestRings(t *testing.T) {
	c, w := rings(t, 1, consumer.Options{Pace: consumer.DefaultPace, MaxEvents: 3})
	s := &sink{}
	ran := make(chan error)
	go func() { ran <- c.Run(context.Background(), s) }()
	write(t, w[0], 0, 1, 0)
	m, more := bpftest.NewRing(t, 1<<20)
	if err := c.AddRing(m); err != nil {
		t.Fatal(err)
	}
	write(t, more, 1, 2, 0)
	c.RetireRing(m)
	m.Close() // it has a descriptor of its own
	write(t, w[0], 2, 3, 0)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for deadline := time.Now().Add(20 * time.Second); c.Fill().Rings > 1 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := c.Run(ended, s); err != nil {
			t.Fatal(err)
		}
	}
	same(t, s.notes, []string{"a 0", "b 1", "a 2"})
	if err := c.Finish(s, func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	same(t, c.Fill().Rings, 1)
}
