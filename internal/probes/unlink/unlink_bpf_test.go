// SPDX-License-Identifier: Apache-2.0

package unlink_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/unlink"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// The calls that arm64 does not have.
var (
	oldCalls            = runtime.GOARCH == "amd64"
	sysUnlink, sysRmdir = uintptr(87), uintptr(84)
)

const cwd = unix.AT_FDCWD

// TestPaths gives each of the calls paths of every kind.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	events := tracetest.Trace(t, unlink.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			one := func(call string, flags []string, do func() int) {
				w := tracetest.Returned(tracetest.As(do))
				want.Add(call+" "+g.Name, tracetest.Merge(w, g.Want("file", "path", "path_source"), event{"call": call, "flags": flags}))
			}
			one("unlinkat", []string{}, func() int { return bpftest.Call(unix.SYS_UNLINKAT, g.Dirfd, g.File, 0) })
			one("unlinkat", []string{"AT_REMOVEDIR"}, func() int {
				return bpftest.Call(unix.SYS_UNLINKAT, g.Dirfd, g.File, unix.AT_REMOVEDIR)
			})
			if oldCalls && g.Dirfd == cwd {
				one("unlink", []string{}, func() int { return bpftest.Call(sysUnlink, g.File) })
				one("rmdir", []string{}, func() int { return bpftest.Call(sysRmdir, g.File) })
			}
		})
	})
	want.Same(t, events)
}

// TestResults removes what is there, and fails in all ways.
func TestResults(t *testing.T) {
	bpftest.Require(t)
	for kind, n := range map[tracer.HookKind]int{tracer.Tracepoint: 1009, tracer.Fentry: 31, tracer.Kprobe: 31} {
		t.Run(string(kind), func(t *testing.T) { results(t, kind, n) })
	}
}

func results(t *testing.T, kind tracer.HookKind, n int) {
	dir := bpftest.Dir(t)
	opts := tracetest.Paths()
	opts.Hook = kind
	var want, failed []event
	workload := func() {
		want, failed = nil, nil
		bpftest.OnThread(t, "paths", func() {
			one := func(ret, wanted int, file string, nr uintptr, args ...any) {
				if ret != wanted {
					panic(fmt.Sprintf("%d %v returned %d", nr, args, ret))
				}
				w := tracetest.Returned(ret)
				w["type"], w["comm"], w["pid"], w["tid"] = "unlink", tracetest.PathComm, int64(os.Getpid()), int64(unix.Gettid())
				w["path"] = dir + "/" + file
				if ret == -int(unix.ENOENT) || kind == tracer.Tracepoint {
					w["age_ns"] = int64(0)
				}
				want = append(want, w)
				if ret < 0 {
					failed = append(failed, w)
				}
			}
			bpftest.Must(unix.Chdir(dir), os.WriteFile("data", nil, 0o600), os.MkdirAll("full/x", 0o755))
			call := func(wanted int, file string, flags int) {
				ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_UNLINKAT, cwd, file, flags) })
				one(ret, wanted, file, unix.SYS_UNLINKAT, file, flags)
			}
			for i := range n {
				name := fmt.Sprintf("f%d", i)
				if i%3 == 0 {
					bpftest.Must(os.WriteFile(name, nil, 0o600))
					call(0, name, 0)
				} else {
					call(-int(unix.ENOENT), name, 0)
				}
			}
			call(-int(unix.EISDIR), "full", 0)
			call(-int(unix.ENOTEMPTY), "full", unix.AT_REMOVEDIR)
			call(-int(unix.ENOTDIR), "data", unix.AT_REMOVEDIR)
			call(-int(unix.EINVAL), "data", 1<<31|1)
			call(-int(unix.EINVAL), ".", unix.AT_REMOVEDIR)
			call(0, "full/x", unix.AT_REMOVEDIR)
			call(0, "full", unix.AT_REMOVEDIR)
			call(0, "data", 0)
			if oldCalls {
				bpftest.Must(os.Mkdir("d", 0o755), os.WriteFile("f", nil, 0o600))
				one(tracetest.As(func() int { return bpftest.Call(sysRmdir, "d") }), 0, "d", sysRmdir)
				one(tracetest.As(func() int { return bpftest.Call(sysUnlink, "f") }), 0, "f", sysUnlink)
			}
			bpftest.Must(os.RemoveAll(dir + "/full"))
		})
	}
	tracetest.Same(t, tracetest.Trace(t, unlink.Tracer, opts, workload), want)
	opts.Failed = true
	tracetest.Same(t, tracetest.Trace(t, unlink.Tracer, opts, workload), failed)
}

