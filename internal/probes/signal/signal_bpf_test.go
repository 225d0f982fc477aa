// SPDX-License-Identifier: Apache-2.0

package signal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	probe "github.com/rbtrace/rbtrace/internal/probes/signal"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// wait says that it is there, and waits.
		"wait": func() error {
			if _, err := fmt.Fprintln(bpftest.ReportTo, "there"); err != nil {
				return err
			}
			return bpftest.AwaitEOF()
		},
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start starts a child that waits, and returns when it does: a program gets its name only after
// its parent can go on.
func start(t *testing.T, c *bpftest.Child) {
	t.Helper()
	c.Start(t)
	c.ReadLine(t)
}

// comm is the name of a thread.
func comm(t *testing.T, tid int) string {
	t.Helper()
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", tid))
	check(t, err)
	return strings.TrimSuffix(string(name), "\n")
}

// byGo reports whether an event is one of Go's runtime, whose threads interrupt each other.
func byGo(e event) bool { return e["signal"] == "SIGURG" && e["tpid"] == int64(os.Getpid()) }

// byMe are the events of this thread's own doing.
func byMe(t *testing.T, failed bool, workload func()) []event {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return slices.DeleteFunc(tracetest.Trace(t, probe.Tracer, attach.Options{
		Failed: failed, Filter: attach.Filter{TID: uint32(unix.Gettid())},
	}, workload), byGo)
}

