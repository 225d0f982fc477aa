// SPDX-License-Identifier: Apache-2.0

package setuid_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/setuid"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// namespace changes ids in a user namespace.
		"namespace": func() error {
			runtime.LockOSThread()
			if err := bpftest.AwaitEOF(); err != nil {
				return err
			}
			return errors.Join(
				errno(call(unix.SYS_SETGROUPS, 2, groups(3, 4))), errno(call(unix.SYS_SETRESGID, 5, 6, 7)),
				errno(call(unix.SYS_SETRESUID, 8, 9, keep)),
			)
		},
	})
}

const keep = ^uintptr(0) // -1

// groups is an argument of setgroups, memory that stays.
func groups(ids ...uint32) uintptr {
	kept = append(kept, ids)
	return uintptr(unsafe.Pointer(unsafe.SliceData(ids)))
}

var kept [][]uint32

// call makes a system call for this thread alone.
func call(nr uintptr, args ...uintptr) int64 {
	args = append(args, 0, 0, 0)
	ret, _, errno := unix.RawSyscall(nr, args[0], args[1], args[2])
	if errno != 0 {
		return -int64(errno)
	}
	return int64(ret)
}

func errno(ret int64) error {
	if ret < 0 {
		return unix.Errno(-ret)
	}
	return nil
}

// comm is the name of the threads whose events are wanted.
const comm = "rbtrace-setuid"

// onThread runs f on a thread of that name, which ends with it.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	var err error
	bpftest.OnThread(t, comm, func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

func mine() attach.Options {
	return attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: comm}}
}

// ids are a line of /proc/thread-self/status.
func ids(status *os.File, name string) ([]uint32, error) {
	b := make([]byte, 1<<14)
	n, err := status.ReadAt(b, 0)
	if n == 0 {
		return nil, err
	}
	for line := range bytes.Lines(b[:n]) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			var ids []uint32
			for f := range strings.FieldsSeq(string(rest)) {
				id, err := strconv.ParseUint(f, 10, 32)
				if err != nil {
					return nil, err
				}
				ids = append(ids, uint32(id))
			}
			return ids, nil
		}
	}
	return nil, fmt.Errorf("no %s in the status", name)
}

// text is how ids are shown.
func text(ids []uint32) string {
	if ids[1] == ids[0] && ids[2] == ids[0] && ids[3] == ids[0] {
		return fmt.Sprint(ids[0])
	}
	s := fmt.Sprintf("%d/%d/%d", ids[0], ids[1], ids[2])
	if ids[3] != ids[1] {
		s += fmt.Sprintf("/%d", ids[3])
	}
	return s
}

func list(ids []uint32) string {
	const shown = 16
	s := strings.Trim(strings.ReplaceAll(fmt.Sprint(ids[:min(len(ids), shown)]), " ", ","), "[]")
	if len(ids) > shown {
		s += ",…"
	}
	if s == "" {
		s = "-"
	}
	return s
}

type step struct {
	call  string
	nr    uintptr
	args  []uintptr
	given string
	errno string
}

// do makes the calls, and returns what the kernel says of the ids around each.
func do(steps []step) (want []event, err error) {
	status, err := os.Open("/proc/thread-self/status")
	if err != nil {
		return nil, err
	}
	defer status.Close()
	uid, gid := int64(os.Getuid()), int64(os.Getgid())
	for _, s := range steps {
		line := "Uid"
		if strings.Contains(s.call, "g") {
			line = "Gid"
		}
		w := event{
			"type": "setuid", "comm": comm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "uid": uid, "gid": gid,
			"call": s.call, "given": s.given, "errno": s.errno,
		}
		note := func(when string) {
			id, ierr := ids(status, line)
			group, gerr := ids(status, "Groups")
			real, rerr := ids(status, "Uid")
			realGroup, rgerr := ids(status, "Gid")
			if err = errors.Join(err, ierr, gerr, rerr, rgerr); err != nil {
				return
			}
			uid, gid = int64(real[0]), int64(realGroup[0])
			maps.Copy(w, event{
				when: text(id), when + "_real": int64(id[0]), when + "_effective": int64(id[1]), when + "_saved": int64(id[2]),
				when + "_fs": int64(id[3]), when + "_groups": int64(len(group)),
			})
			if s.call == "setgroups" {
				w[when] = list(group)
			}
		}
		note("old")
		w["uid"], w["gid"] = uid, gid
		w["ret"] = call(s.nr, s.args...)
		note("new")
		want = append(want, w)
	}
	return want, err
}

