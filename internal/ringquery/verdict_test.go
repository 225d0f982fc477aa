// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"strings"
	"testing"
	"time"
)

// at is the state of a ring of 64 KiB at two positions.
func at(cons, prod uint64) State {
	return State{RingSize: 64 << 10, ConsPos: cons, ProdPos: prod, AvailData: prod - cons}
}

// A story is what is seen of a ring in one look: its samples, the second half of which
// is in the second half of the look.
type story struct {
	samples    []State
	busyAt     int64 // -1: the head is not busy
	overwrites bool
	largest    uint64
}

func tell(h *history, begin time.Time, s story) Motion {
	const length = 100 * time.Millisecond
	w := &window{begin: begin, end: begin, largest: s.largest}
	h.head(uint64(s.busyAt), s.busyAt >= 0, begin)
	for i, state := range s.samples {
		w.sample(state, i > 0 && 2*i >= len(s.samples))
	}
	if len(s.samples) > 1 {
		w.end = begin.Add(length)
		h.head(uint64(s.busyAt), s.busyAt >= 0, w.end)
	}
	return h.judge(w, s.overwrites)
}

func TestVerdict(t *testing.T) {
	over := func(cons, over, prod uint64) State {
		return State{RingSize: 64 << 10, ConsPos: cons, ProdPos: prod, OverwritePos: over, AvailData: prod - max(cons, over)}
	}
	const full = 64<<10 - 64
	for name, test := range map[string]struct {
		looks []story
		want  Verdict
	}{
		"one moment":          {[]story{{samples: []State{at(0, 8)}, busyAt: -1}}, Unknown},
		"nothing, empty":      {[]story{{samples: []State{at(8, 8), at(8, 8)}, busyAt: -1}}, Idle},
		"nothing, not empty":  {[]story{{samples: []State{at(8, 800), at(8, 800)}, busyAt: -1}}, Idle},
		"two moments":         {[]story{{samples: []State{at(8, 8)}, busyAt: -1}, {samples: []State{at(8, 8)}, busyAt: -1}}, Idle},
		"drained in between":  {[]story{{samples: []State{at(0, 0), at(0, 800), at(800, 800), at(800, 1600), at(1600, 1600)}, busyAt: -1}}, Draining},
		"drained at the end":  {[]story{{samples: []State{at(0, 4000), at(0, 4000), at(0, 4000), at(4000, 4000)}, busyAt: -1}}, Draining},
		"bursts":              {[]story{{samples: []State{at(0, 0), at(0, 20000), at(20000, 20000), at(20000, 50000)}, busyAt: -1}}, Draining},
		"a record just now":   {[]story{{samples: []State{at(0, 0), at(0, 0), at(0, 0), at(0, 80)}, busyAt: -1}}, Draining},
		"more and more":       {[]story{{samples: []State{at(0, 0), at(80, 2000), at(160, 4000), at(240, 8000)}, busyAt: -1}}, Behind},
		"a little more":       {[]story{{samples: []State{at(0, 0), at(80, 88), at(160, 176), at(240, 300)}, busyAt: -1}}, Draining},
		"more, two moments":   {[]story{{samples: []State{at(0, 800)}, busyAt: -1}, {samples: []State{at(80, 4000)}, busyAt: -1}}, Behind},
		"less, two moments":   {[]story{{samples: []State{at(0, 4000)}, busyAt: -1}, {samples: []State{at(4000, 5000)}, busyAt: -1}}, Draining},
		"reader gone":         {[]story{{samples: []State{at(0, 80), at(0, 160), at(0, 240), at(0, 320)}, busyAt: -1}}, Stalled},
		"reader gone, empty":  {[]story{{samples: []State{at(0, 0), at(0, 160), at(0, 240), at(0, 320)}, busyAt: -1}}, Stalled},
		"gone, two moments":   {[]story{{samples: []State{at(0, 80)}, busyAt: -1}, {samples: []State{at(0, 160)}, busyAt: -1}}, Stalled},
		"fresh, two moments":  {[]story{{samples: []State{at(80, 80)}, busyAt: -1}, {samples: []State{at(80, 160)}, busyAt: -1}}, Draining},
		"full, dead":          {[]story{{samples: []State{at(0, full), at(0, full)}, busyAt: -1, largest: 64}}, Full},
		"full at times":       {[]story{{samples: []State{at(0, 40000), at(0, full), at(30000, 40000), at(30000, 50000)}, busyAt: -1, largest: 64}}, Full},
		"room for one more":   {[]story{{samples: []State{at(0, full), at(0, full)}, busyAt: -1, largest: 56}}, Idle},
		"no room for a large": {[]story{{samples: []State{at(0, 60000), at(0, 60000)}, busyAt: -1, largest: 8000}}, Full},
		"stuck":               {[]story{{samples: []State{at(0, full), at(0, full)}, busyAt: 0, largest: 64}}, Stuck},
		"stuck, two moments":  {[]story{{samples: []State{at(0, 80)}, busyAt: 0}, {samples: []State{at(0, 160)}, busyAt: 0}}, Stuck},
		"another one busy":    {[]story{{samples: []State{at(0, 80)}, busyAt: 0}, {samples: []State{at(80, 160)}, busyAt: 80}}, Draining},
		"overwritten, unread": {[]story{{samples: []State{over(0, 800, 64<<10+800), over(0, 1600, 64<<10+1600)}, busyAt: -1, overwrites: true, largest: 64}}, Full},
		"overwritten, read":   {[]story{{samples: []State{over(90000, 800, 90000), over(91000, 1600, 91000)}, busyAt: -1, overwrites: true}}, Draining},
		"overwrites no more":  {[]story{{samples: []State{over(0, 800, 64<<10+800), over(0, 800, 64<<10+800)}, busyAt: -1, overwrites: true, largest: 64}}, Idle},
	} {
		h, begin := &history{}, time.Unix(1000, 0)
		var m Motion
		for _, s := range test.looks {
			m = tell(h, begin, s)
			begin = begin.Add(time.Second)
		}
		if m.Verdict != test.want {
			t.Errorf("%s: %s, want %s", name, m.Verdict, test.want)
		}
	}
}

