// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/ringquery"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// How much of a record's payload is copied, which must be all of it for decoding, and how
// much of what cannot be decoded is shown: a screen's worth, or, to a program, a page.
const (
	peekBytes = 1 << 20
	textBytes = 256
	jsonBytes = 4096
)

// peeked is a record of a ring, decoded where that was possible.
type peeked struct {
	ring   *ringquery.Ring
	record ringbuf.Record
	as     string // what it was decoded as; empty: it was not
	keys   []string
	values []field.Value
	cells  []int  // of values: those of the default table
	json   []byte // the value, where BTF names its type
}

// peek appends the next records of each ring of a snapshot.
func (r *queryRun) peek(b []byte, q *ringquery.Querier, snapshot *ringquery.Snapshot) ([]byte, error) {
	for i := range snapshot.Rings {
		ring := &snapshot.Rings[i]
		records, err := q.Peek(ring.ID, r.flags.peek, peekBytes)
		if err != nil {
			return b, err
		}
		tracers := tracersOf(q, ring)
		named, _ := q.RecordType(ring)
		if r.format == output.FormatTable {
			b = append(b, '\n')
			b = field.AppendTextEscaped(fmt.Appendf(b, "ring buffer %d (", ring.ID), []byte(ring.Name))
			b = append(b, "), "...)
			if len(records) == 0 {
				b = append(b, "no unread records\n"...)
			} else {
				b = fmt.Appendf(b, "the next %d unread records:\n", len(records))
			}
		}
		for _, record := range records {
			p := peeked{ring: ring, record: record}
			p.decode(tracers)
			p.decodeAs(named)
			if r.format == output.FormatJSON {
				b = p.appendJSON(b, snapshot.Time)
			} else {
				b = p.appendText(b)
			}
		}
	}
	return b, nil
}

// tracersOf returns rbtrace's own tracers that write to the ring, by the number that
// their records carry.
func tracersOf(q *ringquery.Querier, ring *ringquery.Ring) map[uint16]*tracer.Tracer {
	found := make(map[uint16]*tracer.Tracer)
	if ring.Details == nil || !strings.HasPrefix(ring.Name, "rb_ring") { // nobody else's is
		return found
	}
	for _, t := range probes.All() {
		spec, err := t.Load()
		if err != nil {
			continue
		}
		number, rodata := spec.Variables["rb_tracer"], spec.Maps[".rodata"]
		if number == nil || rodata == nil {
			continue
		}
		for _, p := range ring.Details.Programs {
			// The library completes names that the kernel cut to 15 bytes, where it can.
			if _, ok := spec.Programs[p.Name]; !ok {
				continue
			}
			if id, ok := q.Constant(p.ID, rodata.ValueSize, number.Offset, 2); ok {
				found[binary.NativeEndian.Uint16(id)] = t
			}
		}
	}
	return found
}

// isPart is RB_IS_PART of struct rb_head.
const isPart = 1 << 15

// decode decodes the record where a tracer of rbtrace wrote all of it.
func (p *peeked) decode(tracers map[uint16]*tracer.Tracer) {
	if p.record.Busy || p.record.Discarded || p.record.Stale || int(p.record.Len) != len(p.record.Data) {
		return
	}
	// Decoders need records as aligned as they are in the ring.
	data := slices.Grow([]byte(nil), len(p.record.Data)+16)[:len(p.record.Data)]
	copy(data, p.record.Data)
	head := tracer.Head(data)
	if head == nil || head.Flags&isPart != 0 {
		return
	}
	t := tracers[head.Tracer]
	if t == nil {
		return
	}
	d := t.NewDecoder()
	if err := d.Decode(data, kernel.ReadWall().Offset()); err != nil {
		return
	}
	p.as, p.keys, p.values = t.Name, t.Schema().Keys(), d.Event
	for _, key := range t.Columns {
		p.cells = append(p.cells, t.Schema().Index(key))
	}
}

// decodeAs decodes the record as a type of the BTF; nil is none.
func (p *peeked) decodeAs(t btf.Type) {
	if t == nil || p.as != "" || p.record.Busy || p.record.Discarded || p.record.Stale {
		return
	}
	if value, err := ringquery.AppendValue(nil, t, p.record.Data); err == nil && len(value) > 0 && value[0] == '{' {
		p.as, p.json = ringquery.TypeString(t), value
	}
}

// appendJSON appends the record as an object, a line.
func (p *peeked) appendJSON(b []byte, at time.Time) []byte {
	b = (&field.Time{Wall: at.UnixNano()}).AppendJSON(append(b, `{"type":"record","time":`...))
	b = strconv.AppendUint(append(b, `,"ring_id":`...), uint64(p.ring.ID), 10)
	b = strconv.AppendUint(append(b, `,"pos":`...), p.record.Pos, 10)
	b = strconv.AppendUint(append(b, `,"offset":`...), p.offset(), 10)
	b = strconv.AppendUint(append(b, `,"length":`...), uint64(p.record.Len), 10)
	b = strconv.AppendBool(append(b, `,"busy":`...), p.record.Busy)
	b = strconv.AppendBool(append(b, `,"discarded":`...), p.record.Discarded)
	b = strconv.AppendBool(append(b, `,"stale":`...), p.record.Stale)
	data := p.record.Data[:min(len(p.record.Data), jsonBytes)]
	b = append(hex.AppendEncode(append(b, `,"data":"`...), data), '"')
	b = strconv.AppendBool(append(b, `,"data_truncated":`...), int(p.record.Len) > len(data))
	b = field.AppendJSONString(append(b, `,"decoded_as":`...), []byte(p.as))
	if p.json != nil {
		return append(append(append(b, `,"decoded":`...), p.json...), "}\n"...)
	}
	b = append(b, `,"decoded":{`...)
	for i, value := range p.values {
		if i > 0 {
			b = append(b, ',')
		}
		b = value.AppendJSON(append(append(append(b, '"'), p.keys[i]...), `":`...))
	}
	return append(b, "}}\n"...)
}

// offset is where in the ring's data the header is.
func (p *peeked) offset() uint64 { return p.record.Pos & (p.ring.RingSize - 1) }

// appendText appends the record for people to read.
func (p *peeked) appendText(b []byte) []byte {
	b = fmt.Appendf(b, "offset %d, length %d", p.offset(), p.record.Len)
	for _, state := range []struct {
		is   bool
		text string
	}{
		{p.record.Busy, "busy"},
		{p.record.Discarded, "discarded"},
		{p.record.Stale, "stale: its reader has consumed it meanwhile"},
	} {
		if state.is {
			b = append(append(b, ", "...), state.text...)
		}
	}
	if p.as != "" {
		b = append(field.AppendTextEscaped(append(b, ", "...), []byte(p.as)), ':')
		if p.json != nil {
			return append(append(append(b, ' '), p.json...), '\n')
		}
		for _, i := range p.cells {
			b = append(append(append(b, ' '), p.keys[i]...), '=')
			b = p.values[i].AppendText(b)
		}
		return append(b, '\n')
	}
	b = append(b, '\n')
	data := p.record.Data[:min(len(p.record.Data), textBytes)]
	for line := range strings.Lines(hex.Dump(data)) {
		b = append(append(b, "  "...), line...)
	}
	if more := int(p.record.Len) - len(data); more > 0 {
		b = fmt.Appendf(b, "  and %d bytes more\n", more)
	}
	return b
}
