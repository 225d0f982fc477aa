// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
)

const (
	argsInline = 32 << 10  // bytes of argv that the main record takes
	argsMax    = 128 << 10 // bytes of argv that are shown
)

// randomArgs returns argv of so many bytes, each NUL counted: strings of random
// bytes and lengths, the first of which is name. No string is too long for execve.
func randomArgs(seed uint64, name string, size int) []string {
	r := rand.New(rand.NewPCG(seed, uint64(size)))
	argv := []string{name}
	for size -= len(name) + 1; size > 0; {
		n := min(r.IntN(1<<r.IntN(17)+1), size-1)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(1 + r.IntN(255))
		}
		argv = append(argv, string(b))
		size -= n + 1
	}
	return argv
}

// rawArgs returns the bytes of argv that an event has.
func rawArgs(argv []string) string {
	raw := strings.Join(argv, "\x00") + "\x00"
	return raw[:min(len(raw), argsMax)]
}

// borderSizes are sizes of argv around those where an event takes one more record.
func borderSizes() (sizes []int) {
	for border := argsInline; border <= argsMax; border += argsInline {
		sizes = append(sizes, border-1, border, border+1)
	}
	return append(sizes, 20<<10, 100003, argsMax+argsInline, 1<<20, 2000003)
}

// TestArgs: the bytes of argv are those that the program was given, whatever
// records they come in.
func TestArgs(t *testing.T) {
	bpftest.Require(t)
	path := quick(t)
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("failed=%v", failed), func(t *testing.T) {
			opts := mine()
			if failed {
				opts = byMyself()
			}
			var want []event
			events := tracetest.Trace(t, exec.Tracer, opts, func() {
				for seed, size := range borderSizes() {
					argv := randomArgs(uint64(seed), "q", size)
					check(t, execOnce(path, argv, failed))
					raw := rawArgs(argv)
					w := event{
						"argc": int64(len(argv)), "args_bytes": int64(size), "args_truncated": size > argsMax,
						tracetest.Raw: map[string]string{"args": raw},
					}
					if failed {
						w["argc"], w["args_bytes"] = int64(strings.Count(strings.TrimSuffix(raw, "\x00"), "\x00")+1), int64(len(raw))
					}
					want = append(want, w)
				}
			})
			tracetest.Same(t, events, want)
		})
	}
}

// byMyself lets the failed calls of this process pass, whose memory is as it wants
// it: that of a string's NUL may not be there where nothing has written it.
func byMyself() attach.Options {
	return attach.Options{Failed: true, Filter: attach.Filter{PID: uint32(os.Getpid())}}
}

// execOnce starts a program and waits for its end, or calls execve for one that is
// not there.
func execOnce(path string, argv []string, failed bool) error {
	if failed {
		if err := bpftest.Execveat(unix.AT_FDCWD, path+"-not", argv, nil, 0); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("error %w, want ENOENT", err)
		}
		return nil
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: []string{}})
	if err != nil {
		return err
	}
	return waitAll([]int{pid})
}

// Of each of two threads, long and short argvs at the same time.
var (
	longs, shorts = bpftest.Few(53, 7), bpftest.Few(211, 23)
	mixedTotal    = 2 * (longs + shorts)
)

// mixedArgs returns the argv of a number, which it begins with.
func mixedArgs(n int) []string {
	size := 13 + n%97
	if n%(longs+shorts) < longs {
		size = argsInline + 1 + n*7919%(argsMax-argsInline)
	}
	return randomArgs(uint64(n), strconv.Itoa(n), size)
}