// TestOneself: who removes the directory that it works in sees that it is gone.
func TestOneself(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	events := tracetest.Trace(t, unlink.Tracer, tracetest.Paths(), func() {
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Mkdir(dir+"/d", 0o755), unix.Chdir(dir+"/d"))
			if ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_UNLINKAT, cwd, "../d", unix.AT_REMOVEDIR) }); ret != 0 {
				panic(unix.Errno(-ret))
			}
		})
	})
	tracetest.Same(t, events, []event{{"path": dir + "/d (deleted)/../d", "flags": []string{"AT_REMOVEDIR"}, "errno": ""}})
}

// boot is the clock that ages are of.
func boot() int64 {
	var now unix.Timespec
	bpftest.Must(unix.ClockGettime(unix.CLOCK_BOOTTIME, &now))
	return now.Nano()
}

// TestAge: how old files are that were made in all ways, renamed and given more names. What is
// older than the trace, is not there, or not looked at has no age.
func TestAge(t *testing.T) {
	bpftest.Require(t)
	for _, kind := range []tracer.HookKind{tracer.Fentry, tracer.Kprobe} {
		t.Run(string(kind), func(t *testing.T) { age(t, kind) })
	}
}

func age(t *testing.T, kind tracer.HookKind) {
	dir := bpftest.Dir(t)
	bpftest.Must(os.WriteFile(dir+"/old", nil, 0o600))
	opts := tracetest.Paths()
	opts.Hook = kind
	s := tracetest.Open(t, opts, unlink.Tracer)
	s.Start()
	type span struct{ from, to int64 }
	var want []event
	var ages []span
	bpftest.OnThread(t, "paths", func() {
		bpftest.Must(unix.Chdir(dir))
		made := func(f func() error) span {
			begin := boot()
			bpftest.Must(f())
			end := boot()
			time.Sleep(time.Duration(len(ages)%3+1) * time.Millisecond)
			return span{begin, end}
		}
		goes := func(name string, flags int, errno unix.Errno, made span) {
			begin := boot()
			ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_UNLINKAT, cwd, name, flags) })
			end := boot()
			if ret != -int(errno) {
				panic(fmt.Sprintf("removing %s returned %d", name, ret))
			}
			if made != (span{}) {
				made = span{begin - made.to, end - made.from}
			}
			want, ages = append(want, event{"path": dir + "/" + name, "ret": int64(ret)}), append(ages, made)
		}
		create := func(name string) func() error {
			return func() error { return os.WriteFile(name, nil, 0o600) }
		}
		for i, f := range []func(name string) error{
			func(name string) error { return create(name)() },
			func(name string) error { return unix.Mknod(name, unix.S_IFREG|0o600, 0) },
			func(name string) error { return unix.Mknod(name, unix.S_IFIFO|0o600, 0) },
			func(name string) error { return unix.Symlink("nowhere", name) },
			func(name string) error {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
				return errors.Join(err, unix.Bind(fd, &unix.SockaddrUnix{Name: name}), unix.Close(fd))
			},
			func(name string) error {
				fd, err := unix.Open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
				proc := fmt.Sprintf("/proc/self/fd/%d", fd)
				return errors.Join(err, unix.Linkat(cwd, proc, cwd, name, unix.AT_SYMLINK_FOLLOW), unix.Close(fd))
			},
		} {
			name := fmt.Sprintf("f%d", i)
			goes(name, 0, 0, made(func() error { return f(name) }))
		}
		d := made(func() error { return os.Mkdir("d", 0o755) })
		goes("d", 0, unix.EISDIR, span{})
		x := made(create("d/x"))
		goes("d", unix.AT_REMOVEDIR, unix.ENOTEMPTY, d)
		goes("d/x", 0, 0, x)
		goes("d", unix.AT_REMOVEDIR, 0, d)
		a := made(create("a"))
		bpftest.Must(unix.Link("a", "b"), unix.Rename("b", "c"))
		goes("c", 0, 0, a)
		goes("a", 0, 0, a)
		goes("a", 0, unix.ENOENT, span{})
		goes("old", 0, 0, span{})
		for i := range 101 {
			bpftest.Must(create("many")())
			if i%2 == 0 {
				bpftest.Must(unix.Unlink("many"))
			} else {
				bpftest.Must(create("other")(), unix.Rename("other", "many"), unix.Unlink("many"))
			}
		}
	})
	if left := tracetest.MapEntries(t, "rb_unlink_made"); left > 50 { // others make files, too
		t.Errorf("%d files are remembered that are gone", left)
	}
	if left := tracetest.MapEntries(t, "rb_unlink_ages"); left > 0 {
		t.Errorf("%d calls are remembered that have returned", left)
	}
	events := s.Finish(t).Events
	if !tracetest.Same(t, events, want) {
		return
	}
	missed := tracetest.Misses(t)
	for i, e := range events {
		got := e["age_ns"].(int64)
		if got == 0 && missed > 0 {
			missed-- // of those that know it
			continue
		}
		if got < ages[i].from || got > ages[i].to {
			t.Errorf("%v is %d ns old, want %d to %d", e["path"], got, ages[i].from, ages[i].to)
		}
	}
}
