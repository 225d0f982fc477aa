// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// advice is what is known about a trace that lost events, to say what would have helped.
type advice struct {
	losses     consumer.Losses // of all tracers
	rings      uint64
	ringSize   uint64 // of each, bytes
	recordSize uint64 // of the records that came, bytes in the ring; 0: none did
	available  uint64 // memory of the machine, bytes
	normal     bool   // the reader was to have no priority
	refused    bool   // it was not permitted to have any
	forced     bool   // another kind of hook was asked for than rbtrace would have tried first
}

// about notes what the rings are like.
func (a *advice) about(events *consumer.Consumer) {
	fill := events.Fill()
	a.rings, a.ringSize, a.recordSize = uint64(fill.Rings), fill.RingSize, events.RecordSize()
	a.available, _ = kernel.MemAvailable() // 0: no larger ring is advised
}

// String says what would have helped against the most frequent of the reasons, in one line. It is empty where nothing
// is known to.
func (a *advice) String() string {
	lost := a.losses.Sorted()
	if len(lost) == 0 {
		return ""
	}
	switch lost[0].Why {
	case consumer.NoRoom:
		first, room := "", "ask for less, by a filter"
		if size := a.enough(); size > 0 {
			room = "--buffer-size " + formatSize(size)
		}
		switch {
		case a.normal:
			first = "leave out --reader-priority normal, or "
		case a.refused:
			first = "give rbtrace CAP_SYS_NICE, so that its reader gets a CPU when all are busy, or "
		}
		return "most were lost without room in the ring: " + first + room
	case consumer.NoEntry:
		return "most were lost as too much was under way at once: ask for less, by a filter"
	case consumer.Missed:
		if a.forced {
			return "most were missed by the kernel: leave out --hook, as another kind misses fewer"
		}
	}
	return ""
}

// enough returns the size of rings that would have held all that was lost, twice over; 0: there is none, or no memory.
func (a *advice) enough() uint64 {
	_, size := ringbuf.NearestSizes(a.ringSize + 2*a.losses.NoRoom*max(a.recordSize, 64))
	if size == 0 || size*a.rings > a.available/2 {
		return 0
	}
	return max(size, 2*a.ringSize)
}
