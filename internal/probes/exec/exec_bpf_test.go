// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
)

type event = tracetest.Event

// mine lets the children of this process pass.
func mine() attach.Options {
	return attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}
}

// quick returns the path of a program that ends at once.
func quick(t *testing.T) string {
	t.Helper()
	return bpftest.LinkQuick(t, bpftest.Dir(t)+"/quick")
}

func mineFailed() attach.Options {
	opts := mine()
	opts.Failed = true
	return opts
}

// hostile is a name that no program should trip over.
const hostile = "a \"b\"\n\x1b[31m\xff\xc3ü\u202e"

func TestEveryExec(t *testing.T) {
	bpftest.Require(t)
	n := bpftest.Few(1009, 211)
	path := quick(t)
	var want []event
	events := tracetest.Trace(t, exec.Tracer, mine(), func() {
		for i := range n {
			argv := []string{"quick", fmt.Sprint(i)}
			pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{})
			if err != nil {
				t.Fatal(err)
			}
			bpftest.Wait(t, pid)
			want = append(want, event{"pid": int64(pid), "args": argv, "file": path, "comm": "quick"})
		}
	})
	tracetest.Same(t, events, want)
}

// TestAtOnce starts programs from several threads, without waiting for the ends
// of those before.
func TestAtOnce(t *testing.T) {
	bpftest.Require(t)
	const threads, each = 4, 53
	path := quick(t)
	for _, opts := range []attach.Options{mine(), mineFailed()} {
		t.Run(fmt.Sprintf("failed=%v", opts.Failed), func(t *testing.T) {
			path, wantErr := path, error(nil)
			if opts.Failed {
				path, wantErr = path+"-not", unix.ENOENT
			}
			s := tracetest.Open(t, opts, exec.Tracer)
			s.Start()
			var wg sync.WaitGroup
			for thread := range threads {
				wg.Go(func() {
					var pids []int
					for i := range each {
						pid, err := syscall.ForkExec(path, []string{"quick", fmt.Sprint(thread*each + i)}, &syscall.ProcAttr{})
						if !errors.Is(err, wantErr) {
							t.Error(err)
						}
						if err == nil {
							pids = append(pids, pid)
						}
					}
					check(t, waitAll(pids))
				})
			}
			wg.Wait()
			r := s.Finish(t)

			seen := make(map[string]bool)
			for _, e := range r.Events {
				seen[e["args"].([]string)[1]] = true
			}
			if len(seen) != len(r.Events) {
				t.Errorf("%d events, of which %d differ", len(r.Events), len(seen))
			}
			r.Accounts(t, threads*each)
			r.NoneTurnedAway(t)
		})
	}
}

// fields is a way to start a program that then reports the truth about itself.
type fields struct {
	name string
	// Of the child, which runs in a directory of its own, where prog is a link to
	// this binary.
	path  string          // empty: prog in that directory
	args  func() []string // nil: none but its path. Not made in each process of this test binary.
	sys   *syscall.SysProcAttr
	setup func(t *testing.T, dir string)
	// stage makes the child exec a second time.
	stage func() error
	// want are the values that are not as the program reports them. DIR stands for
	// the directory.
	want func(dir string) event
}

// below is a deep directory.
var below = strings.Repeat("eleven chars/", 40)

// argv returns args, once they are asked for.
func argv(args ...string) func() []string { return func() []string { return args } }

// arguments returns argv of so many bytes, each NUL counted.
func arguments(size int) func() []string {
	return func() []string {
		argv, size := []string{"prog"}, size-len("prog")-1
		for n := 1; size > 0; n++ {
			arg := strings.Repeat(string(rune('a'+n%26)), min(n*97, size-1))
			argv = append(argv, arg)
			size -= len(arg) + 1
		}
		return argv
	}
}

// empty returns so many arguments.
func empty(n int) func() []string { return func() []string { return make([]string, n) } }

func oneHuge() []string { return []string{strings.Repeat("x", argsMax-1)} }
func twoHuge() []string { return append([]string{""}, oneHuge()...) }

func file(path string) func(string) event {
	return func(dir string) event {
		if rest, ok := strings.CutPrefix(path, "DIR"); ok {
			return event{"file": dir + rest}
		}
		return event{"file": path}
	}
}

