// SPDX-License-Identifier: Apache-2.0

package consumer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// tailed is a tracer that shows what is behind its record.
var tailed = tracer.New(tracer.Def[record, struct {
	tracer.Common
	Tail field.Text `json:"tail" col:"TAIL" doc:"the tail"`
}]{
	Name: "t", Columns: []string{"tail"},
	Decode: func(_ *record, tail []byte, e *struct {
		tracer.Common
		Tail field.Text `json:"tail" col:"TAIL" doc:"the tail"`
	},
	) error {
		e.Tail = tail
		return nil
	},
})

const room = len(wire.Part{}.Data)

// member is an event's place among others.
type member struct{ time, id, cpu, group int }

func (m member) head(flags int) wire.Head {
	return wire.Head{Time: uint64(m.time), Tracer: uint16(m.id), Cpu: uint16(m.cpu), Group: uint16(m.group), Flags: uint16(flags)}
}

// part makes a part with the bytes of text from offset on.
func (m member) part(text string, offset int) []byte {
	p := &wire.Part{Head: m.head(wire.IsPart | 5), Offset: uint64(offset)}
	copy(p.Data[:], text[min(max(offset, 0), len(text)):])
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}

// main makes a main record with a tail of its own.
func (m member) main(tail string) []byte {
	words := make([]uint64, (int(unsafe.Sizeof(record{}))+len(tail)+7)/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	(*record)(unsafe.Pointer(&words[0])).Head = m.head(5)
	return b[:int(unsafe.Sizeof(record{}))+copy(b[unsafe.Sizeof(record{}):], tail)]
}

// text is so many bytes, no two pages of which are alike.
func text(seed, size int) string {
	b := make([]byte, size)
	for i := range b {
		b[i] = 'a' + byte((i+i/251+seed)%26)
	}
	return string(b)
}

// event makes all records of an event: the parts overlap at the end.
func (m member) event(tail, text string) (records [][]byte) {
	for offset := 0; offset < len(text); offset += room {
		records = append(records, m.part(text, min(offset, len(text)-room)))
	}
	return append(records, m.main(tail))
}

func replayTailed(t *testing.T, records [][]byte) (*consumer.Consumer, *sink) {
	t.Helper()
	c := consumer.NewReplay([]*tracer.Tracer{tailed, tailed}, make([][]int, 2), field.NewTimeStyle(field.TimeWall, nil), cpus, consumer.Options{})
	s, r := &sink{}, recording(records)
	if err := c.Replay(context.Background(), &r, s); err != nil {
		t.Fatal(err)
	}
	return c, s
}

// TestParts: an event's parts find together whatever lies between them.
func TestParts(t *testing.T) {
	a := member{1, 0, 0, 1}.event("head ", text(1, room))
	b := member{2, 0, 1, 1}.event("", text(2, 8*room))
	c := member{3, 1, 0, 1}.event("odd", text(3, 2*room+1))
	d := member{4, 0, 2, 65535}.event("x", text(4, 3*room-1))
	alone := member{time: 5}.main("alone")
	var mixed [][]byte
	for i := range b {
		mixed = append(mixed, alone)
		for _, event := range [][][]byte{a, b, c, d} {
			if i < len(event) {
				mixed = append(mixed, event[i])
			}
		}
	}
	consumed, s := replayTailed(t, mixed)
	want := []string{ // by when the main record comes
		"t alone", "t alone", "t head " + text(1, room), "t alone", "t alone", "t odd" + text(3, 2*room+1),
		"t x" + text(4, 3*room-1), "t alone", "t alone", "t alone", "t alone", "t alone", "t " + text(2, 8*room),
	}
	if strings.Join(s.notes, "\n") != strings.Join(want, "\n") {
		t.Errorf("got  %.50q\nwant %.50q", s.notes, want)
	}
	same(t, []consumer.Counts{consumed.Counts(0), consumed.Counts(1)}, []consumer.Counts{{Consumed: 12, Printed: 12}, {Consumed: 1, Printed: 1}})
	same(t, consumed.Unknown(), 0)
}

// TestBadParts: what does not fit together is counted, and harms no other event.
func TestBadParts(t *testing.T) {
	m := member{7, 0, 0, 3}
	good := text(1, 2*room)
	main := m.main("")
	short := m.part(good, 0)
	short = short[:len(short)-8]
	var many [][]byte
	for range 1000 {
		many = append(many, m.part(good, 0))
	}
	for _, test := range []struct {
		name        string
		records     [][]byte
		undecodable uint64
		unknown     uint64
	}{
		{"no part", [][]byte{main}, 1, 0},
		{"the first is missing", [][]byte{m.part(good, room), main}, 1, 0},
		{"one between is missing", [][]byte{m.part(text(1, 3*room), 0), m.part(text(1, 3*room), 2*room), main}, 1, 0},
		{"of another CPU", [][]byte{member{7, 0, 1, 3}.part(good, 0), main}, 1, 1},
		{"of another tracer", [][]byte{member{7, 1, 0, 3}.part(good, 0), main}, 1, 1},
		{"of another group", [][]byte{member{7, 0, 0, 2}.part(good, 0), main}, 1, 1},
		{"of another time", [][]byte{member{6, 0, 0, 3}.part(good, 0), main}, 1, 1},
		{"behind", [][]byte{main, m.part(good, 0)}, 1, 1},
		{"short", [][]byte{short, main}, 1, 0},
		{"only a head", [][]byte{short[:unsafe.Sizeof(wire.Head{})], main}, 1, 0},
		{"far", [][]byte{m.part(good, 0), m.part(good, 1<<40), main}, 1, 0},
		{"negative", [][]byte{m.part(good, 0), m.part(good, -1), main}, 1, 0},
		{"negative by a part", [][]byte{m.part(good, 0), m.part(good, -room), main}, 1, 0},
		{"too many", append(many, main), 1, 0},
		{"taken", append(m.event("", good), main), 1, 0},
		{"no main record", [][]byte{m.part(good, 0), m.part(good, room)}, 0, 2},
		{"of no tracer", [][]byte{member{7, 9, 0, 3}.part(good, 0)}, 0, 1},
		{"of no CPU", member{7, 0, 9999, 3}.event("", good), 0, 0},
		{
			"stale", [][]byte{ // and so old that the last one is gone
				member{1, 0, 0, 1}.part(good, 0), member{1, 0, 0, 1}.part(good, room),
				member{2, 0, 0, 2}.part(good, 0), member{3, 0, 0, 3}.part(good, 0), member{4, 0, 0, 4}.part(good, 0),
				member{5, 0, 0, 5}.part(good, 0), member{1, 0, 0, 1}.main(""), member{5, 0, 0, 5}.main(""),
			}, 1, 5,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := member{1, 0, 3, 1}.event("", good), member{9, 0, 3, 2}.event("", good)
			var records [][]byte
			records = append(append(append(append(records, before...), after[0]), test.records...), after[1:]...)
			c, s := replayTailed(t, records)
			n := c.Counts(0)
			if n.Undecodable != test.undecodable || c.Unknown() != test.unknown || n.Consumed != n.Printed+n.Undecodable {
				t.Errorf("%+v and %d unknown, want %d undecodable and %d unknown", n, c.Unknown(), test.undecodable, test.unknown)
			}
			if len(s.notes) < 2 || s.notes[0] != "t "+good || s.notes[len(s.notes)-1] != "t "+good {
				t.Errorf("the events around are %.50q", s.notes)
			}
		})
	}
}

