// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
)

// Column is one value of an event: a column of the table and a key of the JSON
// object.
type Column struct {
	Key    string // JSON key, and the name that --columns takes
	Header string // of the table
	Width  int    // of the table's column, in cells; 0: the time column, or as wide as it comes
	Right  bool   // aligned to the right
	Doc    string
	Type   string // of the JSON value: string, number, boolean, array of strings or of objects
	Void   string // the text that says nothing, such as an error's 0: details leave it out, as they do what is empty

	index []int // of the struct field
}

// Schema are the columns of a tracer's events, in the order of JSON keys.
type Schema []Column

// Index returns the place of the column with that key, -1 where there is none.
func (s Schema) Index(key string) int {
	return slices.IndexFunc(s, func(c Column) bool { return c.Key == key })
}

// Keys returns all keys, in order.
func (s Schema) Keys() []string {
	keys := make([]string, len(s))
	for i, c := range s {
		keys[i] = c.Key
	}
	return keys
}

// Select returns the places of the columns that spec asks for, in order. spec
// is a list separated by commas and spaces, of keys or headers in any case: "pid,args" are
// these alone; with signs, "+cwd,-ret", they change defaults. An empty spec is
// the defaults.
func (s Schema) Select(defaults []string, spec string) ([]int, error) {
	var chosen []int
	for _, key := range defaults {
		chosen = append(chosen, s.Index(key))
	}
	if spec == "" {
		return chosen, nil
	}
	names := strings.Split(spec, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
	}
	signed := strings.ContainsAny(names[0][:min(1, len(names[0]))], "+-")
	if !signed {
		chosen = nil
	}
	for _, name := range names {
		sign := byte('+')
		if signed {
			if name == "" || (name[0] != '+' && name[0] != '-') {
				return nil, fmt.Errorf("column %q has no sign: write either all with + or -, or none", name)
			}
			sign, name = name[0], name[1:]
		} else if name != "" && (name[0] == '+' || name[0] == '-') {
			return nil, fmt.Errorf("column %q has a sign and the first one has not: write either all with + or -, or none", name)
		}
		i := slices.IndexFunc(s, func(c Column) bool {
			return strings.EqualFold(c.Key, name) || strings.EqualFold(c.Header, name)
		})
		if i < 0 {
			return nil, fmt.Errorf("unknown column %q: the columns are %s", name, strings.Join(s.Keys(), ", "))
		}
		at := slices.Index(chosen, i)
		switch {
		case sign == '-' && at >= 0:
			chosen = slices.Delete(chosen, at, at+1)
		case sign == '+' && at < 0:
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("no column is left")
	}
	// The column that takes as much room as it needs goes last.
	slices.SortStableFunc(chosen, func(a, b int) int {
		switch open := func(i int) bool { return s[i].open() }; {
		case open(a) == open(b):
			return 0
		case open(b):
			return -1
		}
		return 1
	})
	return chosen, nil
}

// open reports whether the column is as wide as its value.
func (c Column) open() bool { return c.Width == 0 && c.Key != "time" }

// CommonSchema are the columns that every tracer's events begin with.
func CommonSchema() Schema {
	s, err := schemaOf(reflect.TypeFor[struct{ Common }]())
	if err != nil {
		panic(err) // Common is wrong: see New
	}
	return s
}

var valueType = reflect.TypeFor[field.Value]()

func schemaOf(event reflect.Type) (Schema, error) {
	var s Schema
	common, ok := event.FieldByName("Common")
	if !ok || !common.Anonymous || common.Type != reflect.TypeFor[Common]() {
		return nil, errors.New("the event does not embed tracer.Common")
	}
	for _, f := range reflect.VisibleFields(event) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		c, err := columnOf(f)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		if s.Index(c.Key) >= 0 {
			return nil, fmt.Errorf("field %s: key %q is taken", f.Name, c.Key)
		}
		s = append(s, c)
	}
	// A field of the event with the name of one of Common hides that.
	visible := 0
	for _, c := range s {
		if len(c.index) > 1 && c.index[0] == common.Index[0] {
			visible++
		}
	}
	if visible < common.Type.NumField() {
		return nil, errors.New("a field of the event hides one of tracer.Common")
	}
	return s, nil
}

// void is what Column.Void is for values of that type, where its declaration does not say.
func void(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[field.Errno]():
		return "0"
	case reflect.TypeFor[field.Bool]():
		return "no"
	case reflect.TypeFor[field.Flags](), reflect.TypeFor[field.CloneFlags](), reflect.TypeFor[field.Taints](), reflect.TypeFor[field.Maybe]():
		return "-"
	}
	return ""
}

func columnOf(f reflect.StructField) (Column, error) {
	c := Column{Key: f.Tag.Get("json"), Doc: f.Tag.Get("doc"), index: f.Index}
	if !reflect.PointerTo(f.Type).Implements(valueType) {
		return c, fmt.Errorf("%s is no field.Value", f.Type)
	}
	header, options, _ := strings.Cut(f.Tag.Get("col"), ",")
	c.Header = header
	if c.Key == "" || c.Header == "" || c.Doc == "" {
		return c, errors.New("a tag json, col or doc is missing")
	}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "":
		case "right":
			c.Right = true
		case "w":
			w, err := strconv.Atoi(value)
			if err != nil || w < len(header) {
				return c, fmt.Errorf("width %q is no number, or less than the header's", value)
			}
			c.Width = w
		case "void":
			c.Void = value
		default:
			return c, fmt.Errorf("unknown option %q", option)
		}
	}
	if c.Void == "" {
		c.Void = void(f.Type)
	}
	// The type of a key never depends on its value, so the zero value tells it.
	zero := reflect.New(f.Type).Interface().(field.Value).AppendJSON(nil)
	switch zero[0] {
	case '"':
		c.Type = "string"
	case '[':
		c.Type = "array of strings"
	case 't', 'f':
		c.Type = "boolean"
	default:
		c.Type = "number"
	}
	return c, nil
}

// bind returns pointers to the columns' fields of event.
func (s Schema) bind(event reflect.Value) []field.Value {
	values := make([]field.Value, len(s))
	for i, c := range s {
		values[i] = event.FieldByIndex(c.index).Addr().Interface().(field.Value)
	}
	return values
}