// cut is an argv that is not all there.
func cut(argv func() []string) func(string) event {
	return func(string) event {
		raw := strings.Join(argv(), "\x00")[:argsMax]
		return event{
			"args_truncated": true, "args": strings.Split(strings.TrimSuffix(raw, "\x00"), "\x00"),
			tracetest.Raw: map[string]string{"args": raw},
		}
	}
}

var allFields = []fields{
	{name: "plain", args: argv("prog", "-a", "b c", "", "ü")},
	{name: "relative", path: "./prog", want: file("./prog")},
	{name: "symlink", path: "./link", want: file("./link"), setup: func(t *testing.T, dir string) {
		check(t, os.Symlink("prog", dir+"/link"))
	}},
	{name: "longPath", path: strings.Repeat("./", 2000) + "prog", want: file(strings.Repeat("./", 2000) + "prog")},
	{name: "argvHostile", args: argv("\n\t\r", "\x1b]0;title\a", "\xff\xfe\x80", hostile, "", " ", `\`, `"`)},
	{name: "nameHostile", path: "./" + hostile, want: file(tracetest.Text("./" + hostile)), setup: func(t *testing.T, dir string) {
		check(t, os.Link(dir+"/prog", dir+"/"+hostile))
	}},
	{name: "credentials", sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 23456}}},
	{name: "effectiveOnly", stage: func() error { // a program that is set-uid: the real ids count
		runtime.LockOSThread()
		if err := unix.Setresuid(-1, 12345, -1); err != nil {
			return err
		}
		return execProg()
	}},
	{name: "setuidBit", setup: func(t *testing.T, dir string) {
		prog, err := os.ReadFile(dir + "/prog")
		check(t, err)
		bit := dir + "/bit" // elsewhere the bit may not count (MS_NOSUID)
		check(t, os.Mkdir(bit, 0o755))
		check(t, unix.Mount("rbtrace", bit, "tmpfs", 0, "mode=755"))
		t.Cleanup(func() { check(t, unix.Unmount(bit, 0)) })
		check(t, os.WriteFile(bit+"/setuid", prog, 0o755))
		check(t, os.Chown(bit+"/setuid", 12345, 23456))
		check(t, unix.Chmod(bit+"/setuid", unix.S_ISUID|unix.S_ISGID|0o755))
	}, path: "bit/setuid", want: func(string) event {
		return event{"file": "bit/setuid", "uid": int64(os.Getuid()), "gid": int64(os.Getgid()), "euid": int64(12345), "egid": int64(23456)}
	}},
	{name: "login", stage: func() error {
		runtime.LockOSThread() // a thread can set its own alone
		err := os.WriteFile("/proc/thread-self/loginuid", []byte("12345"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // the kernel has no audit log
			return err
		}
		return execProg()
	}},

	// argv up to and above what a record takes, and what all records of an event take.
	{name: "argv32768", args: arguments(32768)},
	{name: "argv32769", args: arguments(32769)},
	{name: "argv100K", args: arguments(100 << 10)},
	{name: "argv128K", args: arguments(argsMax)},
	{name: "argv128K1", args: arguments(argsMax + 1), want: cut(arguments(argsMax + 1))},
	{name: "argvManyEmpty", args: empty(30011)},
	{name: "argvTooManyEmpty", args: empty(140009), want: cut(empty(140009))},
	{name: "argvOneHuge", args: oneHuge},
	{name: "argvTwoHuge", args: twoHuge, want: cut(twoHuge)},
	{name: "argvNone", want: file("./prog"), stage: func() error {
		return bpftest.Exec(unix.AT_FDCWD, "./prog", nil, 0)
	}},

	// Working directories.
	{name: "cwdDeep", setup: func(t *testing.T, dir string) {
		check(t, os.MkdirAll(dir+"/"+below, 0o755))
	}, stage: func() error {
		return errors.Join(os.Chdir(below), execProg())
	}},
	{name: "cwdHostile", stage: func() error {
		return errors.Join(os.Mkdir(hostile, 0o755), os.Chdir(hostile), execProg())
	}},
	{name: "cwdDeleted", stage: func() error {
		return errors.Join(os.Mkdir("gone", 0o755), os.Chdir("gone"), os.Remove("../gone"), execProg())
	}},
	{name: "cwdRoot", stage: func() error { return errors.Join(os.Chdir("/"), execProg()) }},

	// Mounts that this process alone sees: names go on at each mount point.
	{name: "mounts", sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, stage: func() error {
		return errors.Join(
			unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			os.Mkdir("mnt", 0o755), unix.Mount("rbtrace", "mnt", "tmpfs", 0, ""),
			os.MkdirAll("mnt/x/y", 0o755), unix.Mount(".", "mnt/x/y", "", unix.MS_BIND, ""),
			unix.Mount("rbtrace", "mnt/x/y/mnt", "tmpfs", 0, ""), os.Mkdir("mnt/x/y/mnt/z", 0o755),
			os.Chdir("mnt/x/y/mnt/z"),
			bpftest.Exec(unix.AT_FDCWD, "../../prog", []string{"prog"}, 0),
		)
	}, want: func(dir string) event {
		return event{"file": "../../prog", "exe": dir + "/mnt/x/y/prog", "cwd": dir + "/mnt/x/y/mnt/z"}
	}},
	{name: "mountedFile", sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, stage: func() error {
		return errors.Join(
			unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			os.WriteFile("here", nil, 0o644), unix.Mount("prog", "here", "", unix.MS_BIND, ""),
			bpftest.Exec(unix.AT_FDCWD, "./here", []string{"prog"}, 0),
		)
	}, want: func(dir string) event { return event{"file": "./here", "exe": dir + "/here"} }},
	// A mount that is no more, but for who is in it.
	{name: "unmounted", sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}, stage: func() error {
		dir, err := os.Getwd()
		prog, err2 := os.ReadFile("prog")
		err = errors.Join(
			err, err2, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), os.Mkdir("mnt", 0o755),
			unix.Mount("rbtrace", "mnt", "tmpfs", 0, ""), os.Mkdir("mnt/etc", 0o755), os.WriteFile("mnt/prog", prog, 0o755), os.Chdir("mnt/etc"),
		)
		fd, err2 := unix.Open("../prog", unix.O_PATH, 0)
		return errors.Join(err, err2, unix.Unmount(dir+"/mnt", unix.MNT_DETACH), bpftest.Exec(fd, "", []string{"prog"}, unix.AT_EMPTY_PATH))
	}, want: func(string) event {
		want := map[string]string{"file": "(unreachable)/prog", "exe": "(unreachable)/prog", "cwd": "(unreachable)/etc"}
		return event{"file": want["file"], "exe": want["exe"], "cwd": want["cwd"], tracetest.Raw: want}
	}},

	// By way of descriptors.
	{name: "fexecve", want: file("DIR/prog"), stage: func() error { return fexec("prog", 0) }},
	{name: "fexecveCloexec", want: file("DIR/prog"), stage: func() error { return fexec("prog", unix.O_CLOEXEC) }},
	{name: "fexecvePath", want: file("DIR/prog"), stage: func() error { return fexec("prog", unix.O_PATH) }},
	{name: "fexecveDeleted", stage: func() error {
		fd, err := unix.Open("prog", unix.O_PATH, 0)
		return errors.Join(err, os.Remove("prog"), bpftest.Exec(fd, "", []string{"prog"}, unix.AT_EMPTY_PATH))
	}, want: file("DIR/prog (deleted)")},
	{name: "memfd", stage: func() error {
		fd, err := unix.MemfdCreate("copy", 0)
		if err != nil {
			return err
		}
		prog, err := os.ReadFile("prog")
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, prog)
		return errors.Join(err, bpftest.Exec(fd, "", []string{"prog"}, unix.AT_EMPTY_PATH))
	}, want: func(string) event {
		return event{"file": "/memfd:copy (deleted)", "exe": "/memfd:copy (deleted)"}
	}},
	{name: "execveatDir", want: file("DIR/prog"), stage: func() error { return execAt(".", "prog") }},
	{name: "execveatRoot", stage: func() error { return execAt("/", strings.TrimPrefix(prog(), "/")) }},
	{name: "execveatCwd", want: file("./prog"), stage: func() error {
		return bpftest.Exec(unix.AT_FDCWD, "./prog", []string{"prog"}, unix.AT_SYMLINK_NOFOLLOW)
	}},
	{name: "execveatAbsolute", stage: func() error { return bpftest.Exec(0, prog(), []string{"prog"}, 0) }},

	// Scripts: prog interprets them.
	{name: "script", setup: scripts, want: file("./script"), stage: func() error {
		return bpftest.Exec(unix.AT_FDCWD, "./script", []string{"lost", "kept"}, 0)
	}},
	{name: "scriptOfScript", setup: scripts, want: file("./outer"), stage: func() error {
		return bpftest.Exec(unix.AT_FDCWD, "./outer", []string{"lost", "kept"}, 0)
	}},
	{name: "scriptNoArgv", setup: scripts, want: file("./script"), stage: func() error {
		return bpftest.Exec(unix.AT_FDCWD, "./script", nil, 0)
	}},
	{name: "scriptFexecve", setup: scripts, want: file("DIR/script"), stage: func() error { return fexec("script", 0) }},
	{name: "scriptExecveat", setup: scripts, want: file("DIR/script"), stage: func() error { return execAt(".", "script") }},
	{name: "scriptArgv100K", setup: scripts, path: "./script", args: arguments(100 << 10), want: file("./script")},

	// From a thread that is not the leader.
	{name: "thread", stage: func() error { return onThread(execProg) }},
	{name: "threadFexecve", want: file("DIR/prog"), stage: func() error {
		return onThread(func() error { return fexec("prog", 0) })
	}},
}

