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
	warn    func(format string, args ...any)
	tracers []*attach.Loaded
	events  *consumer.Consumer
	json    *output.JSON // nil: the sink is another one

	last    []consumer.Ledger // of each tracer
	at      time.Time         // of last
	wakeups uint64            // as of last
}

func newStatsPrinter(warn func(string, ...any), session *attach.Session, events *consumer.Consumer, sink output.Sink) *statsPrinter {
	s := &statsPrinter{
		warn: warn, tracers: session.Tracers, events: events, at: time.Now(),
		last: make([]consumer.Ledger, len(session.Tracers)),
	}
	s.json, _ = sink.(*output.JSON)
	return s
}

func (s *statsPrinter) print() {
	now := time.Now()
	elapsed := now.Sub(s.at)
	rate := func(n uint64) float64 { return float64(n) / elapsed.Seconds() }
	fill, wakeups := s.events.Fill(), s.events.Wakeups()
	// What is of the rings is the same for all tracers.
	st := output.Stats{
		Time: now, Interval: elapsed, Wakeups: wakeups, WakeupRate: rate(wakeups - s.wakeups),
		Rings: fill.Rings, RingSize: fill.RingSize, Fill: fill.Bytes, Fullest: fill.Fullest, HighWater: fill.HighWater,
		Lag: s.events.Lag(),
	}
	st.Busy, _ = s.events.Stuck()
	s.at, s.wakeups = now, wakeups
	for i, loaded := range s.tracers {
		books, err := loaded.Books()
		if err != nil {
			s.warn("stats: %v", err)
			return
		}
		l := consumer.Ledger{Name: loaded.Tracer.Name, CPU: books.CPU, Missed: books.Missed, Counts: s.events.Counts(i)}
		t, before := l.Total(), s.last[i].Total()
		st.Tracer = l.Name
		st.Hits, st.Filtered, st.Lost, st.Discarded, st.Submitted = t.Hits, t.Filtered, t.Lost, t.Discarded, t.Submitted
		why := l.Losses()
		st.NoRoom, st.NoEntry, st.Missed = why.NoRoom, why.NoEntry, why.Missed
		st.Consumed, st.Printed, st.Late = l.Consumed, l.Printed, l.Late
		st.HitRate, st.LossRate = rate(t.Hits-before.Hits), rate(t.Lost-before.Lost)
		st.PrintRate = rate(l.Printed - s.last[i].Printed)
		s.last[i] = l
		s.show(&st)
	}
}

func (s *statsPrinter) show(st *output.Stats) {
	if s.json != nil {
		if err := s.json.Stats(st); err != nil {
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
	why := ""
	if lost := (consumer.Losses{NoRoom: st.NoRoom, NoEntry: st.NoEntry, Missed: st.Missed}).Sorted(); len(lost) > 0 {
		why = fmt.Sprintf(" (most of them %s)", lost[0].Why)
		if len(lost) == 1 {
			why = fmt.Sprintf(" (%s)", lost[0].Why)
		}
	}
	s.warn("%s: %.0f hits/s, %.0f printed/s, %d lost%s, %.0f wakeups/s, lag %v; %s, %s %.1f %%, at most %.1f %%%s",
		st.Tracer, st.HitRate, st.PrintRate, st.Lost, why, st.WakeupRate, st.Lag.Round(10*time.Microsecond), rings, full,
		percent(st.Fullest), percent(st.HighWater), stuck)
}
