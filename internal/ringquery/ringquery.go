// SPDX-License-Identifier: Apache-2.0

// Package ringquery finds the BPF ring buffers of the machine, whoever made them,
// and tells what they are doing without disturbing their owners.
//
// A Querier takes Snapshots: which rings there are, their positions, and, asked for
// that, who holds and uses them. It remembers the snapshot before, so that each ring
// comes with its rates and a Verdict. Watch gives one snapshot after another.
//
// Between the calls nothing is held of a ring: no descriptor, no mapping, no program.
// A ring therefore goes when its owner does, and nothing remains of a Querier that was
// killed.
//
// There are two Sources of a ring's positions. The mapping costs 10 µs for each ring:
// to open it, map two pages, read them and let go. The helper takes the load of a
// program, 30 to 80 µs, and 4 µs for each time it is run. One program for all rings
// would have to find them in a map of maps, and each update of one of these waits for
// an RCU grace period (kernel/bpf/syscall.c, maybe_wait_bpf_programs): 8 to 15 ms up to
// Linux 6.18, and batches wait once only from 6.8 on.
package ringquery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

//go:generate go tool bpf2go -type rb_state -target amd64,arm64 query ../../bpf/query.bpf.c -- -I../../bpf/include

// State is what bpf_ringbuf_query tells of a ring, all in bytes.
//
//   - AvailData (BPF_RB_AVAIL_DATA): what its reader has not consumed, headers
//     included, and discarded and not yet committed records too.
//   - RingSize (BPF_RB_RING_SIZE): the size of the data area, max_entries.
//   - ConsPos (BPF_RB_CONS_POS): how far the reader has come since the ring was made.
//   - ProdPos (BPF_RB_PROD_POS): how far the producers have.
//   - OverwritePos (BPF_RB_OVERWRITE_POS, Linux 6.19): how far a ring of
//     BPF_F_RB_OVERWRITE has written over its oldest records; 0 for other rings.
//
// The kernel is asked for one after another while the owner goes on, so ConsPos <=
// ProdPos and AvailData <= ProdPos - ConsPos. Equality in the latter says that the
// three belong to one moment; a ring that overwrites its oldest records leaves these
// out of AvailData.
type State = queryRbState

// Ring is a ring buffer.
type Ring struct {
	ID   ebpf.MapID
	Name string // as its maker chose it: at most 15 bytes, may be empty
	// Type is ebpf.RingBuf or ebpf.UserRingbuf. In the latter, user space produces and
	// BPF programs consume.
	Type ebpf.MapType
	// Overwrites says that the ring overwrites its oldest records where it is full
	// (BPF_F_RB_OVERWRITE).
	Overwrites bool
	// Memory is what the ring is charged for, in bytes, as fdinfo has it (memlock). Where
	// that is 0, as on Linux 5.11 to 6.3, it is what such a ring takes.
	Memory uint64
	State
	Source Source // which gave the state: Helper or Mmap
	Motion
	// Details is nil unless asked for. Rings of later snapshots may share it.
	Details *Details
}

// Fill is how full the ring is: 0 to 1.
func (r *Ring) Fill() float64 {
	if r.RingSize == 0 {
		return 0
	}
	return min(float64(r.AvailData)/float64(r.RingSize), 1)
}

// Snapshot is the state of rings at one time.
type Snapshot struct {
	Time  time.Time // when the last look at the rings began
	Rings []Ring    // by ascending id
}

// NotRingError says that a map is not a ring buffer.
type NotRingError struct {
	ID   ebpf.MapID
	Type ebpf.MapType
}

func (e *NotRingError) Error() string {
	return fmt.Sprintf("BPF map %d is not a ring buffer: its type is %s", e.ID, e.Type)
}

// Options says how to ask. The zero value is right for most.
type Options struct {
	// Source is where states come from; empty is Auto.
	Source Source
	// Program is the type of the program that asks, where the source is the helper:
	// ebpf.Syscall (Linux 5.14) or ebpf.RawTracepoint (5.10). Zero: the first of these
	// that works.
	Program ebpf.ProgramType
}