// prog returns the path of the program that a staged child is.
func prog() string {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	return path
}

func execProg() error { return bpftest.Exec(unix.AT_FDCWD, prog(), []string{"prog", "x"}, 0) }

func fexec(name string, flags int) error {
	fd, err := unix.Open(name, unix.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	return bpftest.Exec(fd, "", []string{"prog", "x"}, unix.AT_EMPTY_PATH)
}

func execAt(dir, name string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return bpftest.Exec(fd, name, []string{"prog", "x"}, 0)
}

func onThread(exec func() error) error {
	err := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			go run() // not on this thread, which waits here
			select {}
		}
		err <- exec()
	}
	go run()
	return <-err
}

func scripts(t *testing.T, dir string) {
	check(t, os.WriteFile(dir+"/script", []byte("#!"+dir+"/prog -x\n"), 0o755))
	check(t, os.WriteFile(dir+"/outer", []byte("#!"+dir+"/script -y z\n"), 0o755))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFields(t *testing.T) {
	bpftest.Require(t)
	fields := bpftest.Thin(allFields, 3)
	reports := make([]*bpftest.Report, len(fields))
	dirs := make([]string, len(fields))
	events := make(map[int64][]event)
	for _, e := range tracetest.Trace(t, exec.Tracer, mine(), func() {
		for i, f := range fields {
			dir := bpftest.Dir(t)
			c := &bpftest.Child{Path: bpftest.Link(t, dir+"/prog"), Dir: dir, Sys: f.sys}
			if f.args != nil {
				c.Args = f.args()
			}
			if f.setup != nil {
				f.setup(t, dir)
			}
			if f.path != "" {
				c.Path = f.path
			}
			if f.stage != nil {
				c.Role = f.name
			}
			reports[i], dirs[i] = c.Report(t), dir
		}
	}) {
		pid := e["pid"].(int64)
		events[pid] = append(events[pid], e)
	}
	total := 0
	for i, f := range fields {
		t.Run(f.name, func(t *testing.T) {
			want := wantOf(reports[i])
			want["file"] = dirs[i] + "/prog"
			if f.want != nil {
				maps.Copy(want, f.want(dirs[i]))
			}
			all, n := events[reports[i].PID], 1
			if f.stage != nil {
				n++
			}
			total += n
			if len(all) != n {
				t.Fatalf("%d events, want %d: %v", len(all), n, all)
			}
			tracetest.Same(t, all[n-1:], []event{want})
		})
	}
	for _, e := range events {
		total -= len(e)
	}
	if total != 0 {
		t.Errorf("%d events more than expected", -total)
	}
}

// wantOf is the event of the exec after which a program wrote a report.
func wantOf(r *bpftest.Report) event {
	args := []string{}
	for arg := range bytes.SplitAfterSeq(r.Cmdline, []byte{0}) {
		if len(arg) > 0 {
			args = append(args, tracetest.Text(arg[:len(arg)-1]))
		}
	}
	e := event{
		"type": "exec", "pid": r.PID, "tid": r.TID, "ppid": r.PPID, "uid": r.UID, "gid": r.GID,
		"euid": r.EUID, "egid": r.EGID, "loginuid": r.LoginUID, "sessionid": r.SessionID,
		"comm": tracetest.Text(r.Comm), "pcomm": tracetest.Text(r.PComm), "ret": int64(0), "errno": "",
		"exe": tracetest.Text(r.Exe), "cwd": tracetest.Text(r.Cwd),
		"argc": int64(bytes.Count(r.Cmdline, []byte{0})), "args_bytes": int64(len(r.Cmdline)),
		"args_truncated": false, "args": args,
		tracetest.Raw: map[string]string{
			"comm": string(r.Comm), "pcomm": string(r.PComm), "exe": string(r.Exe), "cwd": string(r.Cwd),
			"args": string(r.Cmdline),
		},
	}
	if r.Cgroup != 0 {
		e["cgroup_id"] = r.Cgroup
	}
	return e
}

// TestReused: where the memory of an event is used again, no more of what it held goes into a
// record.
func TestReused(t *testing.T) {
	bpftest.Require(t)
	const n = 7
	path := quick(t)
	bpftest.Pin(t)
	comm := func() []byte {
		name, err := os.ReadFile("/proc/self/comm")
		check(t, err)
		return bytes.TrimSuffix(name, []byte("\n"))
	}
	old := comm()
	defer func() { check(t, os.WriteFile("/proc/self/comm", old, 0)) }()
	var want []event
	events := tracetest.Trace(t, exec.Tracer, mine(), func() { // which fails where something is behind the name
		for _, name := range []string{"fifteen letters", "b"} {
			check(t, os.WriteFile("/proc/self/comm", []byte(name), 0))
			bpftest.Spawn(t, n, path, []string{"q"}, nil, nil)
			want = append(want, repeatedEvent(n, event{"pcomm": name})...)
		}
	})
	tracetest.Same(t, events, want)
}

// TestNamespaces: ids are those of the initial namespaces, whatever the process
// itself sees.
func TestNamespaces(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWPID | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 12345, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 23456, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}}
	var r *bpftest.Report
	events := tracetest.Trace(t, exec.Tracer, mine(), func() { r = c.Report(t) })
	if r.PID != 1 || r.UID != 0 || r.GID != 0 {
		t.Fatalf("the child is in no namespaces of its own: %+v", r)
	}
	tracetest.Same(t, events, []event{{
		"pid": int64(c.PID()), "tid": int64(c.PID()), "ppid": int64(os.Getpid()), "uid": int64(12345), "gid": int64(23456),
		"exe": string(r.Exe), "cwd": string(r.Cwd),
	}})
}

