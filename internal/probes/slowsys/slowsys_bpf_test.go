// SPDX-License-Identifier: Apache-2.0

package slowsys_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/slowsys"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		"wait": bpftest.AwaitEOF,
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// byMe are the calls of this thread.
func byMe(t *testing.T, failed bool, params map[string]string, workload func()) []event {
	t.Helper()
	bpftest.Require(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return tracetest.Trace(t, slowsys.Tracer, attach.Options{
		Failed: failed, Filter: attach.Filter{TID: uint32(unix.Gettid())}, Params: params,
	}, workload)
}

func native() string {
	if runtime.GOARCH == "arm64" {
		return "arm64"
	}
	return "x86_64"
}

// TestEach: each call once, with what it returned.
func TestEach(t *testing.T) {
	const n = 1009
	var longest time.Duration
	events := byMe(t, false, map[string]string{"min": "0", "syscall": "getpriority"}, func() {
		for range n {
			start := time.Now()
			prio, _, errno := unix.RawSyscall(unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0, 0)
			longest = max(longest, time.Since(start))
			if errno != 0 || prio != 20 {
				t.Errorf("priority %d, %v", prio, errno)
			}
		}
	})
	want := make([]event, n)
	for i := range want {
		want[i] = event{
			"pid": int64(os.Getpid()), "syscall": "getpriority", "number": int64(unix.SYS_GETPRIORITY), "abi": native(),
			"ret": int64(20), "errno": "",
		}
	}
	tracetest.Same(t, events, want)
	for i, e := range events {
		if l := time.Duration(e["latency_ns"].(int64)); l <= 0 || l > longest {
			t.Errorf("call %d took %v, the longest took %v", i, l, longest)
		}
	}
}

// sleep is a nanosleep that no signal interrupts.
func sleep(t *testing.T, d time.Duration) {
	t.Helper()
	var err error
	bpftest.WithoutSignals(func() {
		ts := unix.NsecToTimespec(int64(d))
		err = unix.Nanosleep(&ts, nil)
	})
	check(t, err)
}

// TestMin: the threshold, from both sides.
func TestMin(t *testing.T) {
	sleeps := []time.Duration{time.Millisecond, 60 * time.Millisecond, 0, 80 * time.Millisecond, 2 * time.Millisecond}
	var took []time.Duration
	events := byMe(t, false, map[string]string{"min": "60ms", "syscall": "nanosleep"}, func() {
		for _, d := range sleeps {
			start := time.Now()
			sleep(t, d)
			took = append(took, time.Since(start))
		}
	})
	var want []event
	var long []int
	for i, d := range sleeps {
		if d >= 60*time.Millisecond || took[i] > 60*time.Millisecond { // on a busy machine any may
			want = append(want, event{"syscall": "nanosleep", "ret": int64(0), "errno": ""})
			long = append(long, i)
		}
	}
	if !tracetest.Same(t, events, want) {
		return
	}
	for i, e := range events {
		l, d := time.Duration(e["latency_ns"].(int64)), sleeps[long[i]]
		if l < d || l > took[long[i]] {
			t.Errorf("a sleep of %v took %v, in the test %v", d, l, took[long[i]])
		}
	}
}

// TestDefault: without --min, what takes 10 ms.
func TestDefault(t *testing.T) {
	events := byMe(t, false, map[string]string{"syscall": "nanosleep"}, func() {
		for _, d := range []time.Duration{time.Microsecond, 15 * time.Millisecond} {
			sleep(t, d)
		}
	})
	if len(events) == 0 {
		t.Error("15 ms are not shown")
	}
	for _, e := range events {
		if l := time.Duration(e["latency_ns"].(int64)); l < 10*time.Millisecond {
			t.Errorf("%v are shown", l)
		}
	}
}

// TestFailed: those alone that fail, and what looks like it and is none.
func TestFailed(t *testing.T) {
	const n = 53
	failing := byMe(t, true, map[string]string{"min": "0", "syscall": "close"}, func() {
		for range n {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			check(t, err)
			check(t, unix.Close(fd))
			if err := unix.Close(fd + 100000); !errors.Is(err, unix.EBADF) {
				t.Errorf("close: %v", err)
			}
		}
	})
	want := make([]event, n)
	for i := range want {
		want[i] = event{"syscall": "close", "ret": int64(-9), "errno": "EBADF"}
	}
	tracetest.Same(t, failing, want)
}

// TestInterrupted: a call that a signal interrupts begins anew, and its program knows of no failure.
func TestInterrupted(t *testing.T) {
	bpftest.Require(t)
	const n = 3
	for _, failed := range []bool{false, true} {
		opts := attach.Options{
			Failed: failed, Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: "reads"}, Params: map[string]string{"min": "0", "syscall": "read"},
		}
		events := tracetest.Trace(t, slowsys.Tracer, opts, func() {
			var pipe [2]int
			check(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
			tid, left := make(chan int), make(chan bool)
			go func() {
				bpftest.OnThread(t, "reads", func() {
					tid <- unix.Gettid()
					bpftest.MustCall(unix.SYS_READ, pipe[0], make([]byte, 1), 1)
				})
				left <- true
			}()
			reader := <-tid
			for range n {
				bpftest.Interrupt(t, reader, unix.SYS_READ)
			}
			_, err := unix.Write(pipe[1], []byte{0})
			<-left
			check(t, errors.Join(err, unix.Close(pipe[0]), unix.Close(pipe[1])))
		})
		if failed {
			tracetest.Same(t, events, nil)
			continue
		}
		want := make([]event, n, n+1)
		for i := range want {
			want[i] = event{"syscall": "read", "errno": "ERESTARTSYS"}
		}
		tracetest.Same(t, events, append(want, event{"syscall": "read", "errno": "", "ret": int64(1)}))
	}
}

// children runs workload with the events of this process's children.
func children(t *testing.T, params map[string]string, workload func()) []event {
	t.Helper()
	return tracetest.Trace(t, slowsys.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}, Params: params}, func() {
		workload()
		if n := tracetest.MapEntries(t, "rb_slowsys_call"); n != 0 {
			t.Errorf("%d calls of tasks that have ended are remembered", n)
		}
	})
}

