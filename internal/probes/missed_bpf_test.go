// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// doAll waits for a line, and then does, on so many threads and until its standard input ends, what most tracers
// have events of: as fast as they can or, with another argument, with time to sleep in between.
func doAll() error {
	threads, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(threads + 1) // which the kernel is to choose from, rather than Go
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rbtrace-all")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Once for all threads, and before one of them forks: while a child has a program open for writing, nobody can run it.
	quick := filepath.Join(dir, "quick")
	if err := os.WriteFile(quick, bpftest.Quick(), 0o755); err != nil {
		return err
	}
	var ended atomic.Bool
	var all errgroup.Group
	for i := range threads {
		all.Go(func() error {
			return doAllOnThread(&ended, filepath.Join(dir, strconv.Itoa(i)), quick, len(os.Args) > 2)
		})
	}
	err = bpftest.AwaitEOF()
	ended.Store(true)
	return errors.Join(err, all.Wait())
}

func doAllOnThread(ended *atomic.Bool, dir, quick string, sleepy bool) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for i := 0; !ended.Load(); i++ {
		for range 8 {
			fd := bpftest.PathCall(unix.SYS_OPENAT, 1, a, unix.AT_FDCWD&(1<<64-1), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			bpftest.MustCall(unix.SYS_FSYNC, fd)
			bpftest.MustCall(unix.SYS_CLOSE, fd)
			_, _ = unix.Open("/nothing", unix.O_RDONLY, 0)
			_ = bpftest.Execveat(unix.AT_FDCWD, "/nothing", []string{"nothing"}, nil, 0)
			_ = unix.Link(a, b)
			_ = unix.Rename(a, b)
			_ = unix.Unlink(b)
			_ = unix.Unlink(a)
			_ = unix.Access("/nothing", 0)
			_ = unix.Stat(dir, new(unix.Stat_t))
			_ = unix.Kill(os.Getpid(), 0)
			_ = unix.Kill(1<<22+1, 0)
			bpftest.Call(unix.SYS_SETGID, os.Getgid())
			bpftest.Call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, os.Getpid())
			bpftest.Call(unix.SYS_BPF, 9999, 0, 0)
			_ = unix.Mount("/nothing", "/nothing", "", unix.MS_BIND, "")
			if sleepy {
				time.Sleep(2 * time.Millisecond)
			}
		}
		if i%4 == 0 {
			l, at := nettest.Listen("127.0.0.1:0", 1)
			c, err := nettest.Connect(at)
			if err != nil {
				return err
			}
			nettest.Close(nettest.Accept(l), c, l)
			pid, err := syscall.ForkExec(quick, []string{"quick"}, nil)
			if err != nil {
				return err
			}
			if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestNoneMissed: the kernel skips no program of any tracer, also where those of many tasks that never
// sleep, or that do most of the time, are preempted. But for TCP: there an interrupt brings the next event in the middle
// of the program, and the kernel skips that. It is rare: a fiftieth is more than ever was seen.
func TestNoneMissed(t *testing.T) {
	bpftest.Require(t)
	var calls, tcp, callsAlone []*tracer.Tracer
	for _, tr := range probes.All() {
		switch {
		case slices.ContainsFunc(tr.Hooks, func(h tracer.Hook) bool { return h.Kind == tracer.Uprobe }):
		case strings.HasPrefix(tr.Name, "tcp"):
			tcp = append(tcp, tr)
		default:
			calls = append(calls, tr)
		}
		if isOfCallsAlone(tr) {
			callsAlone = append(callsAlone, tr)
		}
	}
	type group struct {
		name    string
		tracers []*tracer.Tracer
		hook    tracer.HookKind
	}
	groups := []group{{"calls", calls, ""}, {"tcp", tcp, ""}}
	if attach.First(open.Tracer, false) == tracer.KprobeMulti { // what kernels without it take, where that is another one
		groups = append(groups, group{"tracepoints", callsAlone, tracer.Tracepoint})
	}
	for _, group := range groups {
		tracers := group.tracers
		t.Run(group.name, func(t *testing.T) {
			busy := &bpftest.Child{Role: "all", Args: []string{"all", "16"}}
			sleepy := &bpftest.Child{Role: "all", Args: []string{"all", "4", "sleepy"}}
			busy.Start(t)
			sleepy.Start(t)
			others := slices.DeleteFunc(slices.Clone(tracers), func(tr *tracer.Tracer) bool { return !hasOthersForFailed(tr) })
			var sessions []*tracetest.Session
			for _, opts := range []attach.Options{{}, {Failed: true}} {
				if opts.Failed {
					tracers = others
				}
				if len(tracers) == 0 {
					continue
				}
				opts.SkipHookless, opts.RingSize, opts.Hook = true, 64<<20, group.hook
				s := tracetest.Open(t, opts, tracers...)
				s.Start()
				sessions = append(sessions, s)
			}
			for _, c := range []*bpftest.Child{busy, sleepy} {
				c.WriteLine(t)
				time.Sleep(time.Second)
				c.End(t)
			}
			for _, s := range sessions {
				for _, l := range s.Finish(t).Ledger {
					missed, hits := l.Losses().Missed, l.Total().Hits
					if missed > 0 && (group.name != "tcp" || missed*50 > hits) {
						t.Errorf("%s: %d missed of %d hits", l.Name, missed, hits)
					}
				}
			}
		})
	}
}

// hasOthersForFailed reports whether a tracer has other programs for the calls that failed.
func hasOthersForFailed(tr *tracer.Tracer) bool {
	programs := func(failed bool) (names []string) {
		i := slices.IndexFunc(tr.Hooks, func(h tracer.Hook) bool { return h.Failed == failed })
		for _, p := range tr.Hooks[i].Programs {
			names = append(names, p.Name)
		}
		return names
	}
	return tr.HasFailed() && !slices.Equal(programs(true), programs(false))
}

// isOfCallsAlone reports whether the programs of a tracer's first hook on tracepoints are all of system calls.
func isOfCallsAlone(tr *tracer.Tracer) bool {
	i := slices.IndexFunc(tr.Hooks, func(h tracer.Hook) bool { return h.Kind == tracer.Tracepoint && !h.Failed })
	if i < 0 {
		return false
	}
	spec := bpftest.Must1(tr.Load())
	return !slices.ContainsFunc(tr.Hooks[i].Programs, func(p tracer.Program) bool {
		return !strings.HasPrefix(spec.Programs[p.Name].SectionName, "tracepoint/syscalls/")
	})
}
