// SPDX-License-Identifier: Apache-2.0

package ptrace_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/ptrace"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	// No signals of Go's runtime to the children: who is attached to may stop for such a one first,
	// and is let go before SIGSTOP has come.
	if err := os.Setenv("GODEBUG", "asyncpreemptoff=1"); err != nil {
		panic(err)
	}
	bpftest.Main(m, map[string]func() error{
		"wait": bpftest.AwaitEOF,
		// tracer starts a process that it traces, tells its id, and asks for its messages.
		"tracer": func() error {
			runtime.LockOSThread()
			pid, err := syscall.ForkExec("/proc/self/exe", []string{"tracee"}, &syscall.ProcAttr{
				Env: bpftest.RoleEnv("wait"), Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
			})
			if err != nil {
				return err
			}
			var status unix.WaitStatus
			if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
				return fmt.Errorf("status %#x: %w", status, err)
			}
			fmt.Fprintln(bpftest.ReportTo, pid)
			err = bpftest.AwaitEOF()
			for range messages {
				if _, merr := unix.PtraceGetEventMsg(pid); merr != nil {
					return merr
				}
			}
			return errors.Join(err, unix.Kill(pid, unix.SIGKILL))
		},
	})
}

const messages = 7

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call is the system call, without what a library makes of some requests.
func call(request, tid int, addr, data uintptr) int64 {
	ret, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return -int64(errno)
	}
	return int64(ret)
}

// target is a process to trace, of that name.
func target(t *testing.T, name string) *bpftest.Child {
	t.Helper()
	c := &bpftest.Child{Role: "wait", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), name))}
	c.Start(t)
	return c
}

// await waits until a thread that is traced has stopped.
func await(t *testing.T, tid int) {
	t.Helper()
	var status unix.WaitStatus
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("status %#x, %v", status, err)
	}
}

// end lets a process that was attached to go on to its end, should it have been stopped for good.
func end(t *testing.T, c *bpftest.Child) {
	t.Helper()
	check(t, unix.Kill(c.PID(), unix.SIGCONT))
	c.End(t)
}

func result(ret int64) (e event) {
	e = event{"ret": ret, "errno": ""}
	if ret < 0 {
		e["errno"] = unix.ErrnoName(unix.Errno(-ret))
	}
	return e
}

// asked is the event of a call. tid is whom it names, c the process that has that
// thread where the call did not fail and let it go.
func asked(request string, tid int, c *bpftest.Child, name string, addr, data uintptr, ret int64) event {
	e := result(ret)
	e["request"], e["tpid"] = request, int64(tid)
	e["addr"], e["data"] = fmt.Sprintf("%#x", addr), fmt.Sprintf("%#x", data)
	e["target_pid"], e["target_tid"], e["tcomm"] = int64(0), int64(0), ""
	if c != nil {
		e["target_pid"], e["target_tid"], e["tcomm"] = int64(c.PID()), int64(tid), name
	}
	return e
}

const hostile = "a\x1b]0;\n\xff\"b"

// TestPtrace goes through a session of a debugger, with all that the calls were given.
func TestPtrace(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	c := target(t, hostile)
	pid := c.PID()
	name := tracetest.Text(hostile)
	var want []event
	do := func(request int, spelled string, target *bpftest.Child, addr, data uintptr) {
		ret := call(request, pid, addr, data)
		want = append(want, asked(spelled, pid, target, name, addr, data, ret))
	}
	message := new([2]uint64)
	var keep runtime.Pinner // else it may be on a stack that moves
	defer keep.Unpin()
	keep.Pin(message)
	data := uintptr(unsafe.Pointer(message))
	events := tracetest.Trace(t, ptrace.Tracer, tracetest.ThisThread(t), func() {
		do(unix.PTRACE_ATTACH, "PTRACE_ATTACH", c, 0, 0)
		await(t, pid)
		do(unix.PTRACE_SETOPTIONS, "PTRACE_SETOPTIONS", c, 0, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACEFORK)
		for i := range n {
			if i%2 == 0 {
				do(unix.PTRACE_GETEVENTMSG, "PTRACE_GETEVENTMSG", c, uintptr(i), data)
			} else {
				do(unix.PTRACE_PEEKDATA, "PTRACE_PEEKDATA", c, 0x10, data) // nothing is there
			}
		}
		do(0x3fff, "16383", c, ^uintptr(0), 1<<63)
		do(unix.PTRACE_CONT, "PTRACE_CONT", c, 0, uintptr(unix.SIGWINCH))
		do(unix.PTRACE_GETEVENTMSG, "PTRACE_GETEVENTMSG", c, 0, data) // as it runs
		check(t, unix.Tgkill(pid, pid, unix.SIGURG))                  // the thread that is traced
		await(t, pid)
		do(unix.PTRACE_DETACH, "PTRACE_DETACH", nil, 0, 0)
		do(unix.PTRACE_DETACH, "PTRACE_DETACH", nil, 0, 0)
		do(unix.PTRACE_SEIZE, "PTRACE_SEIZE", c, 0, unix.PTRACE_O_TRACESYSGOOD)
		do(unix.PTRACE_INTERRUPT, "PTRACE_INTERRUPT", c, 0, 0)
		await(t, pid)
		do(unix.PTRACE_DETACH, "PTRACE_DETACH", nil, 0, 0)
	})
	runtime.KeepAlive(message)
	for i := range want {
		want[i]["type"], want[i]["pid"], want[i]["tid"] = "ptrace", int64(os.Getpid()), int64(unix.Gettid())
	}
	tracetest.Same(t, events, want)
	var ok, failed int
	for _, w := range want {
		if w["ret"] == int64(0) {
			ok++
		} else {
			failed++
		}
	}
	// The second detach, and one that nobody knows, fail, too; a signal may have stopped
	// it when it should run.
	if ok < 7+27 || failed < 26+2 {
		t.Errorf("%d calls succeeded and %d failed", ok, failed)
	}
	for _, e := range events {
		if e["target_pid"] != int64(0) && e[tracetest.Raw].(map[string]string)["tcomm"] != hostile {
			t.Errorf("name %q", e[tracetest.Raw])
		}
	}
	end(t, c)
}

