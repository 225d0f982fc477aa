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
	schema  tracer.Schema
	columns []int
	views   map[*Source]*Source
}

// NewMixed returns a sink that shows these columns of a MixedSchema in t.
func NewMixed(t *Table, schema tracer.Schema, columns []int) *Mixed {
	return &Mixed{Table: t, schema: schema, columns: columns, views: make(map[*Source]*Source)}
}

// MixedSchema are the columns that a Mixed has. The last one are the ancestors, where the
// tracers have them.
func MixedSchema(ancestors bool) tracer.Schema {
	schema := append(tracer.CommonSchema(),
		tracer.Column{Key: "tracer", Header: "TRACER", Width: 10, Type: "string", Doc: "which tracer shows it"},
		tracer.Column{Key: "details", Header: "DETAILS", Type: "string", Doc: "what is the tracer's own, of the columns that it shows by default: those that say something"},
	)
	if ancestors {
		schema = append(schema, tracer.AncestorsColumn())
	}
	return schema
}

// MixedColumns are the keys of the columns that a Mixed has by default.
func MixedColumns(ancestors bool) []string {
	columns := []string{"time", "tracer", "pid", "comm", "details"}
	if ancestors {
		columns = append(columns, tracer.AncestorsColumn().Key)
	}
	return columns
}

// Header writes the header, if there is to be one, at once.
func (m *Mixed) Header() error {
	return m.Table.Header(&Source{Schema: m.schema, Columns: m.columns})
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
	common := len(tracer.CommonSchema())
	name, own := field.Text(s.Name), details{}
	event := slices.Concat(s.Event[:common], []field.Value{&name, &own})
	ancestors := s.Schema.Index(tracer.AncestorsColumn().Key)
	if ancestors >= 0 {
		event = append(event, s.Event[ancestors])
	}
	for _, i := range s.Columns {
		if i >= common && i != ancestors {
			own.names = append(own.names, strings.ToLower(s.Schema[i].Header))
			own.values = append(own.values, s.Event[i])
			own.voids = append(own.voids, s.Schema[i].Void)
		}
	}
	return &Source{Name: s.Name, Schema: m.schema, Columns: m.columns, Event: event, Time: s.Time}
}

// details shows several values as one: name=value, those that say something.
type details struct {
	names  []string
	values []field.Value
	voids  []string // tracer.Column.Void of each
	text   []byte   // memory
}

// AppendText implements field.Value. A value that has a space or a quote in it stands in
// quotes: it cannot pass for several. The last one does where it would be taken for more.
func (d *details) AppendText(b []byte) []byte {
	start := len(b)
	for i, v := range d.values {
		d.text = v.AppendText(d.text[:0])
		if len(d.text) == 0 || string(d.text) == d.voids[i] {
			continue
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		b = append(append(b, d.names[i]...), '=')
		if i < len(d.values)-1 && bytes.ContainsAny(d.text, ` "`) || d.hasName(d.text) {
			b = appendQuoted(b, d.text)
		} else {
			b = append(b, d.text...)
		}
	}
	return b
}

// hasName reports whether text looks as if another of the values began in it.
func (d *details) hasName(text []byte) bool {
	return slices.ContainsFunc(d.names, func(name string) bool { return bytes.Contains(text, []byte(" "+name+"=")) })
}

// appendQuoted appends text in quotes. What is escaped in it stays so, and none of its own
// quotes ends it.
func appendQuoted(b, text []byte) []byte {
	b = append(b, '"')
	escaped := false // by the backslash before it
	for _, c := range text {
		switch {
		case c == '"' && escaped:
			b = append(b, `\\"`...)
		case c == '"':
			b = append(b, `\"`...)
		default:
			b = append(b, c)
		}
		escaped = c == '\\' && !escaped
	}
	return append(b, '"')
}

// AppendJSON implements field.Value. No JSON has details: it has the values.
func (d *details) AppendJSON(b []byte) []byte {
	return field.AppendJSONString(b, d.AppendText(nil))
}
