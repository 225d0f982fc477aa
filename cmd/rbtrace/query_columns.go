// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/ringquery"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// queryKind is what it takes to fill a column.
type queryKind int

const (
	queryState   queryKind = iota // a moment
	queryMotion                   // a look of some time
	queryDetails                  // a walk over processes and programs
)

// queryColumn is a column of the table and a key of the JSON objects.
type queryColumn struct {
	key, header, doc string
	kind             queryKind
	left             bool // aligned to the left: a text
	long             bool // as long as it comes
	text             func(b []byte, r *ringquery.Ring, at time.Time) []byte
	json             func(b []byte, r *ringquery.Ring, at time.Time) []byte
}

// number is a column whose value is a number.
func number(key, header, doc string, kind queryKind, value func(*ringquery.Ring) uint64) queryColumn {
	f := func(b []byte, r *ringquery.Ring, _ time.Time) []byte { return strconv.AppendUint(b, value(r), 10) }
	return queryColumn{key: key, header: header, doc: doc, kind: kind, text: f, json: f}
}

// rate is a column of something a second.
func rate(key, header, doc string, value func(*ringquery.Ring) float64) queryColumn {
	return queryColumn{
		key: key, header: header, doc: doc, kind: queryMotion,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return strconv.AppendFloat(b, value(r), 'f', 0, 64)
		},
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return strconv.AppendFloat(b, math.Round(value(r)*1000)/1000, 'f', -1, 64)
		},
	}
}

// duration is a column of a time span in ns; a negative one is none.
func duration(key, header, doc string, value func(*ringquery.Ring) time.Duration) queryColumn {
	return queryColumn{
		key: key, header: header, doc: doc, kind: queryMotion,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			if d := value(r); d >= 0 {
				return field.Latency(d).AppendText(b)
			}
			return append(b, '-')
		},
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return strconv.AppendInt(b, int64(value(r)), 10)
		},
	}
}

// boolean is a column of yes or no.
func boolean(key, header, doc string, kind queryKind, value func(*ringquery.Ring) bool) queryColumn {
	return queryColumn{
		key: key, header: header, doc: doc, kind: kind, left: true,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte { return field.Bool(value(r)).AppendText(b) },
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte { return field.Bool(value(r)).AppendJSON(b) },
	}
}

// word is a column of a text. Others may have chosen it.
func word(key, header, doc string, kind queryKind, value func(*ringquery.Ring) string) queryColumn {
	return queryColumn{
		key: key, header: header, doc: doc, kind: kind, left: true,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			if s := value(r); s != "" {
				return field.AppendTextEscaped(b, []byte(s))
			}
			return append(b, '-')
		},
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return field.AppendJSONString(b, []byte(value(r)))
		},
	}
}

// list is a column of several things that others may have named.
func list[T any](key, header, doc string, values func(*ringquery.Details) []T, text, json func([]byte, T) []byte) queryColumn {
	of := func(r *ringquery.Ring) []T {
		if r.Details == nil {
			return nil
		}
		return values(r.Details)
	}
	return queryColumn{
		key: key, header: header, doc: doc, kind: queryDetails, left: true, long: true,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			items := of(r)
			if len(items) == 0 {
				return append(b, '-')
			}
			for i, item := range items {
				if i > 0 {
					b = append(b, ", "...)
				}
				b = text(b, item)
			}
			return b
		},
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			b = append(b, '[')
			for i, item := range of(r) {
				if i > 0 {
					b = append(b, ',')
				}
				b = json(b, item)
			}
			return append(b, ']')
		},
	}
}