// pause is the number of that call on x86_64.
const pause = 34

// TestEnds: calls that their tasks do not outlive. That which a fatal signal ends is
// shown, exit_group is not, and nothing of either stays behind.
func TestEnds(t *testing.T) {
	bpftest.Require(t)
	const n = 11
	var pids []int64
	events := children(t, map[string]string{"min": "0", "syscall": "pause"}, func() {
		if runtime.GOARCH == "arm64" {
			return // has no pause
		}
		// mov eax, pause; syscall
		path := filepath.Join(bpftest.Dir(t), "pause")
		check(t, os.WriteFile(path, bpftest.Program([]byte{0xb8, pause, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b}), 0o755))
		for range n {
			pid, err := syscall.ForkExec(path, []string{"pause"}, nil)
			check(t, err)
			pids = append(pids, int64(pid))
			bpftest.AwaitCall(t, pid, pause)
			check(t, unix.Kill(pid, unix.SIGKILL))
			var status unix.WaitStatus
			_, err = unix.Wait4(pid, &status, 0, nil)
			check(t, err)
		}
	})
	var want []event
	for _, pid := range pids {
		want = append(want, event{"pid": pid, "syscall": "pause", "comm": "pause", "errno": "ERESTARTNOHAND", "ret": int64(-514)})
	}
	tracetest.Same(t, events, want)

	events = children(t, map[string]string{"min": "0"}, func() {
		bpftest.Spawn(t, 101, bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick"), []string{"quick"}, nil, nil)
	})
	execs := 0
	for _, e := range events {
		switch e["syscall"] {
		case "execve":
			execs++
			if diff := e.Diff(event{"comm": "quick", "ret": int64(0), "abi": native()}); diff != "" {
				t.Error(diff)
			}
		case "exit", "exit_group":
			t.Errorf("%v is shown", e["syscall"])
		}
	}
	if missed := tracetest.Misses(t); execs > 101 || execs+missed < 101 {
		t.Errorf("%d calls of execve, want 101; %d hits missed", execs, missed)
	}
}

// TestCompat: calls by the 32-bit ABI have the names that it gives them.
func TestCompat(t *testing.T) {
	bpftest.Require(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("this machine has no int 0x80")
	}
	path := filepath.Join(bpftest.Dir(t), "compat")
	// mov eax, getpid; int 0x80; xor ebx, ebx; mov eax, exit; int 0x80
	check(t, os.WriteFile(path, bpftest.Program([]byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x31, 0xdb, 0xb8, 1, 0, 0, 0, 0xcd, 0x80}), 0o755))
	run := func() (pid int, status unix.WaitStatus) {
		pid, err := syscall.ForkExec(path, []string{"compat"}, nil)
		check(t, err)
		_, err = unix.Wait4(pid, &status, 0, nil)
		check(t, err)
		return pid, status
	}
	if _, status := run(); status.Signaled() {
		t.Skip("this kernel does not run 32-bit programs")
	}
	var pid int
	events := children(t, map[string]string{"min": "0", "syscall": "getpid"}, func() { pid, _ = run() })
	tracetest.Same(t, events, []event{{
		"pid": int64(pid), "comm": "compat", "syscall": "getpid", "abi": "i386", "number": int64(20), "ret": int64(pid),
	}})
	// The number that means writev to 64-bit programs.
	events = children(t, map[string]string{"min": "0", "syscall": "20"}, func() { run() })
	tracetest.Same(t, events, []event{{"syscall": "getpid", "abi": "i386"}})
}

// TestNoRoom: calls that there is no room to remember are lost, and told of.
func TestNoRoom(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	tr := tracetest.WithMap(slowsys.Tracer, "rb_slowsys_calls", 1)
	// A call that nothing else in this process makes.
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Params: map[string]string{"min": "0", "syscall": "ppoll"}}, tr)
	s.Start()
	var pipe [2]int
	check(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	entered, left := make(chan int), make(chan error)
	go bpftest.WithoutSignals(func() { // whose call takes the room
		entered <- unix.Gettid()
		_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(pipe[0]), Events: unix.POLLIN}}, nil, nil)
		left <- err
	})
	bpftest.AwaitCall(t, <-entered, unix.SYS_PPOLL)
	for range n {
		_, err := unix.Ppoll(nil, &unix.Timespec{}, nil)
		check(t, err)
	}
	_, err := unix.Write(pipe[1], []byte{0})
	check(t, errors.Join(err, <-left, unix.Close(pipe[0]), unix.Close(pipe[1])))
	r := s.Finish(t)
	tracetest.Same(t, r.Events, []event{{"syscall": "ppoll", "ret": int64(1)}})
	lost := int(r.Ledger[0].Losses().NoEntry)
	if missed := tracetest.Misses(t); lost > n || lost+missed < n {
		t.Errorf("%d calls are lost, and %d hits missed, of %d", lost, missed, n)
	}
}
