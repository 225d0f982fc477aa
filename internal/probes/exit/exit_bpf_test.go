// SPDX-License-Identifier: Apache-2.0

package exit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/exit"
)

type event = tracetest.Event

// Roles: each ends in its own way.
func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		"code": func() error {
			n, err := strconv.Atoi(os.Args[1])
			if err != nil {
				return err
			}
			os.Exit(n)
			return nil
		},
		"wait": bpftest.AwaitEOF,
		// crash becomes a program that cannot be mapped, which the kernel finds when this one
		// is gone.
		"crash": func() error {
			file := fmt.Sprintf("%s/rbtrace-broken-%d", os.TempDir(), os.Getpid())
			if err := os.WriteFile(file, bpftest.Broken(), 0o755); err != nil {
				return err
			}
			fd, err := unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err := errors.Join(err, os.Remove(file)); err != nil {
				return err
			}
			return bpftest.Execveat(fd, "", []string{"broken"}, nil, unix.AT_EMPTY_PATH)
		},
		// leaderless ends while its leader is a zombie, with the status of the exit_group of
		// another thread.
		"leaderless": func() error {
			done := make(chan error)
			go func() {
				runtime.LockOSThread()
				for { // until the leader is no more
					stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", os.Getpid()))
					if err != nil {
						done <- err
						return
					}
					if len(stat) > 0 && stateOf(stat) == 'Z' {
						os.Exit(23)
					}
					time.Sleep(time.Millisecond)
				}
			}()
			// This thread is the leader, since the goroutine of main stays on it: see init.
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			return <-done
		},
	})
}

// The goroutine of main stays on the leader, so that it can end it.
func init() { runtime.LockOSThread() }

func stateOf(stat []byte) byte {
	for i := len(stat) - 1; i > 0; i-- {
		if stat[i] == ')' {
			return stat[i+2]
		}
	}
	return 0
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// child runs a role, sends it a signal if there is one,
// and returns its id, the status that wait tells, and how long it lived at the most.
func child(t *testing.T, role, arg string, kill unix.Signal) (pid int, status unix.WaitStatus, most time.Duration) {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	start := time.Now()
	pid, err = syscall.ForkExec("/proc/self/exe", []string{role, arg}, &syscall.ProcAttr{
		Dir: bpftest.Dir(t), Env: bpftest.RoleEnv(role), Files: []uintptr{r.Fd(), 2, 2},
	})
	check(t, err)
	if kill != 0 {
		check(t, unix.Kill(pid, kill))
	}
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	check(t, err)
	return pid, status, time.Since(start)
}

// TestExit: the status is what the parent waits for.
func TestExit(t *testing.T) {
	bpftest.Require(t)
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("failed=%v", failed), func(t *testing.T) {
			var want []event
			var longest []time.Duration
			run := func(role, arg string, kill unix.Signal, status unix.WaitStatus) {
				pid, got, most := child(t, role, arg, kill)
				if got&^0x80 != status {
					t.Errorf("%s %s ended with %#x, want %#x", role, arg, got, status)
				}
				if failed && got == 0 {
					return
				}
				name, signo := "", 0
				if got.Signaled() {
					name, signo = unix.SignalName(got.Signal()), int(got.Signal())
				}
				want = append(want, event{
					"pid": int64(pid), "code": int64(got.ExitStatus()), "signal": name, "signo": int64(signo), "core_dumped": got.CoreDump(),
				})
				longest = append(longest, most)
			}
			events := tracetest.Trace(t, exit.Tracer, attach.Options{Failed: failed, Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
				for _, code := range []int{0, 1, 2, 127, 255} {
					run("code", strconv.Itoa(code), 0, unix.WaitStatus(code<<8))
				}
				for _, s := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGINT} {
					run("wait", "", s, unix.WaitStatus(s))
				}
				run("leaderless", "", 0, 23<<8)
			})
			if !tracetest.Same(t, events, want) {
				return
			}
			for i, e := range events {
				if age := time.Duration(e["age_ns"].(int64)); age <= 0 || age > longest[i] {
					t.Errorf("event %d: age %v, at the most %v", i, age, longest[i])
				}
			}
		})
	}
}

// TestCore: a program that crashes in the kernel's hands, and its core if one is
// dumped.
func TestCore(t *testing.T) {
	bpftest.Require(t)
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_CORE, &limit))
	t.Cleanup(func() { check(t, unix.Setrlimit(unix.RLIMIT_CORE, &limit)) })
	check(t, unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}))
	var want event
	c := &bpftest.Child{Role: "crash"}
	events := tracetest.Trace(t, exit.Tracer, attach.Options{Failed: true, Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
		c.Start(t)
		status := c.Wait(t)
		if !status.Signaled() || status.Signal() != unix.SIGSEGV {
			t.Fatalf("it ended with %#x", status)
		}
		want = event{"pid": int64(c.PID()), "code": int64(-1), "signal": "SIGSEGV", "core_dumped": status.CoreDump()}
	})
	tracetest.Same(t, events, []event{want})
}

