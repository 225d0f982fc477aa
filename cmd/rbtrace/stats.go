// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/output"
)

// statsPrinter shows, at an interval, what happened since it last did: in the JSON
// stream, or else on standard error.
type statsPrinter struct {
	warn   func(format string, args ...any)
	loaded *attach.Loaded
	events *consumer.Consumer
	json   *output.JSON // nil: the sink is another one

	last    consumer.Ledger
	at      time.Time
	wakeups uint64 // as of last
}

func newStatsPrinter(warn func(string, ...any), l *attach.Loaded, events *consumer.Consumer, sink output.Sink) *statsPrinter {
	s := &statsPrinter{warn: warn, loaded: l, events: events, at: time.Now()}
	s.json, _ = sink.(*output.JSON)
	return s
}

func (s *statsPrinter) print() {
	books, err := s.loaded.Books()
	if err != nil {
		s.warn("stats: %v", err)
		return
	}
	now := time.Now()
	l := consumer.Ledger{Name: s.loaded.Tracer.Name, CPU: books.CPU, Missed: books.Missed, Counts: s.events.Counts(0)}
	t, before := l.Total(), s.last.Total()
	elapsed := now.Sub(s.at)
	rate := func(n uint64) float64 { return float64(n) / elapsed.Seconds() }
	fill, wakeups, lag := s.events.Fill(), s.events.Wakeups(), s.events.Lag()
	st := output.Stats{
		Time: now, Interval: elapsed, Tracer: l.Name,
		Hits: t.Hits, Filtered: t.Filtered, Lost: t.Lost, Discarded: t.Discarded, Submitted: t.Submitted,
		Consumed: l.Consumed, Printed: l.Printed, Late: l.Late, Wakeups: wakeups,
		HitRate: rate(t.Hits - before.Hits), PrintRate: rate(l.Printed - s.last.Printed),
		LossRate: rate(t.Lost - before.Lost), WakeupRate: rate(wakeups - s.wakeups),
		Rings: fill.Rings, RingSize: fill.RingSize, Fill: fill.Bytes, Fullest: fill.Fullest, HighWater: fill.HighWater,
		Lag: lag,
	}
	st.Busy, _ = s.events.Stuck()
	s.last, s.at, s.wakeups = l, now, wakeups
	if s.json != nil {
		if err := s.json.Stats(&st); err != nil {
			s.warn("stats: %v", err)
		}
		return
	}
	rings := "ring of " + formatSize(st.RingSize)
	full := "filled"
	if st.Rings > 1 {
		rings = fmt.Sprintf("%d rings of %s", st.Rings, formatSize(st.RingSize))
		full = "the fullest filled"
	}
	percent := func(n uint64) float64 { return 100 * float64(n) / float64(st.RingSize) }
	stuck := ""
	if st.Busy > 0 {
		stuck = fmt.Sprintf("; an uncommitted record has held up a ring for %v", st.Busy.Round(time.Millisecond))
	}
	s.warn("%s: %.0f hits/s, %.0f printed/s, %d lost, %.0f wakeups/s, lag %v; %s, %s %.1f %%, at most %.1f %%%s",
		l.Name, st.HitRate, st.PrintRate, t.Lost, st.WakeupRate, lag.Round(10*time.Microsecond), rings, full,
		percent(st.Fullest), percent(st.HighWater), stuck)
}