// queryColumns are all columns, in the order of JSON keys.
var queryColumns = []queryColumn{
	{
		key: "time", header: "TIME", doc: "when the ring was looked at last", left: true,
		text: func(b []byte, _ *ringquery.Ring, at time.Time) []byte {
			return (&field.Time{Wall: at.UnixNano()}).AppendText(b)
		},
		json: func(b []byte, _ *ringquery.Ring, at time.Time) []byte {
			return (&field.Time{Wall: at.UnixNano()}).AppendJSON(b)
		},
	},
	number("id", "ID", "the map's id, as in bpftool map show id ID", queryState, func(r *ringquery.Ring) uint64 { return uint64(r.ID) }),
	{
		key: "name", header: "NAME", doc: "the map's name; in the table - where it has none, and (user) behind that of a user_ringbuf", left: true,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte { return append(b, ringName(r)...) },
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return field.AppendJSONString(b, []byte(r.Name))
		},
	},
	number("avail_data", "AVAIL_DATA", "bytes that the reader has not consumed, headers and records included that are not committed yet or were discarded", queryState, func(r *ringquery.Ring) uint64 { return r.AvailData }),
	number("ring_size", "RING_SIZE", "bytes that the ring can hold", queryState, func(r *ringquery.Ring) uint64 { return r.RingSize }),
	number("cons_pos", "CONS_POS", "how far the reader has come, in bytes since the ring was made", queryState, func(r *ringquery.Ring) uint64 { return r.ConsPos }),
	number("prod_pos", "PROD_POS", "how far the producers have come", queryState, func(r *ringquery.Ring) uint64 { return r.ProdPos }),
	number("overwrite_pos", "OVERWRITE_POS", "how far the oldest records were overwritten; 0 in rings that do not do that", queryState, func(r *ringquery.Ring) uint64 { return r.OverwritePos }),
	{
		key: "fill_percent", header: "FILL", doc: "avail_data in percent of ring_size",
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte { return append(b, percent(r.Fill())...) },
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return strconv.AppendFloat(b, math.Round(r.Fill()*1e5)/1e3, 'f', -1, 64)
		},
	},
	{
		key: "verdict", header: "VERDICT", doc: "what it is doing, in words", kind: queryMotion, left: true,
		text: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			b = append(b, r.Verdict...)
			if r.Verdict == ringquery.Stuck {
				b = append(field.Latency(r.HeadAge).AppendText(append(b, " ("...)), ')')
			}
			return b
		},
		json: func(b []byte, r *ringquery.Ring, _ time.Time) []byte {
			return field.AppendJSONString(b, []byte(r.Verdict))
		},
	},
	boolean("overwrites", "OVERWRITES", "whether the oldest records give way to new ones (BPF_F_RB_OVERWRITE)", queryState, func(r *ringquery.Ring) bool { return r.Overwrites }),
	number("memory", "MEMORY", "bytes of kernel memory that it is charged for", queryState, func(r *ringquery.Ring) uint64 { return r.Memory }),
	word("source", "SOURCE", "where the positions come from: helper or mmap", queryState, func(r *ringquery.Ring) string { return string(r.Source) }),
	duration("interval_ns", "INTERVAL", "the time that the rates are of; 0: there are none", func(r *ringquery.Ring) time.Duration { return r.Interval }),
	rate("produced_bytes_per_s", "PROD_B/S", "bytes produced a second", func(r *ringquery.Ring) float64 { return r.Produced }),
	rate("consumed_bytes_per_s", "CONS_B/S", "bytes consumed a second", func(r *ringquery.Ring) float64 { return r.Consumed }),
	rate("produced_records_per_s", "PROD/S", "records produced a second", func(r *ringquery.Ring) float64 { return r.ProducedRecords }),
	rate("consumed_records_per_s", "CONS/S", "records consumed a second", func(r *ringquery.Ring) float64 { return r.ConsumedRecords }),
	boolean("records_estimated", "ESTIMATED", "whether the rates of records are reckoned, not counted", queryMotion, func(r *ringquery.Ring) bool { return r.Estimated }),
	number("high_water", "HIGH_WATER", "the most that avail_data was found to be", queryMotion, func(r *ringquery.Ring) uint64 { return r.HighWater }),
	duration("time_to_full_ns", "FULL_IN", "time until it is full if it goes on like this; -1: it does not fill", func(r *ringquery.Ring) time.Duration { return r.TimeToFull }),
	boolean("head_busy", "HEAD_BUSY", "whether the record at the head is reserved and not committed", queryState, func(r *ringquery.Ring) bool { return r.HeadBusy }),
	duration("head_age_ns", "HEAD_AGE", "for how long it has been known to be", func(r *ringquery.Ring) time.Duration { return r.HeadAge }),
	list("owners", "OWNERS", "the processes that hold a descriptor of the ring",
		func(d *ringquery.Details) []ringquery.Owner { return d.Owners },
		func(b []byte, o ringquery.Owner) []byte {
			return fmt.Appendf(field.AppendTextEscaped(b, []byte(o.Comm)), "[%d]", o.PID)
		},
		func(b []byte, o ringquery.Owner) []byte {
			b = strconv.AppendInt(append(b, `{"pid":`...), int64(o.PID), 10)
			return append(field.AppendJSONString(append(b, `,"comm":`...), []byte(o.Comm)), '}')
		}),
	list("programs", "PROGRAMS", "the BPF programs that use the ring, or the map of maps that has it, and what they are attached to",
		func(d *ringquery.Details) []ringquery.Program { return d.Programs },
		func(b []byte, p ringquery.Program) []byte {
			b = fmt.Appendf(field.AppendTextEscaped(b, []byte(p.Name)), "[%d] ", p.ID)
			if len(p.AttachedTo) == 0 {
				return append(b, p.Type...)
			}
			return field.AppendTextEscaped(b, []byte(strings.Join(p.AttachedTo, " + ")))
		},
		func(b []byte, p ringquery.Program) []byte {
			b = strconv.AppendUint(append(b, `{"id":`...), uint64(p.ID), 10)
			b = field.AppendJSONString(append(b, `,"name":`...), []byte(p.Name))
			b = field.AppendJSONString(append(b, `,"type":`...), []byte(p.Type))
			b = append(b, `,"attached_to":[`...)
			for i, place := range p.AttachedTo {
				if i > 0 {
					b = append(b, ',')
				}
				b = field.AppendJSONString(b, []byte(place))
			}
			return append(b, "]}"...)
		}),
	list("pins", "PINS", "the paths at which it is pinned",
		func(d *ringquery.Details) []string { return d.Pins },
		func(b []byte, s string) []byte { return field.AppendTextEscaped(b, []byte(s)) },
		func(b []byte, s string) []byte { return field.AppendJSONString(b, []byte(s)) }),
	list("outer_maps", "OUTER", "the maps of maps that it is in",
		func(d *ringquery.Details) []ringquery.Outer { return d.Outer },
		func(b []byte, o ringquery.Outer) []byte {
			return fmt.Appendf(field.AppendTextEscaped(b, []byte(o.Name)), "[%d]", o.ID)
		},
		func(b []byte, o ringquery.Outer) []byte {
			b = strconv.AppendUint(append(b, `{"id":`...), uint64(o.ID), 10)
			return append(field.AppendJSONString(append(b, `,"name":`...), []byte(o.Name)), '}')
		}),
}