// Querier asks rings. It belongs to one goroutine.
type Querier struct {
	source  Source
	program ebpf.ProgramType
	helpers *helpers // nil until needed
	limit   error    // why maps cannot be got at by id; nil: they can

	facts   map[ebpf.MapID]facts // of all maps of the machine
	rings   map[ebpf.MapID]*history
	details detailsCache
}

// facts of a map never change, and an id is given to another map only after 2³¹ others.
type facts struct {
	typ    ebpf.MapType
	name   string // of a ring
	memory uint64 // of a ring
}

func (f facts) ring() bool { return f.typ == ebpf.RingBuf || f.typ == ebpf.UserRingbuf }

// Open prepares for asking. Without CAP_SYS_ADMIN, as the kernel gives out the ids of
// maps and their descriptors to nobody else (kernel/bpf/syscall.c, bpf_obj_get_next_id
// and bpf_map_get_fd_by_id), only pinned rings can be asked, which Limit tells. opts
// may be nil.
func Open(opts *Options) (*Querier, error) {
	if err := kernel.CheckVersion(kernel.Release()); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &Options{}
	}
	q := &Querier{
		source: opts.Source, program: opts.Program,
		facts: make(map[ebpf.MapID]facts), rings: make(map[ebpf.MapID]*history),
	}
	if q.source == "" {
		q.source = Auto
	}
	if opts.Program != ebpf.UnspecifiedProgram {
		h, err := openHelpers(opts.Program)
		if err != nil {
			return nil, err
		}
		q.helpers = h
		q.source = Helper
	}
	if !kernel.HasSysAdmin() {
		q.limit = errors.New("missing CAP_SYS_ADMIN, without which the kernel does not show the BPF maps of others: run it as root (sudo rbtrace query)")
	} else if _, err := ebpf.MapGetNextID(0); errors.Is(err, fs.ErrPermission) {
		q.limit = fmt.Errorf("listing the BPF maps: %w", advise(err))
	}
	return q, nil
}

// Limit says why only pinned rings can be asked; nil where all rings can.
func (q *Querier) Limit() error { return q.limit }

// Close releases what the querier holds in the kernel: the map of the helper's answer.
// The last of the helper's programs, and with them their hold on the rings that they
// asked, go with the end of an RCU grace period, some ms later: a ring whose owner ends
// meanwhile lives on for that long.
func (q *Querier) Close() error {
	if q.helpers == nil {
		return nil
	}
	if err := q.helpers.answer.Close(); err != nil {
		return fmt.Errorf("closing the map of the answer: %w", err)
	}
	return nil
}

// Request is what a snapshot is to show.
type Request struct {
	// Select chooses the rings. Its zero value is all.
	Select Selection
	// Look is how long to look at the rings, several hundred times a second, for their
	// Motion. With 0 it is a moment, and the motion is that since the last snapshot;
	// the first one has none. A second and later snapshots tell more with a look of
	// 100 ms too: fills change faster than snapshots are taken.
	Look time.Duration
	// Details asks for owners, programs, pins and outer maps. They cost a walk over
	// /proc, and over all programs and links, of several ms on a small machine.
	Details bool
	// DetailsAge is how old these may be: they are gathered again for a ring that is
	// new, or when they are older. 0 gathers them for each snapshot.
	DetailsAge time.Duration
}

