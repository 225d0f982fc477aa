// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"fmt"
	"strings"
	"time"
)

// Verdict is what a ring is doing, in words.
type Verdict string

// The verdicts, from the best to the worst.
const (
	// Unknown: there was no look before this one to compare with.
	Unknown Verdict = "unknown"
	// Idle: neither position moved.
	Idle Verdict = "idle"
	// Draining: the reader keeps up.
	Draining Verdict = "draining"
	// Behind: the reader reads, and what it leaves unread grows.
	Behind Verdict = "falling behind"
	// Stalled: producers go on and the reader has not moved, although it had something
	// to read.
	Stalled Verdict = "stalled consumer"
	// Full: there was no room for another record of the size of those in the ring, so
	// that whoever produces loses. The kernel counts no losses; this is how they are
	// found from outside. A ring that overwrites its oldest records (BPF_F_RB_OVERWRITE)
	// is full when it overwrites records that nobody has read.
	Full Verdict = "full"
	// Stuck: the record at the head has been reserved and not committed since the look
	// before, so nothing behind it can be read.
	Stuck Verdict = "stuck head"
)

// Verdicts returns all verdicts but Unknown.
func Verdicts() []Verdict { return []Verdict{Idle, Draining, Behind, Stalled, Full, Stuck} }

// Short returns the verdict's name in one word: idle, draining, behind, stalled, full,
// stuck, unknown.
func (v Verdict) Short() string {
	if v == Behind {
		return "behind"
	}
	word, _, _ := strings.Cut(string(v), " ")
	return word
}

// ParseVerdict returns the verdict of that name, short or in full.
func ParseVerdict(name string) (Verdict, error) {
	var names []string
	for _, v := range Verdicts() {
		if strings.EqualFold(name, v.Short()) || strings.EqualFold(name, string(v)) {
			return v, nil
		}
		names = append(names, v.Short())
	}
	return "", fmt.Errorf("unknown verdict %q: want %s", name, strings.Join(names, ", "))
}

// Motion is what became of a ring between two looks. All of it is 0 where there was no
// look before.
type Motion struct {
	Verdict Verdict
	// Interval is the time that the rates are of.
	Interval time.Duration
	// Bytes a second, with headers and padding, and records a second, discarded ones
	// included.
	Produced, Consumed               float64
	ProducedRecords, ConsumedRecords float64
	// Estimated says that the rates of records are not counted, but reckoned from the
	// size of those that could be seen: the others were overwritten already, or too
	// many.
	Estimated bool
	// HighWater is the most that AvailData was found to be since the Querier first
	// looked.
	HighWater uint64
	// TimeToFull is how long it takes until the ring is full if it goes on like this:
	// negative where it does not fill.
	TimeToFull time.Duration
	// HeadBusy says that the record at the head is not committed, and HeadAge for how
	// long that has been known.
	HeadBusy bool
	HeadAge  time.Duration
}

// history is what is kept of a ring between looks.
type history struct {
	seen      bool // looked at before
	at        time.Time
	state     State
	low       uint64 // the least AvailData of the look
	highWater uint64
	largest   uint64  // what the largest record that was seen takes
	mean      float64 // what records took on average

	busyPos   uint64 // where the head was found busy
	busySince time.Time
}

// window is one look: a moment, or as long as Request.Look.
type window struct {
	first, last     State
	begin, end      time.Time
	firstLow        uint64 // the least AvailData of its first half
	secondLow, high uint64
	samples         int

	// Records between the positions of the look before and this one's.
	produced, consumed float64
	estimated          bool
	largest            uint64 // what the largest of the unread takes; 0: not known
}

// behindPart is by which part of the ring the unread data must grow to be called
// growing: readers read in bursts, and producers write in bursts.
const behindPart = 100

// stuckAfter is the least time that a head must have been busy to be called stuck.
// Programs end in micro- to milliseconds, unless they are preempted, or sleep.
const stuckAfter = 20 * time.Millisecond