// TestKill: each signal once, to whom it was sent.
func TestKill(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	c := &bpftest.Child{Role: "wait"}
	start(t, c)
	pid := int64(c.PID())
	var want []event
	events := byMe(t, false, func() {
		for i := range n {
			// Go programs catch these, and go on.
			sig := []unix.Signal{unix.SIGURG, unix.SIGWINCH, unix.SIGCHLD}[i%3]
			check(t, unix.Kill(c.PID(), sig))
			want = append(want, event{
				"pid": int64(os.Getpid()), "signal": unix.SignalName(sig), "signo": int64(sig), "tpid": pid, "ttid": pid, "tcomm": comm(t, c.PID()),
				"to_process": true, "from_kernel": false, "si_code": "SI_USER", "ret": int64(0), "errno": "", "call": "",
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
	one := func(sig, result string) event {
		return event{
			"signal": sig, "result": result, "tpid": int64(me), "ttid": int64(tid), "to_process": false, "si_code": "SI_TKILL", "from_kernel": false,
		}
	}
	tracetest.Same(t, events, []event{one("SIGUSR1", "delivered"), one("SIGUSR1", "pending"), one("SIGUSR2", "ignored")})
}

// siginfo is struct siginfo of rt_sigqueueinfo and rt_sigtimedwait: kernel ABI.
type siginfo struct {
	signo, errno, code int32
	_                  [116]byte
}

func queue(pid int, sig unix.Signal, info *siginfo) error {
	_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(sig), uintptr(unsafe.Pointer(info)))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestQueue: signals that a process sends with a code of its own.
func TestQueue(t *testing.T) {
	bpftest.Require(t)
	const n = 7
	c := &bpftest.Child{Role: "wait"}
	start(t, c)
	pid := int64(c.PID())
	var want []event
	events := byMe(t, false, func() {
		for range n {
			check(t, queue(c.PID(), unix.SIGURG, &siginfo{signo: int32(unix.SIGURG), code: -1}))
			want = append(want, event{
				"signal": "SIGURG", "tpid": pid, "ttid": pid, "tcomm": comm(t, c.PID()), "to_process": true, "from_kernel": false,
				"si_code": "SI_QUEUE",
			})
		}
	})
	tracetest.Same(t, events, want)
	c.End(t)
}

// TestNotices: what the kernel's two kinds of timers send, and its message queues, is not the doing of who runs by then.
func TestNotices(t *testing.T) {
	bpftest.Require(t)
	const n, name = 7, "rbtrace-notices"
	notices := make(chan os.Signal, n)
	signal.Notify(notices, unix.SIGALRM, unix.SIGUSR2)
	defer signal.Stop(notices)
	queue, remove := messageQueue(t)
	defer remove()
	var tid int
	var codes []int32
	for _, test := range []struct {
		sig  string
		arm  func()
		want event
	}{
		{"usr1", func() { codes = append(codes, timer(tid, unix.SIGUSR1)) }, event{
			"signal": "SIGUSR1", "si_code": "SI_TIMER", "to_process": false, "tcomm": name,
		}},
		{"SIGALRM", func() {
			bpftest.Must(setitimer(time.Millisecond))
			<-notices
		}, event{"signal": "SIGALRM", "si_code": "SI_KERNEL", "to_process": true, "tcomm": comm(t, os.Getpid())}},
		{"SIGUSR2", func() {
			notify, message, got := make([]byte, 64), []byte("m"), make([]byte, 8)
			binary.NativeEndian.PutUint32(notify[8:], uint32(unix.SIGUSR2)) // struct sigevent
			bpftest.MustCall(unix.SYS_MQ_NOTIFY, queue, notify)
			bpftest.MustCall(unix.SYS_MQ_TIMEDSEND, queue, message, 1, 0, nil)
			<-notices
			bpftest.MustCall(unix.SYS_MQ_TIMEDRECEIVE, queue, got, len(got), nil, nil)
		}, event{"signal": "SIGUSR2", "si_code": "SI_MESGQ", "to_process": true, "tcomm": comm(t, os.Getpid())}},
	} {
		all := tracetest.Trace(t, probe.Tracer, attach.Options{Params: map[string]string{"signal": test.sig}}, func() {
			bpftest.OnThread(t, name, func() {
				tid = unix.Gettid()
				for range n {
					test.arm()
				}
			})
		})
		events := slices.DeleteFunc(all, func(e event) bool { return e["tpid"] != int64(os.Getpid()) })
		test.want["from_kernel"], test.want["result"] = true, "delivered"
		if test.want["ttid"] = int64(os.Getpid()); test.want["to_process"] == false {
			test.want["ttid"] = int64(tid)
		}
		want := make([]event, n)
		for i := range want {
			want[i] = test.want
		}
		tracetest.Same(t, events, want)
	}
	for _, code := range codes { // as the thread got them
		if code != -2 {
			t.Errorf("si_code %d", code)
		}
	}
}

// messageQueue makes one of POSIX's, which the returned function removes.
func messageQueue(t *testing.T) (fd int, remove func()) {
	t.Helper()
	name := fmt.Sprint("rbtrace-", os.Getpid())
	attr := make([]byte, 64) // struct mq_attr: one message of 8 bytes
	binary.NativeEndian.PutUint64(attr[8:], 1)
	binary.NativeEndian.PutUint64(attr[16:], 8)
	fd = bpftest.Call(unix.SYS_MQ_OPEN, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600, attr)
	if fd < 0 {
		t.Fatalf("making a message queue: %v", unix.Errno(-fd))
	}
	return fd, func() {
		bpftest.MustCall(unix.SYS_MQ_UNLINK, name)
		check(t, unix.Close(fd))
	}
}

// timer has a timer of timer_create send a signal to this thread, of that id, and returns
// what the signal says of where it is from.
func timer(tid int, sig unix.Signal) (code int32) {
	event := struct { // struct sigevent
		value        uint64
		signo, where int32
		tid          int32
		_            [44]byte
	}{signo: int32(sig), where: 4 /* SIGEV_THREAD_ID */, tid: int32(tid)}
	var info siginfo
	bpftest.WithoutSignals(func() {
		var id int32
		_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id)))
		if errno == 0 {
			spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(time.Millisecond))}
			_, _, errno = unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
		}
		if errno == 0 {
			var set unix.Sigset_t
			set.Val[0] = 1 << (sig - 1)
			_, _, errno = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&info)), 0, 8, 0, 0)
		}
		if errno == 0 {
			_, _, errno = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0)
		}
		if errno != 0 {
			panic(errno)
		}
	})
	return info.code
}

func setitimer(d time.Duration) error {
	_, err := unix.Setitimer(unix.ItimerReal, unix.Itimerval{Value: unix.NsecToTimeval(int64(d))})
	return err
}

// TestReused: where a ring is used again, no more of what it held goes into a record.
func TestReused(t *testing.T) {
	bpftest.Require(t)
	const n = 211 // several times round
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := tracetest.Open(t, attach.Options{
		Filter: attach.Filter{TID: uint32(unix.Gettid())}, RingSize: uint32(os.Getpagesize()),
	}, probe.Tracer)
	var want []event
	for _, name := range []string{"fifteen letters", "b"} {
		c := &bpftest.Child{Role: "wait", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), name))}
		start(t, c)
		for range n {
			check(t, unix.Kill(c.PID(), unix.SIGURG))
			want = append(want, event{"tpid": int64(c.PID()), "tcomm": name})
			s.Drain(t) // which fails where something is behind the name
		}
		c.End(t)
	}
	tracetest.Same(t, slices.DeleteFunc(s.Finish(t).Events, byGo), want)
}