// queryDefaults are the columns of the default table.
func queryDefaults() []string {
	return []string{"id", "name", "avail_data", "ring_size", "cons_pos", "prod_pos", "fill_percent", "verdict", "owners"}
}

// querySchema returns the columns as those of tracers, which are chosen alike.
func querySchema() tracer.Schema {
	var s tracer.Schema
	for _, c := range queryColumns {
		width := len(c.header)
		if c.long {
			width = 0
		}
		s = append(s, tracer.Column{Key: c.key, Header: c.header, Width: width, Right: !c.left, Doc: c.doc})
	}
	return s
}

func queryColumnsHelp() string {
	var b strings.Builder
	b.WriteString("Columns of the table, and keys of the JSON objects:\n")
	for _, c := range queryColumns {
		fmt.Fprintf(&b, "\n  %-23s %s", c.key, c.doc)
	}
	b.WriteString("\n\nJSON objects begin with type: ringbuf or user_ringbuf.")
	return b.String()
}

// percent writes a part of 1. What is not empty is not 0%, and what is not full is not
// 100%.
func percent(part float64) string {
	switch n := math.Round(part * 100); {
	case n == 0 && part > 0:
		return "<1%"
	case n == 100 && part < 1:
		return ">99%"
	default:
		return strconv.FormatFloat(n, 'f', 0, 64) + "%"
	}
}

// ringName is a ring's name as it is shown.
func ringName(r *ringquery.Ring) string {
	name := escaped(r.Name)
	if name == "" {
		name = "-"
	}
	if r.Type == ebpf.UserRingbuf {
		name += " (user)"
	}
	return name
}

// ringType is a ring's type as the kernel's tools spell it.
func ringType(r *ringquery.Ring) string {
	if r.Type == ebpf.UserRingbuf {
		return "user_ringbuf"
	}
	return "ringbuf"
}

// appendRings appends a JSON object for each ring, a line each.
func appendRings(b []byte, snapshot *ringquery.Snapshot) []byte {
	for i := range snapshot.Rings {
		r := &snapshot.Rings[i]
		b = append(append(append(b, `{"type":"`...), ringType(r)...), '"')
		for _, c := range queryColumns {
			b = append(append(append(b, `,"`...), c.key...), `":`...)
			b = c.json(b, r, snapshot.Time)
		}
		b = append(b, "}\n"...)
	}
	return b
}

// renderRings renders a table of the rings. To a buffer, as tablewriter does not tell of
// all its writes what became of them.
func renderRings(w *bytes.Buffer, snapshot *ringquery.Snapshot, columns []int) error {
	header := make([]string, len(columns))
	align := tw.CellAlignment{PerColumn: make([]tw.Align, len(columns))}
	for n, i := range columns {
		c := &queryColumns[i]
		header[n], align.PerColumn[n] = c.header, tw.AlignRight
		if c.left {
			align.PerColumn[n] = tw.AlignLeft
		}
	}
	var table bytes.Buffer
	t := tablewriter.NewTable(&table, append(plainTable(),
		tablewriter.WithHeaderAlignmentConfig(align), tablewriter.WithRowAlignmentConfig(align))...)
	t.Header(header)
	for i := range snapshot.Rings {
		row := make([]string, len(columns))
		for n, c := range columns {
			row[n] = string(queryColumns[c].text(nil, &snapshot.Rings[i], snapshot.Time))
		}
		if err := t.Append(row); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	// Cells are padded to the widest, the last one of a line too: that would make lines
	// longer than a terminal without need.
	for line := range bytes.Lines(table.Bytes()) {
		w.Write(append(bytes.TrimRight(line, " \n"), '\n'))
	}
	return nil
}