// 20 groups: more than are shown.
var many = []uint32{1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 1<<32 - 2}

var steps = []step{
	{"setgroups", unix.SYS_SETGROUPS, []uintptr{20, groups(many...)}, "20", ""},
	{"setgroups", unix.SYS_SETGROUPS, []uintptr{3, groups(4, 24, 27)}, "3", ""},
	{"setgroups", unix.SYS_SETGROUPS, []uintptr{65537, 0}, "65537", "EINVAL"},
	{"setgroups", unix.SYS_SETGROUPS, []uintptr{0, 0}, "0", ""},
	{"setfsgid", unix.SYS_SETFSGID, []uintptr{13}, "13", ""},
	{"setregid", unix.SYS_SETREGID, []uintptr{keep, 21}, "-1,21", ""},
	{"setresgid", unix.SYS_SETRESGID, []uintptr{100, keep, 102}, "100,-1,102", ""},
	{"setgid", unix.SYS_SETGID, []uintptr{1<<32 - 2}, "4294967294", ""},
	{"setgid", unix.SYS_SETGID, []uintptr{keep}, "-1", "EINVAL"},
	{"setfsuid", unix.SYS_SETFSUID, []uintptr{33}, "33", ""},
	{"setfsuid", unix.SYS_SETFSUID, []uintptr{keep}, "-1", ""}, // asks
	{"setreuid", unix.SYS_SETREUID, []uintptr{1000, keep}, "1000,-1", ""},
	{"setresuid", unix.SYS_SETRESUID, []uintptr{1000, 1001, 1002}, "1000,1001,1002", ""},
	// From here on it is not root.
	{"setuid", unix.SYS_SETUID, []uintptr{0}, "0", "EPERM"},
	{"setfsuid", unix.SYS_SETFSUID, []uintptr{0}, "0", ""}, // fails, and does not say so
	{"setresuid", unix.SYS_SETRESUID, []uintptr{0, keep, keep}, "0,-1,-1", "EPERM"},
	{"setreuid", unix.SYS_SETREUID, []uintptr{keep, 5}, "-1,5", "EPERM"},
	{"setgroups", unix.SYS_SETGROUPS, []uintptr{1, groups(0)}, "1", "EPERM"},
	{"setregid", unix.SYS_SETREGID, []uintptr{0, 0}, "0,0", "EPERM"},
	{"setresgid", unix.SYS_SETRESGID, []uintptr{keep, 0, keep}, "-1,0,-1", "EPERM"},
	{"setuid", unix.SYS_SETUID, []uintptr{1002}, "1002", ""},
	{"setuid", unix.SYS_SETUID, []uintptr{1002}, "1002", ""}, // no change
}

// TestCalls: each call, with the ids before and after as the kernel tells them.
func TestCalls(t *testing.T) {
	bpftest.Require(t)
	const threads = 13
	var want []event
	events := tracetest.Trace(t, setuid.Tracer, mine(), func() {
		for range threads {
			onThread(t, func() error {
				w, err := do(steps)
				want = append(want, w...)
				return err
			})
		}
	})
	tracetest.Same(t, events, want)
	for i, w := range want {
		name := ""
		if ret := w["ret"].(int64); ret < 0 {
			name = unix.ErrnoName(unix.Errno(-ret))
		}
		if name != steps[i%len(steps)].errno {
			t.Fatalf("%v of %v", name, w)
		}
	}
}

// TestFailed: --failed.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	var want []event
	opts := mine()
	opts.Failed = true
	events := tracetest.Trace(t, setuid.Tracer, opts, func() {
		onThread(t, func() error {
			all, err := do(steps)
			for _, w := range all {
				if w["errno"] != "" {
					want = append(want, w)
				}
			}
			return err
		})
	})
	tracetest.Same(t, events, want)
	if len(want) != 8 {
		t.Errorf("%d calls failed", len(want))
	}
}

