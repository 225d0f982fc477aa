// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event struct {
	time field.Time
	pid  field.Uint32
	comm field.Text
	text field.Text
}

func source(columns ...int) (*Source, *event) {
	e := &event{}
	return &Source{
		Name: "test",
		Schema: tracer.Schema{
			{Key: "time", Header: "TIME"},
			{Key: "pid", Header: "PID", Width: 5, Right: true},
			{Key: "comm", Header: "COMM", Width: 6},
			{Key: "text", Header: "TEXT"},
		},
		Columns: columns,
		Event:   []field.Value{&e.time, &e.pid, &e.comm, &e.text},
		Time:    &e.time,
	}, e
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	style := field.NewTimeStyle(field.TimeWall, time.UTC)
	var lost []Loss
	table := NewTable(&out, style, true, func(l Loss) { lost = append(lost, l) })
	s, e := source(0, 1, 2, 1, 3)
	e.time.Style = style
	if err := table.Header(s); err != nil {
		t.Fatal(err)
	}
	for _, row := range []event{
		{pid: 7, comm: field.Text("sh"), text: field.Text("a b")},
		{pid: 123456789, comm: field.Text("too long a name"), text: field.Text("\x1b[31m")},
		{pid: 8, comm: field.Text("日本"), text: nil},
		{pid: 99999, comm: field.Text("longer7"), text: field.Text("x")},
	} {
		e.pid, e.comm, e.text = row.pid, row.comm, row.text
		if err := table.Event(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Lost(Loss{Source: s, Lost: 3}); err != nil || len(lost) != 1 {
		t.Errorf("%v, %v", lost, err)
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"TIME           PID COMM     PID TEXT",
		"00:00:00.000     7 sh         7 a b",
		`00:00:00.000 123456789 too long a name 123456789 \x1b[31m`,
		"00:00:00.000     8 日本       8 ",
		"00:00:00.000 99999 longer7 99999 x",
		"",
	}, "\n")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if table.Written() != 4 {
		t.Errorf("%d events written", table.Written())
	}
}

func TestTableWithoutTime(t *testing.T) {
	var out bytes.Buffer
	style := field.NewTimeStyle(field.TimeNone, nil)
	table := NewTable(&out, style, false, nil)
	s, e := source(0, 1)
	e.pid = 7
	if err := errors.Join(table.Header(s), table.Event(s), table.Flush()); err != nil || out.String() != "    7\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if w := Width(s.Schema, s.Columns, style); w != 5 {
		t.Errorf("width %d", w)
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	j := NewJSON(&out)
	s, e := source()
	e.pid, e.comm, e.text = 7, field.Text("a\xff\n"), field.Text(`"`)
	err := errors.Join(j.Event(s), j.Lost(Loss{Source: s, CPU: 1, Lost: 3, After: 5, Before: 6}), j.Event(s), j.Flush())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(out.String(), "\n")
	want := `{"type":"test","time":"1970-01-01T00:00:00.000000000Z","pid":7,"comm":"a` + "\ufffd" + `\n","text":"\""}` + "\n"
	if lines[0] != want || lines[2] != want {
		t.Errorf("%s\nwant %s", lines[0], want)
	}
	if lines[1] != `{"type":"lost","tracer":"test","cpu":1,"lost":3,"after_boot_ns":5,"before_boot_ns":6}`+"\n" {
		t.Error(lines[1])
	}
	for _, line := range lines[:3] {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	if j.Written() != 2 {
		t.Errorf("%d events written", j.Written())
	}
}

// brokenPipe takes so many bytes.
type brokenPipe struct{ room int }

var errBroken = errors.New("broken")

func (w *brokenPipe) Write(b []byte) (int, error) {
	n := min(w.room, len(b))
	w.room -= n
	if n < len(b) {
		return n, errBroken
	}
	return n, nil
}

// What was not written whole does not count, and a failed sink stays failed.
func TestBrokenSink(t *testing.T) {
	s, e := source()
	line := len(`{"type":"test","time":"1970-01-01T00:00:00.000000000Z","pid":0,"comm":"","text":""}`) + 1
	for _, c := range []struct{ room, want int }{{0, 0}, {line - 1, 0}, {line, 1}, {3*line + 5, 2}} {
		e.pid = 0
		j := NewJSON(&brokenPipe{room: c.room})
		if err := errors.Join(j.Event(s), j.endLost(s), j.Event(s), j.Event(s)); err != nil {
			t.Fatal(err)
		}
		if err := j.Flush(); !errors.Is(err, errBroken) {
			t.Errorf("%d bytes: %v", c.room, err)
		}
		if j.Written() != uint64(c.want) {
			t.Errorf("%d bytes: %d events written, want %d", c.room, j.Written(), c.want)
		}
		if err := j.Flush(); !errors.Is(err, errBroken) {
			t.Errorf("a second flush: %v", err)
		}
	}
}

// endLost appends a line that is no event, and as long as one.
func (j *JSON) endLost(*Source) error {
	j.b = append(j.b, strings.Repeat(" ", len(j.b)-1)...)
	return j.endOther()
}

func TestAllocations(t *testing.T) {
	s, e := source(0, 1, 2, 3)
	e.comm, e.text = field.Text("name"), field.Text("\x1b hostile \xff")
	style := field.NewTimeStyle(field.TimeWall, nil)
	e.time.Style = style
	for name, sink := range map[string]Sink{"json": NewJSON(discard{}), "table": NewTable(discard{}, style, false, nil)} {
		for range 10000 { // to its full size
			_ = sink.Event(s)
		}
		if n := testing.AllocsPerRun(1000, func() { _ = sink.Event(s) }); n != 0 {
			t.Errorf("%s: %v allocations an event", name, n)
		}
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
