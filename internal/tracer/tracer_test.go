// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

type testWire struct {
	Head  wire.Head
	Value uint32
	_     uint32
}

type testEvent struct {
	Common
	Value field.Uint32 `json:"value" col:"VALUE,w=6,right" doc:"a value"`
	Name  field.Text   `json:"name" col:"NAME" doc:"a name"`
	Good  field.Bool   `json:"good" col:"GOOD,w=4" doc:"whether it is"`
	List  field.Args   `json:"list" col:"LIST" doc:"a list"`

	scratch []byte
}

func testTracer() *Tracer {
	return New(Def[testWire, testEvent]{
		Name:    "test",
		Columns: []string{"pid", "value", "name"},
		Decode: func(w *testWire, tail []byte, e *testEvent) error {
			e.Value = field.Uint32(w.Value)
			e.scratch = append(e.scratch[:0], tail...)
			e.Name = e.scratch
			return nil
		},
	})
}

func TestSchema(t *testing.T) {
	s := testTracer().Schema()
	common := reflect.TypeFor[Common]().NumField()
	if got := s[common:].Keys(); !cmp.Equal(got, []string{"value", "name", "good", "list"}) {
		t.Errorf("keys %v", got)
	}
	for key, typ := range map[string]string{
		"time": "string", "pid": "number", "comm": "string", "value": "number", "good": "boolean", "list": "array of strings",
	} {
		if c := s[s.Index(key)]; c.Type != typ {
			t.Errorf("%s is a %s, want %s", key, c.Type, typ)
		}
	}
	if c := s[s.Index("value")]; c.Header != "VALUE" || c.Width != 6 || !c.Right {
		t.Errorf("%+v", c)
	}
}

func TestSchemaRefuses(t *testing.T) {
	type noCommon struct {
		A field.Bool `json:"a" col:"A" doc:"a"`
	}
	type noValue struct {
		Common
		A int `json:"a" col:"A" doc:"a"`
	}
	type noDoc struct {
		Common
		A field.Bool `json:"a" col:"A"`
	}
	type taken struct {
		Common
		A field.Bool `json:"pid" col:"A" doc:"a"`
	}
	type narrow struct {
		Common
		A field.Bool `json:"a" col:"AAAA,w=3" doc:"a"`
	}
	type unknown struct {
		Common
		A field.Bool `json:"a" col:"A,left" doc:"a"`
	}
	type hides struct {
		Common
		PID field.Bool `json:"a" col:"A" doc:"a"`
	}
	for _, event := range []any{noCommon{}, noValue{}, noDoc{}, taken{}, narrow{}, unknown{}, hides{}} {
		if _, err := schemaOf(reflect.TypeOf(event)); err == nil {
			t.Errorf("%T is taken for an event", event)
		}
	}
}

func TestSelect(t *testing.T) {
	s := testTracer().Schema()
	defaults := []string{"pid", "value", "name"}
	for spec, want := range map[string]string{
		"":                 "pid value name",
		"value,pid":        "value pid",
		"NAME,Pid":         "pid name", // as wide as it comes: last
		"+comm":            "pid value comm name",
		"-value,+uid,+uid": "pid uid name",
		"-name":            "pid value",
		"+pid":             "pid value name",
		"pid,pid":          "pid",
	} {
		columns, err := s.Select(defaults, spec)
		var got []string
		for _, i := range columns {
			got = append(got, s[i].Key)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v; want %s", spec, got, err, want)
		}
	}
	for spec, want := range map[string]string{
		"nothing":           `unknown column "nothing": the columns are time, boot_ns`,
		"+nothing":          `unknown column "nothing"`,
		"+pid,uid":          "has no sign",
		"pid,+uid":          "has a sign and the first one has not",
		"pid,":              `unknown column ""`,
		"-pid,-value,-name": "no column is left",
	} {
		if _, err := s.Select(defaults, spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", spec, err, want)
		}
	}
}