// TestUnsent: the calls that send nothing, with what they were given.
func TestUnsent(t *testing.T) {
	bpftest.Require(t)
	gone := &bpftest.Child{Role: "wait"}
	start(t, gone)
	pidfd, err := unix.PidfdOpen(gone.PID(), 0)
	check(t, err)
	defer unix.Close(pidfd)
	gone.End(t)
	var pipe [2]int
	check(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer func() { check(t, errors.Join(unix.Close(pipe[0]), unix.Close(pipe[1]))) }()
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
		kill(unix.Kill(os.Getpid(), -1), unix.EINVAL)
		kill(queue(nobody, unix.SIGUSR1, &siginfo{code: -1}), unix.ESRCH)
		_, _, errno = unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), nobody, uintptr(unix.SIGUSR2),
			uintptr(unsafe.Pointer(&siginfo{code: -1})), 0, 0)
		kill(errno, unix.ESRCH)
		kill(unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0), unix.ESRCH)
		kill(unix.PidfdSendSignal(pipe[0], unix.SIGKILL, nil, 0), unix.EBADF)
		kill(unix.PidfdSendSignal(1<<20, unix.SIGKILL, nil, 0), unix.EBADF)
	})
	failed := func(call, sig string, tpid, ttid, ret int64, errno string) event {
		return event{
			"call": call, "signal": sig, "tpid": tpid, "ttid": ttid, "to_process": ttid == 0, "from_kernel": false, "si_code": "",
			"ret": ret, "errno": errno, "result": "", "tcomm": "",
		}
	}
	me := int64(os.Getpid())
	tracetest.Same(t, events, []event{
		failed("kill", "SIGKILL", nobody, 0, -3, "ESRCH"),
		failed("kill", "SIGTERM", -nobody, 0, -3, "ESRCH"),
		failed("kill", "65", me, 0, -22, "EINVAL"),
		failed("tkill", "SIGHUP", 0, nobody, -3, "ESRCH"),
		failed("tgkill", "SIGINT", me, nobody, -3, "ESRCH"),
		failed("kill", "-1", me, 0, -22, "EINVAL"),
		failed("rt_sigqueueinfo", "SIGUSR1", nobody, 0, -3, "ESRCH"),
		failed("rt_tgsigqueueinfo", "SIGUSR2", me, nobody, -3, "ESRCH"),
		failed("pidfd_send_signal", "SIGKILL", int64(gone.PID()), 0, -3, "ESRCH"),
		failed("pidfd_send_signal", "SIGKILL", -1, 0, -9, "EBADF"),
		failed("pidfd_send_signal", "SIGKILL", -1, 0, -9, "EBADF"),
	})
}

// TestKernel: the end of a child, and a timer.
func TestKernel(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "wait"}
	start(t, c)
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
		"si_code": "1", // CLD_EXITED
	}})
}

// TestSignal: --signal, by number and by name.
func TestSignal(t *testing.T) {
	bpftest.Require(t)
	for _, value := range []string{strconv.Itoa(int(unix.SIGWINCH)), "SIGWINCH", "winch"} {
		t.Run(value, func(t *testing.T) { one(t, value) })
	}

	const n, nobody = 5, 1<<22 + 1 // above PID_MAX_LIMIT
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opts := attach.Options{Failed: true, Filter: attach.Filter{TID: uint32(unix.Gettid())}, Params: map[string]string{"signal": "0"}}
	events := tracetest.Trace(t, probe.Tracer, opts, func() {
		for range n {
			_ = unix.Kill(nobody, 0)
			_ = unix.Kill(nobody, unix.SIGHUP)
		}
	})
	want := make([]event, n)
	for i := range want {
		want[i] = event{"signal": "", "tpid": int64(nobody), "errno": "ESRCH"}
	}
	tracetest.Same(t, events, want)
}

func one(t *testing.T, value string) {
	c := &bpftest.Child{Role: "wait"}
	start(t, c)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opts := attach.Options{
		Filter: attach.Filter{TID: uint32(unix.Gettid())},
		Params: map[string]string{"signal": value},
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
