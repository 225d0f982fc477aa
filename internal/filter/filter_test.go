// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/filter"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

type record struct{ Head wire.Head }

type eventA struct {
	tracer.Common
	Ret  field.Int32  `json:"ret" col:"RET" doc:"a number"`
	Text field.Text   `json:"text" col:"TEXT" doc:"a text"`
	Args field.Args   `json:"args" col:"ARGS" doc:"a list"`
	Cut  field.Bool   `json:"cut" col:"CUT" doc:"yes or no"`
	Big  field.Uint64 `json:"big" col:"BIG" doc:"a large number"`
}

type eventB struct {
	tracer.Common
	Size field.Uint32 `json:"size" col:"SIZE" doc:"a number"`
}

var (
	a = tracer.New(tracer.Def[record, eventA]{Name: "a", Decode: func(_ *record, _ []byte, e *eventA) error {
		e.Ret, e.Text, e.Cut, e.Big = -2, field.Text("a \"b\"\xff\n"), true, 1<<64-1
		e.Args = field.Args{Raw: []byte("x\x00y z\x00"), Argc: 2}
		return nil
	}})
	b = tracer.New(tracer.Def[record, eventB]{Name: "b", Decode: func(_ *record, _ []byte, e *eventB) error {
		e.Size = 7
		return nil
	}})
)

// events are one of a, then one of b.
func events(t *testing.T) (events [2][]field.Value) {
	t.Helper()
	for i, tr := range []*tracer.Tracer{a, b} {
		r := &record{Head: wire.Head{Time: 1 << 40, Who: wire.Who{Pid: 42, Comm: [16]uint8{'s', 'h'}}}}
		d := tr.NewDecoder()
		if err := d.Decode(unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)), 0); err != nil {
			t.Fatal(err)
		}
		events[i] = d.Event
	}
	return events
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		text string
		a, b bool
	}{
		{`true`, true, true},
		{`pid == 42 && comm == "sh"`, true, true},
		{`pid > 42`, false, false},
		{`ret < 0`, true, false}, // 0 for b, which has none
		{`ret == -2 and cut`, true, false},
		{`size == 7`, false, true},
		{`size == 0 || size == 7`, true, true},
		{`type == "b"`, false, true},
		{`text == "a \"b\"` + "\ufffd" + `\n"`, true, false}, // as JSON has it
		{`text contains "\"b\""`, true, false},
		{`text matches "^a "`, true, false},
		{`args[1] == "y z"`, true, false}, // b has no second argument
		{`args[7] == ""`, false, false},
		{`"x" in args`, true, false},
		{`len(args) == 2`, true, false},
		{`any(args, # startsWith "y")`, true, false},
		{`big > 9000000000000000000`, true, false}, // more than an int: the largest one
		{`boot_ns == 1099511627776`, true, true},
		{`time startsWith "1970-01-01T00:18:19"`, true, true},
		{`1 % (size - 7) < 9`, true, false}, // of b by zero
	} {
		f, err := filter.Compile(test.text, []*tracer.Tracer{a, b})
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		both := events(t)
		boundA, boundB := f.For(a), f.For(b)
		for range 2 { // one after the other, nothing is left
			if got := boundA.Match(both[0]); got != test.a {
				t.Errorf("%s is %v for a", test.text, got)
			}
			if got := boundB.Match(both[1]); got != test.b {
				t.Errorf("%s is %v for b", test.text, got)
			}
		}
	}
}

// TestAncestors: a column that is no tracer's own, of objects.
func TestAncestors(t *testing.T) {
	with := a.WithAncestors(func(list []field.Ancestor, who *wire.Who) []field.Ancestor {
		return append(list, field.Ancestor{Proc: field.ProcID{Start: 1, PID: who.Pid - 1}, Comm: field.Comm{'m', 'a', 'k', 'e'}})
	})
	r := &record{Head: wire.Head{Who: wire.Who{Pid: 42}}}
	d := with.NewDecoder()
	for range 2 {
		if err := d.Decode(unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]bool{
		`any(ancestors, .comm == "make")`: true, `any(ancestors, .comm == "sh")`: false, `len(ancestors) == 1`: true,
		`ancestors[0].pid == 41 && ancestors[0].proc_id == "1-41"`: true, `ancestors[1].pid == 1`: false,
	} {
		f, err := filter.Compile(text, []*tracer.Tracer{with, b})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := f.For(with).Match(d.Event); got != want {
			t.Errorf("%s is %v", text, got)
		}
		if f.For(b).Match(events(t)[1]) {
			t.Errorf("%s holds for an event without ancestors", text)
		}
	}
	if _, err := filter.Compile(`len(ancestors) > 0`, []*tracer.Tracer{a}); err == nil {
		t.Error("a has no ancestors")
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "unexpected token EOF (at character 1)"},
		{"pid", "expected bool, but got int (at character 1)\n | pid\n | ^"},
		{"pid + 1", "expected bool, but got int (at character 5)\n | pid + 1\n | ....^"},
		{`pid > "x"`, "mismatched types int and string) (at character 5)\n | pid > \"x\"\n | ....^"},
		{"pid == 1 && sise > 3", "unknown name sise (at character 13)"},
		{"pid ==", "at character 6"},
		{`text matches "("`, "missing closing )"},
		{"args == 3", "mismatched types []string and int"},
		{"ret > 0", ""},
	} {
		_, err := filter.Compile(test.text, []*tracer.Tracer{a})
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.text, err, test.want)
		}
	}
	if _, err := filter.Compile("ret > 0", []*tracer.Tracer{b}); err == nil {
		t.Error("b has no ret")
	}
}

func BenchmarkMatch(bench *testing.B) {
	f, err := filter.Compile(`ret < 0 && comm startsWith "s"`, []*tracer.Tracer{a})
	if err != nil {
		bench.Fatal(err)
	}
	bound := f.For(a)
	r := &record{}
	d := a.NewDecoder()
	if err := d.Decode(unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)), 0); err != nil {
		bench.Fatal(err)
	}
	bench.ReportAllocs()
	for bench.Loop() {
		bound.Match(d.Event)
	}
}