// sample enters a state of the look, which is in the given half of it.
func (w *window) sample(s State, secondHalf bool) {
	switch {
	case w.samples == 0:
		w.first, w.firstLow, w.secondLow, w.high = s, s.AvailData, s.AvailData, s.AvailData
	case secondHalf:
		w.secondLow = min(w.secondLow, s.AvailData)
	default:
		w.firstLow = min(w.firstLow, s.AvailData)
		w.secondLow = s.AvailData // until the half begins
	}
	w.high = max(w.high, s.AvailData)
	w.last = s
	w.samples++
}

// head notes whether the record at the head, which is at pos, is busy.
func (h *history) head(pos uint64, busy bool, at time.Time) {
	switch {
	case !busy:
		h.busySince = time.Time{}
	case h.busySince.IsZero() || h.busyPos != pos:
		h.busyPos, h.busySince = pos, at
	}
}

// judge compares the window with what was before, and enters it into the history.
func (h *history) judge(w *window, overwrites bool) Motion {
	before, at, low := h.state, h.at, h.low
	if !h.seen {
		before, at, low = w.first, w.begin, w.firstLow
	}
	h.highWater = max(h.highWater, w.high)
	if w.largest > 0 {
		h.largest = w.largest
	}
	m := Motion{Verdict: Unknown, HighWater: h.highWater, TimeToFull: -1, HeadBusy: !h.busySince.IsZero()}
	if m.HeadBusy {
		m.HeadAge = w.end.Sub(h.busySince)
	}
	if h.seen || w.samples > 1 {
		m.Interval = w.end.Sub(at)
		h.compare(&m, w, before, low, overwrites)
	}
	leastLow := w.secondLow
	if h.seen {
		leastLow = min(w.firstLow, w.secondLow)
	}
	h.seen, h.at, h.state, h.low = true, w.end, w.last, leastLow
	return m
}

func (h *history) compare(m *Motion, w *window, before State, low uint64, overwrites bool) {
	now := w.last
	produced, consumed := now.ProdPos-before.ProdPos, now.ConsPos-before.ConsPos
	seconds := m.Interval.Seconds()
	if seconds > 0 {
		m.Produced, m.Consumed = float64(produced)/seconds, float64(consumed)/seconds
		m.ProducedRecords, m.ConsumedRecords = w.produced/seconds, w.consumed/seconds
		m.Estimated = w.estimated
		if fill := m.Produced - m.Consumed; fill > 0 && !overwrites && now.AvailData < now.RingSize {
			left := float64(now.RingSize-now.AvailData) / fill
			if left < float64(1<<62)/float64(time.Second) {
				m.TimeToFull = time.Duration(left * float64(time.Second))
			}
		}
	}
	// What was unread the whole second half of the look, or, where the look was a
	// moment, in both looks.
	unread := w.secondLow
	if h.seen {
		unread = min(w.firstLow, w.secondLow)
	}
	grown := unread
	if w.samples == 1 {
		unread = min(unread, before.AvailData)
	}
	// The kernel takes a record as long as producer_pos stays below consumer_pos + size,
	// and positions are multiples of 8. 16 is what the smallest with a payload takes.
	full := w.high+max(h.largest, 16) >= now.RingSize
	if overwrites {
		full = now.OverwritePos > now.ConsPos && now.OverwritePos != before.OverwritePos
	}
	switch {
	case m.HeadBusy && m.HeadAge >= stuckAfter:
		m.Verdict = Stuck
	case full:
		m.Verdict = Full
	case produced == 0 && consumed == 0:
		m.Verdict = Idle
	case produced > 0 && consumed == 0 && unread > 0:
		m.Verdict = Stalled
	case produced > 0 && grown > low+now.RingSize/behindPart:
		m.Verdict = Behind
	default:
		m.Verdict = Draining
	}
}
