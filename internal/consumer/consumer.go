// SPDX-License-Identifier: Apache-2.0

// Package consumer moves records from rings to a sink: it waits, drains, puts the
// records of several rings in order, decodes, counts what became of each record,
// and finds where events were lost.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
	Enough     func()        // is called when the last of MaxEvents comes, before it is written; nil: nobody wants to know
	// Pace is how long a woken consumer lets records gather before it drains. 0: none.
	Pace time.Duration
	// LookEvery is for programs that suppress wakeups: the consumer then looks at the
	// ring when it is woken, and at this interval. 0: it looks before it waits.
	LookEvery time.Duration
	// Behind is called once: when a ring is found to be half full, or a loss is found.
	// nil: nobody wants to know.
	Behind func()
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
	// Late is how many of those consumed came out of order: older than one that had
	// been taken from another ring.
	Late uint64
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

// Consumer drains rings into one sink. Its methods belong to one goroutine, but
// for AddRing and RetireRing.
type Consumer struct {
	lanes   []*lane
	poller  *ringbuf.Poller // nil: this is a replay
	sources []*source
	sink    output.Sink
	raw     output.RawSink // sink, if it takes records
	opts    Options

	clock     kernel.Wall // as last read
	wall      int64       // boot clock to Unix time, ns
	accepted  uint64
	pending   []uint16 // the sources of events that the sink has and has not written
	written   uint64   // sink.Written at the last look
	lastFlush time.Time
	nextStats time.Time
	highWater uint64 // of any ring
	wakeups   uint64
	lag       time.Duration // the longest since the last Lag
	unknown   uint64        // records of no tracer of this consumer, and parts of no event
	parts     parts

	heap    laneHeap // of the merge: lanes with a record
	last    uint64   // time of the newest record taken, of several rings
	mu      sync.Mutex
	changes []change // of lanes, not yet made
}

