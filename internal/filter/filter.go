// SPDX-License-Identifier: Apache-2.0

// Package filter decides by an expression over their JSON fields which events are
// wanted. The language is that of github.com/expr-lang/expr.
package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// typeKey is the key of the tracer's name, which every JSON object has beside the
// schema's.
const typeKey = "type"

// Filter is an expression for the events of some tracers. It belongs to one
// goroutine.
type Filter struct {
	program *vm.Program
	vm      vm.VM
	used    map[string]bool
	env     map[string]any // the fields; zero those that an event has not
}

// Compile reads an expression over the fields of tracers: of each, where they are
// several. The error says what is wrong, and where in the text.
func Compile(text string, tracers []*tracer.Tracer) (*Filter, error) {
	f := &Filter{used: make(map[string]bool), env: map[string]any{typeKey: ""}}
	for _, t := range tracers {
		for _, c := range t.Schema() {
			f.env[c.Key] = zero(c.Type)
		}
	}
	seen := visitor{used: f.used}
	program, err := expr.Compile(text, expr.Env(f.env), expr.AsBool(), expr.Patch(&seen))
	if err != nil {
		where, ok := errors.AsType[*file.Error](err)
		if !ok && seen.last != nil { // of all of it: that its value is no bool
			where, ok = &file.Error{Location: seen.last.Location(), Message: err.Error()}, true
			_ = where.Bind(file.NewSource(text))
		}
		if ok {
			return nil, fmt.Errorf("%s (at character %d)%s", where.Message, where.Column+1, where.Snippet)
		}
		return nil, err
	}
	f.program = program
	return f, nil
}

// everything is the name of all fields together.
const everything = "$env"

// visitor notes the names that an expression uses.
type visitor struct {
	used map[string]bool
	last ast.Node // in the end the whole expression
}

// Visit implements ast.Visitor.
func (v *visitor) Visit(node *ast.Node) {
	v.last = *node
	if id, ok := v.last.(*ast.IdentifierNode); ok {
		v.used[id.Value] = true
	}
}

// zero is the value of a field that an event has not.
func zero(typ string) any {
	switch typ {
	case "number":
		return 0
	case "boolean":
		return false
	case "string":
		return ""
	case "array of objects":
		return []map[string]any{}
	}
	return []string{}
}

// Bound is a Filter for the events of one tracer.
type Bound struct {
	filter  *Filter
	tracer  *tracer.Tracer
	schema  tracer.Schema
	columns []int // of those fields that are used
	text    []byte
}

// For returns f for the events of t, which must be one of those it was compiled
// for.
func (f *Filter) For(t *tracer.Tracer) *Bound {
	b := &Bound{filter: f, tracer: t, schema: t.Schema()}
	for i, c := range b.schema {
		if f.used[c.Key] || f.used[everything] {
			b.columns = append(b.columns, i)
		}
	}
	return b
}

// Match reports whether the expression holds for an event, which is as
// tracer.Decoder.Event. Where it cannot be evaluated, as when it asks for the fifth
// of two arguments, it does not hold.
func (b *Bound) Match(event []field.Value) bool {
	env := b.filter.env
	for key, v := range env { // what another tracer's event has left
		switch v.(type) {
		case int:
			env[key] = 0
		case bool:
			env[key] = false
		case string:
			env[key] = ""
		case []map[string]any:
			env[key] = []map[string]any{}
		default:
			env[key] = []string{}
		}
	}
	env[typeKey] = b.tracer.Name
	for _, i := range b.columns {
		column := &b.schema[i]
		b.text = event[i].AppendJSON(b.text[:0])
		env[column.Key] = value(column.Type, b.text)
	}
	holds, err := b.filter.vm.Run(b.filter.program, env)
	return err == nil && holds.(bool)
}

// value reads a JSON value of that type, as field.Value.AppendJSON writes it.
func value(typ string, text []byte) any {
	switch typ {
	case "number":
		n, err := strconv.Atoi(string(text))
		if err != nil { // more than 2^63
			return int(^uint(0) >> 1)
		}
		return n
	case "boolean":
		return text[0] == 't'
	case "string":
		var s string
		_ = json.Unmarshal(text, &s) // which AppendJSON promises to be a string
		return s
	case "array of objects":
		list := []map[string]any{}
		_ = json.Unmarshal(text, &list)
		return list
	}
	list := []string{}
	_ = json.Unmarshal(text, &list)
	return list
}
