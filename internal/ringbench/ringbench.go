// SPDX-License-Identifier: Apache-2.0

// Package ringbench measures what BPF ring buffers cost on this machine, in the ways
// among which their users must choose, with perf buffers for comparison. Its load is
// that of the kernel's own benchmark (tools/testing/selftests/bpf, bench ringbufs).
//
// Producers and the consumer are threads of this process, each pinned to a CPU. A
// producer runs a BPF program (bpf/bench.bpf.c) over and over by BPF_PROG_RUN, which
// makes a few hundred records each time; so what is measured is the ring, and neither a
// system call for each record nor a tracepoint. Rings are read by internal/ringbuf,
// perf buffers by a reader of this package that works the same way: both hand out
// records where they lie, give space back by the eighth of a buffer, look at the
// positions before they wait, and count the records and read the first word of each.
//
// Each measurement ends when everything that was produced is consumed, so its account
// is exact: attempts = consumed + dropped.
package ringbench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

//go:generate go tool bpf2go -type rb_bench_producer -target amd64,arm64 bench ../../bpf/bench.bpf.c -- -I../../bpf/include

// MaxRecordSize is the largest payload that can be measured, in bytes
// (RB_BENCH_MAX_SIZE). Payloads are multiples of 8.
const MaxRecordSize = 4096

// API is how a record gets from a BPF program to user space.
type API string

// The ways.
const (
	Reserve API = "reserve" // bpf_ringbuf_reserve, filled in place, bpf_ringbuf_submit
	Output  API = "output"  // filled elsewhere, bpf_ringbuf_output
	Perf    API = "perf"    // filled elsewhere, bpf_perf_event_output
)

// Wakeup is what decides when the consumer is woken.
type Wakeup string

// The policies.
const (
	Auto    Wakeup = "auto"    // flags 0: the kernel wakes a consumer that has caught up
	None    Wakeup = "none"    // BPF_RB_NO_WAKEUP: the consumer looks at each tick of a timer
	Force   Wakeup = "force"   // BPF_RB_FORCE_WAKEUP for each record
	Sampled Wakeup = "sampled" // FORCE as soon as Case.Every records wait, else NO_WAKEUP; perf: wakeup_events
)

// Mode is how producing and consuming relate.
type Mode string

// The modes.
const (
	// Parallel: the producers do not wait for the consumer, which has a CPU of its own.
	Parallel Mode = "parallel"
	// BackToBack: one thread makes a batch of records, consumes it, and begins anew. No
	// contention, no waiting, no drops: what the code path itself costs.
	BackToBack Mode = "back-to-back"
)

// Case is one way to use a buffer.
type Case struct {
	Name       string // unique in its suite, at most 26 characters
	API        API
	Wakeup     Wakeup
	Every      int           // Sampled only: records that are worth a wakeup
	Pace       time.Duration // the consumer's tick with None; else, once woken, it lets this pass before it drains
	Mode       Mode
	RecordSize int // payload in bytes, a multiple of 8
	RingSize   int // of each buffer, in bytes
	Producers  int // threads
	PerCPU     bool
	// Crowded lets producers use the consumer's CPU too, as the last.
	Crowded bool
}

// recordHeader is what the ring puts before each payload (BPF_RINGBUF_HDR_SZ).
const recordHeader = 8

// space is what a record takes of the ring, in bytes.
func (c *Case) space() int { return recordHeader + c.RecordSize }

// batch is how many records one run of the program makes: 500, as in the kernel's
// benchmark, unless half the ring holds fewer and nobody consumes meanwhile, or the
// verifier, which walks the program turn by turn, would have to walk too many.
func (c *Case) batch() int {
	const usual, maxWords = 500, 32 << 10
	n := min(usual, maxWords/(c.RecordSize/8))
	if c.Mode == BackToBack {
		n = min(n, c.RingSize/2/c.space())
	}
	return max(n, 1)
}

// Options says how to measure.
type Options struct {
	Rounds     int           // measurements of each case; 0: 5
	Duration   time.Duration // of one measurement; 0: 200 ms
	RecordSize int           // payload in bytes, where the suite does not vary it; 0: 8
	RingSize   int           // bytes, where the suite does not vary it; 0: 512 KiB
	// Progress is called before and after each measurement, from the goroutine of Run.
	Progress func(Progress)
}

