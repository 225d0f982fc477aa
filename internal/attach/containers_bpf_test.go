// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/probes/readline"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// libraryName is where processes of callLines have their library, below their root.
const libraryName = "/lib/libreadline.so.8"

// callLines calls readline of the process's own library as often as argv says, each time
// that a line comes. With "mount" it has a root that no other mount namespace knows, with
// "map" it has the library in its memory all the time.
func callLines() error {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	if slices.Contains(os.Args, "mount") {
		root := os.Args[3]
		err = errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", root, "tmpfs", 0, ""),
			os.Mkdir(root+"/lib", 0o755),
			bpftest.WriteLibrary(root+libraryName),
			unix.Chroot(root), os.Chdir("/"),
		)
		if err != nil {
			return err
		}
	}
	var library *bpftest.Library
	if slices.Contains(os.Args, "map") {
		if library, err = bpftest.OpenLibrary(libraryName); err != nil {
			return err
		}
	}
	fmt.Fprintln(bpftest.ReportTo, "ready")
	for b := make([]byte, 1); ; {
		if _, err := os.Stdin.Read(b); err != nil {
			return nil // there is nobody who wants more
		}
		if library == nil {
			if library, err = bpftest.OpenLibrary(libraryName); err != nil {
				return err
			}
		}
		for range n {
			library.Call("readline", []byte("line\x00"))
		}
		fmt.Fprintln(bpftest.ReportTo, "called")
	}
}

// caller is a process of callLines.
func caller(t *testing.T, cgroup *os.File, chroot string, flags uintptr, args ...string) *bpftest.Child {
	t.Helper()
	c := &bpftest.Child{
		Role: "lines", Args: append([]string{"lines"}, args...),
		Sys: &syscall.SysProcAttr{Chroot: chroot, Cloneflags: flags},
	}
	if chroot != "" {
		c.Path = "/self"
	}
	if cgroup != nil {
		c.Sys.UseCgroupFD, c.Sys.CgroupFD = true, int(cgroup.Fd())
	}
	c.Start(t)
	t.Cleanup(func() { c.End(t) })
	c.ReadLine(t)
	return c
}

// newRoot makes a root with a library and this test's program.
func newRoot(t *testing.T, root string) string {
	t.Helper()
	check(t, os.MkdirAll(root+"/lib", 0o755))
	check(t, bpftest.WriteLibrary(root+libraryName))
	bpftest.Link(t, root+"/self")
	return root
}

// lines returns what a session sees of the calls of some processes, and its files.
func lines(t *testing.T, opts attach.Options, callers ...*bpftest.Child) (seen uint64, l *attach.Loaded) {
	t.Helper()
	opts.RingSize = 1 << 20
	s, err := attach.Open([]*tracer.Tracer{readline.Tracer}, opts)
	check(t, err)
	defer s.Close()
	if opts.Filter.Tree != 0 {
		check(t, s.FollowTree(int(opts.Filter.Tree)))
	}
	check(t, s.Enable())
	for _, c := range callers {
		c.WriteLine(t)
		c.ReadLine(t)
	}
	check(t, s.Disable())
	books, err := s.Tracers[0].Books()
	check(t, err)
	for _, b := range books.CPU {
		seen += b.Submitted
	}
	return seen, s.Tracers[0]
}

func requireUprobes(t *testing.T) {
	t.Helper()
	bpftest.Require(t)
	if _, err := os.Stat("/sys/bus/event_source/devices/uprobe"); err != nil {
		t.Skip("this kernel has no uprobes")
	}
}

// newCgroup makes a cgroup, and one below it.
func newCgroup(t *testing.T) (dir string, below *os.File) {
	t.Helper()
	mount, err := kernel.CgroupMount()
	if err != nil {
		bpftest.Skipf(t, "%v", err)
	}
	dir = filepath.Join(mount, fmt.Sprintf("rbtrace-files-%d", os.Getpid()))
	check(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { check(t, os.Remove(dir)) })
	check(t, os.Mkdir(dir+"/below", 0o755))
	t.Cleanup(func() { check(t, os.Remove(dir+"/below")) })
	below, err = os.Open(dir + "/below")
	check(t, err)
	t.Cleanup(func() { below.Close() })
	return dir, below
}

