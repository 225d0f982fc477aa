// SPDX-License-Identifier: Apache-2.0

package signal_test

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	probe "github.com/rbtrace/rbtrace/internal/probes/signal"
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

// byMe are the events of this thread's own doing.
func byMe(t *testing.T, failed bool, workload func()) []event {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return tracetest.Trace(t, probe.Tracer, attach.Options{
		Failed: failed, Filter: attach.Filter{TID: uint32(unix.Gettid())},
	}, workload)
}

// TestKill: each signal once, to whom it was sent.
func TestKill(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	c := &bpftest.Child{Role: "wait"}
	c.Start(t)
	pid := int64(c.PID())
	var want []event
	events := byMe(t, false, func() {
		for i := range n {
			// Go programs catch these, and go on.
			sig := []unix.Signal{unix.SIGURG, unix.SIGWINCH, unix.SIGCHLD}[i%3]
			check(t, unix.Kill(c.PID(), sig))
			want = append(want, event{
				"pid": int64(os.Getpid()), "signal": unix.SignalName(sig), "tpid": pid, "to_process": true, "from_kernel": false,
				"code": "SI_USER", "ret": int64(0), "errno": "",
			})
		}
	})
	tracetest.Same(t, events, want)
	for _, e := range events {
		if r := e["result"]; r != "delivered" && r != "pending" && r != "ignored" {
			t.Errorf("result %q", r)
		}
	}
	c.End(t)
}

// TestResults: what becomes of a signal that is blocked, and of one that is ignored.
func TestResults(t *testing.T) {
	bpftest.Require(t)
	me := os.Getpid()
	signal.Ignore(unix.SIGUSR2)
	defer signal.Reset(unix.SIGUSR2)
	var tid int
	events := byMe(t, false, func() {
		tid = unix.Gettid()
		var set, old unix.Sigset_t
		set.Val[0] = 1 << (unix.SIGUSR1 - 1)
		check(t, unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old))
		check(t, unix.Tgkill(me, tid, unix.SIGUSR1))
		check(t, unix.Tgkill(me, tid, unix.SIGUSR1))
		check(t, unix.Tgkill(me, tid, unix.SIGUSR2))
		signals := make(chan os.Signal, 2)
		signal.Notify(signals, unix.SIGUSR1) // it is no reason to die
		check(t, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil))
		<-signals
		signal.Stop(signals)
	})
	var mine []event
	for _, e := range events {
		if s := e["signal"]; s == "SIGUSR1" || s == "SIGUSR2" { // the Go runtime has its own
			mine = append(mine, e)
		}
	}
	one := func(sig, result string) event {
		return event{
			"signal": sig, "result": result, "tpid": int64(me), "ttid": int64(tid), "to_process": false, "code": "SI_TKILL", "from_kernel": false,
		}
	}
	tracetest.Same(t, mine, []event{one("SIGUSR1", "delivered"), one("SIGUSR1", "pending"), one("SIGUSR2", "ignored")})
}

// TestFailed: the calls that send nothing, with what they were given.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	const nobody = 1<<22 + 1 // above PID_MAX_LIMIT
	kill := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	events := byMe(t, true, func() {
		kill(unix.Kill(nobody, unix.SIGKILL), unix.ESRCH)
		kill(unix.Kill(-nobody, unix.SIGTERM), unix.ESRCH)
		kill(unix.Kill(os.Getpid(), 65), unix.EINVAL)
		kill(unix.Kill(os.Getpid(), 0), nil) // which succeeds
		_, _, errno := unix.RawSyscall(unix.SYS_TKILL, nobody, uintptr(unix.SIGHUP), 0)
		kill(errno, unix.ESRCH)
		kill(unix.Tgkill(os.Getpid(), nobody, unix.SIGINT), unix.ESRCH)
	})
	failed := func(sig string, tpid, ttid, ret int64, errno string) event {
		return event{"signal": sig, "tpid": tpid, "ttid": ttid, "ret": ret, "errno": errno, "result": "", "tcomm": ""}
	}
	tracetest.Same(t, events, []event{
		failed("SIGKILL", nobody, 0, -3, "ESRCH"),
		failed("SIGTERM", -nobody, 0, -3, "ESRCH"),
		failed("65", int64(os.Getpid()), 0, -22, "EINVAL"),
		failed("SIGHUP", 0, nobody, -3, "ESRCH"),
		failed("SIGINT", int64(os.Getpid()), nobody, -3, "ESRCH"),
	})
}

// TestKernel: the end of a child, and a timer.
func TestKernel(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "wait"}
	c.Start(t)
	events := tracetest.Trace(t, probe.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(c.PID())}}, func() {
		c.End(t)
		time.Sleep(10 * time.Millisecond) // the parent may know before the event is there
	})
	var ends []event
	for _, e := range events {
		if e["signal"] == "SIGCHLD" {
			ends = append(ends, e)
		}
	}
	tracetest.Same(t, ends, []event{{
		"pid": int64(c.PID()), "tpid": int64(os.Getpid()), "from_kernel": true, "to_process": true,
		"code": "1", // CLD_EXITED
	}})
}

// TestNumber: --signal.
func TestNumber(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "wait"}
	c.Start(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opts := attach.Options{
		Filter: attach.Filter{TID: uint32(unix.Gettid())},
		Params: map[string]string{"signal": strconv.Itoa(int(unix.SIGWINCH))},
	}
	events := tracetest.Trace(t, probe.Tracer, opts, func() {
		for range 7 {
			check(t, unix.Kill(c.PID(), unix.SIGURG))
			check(t, unix.Kill(c.PID(), unix.SIGWINCH))
		}
	})
	want := make([]event, 7)
	for i := range want {
		want[i] = event{"signal": "SIGWINCH", "tpid": int64(c.PID())}
	}
	tracetest.Same(t, events, want)
	c.End(t)
}
