// SPDX-License-Identifier: Apache-2.0

// Package output holds the sinks that events end in: a streaming table and
// newline-delimited JSON. Rows are appended to one buffer, so a row costs no
// allocation, and leave with Flush.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// Source is where rows of one kind come from: a tracer with its decoder.
type Source struct {
	Name    string
	Schema  tracer.Schema
	Columns []int         // of the table: places in Schema
	Event   []field.Value // as Decoder.Event
	Time    *field.Time   // of the event
}

// Loss is events that the ring had no room for.
type Loss struct {
	Source *Source
	CPU    int // where; -1: on no particular one
	Lost   uint64
	// Between are the boot-clock times of the events around the loss on that CPU, in
	// ns: 0 where there is none.
	After, Before uint64
}

// Sink takes events. Its methods belong to one goroutine.
type Sink interface {
	// Event appends the event that source holds.
	Event(source *Source) error
	// Lost appends a record of a loss at this place of the stream.
	Lost(loss Loss) error
	// Flush writes what was appended. Once it has failed, the sink is dead, and every
	// later call returns the same error.
	Flush() error
	// Written is the number of events that were written without an error.
	Written() uint64
}

// RawSink is a Sink that takes records as the kernel wrote them, whether they can
// be decoded or not, instead of events. Those of several records come as one.
type RawSink interface {
	Sink
	// Record appends a record. wall is what to add to its boot clock to get Unix
	// time, in ns. The record is the caller's again when it returns.
	Record(record []byte, wall int64) error
}

// flushAt is how much is gathered before it is written without a Flush.
const flushAt = 64 << 10

// buffer gathers rows, each one line, and counts those that were written.
type buffer struct {
	w       io.Writer
	b       []byte
	notRows []int // offsets in b of the newlines that do not end an event
	written uint64
	err     error
}

// endRow ends an event's row.
func (o *buffer) endRow() error {
	o.b = append(o.b, '\n')
	return o.full()
}

// endOther ends a line that is not an event.
func (o *buffer) endOther() error {
	o.notRows = append(o.notRows, len(o.b))
	o.b = append(o.b, '\n')
	return o.full()
}

func (o *buffer) full() error {
	if len(o.b) >= flushAt {
		return o.Flush()
	}
	return o.err
}

// Flush implements Sink.
func (o *buffer) Flush() error {
	if o.err != nil || len(o.b) == 0 {
		return o.err
	}
	n, err := o.w.Write(o.b)
	rows := bytes.Count(o.b[:n], []byte{'\n'})
	for _, at := range o.notRows {
		if at < n {
			rows--
		}
	}
	o.written += uint64(rows)
	o.b, o.notRows, o.err = o.b[:0], o.notRows[:0], err
	return err
}

// Written implements Sink.
func (o *buffer) Written() uint64 { return o.written }

// JSON writes an object a line: first "type", then a key for each column of the
// source's schema, whatever Columns says.
type JSON struct {
	buffer
	prefixes map[*Source][]string // `{"type":"exec","time":`, `,"pid":`, …
}

// NewJSON returns a sink that writes to w.
func NewJSON(w io.Writer) *JSON {
	return &JSON{buffer: buffer{w: w}, prefixes: make(map[*Source][]string)}
}

// Event implements Sink.
func (j *JSON) Event(source *Source) error {
	prefixes, ok := j.prefixes[source]
	if !ok {
		prefixes = jsonPrefixes(source)
		j.prefixes[source] = prefixes
	}
	for i, value := range source.Event {
		j.b = append(j.b, prefixes[i]...)
		j.b = value.AppendJSON(j.b)
	}
	j.b = append(j.b, '}')
	return j.endRow()
}

// jsonPrefixes returns what stands before each value. Names and keys are this
// program's own: letters, digits and underscores.
func jsonPrefixes(source *Source) []string {
	prefixes := make([]string, len(source.Schema))
	for i, column := range source.Schema {
		prefixes[i] = `,"` + column.Key + `":`
	}
	prefixes[0] = `{"type":"` + source.Name + `"` + prefixes[0]
	return prefixes
}

// Lost implements Sink: {"type":"lost","tracer":…,"cpu":…,"lost":…,
// "after_boot_ns":…,"before_boot_ns":…}.
func (j *JSON) Lost(l Loss) error {
	j.b = fmt.Appendf(j.b, `{"type":"lost","tracer":"%s","cpu":%d,"lost":%d,"after_boot_ns":%d,"before_boot_ns":%d}`,
		l.Source.Name, l.CPU, l.Lost, l.After, l.Before)
	return j.endOther()
}

