// SPDX-License-Identifier: Apache-2.0

// Package tracetest runs tracers for tests the way the command does, checks that
// the ledger adds up, and returns the events as they are in the JSON stream.
package tracetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// ringSize is that of sessions whose options leave it open: room for the whole
// workload of any test.
const ringSize = 8 << 20

// Event is an object of the JSON stream. Its values are string, int64, bool,
// []string, and []Event, which is []string where it is empty. Under Raw it has what JSON cannot carry.
type Event map[string]any

// Raw is a key of Event: a map of strings with the bytes, valid UTF-8 or not, of
// names, paths and arguments. These are as in /proc/PID/cmdline.
const Raw = "raw"

// Sink writes JSON to memory.
type Sink struct {
	*output.JSON
	Delay time.Duration // that each event takes

	buf  bytes.Buffer
	raws []map[string]string
}

// NewSink returns an empty Sink.
func NewSink() *Sink {
	s := &Sink{}
	s.JSON = output.NewJSON(&s.buf)
	return s
}

// Event implements output.Sink.
func (s *Sink) Event(source *output.Source) error {
	time.Sleep(s.Delay)
	raw := make(map[string]string)
	for i, v := range source.Event {
		key := source.Schema[i].Key
		switch v := v.(type) {
		case *field.Text:
			raw[key] = string(*v)
		case *field.Comm:
			raw[key] = string(v.Bytes())
			if behind := v[len(v.Bytes()):]; !bytes.Equal(behind, make([]byte, len(behind))) {
				return fmt.Errorf("%s of a record of %s: %q, with something behind the name", key, source.Name, *v)
			}
		case *field.Args:
			raw[key] = string(v.Raw)
		}
	}
	s.raws = append(s.raws, raw)
	return s.JSON.Event(source)
}

// Lines returns the objects that were written, and those among them that are
// events.
func (s *Sink) Lines(tb testing.TB) (lines, events []Event) {
	tb.Helper()
	if !utf8.Valid(s.buf.Bytes()) {
		tb.Error("the JSON stream is not UTF-8")
	}
	for line := range bytes.Lines(s.buf.Bytes()) {
		var e Event
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&e); err != nil || line[len(line)-1] != '\n' {
			tb.Fatalf("line %q: %v", line, err)
		}
		for key, v := range e {
			e[key] = plain(tb, v)
		}
		lines = append(lines, e)
		if e["type"] != "lost" {
			if len(events) >= len(s.raws) {
				tb.Fatalf("%d events in the JSON stream, and more", len(events))
			}
			e[Raw] = s.raws[len(events)]
			events = append(events, e)
		}
	}
	return lines, events
}

// plain turns what encoding/json makes of a value into what Event promises.
func plain(tb testing.TB, v any) any {
	tb.Helper()
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			tb.Errorf("number %s: %v", v, err)
		}
		return n
	case []any:
		strs, objects := []string{}, []Event{}
		for _, v := range v {
			switch v := v.(type) {
			case string:
				strs = append(strs, v)
			case map[string]any:
				for key, value := range v {
					v[key] = plain(tb, value)
				}
				objects = append(objects, v)
			}
		}
		if len(objects) > 0 {
			return objects
		}
		return strs
	}
	return v
}

// Session is tracers at work.
type Session struct {
	*attach.Session
	*consumer.Consumer
	*Sink
	tracers []*tracer.Tracer
	end     context.CancelFunc
	ran     chan error
}

