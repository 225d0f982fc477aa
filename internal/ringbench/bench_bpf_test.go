// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// Each suite runs, and its account is exact. What it takes is not looked at: that is
// for the machine to say.
func TestBenchSuites(t *testing.T) {
	bpftest.Require(t)
	for _, s := range bpftest.Thin(Suites(), 4) {
		t.Run(s.Name, func(t *testing.T) {
			const rounds = 2
			begun := 0
			opts := &Options{Rounds: rounds, Duration: 3 * time.Millisecond, Progress: func(p Progress) {
				if p.Last == nil {
					begun++
				} else if p.Done != begun || p.Done > p.Total {
					t.Errorf("measurement %d of %d, after %d beginnings", p.Done, p.Total, begun)
				}
			}}
			calls := 0
			err := Run(t.Context(), []Suite{s}, opts, func(result *SuiteResult) error {
				calls++
				checkSuite(t, result, rounds)
				return nil
			})
			if err != nil || calls != 1 {
				t.Fatalf("%d results, error %v", calls, err)
			}
		})
	}
}

func checkSuite(t *testing.T, result *SuiteResult, rounds int) {
	t.Helper()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	o := Options{}.withDefaults()
	cpus, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if cases, _ := result.Suite.cases(&o, len(cpus)); len(cases) != len(result.Results) {
		t.Errorf("%d results of %d cases", len(result.Results), len(cases))
	}
	for _, r := range result.Results {
		if len(r.Rounds) != rounds {
			t.Errorf("%s: %d rounds, want %d", r.Case.Name, len(r.Rounds), rounds)
		}
		for _, m := range r.Rounds {
			if m.Consumed == 0 || m.Attempts != m.Consumed+m.Dropped || m.Attempts%uint64(r.Case.batch()) != 0 {
				t.Errorf("%s: %d attempts in batches of %d, %d consumed, %d dropped", r.Case.Name, m.Attempts, r.Case.batch(), m.Consumed, m.Dropped)
			}
			if r.Case.Mode == BackToBack && m.Dropped > 0 {
				t.Errorf("%s: %d dropped, and each batch has room", r.Case.Name, m.Dropped)
			}
			if m.Busy <= 0 || m.Elapsed <= 0 {
				t.Errorf("%s: busy for %v in %v", r.Case.Name, m.Busy, m.Elapsed)
			}
		}
	}
}

// Every record arrives once, whole, and in its producer's order, by whatever way.
func TestBenchContent(t *testing.T) {
	bpftest.Require(t)
	cpus, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	for _, api := range []API{Reserve, Output, Perf} {
		for _, size := range []int{8, 56, 104, MaxRecordSize - 8, MaxRecordSize} {
			for _, perCPU := range []bool{false, true} {
				c := &Case{API: api, Wakeup: Auto, Mode: BackToBack, RecordSize: size, RingSize: 64 << 10, Producers: 1, PerCPU: perCPU && api != Perf}
				l, err := load(c, cpus[0], cpus[:1])
				if err != nil {
					t.Fatalf("%+v: %v", c, err)
				}
				// The numbers of the records from 0 on, which drain adds up.
				m, err := l.measure(t.Context(), time.Millisecond)
				if err != nil {
					t.Errorf("%+v: %v", c, err)
				}
				var sum uint64
				switch s := l.source.(type) {
				case *ringsSource:
					sum = s.sum
				case *perfSource:
					sum = s.sum
				}
				if want := m.Consumed * (m.Consumed - 1) / 2; sum != want {
					t.Errorf("%+v: %d records, whose numbers add up to %d, want %d", c, m.Consumed, sum, want)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// A full ring drops, and tells how many.
func TestBenchDrops(t *testing.T) {
	bpftest.Require(t)
	cpus, err := allowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	for _, api := range []API{Reserve, Output, Perf} {
		c := &Case{API: api, Wakeup: Auto, Mode: Parallel, RecordSize: 56, RingSize: 4096, Producers: 1}
		l, err := load(c, cpus[0], cpus[:1])
		if err != nil {
			t.Fatal(err)
		}
		err = onCPU(cpus[0], func() error { return l.newProducer(0).run() })
		if err != nil {
			t.Fatal(err)
		}
		sum, err := l.counts()
		if err != nil {
			t.Fatal(err)
		}
		consumed, err := l.source.drain()
		if err != nil {
			t.Fatal(err)
		}
		// 64 bytes each with the header. A ring is full one record before its end.
		if sum.attempts != 500 || sum.dropped+consumed != 500 || api != Perf && consumed != 63 {
			t.Errorf("%s: %d attempts, %d dropped, %d consumed", api, sum.attempts, sum.dropped, consumed)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who has seen enough gets what was measured.
func TestBenchInterrupted(t *testing.T) {
	bpftest.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	suites := Suites()[:2]
	measured := 0
	opts := &Options{Rounds: 3, Duration: 2 * time.Millisecond, Progress: func(p Progress) {
		if p.Last != nil {
			if measured++; measured == 5 { // the second round of the first case
				cancel()
			}
		}
	}}
	var got []int
	err := Run(ctx, suites, opts, func(result *SuiteResult) error {
		if result.Err != nil {
			t.Error(result.Err)
		}
		for _, r := range result.Results {
			got = append(got, len(r.Rounds))
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []int{2, 1, 1, 1}) {
		t.Errorf("rounds %v, error %v", got, err)
	}
}

func TestBenchRefuses(t *testing.T) {
	bpftest.Require(t)
	for _, o := range []Options{{RecordSize: 12}, {RecordSize: 8192}, {RingSize: 5000}, {RingSize: 4096, RecordSize: 4096}, {Rounds: -1}} {
		err := Run(t.Context(), Suites(), &o, func(*SuiteResult) error { return errors.New("measured") })
		if err == nil || err.Error() == "measured" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
