// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
)

// failure is a call of execve, or execveat, that fails.
type failure struct {
	name  string
	times int // a prime
	call  func(argv []string) error
	errno unix.Errno
	// file is what the event shall show; DIR stands for the directory.
	file string
	argv []string // nil: a short one
	// want are the values that do not follow from argv.
	want event
}

func execve(path string) func([]string) error {
	return func(argv []string) error { return bpftest.Execveat(unix.AT_FDCWD, path, argv, nil, 0) }
}

// execveat calls it with a descriptor of dir.
func execveat(dir, path string, flags int) func([]string) error {
	return func(argv []string) error {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return bpftest.Execveat(fd, path, argv, nil, flags)
	}
}

// repeated returns argv of n times the same.
func repeated(n int, arg string) []string {
	argv := make([]string, n)
	for i := range argv {
		argv[i] = arg
	}
	return argv
}

// argvCut is what an event shows of argv when it has the first bytes of it only.
func argvCut(argv []string, bytes int) event {
	raw := strings.Join(argv, "\x00")[:bytes]
	args := strings.Split(strings.TrimSuffix(raw, "\x00"), "\x00")
	return event{
		"args": args, "argc": int64(len(args)), "args_bytes": int64(bytes), "args_truncated": true,
		tracetest.Raw: map[string]string{"args": raw},
	}
}

// borders returns an argv of strings of about one and two times 4096 bytes.
func borders() (argv []string) {
	for _, border := range []int{4096, 8192} {
		for n := border - 3; n < border+3; n++ {
			argv = append(argv, strings.Repeat("x", n), "", "end")
		}
	}
	return argv
}

var (
	none     = event{"args": []string{}, "argc": int64(0), "args_bytes": int64(0)}
	notThere = event{"args": []string{}, "argc": int64(0), "args_bytes": int64(0), "args_truncated": true}
	tooLong  = strings.Repeat("long/", 1000)
)