// TestTargets: of many, each is found; of more than are looked through, those that were
// attached last.
func TestTargets(t *testing.T) {
	bpftest.Require(t)
	const looked, children = 32, 3
	opts := tracetest.ThisThread(t)
	var want []event
	var all []int
	of := make(map[int]*bpftest.Child)
	for i := range children {
		c := target(t, fmt.Sprintf("target-%d", i))
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.PID()))
		check(t, err)
		for _, task := range tasks {
			var tid int
			_, err := fmt.Sscan(task.Name(), &tid)
			check(t, err)
			all = append(all, tid)
			of[tid] = c
		}
	}
	for len(all) <= looked+5 {
		c := target(t, "another")
		all = append(all, c.PID())
		of[c.PID()] = c
	}
	name := func(tid int) string {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", tid))
		check(t, err)
		return strings.TrimSpace(string(comm))
	}
	events := tracetest.Trace(t, ptrace.Tracer, opts, func() {
		for _, tid := range all {
			ret := call(unix.PTRACE_SEIZE, tid, 0, 0)
			want = append(want, asked("PTRACE_SEIZE", tid, of[tid], name(tid), 0, 0, ret))
		}
		for i, tid := range all {
			ret := call(unix.PTRACE_INTERRUPT, tid, 0, 0)
			w := asked("PTRACE_INTERRUPT", tid, nil, "", 0, 0, ret)
			if len(all)-i <= looked {
				w = asked("PTRACE_INTERRUPT", tid, of[tid], name(tid), 0, 0, ret)
			}
			want = append(want, w)
		}
	})
	tracetest.Same(t, events, want)
	for _, w := range want {
		if w["ret"] != int64(0) {
			t.Errorf("%v", w)
		}
	}
	for _, tid := range all {
		await(t, tid)
		check(t, unix.PtraceDetach(tid))
	}
	for _, tid := range all {
		if of[tid].PID() == tid {
			of[tid].End(t)
		}
	}
}

// TestFailed: --failed and --request.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	const n, nobody = 13, 1<<22 + 1 // above PID_MAX_LIMIT
	var want []event
	opts := tracetest.ThisThread(t)
	opts.Failed = true
	c := target(t, "child")
	work := func(requests ...int) {
		want = nil
		for i := range n {
			for _, tid := range []int{nobody, c.PID(), -1, os.Getpid()} {
				for _, request := range []int{unix.PTRACE_ATTACH, unix.PTRACE_CONT, unix.PTRACE_TRACEME} {
					if request == unix.PTRACE_TRACEME || request == unix.PTRACE_ATTACH && tid == c.PID() {
						continue // which would succeed
					}
					ret := call(request, tid, uintptr(i), 0)
					for _, r := range requests {
						if r == request {
							name := map[int]string{unix.PTRACE_ATTACH: "PTRACE_ATTACH", unix.PTRACE_CONT: "PTRACE_CONT"}[r]
							want = append(want, asked(name, tid, nil, "", uintptr(i), 0, ret))
						}
					}
				}
			}
			check(t, unix.PtraceAttach(c.PID()))
			await(t, c.PID())
			check(t, unix.PtraceDetach(c.PID()))
		}
	}
	events := tracetest.Trace(t, ptrace.Tracer, opts, func() { work(unix.PTRACE_ATTACH, unix.PTRACE_CONT) })
	tracetest.Same(t, events, want)
	if len(want) != 7*n || want[0]["errno"] != "ESRCH" {
		t.Errorf("%d events: %v", len(want), want[0])
	}

	opts.Params = map[string]string{"request": "cont"}
	events = tracetest.Trace(t, ptrace.Tracer, opts, func() { work(unix.PTRACE_CONT) })
	tracetest.Same(t, events, want)

	opts.Failed, opts.Params["request"] = false, "PTRACE_DETACH"
	events = tracetest.Trace(t, ptrace.Tracer, opts, func() { work() })
	want = nil
	for range n {
		want = append(want, asked("PTRACE_DETACH", c.PID(), nil, "", 0, 0, 0))
	}
	tracetest.Same(t, events, want)
	end(t, c)
}

// TestNamespace: in a pid namespace of its own, what the caller names is of that.
func TestNamespace(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{
		Role: "tracer", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), "tracer")),
		Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID},
	}
	c.Start(t)
	var tracee, parent int64
	if _, err := fmt.Sscan(c.ReadLine(t), &tracee); err != nil {
		t.Fatal(err)
	}
	pid := tracee + 1 // its other id, by /proc
	children, err := filepath.Glob("/proc/[0-9]*/stat")
	check(t, err)
	for _, file := range children {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		var id int64
		if _, err := fmt.Sscanf(string(stat), "%d (exe) t %d", &id, &parent); err == nil && parent == int64(c.PID()) {
			pid = id
		}
	}
	events := tracetest.Trace(t, ptrace.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(c.PID())}}, func() { c.End(t) })
	want := make([]event, messages)
	for i := range want {
		want[i] = event{
			"request": "PTRACE_GETEVENTMSG", "tpid": tracee, "target_pid": pid, "target_tid": pid, "tcomm": "exe", "ret": int64(0),
		}
	}
	tracetest.Same(t, events, want)
	if pid == tracee {
		t.Errorf("in both namespaces it is %d", pid)
	}
}