func TestDecode(t *testing.T) {
	tr := testTracer()
	d := tr.NewDecoder()
	rec := make([]byte, tr.WireSize+4)
	w, tail := view[testWire](rec)
	w.Head = wire.Head{Time: 1e9, Who: wire.Who{Pid: 7, Comm: [16]uint8{'a'}}}
	w.Value = 42
	copy(tail, "tail")
	if err := d.Decode(rec, 5); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for i, c := range tr.Schema() {
		got[c.Key] = string(d.Event[i].AppendJSON(nil))
	}
	for key, want := range map[string]string{
		"time": `"1970-01-01T00:00:01.000000005Z"`, "boot_ns": "1000000000", "pid": "7", "comm": `"a"`, "value": "42", "name": `"tail"`,
	} {
		if got[key] != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
	for n := range tr.WireSize {
		if err := d.Decode(rec[:n], 0); err == nil {
			t.Errorf("a record of %d bytes is taken for whole", n)
		}
	}
	if Head(rec[:8]) != nil {
		t.Error("8 bytes have a head")
	}
}

func TestAppendPath(t *testing.T) {
	for _, c := range []struct {
		names string
		flags PathFlags
		want  string
	}{
		{"", 0, "/"},
		{"bin\x00usr\x00", 0, "/usr/bin"},
		{"a b\x00", 0, "/a b"},
		{"memfd:x\x00", PathDeleted, "/memfd:x (deleted)"},
		{"z\x00y\x00", PathCut, "…/y/z"},
		{"", PathCut, "…"},
		{"z\x00y\x00", PathUnreachable, "(unreachable)/y/z"},
		{"", PathUnreachable, "(unreachable)/"},
		{"z\x00", PathUnreachable | PathDeleted, "(unreachable)/z (deleted)"},
		{"", PathDeleted, "/ (deleted)"},
	} {
		if got := string(AppendPath([]byte("<"), []byte(c.names), c.flags)); got != "<"+c.want {
			t.Errorf("%q with %d: %q, want %q", c.names, c.flags, got, c.want)
		}
	}
}

func TestEnum(t *testing.T) {
	p := Param{Name: "color", Const: "color", Max: 2, Enum: func(name string) (uint64, bool) {
		n, ok := map[string]uint64{"red": 0, "green": 1}[name]
		return n, ok
	}}
	for text, want := range map[string]uint64{"red": 1, "green": 2, "0": 1, "2": 3} {
		constants, err := p.Constants(text)
		if diff := cmp.Diff(map[string]any{"color": want}, constants); err != nil || diff != "" {
			t.Errorf("%q: %v, %s", text, err, diff)
		}
	}
	for _, text := range []string{"", "blue", "3", "-1", "1.0"} {
		if err := p.Check(text); err == nil || !strings.Contains(err.Error(), "want a name, or a number up to 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, c := range []struct {
		cell, text string
		want       bool
	}{{"green", "green", true}, {"green", "1", true}, {"2", "2", true}, {"red", "green", false}, {"", "red", false}, {"4", "red", false}} {
		if got := p.Match(new(field.Text(c.cell)), c.text); got != c.want {
			t.Errorf("%q matches %q: %v", c.cell, c.text, got)
		}
	}
}

// TestVariant: hooks of one kind are told apart.
func TestVariant(t *testing.T) {
	program := func(names ...string) (list []Program) {
		for _, name := range names {
			list = append(list, Program{Name: name})
		}
		return list
	}
	tr := testTracer()
	tr.Hooks = []Hook{
		{Kind: Tracepoint, Programs: program("both", "new")},
		{Kind: Tracepoint, Programs: program("both", "old")},
		{Kind: Tracepoint, Failed: true, Programs: program("both", "new")},
		{Kind: Kprobe, Programs: program("both")},
	}
	for i, want := range []string{"new", "old", "", ""} {
		if got := tr.Variant(&tr.Hooks[i]); got != want {
			t.Errorf("hook %d: %q, want %q", i, got, want)
		}
	}
}

// TestWithFunctions: what is on tracepoints, or else on kprobes, is on functions first, unless nothing preempts it.
func TestWithFunctions(t *testing.T) {
	programs, atomic := []Program{{Name: "one"}}, []Program{{Name: "one", Atomic: true}}
	newer := []Program{{Name: "newer"}}
	for _, test := range []struct{ hooks, want []Hook }{
		{
			[]Hook{{Kind: Tracepoint, Programs: newer}, {Kind: Tracepoint, Programs: programs}, {Kind: Kprobe, Programs: programs}, {Kind: Tracepoint, Failed: true, Programs: programs}},
			[]Hook{{Kind: KprobeMulti, Programs: newer}, {Kind: KprobeMulti, Failed: true, Programs: programs}},
		},
		{[]Hook{{Kind: Fentry, Programs: newer}, {Kind: Kprobe, Programs: programs}}, []Hook{{Kind: KprobeMulti, Programs: programs}}},
		{[]Hook{{Kind: Tracepoint, Programs: atomic}, {Kind: Kprobe, Programs: programs}}, nil},
		{[]Hook{{Kind: Uprobe, Programs: programs}}, nil},
	} {
		want := append(slices.Clone(test.want), test.hooks...)
		if got := withFunctions(test.hooks); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