// Snapshot looks at the rings that the request selects. Rings that come and go
// meanwhile are in it or are not. Where some cannot be asked, the snapshot has the
// others, and the error says which and why: a ring that is selected by its id and does
// not exist, or no more, wraps fs.ErrNotExist; a map that is no ring is a *NotRingError.
// The snapshot is nil where no ring could be looked for, and where ctx ended the look.
func (q *Querier) Snapshot(ctx context.Context, req Request) (*Snapshot, error) {
	targets, err := q.targets(&req)
	defer func() {
		for _, t := range targets {
			t.close()
		}
	}()
	if targets == nil && err != nil {
		return nil, err
	}
	errs := []error{err}
	var lookErr error
	s := &Snapshot{}
	targets, s.Time, lookErr = q.look(ctx, targets, req.Look)
	if lookErr != nil {
		if ctx.Err() != nil {
			return nil, lookErr
		}
		errs = append(errs, lookErr)
	}
	for _, t := range targets {
		t.ring.Motion = q.history(t).judge(&t.window, t.ring.Overwrites)
		t.ring.State, t.ring.Source = t.window.last, t.asker.source()
		s.Rings = append(s.Rings, t.ring)
		t.close() // before owners are looked for, of which this process is to be none
	}
	slices.SortFunc(s.Rings, func(a, b Ring) int { return int(int64(a.ID) - int64(b.ID)) })
	q.forget(s)
	if req.Details && len(s.Rings) > 0 {
		details, err := q.detailsOf(s, req.DetailsAge)
		if err != nil {
			errs = append(errs, err)
		}
		for i := range s.Rings {
			s.Rings[i].Details = details[s.Rings[i].ID]
		}
	}
	return s, errors.Join(errs...)
}

// forget drops the histories of rings that are not in s: these have gone, or are no
// longer selected.
func (q *Querier) forget(s *Snapshot) {
	if len(q.rings) == len(s.Rings) {
		return
	}
	for id := range q.rings {
		if _, ok := slices.BinarySearchFunc(s.Rings, id, func(r Ring, id ebpf.MapID) int { return int(int64(r.ID) - int64(id)) }); !ok {
			delete(q.rings, id)
		}
	}
}

// Watch takes a snapshot each interval, which must be more than 0, until ctx is done or
// the loop over it is left. Before the first one it looks at the rings for as long as
// req.Look, at most an interval, so that all of them tell of motion; that look comes on
// top of the interval's end, hence req.Look is cut to it. An error that leaves a snapshot
// is yielded with it, and the watch goes on; one that does not ends it.
func (q *Querier) Watch(ctx context.Context, req Request, interval time.Duration) iter.Seq2[*Snapshot, error] {
	req.Look = min(req.Look, interval)
	return func(yield func(*Snapshot, error) bool) {
		next := time.Now().Add(req.Look) // when the snapshot is to be there
		for {
			if !sleep(ctx, time.Until(next)-req.Look) {
				return
			}
			s, err := q.Snapshot(ctx, req)
			if ctx.Err() != nil {
				return
			}
			if !yield(s, err) || s == nil {
				return
			}
			// A snapshot that came late delays no other, but for those that it covered.
			for next = next.Add(interval); time.Until(next) < 0; {
				next = next.Add(interval)
			}
		}
	}
}

// sleep waits for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// target is a ring that is being looked at.
type target struct {
	m      *ebpf.Map
	ring   Ring
	asker  asker
	window window
}

func (t *target) close() {
	if t.asker != nil {
		_ = t.asker.close() // a descriptor or a mapping of its own: closing cannot fail
		t.asker = closedAsker{t.asker.source()}
	}
	if t.m != nil {
		_ = t.m.Close()
		t.m = nil
	}
}

// closedAsker remembers what kind of asker it was.
type closedAsker struct{ s Source }

func (a closedAsker) source() Source      { return a.s }
func (a closedAsker) close() error        { return nil }
func (a closedAsker) ask() (State, error) { return State{}, os.ErrClosed }

// Pauses between the samples of a look, by what a sample costs.
const (
	mmapPause   = time.Millisecond
	helperPause = 5 * time.Millisecond
)