// Stats is a record of how a trace is doing. Counts are since its beginning, rates
// since the last record, per second, and sizes in bytes.
type Stats struct {
	Time     time.Time     `json:"time"`
	Interval time.Duration `json:"interval_ns"` // that the rates are of
	Tracer   string        `json:"tracer"`

	Hits      uint64 `json:"hits"`
	Filtered  uint64 `json:"filtered"`
	Lost      uint64 `json:"lost"`
	NoRoom    uint64 `json:"lost_no_room"`  // of these: the ring was full
	NoEntry   uint64 `json:"lost_no_entry"` // what they need of an earlier moment is not known
	Missed    uint64 `json:"lost_missed"`   // the kernel did not run the program
	Discarded uint64 `json:"discarded"`
	Submitted uint64 `json:"submitted"`
	Consumed  uint64 `json:"consumed"`
	Printed   uint64 `json:"printed"`
	Late      uint64 `json:"late"`
	Wakeups   uint64 `json:"wakeups"`

	HitRate    float64 `json:"hits_per_s"`
	PrintRate  float64 `json:"printed_per_s"`
	LossRate   float64 `json:"lost_per_s"`
	WakeupRate float64 `json:"wakeups_per_s"`

	Rings     int    `json:"rings"`
	RingSize  uint64 `json:"ring_size"`  // of each
	Fill      uint64 `json:"fill"`       // of all rings
	Fullest   uint64 `json:"fullest"`    // fill of the fullest one
	HighWater uint64 `json:"high_water"` // the most that was found in any ring
	// Lag is the longest that an event waited in its ring.
	Lag time.Duration `json:"lag_ns"`
	// Busy is how long an uncommitted record has held up a ring; 0: none does.
	Busy time.Duration `json:"busy_ns"`
}

// Stats appends a record {"type":"stats",…} at this place of the stream.
func (j *JSON) Stats(s *Stats) error {
	object, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding statistics: %w", err)
	}
	j.b = append(append(j.b, `{"type":"stats",`...), object[1:]...)
	return j.endOther()
}

// Table writes aligned columns as events come. A cell that is too wide pushes
// the next ones to the right, until there is room to fall back into line.
type Table struct {
	buffer
	header bool // still to be written
	style  *field.TimeStyle
	cell   []byte
	notice func(Loss)
}

// NewTable returns a sink that writes to w. Times are shown by style. A loss is
// no row: notice is told.
func NewTable(w io.Writer, style *field.TimeStyle, header bool, notice func(Loss)) *Table {
	return &Table{buffer: buffer{w: w}, style: style, header: header, notice: notice}
}

// Header writes the header of what source has, if there is to be one, at once.
func (t *Table) Header(source *Source) error {
	if !t.header {
		return nil
	}
	t.header = false
	t.row(source, true)
	if err := t.endOther(); err != nil {
		return err
	}
	return t.Flush()
}

// Event implements Sink.
func (t *Table) Event(source *Source) error {
	t.row(source, false)
	t.style.Advance(source.Time.Boot)
	return t.endRow()
}

// row appends a line: the header's cells, or the event's.
func (t *Table) row(source *Source, header bool) {
	want, have := 0, 0 // where the next column should begin, and where the line ends
	for _, i := range source.Columns {
		column := &source.Schema[i]
		width := column.Width
		if column.Key == "time" {
			if width = t.style.Width(); width == 0 {
				continue
			}
		}
		if header {
			t.cell = append(t.cell[:0], column.Header...)
		} else {
			t.cell = source.Event[i].AppendText(t.cell[:0])
		}
		w := field.Width(t.cell)
		pad := want - have
		if column.Right {
			pad += width - w // which a wide neighbour may have taken
		}
		if want > 0 {
			pad = max(pad, 1)
		}
		pad = max(pad, 0)
		t.b = appendSpaces(t.b, pad)
		t.b = append(t.b, t.cell...)
		have += pad + w
		want += width + 1
	}
}

// Lost implements Sink.
func (t *Table) Lost(l Loss) error {
	t.notice(l)
	return t.err
}

const spaces = "                                                                "

func appendSpaces(b []byte, n int) []byte {
	for ; n > len(spaces); n -= len(spaces) {
		b = append(b, spaces...)
	}
	return append(b, spaces[:n]...)
}

// Width returns how many terminal cells the columns of a table take, with the
// header of the last one where that is as wide as it comes.
func Width(schema tracer.Schema, columns []int, style *field.TimeStyle) int {
	total := -1
	for _, i := range columns {
		column := schema[i]
		width := max(column.Width, len(column.Header))
		if column.Key == "time" {
			if width = style.Width(); width == 0 {
				continue
			}
		}
		total += width + 1
	}
	return max(total, 0)
}

// Format is the name of a sink.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatJSON  Format = "json"
)

// ParseFormat returns the format of that name. The error lists those there are.
func ParseFormat(name string) (Format, error) {
	switch f := Format(strings.ToLower(name)); f {
	case FormatTable, FormatJSON:
		return f, nil
	}
	return "", fmt.Errorf("unknown output format %q: want table or json", name)
}