// runMixed starts mixedTotal programs, the first of which has that number, from
// four threads.
func runMixed(t *testing.T, path string, failed bool, first int) {
	t.Helper()
	var wg sync.WaitGroup
	thread := func(first, n int) {
		wg.Go(func() {
			for i := range n {
				if err := execOnce(path, mixedArgs(first+i), failed); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		thread(first, longs)
		thread(first+longs, shorts)
		first += longs + shorts
	}
	wg.Wait()
}

// checkMixed compares each event with what ran, and returns how many were of several
// records.
func checkMixed(t *testing.T, events []event) (long int) {
	t.Helper()
	seen := make(map[int]bool)
	for _, e := range events {
		raw := e[tracetest.Raw].(map[string]string)["args"]
		first, _, _ := strings.Cut(raw, "\x00")
		n, err := strconv.Atoi(first)
		if err != nil || seen[n] {
			t.Fatalf("an event of number %q", first)
		}
		seen[n] = true
		argv := mixedArgs(n)
		if want := rawArgs(argv); raw != want || e["argc"] != int64(len(argv)) || e["args_truncated"] != false {
			t.Errorf("event %d has %d bytes of argv, %v arguments and truncated=%v; want %d bytes, %d arguments",
				n, len(raw), e["argc"], e["args_truncated"], len(want), len(argv))
		}
		if len(raw) > argsInline {
			long++
		}
	}
	return long
}

// TestLongAtOnce: records of several CPUs lie between those of an event.
func TestLongAtOnce(t *testing.T) {
	bpftest.Require(t)
	path := quick(t)
	for _, opts := range []attach.Options{mine(), byMyself()} {
		t.Run(fmt.Sprintf("failed=%v", opts.Failed), func(t *testing.T) {
			opts.RingSize = 64 << 20
			s := tracetest.Open(t, opts, exec.Tracer)
			s.Start()
			runMixed(t, path, opts.Failed, 0)
			r := s.Finish(t)
			long := checkMixed(t, r.Events)
			r.Accounts(t, mixedTotal)
			r.NoneTurnedAway(t)
			if long > 2*longs || long+int(r.Ledger[0].Missed) < 2*longs {
				t.Errorf("%d long events, want %d", long, 2*longs)
			}
			if groups := groupsOf(r); groups != uint64(long) {
				t.Errorf("%d groups in the books, want %d", groups, long)
			}
		})
	}
}

// groupsOf is the number of events of several records in the books.
func groupsOf(r *tracetest.Result) (n uint64) {
	for _, b := range r.Ledger[0].CPU {
		n += b.Groups
	}
	return n
}

// TestLongLost: where a ring has no room for all records of an event it gets none
// of them.
func TestLongLost(t *testing.T) {
	bpftest.Require(t)
	rounds := bpftest.Few(3, 1)
	path := quick(t)
	for _, size := range bpftest.Thin([]int{16 << 10, 64 << 10, 128 << 10, 512 << 10}, 2) {
		for _, opts := range []attach.Options{mine(), byMyself()} {
			t.Run(fmt.Sprintf("%d/failed=%v", size, opts.Failed), func(t *testing.T) {
				opts.RingSize = uint32(max(size, os.Getpagesize()))
				s := tracetest.Open(t, opts, exec.Tracer)
				for round := range rounds {
					runMixed(t, path, opts.Failed, round*mixedTotal)
					s.Drain(t)
				}
				r := s.Finish(t)
				long := checkMixed(t, r.Events)
				r.Accounts(t, rounds*mixedTotal)
				if why := r.Ledger[0].Losses(); why.NoEntry != 0 {
					t.Errorf("%d events whose beginning is not known: there is nothing to know of it", why.NoEntry)
				}
				// A part does not fit in the smallest ring, nor two of them in the next one.
				if r.Lost == 0 || size > argsMax && long == 0 || opts.RingSize <= 2*argsInline && long != 0 {
					t.Errorf("%d lost, %d long events", r.Lost, long)
				}
				want := uint64(rounds * 2 * longs)
				if groups := groupsOf(r); groups+r.Ledger[0].Missed < want || groups > want {
					t.Errorf("%d groups in the books, want %d", groups, want)
				}
			})
		}
	}
}