func TestMotion(t *testing.T) {
	h, begin := &history{}, time.Unix(1000, 0)
	if m := tell(h, begin, story{samples: []State{at(0, 16384)}, busyAt: -1}); m != (Motion{Verdict: Unknown, TimeToFull: -1, HighWater: 16384}) {
		t.Errorf("the first: %+v", m)
	}
	// In 2 s 8192 bytes in, 4096 out: 45056 left at 2048 a second.
	m := tell(h, begin.Add(2*time.Second), story{samples: []State{at(4096, 24576)}, busyAt: 4096})
	if m.Interval != 2*time.Second || m.Produced != 4096 || m.Consumed != 2048 || m.HighWater != 20480 || m.TimeToFull != 22*time.Second ||
		!m.HeadBusy || m.HeadAge != 0 {
		t.Errorf("the second: %+v", m)
	}
	m = tell(h, begin.Add(3*time.Second), story{samples: []State{at(4096, 24576)}, busyAt: 4096})
	if m.Verdict != Stuck || m.HeadAge != time.Second || m.TimeToFull != -1 || m.HighWater != 20480 {
		t.Errorf("the third: %+v", m)
	}
	m = tell(h, begin.Add(4*time.Second), story{samples: []State{at(24576, 24576)}, busyAt: -1})
	if m.HeadBusy || m.HeadAge != 0 || m.Verdict != Draining {
		t.Errorf("the fourth: %+v", m)
	}
}

func TestParseVerdict(t *testing.T) {
	for _, v := range Verdicts() {
		for _, name := range []string{v.Short(), string(v), strings.ToUpper(v.Short())} {
			if got, err := ParseVerdict(name); err != nil || got != v {
				t.Errorf("%q: %q, %v", name, got, err)
			}
		}
	}
	for _, name := range []string{"", "unknown", "ful"} {
		if v, err := ParseVerdict(name); err == nil {
			t.Errorf("%q is %q", name, v)
		}
	}
}

func TestSelection(t *testing.T) {
	for _, s := range []Selection{{Names: []string{"["}}, {PIDs: []int{0}}, {PIDs: []int{-1}}, {Programs: []string{""}}} {
		if s.Check() == nil {
			t.Errorf("%+v is right", s)
		}
	}
	s := Selection{Names: []string{"a*", "b"}, PIDs: []int{1}, Programs: []string{"x"}}
	if err := s.Check(); err != nil || s.All() || !s.matchName("abc") || !s.matchName("b") || s.matchName("bc") || s.matchName("") {
		t.Errorf("%+v: %v", s, err)
	}
	if s := (Selection{}); !s.All() || !s.matchName("") {
		t.Error("the zero value is not all")
	}
}