// look samples the targets for the given time, and returns those that it could, with
// the time at which it took the last sample of the first one.
func (q *Querier) look(ctx context.Context, targets []*target, d time.Duration) ([]*target, time.Time, error) {
	var errs []error
	pause := mmapPause
	begin := time.Now()
	sampled := targets[:0:0]
	for _, t := range targets {
		var err error
		if t.asker, err = q.asker(t.m); err == nil {
			err = t.sample(false)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("asking ring buffer %d: %w", t.ring.ID, err))
			t.close()
			continue
		}
		t.window.begin = begin
		if t.asker.source() == Helper {
			pause = helperPause
		}
		q.lookAtHead(t, begin)
		sampled = append(sampled, t)
		if d == 0 { // hold no ring longer than needed
			q.lookAtRecords(t)
			t.window.end = time.Now()
			t.close()
		}
	}
	if d == 0 {
		return sampled, begin, errors.Join(errs...)
	}
	last := begin
	for half := begin.Add(d / 2); ; {
		left := d - time.Since(begin)
		if !sleep(ctx, min(left, pause)) {
			return sampled, last, ctx.Err()
		}
		last = time.Now()
		for _, t := range sampled {
			if err := t.sample(!last.Before(half)); err != nil {
				// It answered before, and nothing of it can have gone. What it said counts.
				errs = append(errs, fmt.Errorf("asking ring buffer %d: %w", t.ring.ID, err))
			}
		}
		if last.Sub(begin) >= d || len(errs) > len(targets) {
			break
		}
	}
	for _, t := range sampled {
		t.window.end = last
		q.lookAtHead(t, last)
		q.lookAtRecords(t)
	}
	return sampled, last, errors.Join(errs...)
}

func (t *target) sample(secondHalf bool) error {
	s, err := t.asker.ask()
	if err == nil {
		t.window.sample(s, secondHalf)
	}
	return err
}

// view returns the ring's mapping, or one of its own where the source is the helper;
// nil where the ring cannot be mapped.
func (t *target) view() (v *ringbuf.View, done func()) {
	if a, ok := t.asker.(viewAsker); ok {
		return a.View, func() {}
	}
	v, err := ringbuf.OpenView(t.m)
	if err != nil {
		return nil, func() {}
	}
	return v, func() { _ = v.Close() }
}

// history returns what is known of the ring from before: nothing, the first time.
func (q *Querier) history(t *target) *history {
	h := q.rings[t.ring.ID]
	if h == nil {
		h = &history{}
		q.rings[t.ring.ID] = h
	}
	return h
}

// lookAtHead notes whether the record at the head is busy.
func (q *Querier) lookAtHead(t *target, at time.Time) {
	h := q.history(t)
	if t.window.last.AvailData == 0 {
		h.head(0, false, at)
		return
	}
	v, done := t.view()
	defer done()
	if v == nil {
		return
	}
	header, ok, err := v.Head()
	h.head(header.Pos, err == nil && ok && header.Busy, at)
}

// countAtMost bounds the records of a ring that one look counts, in bytes: more are
// estimated from these.
const countAtMost = 256 << 10

// lookAtRecords counts the records since the look before.
func (q *Querier) lookAtRecords(t *target) {
	h, w := q.rings[t.ring.ID], &t.window
	before := h.state
	if !h.seen {
		before = w.first
	}
	produced, consumed := w.last.ProdPos-before.ProdPos, w.last.ConsPos-before.ConsPos
	nearFull := w.last.AvailData >= w.last.RingSize/2
	if produced == 0 && consumed == 0 && !nearFull {
		return
	}
	v, done := t.view()
	defer done()
	if v == nil {
		w.estimated = true
		return
	}
	var exact bool
	if w.produced, exact = q.count(v, h, before.ProdPos, w.last.ProdPos); !exact {
		w.estimated = true
	}
	if w.consumed, exact = q.count(v, h, before.ConsPos, w.last.ConsPos); !exact {
		w.estimated = true
	}
	if nearFull {
		// Enough of them to know what a large record is here.
		if c, ok, err := v.Count(max(w.last.ConsPos, w.last.OverwritePos), w.last.ProdPos, 16<<10); err == nil && ok {
			w.largest = c.Largest
		}
	}
}

