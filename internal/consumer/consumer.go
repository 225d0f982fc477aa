// SPDX-License-Identifier: Apache-2.0

// Package consumer moves records from a ring to a sink: it waits, drains,
// decodes, counts what became of each record, and finds where events were lost.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

const (
	// DefaultPace is how long a woken consumer lets records gather before it drains. A
	// reader that catches up at once makes the producers send a wakeup for almost
	// every record; one that is behind is sent none, which costs the traced
	// programs much less. It bounds the delay of an event.
	DefaultPace = time.Millisecond
	// flushAfter bounds the time that a row waits in the sink while the ring never
	// becomes empty.
	flushAfter = 50 * time.Millisecond
	// checkEvery is the number of records after which a drain looks at the clock
	// and for the end.
	checkEvery = 1024
	// settleWithin bounds how long the end waits for programs that were under way
	// when their probes were detached.
	settleWithin = time.Second
)

// ErrLost ends Run where Options.FailOnLoss asks for it.
var ErrLost = errors.New("events were lost")

// Options say what a Consumer does beside moving records.
type Options struct {
	MaxEvents  uint64        // end after so many printed; 0: no limit
	StatsEvery time.Duration // call Stats at this interval; 0: never
	Stats      func()        // runs between two drains
	// Pace is how long a woken consumer lets records gather before it drains. 0: none.
	Pace time.Duration
	// LookEvery is for programs that suppress wakeups: the consumer then looks at the
	// ring when it is woken, and at this interval. 0: it looks before it waits.
	LookEvery time.Duration
	// FailOnLoss ends Run with ErrLost at the first loss that it finds.
	FailOnLoss bool
	// Hold is how long records may wait in the sink while the ring is empty. 0: they
	// are flushed whenever it is.
	Hold time.Duration
	// Keep is a filter of user space: it reports whether the event of tracer i is
	// wanted. nil: all are. A RawSink gets what it drops too.
	Keep func(i int, head *wire.Head, event []field.Value) bool
}

// Counts is what became of one tracer's records in user space:
// Consumed = Printed + Filtered + Undecodable + Unwritten. Printed counts those
// that were recorded, too.
type Counts struct {
	Consumed    uint64 // taken out of the ring
	Printed     uint64 // written to where the sink writes
	Filtered    uint64 // by filters of user space
	Undecodable uint64
	Unwritten   uint64 // the sink could not write them: a closed pipe, a full disk
	Left        uint64 // found in the ring after the end and not consumed
	Unreadable  uint64 // in damaged parts of a recording
}

// source is one tracer's records on their way.
type source struct {
	output.Source
	decoder *tracer.Decoder
	cpus    []cpuState
	counts  Counts
}

// cpuState is what the records of one CPU have said so far.
type cpuState struct {
	last uint32 // wire.Head.Lost of the last one
	lost uint64 // losses shown so far
	time uint64 // of the last one
}

// Consumer drains one ring into one sink. Its methods belong to one goroutine.
type Consumer struct {
	ring    *ringbuf.Ring
	poller  *ringbuf.Poller
	sources []*source
	sink    output.Sink
	raw     output.RawSink // sink, if it takes records
	opts    Options

	wall      int64 // boot clock to Unix time, ns
	accepted  uint64
	pending   []uint16 // the sources of events that the sink has and has not written
	written   uint64   // sink.Written at the last look
	lastFlush time.Time
	nextStats time.Time
	highWater uint64
	wakeups   uint64
	unknown   uint64 // records of no tracer of this consumer
}

// New returns a consumer of m, which nobody else may read. tracers are in the
// order of the ids in their records, and columns are those that a table shows of
// each. Close it.
func New(m *ebpf.Map, tracers []*tracer.Tracer, columns [][]int, style *field.TimeStyle, opts Options) (*Consumer, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("counting the CPUs: %w", err)
	}
	ring, err := ringbuf.Open(m)
	if err != nil {
		return nil, fmt.Errorf("mapping the ring: %w", err)
	}
	poller, err := ringbuf.NewPoller(ring)
	if err != nil {
		ring.Close()
		return nil, fmt.Errorf("preparing to wait for the ring: %w", err)
	}
	c := &Consumer{
		ring: ring, poller: poller, opts: opts, wall: kernel.WallOffset(),
		sources: newSources(tracers, columns, style, cpus),
	}
	return c, nil
}

func newSources(tracers []*tracer.Tracer, columns [][]int, style *field.TimeStyle, cpus int) []*source {
	var sources []*source
	for i, t := range tracers {
		d := t.NewDecoder()
		d.Time().Style = style
		sources = append(sources, &source{
			Source:  output.Source{Name: t.Name, Schema: t.Schema, Columns: columns[i], Event: d.Event, Time: d.Time()},
			decoder: d,
			cpus:    make([]cpuState, cpus),
		})
	}
	return sources
}