// TestPartsMemory: however many CPUs a recording says that it is of, what is kept
// of it is bounded.
func TestPartsMemory(t *testing.T) {
	var parts [][]byte
	for cpu := range 2000 { // 256 KiB each
		parts = append(parts, member{1, 0, cpu, 1}.part("", 240<<10))
	}
	c, _ := replayTailed(t, append(parts, member{1, 0, 0, 1}.main(""), member{1, 0, 1999, 1}.main("")))
	same(t, []any{c.Unknown(), c.Counts(0)}, []any{1999, consumer.Counts{Consumed: 2, Undecodable: 2}})
}

// rawSink keeps records.
type rawSink struct {
	sink
	records [][]byte
}

func (s *rawSink) Event(*output.Source) error { panic("an event") }

func (s *rawSink) Record(record []byte, _ int64) error {
	s.records = append(s.records, bytes.Clone(record))
	s.written++
	return nil
}

// TestPartsRecorded: a recording gets an event of several records as one, and its
// replay needs no parts.
func TestPartsRecorded(t *testing.T) {
	c := newConsumer(consumer.Options{})
	s, want := &rawSink{}, text(1, 5*room+3)
	r := recording(member{1, 1, 2, 77}.event("head", want))
	if err := c.Replay(context.Background(), &r, s); err != nil {
		t.Fatal(err)
	}
	if len(s.records) != 1 || tracer.Head(s.records[0]).Group != 0 || tracer.Head(s.records[0]).Flags != 5 {
		t.Fatalf("%d records, the first of which begins %.100v", len(s.records), s.records)
	}
	_, again := replayTailed(t, s.records)
	if strings.Join(again.notes, "\n") != "t head"+want {
		t.Errorf("replayed %.50q", again.notes)
	}
}