func (o Options) withDefaults() Options {
	o.Rounds = cmp.Or(o.Rounds, 5)
	o.Duration = cmp.Or(o.Duration, 200*time.Millisecond)
	o.RecordSize = cmp.Or(o.RecordSize, 8)
	o.RingSize = cmp.Or(o.RingSize, 512<<10)
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

func (o *Options) check() error {
	switch {
	case o.Rounds < 0 || o.Duration < 0:
		return errors.New("rounds and duration must be more than 0")
	case o.RecordSize < 8 || o.RecordSize > MaxRecordSize || o.RecordSize%8 != 0:
		return fmt.Errorf("record size %d: must be a multiple of 8 from 8 to %d", o.RecordSize, MaxRecordSize)
	case o.RingSize < 4*(recordHeader+o.RecordSize):
		return fmt.Errorf("ring size %d: too small for records of %d bytes", o.RingSize, o.RecordSize)
	}
	return ringbuf.ValidSize(uint64(o.RingSize))
}

// Progress is how far a Run has come.
type Progress struct {
	Suite, Case   string
	Round, Rounds int // Round from 1 on
	Done, Total   int // measurements, of all suites
	Left          time.Duration
	Last          *Round // what the measurement gave; nil: it begins
}

// SuiteResult is what a suite gave.
type SuiteResult struct {
	Suite   Suite
	Results []Result // by case, those that were measured at least once
	Notes   []string // what one should know when reading them
	Err     error    // why the suite cannot be run here, or ended early
}

// Run measures the suites one after the other, and gives each result to each, which may
// be called with one that is incomplete: when ctx is done, Run ends with what was
// measured so far, and its error is ctx's. A suite that this kernel or this process
// cannot run is given to each with the reason, and the others go on.
//
// Cases of a suite are measured in turn, round by round, so that what changes on the
// machine meanwhile meets all of them.
func Run(ctx context.Context, suites []Suite, opts *Options, each func(*SuiteResult) error) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return err
	}
	cpus, err := allowedCPUs()
	if err != nil {
		return err
	}
	if err := kernel.CheckVersion(kernel.Release()); err != nil {
		return err
	}
	// Before 5.11 maps count against RLIMIT_MEMLOCK. Where raising it fails they may
	// still fit, so the error is told only when they do not.
	memlock := rlimit.RemoveMemlock()
	if err := probe(cpus[0]); err != nil {
		return errors.Join(err, memlock)
	}
	// A thread in BPF_PROG_RUN is in a system call. Without a P left for each, Go's
	// scheduler would make them wait for one another.
	most := 0
	for _, s := range suites {
		cases, _ := s.cases(&o, len(cpus))
		for _, c := range cases {
			most = max(most, c.Producers)
		}
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(most + 4))

	r := &runner{Options: o, cpus: cpus}
	for _, s := range suites {
		cases, _ := s.cases(&o, len(cpus))
		r.total += len(cases) * o.Rounds
	}
	for _, s := range suites {
		result := r.suite(ctx, s)
		if len(result.Results) > 0 || result.Err != nil {
			if err := each(result); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// allowedCPUs returns the CPUs that this process may use, ascending.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("reading the CPUs that this process may use: %w", err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// probe runs the program once.
func probe(cpu int) error {
	l, err := load(&Case{API: Reserve, Wakeup: Auto, Mode: BackToBack, RecordSize: 8, RingSize: 64 << 10, Producers: 1}, cpu, []int{cpu})
	if err != nil {
		return err
	}
	defer l.Close()
	err = l.newProducer(0).run()
	const notSupported = unix.Errno(524) // ENOTSUPP (include/linux/errno.h)
	if errors.Is(err, notSupported) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("running a raw tracepoint program by BPF_PROG_RUN: %w: that came with Linux 5.10, and this is %s", err, kernel.Release())
	}
	return err
}

// runner is one Run.
type runner struct {
	Options
	cpus        []int
	done, total int
	spent       time.Duration // on measurements
}

// suite loads all cases of a suite and measures them in turn.
func (r *runner) suite(ctx context.Context, s Suite) *SuiteResult {
	cases, notes := s.cases(&r.Options, len(r.cpus))
	result := &SuiteResult{Suite: s, Notes: notes}
	loaded := make([]*loaded, 0, len(cases))
	defer func() {
		for _, l := range loaded {
			l.Close()
		}
	}()
	skipTo := r.done + len(cases)*r.Rounds
	results := make([]Result, len(cases))
	for i := range cases {
		producers := producerCPUs(&cases[i], r.cpus)
		l, err := load(&cases[i], r.cpus[0], producers)
		if err != nil {
			result.Err = fmt.Errorf("preparing %s: %w", cases[i].Name, err)
			r.done = skipTo
			return result
		}
		loaded = append(loaded, l)
		results[i] = Result{Suite: s.Name, Case: cases[i], ConsumerCPU: r.cpus[0], ProducerCPUs: producers}
	}
	defer func() {
		for _, res := range results {
			if len(res.Rounds) > 0 {
				result.Results = append(result.Results, res)
			}
		}
	}()
	for round := range r.Rounds {
		for i, l := range loaded {
			p := Progress{Suite: s.Name, Case: cases[i].Name, Round: round + 1, Rounds: r.Rounds, Done: r.done, Total: r.total, Left: r.left()}
			r.Progress(p)
			begun := time.Now()
			if round == 0 { // the pages of both sides are mapped when they are first used
				if _, err := l.measure(ctx, min(20*time.Millisecond, r.Duration)); err != nil {
					result.Err = interrupted(ctx, cases[i].Name, err)
					return result
				}
			}
			m, err := l.measure(ctx, r.Duration)
			if err != nil {
				result.Err = interrupted(ctx, cases[i].Name, err)
				return result
			}
			results[i].Rounds = append(results[i].Rounds, m)
			r.spent += time.Since(begun)
			r.done++
			p.Done, p.Left, p.Last = r.done, r.left(), &m
			r.Progress(p)
		}
	}
	return result
}

// interrupted is err, unless that is only the end of ctx.
func interrupted(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return fmt.Errorf("measuring %s: %w", name, err)
}

// left estimates the time that the rest takes.
func (r *runner) left() time.Duration {
	each := r.Duration
	if r.done > 0 {
		each = r.spent / time.Duration(r.done)
	}
	return time.Duration(r.total-r.done) * each
}

// producerCPUs says on which CPU each producer goes: one after the other on those that
// follow the consumer's, which is the first, and then from the beginning. The only CPU
// is everybody's.
func producerCPUs(c *Case, cpus []int) []int {
	places := cpus[1:]
	switch {
	case c.Mode == BackToBack || len(cpus) == 1:
		places = cpus[:1]
	case c.Crowded:
		places = append(slices.Clip(places), cpus[0])
	}
	out := make([]int, c.Producers)
	for i := range out {
		out[i] = places[i%len(places)]
	}
	return out
}
