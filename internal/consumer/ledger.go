// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rbtrace/rbtrace/internal/wire"
)

// Ledger is the books of one tracer, from the probe to the sink.
type Ledger struct {
	Name string
	CPU  []wire.Ledger // of the kernel's side
	// Missed are hits for which the kernel did not run the program. They are events
	// lost, and in no CPU's books.
	Missed uint64
	Counts
	// Recorded says that Printed counts records that went into a recording.
	Recorded bool
}

// Total returns the sum of all CPUs, with what was missed as hits that were lost.
func (l *Ledger) Total() wire.Ledger {
	t := wire.Ledger{Hits: l.Missed, Lost: l.Missed}
	for _, c := range l.CPU {
		t.Hits += c.Hits
		t.Filtered += c.Filtered
		t.Lost += c.Lost
		t.NoEntry += c.NoEntry
		t.Discarded += c.Discarded
		t.Submitted += c.Submitted
	}
	return t
}

// Losses are events lost, by the reason.
type Losses struct {
	NoRoom  uint64 // in the ring
	NoEntry uint64 // what they need of an earlier moment is not known
	Missed  uint64 // the kernel did not run the program
}

// Reason is why events were lost, as the ledger's line says it.
type Reason string

// The reasons: see Losses.
const (
	NoRoom  Reason = "without room in the ring"
	NoEntry Reason = "whose beginning is not known"
	Missed  Reason = "missed by the kernel"
)

// Lost is how many events were lost for a reason.
type Lost struct {
	N   uint64
	Why Reason
}

// Sorted returns the losses that there are, the greatest first.
func (l Losses) Sorted() []Lost {
	all := []Lost{{l.NoRoom, NoRoom}, {l.NoEntry, NoEntry}, {l.Missed, Missed}}
	all = slices.DeleteFunc(all, func(l Lost) bool { return l.N == 0 })
	slices.SortStableFunc(all, func(a, b Lost) int { return cmp.Compare(b.N, a.N) })
	return all
}

// Add adds the losses of another tracer.
func (l *Losses) Add(other Losses) {
	l.NoRoom += other.NoRoom
	l.NoEntry += other.NoEntry
	l.Missed += other.Missed
}

// Losses returns the books' lost events by their reasons, which add up to Total().Lost.
func (l *Ledger) Losses() Losses {
	t := l.Total()
	return Losses{NoRoom: t.Lost - t.NoEntry - l.Missed, NoEntry: t.NoEntry, Missed: l.Missed}
}

// Balanced reports whether the books add up: hits = filtered + lost + discarded +
// submitted on every CPU, submitted = consumed + left + unreadable, and consumed =
// printed + filtered + undecodable + unwritten. While programs or records are under way
// they do not.
func (l *Ledger) Balanced() bool {
	for _, c := range l.CPU {
		if c.Hits != c.Filtered+c.Lost+c.Discarded+c.Submitted {
			return false
		}
	}
	return l.Total().Submitted == l.Consumed+l.Left+l.Unreadable &&
		l.Consumed == l.Printed+l.Counts.Filtered+l.Undecodable+l.Unwritten
}

// Complete reports whether all wanted events were shown, as far as they were
// asked for: none lost, none undecodable or unreadable.
func (l *Ledger) Complete() bool {
	return l.Total().Lost == 0 && l.Undecodable == 0 && l.Unreadable == 0
}

// String returns the books in one line.
func (l *Ledger) String() string {
	t := l.Total()
	shown := "printed"
	if l.Recorded {
		shown = "recorded"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %d hits = %d filtered + %d lost + %d discarded + %d submitted; %d submitted = %d %s",
		l.Name, t.Hits, t.Filtered, t.Lost, t.Discarded, t.Submitted, t.Submitted, l.Printed, shown)
	for _, more := range []struct {
		n    uint64
		what string
	}{
		{l.Counts.Filtered, "filtered in user space"},
		{l.Undecodable, "undecodable"},
		{l.Unwritten, "not written"},
		{l.Left, "left in the ring"},
		{l.Unreadable, "not readable"},
	} {
		if more.n > 0 {
			fmt.Fprintf(&s, " + %d %s", more.n, more.what)
		}
	}
	for i, lost := range l.Losses().Sorted() {
		separator := ", "
		if i == 0 {
			separator = "; lost: "
		}
		fmt.Fprintf(&s, "%s%d %s", separator, lost.N, lost.Why)
	}
	if l.Late > 0 {
		fmt.Fprintf(&s, "; %d came late, out of order", l.Late)
	}
	return s.String()
}