// TestNoAllocation: no event costs memory, whether in one record or in several.
func TestNoAllocation(t *testing.T) {
	m := member{1, 0, 0, 1}
	long := m.event("", text(1, 2*room))
	for name, records := range map[string][][]byte{"one": {at(1, 0, 0, 0, 1)}, "several": long} {
		c, s := newConsumer(consumer.Options{}), &counter{}
		run := func(n int) float64 {
			var all recording
			for range n {
				all = append(all, records...)
			}
			left := make(recording, len(all))
			return testing.AllocsPerRun(10, func() {
				copy(left, all)
				r := left
				if err := c.Replay(context.Background(), &r, s); err != nil {
					t.Fatal(err)
				}
			})
		}
		if few, many := run(10), run(1000); many > few {
			t.Errorf("%s: %v allocations for 10 events, %v for 1000", name, few, many)
		}
		if s.written == 0 {
			t.Errorf("%s: no events", name)
		}
	}
}

// counter counts events.
type counter struct{ written uint64 }

func (c *counter) Event(*output.Source) error { c.written++; return nil }
func (c *counter) Lost(output.Loss) error     { return nil }
func (c *counter) Flush() error               { return nil }
func (c *counter) Written() uint64            { return c.written }

// FuzzParts: whatever parts come, in whatever order, each main record is one event.
func FuzzParts(f *testing.F) {
	add := func(words ...uint64) {
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		f.Add(b)
	}
	// kind, time, CPU and group in the low bytes, offset above them
	const part, main = 0, 1
	add(part|1<<24, part|1<<24|16384<<32, main|1<<24)
	add(part|1<<24, main|1<<24, main|1<<24)
	add(part|1<<24|1<<63, part|1<<16|2<<24, main|2<<24, 2)
	f.Fuzz(func(t *testing.T, data []byte) {
		var records [][]byte
		var mains uint64
		for ; len(data) >= 8 && len(records) < 1000; data = data[8:] {
			w := binary.LittleEndian.Uint64(data)
			m := member{int(w >> 8 & 0xff), 0, int(w >> 16 & 0xff), int(w>>24&0xff) + 1}
			switch w & 3 {
			case 1:
				records = append(records, m.main("x"))
				mains++
			case 2:
				part := m.part("", 0)
				records = append(records, part[:max(int(w>>32)%len(part), int(unsafe.Sizeof(wire.Head{})))])
			default:
				records = append(records, m.part("", int(w>>32)<<(w&3*8)))
			}
		}
		c, s := replayTailed(t, records)
		if n := c.Counts(0); n.Consumed != mains || n.Printed+n.Undecodable != mains || n.Printed != uint64(len(s.notes)) {
			t.Errorf("%d main records are %+v, %d events", mains, n, len(s.notes))
		}
		for _, note := range s.notes {
			if !strings.HasPrefix(note, "t x") || len(note) < room {
				t.Errorf("event %.20q of %d bytes", note, len(note))
			}
		}
	})
}
