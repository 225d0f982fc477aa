// SPDX-License-Identifier: Apache-2.0

package tracetest

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
)

// PathComm is the name that threads of the tests with paths have for the calls whose
// events are wanted, and no other thread of this process has.
const PathComm = "rbtrace-paths"

// Paths lets the calls of those threads pass.
func Paths() attach.Options {
	return attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: PathComm}}
}

// Given is a path that a call can be given, and what its event shall say of it.
type Given struct {
	Name  string
	Dirfd int    // unix.AT_FDCWD: the call may be one without a descriptor
	File  any    // string, or nil for NULL
	Path  string // absolute; as it is, whatever JSON makes of it
	// Source is the path_source.
	Source string
}

// Want is that, under these keys.
func (g Given) Want(file, path, source string) Event {
	given, _ := g.File.(string)
	given = given[:min(len(given), unix.PathMax-1)]
	return Event{file: Text(given), path: Text(g.Path), source: g.Source, Raw: map[string]string{file: given, path: g.Path}}
}

// HostileName is one that no program should trip over.
const HostileName = "a \"b\"\n\x1b]0;x\x07\xff\xc3ü\u202e"

// EachPath calls f with paths of every kind that lead to no file, but where a
// directory itself is meant; f makes calls with them, and events with As.
// It is for threads of bpftest.OnThread, which get mounts of their own.
func EachPath(tb testing.TB, f func(g Given)) {
	tb.Helper()
	const cwd = unix.AT_FDCWD
	dir := bpftest.Dir(tb)
	bpftest.OnThread(tb, "paths", func() {
		bpftest.Must(
			unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Chdir(dir),
			os.MkdirAll("below/mnt", 0o755), unix.Mkdir("mnt", 0o755), os.WriteFile("data", nil, 0o644),
			unix.Mount("rbtrace", "mnt", "tmpfs", 0, ""), os.MkdirAll("mnt/x/y", 0o755),
			unix.Mount(".", "mnt/x/y", "", unix.MS_BIND, ""), unix.Mount("below", "mnt/x/y/mnt", "", unix.MS_BIND, ""),
		)
		at := func(base string, f func(fd int)) {
			fd := bpftest.Must1(unix.Open(base, unix.O_PATH, 0))
			f(fd)
			bpftest.Must(unix.Close(fd))
		}
		in := func(base string, f func()) {
			bpftest.Must(unix.Chdir(base))
			f()
			bpftest.Must(unix.Chdir(dir))
		}

		f(Given{"cwd", cwd, "missing", dir + "/missing", "cwd"})
		f(Given{"absolute", cwd, dir + "/missing", dir + "/missing", "absolute"})
		f(Given{"dots", cwd, "./below/..//missing", dir + "/./below/..//missing", "cwd"})
		f(Given{"below a file", cwd, "data/x", dir + "/data/x", "cwd"})
		in("/", func() { f(Given{"root", cwd, "nowhere/x", "/nowhere/x", "cwd"}) })
		for _, mount := range []string{"/mnt", "/mnt/x/y", "/mnt/x/y/mnt"} {
			in(dir+mount, func() { f(Given{"cwd in " + mount, cwd, "missing", dir + mount + "/missing", "cwd"}) })
			at(dir+mount, func(fd int) {
				f(Given{"dirfd in " + mount, fd, "missing", dir + mount + "/missing", "dirfd"})
			})
		}
		at("below", func(fd int) {
			f(Given{"dirfd", fd, "missing", dir + "/below/missing", "dirfd"})
			f(Given{"absolute at dirfd", fd, "/nowhere/x", "/nowhere/x", "absolute"})
			f(Given{"empty at dirfd", fd, "", "", "unresolved"})
		})
		at("/", func(fd int) { f(Given{"dirfd of root", fd, "nowhere/x", "/nowhere/x", "dirfd"}) })
		at("data", func(fd int) { f(Given{"dirfd of a file", fd, "x", dir + "/data/x", "dirfd"}) })
		at("/", func(root int) {
			bpftest.Must(unix.Chroot("below"), unix.Chdir("/mnt"))
			f(Given{"cwd in a chroot", cwd, "missing", dir + "/below/mnt/missing", "cwd"})
			f(Given{"absolute in a chroot", cwd, "/nowhere/x", "/nowhere/x", "absolute"})
			bpftest.Must(unix.Fchdir(root), unix.Chroot("."), unix.Chdir(dir))
		})
		f(Given{"descriptor that is not there", 1 << 20, "missing", "missing", "unresolved"})
		f(Given{"descriptor below zero", -1, "missing", "missing", "unresolved"})
		f(Given{"empty", cwd, "", "", "unresolved"})
		f(Given{"NULL", cwd, nil, "", "unresolved"})

		bpftest.Must(unix.Mkdir("gone", 0o755))
		in("gone", func() {
			at(".", func(fd int) {
				bpftest.Must(unix.Rmdir("../gone"))
				f(Given{"cwd that is gone", cwd, "missing", dir + "/gone (deleted)/missing", "cwd"})
				f(Given{"dirfd that is gone", fd, "missing", dir + "/gone (deleted)/missing", "dirfd"})
			})
		})

		// What the kernel itself has begin with "(unreachable)", or end in " (deleted)".
		getcwd := func() string {
			b := make([]byte, unix.PathMax)
			return string(b[:bpftest.MustCall(unix.SYS_GETCWD, b, len(b))-1])
		}
		bpftest.Must(unix.Mkdir("unmounted", 0o755), unix.Mount("rbtrace", "unmounted", "tmpfs", 0, ""), unix.Mkdir("unmounted/etc", 0o755))
		in("unmounted/etc", func() {
			at("..", func(fd int) {
				bpftest.Must(unix.Unmount(dir+"/unmounted", unix.MNT_DETACH))
				f(Given{"cwd in what is unmounted", cwd, "missing", getcwd() + "/missing", "cwd"})
				f(Given{"dirfd of what is unmounted", fd, "missing", "(unreachable)/missing", "dirfd"})
				f(Given{"absolute in what is unmounted", cwd, "/nowhere/x", "/nowhere/x", "absolute"})
			})
		})
		fs := bpftest.MustCall(unix.SYS_FSOPEN, "tmpfs", unix.FSOPEN_CLOEXEC)
		bpftest.MustCall(unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, nil, nil, 0)
		mnt := bpftest.MustCall(unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, 0)
		bpftest.Must(unix.Mkdirat(mnt, "etc", 0o755))
		f(Given{"dirfd of what is not mounted yet", mnt, "missing", "(unreachable)/missing", "dirfd"})
		bpftest.Must(unix.Fchdir(mnt), unix.Chdir("etc"))
		f(Given{"cwd in what is not mounted yet", cwd, "missing", getcwd() + "/missing", "cwd"})
		bpftest.Must(unix.Chdir(dir), unix.Close(fs), unix.Close(mnt))

		bpftest.Must(os.MkdirAll("source/moved", 0o755), unix.Mkdir("bound", 0o755), unix.Mount("source", "bound", "", unix.MS_BIND, ""))
		in("bound/moved", func() {
			bpftest.Must(unix.Rename(dir+"/source/moved", dir+"/moved"))
			if !strings.HasPrefix(getcwd(), "(unreachable)/") {
				panic(getcwd())
			}
			// That names nothing more. What is mounted from there, the kernel knows by its path in the file system.
			bpftest.Must(unix.Mount(".", dir+"/source", "", unix.MS_BIND, ""))
			f(Given{"cwd moved out of its mount", cwd, "missing", "(unreachable)" + mountRoot(dir+"/source") + "/missing", "cwd"})
		})
		bpftest.Must(unix.Mkdir("removed", 0o755), unix.Mkdir("other", 0o755), unix.Mount("removed", "other", "", unix.MS_BIND, ""))
		in("other", func() {
			bpftest.Must(unix.Rmdir(dir + "/removed"))
			f(Given{"cwd that is gone elsewhere", cwd, "missing", bpftest.Must1(os.Readlink("/proc/thread-self/cwd")) + "/missing", "cwd"})
		})

		// Longer than NAME_MAX: those of cgroups may be.
		if mount, err := kernel.CgroupMount(); err == nil {
			wide := fmt.Sprintf("%s/%s%d", mount, strings.Repeat("ü", 150), unix.Gettid())
			bpftest.Must(os.MkdirAll(wide+"/below", 0o755))
			in(wide, func() { f(Given{"wide", cwd, "missing", "…/missing", "cwd"}) })
			in(wide+"/below", func() { f(Given{"below wide", cwd, "missing", "…/below/missing", "cwd"}) })
			bpftest.Must(unix.Rmdir(wide+"/below"), unix.Rmdir(wide))
		}

		long := strings.Repeat("./", 2045) + ".////" // and its NUL are PATH_MAX
		longer := strings.Repeat("long/", 1000)
		f(Given{"hostile", cwd, HostileName, dir + "/" + HostileName, "cwd"})
		f(Given{"long name", cwd, strings.Repeat("n", 255), dir + "/" + strings.Repeat("n", 255), "cwd"})
		f(Given{"longer name", cwd, strings.Repeat("n", 256), dir + "/" + strings.Repeat("n", 256), "cwd"})
		f(Given{"long", cwd, long, dir + "/" + long, "cwd"})
		f(Given{"too long", cwd, longer, dir + "/" + longer[:unix.PathMax-1], "cwd"})
		for name := strings.Repeat("d", 199); len(dir) < 30*200; dir += "/" + name { // deeper than is kept
			bpftest.Must(unix.Mkdir(name, 0o755), unix.Chdir(name))
		}
		kept := "…" + dir[len(dir)-20*200:]
		f(Given{"deep", cwd, "missing", kept + "/missing", "cwd"})
		f(Given{"deep and long", cwd, long, kept + "/" + long, "cwd"})
		bpftest.Must(unix.Chdir("/")) // and the mounts go with the thread
	})
}

