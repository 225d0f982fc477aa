// SPDX-License-Identifier: Apache-2.0

package open_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// comm is the name of the threads whose events are wanted.
const comm = "rbtrace-opens"

// mine lets those threads of this process pass.
func mine() attach.Options {
	return attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: comm}}
}

// onThread runs f on such a thread.
func onThread(t *testing.T, f func()) {
	t.Helper()
	bpftest.OnThread(t, comm, f)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The calls that arm64 does not have.
var (
	oldCalls          = runtime.GOARCH == "amd64"
	sysOpen, sysCreat = uintptr(2), uintptr(85)
)

const cwd = unix.AT_FDCWD

// openat makes the system call, with the values that it has.
func openat(dirfd int, path string, flags, mode uint64) int {
	return bpftest.PathCall(unix.SYS_OPENAT, 1, path, uintptr(dirfd), uintptr(flags), uintptr(mode))
}

// openat2 makes it as the kernel that has it first wants it.
func openat2(dirfd int, path string, flags, mode, resolve uint64) int {
	return bpftest.Openat2(dirfd, path, [4]uint64{flags, mode, resolve}, 24)
}

// handle opens what another call is to begin at. Its event is told by the flags.
func handle(path string) int {
	fd := openat(cwd, path, unix.O_PATH|unix.O_NOATIME, 0)
	if fd < 0 {
		panic(fmt.Sprintf("opening %q: %v", path, unix.Errno(-fd)))
	}
	return fd
}

// pathOf is what the kernel says of a descriptor, and closes it.
func pathOf(fd int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", fd))
	bpftest.Must(err, unix.Close(fd))
	return path
}

// result are the values of an event that follow from what the call returned.
func result(ret int) event {
	e := event{"ret": int64(ret), "fd": int64(ret), "errno": ""}
	if ret < 0 {
		e["fd"], e["errno"] = int64(-1), unix.ErrnoName(unix.Errno(-ret))
	}
	return e
}

// hostile is a name that no program should trip over.
const hostile = "a \"b\"\n\x1b[31m\xff\xc3ü\u202e"

// TestEveryOpen: by the hook that is tried first, and by the one that is for kernels without it.
func TestEveryOpen(t *testing.T) {
	bpftest.Require(t)
	n := bpftest.Few(10007, 1009)
	for _, kind := range slices.Compact([]tracer.HookKind{attach.First(open.Tracer, false), tracer.Tracepoint}) {
		t.Run(string(kind), func(t *testing.T) {
			opts := mine()
			opts.Hook = kind
			dir := bpftest.Dir(t)
			var want []event
			events := tracetest.Trace(t, open.Tracer, opts, func() {
				onThread(t, func() { want = openMany(dir, n) })
			})
			tracetest.Same(t, events, want)
		})
	}
}

// openMany opens n files of a directory, and returns the events that are to be seen.
func openMany(dir string, n int) (want []event) {
	bpftest.Must(unix.Chdir(dir))
	for i := range n {
		file := fmt.Sprintf("f%d", i)
		w := event{"type": "open", "comm": comm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "file": file, "path": dir + "/" + file, "path_source": "cwd"}
		if i%3 == 0 {
			file = dir + "/" + file
			w["file"], w["path_source"] = file, "absolute"
		}
		ret := openat(cwd, file, unix.O_RDONLY|unix.O_CREAT*uint64(i%2), 0o640)
		if ret >= 0 {
			bpftest.Must(unix.Close(ret), unix.Unlink(file))
			w["path_source"] = "opened"
		}
		maps.Copy(w, result(ret))
		want = append(want, w)
	}
	return want
}

// TestAtOnce opens files from several threads.
func TestAtOnce(t *testing.T) {
	bpftest.Require(t)
	threads, each := 4, bpftest.Few(1009, 211)
	s := tracetest.Open(t, mine(), open.Tracer)
	s.Start()
	var wg sync.WaitGroup
	for thread := range threads {
		wg.Go(func() {
			onThread(t, func() {
				for i := range each {
					openat(cwd, fmt.Sprintf("/nowhere/%d", thread*each+i), 0, 0)
				}
			})
		})
	}
	wg.Wait()
	r := s.Finish(t)
	seen := make(map[any]bool)
	for _, e := range r.Events {
		seen[e["path"]] = true
	}
	if len(seen) != len(r.Events) {
		t.Errorf("%d events, of which %d differ", len(r.Events), len(seen))
	}
	r.Accounts(t, threads*each)
	r.NoneTurnedAway(t)
}

// call is one system call, and what its event shall be beside what follows from
// what it returned.
type call struct {
	name string
	do   func() int
	// DIR stands for the directory of the test, in which the call is made. The path of what is
	// opened is the one that the kernel has for the new descriptor, and need not be here.
	want  event
	errno unix.Errno // 0: it succeeds
	old   bool       // not on arm64
}

var long = strings.Repeat("long/", 1000)

// at is path below a directory whose descriptor is open for the call.
func at(dir string, call func(dirfd int) int) func() int {
	return func() int {
		fd := handle(dir)
		ret := call(fd)
		bpftest.Must(unix.Close(fd))
		return ret
	}
}

var calls = []call{
	{
		name: "openat", do: func() int { return openat(cwd, "data", unix.O_RDONLY, 0o777) },
		want: event{"file": "data", "path": "DIR/data", "flags": []string{"O_RDONLY"}, "mode": "", "resolve": []string{}},
	},
	{
		name: "openatFlags", do: func() int {
			return openat(cwd, "new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW|0x8000, 0o4750)
		},
		want: event{"path": "DIR/new", "mode": "04750", "flags": []string{"O_RDWR", "O_CREAT", "O_EXCL", "O_APPEND", "O_NONBLOCK", "O_LARGEFILE", "O_NOFOLLOW", "O_CLOEXEC"}},
	},
	{
		name: "openatDirectory", do: func() int { return openat(cwd, "below", unix.O_DIRECTORY|unix.O_NOATIME, 0) },
		want: event{"path": "DIR/below", "flags": []string{"O_RDONLY", "O_DIRECTORY", "O_NOATIME"}},
	},
	{
		name: "open", old: true, do: func() int { return bpftest.PathCall(sysOpen, 0, "data", unix.O_WRONLY|unix.O_TRUNC, 0) },
		want: event{"file": "data", "path": "DIR/data", "flags": []string{"O_WRONLY", "O_TRUNC"}, "mode": ""},
	},
	{
		name: "openCreate", old: true, do: func() int {
			return bpftest.PathCall(sysOpen, 0, "open", unix.O_RDONLY|unix.O_CREAT|unix.O_SYNC, 0o604)
		},
		want: event{"path": "DIR/open", "flags": []string{"O_RDONLY", "O_CREAT", "O_SYNC"}, "mode": "0604"},
	},
	{
		name: "creat", old: true, do: func() int { return bpftest.PathCall(sysCreat, 0, "creat", 0o600) },
		want: event{"file": "creat", "path": "DIR/creat", "flags": []string{"O_WRONLY", "O_CREAT", "O_TRUNC"}, "mode": "0600"},
	},
	{
		name: "openat2", do: func() int { return openat2(cwd, "two", unix.O_WRONLY|unix.O_CREAT, 0o620, 0) },
		want: event{"file": "two", "path": "DIR/two", "flags": []string{"O_WRONLY", "O_CREAT"}, "mode": "0620", "resolve": []string{}},
	},
	{
		name: "openat2Resolve", do: at("below", func(fd int) int {
			return openat2(fd, "deep", unix.O_RDONLY, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		}),
		want: event{"path": "DIR/below/deep", "resolve": []string{"RESOLVE_NO_XDEV", "RESOLVE_NO_SYMLINKS", "RESOLVE_BENEATH"}},
	},
	{
		name: "openat2InRoot", do: at("below", func(fd int) int { return openat2(fd, "/deep", 0, 0, unix.RESOLVE_IN_ROOT) }),
		want: event{"file": "/deep", "path": "DIR/below/deep", "resolve": []string{"RESOLVE_IN_ROOT"}},
	},
	{
		name: "openat2Beneath", errno: unix.EXDEV, do: func() int { return openat2(cwd, "/etc", 0, 0, unix.RESOLVE_BENEATH) },
		want: event{"path": "/etc", "path_source": "absolute"},
	},
	{
		name: "openat2Unknown", errno: unix.EINVAL, do: func() int { return openat2(cwd, "data", 1<<63|1<<40, 0, 1<<20) },
		want: event{"path": "DIR/data", "flags": []string{"O_RDONLY", "0x8000010000000000"}, "resolve": []string{"0x100000"}},
	},
	{
		name: "openat2Mode", errno: unix.EINVAL, do: func() int { return openat2(cwd, "data", unix.O_CREAT, 0o10644, 0) },
		want: event{"mode": "010644"},
	},
	{
		name: "openat2Longer", do: func() int {
			return bpftest.Openat2(cwd, "data", [4]uint64{unix.O_RDONLY, 0, unix.RESOLVE_NO_SYMLINKS, 0}, 32)
		},
		want: event{"path": "DIR/data", "resolve": []string{"RESOLVE_NO_SYMLINKS"}},
	},
	{
		name: "openat2Short", errno: unix.EINVAL, do: func() int { return bpftest.Openat2(cwd, "data", [4]uint64{}, 8) },
		want: event{"path": "DIR/data"},
	},
	{
		name: "openat2BadHow", errno: unix.EFAULT, do: func() int { return bpftest.PathCall(unix.SYS_OPENAT2, 1, "data", bpftest.Arg(cwd), 8, 24) },
		want: event{"path": "DIR/data", "flags": []string{"O_RDONLY"}, "resolve": []string{}},
	},

	// Where paths begin.
	{
		name: "absolute", do: func() int { return openat(cwd, bpftest.Must1(os.Getwd())+"/data", 0, 0) },
		want: event{"file": "DIR/data", "path": "DIR/data"},
	},
	{
		name: "absoluteAtDirfd", do: at("below", func(fd int) int { return openat(fd, "/", unix.O_PATH, 0) }),
		want: event{"file": "/", "path": "/", "flags": []string{"O_RDONLY", "O_PATH"}},
	},
	{
		name: "absoluteAtNoFd", do: func() int { return openat(-1, "/proc/self", unix.O_NOFOLLOW|unix.O_PATH, 0) },
		want: event{"path": "/proc/self"},
	},
	{
		name: "dirfd", do: at("below", func(fd int) int { return openat(fd, "deep", 0, 0) }),
		want: event{"file": "deep", "path": "DIR/below/deep"},
	},
	{
		name: "dirfdRoot", do: at("/", func(fd int) int { return openat(fd, "dev/null", 0, 0) }),
		want: event{"file": "dev/null", "path": "/dev/null"},
	},
	{
		name: "dirfdFile", errno: unix.ENOTDIR, do: at("data", func(fd int) int { return openat(fd, "x", 0, 0) }),
		want: event{"path": "DIR/data/x", "path_source": "dirfd"},
	},
	{
		name: "EBADF", errno: unix.EBADF, do: func() int { return openat(1<<20, "data", 0, 0) },
		want: event{"file": "data", "path": "data", "path_source": "unresolved"},
	},
	{
		name: "badFd", errno: unix.EBADF, do: func() int { return openat(-1, "data", 0, 0) },
		want: event{"file": "data", "path": "data", "path_source": "unresolved"},
	},
	{
		name: "dots", do: func() int { return openat(cwd, "./below/..//data", 0, 0) },
		want: event{"file": "./below/..//data", "path": "DIR/data"},
	},
	{
		name: "symlink", do: func() int { return openat(cwd, "link", 0, 0) },
		want: event{"file": "link", "path": "DIR/data"},
	},
	{
		name: "cwdRoot", do: func() int {
			dir := bpftest.Must1(os.Getwd())
			bpftest.Must(unix.Chdir("/"))
			ret := openat(cwd, "dev/null", 0, 0)
			bpftest.Must(unix.Chdir(dir))
			return ret
		},
		want: event{"file": "dev/null", "path": "/dev/null"},
	},
	{
		name: "cwdDeleted", errno: unix.ENOENT, do: func() int {
			bpftest.Must(unix.Mkdir("gone", 0o755), unix.Chdir("gone"), unix.Rmdir("../gone"))
			ret := openat(cwd, "x", unix.O_CREAT, 0)
			bpftest.Must(unix.Chdir(".."))
			return ret
		},
		want: event{"file": "x", "path": "DIR/gone (deleted)/x", "path_source": "cwd"},
	},
	{
		name: "dirfdDeleted", do: func() int {
			bpftest.Must(unix.Mkdir("gone", 0o755))
			return at("gone", func(fd int) int {
				bpftest.Must(unix.Rmdir("gone"))
				return openat(fd, "..", unix.O_PATH, 0)
			})()
		},
		want: event{"file": "..", "path": "DIR"},
	},

	// Modes.
	{
		name: "tmpfile", do: func() int { return openat(cwd, "/dev/shm", unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o600) },
		want: event{"file": "/dev/shm", "flags": []string{"O_RDWR", "O_EXCL", "O_TMPFILE"}, "mode": "0600"},
	},
	{
		name: "modeOfNoFile", do: func() int { return openat(cwd, "data", unix.O_RDONLY, 0o600) },
		want: event{"mode": ""},
	},
	{
		name: "modeTooLong", do: func() int { return openat(cwd, "data", unix.O_RDONLY|unix.O_CREAT, 0x5a00000000000000|0o602) },
		want: event{"mode": "0602"},
	},
	{
		name: "flagsTooLong", do: func() int { return openat(cwd, "data", 0x5a00000000000000|unix.O_RDWR, 0) },
		want: event{"flags": []string{"O_RDWR"}},
	},

	// Failures.
	{
		name: "ENOENT", errno: unix.ENOENT, do: func() int { return openat(cwd, "missing", 0, 0) },
		want: event{"file": "missing", "path": "DIR/missing"},
	},
	{
		name: "EEXIST", errno: unix.EEXIST, do: func() int { return openat(cwd, "data", unix.O_CREAT|unix.O_EXCL, 0o600) },
		want: event{"path": "DIR/data", "mode": "0600"},
	},
	{
		name: "EISDIR", errno: unix.EISDIR, do: func() int { return openat(cwd, ".", unix.O_WRONLY, 0) },
		want: event{"path": "DIR/."},
	},
	{
		name: "ELOOP", errno: unix.ELOOP, do: func() int { return openat(cwd, "loop", 0, 0) },
		want: event{"path": "DIR/loop"},
	},
	{
		name: "empty", errno: unix.ENOENT, do: func() int { return openat(cwd, "", 0, 0) },
		want: event{"file": "", "path": "", "path_source": "unresolved"},
	},
	{
		name: "EFAULT", errno: unix.EFAULT, do: func() int {
			_, _, errno := unix.Syscall6(unix.SYS_OPENAT, bpftest.Arg(cwd), 8, unix.O_RDWR, 0, 0, 0)
			return -int(errno)
		},
		want: event{"file": "", "path": "", "path_source": "unresolved", "flags": []string{"O_RDWR"}},
	},

	// Names.
	{
		name: "hostile", do: func() int { return openat(cwd, hostile, unix.O_CREAT, 0o600) },
		want: event{"file": tracetest.Text(hostile), "path": "DIR/" + tracetest.Text(hostile)},
	},
	{
		name: "longName", do: func() int { return openat(cwd, strings.Repeat("n", 255), unix.O_CREAT, 0o600) },
		want: event{"path": "DIR/" + strings.Repeat("n", 255)},
	},
	{
		name: "longerName", errno: unix.ENAMETOOLONG, do: func() int { return openat(cwd, strings.Repeat("n", 256), 0, 0) },
		want: event{"path": "DIR/" + strings.Repeat("n", 256)},
	},
	{
		name: "4095", do: func() int { return openat(cwd, strings.Repeat("./", 2045)+".////", 0, 0) },
		want: event{"file": strings.Repeat("./", 2045) + ".////", "path": "DIR"},
	},
	{
		name: "4096", errno: unix.ENAMETOOLONG, do: func() int { return openat(cwd, strings.Repeat("./", 2048), 0, 0) },
		want: event{"path": "DIR/" + strings.Repeat("./", 2048)[:4095]},
	},
	{
		name: "5000", errno: unix.ENAMETOOLONG, do: func() int { return openat(cwd, long, 0, 0) },
		want: event{"file": long[:4095], "path": "DIR/" + long[:4095]},
	},
}

// world makes what the calls expect to find.
func world(t *testing.T) (dir string) {
	dir = bpftest.Dir(t)
	for _, err := range []error{
		os.Mkdir(dir+"/below", 0o755),
		os.WriteFile(dir+"/data", nil, 0o644),
		os.WriteFile(dir+"/below/deep", nil, 0o644),
		os.Symlink("data", dir+"/link"),
		os.Symlink("loop", dir+"/loop"),
	} {
		check(t, err)
	}
	return dir
}

// ofHandle reports whether e is the event of a handle.
func ofHandle(e event) bool {
	return slices.Equal(e["flags"].([]string), []string{"O_RDONLY", "O_NOATIME", "O_PATH"})
}

func TestCalls(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	var want []event
	var of []string
	var events []event
	for _, e := range tracetest.Trace(t, open.Tracer, mine(), func() {
		onThread(t, func() {
			bpftest.Must(unix.Chdir(dir))
			for _, c := range calls {
				if c.old && !oldCalls {
					continue
				}
				ret := c.do()
				if ret >= 0 != (c.errno == 0) || ret < 0 && unix.Errno(-ret) != c.errno {
					t.Errorf("%s: the call returned %d, want the error %v", c.name, ret, c.errno)
				}
				w := result(ret)
				for key, v := range c.want {
					if s, ok := v.(string); ok && (s == "DIR" || strings.HasPrefix(s, "DIR/")) {
						v = dir + s[3:]
					}
					w[key] = v
				}
				if ret >= 0 {
					path := pathOf(ret)
					if tracetest.Text(path) != w["path"] && w["path"] != nil {
						t.Errorf("%s: the path is %q, and want %q", c.name, path, w["path"])
					}
					w["path"], w["path_source"] = tracetest.Text(path), "opened"
					w[tracetest.Raw] = map[string]string{"path": path}
				}
				want, of = append(want, w), append(of, c.name)
			}
		})
	}) {
		if !ofHandle(e) {
			events = append(events, e)
		}
	}
	if len(events) != len(want) {
		t.Errorf("%d events, want %d", len(events), len(want))
	}
	for i, name := range of[:min(len(events), len(of))] {
		if diff := events[i].Diff(want[i]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestPaths gives each of the calls paths of every kind.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	events := tracetest.Trace(t, open.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			one := func(name string, call func() int) {
				ret := tracetest.As(call)
				if ret >= 0 {
					panic(fmt.Sprintf("%s of %s succeeds", name, g.Name))
				}
				want.Add(name+" of "+g.Name, tracetest.Merge(g.Want("file", "path", "path_source"), result(ret)))
			}
			one("openat", func() int { return bpftest.Call(unix.SYS_OPENAT, g.Dirfd, g.File, unix.O_RDWR, 0) })
			one("openat2", func() int {
				return bpftest.Call(unix.SYS_OPENAT2, g.Dirfd, g.File, append([]byte{unix.O_RDWR}, make([]byte, 23)...), 24)
			})
			if oldCalls && g.Dirfd == cwd {
				one("open", func() int { return bpftest.Call(sysOpen, g.File, unix.O_RDWR, 0) })
			}
		})
	})
	want.Same(t, events)
}

// TestMounts: names go on at each mount point, and where a thread has mounts of its
// own, those count.
func TestMounts(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	var want []event
	events := tracetest.Trace(t, open.Tracer, mine(), func() {
		onThread(t, func() {
			bpftest.Must(
				unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
				unix.Chdir(dir), unix.Mkdir("mnt", 0o755), unix.Mount("rbtrace", "mnt", "tmpfs", 0, ""),
				os.MkdirAll("mnt/x/y", 0o755), unix.Mount(".", "mnt/x/y", "", unix.MS_BIND, ""),
				unix.Mount("below", "mnt/x/y/mnt", "", unix.MS_BIND, ""), unix.Chdir("mnt/x/y/mnt"),
			)
			one := func(path string, fd int) {
				want = append(want, event{"path": path, tracetest.Raw: map[string]string{"path": pathOf(fd)}})
			}
			one(dir+"/mnt/x/y/mnt/deep", openat(cwd, "deep", 0, 0))
			for _, base := range []string{"/mnt", "/mnt/x/y", "/mnt/x/y/mnt"} {
				at(dir+base, func(fd int) int {
					one(dir+base+"/new", openat(fd, "new", unix.O_CREAT, 0o600))
					return 0
				})()
			}
			bpftest.Must(unix.Chdir("/")) // and the mounts go with the thread
		})
	})
	tracetest.Same(t, slices.DeleteFunc(events, ofHandle), want)
}

// TestChroot: what is opened or joined begins at the root of the machine, and an absolute path that
// leads to nothing is that of the chroot.
func TestChroot(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	events := tracetest.Trace(t, open.Tracer, mine(), func() {
		onThread(t, func() {
			bpftest.Must(unix.Chroot(dir), unix.Chdir("/below"))
			for _, file := range []string{"deep", "/data", "../data", "missing", "/missing"} {
				if fd := openat(cwd, file, 0, 0); fd >= 0 {
					bpftest.Must(unix.Close(fd))
				}
			}
		})
	})
	tracetest.Same(t, events, []event{
		{"file": "deep", "path": dir + "/below/deep", "path_source": "opened", "errno": ""},
		{"file": "/data", "path": dir + "/data", "path_source": "opened", "errno": ""},
		{"file": "../data", "path": dir + "/data", "path_source": "opened", "errno": ""},
		{"file": "missing", "path": dir + "/below/missing", "path_source": "cwd", "errno": "ENOENT"},
		{"file": "/missing", "path": "/missing", "path_source": "absolute", "errno": "ENOENT"},
	})
}

// deep makes a directory that many names below dir, each so wide, and enters it.
func deep(dir string, depth, width int) {
	bpftest.Must(unix.Chdir(dir))
	for name := strings.Repeat("d", width); depth > 0; depth-- { // one by one, for a path has a limit
		bpftest.Must(unix.Mkdir(name, 0o755), unix.Chdir(name))
	}
}

// TestDeepPaths: a directory that is deeper than a walk goes, or longer than it
// stores, keeps its end.
func TestDeepPaths(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		depth, width int
		kept         int // 0: all
		opened       int // the same of what is opened, whose own name is one, too
	}{{57, 3, 0, 0}, {71, 3, 64, 63}, {20, 190, 0, 0}, {30, 199, 20, 20}} {
		t.Run(fmt.Sprintf("%dx%d", test.depth, test.width), func(t *testing.T) {
			dir, name := bpftest.Dir(t), "/"+strings.Repeat("d", test.width)
			file := strings.Repeat("./", 2000) + "missing"
			events := tracetest.Trace(t, open.Tracer, mine(), func() {
				onThread(t, func() {
					deep(dir, test.depth, test.width)
					bpftest.Must(unix.Close(openat(cwd, "file", unix.O_CREAT, 0o600)))
					openat(cwd, file, 0, 0)
				})
			})
			opened, asked := dir+strings.Repeat(name, test.depth), dir+strings.Repeat(name, test.depth)
			if test.kept != 0 {
				opened, asked = "…"+strings.Repeat(name, test.opened), "…"+strings.Repeat(name, test.kept)
			}
			tracetest.Same(t, events, []event{{"path": opened + "/file"}, {"path": asked + "/" + file}})
		})
	}
}

// enterNew makes directories, one in the other, whose names take so many bytes with a slash each, and enters them. Each has
// a name of its own.
func enterNew(bytes int) (path string) {
	for i := 0; bytes > 0; i++ {
		take := bytes
		if take > 256 { // NAME_MAX and the slash
			take = 200
		}
		name := strings.Repeat(string(rune('a'+i)), take-1)
		bpftest.Must(unix.Mkdir(name, 0o755), unix.Chdir(name))
		path, bytes = path+"/"+name, bytes-take
	}
	return path
}

// TestPathBounds: directories whose names take about as much as there is room for, alone or with
// those above them: a name that does not fit takes nothing from those that do.
func TestPathBounds(t *testing.T) {
	bpftest.Require(t)
	const short, long = 512, 4096 // of the record that nearly all fit in, and of the longest
	var want []event
	events := tracetest.Trace(t, open.Tracer, mine(), func() {
		onThread(t, func() {
			for _, bound := range []int{short, long} {
				for bytes := bound - 3; bytes <= bound+3; bytes++ {
					for _, withDir := range []bool{false, true} {
						dir := bpftest.Dir(t)
						bpftest.Must(unix.Chdir(dir))
						below := bytes
						if withDir {
							below -= len(dir)
						}
						path := dir + enterNew(below)
						cut := func(path string) string {
							if len(path) <= long {
								return path
							}
							kept := path[len(path)-long:]
							return "…" + kept[strings.IndexByte(kept, '/'):]
						}
						bpftest.Must(unix.Close(openat(cwd, "x", unix.O_CREAT, 0o600)))
						openat(cwd, "missing", 0, 0)
						want = append(want, event{"path": cut(path + "/x")}, event{"path": cut(path) + "/missing"})
					}
				}
			}
		})
	})
	tracetest.Same(t, events, want)
}

// TestSwapped: what is opened is what is shown, also where all that the call was given means something
// else by the time it returns; and no prefix misses it.
func TestSwapped(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	fifo := dir + "/below/fifo"
	check(t, unix.Mkfifo(fifo, 0o600))
	elsewhere, err := unix.Open(dir, unix.O_PATH, 0)
	check(t, err)
	here, err := os.Getwd()
	check(t, err)
	defer func() { check(t, os.Chdir(here)) }()
	swap := map[string]func(path []byte, dirfd int) error{
		"path":      func(path []byte, _ int) error { copy(path, "/nowhere\x00"); return nil },
		"directory": func(_ []byte, dirfd int) error { return unix.Dup2(elsewhere, dirfd) },
		"cwd":       func([]byte, int) error { return os.Chdir(dir) },
	}
	for _, prefix := range []string{"", fifo, dir + "/below/", "/nowhere"} {
		t.Run(prefix, func(t *testing.T) {
			opts := mine()
			if prefix != "" {
				opts = withPrefix(prefix)
			}
			var want []event
			events := tracetest.Trace(t, open.Tracer, opts, func() {
				for what, swap := range swap {
					check(t, os.Chdir(dir+"/below"))
					fd, err := unix.Open(".", unix.O_PATH, 0)
					check(t, err)
					path, dirfd := []byte("fifo\x00"), fd
					switch what {
					case "path":
						path = append([]byte(fifo), 0)
					case "cwd":
						dirfd = cwd
					}
					tid, opened := make(chan int), make(chan int)
					go bpftest.WithoutSignals(func() { // a thread that shares all with the others
						bpftest.As(comm, func() {
							tid <- unix.Gettid()
							opened <- bpftest.Call(unix.SYS_OPENAT, dirfd, path, unix.O_RDONLY, 0)
						})
					})
					bpftest.AwaitCall(t, <-tid, unix.SYS_OPENAT)
					check(t, swap(path, fd))
					w, err := unix.Open(fifo, unix.O_WRONLY, 0)
					check(t, err)
					ret := <-opened
					if ret < 0 {
						t.Fatalf("%s: %v", what, unix.Errno(-ret))
					}
					check(t, errors.Join(unix.Close(w), unix.Close(ret), unix.Close(fd)))
					if prefix != "/nowhere" || what == "path" { // which was asked for, as far as anybody can tell
						want = append(want, event{"path": fifo, "path_source": "opened", "ret": int64(ret)})
					}
				}
			})
			tracetest.Same(t, events, want)
		})
	}
}

// TestInterrupted: a call that a signal interrupts begins anew, and its program knows of no failure.
func TestInterrupted(t *testing.T) {
	bpftest.Require(t)
	fifo := bpftest.Dir(t) + "/fifo"
	check(t, unix.Mkfifo(fifo, 0o600))
	const n = 3
	for _, failed := range []bool{false, true} {
		opts := mine()
		opts.Failed = failed
		ret := 0
		events := tracetest.Trace(t, open.Tracer, opts, func() {
			tid := make(chan int)
			var wg sync.WaitGroup
			wg.Go(func() {
				onThread(t, func() {
					tid <- unix.Gettid()
					ret = openat(cwd, fifo, unix.O_RDONLY, 0)
					bpftest.Must(unix.Close(ret))
				})
			})
			reader := <-tid
			for range n {
				bpftest.Interrupt(t, reader, unix.SYS_OPENAT)
			}
			fd, err := unix.Open(fifo, unix.O_WRONLY, 0)
			check(t, err)
			wg.Wait()
			check(t, unix.Close(fd))
		})
		if failed {
			tracetest.Same(t, events, nil)
			continue
		}
		want := make([]event, n, n+1)
		for i := range want {
			want[i] = event{"path": fifo, "errno": "ERESTARTSYS", "fd": int64(-1)}
		}
		tracetest.Same(t, events, append(want, event{"path": fifo, "errno": "", "ret": int64(ret)}))
	}
}

// TestFailed: the calls that fail, for whatever reason, and no others.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	opts := mine()
	opts.Failed = true
	var want []event
	workload := func() {
		onThread(t, func() {
			check(t, os.Chmod(dir+"/data", 0o600))
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345) // of this thread alone
			if errno != 0 {
				panic(errno)
			}
			for i, file := range []string{"missing", "data", "below/deep", "data/x", "new", "below"} {
				for range []int{2, 3, 5, 7, 11, 13}[i] {
					ret := openat(cwd, dir+"/"+file, unix.O_RDONLY|unix.O_CREAT*uint64(i/4%2), 0)
					w := result(ret)
					w["path"], w["uid"] = dir+"/"+file, int64(12345)
					if ret >= 0 {
						bpftest.Must(unix.Close(ret))
					} else {
						want = append(want, w)
					}
				}
			}
		})
	}
	tracetest.Same(t, tracetest.Trace(t, open.Tracer, opts, workload), want)
	counts := make(map[any]int)
	for _, e := range want {
		counts[e["errno"]]++
	}
	if diff := cmp.Diff(map[any]int{"ENOENT": 2, "EACCES": 3 + 11, "ENOTDIR": 7, "EISDIR": 13}, counts); diff != "" {
		t.Errorf("the workload fails in other ways (-want +got):\n%s", diff)
	}
	if all := tracetest.Trace(t, open.Tracer, mine(), workload); len(all) != 2+3+5+7+11+13 {
		t.Errorf("%d events in all, want %d", len(all), 2+3+5+7+11+13)
	}
}
