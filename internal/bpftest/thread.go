// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread of that name, with a working directory and a root of
// its own. The thread ends with f, whatever f makes of it.
func OnThread(tb testing.TB, name string, f func()) {
	tb.Helper()
	if err := <-startThread(name, f); err != nil {
		tb.Fatal(err)
	}
}

func startThread(name string, f func()) <-chan error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread goes with the goroutine
		if unix.Gettid() == os.Getpid() {
			// All but the first one, which another goroutine cannot get meanwhile.
			err := <-startThread(name, f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			// Still by the old name.
			err = os.WriteFile("/proc/thread-self/comm", []byte(name), 0o644)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	return done
}

// AwaitCall waits until a thread, of whichever process, sleeps in one of those system calls.
func AwaitCall(tb testing.TB, tid int, calls ...uintptr) {
	tb.Helper()
	var last []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tid))
		if err != nil {
			tb.Fatal(err)
		}
		number, _, _ := strings.Cut(string(b), " ")
		if slices.ContainsFunc(calls, func(call uintptr) bool { return number == fmt.Sprint(call) }) {
			return
		}
		last = b
	}
	tb.Fatalf("thread %d does not wait in the calls %d: %s", tid, calls, last)
}

// WithoutSignals runs f on a thread that no signal interrupts: Go's runtime sends its threads some.
func WithoutSignals(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	Must(unix.PthreadSigmask(unix.SIG_BLOCK, &all, &old))
	defer func() { Must(unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)) }()
	f()
}

// Interrupt interrupts the system call that a thread of this process waits in, and that
// then starts again: Go's signals are taken with SA_RESTART.
func Interrupt(tb testing.TB, tid int, call uintptr) {
	tb.Helper()
	AwaitCall(tb, tid, call)
	time.Sleep(10 * time.Millisecond)
	if err := unix.Tgkill(os.Getpid(), tid, unix.SIGURG); err != nil {
		tb.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
}

// As runs f while the thread, which is one of OnThread, has another name.
func As(name string, f func()) {
	before := make([]byte, 16)
	MustCall(unix.SYS_PRCTL, unix.PR_GET_NAME, before)
	MustCall(unix.SYS_PRCTL, unix.PR_SET_NAME, name)
	f()
	MustCall(unix.SYS_PRCTL, unix.PR_SET_NAME, before)
}

// Must is for threads that may not end the test.
func Must(errs ...error) {
	if err := errors.Join(errs...); err != nil {
		panic(err)
	}
}

// MustCall is Call where no error may be.
func MustCall(nr uintptr, args ...any) int {
	ret := Call(nr, args...)
	if ret < 0 {
		panic(unix.Errno(-ret))
	}
	return ret
}

// Must1 returns v where there is no error.
func Must1[T any](v T, err error) T {
	Must(err)
	return v
}
