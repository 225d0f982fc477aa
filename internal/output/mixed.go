// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"slices"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// Mixed is a Table of the events of several tracers: the columns that all have, the
// tracer's name, and what is the tracer's own as details.
type Mixed struct {
	*Table
	columns []int
	views   map[*Source]*Source
}

// NewMixed returns a sink that shows these columns of MixedSchema in t.
func NewMixed(t *Table, columns []int) *Mixed {
	return &Mixed{Table: t, columns: columns, views: make(map[*Source]*Source)}
}

// MixedSchema are the columns that a Mixed has.
func MixedSchema() tracer.Schema {
	return append(tracer.CommonSchema(),
		tracer.Column{Key: "tracer", Header: "TRACER", Width: 10, Type: "string", Doc: "which tracer shows it"},
		tracer.Column{Key: "details", Header: "DETAILS", Type: "string", Doc: "what is the tracer's own, of the columns that it shows by default"},
	)
}

// MixedColumns are the keys of the columns that a Mixed has by default.
func MixedColumns() []string { return []string{"time", "tracer", "pid", "comm", "details"} }

// Header writes the header, if there is to be one, at once.
func (m *Mixed) Header() error {
	return m.Table.Header(&Source{Schema: MixedSchema(), Columns: m.columns})
}

// Event implements Sink.
func (m *Mixed) Event(source *Source) error {
	view, ok := m.views[source]
	if !ok {
		view = m.view(source)
		m.views[source] = view
	}
	return m.Table.Event(view)
}

func (m *Mixed) view(s *Source) *Source {
	schema := MixedSchema()
	common := len(schema) - 2
	name, own := field.Text(s.Name), details{}
	for _, i := range s.Columns {
		if i >= common {
			own.names = append(own.names, strings.ToLower(s.Schema[i].Header))
			own.values = append(own.values, s.Event[i])
		}
	}
	event := slices.Concat(s.Event[:common], []field.Value{&name, &own})
	return &Source{Name: s.Name, Schema: schema, Columns: m.columns, Event: event, Time: s.Time}
}

// details shows several values as one: name=value, those that are not empty.
type details struct {
	names  []string
	values []field.Value
	text   []byte // memory
}

// AppendText implements field.Value. Where a value has a space in it, and another one
// follows, it stands in quotes.
func (d *details) AppendText(b []byte) []byte {
	start := len(b)
	for i, v := range d.values {
		d.text = v.AppendText(d.text[:0])
		if len(d.text) == 0 {
			continue
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		b = append(append(b, d.names[i]...), '=')
		quote := i < len(d.values)-1 && bytes.IndexByte(d.text, ' ') >= 0
		if quote {
			b = append(b, '"')
		}
		b = append(b, d.text...)
		if quote {
			b = append(b, '"')
		}
	}
	return b
}

// AppendJSON implements field.Value. No JSON has details: it has the values.
func (d *details) AppendJSON(b []byte) []byte {
	return field.AppendJSONString(b, d.AppendText(nil))
}
