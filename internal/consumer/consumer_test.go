// SPDX-License-Identifier: Apache-2.0

package consumer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// record is a record of the tracers below.
type record struct {
	Head wire.Head
	N    uint64
}

// bad is an N that does not decode.
const bad = 1 << 40

type event struct {
	tracer.Common
	N field.Uint64 `json:"n" col:"N" doc:"a number"`
}

func newTracer(name string) *tracer.Tracer {
	return tracer.New(tracer.Def[record, event]{
		Name: name, Columns: []string{"n"},
		Decode: func(w *record, _ []byte, e *event) error {
			if w.N == bad {
				return errors.New("bad")
			}
			e.N = field.Uint64(w.N)
			return nil
		},
	})
}

// tracers are those of all consumers here, ids 0 and 1.
var tracers = []*tracer.Tracer{newTracer("a"), newTracer("b")}

const cpus = 4

// at makes a record. lost is what the CPU's books had when it was made.
func at(time, id, cpu, lost, n int) []byte {
	r := &record{Head: wire.Head{Time: uint64(time), Tracer: uint16(id), Cpu: uint16(cpu), Lost: uint32(lost)}, N: uint64(n)}
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}

// recording is records in memory.
type recording [][]byte

func (r *recording) Next() ([]byte, int64, error) {
	if len(*r) == 0 {
		return nil, 0, io.EOF
	}
	next := (*r)[0]
	*r = (*r)[1:]
	return next, 0, nil
}

func (r *recording) Buffered() bool { return true }

func newConsumer(opts consumer.Options) *consumer.Consumer {
	return consumer.NewReplay(tracers, make([][]int, 2), field.NewTimeStyle(field.TimeWall, nil), cpus, opts)
}

// sink notes events and losses in words.
type sink struct {
	notes   []string
	written uint64
}

func (s *sink) Event(source *output.Source) error {
	s.notes = append(s.notes, fmt.Sprintf("%s %s", source.Name, source.Event[len(source.Event)-1].AppendText(nil)))
	s.written++
	return nil
}

func (s *sink) Lost(l output.Loss) error {
	s.notes = append(s.notes, fmt.Sprintf("%s lost %d on %d between %d and %d", l.Source.Name, l.Lost, l.CPU, l.After, l.Before))
	return nil
}

func (s *sink) Flush() error    { return nil }
func (s *sink) Written() uint64 { return s.written }

