// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/link"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// The calls that arm64 does not have.
var (
	oldCalls            = runtime.GOARCH == "amd64"
	sysLink, sysSymlink = uintptr(86), uintptr(88)
)

const cwd = unix.AT_FDCWD

// TestPaths gives each of the calls paths of every kind: as the old one, the new one,
// and both.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	fixed := tracetest.Given{Name: "fixed", Dirfd: cwd, File: "/nowhere/fixed", Path: "/nowhere/fixed", Source: "absolute"}
	events := tracetest.Trace(t, link.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			for _, pair := range [][2]tracetest.Given{{g, fixed}, {fixed, g}, {g, g}} {
				o, n := pair[0], pair[1]
				one := func(call string, flags []string, o tracetest.Given, do func() int) {
					w := tracetest.Returned(tracetest.As(do))
					want.Add(fmt.Sprintf("%s from %s to %s", call, o.Name, n.Name), tracetest.Merge(w,
						o.Want("old_file", "old", "old_source"), n.Want("new_file", "new", "new_source"), event{"call": call, "flags": flags}))
				}
				one("linkat", []string{"AT_SYMLINK_FOLLOW"}, o, func() int {
					return bpftest.Call(unix.SYS_LINKAT, o.Dirfd, o.File, n.Dirfd, n.File, unix.AT_SYMLINK_FOLLOW)
				})
				text := o
				text.Path, _ = o.File.(string)
				text.Path = text.Path[:min(len(text.Path), unix.PathMax-1)]
				text.Source = "text"
				one("symlinkat", []string{}, text, func() int {
					ret := bpftest.Call(unix.SYS_SYMLINKAT, o.File, n.Dirfd, n.File, 1)
					if ret == 0 { // the next one shall find what this one did
						bpftest.MustCall(unix.SYS_UNLINKAT, n.Dirfd, n.File, 0)
					}
					return ret
				})
				if oldCalls && o.Dirfd == cwd && n.Dirfd == cwd {
					one("link", []string{}, o, func() int { return bpftest.Call(sysLink, o.File, n.File) })
					one("symlink", []string{}, text, func() int { return bpftest.Call(sysSymlink, o.File, n.File) })
				}
			}
		})
	})
	want.Same(t, events)
}

// TestResults links what is there, and fails in all ways.
func TestResults(t *testing.T) {
	bpftest.Require(t)
	const n = 1009
	opts := tracetest.Paths()
	var want, failed []event
	workload := func() {
		want, failed = nil, nil
		dir := bpftest.Dir(t)
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Chdir(dir), os.Mkdir("dir", 0o755), os.WriteFile("f", nil, 0o600))
			call := func(wanted unix.Errno, w event, nr uintptr, args ...any) {
				ret := tracetest.As(func() int { return bpftest.Call(nr, args...) })
				if ret != -int(wanted) {
					panic(fmt.Sprintf("%d of %v returned %d", nr, args, ret))
				}
				w = tracetest.Merge(w, tracetest.Returned(ret), event{
					"type": "link", "comm": tracetest.PathComm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()),
				})
				want = append(want, w)
				if ret < 0 {
					failed = append(failed, w)
				}
			}
			hard := func(wanted unix.Errno, from, to string) {
				call(wanted, event{"call": "linkat", "old": dir + "/" + from, "new": dir + "/" + to, "old_source": "cwd"}, unix.SYS_LINKAT, cwd, from, cwd, to, 0)
			}
			soft := func(wanted unix.Errno, from, to string) {
				call(wanted, event{"call": "symlinkat", "old": from, "new": dir + "/" + to, "old_source": "text"}, unix.SYS_SYMLINKAT, from, cwd, to)
			}
			for i := range n {
				hard(0, "f", fmt.Sprintf("h%d", i))
				soft(0, "../wherever", fmt.Sprintf("s%d", i))
			}
			hard(unix.EEXIST, "f", "h1")
			hard(unix.ENOENT, "missing", "h")
			hard(unix.EPERM, "dir", "h")
			hard(unix.ENOTDIR, "f/x", "h")
			soft(unix.EEXIST, "a", "s1")
			soft(unix.ENOTDIR, "a", "f/s")

			// An open file, by its descriptor: one with a name, one without, and none.
			fd := bpftest.Must1(unix.Open("f", unix.O_RDONLY, 0))
			empty := func(wanted unix.Errno, fd int, old, source, to string) {
				call(wanted, event{"old": old, "old_file": "", "old_source": source, "flags": []string{"AT_EMPTY_PATH"}}, unix.SYS_LINKAT, fd, "", cwd, to, unix.AT_EMPTY_PATH)
			}
			empty(0, fd, dir+"/f", "dirfd", "e")
			bpftest.Must(unix.Close(fd))
			empty(unix.EBADF, fd, "", "unresolved", "e2")
			empty(unix.EPERM, cwd, dir, "cwd", "e2")
			if fd, err := unix.Open("/dev/shm", unix.O_TMPFILE|unix.O_RDWR, 0o600); err == nil {
				path := bpftest.Must1(os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", fd)))
				empty(unix.EXDEV, fd, path, "dirfd", "e2")
				bpftest.Must(unix.Close(fd))
			}
			var pipe [2]int
			bpftest.Must(unix.Pipe(pipe[:]))
			path := bpftest.Must1(os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", pipe[0])))
			empty(unix.EXDEV, pipe[0], path, "dirfd", "e2")
			bpftest.Must(unix.Close(pipe[0]), unix.Close(pipe[1]))
		})
	}
	tracetest.Same(t, tracetest.Trace(t, link.Tracer, opts, workload), want)
	opts.Failed = true
	tracetest.Same(t, tracetest.Trace(t, link.Tracer, opts, workload), failed)
}