// count returns how many records were made between two positions.
func (q *Querier) count(v *ringbuf.View, h *history, from, to uint64) (n float64, exact bool) {
	if from == to {
		return 0, true
	}
	c, ok, err := v.Count(from, to, countAtMost)
	if err == nil && ok && c.Records > 0 {
		h.mean = float64(c.Bytes) / float64(c.Records)
		if c.Bytes == to-from {
			return float64(c.Records), true
		}
	} else if cons, over, prod := v.Positions(); h.mean == 0 || prod-max(cons, over) > 0 {
		// What there was is overwritten: take those that wait.
		if c, ok, err := v.Count(max(cons, over), prod, countAtMost); err == nil && ok && c.Records > 0 {
			h.mean = float64(c.Bytes) / float64(c.Records)
		}
	}
	if h.mean == 0 {
		return 0, false
	}
	return float64(to-from) / h.mean, false
}

// mapIDs returns the ids of all maps of the machine, ascending.
func mapIDs() ([]ebpf.MapID, error) {
	var ids []ebpf.MapID
	for id := ebpf.MapID(0); ; ids = append(ids, id) {
		var err error
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			return ids, nil
		} else if err != nil {
			return nil, fmt.Errorf("listing the BPF maps: %w", advise(err))
		}
	}
}

// open opens a map by its id, and tells what it is.
func (q *Querier) open(id ebpf.MapID) (*ebpf.Map, facts, error) {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, facts{}, fmt.Errorf("no BPF map has the id %d: %w", id, err)
	}
	if err != nil {
		return nil, facts{}, fmt.Errorf("opening BPF map %d: %w", id, advise(err))
	}
	f, ok := q.facts[id]
	if !ok {
		if f, _, err = factsOf(m); err != nil {
			m.Close()
			return nil, facts{}, err
		}
		q.facts[id] = f
	}
	return m, f, nil
}

// factsOf returns what does not change of a map, and, of a ring, its id.
func factsOf(m *ebpf.Map) (facts, ebpf.MapID, error) {
	f := facts{typ: m.Type()}
	if !f.ring() {
		return f, 0, nil
	}
	info, err := m.Info()
	if err != nil {
		return f, 0, fmt.Errorf("reading about a ring buffer: %w", err)
	}
	id, _ := info.ID()
	f.name = info.Name
	f.memory, _ = info.Memlock()
	if f.memory == 0 {
		// As ringbuf_map_mem_usage, without the two structures: metadata, both positions and
		// the data, and a pointer to each page, twice for those of the data.
		page := uint64(os.Getpagesize())
		data := uint64(m.MaxEntries()) / page
		f.memory = (3+data)*page + (3+2*data)*8
	}
	return f, id, nil
}

// newTarget takes a map that is a ring.
func newTarget(m *ebpf.Map, id ebpf.MapID, f facts) *target {
	return &target{m: m, ring: Ring{
		ID: id, Name: f.name, Type: f.typ, Memory: f.memory,
		Overwrites: ringbuf.Overwrites(m),
	}}
}

// Ring asks one ring for its state, and nothing else. An error wraps fs.ErrNotExist
// where no map has this id, and is a *NotRingError where the map is of another type.
func (q *Querier) Ring(id ebpf.MapID) (Ring, error) {
	t, err := q.byID(id)
	if err != nil {
		return Ring{}, err
	}
	defer t.close()
	if t.asker, err = q.asker(t.m); err == nil {
		t.ring.State, err = t.asker.ask()
	}
	if err != nil {
		return Ring{}, fmt.Errorf("asking ring buffer %d: %w", id, err)
	}
	t.ring.Source = t.asker.source()
	t.ring.Motion = Motion{Verdict: Unknown, TimeToFull: -1, HighWater: t.ring.AvailData}
	return t.ring, nil
}

// byID opens a ring.
func (q *Querier) byID(id ebpf.MapID) (*target, error) {
	m, f, err := q.open(id)
	if err != nil {
		return nil, err
	}
	if !f.ring() {
		m.Close()
		return nil, &NotRingError{ID: id, Type: f.typ}
	}
	return newTarget(m, id, f), nil
}

// advise adds what may be behind an error of a process that has CAP_SYS_ADMIN.
func advise(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (CAP_SYS_ADMIN in a user namespace does not do, and a container's seccomp filter may forbid bpf(2): run it as root of the machine)", err)
	}
	return err
}