// Open attaches tracers and enables them. It skips the test where the machine does not allow it,
// as bpftest.Require does. The consumer does not run yet.
func Open(tb testing.TB, opts attach.Options, tracers ...*tracer.Tracer) *Session {
	tb.Helper()
	bpftest.Require(tb)
	if opts.RingSize == 0 {
		opts.RingSize = ringSize
	}
	s := &Session{Sink: NewSink()}
	read := make([]*tracer.Tracer, len(tracers))
	for i, t := range tracers {
		read[i] = readOnce(t)
	}
	var err error
	if s.Session, err = attach.Open(read, opts); err != nil {
		var noHook *attach.NoHookError
		if errors.As(err, &noHook) && os.Getenv(bpftest.KernelEnv) == "" {
			tb.Skip(err) // no privilege can help
		}
		tb.Fatal(err)
	}
	tb.Cleanup(s.Session.Close)
	for _, l := range s.Tracers { // not those that were left out
		s.tracers = append(s.tracers, l.Tracer)
	}
	columns := make([][]int, len(s.tracers))
	style := field.NewTimeStyle(field.TimeWall, nil)
	if s.Consumer, err = consumer.New(s.Rings(), s.tracers, columns, style, Consume(opts)); err != nil {
		tb.Fatal(err)
	}
	s.WatchCgroups(s.AddRing, s.RetireRing)
	if err := s.Enable(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = s.stop() // told before, where it matters
		if err := s.Consumer.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// specs are the objects that have been read, by tracer.
var specs sync.Map

// readOnce returns t with a copy of its object, which to read takes ten times as long.
func readOnce(t *tracer.Tracer) *tracer.Tracer {
	copied := *t
	copied.Load = func() (*ebpf.CollectionSpec, error) {
		if spec, ok := specs.Load(t); ok {
			return spec.(*ebpf.CollectionSpec).Copy(), nil
		}
		spec, err := t.Load()
		if err == nil {
			specs.Store(t, spec.Copy())
		}
		return spec, err
	}
	return &copied
}

// Consume returns how to consume what programs with those options write: where they
// suppress wakeups, the consumer looks by itself.
func Consume(opts attach.Options) (c consumer.Options) {
	if p := opts.Wakeup.Policy; p == attach.WakeupBytes || p == attach.WakeupNever {
		c.LookEvery = 10 * time.Millisecond
	}
	return c
}

// Start lets the consumer run.
func (s *Session) Start() {
	ctx, end := context.WithCancel(context.Background())
	s.end, s.ran = end, make(chan error, 1)
	go func() { s.ran <- s.Run(ctx, s.Sink) }()
}

// Drain takes what is in the ring, where the consumer does not run.
func (s *Session) Drain(tb testing.TB) {
	tb.Helper()
	ctx, end := context.WithCancel(context.Background())
	end()
	if err := s.Run(ctx, s.Sink); err != nil {
		tb.Fatal(err)
	}
}

// Stop ends the consumer, which can be started again.
func (s *Session) Stop(tb testing.TB) {
	tb.Helper()
	if err := s.stop(); err != nil {
		tb.Fatal(err)
	}
}

// stop ends the consumer if it runs.
func (s *Session) stop() error {
	if s.end == nil {
		return nil
	}
	s.end()
	s.end = nil
	return <-s.ran
}

// Result is what a trace brought.
type Result struct {
	Lines  []Event // of the JSON stream
	Events []Event // those of them that are events
	Lost   int64   // the sum of what the others say
	Ledger []*consumer.Ledger
}

// Written is how many bytes programs have written to each ring.
func (s *Session) Written(tb testing.TB) (bytes []uint64) {
	tb.Helper()
	for _, ring := range s.Rings() {
		v, err := ringbuf.OpenView(ring)
		if err != nil {
			tb.Fatal(err)
		}
		_, _, produced := v.Positions()
		bytes = append(bytes, produced)
		if err := v.Close(); err != nil {
			tb.Error(err)
		}
	}
	return bytes
}

// Finish disables the tracers, takes the last events, and fails the test where the ledgers
// do not add up or differ from the JSON stream.
func (s *Session) Finish(tb testing.TB) *Result {
	tb.Helper()
	err := errors.Join(s.stop(), s.Disable())
	kernel.Settle()
	r := &Result{}
	ledgers := func() bool {
		r.Ledger = r.Ledger[:0]
		balanced := true
		for i, t := range s.tracers {
			books, berr := s.Tracers[i].Books()
			if berr != nil {
				tb.Fatal(berr)
			}
			l := &consumer.Ledger{Name: t.Name, CPU: books.CPU, Missed: books.Missed, Counts: s.Counts(i)}
			balanced = balanced && l.Balanced()
			r.Ledger = append(r.Ledger, l)
		}
		return balanced
	}
	err = errors.Join(err, s.Consumer.Finish(s.Sink, ledgers))
	balanced := ledgers()
	for i, l := range r.Ledger {
		err = errors.Join(err, s.ShowLosses(i, l.CPU, l.Missed))
	}
	if err != nil {
		tb.Fatal(err)
	}
	r.Lines, r.Events = s.Lines(tb)
	var printed, lost uint64
	for _, l := range r.Ledger {
		tb.Log(l)
		printed += l.Printed
		lost += l.Total().Lost
	}
	for _, e := range r.Lines {
		if e["type"] == "lost" {
			r.Lost += e["lost"].(int64)
		}
	}
	if !balanced || printed != uint64(len(r.Events)) || lost != uint64(r.Lost) || s.Unknown() != 0 {
		tb.Errorf("the books do not add up: balanced %v, %d printed of which the stream has %d, %d lost of which it tells %d, %d unknown:\n%+v",
			balanced, printed, len(r.Events), lost, r.Lost, s.Unknown(), r.Ledger)
	}
	return r
}

// Accounts fails the test where not each hit that was wanted of the one tracer is in one place:
// among the events, or entered as lost for want of room or of its beginning, or among those that
// the kernel missed, some of which may have been unwanted.
func (r *Result) Accounts(tb testing.TB, wanted int) {
	tb.Helper()
	why := r.Ledger[0].Losses()
	told := uint64(len(r.Events)) + why.NoRoom + why.NoEntry
	if told > uint64(wanted) || told+why.Missed < uint64(wanted) {
		tb.Errorf("%d events and the losses %+v, want %d", len(r.Events), why, wanted)
	}
}

// NoneTurnedAway fails the test where an event was lost although the kernel ran the program.
func (r *Result) NoneTurnedAway(tb testing.TB) {
	tb.Helper()
	if why := r.Ledger[0].Losses(); why.NoRoom != 0 || why.NoEntry != 0 {
		tb.Errorf("lost: %+v", why)
	}
}

// MapEntries counts the entries of the hash map of that name: see Map.
func MapEntries(tb testing.TB, name string) (n int) {
	tb.Helper()
	m := openMap(tb, name)
	defer m.Close()
	var key, value []byte
	for entries := m.Iterate(); entries.Next(&key, &value); {
		n++
	}
	return n
}

// Map returns the map of that name that this process holds, of several the one that was made
// last, as earlier sessions of the test have theirs. It is open until the test ends.
func Map(tb testing.TB, name string) *ebpf.Map {
	tb.Helper()
	m := openMap(tb, name)
	tb.Cleanup(func() { m.Close() })
	return m
}

func openMap(tb testing.TB, name string) (found *ebpf.Map) {
	tb.Helper()
	newest := uint32(0) // ids go up
	for id := range ids(tb, "map_id") {
		if id <= newest {
			continue
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			tb.Fatal(err)
		}
		if desc, err := m.Info(); err == nil && desc.Name == name {
			m, found, newest = found, m, id
		}
		m.Close() // that of nil does nothing
	}
	if found == nil {
		tb.Fatalf("this process holds no map %s", name)
	}
	return found
}

// Misses is how often the kernel has not run a program that this process holds: hits of anybody's,
// and also of the programs whose misses are in no books (tracer.Program.Prepares). Kernels before
// 5.12 do not tell.
func Misses(tb testing.TB) (n int) {
	tb.Helper()
	for id := range ids(tb, "prog_id") {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			tb.Fatal(err)
		}
		if stats, err := p.Stats(); err == nil {
			n += int(stats.RecursionMisses)
		}
		p.Close()
	}
	return n
}

// ids are those that the kernel tells, under that key, of the descriptors of this process.
func ids(tb testing.TB, key string) map[uint32]bool {
	tb.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		tb.Fatal(err)
	}
	all := make(map[uint32]bool)
	for _, file := range files {
		info, _ := os.ReadFile(file) // the one that Glob had open is gone
		_, after, _ := strings.Cut(string(info), key+":")
		if id, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]), 10, 32); err == nil {
			all[uint32(id)] = true
		}
	}
	return all
}