// TestContainers: the processes of a cgroup, and those of a tree, have libraries of their own,
// which are traced, and what others call is not.
func TestContainers(t *testing.T) {
	requireUprobes(t)
	dir, below := newCgroup(t)
	scratch := bpftest.Dir(t)
	one, two := newRoot(t, scratch+"/one"), newRoot(t, scratch+"/two")
	check(t, os.Mkdir(scratch+"/three", 0o755))
	a := caller(t, below, one, 0, "3")
	b := caller(t, below, two, 0, "5", "map")
	c := caller(t, below, "", syscall.CLONE_NEWNS, "7", "mount", scratch+"/three")
	outside := caller(t, nil, one, 0, "11")
	bare := scratch + "/bare"
	check(t, os.Mkdir(bare, 0o755))
	bpftest.Link(t, bare+"/self")
	blind := caller(t, below, bare, 0, "1")

	seen, l := lines(t, attach.Options{Filter: attach.Filter{Cgroup: dir}}, a, b, c, outside)
	if seen != 3+5+7 {
		t.Errorf("%d calls of the cgroup were seen, want 15", seen)
	}
	if n := len(l.Attempts[0].Programs); n != 3 {
		t.Errorf("attached to %q, want three files", l.Attempts[0].Programs)
	}
	if want := fmt.Sprintf("process %d: there is no bash in", blind.PID()); len(l.Blind) != 1 || !strings.HasPrefix(l.Blind[0], want) {
		t.Errorf("without a file are %q, want %q", l.Blind, want)
	}

	for _, test := range []struct {
		root *bpftest.Child
		want uint64
	}{{a, 3}, {b, 5}, {c, 7}} {
		pid := uint32(test.root.PID())
		if seen, _ := lines(t, attach.Options{Filter: attach.Filter{Tree: pid, Follow: true}}, a, b, c, outside); seen != test.want {
			t.Errorf("%d calls of the tree were seen, want %d", seen, test.want)
		}
		if seen, _ := lines(t, attach.Options{Filter: attach.Filter{PID: pid}}, a, b, c, outside); seen != test.want {
			t.Errorf("%d calls of the process were seen, want %d", seen, test.want)
		}
	}
	// This process's own root may have libraries, too; all of its descendants do.
	if seen, _ := lines(t, attach.Options{Filter: attach.Filter{Tree: uint32(os.Getpid()), Follow: true}}, a, b, c, outside); seen != 3+5+7+11 {
		t.Errorf("%d calls of the tree of all were seen, want 26", seen)
	}
	_, err := attach.Open([]*tracer.Tracer{readline.Tracer}, attach.Options{
		RingSize: ringSize, Filter: attach.Filter{Tree: uint32(blind.PID()), Follow: true},
	})
	if !errors.Is(err, attach.ErrNoFile) {
		t.Errorf("error %v where no process has a file", err)
	}
}

// TestTwins: a file that is seen by way of several overlay mounts has one inode, and each
// call is one event, whoever has uprobes there already.
func TestTwins(t *testing.T) {
	requireUprobes(t)
	scratch := bpftest.Dir(t)
	lower := newRoot(t, scratch+"/lower")
	roots := make([]string, 3)
	for i := range roots {
		dir := fmt.Sprintf("%s/%d", scratch, i)
		for _, name := range []string{"", "/upper", "/work", "/root"} {
			check(t, os.Mkdir(dir+name, 0o755))
		}
		roots[i] = dir + "/root"
		err := unix.Mount("overlay", roots[i], "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir))
		if err != nil {
			t.Skipf("mounting an overlay: %v", err)
		}
		t.Cleanup(func() { check(t, unix.Unmount(roots[i], unix.MNT_DETACH)) })
	}
	// This one has another file of that name, with the same content.
	check(t, bpftest.WriteLibrary(roots[2]+libraryName+".new"))
	check(t, os.Rename(roots[2]+libraryName+".new", roots[2]+libraryName))
	dir, below := newCgroup(t)
	a := caller(t, below, roots[0], 0, "3")
	b := caller(t, below, roots[1], 0, "5", "map")
	c := caller(t, below, roots[2], 0, "7")
	d := caller(t, below, lower, 0, "11")
	want := func() {
		t.Helper()
		seen, l := lines(t, attach.Options{Filter: attach.Filter{Cgroup: dir}}, a, b, c, d)
		if seen != 3+5+7+11 || len(l.Attempts[0].Programs) != 2 {
			t.Errorf("%d calls were seen, want 26; attached to %q", seen, l.Attempts[0].Programs)
		}
	}
	want()
	other, err := attach.Open([]*tracer.Tracer{readline.Tracer}, attach.Options{
		RingSize: ringSize, Filter: attach.Filter{Comm: "nobody-has-this"}, Params: map[string]string{tracer.LibraryParam: roots[1] + libraryName},
	})
	check(t, err)
	defer other.Close()
	want()
}

// TestFilesFirst: where a file is missing, nothing is attached, also not of the tracers before.
func TestFilesFirst(t *testing.T) {
	bpftest.Require(t)
	first := *exec.Tracer // which could not be attached either, and would say so
	first.Hooks = slices.Clone(first.Hooks)
	first.Hooks[0].Programs = slices.Clone(first.Hooks[0].Programs)
	first.Hooks[0].Programs[0].Also = []string{"no_such_tracepoint"}
	_, err := attach.Open([]*tracer.Tracer{&first, readline.Tracer}, attach.Options{
		RingSize: ringSize, Params: map[string]string{"readline.lib": "libnothing.so"},
	})
	if !errors.Is(err, attach.ErrNoFile) {
		t.Errorf("error %v", err)
	}
}