// mountRoot is the path of what is mounted there, in its file system.
func mountRoot(point string) (root string) {
	for line := range strings.Lines(string(bpftest.Must1(os.ReadFile("/proc/thread-self/mountinfo")))) {
		if f := strings.Fields(line); f[4] == point {
			root = f[3]
		}
	}
	return root
}

// As makes a call whose event is wanted.
func As(call func() int) (ret int) {
	bpftest.As(PathComm, func() { ret = call() })
	return ret
}

// Returned are the values of an event that follow from what the call returned.
func Returned(ret int) Event {
	e := Event{"ret": int64(ret), "errno": ""}
	if ret < 0 {
		e["errno"] = string(field.Errno(ret).AppendText(nil))
	}
	return e
}

// Named are wanted events with what to call each.
type Named struct {
	Names []string
	Want  []Event
}

// Add adds one.
func (n *Named) Add(name string, want Event) {
	n.Names, n.Want = append(n.Names, name), append(n.Want, want)
}

// Same is Same, and tells the names of those that differ.
func (n *Named) Same(tb testing.TB, events []Event) (all bool) {
	tb.Helper()
	return same(tb, events, n.Want, func(i int) string { return n.Names[i] })
}

// Merge returns an event with the keys of all, the strings under Raw among them.
func Merge(all ...Event) Event {
	merged := make(Event)
	raw := make(map[string]string)
	for _, e := range all {
		for key, v := range e {
			if r, ok := v.(map[string]string); ok {
				maps.Copy(raw, r)
			} else {
				merged[key] = v
			}
		}
	}
	merged[Raw] = raw
	return merged
}