// setSink sets where events go.
func (c *Consumer) setSink(sink output.Sink) {
	c.sink = sink
	c.raw, _ = sink.(output.RawSink)
}

// Source returns where the events of tracer i come from, as sinks see it.
func (c *Consumer) Source(i int) *output.Source { return &c.sources[i].Source }

// Close releases the mapping.
func (c *Consumer) Close() error {
	if c.ring == nil {
		return nil
	}
	return errors.Join(c.poller.Close(), c.ring.Close())
}

// Run moves records to sink until ctx is done, until MaxEvents are printed (both
// nil), or until the ring or the sink fails.
func (c *Consumer) Run(ctx context.Context, sink output.Sink) error {
	c.setSink(sink)
	c.lastFlush = time.Now()
	if c.opts.StatsEvery > 0 {
		c.nextStats = c.lastFlush.Add(c.opts.StatsEvery)
	}
	stop := context.AfterFunc(ctx, c.poller.Interrupt)
	defer stop()
	for {
		c.highWater = max(c.highWater, c.ring.Avail())
		if err := c.drain(ctx); err != nil {
			return err
		}
		ended := ctx.Err() != nil || c.reached()
		if ended || time.Since(c.lastFlush) >= c.opts.Hold {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		wait := c.poller.Wait
		if c.opts.LookEvery > 0 {
			wait = c.poller.WaitWakeup
		}
		wake, err := wait(c.untilNext())
		if err != nil {
			return fmt.Errorf("waiting for events: %w", err)
		}
		if wake == ringbuf.Data {
			c.wakeups++
		}
		c.stats()
		// A ring that is filling has no time to lose.
		if c.opts.Pace > 0 && wake == ringbuf.Data && c.ring.Avail() < uint64(c.ring.Size())/8 {
			if _, err := c.poller.Pause(c.opts.Pace); err != nil {
				return fmt.Errorf("waiting for events: %w", err)
			}
		}
	}
}

// Finish takes what is still in the ring once the probes are detached. It ends
// when balanced says that every record has come, or when a program that was
// under way does not end within a second.
//
// Where Run ended early, because enough was printed or the sink failed, what is
// in the ring is counted as left.
func (c *Consumer) Finish(sink output.Sink, balanced func() bool) error {
	c.setSink(sink)
	deadline := time.Now().Add(settleWithin)
	for {
		err := c.drain(context.Background())
		if ferr := c.flush(); err == nil {
			err = ferr
		}
		if err != nil || c.reached() {
			c.countLeft()
			return err
		}
		if balanced() || time.Now().After(deadline) {
			return nil
		}
		if _, err := c.poller.Wait(DefaultPace); err != nil {
			return fmt.Errorf("waiting for the last events: %w", err)
		}
	}
}

func (c *Consumer) reached() bool {
	return c.opts.MaxEvents > 0 && c.accepted >= c.opts.MaxEvents
}

// drain takes records until there are none, enough are printed, or ctx is done.
func (c *Consumer) drain(ctx context.Context) error {
	for n := 1; !c.reached(); n++ {
		record, ok := c.ring.Next()
		if !ok {
			break
		}
		if err := c.take(record); err != nil {
			return err
		}
		if c.ring.Held() >= uint64(c.ring.Size())/8 {
			c.ring.Commit()
		}
		if n%checkEvery == 0 {
			if ctx.Err() != nil {
				break
			}
			if time.Since(c.lastFlush) >= max(flushAfter, c.opts.Hold) {
				if err := c.flush(); err != nil {
					return err
				}
			}
			c.stats()
		}
	}
	c.ring.Commit()
	if err := c.ring.Err(); err != nil {
		return fmt.Errorf("reading the ring: %w", err)
	}
	return nil
}

// take moves one record to the sink.
func (c *Consumer) take(record []byte) error {
	s, head := c.sourceOf(record)
	if s == nil {
		c.unknown++
		return nil
	}
	s.counts.Consumed++
	lossErr := c.findLoss(s, head) // the record is there all the same
	if err := c.show(s, head, record); err != nil {
		return err
	}
	return lossErr
}

// show gives one record, or its event, to the sink, and counts it.
func (c *Consumer) show(s *source, head *wire.Head, record []byte) error {
	if c.raw == nil {
		if err := s.decoder.Decode(record, c.wall); err != nil {
			s.counts.Undecodable++
			return nil
		}
		if c.opts.Keep != nil && !c.opts.Keep(int(head.Tracer), head, s.Event) {
			s.counts.Filtered++
			return nil
		}
	}
	c.accepted++
	c.pending = append(c.pending, head.Tracer)
	if c.raw != nil {
		return c.raw.Record(record, c.wall)
	}
	return c.sink.Event(&s.Source)
}

func (c *Consumer) sourceOf(record []byte) (*source, *wire.Head) {
	head := tracer.Head(record)
	if head == nil || int(head.Tracer) >= len(c.sources) {
		return nil, nil
	}
	return c.sources[head.Tracer], head
}

// findLoss shows a loss between a record and the one before on its CPU.
func (c *Consumer) findLoss(s *source, head *wire.Head) error {
	if int(head.Cpu) >= len(s.cpus) {
		return nil
	}
	cpu := &s.cpus[head.Cpu]
	after := cpu.time
	cpu.time = head.Time
	// Programs that preempt each other can come out of order: then the newer
	// record has told the loss already.
	n := int32(head.Lost - cpu.last)
	if n <= 0 {
		return nil
	}
	cpu.last = head.Lost
	cpu.lost += uint64(n)
	err := c.sink.Lost(output.Loss{
		Source: &s.Source, CPU: int(head.Cpu), Lost: uint64(n), After: after, Before: head.Time,
	})
	if err == nil && c.opts.FailOnLoss {
		err = ErrLost
	}
	return err
}

// ShowLosses shows the losses of tracer i that no record came after, and those
// of no CPU. It is called last, with the final books.
func (c *Consumer) ShowLosses(i int, books []wire.Ledger, missed uint64) error {
	s := c.sources[i]
	for cpu, b := range books {
		if cpu >= len(s.cpus) || b.Lost <= s.cpus[cpu].lost {
			continue
		}
		err := c.sink.Lost(output.Loss{
			Source: &s.Source, CPU: cpu, Lost: b.Lost - s.cpus[cpu].lost, After: s.cpus[cpu].time,
		})
		if err != nil {
			return err
		}
	}
	if missed > 0 {
		if err := c.sink.Lost(output.Loss{Source: &s.Source, CPU: -1, Lost: missed}); err != nil {
			return err
		}
	}
	return c.flush()
}

// countLeft empties the ring and counts what was in it as left.
func (c *Consumer) countLeft() {
	for {
		record, ok := c.ring.Next()
		if !ok {
			break
		}
		if s, _ := c.sourceOf(record); s != nil {
			s.counts.Left++
		}
	}
	c.ring.Commit()
}

// flush makes the sink write, and counts what it wrote.
func (c *Consumer) flush() error {
	err := c.sink.Flush()
	c.lastFlush = time.Now()
	n := c.sink.Written() - c.written
	c.written += n
	for i, id := range c.pending {
		if uint64(i) < n {
			c.sources[id].counts.Printed++
		} else {
			c.sources[id].counts.Unwritten++
		}
	}
	c.pending = c.pending[:0]
	// The wall clock may have been set. Less than a millisecond is the noise of
	// reading two clocks, or slewing.
	if wall := kernel.WallOffset(); c.ring != nil && max(wall-c.wall, c.wall-wall) > int64(time.Millisecond) {
		c.wall = wall
	}
	if err != nil {
		return fmt.Errorf("writing events: %w", err)
	}
	return nil
}

// untilNext returns how long nothing needs to be done if nothing wakes: -1 for
// ever.
func (c *Consumer) untilNext() time.Duration {
	next := time.Duration(-1)
	if c.opts.LookEvery > 0 {
		next = c.opts.LookEvery
	}
	if !c.nextStats.IsZero() {
		stats := max(time.Until(c.nextStats), 0)
		if next < 0 || stats < next {
			next = stats
		}
	}
	if len(c.pending) > 0 {
		hold := max(time.Until(c.lastFlush.Add(c.opts.Hold)), 0)
		if next < 0 || hold < next {
			next = hold
		}
	}
	return next
}

func (c *Consumer) stats() {
	if c.nextStats.IsZero() || time.Now().Before(c.nextStats) {
		return
	}
	c.opts.Stats()
	c.nextStats = time.Now().Add(c.opts.StatsEvery)
}

// Counts returns the counts of tracer i. They are complete after a flush, which
// Run and Finish end with.
func (c *Consumer) Counts(i int) Counts { return c.sources[i].counts }

// Unknown is the number of records that belong to none of the tracers.
func (c *Consumer) Unknown() uint64 { return c.unknown }

// Fill returns the bytes in the ring, the most that Run has found in it, and its
// size.
func (c *Consumer) Fill() (now, highest, size uint64) {
	now = c.ring.Avail()
	c.highWater = max(c.highWater, now)
	return now, c.highWater, uint64(c.ring.Size())
}

// Wakeups is how often Run was woken, or looked by itself, and found data.
func (c *Consumer) Wakeups() uint64 { return c.wakeups }

// Stuck reports whether an uncommitted record holds the ring up, and for how
// long this consumer has known.
func (c *Consumer) Stuck() (time.Duration, bool) { return c.ring.Busy() }
