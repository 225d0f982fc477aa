// SPDX-License-Identifier: Apache-2.0

package rename_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/rename"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// The call that arm64 does not have.
var (
	oldCalls  = runtime.GOARCH == "amd64"
	sysRename = uintptr(82)
)

const cwd = unix.AT_FDCWD

// TestPaths gives each of the calls paths of every kind: as the old one, the new one,
// and both.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	fixed := tracetest.Given{Name: "fixed", Dirfd: cwd, File: "/nowhere/fixed", Path: "/nowhere/fixed", Source: "absolute"}
	events := tracetest.Trace(t, rename.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			for _, pair := range [][2]tracetest.Given{{g, fixed}, {fixed, g}, {g, g}} {
				o, n := pair[0], pair[1]
				one := func(call string, flags []string, do func() int) {
					w := tracetest.Returned(tracetest.As(do))
					want.Add(fmt.Sprintf("%s from %s to %s", call, o.Name, n.Name), tracetest.Merge(w,
						o.Want("old_file", "old", "old_source"), n.Want("new_file", "new", "new_source"), event{"call": call, "flags": flags}))
				}
				one("renameat2", []string{"RENAME_NOREPLACE"}, func() int {
					return bpftest.Call(unix.SYS_RENAMEAT2, o.Dirfd, o.File, n.Dirfd, n.File, unix.RENAME_NOREPLACE)
				})
				one("renameat", []string{}, func() int { return bpftest.Call(unix.SYS_RENAMEAT, o.Dirfd, o.File, n.Dirfd, n.File, 1) })
				if oldCalls && o.Dirfd == cwd && n.Dirfd == cwd {
					one("rename", []string{}, func() int { return bpftest.Call(sysRename, o.File, n.File) })
				}
			}
		})
	})
	want.Same(t, events)
}

// TestResults renames what is there, and fails in all ways.
func TestResults(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const n = 1009
	opts := tracetest.Paths()
	var want, failed []event
	workload := func() {
		want, failed = nil, nil
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Chdir(dir), os.MkdirAll("full/x", 0o755), os.Mkdir("empty", 0o755), os.WriteFile("f0", nil, 0o600), os.WriteFile("other", nil, 0o600))
			call := func(wanted unix.Errno, from, to string, flags int, names ...string) {
				ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_RENAMEAT2, cwd, from, cwd, to, flags) })
				if ret != -int(wanted) {
					panic(fmt.Sprintf("renaming %s to %s returned %d", from, to, ret))
				}
				w := tracetest.Merge(tracetest.Returned(ret), event{
					"type": "rename", "comm": tracetest.PathComm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()),
					"old": dir + "/" + from, "new": dir + "/" + to, "flags": append([]string{}, names...),
				})
				want = append(want, w)
				if ret < 0 {
					failed = append(failed, w)
				}
			}
			for i := range n {
				call(0, fmt.Sprintf("f%d", i), fmt.Sprintf("f%d", i+1), 0)
				if i%7 == 0 {
					call(unix.ENOENT, fmt.Sprintf("f%d", i), "nothing", 0)
				}
			}
			last := fmt.Sprintf("f%d", n)
			call(unix.EEXIST, last, "other", unix.RENAME_NOREPLACE, "RENAME_NOREPLACE")
			call(0, last, "other", unix.RENAME_EXCHANGE, "RENAME_EXCHANGE")
			call(0, last, "other", 0)
			call(unix.ENOTEMPTY, "empty", "full", 0)
			call(unix.ENOTDIR, "empty", "other", 0)
			call(unix.EISDIR, "other", "empty", 0)
			call(unix.EINVAL, "full", "full/x/y", 0)
			call(unix.EINVAL, "other", last, 1<<30|unix.RENAME_NOREPLACE, "RENAME_NOREPLACE", "0x40000000")
			call(unix.EBUSY, ".", "new", 0)
			bpftest.Must(os.RemoveAll(dir+"/full"), os.RemoveAll(dir+"/empty"), os.Remove(dir+"/other"))
		})
	}
	tracetest.Same(t, tracetest.Trace(t, rename.Tracer, opts, workload), want)
	opts.Failed = true
	tracetest.Same(t, tracetest.Trace(t, rename.Tracer, opts, workload), failed)
}

// TestOneself: the path of a working directory is that when the call returns.
func TestOneself(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	events := tracetest.Trace(t, rename.Tracer, tracetest.Paths(), func() {
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Mkdir(dir+"/a", 0o755), unix.Chdir(dir+"/a"))
			if ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_RENAMEAT, cwd, "../a", cwd, "../b") }); ret != 0 {
				panic(unix.Errno(-ret))
			}
		})
	})
	tracetest.Same(t, events, []event{{"old": dir + "/b/../a", "new": dir + "/b/../b", "errno": ""}})
}