// failures run in a directory with these in it, as makeFailures makes them. No variable: see searches.
func failures() []failure {
	return []failure{
		{name: "ENOENT", times: 29, call: execve("missing"), errno: unix.ENOENT, file: "missing"},
		{name: "empty", times: 2, call: execve(""), errno: unix.ENOENT},
		{name: "EACCES", times: 23, call: execve("./data"), errno: unix.EACCES, file: "./data"},
		{name: "directory", times: 3, call: execve("/"), errno: unix.EACCES, file: "/"},
		{name: "ENOEXEC", times: 19, call: execve("./garbage"), errno: unix.ENOEXEC, file: "./garbage"},
		{name: "interpreter", times: 2, call: execve("./orphan"), errno: unix.ENOENT, file: "./orphan"},
		{name: "ENOTDIR", times: 17, call: execve("data/x"), errno: unix.ENOTDIR, file: "data/x"},
		{name: "ELOOP", times: 13, call: execve("loop"), errno: unix.ELOOP, file: "loop"},
		{name: "ETXTBSY", times: 2, errno: unix.ETXTBSY, file: "quick", call: func(argv []string) error {
			f, err := os.OpenFile("quick", os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			return execve("quick")(argv)
		}},
		{name: "ENAMETOOLONG", times: 11, call: execve(strings.Repeat("n", 256)), errno: unix.ENAMETOOLONG, file: strings.Repeat("n", 256)},
		{name: "path", times: 2, call: execve(tooLong), errno: unix.ENAMETOOLONG, file: tooLong[:4095]},
		{name: "hostile", times: 7, call: execve(hostile), errno: unix.ENOENT, file: hostile, argv: []string{hostile, "", "\xff\n"}},

		{name: "EBADF", times: 5, errno: unix.EBADF, file: "x", call: func(argv []string) error {
			return bpftest.Execveat(1<<20, "x", argv, nil, 0)
		}},
		{name: "badFd", times: 2, errno: unix.EBADF, file: "x", call: func(argv []string) error {
			return bpftest.Execveat(-1, "x", argv, nil, 0)
		}},
		{name: "badFlags", times: 3, errno: unix.EINVAL, file: "x", call: func(argv []string) error {
			return bpftest.Execveat(unix.AT_FDCWD, "x", argv, nil, 1<<30)
		}},
		{name: "NULL", times: 5, call: func([]string) error { return bpftest.ExecveNull() }, errno: unix.EFAULT, want: none},
		{name: "badArgv", times: 3, call: func([]string) error { return bpftest.ExecveBadArgv("./quick") }, errno: unix.EFAULT, file: "./quick", want: notThere},

		{name: "below", times: 3, call: execveat(".", "missing", 0), errno: unix.ENOENT, file: "DIR/missing"},
		{name: "belowRoot", times: 2, call: execveat("/", "missing", 0), errno: unix.ENOENT, file: "/missing"},
		{name: "absolute", times: 2, call: execveat(".", "/missing", 0), errno: unix.ENOENT, file: "/missing"},
		{name: "cwd", times: 2, errno: unix.ENOENT, file: "missing", call: func(argv []string) error {
			return bpftest.Execveat(unix.AT_FDCWD, "missing", argv, nil, unix.AT_SYMLINK_NOFOLLOW)
		}},
		{name: "fexecve", times: 5, call: execveat("data", "", unix.AT_EMPTY_PATH), errno: unix.EACCES, file: "DIR/data"},
		{name: "fexecveScript", times: 3, errno: unix.ENOENT, file: "DIR/script", call: execveat("script", "", unix.AT_EMPTY_PATH)}, // close-on-exec

		// Without argv the kernel has said EINVAL for a while, and then given an empty one.
		{name: "noArgv", times: 3, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: []string{}, want: none},
		{name: "emptyArg", times: 3, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: []string{""}},
		{name: "129", times: 3, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: repeated(129, "x")},
		{name: "4225", times: 3, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: repeated(4225, "xy")},
		{name: "borders", times: 3, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: borders()}, // of what is read at once
		{name: "128Kempty", times: 2, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: repeated(argsMax, "")},
		{name: "128K1empty", times: 2, call: execve("missing"), errno: unix.ENOENT, file: "missing", argv: repeated(argsMax+1, ""), want: argvCut(repeated(argsMax+1, ""), argsMax)},
		{name: "E2BIG", times: 5, call: execve("./quick"), errno: unix.E2BIG, file: "./quick", argv: []string{"q", strings.Repeat("x", argsMax)}, want: argvCut([]string{"q", strings.Repeat("x", argsMax)}, argsMax)},
	}
}

func makeFailures(t *testing.T) (dir string) {
	dir = bpftest.Dir(t)
	t.Chdir(dir)
	check(t, os.WriteFile("data", []byte("#!/missing\n"), 0o644))
	check(t, os.WriteFile("garbage", []byte("garbage"), 0o755))
	check(t, os.WriteFile("orphan", []byte("#!/missing\n"), 0o755))
	check(t, os.WriteFile("script", []byte("#!"+dir+"/quick\n"), 0o755))
	check(t, os.WriteFile("quick", []byte("not run"), 0o755))
	check(t, os.Symlink("loop", "loop"))
	return dir
}

// TestFailed: failed calls leave the process as it was, so this one makes them
// itself.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	dir := makeFailures(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	comm, err := os.ReadFile("/proc/thread-self/comm")
	check(t, err)

	var want []event
	var of []string
	events := tracetest.Trace(t, exec.Tracer, attach.Options{Failed: true, Filter: attach.Filter{PID: uint32(os.Getpid())}}, func() {
		for _, f := range failures() {
			argv := f.argv
			if argv == nil {
				argv = []string{f.name, "-x", "y z"}
			}
			file := f.file
			if rest, ok := strings.CutPrefix(file, "DIR"); ok {
				file = dir + rest
			}
			args := []string{}
			for _, arg := range argv {
				args = append(args, tracetest.Text(arg))
			}
			raw := ""
			if len(argv) > 0 {
				raw = strings.Join(argv, "\x00") + "\x00"
			}
			w := event{
				"type": "exec", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "ppid": int64(os.Getppid()),
				"uid": int64(os.Getuid()), "gid": int64(os.Getgid()), "comm": strings.TrimSuffix(string(comm), "\n"),
				"ret": -int64(f.errno), "errno": unix.ErrnoName(f.errno), "file": tracetest.Text(file), "exe": "", "cwd": dir,
				"args": args, "argc": int64(len(args)), "args_bytes": int64(len(raw)), "args_truncated": false,
				tracetest.Raw: map[string]string{"args": raw},
			}
			for key, v := range f.want {
				w[key] = v
				if key == "args" && f.want[tracetest.Raw] == nil {
					delete(w, tracetest.Raw)
				}
			}
			for range f.times {
				if err := f.call(argv); !errors.Is(err, f.errno) {
					t.Fatalf("%s: error %v, want %v", f.name, err, f.errno)
				}
				want, of = append(want, w), append(of, f.name)
			}
		}
	})
	if len(events) != len(want) {
		t.Errorf("%d events, want %d", len(events), len(want))
	}
	for i, name := range of[:min(len(events), len(of))] {
		if diff := events[i].Diff(want[i]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestRefused: what a seccomp filter says no to has no entry, and is shown all the same.
func TestRefused(t *testing.T) {
	bpftest.Require(t)
	const n = 7
	dir := makeFailures(t)
	opts := attach.Options{Failed: true, Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: "refused"}}
	events := tracetest.Trace(t, exec.Tracer, opts, func() {
		bpftest.OnThread(t, "refused", func() {
			bpftest.Must(bpftest.Refuse(unix.EPERM, unix.SYS_EXECVE, unix.SYS_EXECVEAT))
			for range n {
				for _, call := range []func([]string) error{execve("./quick"), execveat(".", "quick", 0)} {
					if err := call([]string{"q", "a b"}); !errors.Is(err, unix.EPERM) {
						bpftest.Must(err)
					}
				}
			}
		})
	})
	var want []event
	for range n {
		for _, file := range []string{"./quick", dir + "/quick"} {
			want = append(want, event{
				"ret": -int64(unix.EPERM), "errno": "EPERM", "file": file, "args": []string{"q", "a b"}, "args_truncated": false,
				"euid": int64(os.Geteuid()), "egid": int64(os.Getegid()),
			})
		}
	}
	tracetest.Same(t, events, want)
}

// TestFailedAlone: calls that succeed are not shown among those that fail, nor
// the other way round, and only a child's call is a child's.
func TestFailedAlone(t *testing.T) {
	bpftest.Require(t)
	path, missing := quick(t), bpftest.Dir(t)+"/missing"
	workload := func() {
		for range 13 {
			bpftest.Spawn(t, 1, path, []string{"q"}, nil, nil)
			bpftest.Spawn(t, 1, missing, []string{"m"}, nil, unix.ENOENT)
			_ = bpftest.Execveat(unix.AT_FDCWD, missing, nil, nil, 0)
		}
		bpftest.Spawn(t, 4, path, []string{"q"}, nil, nil)
	}
	for _, test := range []struct {
		opts attach.Options
		want []event
	}{
		{mine(), repeatedEvent(17, event{"file": path, "ret": int64(0), "errno": ""})},
		{mineFailed(), repeatedEvent(13, event{"file": missing, "ret": -int64(unix.ENOENT), "errno": "ENOENT"})},
	} {
		tracetest.Same(t, tracetest.Trace(t, exec.Tracer, test.opts, workload), test.want)
	}
}

func repeatedEvent(n int, e event) []event {
	events := make([]event, n)
	for i := range events {
		events[i] = e
	}
	return events
}

// TestPastReturn: a program that fails when it has replaced the caller already
// kills it, and its arguments are gone.
func TestPastReturn(t *testing.T) {
	bpftest.Require(t)
	path := bpftest.Dir(t) + "/broken"
	check(t, os.WriteFile(path, bpftest.Broken(), 0o755))
	events := tracetest.Trace(t, exec.Tracer, mineFailed(), func() {
		for range 5 {
			pid, err := syscall.ForkExec(path, []string{"broken", "x"}, &syscall.ProcAttr{})
			check(t, err)
			var status unix.WaitStatus
			_, err = unix.Wait4(pid, &status, 0, nil)
			check(t, err)
			if !status.Signaled() {
				t.Fatalf("the broken program was not killed: %#x", status)
			}
		}
	})
	tracetest.Same(t, events, repeatedEvent(5, event{
		"comm": "broken", "errno": "ENOMEM", "file": "", "args": []string{}, "args_truncated": true,
	}))
}