// TestChroot: paths are those that a process outside sees.
func TestChroot(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	bpftest.LinkQuick(t, dir+"/quick")
	events := tracetest.Trace(t, exec.Tracer, mine(), func() {
		bpftest.Spawn(t, 3, "/quick", []string{"q"}, &syscall.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{Chroot: dir}}, nil)
	})
	want := event{"file": "/quick", "exe": dir + "/quick", "cwd": dir}
	tracetest.Same(t, events, []event{want, want, want})
}

// TestDeepPaths: a path that is deeper than a walk goes, or longer than it stores,
// keeps its end.
func TestDeepPaths(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		name         string
		depth, width int
		cwd, exe     int // directories that are kept; 0: all
	}{
		{"57 directories", 57, 3, 0, 0},
		{"71 directories", 71, 3, 64, 63},
		{"3900 bytes", 20, 190, 0, 0},
		{"4096 bytes and more", 16, 255, 16, 15},
		{"6000 bytes", 30, 199, 20, 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := bpftest.Dir(t)
			t.Chdir(dir)
			var below []string
			for i := range test.depth { // one by one, for a path has a limit
				name := fmt.Sprintf("/%0*d", test.width, i)
				check(t, os.Mkdir(name[1:], 0o755))
				check(t, os.Chdir(name[1:]))
				below = append(below, name)
			}
			bpftest.LinkQuick(t, "quick")
			events := tracetest.Trace(t, exec.Tracer, mine(), func() { bpftest.Spawn(t, 1, "./quick", nil, nil, nil) })
			path := func(kept int) string {
				if kept == 0 {
					return dir + strings.Join(below, "")
				}
				return "…" + strings.Join(below[len(below)-kept:], "")
			}
			tracetest.Same(t, events, []event{{"file": "./quick", "cwd": path(test.cwd), "exe": path(test.exe) + "/quick"}})
		})
	}
}

