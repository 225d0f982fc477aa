// SPDX-License-Identifier: Apache-2.0

package stat_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/stat"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// The calls that arm64 does not have, and the number of the one that differs.
var (
	oldCalls          = runtime.GOARCH == "amd64"
	sysStat, sysLstat = uintptr(4), uintptr(6)
	sysNewfstatat     = map[string]uintptr{"amd64": 262, "arm64": 79}[runtime.GOARCH]
)

const cwd = unix.AT_FDCWD

// room is where the calls write what they have to say.
func room() []byte { return make([]byte, 512) }

// TestPaths gives each of the calls paths of every kind.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	events := tracetest.Trace(t, stat.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			one := func(call string, flags []string, nr uintptr, args ...any) {
				w := tracetest.Returned(tracetest.As(func() int { return bpftest.Call(nr, args...) }))
				want.Add(call+" "+g.Name, tracetest.Merge(w, g.Want("file", "path", "path_source"), event{"syscall": call, "flags": flags}))
			}
			one("newfstatat", []string{"AT_SYMLINK_NOFOLLOW"}, sysNewfstatat, g.Dirfd, g.File, room(), unix.AT_SYMLINK_NOFOLLOW)
			one("statx", []string{"AT_NO_AUTOMOUNT", "AT_STATX_DONT_SYNC"}, unix.SYS_STATX, g.Dirfd, g.File, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, room())
			if g.Dirfd == cwd {
				one("statfs", []string{}, unix.SYS_STATFS, g.File, room())
			}
			if oldCalls && g.Dirfd == cwd {
				one("stat", []string{}, sysStat, g.File, room())
				one("lstat", []string{}, sysLstat, g.File, room())
			}
		})
	})
	want.Same(t, events)
}

// TestResults asks about what is there, and fails in all ways.
func TestResults(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const n = 2003
	opts := tracetest.Paths()
	var want, failed []event
	workload := func() {
		want, failed = nil, nil
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Chdir(dir), os.WriteFile("f", nil, 0o600))
			call := func(wanted unix.Errno, file string, w event, nr uintptr, args ...any) {
				ret := tracetest.As(func() int { return bpftest.Call(nr, args...) })
				if ret != -int(wanted) {
					panic(fmt.Sprintf("%d of %q returned %d", nr, file, ret))
				}
				w = tracetest.Merge(w, tracetest.Returned(ret), event{
					"type": "stat", "comm": tracetest.PathComm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "path": dir + "/" + file,
				})
				want = append(want, w)
				if ret < 0 {
					failed = append(failed, w)
				}
			}
			for i := range n {
				wanted, file := unix.Errno(0), "f"
				if i%3 == 0 {
					wanted, file = unix.ENOENT, "missing"
				}
				switch i % 5 {
				case 0, 1:
					call(wanted, file, event{"syscall": "newfstatat"}, sysNewfstatat, cwd, file, room(), 0)
				case 2, 3:
					call(wanted, file, event{"syscall": "statx"}, unix.SYS_STATX, cwd, file, 0, 0, room())
				case 4:
					call(wanted, file, event{"syscall": "statfs"}, unix.SYS_STATFS, file, room())
				}
			}
			call(unix.EINVAL, "f", event{"flags": []string{"0x80000000"}}, sysNewfstatat, cwd, "f", room(), 1<<31)
			call(unix.EFAULT, "f", event{"flags": []string{}}, sysNewfstatat, cwd, "f", nil, 0)
			call(unix.ENOTDIR, "f/x", event{}, unix.SYS_STATFS, "f/x", room())
		})
	}
	tracetest.Same(t, tracetest.Trace(t, stat.Tracer, opts, workload), want)
	opts.Failed = true
	tracetest.Same(t, tracetest.Trace(t, stat.Tracer, opts, workload), failed)
}

// TestEmptyPath: with AT_EMPTY_PATH the descriptor is what the call is about, and its
// path is what the kernel says in /proc.
func TestEmptyPath(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	var want tracetest.Named
	events := tracetest.Trace(t, stat.Tracer, tracetest.Paths(), func() {
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(
				unix.Chdir(dir), os.WriteFile("f", nil, 0o600), os.WriteFile("gone", nil, 0o600), unix.Symlink("f", "link"),
				unix.Mkfifo("fifo", 0o600), unix.Mkdir(tracetest.HostileName, 0o700),
			)
			one := func(name string, fd int, file any, path, source string) {
				given, _ := file.(string)
				for _, call := range []string{"newfstatat", "statx"} {
					w := tracetest.Returned(tracetest.As(func() int {
						if call == "statx" {
							return bpftest.Call(unix.SYS_STATX, fd, file, unix.AT_EMPTY_PATH, 0, room())
						}
						return bpftest.Call(sysNewfstatat, fd, file, room(), unix.AT_EMPTY_PATH)
					}))
					want.Add(call+" of "+name, tracetest.Merge(w, event{
						"syscall": call, "flags": []string{"AT_EMPTY_PATH"}, "file": given, "path": tracetest.Text(path), "path_source": source,
						tracetest.Raw: map[string]string{"path": path},
					}))
				}
			}
			fd := func(name string, fd int, err error) {
				bpftest.Must(err)
				one(name, fd, "", bpftest.Must1(os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", fd))), "dirfd")
				bpftest.Must(unix.Close(fd))
			}
			open := func(name string, flags int) {
				n, err := unix.Open(name, flags, 0)
				fd(name, n, err)
			}
			open("f", unix.O_RDONLY)
			open(".", unix.O_PATH)
			open("/", unix.O_DIRECTORY)
			open("/proc/self", unix.O_PATH)
			open("/dev/null", unix.O_RDWR)
			open("link", unix.O_PATH|unix.O_NOFOLLOW)
			open("fifo", unix.O_RDWR)
			open(tracetest.HostileName, unix.O_RDONLY)
			open("/proc/self/ns/net", unix.O_RDONLY)
			open("/proc/self/ns/mnt", unix.O_RDONLY)
			n, err := unix.Open("gone", unix.O_RDONLY, 0)
			bpftest.Must(err, unix.Unlink("gone"))
			fd("a file that is gone", n, nil)
			n, err = unix.Open("/dev/shm", unix.O_TMPFILE|unix.O_RDWR, 0o600)
			fd("a file without a name", n, err)
			n, err = unix.MemfdCreate("a \"memory\"", 0)
			fd("memfd", n, err)
			var pipe [2]int
			bpftest.Must(unix.Pipe(pipe[:]))
			fd("a pipe", pipe[0], nil)
			fd("its other end", pipe[1], nil)
			n, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			fd("a socket", n, err)
			n, err = unix.EpollCreate1(0)
			fd("an epoll", n, err)
			n, err = unix.Eventfd(0, 0)
			fd("an eventfd", n, err)
			n, err = unix.PidfdOpen(os.Getpid(), 0)
			fd("a pidfd", n, err)
			one("no descriptor", 1<<20, "", "", "unresolved")
			one("cwd", cwd, "", dir, "cwd")
			one("cwd, and a name", cwd, "f", dir+"/f", "cwd")
			n, err = unix.Open("f", unix.O_RDONLY, 0)
			bpftest.Must(err)
			one("what cannot be read", n, uintptr(8), "", "unresolved")
			one("NULL", n, nil, dir+"/f", "dirfd") // which newer kernels take
			bpftest.Must(unix.Close(n))
			one("an absolute name", cwd, "/dev/null", "/dev/null", "absolute")
		})
	})
	want.Same(t, events)
}
