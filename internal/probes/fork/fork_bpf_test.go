// SPDX-License-Identifier: Apache-2.0

package fork_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/fork"
)

type event = tracetest.Event

// threads is how many threads the role of that name makes.
const threads = 23

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		"wait": bpftest.AwaitEOF,
		// threads waits, makes threads, and reports their ids.
		"threads": func() error {
			if err := bpftest.AwaitEOF(); err != nil {
				return err
			}
			var mu sync.Mutex
			var wg sync.WaitGroup
			var ids []int
			release := make(chan struct{})
			for range threads {
				wg.Go(func() {
					runtime.LockOSThread() // so that each has its own
					mu.Lock()
					ids = append(ids, unix.Gettid())
					if len(ids) == threads {
						close(release)
					}
					mu.Unlock()
					<-release
				})
			}
			wg.Wait()
			report := os.NewFile(bpftest.ReportFD, "report")
			for _, id := range ids {
				if _, err := fmt.Fprintln(report, id); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// TestProcesses: each child once, under the id that its parent was told.
func TestProcesses(t *testing.T) {
	bpftest.Require(t)
	const n = 101
	path := bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var want []event
	all := tracetest.Trace(t, fork.Tracer, attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}}, func() {
		for range n {
			pid, err := syscall.ForkExec(path, []string{"quick"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			bpftest.Wait(t, pid)
			want = append(want, event{
				"pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "child_pid": int64(pid), "child_tid": int64(pid), "thread": false,
			})
		}
	})
	// The runtime may make threads as well.
	tracetest.Same(t, slices.DeleteFunc(all, func(e event) bool { return e["thread"] == true }), want)
	for _, e := range all {
		// How syscall.ForkExec does it.
		if flags := e["flags"].([]string); !slices.Contains(flags, "CLONE_VFORK") || !slices.Contains(flags, "CLONE_VM") {
			t.Fatalf("flags %v", flags)
		}
	}
}

// TestFlags: of a clone with namespaces.
func TestFlags(t *testing.T) {
	bpftest.Require(t)
	// The first time, os makes a child to find out what the kernel can do.
	first := &bpftest.Child{Role: "wait"}
	first.Start(t)
	first.End(t)
	c := &bpftest.Child{Role: "wait", Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}}
	events := tracetest.Trace(t, fork.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}}, func() {
		c.Start(t)
		c.End(t)
	})
	events = slices.DeleteFunc(events, func(e event) bool { return e["thread"] == true })
	tracetest.Same(t, events, []event{{"child_pid": int64(c.PID())}})
	flags := events[0]["flags"].([]string)
	for _, want := range []string{"CLONE_NEWUTS", "CLONE_NEWIPC"} {
		if !slices.Contains(flags, want) {
			t.Errorf("%s is not among %v", want, flags)
		}
	}
	if slices.Contains(flags, "CLONE_THREAD") || slices.Contains(flags, "CLONE_NEWNET") {
		t.Errorf("flags %v", flags)
	}
}

// TestThreads: each thread of a process once, under its id.
func TestThreads(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "threads"}
	c.Start(t)
	want := make(map[int64]bool)
	events := tracetest.Trace(t, fork.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(c.PID())}}, func() {
		for lines := bufio.NewScanner(bytes.NewReader(c.End(t))); lines.Scan(); {
			var id int64
			if _, err := fmt.Sscan(lines.Text(), &id); err != nil {
				t.Fatal(err)
			}
			want[id] = true
		}
	})
	if len(want) != threads {
		t.Fatalf("%d threads report %d ids", threads, len(want))
	}
	old := 0 // threads that were there before tracing began
	seen := make(map[int64]bool)
	for _, e := range events {
		if diff := e.Diff(event{"pid": int64(c.PID()), "child_pid": int64(c.PID()), "thread": true}); diff != "" {
			t.Error(diff)
		}
		id := e["child_tid"].(int64)
		if seen[id] {
			t.Errorf("thread %d is there twice", id)
		}
		seen[id] = true
	}
	for id := range want {
		if !seen[id] {
			old++
		}
	}
	// A Go program begins with a few.
	if old > 8 {
		t.Errorf("%d of %d threads are missing", old, threads)
	}
}