// TestDumped: a core that is there, as the kernel writes it into the working directory.
func TestDumped(t *testing.T) {
	bpftest.Require(t)
	const n = 3
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	check(t, err)
	if pattern[0] == '|' || bytes.Contains(pattern, []byte("/")) {
		bpftest.Lacks(t, fmt.Sprintf("cores do not go to the working directory, but to %s", pattern))
	}
	dir := bpftest.Dir(t)
	path := dir + "/crash"
	check(t, os.WriteFile(path, bpftest.Crash(), 0o755))
	var limit unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_CORE, &limit))
	t.Cleanup(func() { check(t, unix.Setrlimit(unix.RLIMIT_CORE, &limit)) })
	for _, dumped := range []bool{true, false} {
		size := uint64(0)
		if dumped {
			size = unix.RLIM_INFINITY
		}
		check(t, unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: size, Max: limit.Max}))
		var want []event
		events := tracetest.Trace(t, exit.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid()), Comm: "crash"}}, func() {
			for range n {
				pid, err := syscall.ForkExec(path, []string{"crash"}, &syscall.ProcAttr{Dir: dir})
				check(t, err)
				var status unix.WaitStatus
				_, err = unix.Wait4(pid, &status, 0, nil)
				check(t, err)
				cores, err := filepath.Glob(dir + "/core*")
				check(t, err)
				if status.Signal() != unix.SIGSEGV || status.CoreDump() != dumped || len(cores) > 0 != dumped {
					t.Fatalf("status %#x, cores %q", status, cores)
				}
				for _, core := range cores {
					check(t, os.Remove(core))
				}
				want = append(want, event{"pid": int64(pid), "code": int64(-1), "signal": "SIGSEGV", "core_dumped": dumped})
			}
		})
		tracetest.Same(t, events, want)
	}
}

// TestUnsure: where the kernel cannot tell whether a process has been seen, it is shown.
func TestUnsure(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	full := *exit.Tracer
	full.Load = func() (*ebpf.CollectionSpec, error) { // one process in all, and none makes room
		spec, err := exit.Tracer.Load()
		if err == nil {
			spec.Maps["rb_seen"].Type, spec.Maps["rb_seen"].MaxEntries = ebpf.Hash, 1
		}
		return spec, err
	}
	path := bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick")
	events := tracetest.Trace(t, &full, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid()), Comm: "quick"}}, func() {
		bpftest.Spawn(t, n, path, []string{"quick"}, nil, nil)
	})
	want := make([]event, n)
	for i := range want {
		want[i] = event{"code": int64(0), "comm": "quick"}
	}
	tracetest.Same(t, events, want)
}

// TestThreads: a process is shown once, however many threads it has, and the
// others count as filtered.
func TestThreads(t *testing.T) {
	bpftest.Require(t)
	const processes = 101
	path := bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick")
	me := uint32(os.Getpid())
	events := tracetest.Trace(t, exit.Tracer, attach.Options{Filter: attach.Filter{PPID: me, Comm: "quick"}}, func() {
		var wg sync.WaitGroup
		for range 4 { // threads of this process, which end too
			wg.Go(runtime.LockOSThread) // and not unlocked: the thread ends
		}
		wg.Wait()
		bpftest.Spawn(t, processes, path, []string{"quick"}, nil, nil)
	})
	want := make([]event, processes)
	for i := range want {
		want[i] = event{"code": int64(0), "signal": "", "comm": "quick", "ppid": int64(me)}
	}
	tracetest.Same(t, events, want)
}

// TestEachByItself: where the threads end one by one, the status is the one that the parent
// waits for, whoever is the last.
func TestEachByItself(t *testing.T) {
	bpftest.Require(t)
	n := bpftest.Few(499, 101)
	path := bpftest.Dir(t) + "/threads"
	check(t, os.WriteFile(path, bpftest.Threads(), 0o755))
	want := make(map[int64]int64)
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid()), Comm: "threads"}}, exit.Tracer)
	s.Start()
	for range n {
		pid, err := syscall.ForkExec(path, []string{"threads"}, nil)
		check(t, err)
		var status unix.WaitStatus
		_, err = unix.Wait4(pid, &status, 0, nil)
		check(t, err)
		if code := status.ExitStatus(); code != 3 && code != 7 {
			t.Fatalf("status %#x", status)
		}
		want[int64(pid)] = int64(status.ExitStatus())
	}
	r := s.Finish(t)
	r.Accounts(t, n)
	r.NoneTurnedAway(t)
	if len(want) != n {
		t.Errorf("%d processes, want %d", len(want), n)
	}
	for _, e := range r.Events { // in whatever order those of other CPUs come
		if code := want[e["pid"].(int64)]; e["code"] != code {
			t.Errorf("process %d ended with %d, want %d", e["pid"], e["code"], code)
		}
	}
}

// TestTree: the last that is seen of a followed process is its end.
func TestTree(t *testing.T) {
	bpftest.Require(t)
	for {
		s := tracetest.Open(t, attach.Options{Filter: attach.Filter{Follow: true}}, exit.Tracer)
		s.Start()
		c := &bpftest.Child{Role: "wait"}
		c.Start(t)
		check(t, s.Follow(c.PID()))
		c.End(t)
		r := s.Finish(t)
		if len(r.Events) == 0 && r.Ledger[0].Missed > 0 {
			continue // it may have been this one
		}
		tracetest.Same(t, r.Events, []event{{"pid": int64(c.PID()), "code": int64(0)}})
		return
	}
}

// TestTogether: threads that end at the same time are one process that ends.
func TestTogether(t *testing.T) {
	bpftest.Require(t)
	processes := bpftest.Few(211, 53)
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, exit.Tracer)
	s.Start()
	ended := make(map[int64]int)
	for range processes {
		// The threads of a Go program end together, when it calls exit_group.
		pid, status, _ := child(t, "code", "5", 0)
		if status.ExitStatus() != 5 {
			t.Fatalf("status %#x", status)
		}
		ended[int64(pid)]++
	}
	r := s.Finish(t)
	for _, e := range r.Events {
		if diff := e.Diff(event{"code": int64(5)}); diff != "" {
			t.Error(diff)
		}
		ended[e["pid"].(int64)]--
	}
	for pid, n := range ended {
		if n < 0 {
			t.Errorf("process %d ended %d times", pid, 1-n)
		}
	}
	r.Accounts(t, processes)
	r.NoneTurnedAway(t)
}
