// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

const (
	// slack is the time that a program takes from its event's time to the record's
	// place in the ring: a ring that was drained at an instant may still get records
	// that are older than that by so much. Programs that are preempted meanwhile take
	// longer; their records come late.
	slack = time.Millisecond
	// patience bounds how long records of other rings wait for an uncommitted one.
	patience = 50 * time.Millisecond
	// retireAfter is how long a ring is read after its cgroup has gone. Programs should
	// not use it even before that; those that can be preempted might.
	retireAfter = time.Second
)

// lane is one ring of those that are merged.
type lane struct {
	m    *ebpf.Map
	ring *ringbuf.Ring
	// head is the oldest record not yet taken, and time its time. nil: there is none.
	head []byte
	time uint64
	// seen is an instant of the boot clock: what was in the ring then is known.
	seen uint64
	// retired is since when no record is expected; zero: some are.
	retired time.Time
}

// look finds the lane's head, and reports whether there is one.
func (l *lane) look() bool {
	now := kernel.BootTime()
	if l.peek() {
		return true
	}
	// Behind an uncommitted record may be others, as old as the one before.
	if age, busy := l.ring.Busy(); !busy || age > patience {
		l.seen = now
	}
	return false
}

func (l *lane) peek() bool {
	record, ok := l.ring.Peek()
	l.head = nil
	if ok {
		l.head, l.time = record, 0
		if head := tracer.Head(record); head != nil {
			l.time = head.Time
		}
	}
	return ok
}

// laneHeap has the lane with the oldest head in front.
type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].time < h[j].time }
func (h laneHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *laneHeap) Push(x any)        { *h = append(*h, x.(*lane)) }
func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	*h = (*h)[:last]
	return l
}

// merge takes the records of all rings, the oldest first. Each ring is in order as
// far as its programs were; between rings, a record is taken once no older one can
// be expected: when every other ring has a newer one, or was found drained after
// its time and the slack. Otherwise, unless all are to be taken, it stays, and merge
// says how long.
func (c *Consumer) merge(ctx context.Context, all bool) (hold time.Duration, err error) {
	n := 0
	// Records that come meanwhile get old enough one by one, and to take each at once would leave the reader
	// no rest. So what came after the first look gathers, as in wait.
	gather := time.Duration(0)
	for {
		// What may still come is no older than this.
		watermark := ^uint64(0)
		c.heap = c.heap[:0]
		for _, l := range c.lanes {
			if l.look() {
				c.heap = append(c.heap, l)
			} else {
				watermark = min(watermark, l.seen-uint64(slack))
			}
		}
		if all {
			watermark = ^uint64(0)
		}
		if len(c.heap) == 0 {
			return 0, nil
		}
		heap.Init(&c.heap)
		if oldest := c.heap[0].time + uint64(gather); oldest > watermark {
			return min(max(time.Duration(oldest-watermark), 1), slack+gather), nil
		}
		for len(c.heap) > 0 && c.heap[0].time <= watermark {
			if c.reached() {
				return 0, nil
			}
			l := c.heap[0]
			if err := c.takeFrom(l); err != nil {
				return 0, err
			}
			switch {
			case l.peek():
				heap.Fix(&c.heap, 0)
			case all:
				heap.Pop(&c.heap)
			default:
				// Drained, or so it seems: it holds up the others as it would have, had it
				// been so from the beginning.
				heap.Pop(&c.heap)
				if l.look() {
					heap.Push(&c.heap, l)
				} else {
					watermark = min(watermark, l.seen-uint64(slack))
				}
			}
			if n++; n%checkEvery == 0 {
				if end, err := c.check(ctx); end || err != nil {
					return 0, err
				}
			}
		}
		if gather = 0; !all && !c.filling() {
			gather = c.opts.Pace
		}
	}
}

// takeFrom takes the lane's head.
func (c *Consumer) takeFrom(l *lane) error {
	if l.time < c.last {
		if s, head := c.sourceOf(l.head); s != nil && head.Flags&wire.IsPart == 0 {
			s.counts.Late++
		}
	}
	c.last = max(c.last, l.time)
	err := c.take(l.head)
	l.ring.Next() // which is the head
	if l.ring.Held() >= uint64(l.ring.Size())/8 {
		l.ring.Commit()
	}
	return err
}

// change is a ring that comes, or one that goes.
type change struct {
	lane    *lane
	retired *ebpf.Map
}

// AddRing makes Run read m as well, which nobody else may read. It may be called
// from any goroutine. The consumer has a file descriptor of its own.
func (c *Consumer) AddRing(m *ebpf.Map) error {
	l, err := newLane(m)
	if err != nil {
		return err
	}
	c.ask(change{lane: l})
	return nil
}

func newLane(m *ebpf.Map) (*lane, error) {
	ring, err := ringbuf.Open(m)
	if err != nil {
		return nil, fmt.Errorf("mapping the ring: %w", err)
	}
	return &lane{m: m, ring: ring, seen: kernel.BootTime()}, nil
}

// RetireRing says that nothing more will be written to m. It is forgotten once it
// is drained. It may be called from any goroutine.
func (c *Consumer) RetireRing(m *ebpf.Map) { c.ask(change{retired: m}) }

func (c *Consumer) ask(ch change) {
	c.mu.Lock()
	c.changes = append(c.changes, ch)
	c.mu.Unlock()
	c.poller.Interrupt()
}

// change makes the changes that were asked for, and forgets retired rings.
func (c *Consumer) change() error {
	c.mu.Lock()
	changes := c.changes
	c.changes = nil
	c.mu.Unlock()
	for _, ch := range changes {
		if ch.lane != nil {
			c.lanes = append(c.lanes, ch.lane)
			if err := c.poller.Add(ch.lane.ring); err != nil {
				return err
			}
			continue
		}
		for _, l := range c.lanes {
			if l.m == ch.retired {
				l.retired = time.Now()
			}
		}
	}
	var err error
	c.lanes = slices.DeleteFunc(c.lanes, func(l *lane) bool {
		if l.retired.IsZero() || time.Since(l.retired) < retireAfter || l.ring.Avail() > 0 || len(c.lanes) == 1 {
			return false
		}
		if cerr := l.ring.Close(); cerr != nil {
			err = cerr
		}
		return true
	})
	return err
}