// New returns a consumer of maps, which nobody else may read. tracers are in the
// order of the ids in their records, and columns are those that a table shows of
// each. Close it.
func New(maps []*ebpf.Map, tracers []*tracer.Tracer, columns [][]int, style *field.TimeStyle, opts Options) (_ *Consumer, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("counting the CPUs: %w", err)
	}
	poller, err := ringbuf.NewPoller()
	if err != nil {
		return nil, fmt.Errorf("preparing to wait for the rings: %w", err)
	}
	poller.Pace = opts.Pace
	c := &Consumer{
		poller: poller, opts: opts, clock: kernel.ReadWall(),
		sources: newSources(tracers, columns, style, cpus),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, m := range maps {
		l, err := newLane(m)
		if err != nil {
			return nil, err
		}
		c.lanes = append(c.lanes, l)
		if err := c.poller.Add(l.ring); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func newSources(tracers []*tracer.Tracer, columns [][]int, style *field.TimeStyle, cpus int) []*source {
	var sources []*source
	for i, t := range tracers {
		d := t.NewDecoder()
		d.Time().Style = style
		sources = append(sources, &source{
			Source:  output.Source{Name: t.Name, Schema: t.Schema(), Columns: columns[i], Event: d.Event, Time: d.Time()},
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

// Close releases the mappings.
func (c *Consumer) Close() error {
	if c.poller == nil {
		return nil
	}
	err := errors.Join(c.change(), c.poller.Close())
	for _, l := range c.lanes {
		err = errors.Join(err, l.ring.Close())
	}
	return err
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
		if err := c.change(); err != nil {
			return err
		}
		c.measure()
		c.lookBehind()
		hold, err := c.drain(ctx, false)
		if err != nil {
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
		if err := c.wait(hold); err != nil {
			return fmt.Errorf("waiting for events: %w", err)
		}
		c.stats()
	}
}

// wait waits for something to do: hold says how long records wait for those of
// other rings, 0: none does.
func (c *Consumer) wait(hold time.Duration) error {
	if hold > 0 {
		_, err := c.poller.Pause(hold)
		return err
	}
	wait := c.poller.Wait
	if c.opts.LookEvery > 0 {
		wait = c.poller.WaitWakeup
	}
	wake, err := wait(c.untilNext())
	if err != nil || wake != ringbuf.Data {
		return err
	}
	c.wakeups++
	if c.opts.Pace > 0 && !c.filling() {
		_, err = c.poller.Pause(c.opts.Pace)
	}
	return err
}

// filling reports whether a ring fills up, so that there is no time to lose.
func (c *Consumer) filling() bool {
	return slices.ContainsFunc(c.lanes, func(l *lane) bool {
		return l.ring.Avail()-l.ring.Held() >= uint64(l.ring.Size())/8
	})
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
	if err := c.change(); err != nil {
		return err
	}
	for {
		_, err := c.drain(context.Background(), true)
		if ferr := c.flush(); err == nil {
			err = ferr
		}
		if err != nil || c.reached() {
			c.countLeft()
			return err
		}
		if balanced() || time.Now().After(deadline) {
			c.unknown += c.parts.dropAll()
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
// Where it leaves records for the sake of their order, which it does not with
// all, it says how long.
func (c *Consumer) drain(ctx context.Context, all bool) (hold time.Duration, err error) {
	c.lookAtClock()
	if len(c.lanes) > 1 {
		hold, err = c.merge(ctx, all)
	} else {
		err = c.drainOne(ctx, c.lanes[0].ring)
	}
	for _, l := range c.lanes {
		l.ring.Commit()
		if rerr := l.ring.Err(); rerr != nil && err == nil {
			err = fmt.Errorf("reading the ring: %w", rerr)
		}
	}
	return hold, err
}

// drainOne drains the only ring.
func (c *Consumer) drainOne(ctx context.Context, ring *ringbuf.Ring) error {
	for n := 1; !c.reached(); n++ {
		record, ok := ring.Next()
		if !ok {
			return nil
		}
		if err := c.take(record); err != nil {
			return err
		}
		if ring.Held() >= uint64(ring.Size())/8 {
			ring.Commit()
		}
		if n%checkEvery == 0 {
			if end, err := c.check(ctx); end || err != nil {
				return err
			}
		}
	}
	return nil
}

// check does what cannot wait until the rings are drained, and reports whether
// draining is to end.
func (c *Consumer) check(ctx context.Context) (end bool, err error) {
	if ctx.Err() != nil {
		return true, nil
	}
	if time.Since(c.lastFlush) >= max(flushAfter, c.opts.Hold) {
		if err := c.flush(); err != nil {
			return true, err
		}
	}
	c.lookAtClock()
	c.lookBehind()
	c.stats()
	return false, nil
}

// lookAtClock follows the wall clock, which somebody may have set.
func (c *Consumer) lookAtClock() {
	c.clock = c.clock.Follow(kernel.ReadWall())
	c.wall = c.clock.Offset()
}

// lookBehind tells, once, when a ring is half full.
func (c *Consumer) lookBehind() {
	if c.opts.Behind != nil && slices.ContainsFunc(c.lanes, func(l *lane) bool { return l.ring.Avail() >= uint64(l.ring.Size())/2 }) {
		c.isBehind()
	}
}

// isBehind tells, once, that records come faster than they are shown.
func (c *Consumer) isBehind() {
	if c.opts.Behind != nil {
		c.opts.Behind()
		c.opts.Behind = nil
	}
}

// take moves one record to the sink.
func (c *Consumer) take(record []byte) error {
	s, head := c.sourceOf(record)
	if s == nil {
		c.unknown++
		return nil
	}
	if head.Group != 0 {
		if head.Flags&wire.IsPart != 0 {
			c.unknown += c.parts.keep(head, record)
			return nil
		}
		record = c.parts.join(head, record)
	}
	s.counts.Consumed++
	lossErr := c.findLoss(s, head) // the record is there all the same
	if record == nil {
		s.counts.Undecodable++ // parts of it are missing
		return lossErr
	}
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
	if c.reached() && c.opts.Enough != nil {
		c.opts.Enough()
	}
	c.pending = append(c.pending, head.Tracer)
	if c.raw != nil {
		return c.raw.Record(record, c.wall)
	}
	if err := c.sink.Event(&s.Source); err != nil {
		return fmt.Errorf("writing events: %w", err)
	}
	return nil
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
	c.isBehind()
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

// countLeft empties the rings and counts what was in them as left.
func (c *Consumer) countLeft() {
	for _, l := range c.lanes {
		for {
			record, ok := l.ring.Next()
			if !ok {
				break
			}
			if s, head := c.sourceOf(record); s != nil && head.Flags&wire.IsPart == 0 {
				s.counts.Left++
			}
		}
		l.ring.Commit()
	}
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

// Unknown is the number of records that belong to none of the tracers, or are
// parts of no event.
func (c *Consumer) Unknown() uint64 { return c.unknown }

// Fill is how full the rings are, in bytes.
type Fill struct {
	Rings     int
	RingSize  uint64 // of each ring
	Bytes     uint64 // in all of them
	Fullest   uint64 // in the fullest one
	HighWater uint64 // the most that was found in any ring
}

// Fill looks at the rings.
func (c *Consumer) Fill() Fill {
	f := Fill{Rings: len(c.lanes)}
	for _, l := range c.lanes {
		n := l.ring.Avail()
		f.Bytes += n
		f.Fullest = max(f.Fullest, n)
		f.RingSize = uint64(l.ring.Size())
	}
	c.highWater = max(c.highWater, f.Fullest)
	f.HighWater = c.highWater
	return f
}

// RecordSize is the mean size of the records that were read, in bytes of the ring. 0: none was.
func (c *Consumer) RecordSize() uint64 {
	var records, bytes uint64
	for _, l := range c.lanes {
		n := l.ring.Counters()
		records, bytes = records+n.Records, bytes+n.Bytes
	}
	if records == 0 {
		return 0
	}
	return bytes / records
}

// measure notes, before a drain, how full the rings are, and how long the oldest
// record has waited.
func (c *Consumer) measure() {
	var oldest uint64
	for _, l := range c.lanes {
		c.highWater = max(c.highWater, l.ring.Avail())
		if c.opts.StatsEvery == 0 {
			continue
		}
		if record, ok := l.ring.Peek(); ok {
			if head := tracer.Head(record); head != nil && (oldest == 0 || head.Time < oldest) {
				oldest = head.Time
			}
		}
	}
	if oldest > 0 {
		c.lag = max(c.lag, time.Duration(kernel.BootTime()-oldest))
	}
}

// Lag is the longest that a record waited from its event to being taken out of
// its ring, since Lag was last called. It is known with Options.StatsEvery alone.
func (c *Consumer) Lag() time.Duration {
	lag := c.lag
	c.lag = 0
	return lag
}

// Wakeups is how often Run was woken, or looked by itself, and found data.
func (c *Consumer) Wakeups() uint64 { return c.wakeups }

// Stuck reports whether an uncommitted record holds a ring up, and for how long
// this consumer has known.
func (c *Consumer) Stuck() (longest time.Duration, stuck bool) {
	for _, l := range c.lanes {
		if age, ok := l.ring.Busy(); ok {
			longest, stuck = max(longest, age), true
		}
	}
	return longest, stuck
}