// WithMap returns t with room for so many entries in the map of that name.
func WithMap(t *tracer.Tracer, name string, entries uint32) *tracer.Tracer {
	small := *t
	small.Load = func() (*ebpf.CollectionSpec, error) {
		spec, err := t.Load()
		if err == nil {
			spec.Maps[name].MaxEntries = entries
		}
		return spec, err
	}
	return &small
}

// Without returns t but for its hooks of that kind.
func Without(t *tracer.Tracer, kind tracer.HookKind) *tracer.Tracer {
	return t.WithHooks(slices.DeleteFunc(slices.Clone(t.Hooks), func(h tracer.Hook) bool { return h.Kind == kind }))
}

// Trace runs workload while t is attached, and returns the events. None may be
// lost, but for hits that the kernel kept from the programs: it does not run a program in
// an interrupt that came while it ran (a timer of TCP's, which changes a socket's state),
// nor those of classic tracepoints on a CPU where it has preempted a task that looks into
// any BPF map, anybody's (bpf_disable_instrumentation), nor since 7.0 on one where it has
// preempted that program. Whether one of them was the workload's own is for the caller to see.
func Trace(tb testing.TB, t *tracer.Tracer, opts attach.Options, workload func()) []Event {
	tb.Helper()
	s := Open(tb, opts, t)
	s.Start()
	workload()
	r := s.Finish(tb)
	r.NoneTurnedAway(tb)
	return r.Events
}

// ThisThread keeps the test on its thread, and lets only that one's events pass.
func ThisThread(tb testing.TB) attach.Options {
	tb.Helper()
	runtime.LockOSThread()
	tb.Cleanup(runtime.UnlockOSThread)
	return attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}}
}