// TestClockSet: the times of events are those of the wall clock as it was then, also when somebody sets it.
func TestClockSet(t *testing.T) {
	bpftest.Require(t)
	if os.Getenv(bpftest.KernelEnv) == "" {
		bpftest.Lacks(t, "it sets the clock: a machine of one's own")
	}
	path := quick(t)
	set := func(forth time.Duration) {
		ts := unix.NsecToTimespec(time.Now().Add(forth).UnixNano())
		check(t, unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
	}
	s := tracetest.Open(t, mine(), exec.Tracer)
	steps := []time.Duration{time.Hour, -time.Hour, 20 * time.Millisecond, -20 * time.Millisecond}
	var begins, ends []time.Time
	for _, step := range append(steps, 0) {
		begins = append(begins, time.Now().Round(0)) // without what Go has of the monotonic clock
		bpftest.Spawn(t, 2, path, nil, nil, nil)
		s.Drain(t)
		ends = append(ends, time.Now().Round(0))
		set(step)
	}
	events := s.Finish(t).Events
	if len(events) != 2*len(begins) {
		t.Fatalf("%d events, want %d", len(events), 2*len(begins))
	}
	for i, e := range events {
		wall, err := time.Parse(time.RFC3339Nano, e["time"].(string))
		check(t, err)
		begin, end := begins[i/2], ends[i/2]
		if wall.Before(begin.Add(-time.Millisecond)) || wall.After(end.Add(time.Millisecond)) {
			t.Errorf("event %d: time %v, want it between %v and %v", i, wall, begin, end)
		}
	}
}

// TestTimes: events come in the order of their times, which lie within the
// workload's, and from the CPU that it ran on.
func TestTimes(t *testing.T) {
	bpftest.Require(t)
	path := quick(t)
	cpu := bpftest.Pin(t)
	var begin, end time.Time
	var last, most int64
	events := tracetest.Trace(t, exec.Tracer, mine(), func() {
		begin, last = time.Now(), int64(kernel.BootTime())
		bpftest.Spawn(t, 7, path, nil, nil, nil)
		end, most = time.Now(), int64(kernel.BootTime())
	})
	const exact = time.Millisecond // as two clocks can be read under emulation
	for _, e := range events {
		boot := e["boot_ns"].(int64)
		if boot < last || boot > most {
			t.Errorf("boot_ns is %d, want it between %d and %d", boot, last, most)
		}
		last = boot
		wall, err := time.Parse(time.RFC3339Nano, e["time"].(string))
		check(t, err)
		if wall.Before(begin.Add(-exact)) || wall.After(end.Add(exact)) {
			t.Errorf("time %v, want it between %v and %v", wall, begin, end)
		}
		if e["cpu"] != int64(cpu) {
			t.Errorf("cpu is %d, want %d", e["cpu"], cpu)
		}
	}
	if len(events) != 7 {
		t.Errorf("%d events, want 7", len(events))
	}
}

func TestMain(m *testing.M) {
	for _, f := range allFields {
		roles[f.name] = f.stage
	}
	// Arguments are read without waiting for a page, and one that the kernel is about to put together with
	// others to a large one (khugepaged) would have to be waited for.
	bpftest.Must(unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
	bpftest.Main(m, roles)
}