// TestRefused: what a seccomp filter says no to has no entry, and changes nothing.
func TestRefused(t *testing.T) {
	bpftest.Require(t)
	refused := []step{
		{"setuid", unix.SYS_SETUID, []uintptr{1000}, "1000", "EPERM"},
		{"setresgid", unix.SYS_SETRESGID, []uintptr{1, keep, 2}, "1,-1,2", "EPERM"},
		{"setfsuid", unix.SYS_SETFSUID, []uintptr{33}, "33", "EPERM"},
		{"setgroups", unix.SYS_SETGROUPS, []uintptr{3, groups(4, 24, 27)}, "3", "EPERM"},
	}
	allowed := []step{{"setreuid", unix.SYS_SETREUID, []uintptr{keep, 1000}, "-1,1000", ""}}
	for _, failed := range []bool{false, true} {
		opts := mine()
		opts.Failed = failed
		var want []event
		events := tracetest.Trace(t, setuid.Tracer, opts, func() {
			onThread(t, func() error {
				var nrs []uint32
				for _, s := range refused {
					nrs = append(nrs, uint32(s.nr))
				}
				if err := bpftest.Refuse(unix.EPERM, nrs...); err != nil {
					return err
				}
				var err error
				want, err = do(refused)
				more, aerr := do(allowed)
				if !failed {
					want = append(want, more...)
				}
				return errors.Join(err, aerr)
			})
		})
		tracetest.Same(t, events, want)
	}
}

// TestPretended: of a call that a seccomp filter says was made nobody knows the ids before, so
// it is lost where it is wanted.
func TestPretended(t *testing.T) {
	bpftest.Require(t)
	const n = 7
	user := uint32(1000)
	other := mine()
	other.Filter.UID = &user
	for _, opts := range []attach.Options{mine(), other} {
		s := tracetest.Open(t, opts, setuid.Tracer)
		s.Start()
		onThread(t, func() error {
			if err := bpftest.Refuse(0, unix.SYS_SETUID); err != nil {
				return err
			}
			for range n {
				if ret := call(unix.SYS_SETUID, 1000); ret != 0 {
					return errno(ret)
				}
			}
			return nil
		})
		r := s.Finish(t)
		want := int64(n)
		if opts.Filter.UID != nil {
			want = 0
		}
		if len(r.Events) != 0 || r.Lost != want {
			t.Errorf("%d events, %d lost, want %d lost", len(r.Events), r.Lost, want)
		}
	}
}

// TestUID: --uid means the caller before the call.
func TestUID(t *testing.T) {
	bpftest.Require(t)
	opts := mine()
	user := uint32(1000)
	opts.Filter.UID = &user
	var want []event
	events := tracetest.Trace(t, setuid.Tracer, opts, func() {
		onThread(t, func() error {
			all, err := do(steps)
			for _, w := range all {
				if w["uid"] == int64(user) {
					want = append(want, w)
				}
			}
			return err
		})
	})
	tracetest.Same(t, events, want)
	if len(want) != 10 {
		t.Errorf("%d calls are of that user", len(want))
	}
}

// TestNamespace: the ids of a user namespace are those of the initial one.
func TestNamespace(t *testing.T) {
	bpftest.Require(t)
	const first = 100000
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		t.Skip(err)
	}
	mapped := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 1000}}
	c := &bpftest.Child{
		Role: "namespace", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), "child")),
		Sys: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapped, GidMappings: mapped, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{Uid: 0, Gid: 0},
		},
	}
	c.Start(t)
	events := tracetest.Trace(t, setuid.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(c.PID())}}, func() { c.End(t) })
	pid := int64(c.PID())
	tracetest.Same(t, events, []event{
		{"call": "setgroups", "given": "2", "old": "-", "new": "100003,100004", "pid": pid, "uid": int64(first), "gid": int64(first)},
		{"call": "setresgid", "given": "5,6,7", "old": "100000", "new": "100005/100006/100007", "uid": int64(first), "gid": int64(first)},
		{"call": "setresuid", "given": "8,9,-1", "old": "100000", "new": "100008/100009/100000", "uid": int64(first), "gid": int64(first + 5)},
	})
}