// InNetNS runs fn in a network namespace of its own, where it may fail or skip the test.
func InNetNS(tb testing.TB, fn func()) {
	tb.Helper()
	switch err := nettest.Run(fn); {
	case errors.Is(err, nettest.ErrExit) && tb.Skipped():
		tb.SkipNow()
	case errors.Is(err, nettest.ErrExit):
		tb.FailNow()
	case err != nil:
		tb.Fatal(err)
	}
}

// TraceNet is Trace with a workload in a network namespace of its own: of the events
// it returns those of that namespace's sockets, or with a filter by thread (any id) those
// that the workload's thread owns.
func TraceNet(tb testing.TB, t *tracer.Tracer, opts attach.Options, workload func()) (events []Event) {
	tb.Helper()
	InNetNS(tb, func() {
		if opts.Filter.TID != 0 {
			opts.Filter.TID = uint32(unix.Gettid())
		}
		ns := nettest.NetNS()
		for _, e := range Trace(tb, t, opts, workload) {
			if e["netns"] == ns {
				events = append(events, e)
			}
		}
	})
	return events
}

// Seen runs f, which traces what timers and the like do and reports whether it has seen all of
// it; and runs it again, a few times at the most, where some of it may have been hidden from the
// kernel (bpftest.Hidden) or was missed by it (Misses). What f saw last is what counts.
func Seen(tb testing.TB, f func() bool) {
	tb.Helper()
	for range 5 {
		hidden, missed := bpftest.Hidden(tb), Misses(tb)
		if f() || bpftest.Hidden(tb) == hidden && Misses(tb) == missed {
			return
		}
		tb.Log("something may have been hidden: once more")
	}
}

// HasRegs reports whether programs can read the registers of any system call: since 5.15.
func HasRegs() bool {
	v, err := kernel.ParseVersion(kernel.Release())
	return err == nil && !v.Less(kernel.Version{Major: 5, Minor: 15})
}

// Same fails the test where events are not as many as want, or one of them has
// other values for the keys of its want. Some of them may be missing where the kernel
// has missed as many hits: it reports whether all are there, as of wants that are alike
// nobody can say which.
func Same(tb testing.TB, events, want []Event) (all bool) {
	tb.Helper()
	return same(tb, events, want, func(i int) string { return fmt.Sprint("event ", i) })
}

func same(tb testing.TB, events, want []Event, name func(i int) string) (all bool) {
	tb.Helper()
	missing := len(want) - len(events)
	all = missing == 0
	if missing < 0 || missing > 0 && missing > Misses(tb) {
		tb.Errorf("%d events, want %d", len(events), len(want))
		missing = 0
	}
	i := 0
	for _, e := range events[:min(len(want), len(events))] {
		diff := e.Diff(want[i])
		for ; diff != "" && missing > 0; missing-- {
			tb.Logf("%s was missed by the kernel", name(i))
			i++
			diff = e.Diff(want[i])
		}
		if diff != "" {
			tb.Errorf("%s: %s", name(i), diff)
		}
		i++
	}
	return all
}

// Diff says which of want's keys, and of its Raw, have other values in e.
func (e Event) Diff(want Event) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(want)) {
		got, want := e[key], want[key]
		if raw, ok := want.(map[string]string); ok {
			for k, w := range raw {
				if g := got.(map[string]string)[k]; g != w {
					fmt.Fprintf(&b, "\n  %s, of %d bytes: %.100q\n  want %d bytes: %.100q", k, len(g), g, len(w), w)
				}
			}
			continue
		}
		if !reflect.DeepEqual(got, want) {
			fmt.Fprintf(&b, "\n  %s: %.100q\n  want %.100q", key, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	return b.String()
}

// Reason checks that the number of an event's reason is that of its name, in the kernel's
// enum whose values' names have that prefix.
func Reason(tb testing.TB, e Event, enum, prefix string) {
	tb.Helper()
	name, _ := e["reason"].(string)
	if name == "" {
		return
	}
	types, err := btf.LoadKernelSpec()
	var typ *btf.Enum
	if err == nil {
		err = types.TypeByName(enum, &typ)
	}
	if err != nil {
		tb.Fatal(err)
	}
	for _, v := range typ.Values {
		if v.Name == prefix+name && int64(v.Value) == e["reason_number"] {
			return
		}
	}
	tb.Errorf("the number of %s is not %v", name, e["reason_number"])
}

// Text is what JSON makes of a name that need not be UTF-8.
func Text[T string | []byte](s T) string { return string([]rune(string(s))) }
