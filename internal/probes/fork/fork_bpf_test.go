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
			for _, id := range ids {
				if _, err := fmt.Fprintln(bpftest.ReportTo, id); err != nil {
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
}

// TestFlags: those that the call was given, all of them and no others.
func TestFlags(t *testing.T) {
	bpftest.Require(t)
	path := bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var want []event
	events := tracetest.Trace(t, fork.Tracer, attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}}, func() {
		for _, test := range []struct {
			flags uintptr
			names []string
		}{
			{0, nil},
			{unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, []string{"CLONE_NEWUTS", "CLONE_NEWIPC"}},
			{unix.CLONE_FS | unix.CLONE_SYSVSEM, []string{"CLONE_FS", "CLONE_SYSVSEM"}},
			{unix.CLONE_PARENT_SETTID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, []string{"CLONE_NEWNS", "CLONE_PARENT_SETTID", "CLONE_NEWNET"}},
		} {
			pid, err := syscall.ForkExec(path, []string{"quick"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: test.flags}})
			if err != nil {
				t.Fatal(err)
			}
			bpftest.Wait(t, pid)
			// syscall.ForkExec adds these.
			names := append([]string{"CLONE_VM", "CLONE_VFORK"}, test.names...)
			slices.Sort(names)
			want = append(want, event{"child_pid": int64(pid), "thread": false, "flags": names})
		}
	})
	// The runtime may make threads as well.
	events = slices.DeleteFunc(events, func(e event) bool { return e["thread"] == true })
	for _, e := range events {
		slices.Sort(e["flags"].([]string))
	}
	tracetest.Same(t, events, want)
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
	// cloneFlags of Go's runtime (os_linux.go), and what its clone adds (sys_linux_amd64.s).
	flags := []string{"CLONE_VM", "CLONE_FS", "CLONE_FILES", "CLONE_SIGHAND", "CLONE_THREAD", "CLONE_SYSVSEM"}
	if runtime.GOARCH == "amd64" {
		flags = append(flags, "CLONE_SETTLS")
	}
	old := 0 // threads that were there before tracing began
	seen := make(map[int64]bool)
	for _, e := range events {
		if diff := e.Diff(event{
			"pid": int64(c.PID()), "child_pid": int64(c.PID()), "thread": true,
			"flags": flags,
		}); diff != "" {
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