func same(t *testing.T, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestLosses: a loss is told before the first record that knows of it, and what
// no record knows of at the end.
func TestLosses(t *testing.T) {
	c, s := newConsumer(consumer.Options{}), &sink{}
	const last = 1<<32 - 1
	records := &recording{
		at(10, 0, 0, 0, 1), at(11, 0, 1, 3, 2), at(12, 1, 0, 0, 3), // the first of CPU 1 knows
		at(13, 0, 0, 2, 4),                     // CPU 0 of a
		at(14, 1, 0, 5, 5),                     // CPU 0 of b
		at(16, 0, 0, 6, 6), at(15, 0, 0, 4, 7), // out of order: told already
		at(17, 0, 0, 6, bad), at(18, 0, 0, 7, bad), // a record that cannot be shown knows, too
		at(19, 0, 2, last, 8),                                                   // more than 2^31 is no loss, but an order
		at(20, 0, 3, 1<<31-1, 9), at(21, 0, 3, last-1, 10), at(22, 0, 3, 1, 11), // the count wraps
		at(23, 0, 99, 1, 12), // no such CPU
	}
	if err := c.Replay(context.Background(), records, s); err != nil {
		t.Fatal(err)
	}
	books := func(lost ...uint64) (books []wire.Ledger) {
		for _, n := range lost {
			books = append(books, wire.Ledger{Lost: n})
		}
		return books
	}
	if err := errors.Join(c.ShowLosses(0, books(9, 3, 0, 1<<32+1), 4), c.ShowLosses(1, books(5), 0)); err != nil {
		t.Fatal(err)
	}
	same(t, strings.Join(s.notes, "\n"), strings.Join([]string{
		"a 1", "a lost 3 on 1 between 0 and 11", "a 2", "b 3",
		"a lost 2 on 0 between 10 and 13", "a 4",
		"b lost 5 on 0 between 12 and 14", "b 5",
		"a lost 4 on 0 between 13 and 16", "a 6", "a 7",
		"a lost 1 on 0 between 17 and 18",
		"a 8",
		"a lost 2147483647 on 3 between 0 and 20", "a 9",
		"a lost 2147483647 on 3 between 20 and 21", "a 10",
		"a lost 3 on 3 between 21 and 22", "a 11",
		"a 12",
		"a lost 2 on 0 between 18 and 0", "a lost 4 on -1 between 0 and 0",
	}, "\n"))
}

// TestCounts: each record ends in one of the counts.
func TestCounts(t *testing.T) {
	short := at(1, 0, 0, 0, 1)[:unsafe.Sizeof(wire.Head{})]
	records := recording{
		at(1, 0, 0, 0, 1), at(1, 1, 0, 0, 2), at(1, 0, 0, 0, 3), at(1, 0, 0, 0, bad), at(1, 1, 0, 0, 5),
		short, short[:len(short)-1], nil, at(1, 2, 0, 0, 1), at(1, 65535, 0, 0, 1), at(1, 0, 0, 0, 4),
	}
	odd := func(_ int, _ *wire.Head, event []field.Value) bool {
		n := event[len(event)-1].AppendText(nil)
		return n[len(n)-1]%2 == 1
	}
	type counts = [2]consumer.Counts
	for _, test := range []struct {
		name    string
		opts    consumer.Options
		want    counts
		unknown uint64
		notes   []string
	}{
		{
			"all",
			consumer.Options{},
			counts{{Consumed: 5, Printed: 3, Undecodable: 2}, {Consumed: 2, Printed: 2}},
			4,
			[]string{"a 1", "b 2", "a 3", "b 5", "a 4"},
		},
		{
			"filter",
			consumer.Options{Keep: odd},
			counts{{Consumed: 5, Printed: 2, Undecodable: 2, Filtered: 1}, {Consumed: 2, Printed: 1, Filtered: 1}},
			4,
			[]string{"a 1", "a 3", "b 5"},
		},
		{
			"max",
			consumer.Options{MaxEvents: 3},
			counts{{Consumed: 2, Printed: 2}, {Consumed: 1, Printed: 1}},
			0,
			[]string{"a 1", "b 2", "a 3"},
		},
		{
			"max and filter",
			consumer.Options{MaxEvents: 3, Keep: odd},
			counts{{Consumed: 3, Printed: 2, Undecodable: 1}, {Consumed: 2, Printed: 1, Filtered: 1}},
			0,
			[]string{"a 1", "a 3", "b 5"},
		},
		{
			"more than there are",
			consumer.Options{MaxEvents: 6},
			counts{{Consumed: 5, Printed: 3, Undecodable: 2}, {Consumed: 2, Printed: 2}},
			4,
			[]string{"a 1", "b 2", "a 3", "b 5", "a 4"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, s, r := newConsumer(test.opts), &sink{}, records
			if err := c.Replay(context.Background(), &r, s); err != nil {
				t.Fatal(err)
			}
			same(t, counts{c.Counts(0), c.Counts(1)}, test.want)
			same(t, c.Unknown(), test.unknown)
			same(t, s.notes, test.notes)
		})
	}
}

// full is a disk that has room for so many bytes.
type full struct {
	bytes.Buffer
	room int
}

func (f *full) Write(b []byte) (int, error) {
	if n := min(len(b), f.room-f.Len()); n < len(b) {
		f.Buffer.Write(b[:n])
		return n, unix.ENOSPC
	}
	return f.Buffer.Write(b)
}

// TestFullDisk: whatever of the stream could be written, the counts tell how many
// events are whole in it.
func TestFullDisk(t *testing.T) {
	var records recording
	for n := range 23 {
		records = append(records, at(n, n%3%2, 0, n/5*(1-n%3%2), n))
	}
	run := func(room int) (*full, *consumer.Consumer, error) {
		c, f, r := newConsumer(consumer.Options{}), &full{room: room}, records
		err := c.Replay(context.Background(), &r, output.NewJSON(f))
		return f, c, err
	}
	f, _, err := run(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	for room := range f.Len() {
		f, c, err := run(room)
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
		for i, tr := range tracers {
			n := c.Counts(i)
			whole := uint64(strings.Count(f.String(), `{"type":"`+tr.Name+`"`))
			if last := strings.LastIndexByte(f.String(), '\n') + 1; strings.HasPrefix(f.String()[last:], `{"type":"`+tr.Name+`"`) {
				whole--
			}
			if n.Printed != whole || n.Consumed != n.Printed+n.Unwritten || n.Consumed == 0 {
				t.Fatalf("room for %d bytes, %d events of %s whole: %+v", room, whole, tr.Name, n)
			}
		}
	}
}

// TestBrokenPipe: a reader that has gone makes its events unwritten, and is an
// error that tells so.
func TestBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	c := newConsumer(consumer.Options{})
	err = c.Replay(context.Background(), &recording{at(1, 0, 0, 0, 1), at(2, 1, 0, 0, 2)}, output.NewJSON(w))
	if !errors.Is(err, unix.EPIPE) {
		t.Error(err)
	}
	same(t, []consumer.Counts{c.Counts(0), c.Counts(1)}, []consumer.Counts{{Consumed: 1, Unwritten: 1}, {Consumed: 1, Unwritten: 1}})
}

func TestFailOnLoss(t *testing.T) {
	c, s := newConsumer(consumer.Options{FailOnLoss: true}), &sink{}
	err := c.Replay(context.Background(), &recording{at(1, 0, 0, 0, 1), at(2, 0, 0, 7, 2), at(3, 0, 0, 7, 3)}, s)
	if !errors.Is(err, consumer.ErrLost) {
		t.Error(err)
	}
	same(t, s.notes, []string{"a 1", "a lost 7 on 0 between 1 and 2", "a 2"})
	same(t, c.Counts(0), consumer.Counts{Consumed: 2, Printed: 2})
}

func TestLedger(t *testing.T) {
	for _, test := range []struct {
		ledger             consumer.Ledger
		balanced, complete bool
		want               string
	}{
		{
			consumer.Ledger{Name: "a"},
			true, true,
			"a: 0 hits = 0 filtered + 0 lost + 0 discarded + 0 submitted; 0 submitted = 0 printed",
		},
		{
			consumer.Ledger{
				Name:   "a",
				CPU:    []wire.Ledger{{Hits: 10, Filtered: 1, Discarded: 2, Submitted: 7}, {Hits: 4, Submitted: 4}},
				Counts: consumer.Counts{Consumed: 8, Printed: 5, Filtered: 2, Unwritten: 1, Left: 3},
			},
			true, true,
			"a: 14 hits = 1 filtered + 0 lost + 2 discarded + 11 submitted; 11 submitted = 5 printed + 2 filtered in user space + 1 not written + 3 left in the ring",
		},
		{
			consumer.Ledger{
				Name: "a", CPU: []wire.Ledger{{Hits: 3, Lost: 2, NoEntry: 1, Submitted: 1}}, Missed: 5,
				Counts: consumer.Counts{Consumed: 1, Undecodable: 1},
			},
			true, false,
			"a: 8 hits = 0 filtered + 7 lost + 0 discarded + 1 submitted; 1 submitted = 0 printed + 1 undecodable; lost: 5 missed by the kernel, 1 without room in the ring, 1 whose beginning is not known",
		},
		{ // the CPUs' errors cancel out, and are errors all the same
			consumer.Ledger{
				Name: "a", CPU: []wire.Ledger{{Hits: 3, Submitted: 2}, {Hits: 1, Submitted: 2}},
				Counts: consumer.Counts{Consumed: 4, Printed: 4},
			},
			false, true,
			"a: 4 hits = 0 filtered + 0 lost + 0 discarded + 4 submitted; 4 submitted = 4 printed",
		},
		{consumer.Ledger{CPU: []wire.Ledger{{Hits: 1, Submitted: 1}}}, false, true, ": 1 hits = 0 filtered + 0 lost + 0 discarded + 1 submitted; 1 submitted = 0 printed"},
		{
			consumer.Ledger{CPU: []wire.Ledger{{Hits: 1, Submitted: 1}}, Counts: consumer.Counts{Consumed: 1}},
			false, true,
			": 1 hits = 0 filtered + 0 lost + 0 discarded + 1 submitted; 1 submitted = 0 printed",
		},
	} {
		l := &test.ledger
		if l.Balanced() != test.balanced || l.Complete() != test.complete || l.String() != test.want {
			t.Errorf("balanced %v, want %v; complete %v, want %v\n%s\n%s", l.Balanced(), test.balanced, l.Complete(), test.complete, l, test.want)
		}
	}
}
