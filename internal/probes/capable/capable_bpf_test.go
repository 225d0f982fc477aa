// SPDX-License-Identifier: Apache-2.0

package capable_test

import (
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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/capable"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// namespace asks in namespaces of its own, and then for what these do not have.
		"namespace": func() error {
			if err := bpftest.AwaitEOF(); err != nil {
				return err
			}
			err := unix.Sethostname([]byte("rbtrace"))
			if reboot := reboot(); !errors.Is(reboot, unix.EPERM) {
				err = errors.Join(err, fmt.Errorf("rebooting: %w", reboot))
			}
			return err
		},
	})
}

// reboot asks for CAP_SYS_BOOT, once and for nothing else: the magic numbers are
// wrong, which the kernel sees after that.
//
//go:noinline
func reboot() error {
	_, _, errno := unix.RawSyscall(unix.SYS_REBOOT, 0, 0, 0)
	return errno
}

// comm is the name of the threads whose events are wanted.
const comm = "rbtrace-capable"

// onThread runs f on a thread of that name, which ends with it.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	var err error
	bpftest.OnThread(t, comm, func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// setuid makes this thread another user's, which lacks all capabilities.
func setuid() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1000, 1000, 1000); errno != 0 {
		return errno
	}
	return nil
}

// userNS is the number of the test's user namespace.
func userNS(t *testing.T, pid int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/user", pid), &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Ino)
}

// options are what a hook tells of audit and insetid.
func options(kind tracer.HookKind, audit, insetid bool) event {
	text := func(yes bool) string {
		switch {
		case kind == tracer.Tracepoint:
			return ""
		case yes:
			return "yes"
		}
		return "no"
	}
	return event{"audit": text(audit), "insetid": text(insetid)}
}

func TestCapable(t *testing.T) {
	bpftest.Require(t)
	for _, kind := range []tracer.HookKind{tracer.Tracepoint, tracer.Fentry, tracer.Kprobe} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == tracer.Tracepoint {
				events, err := kernel.Tracefs()
				if err != nil {
					t.Fatal(err)
				}
				defer events.Close()
				if _, err := kernel.TracepointID(events, "capability/cap_capable"); err != nil {
					bpftest.Lacks(t, err, "5.10", "6.1", "6.12") // newer kernels have it
				}
			}
			t.Run("answers", func(t *testing.T) { answers(t, kind) })
			t.Run("failed", func(t *testing.T) { failed(t, kind) })
			t.Run("options", func(t *testing.T) { testOptions(t, kind) })
			t.Run("namespace", func(t *testing.T) { namespace(t, kind) })
			t.Run("own", func(t *testing.T) { own(t, kind) })
			t.Run("access", func(t *testing.T) { access(t, kind) })
			t.Run("overlay", func(t *testing.T) { overlay(t, kind) })
			t.Run("overtaken", func(t *testing.T) { overtaken(t, kind) })
			t.Run("loss", func(t *testing.T) { loss(t, kind) })
			t.Run("stacks", func(t *testing.T) { stacks(t, kind) })
		})
	}
}

// during is the system call of that name, where the kernel tells.
func during(call string) string {
	if !tracetest.HasRegs() {
		return ""
	}
	return call
}

func opts(kind tracer.HookKind, name string) attach.Options {
	return attach.Options{
		Hook: kind, Filter: attach.Filter{PID: uint32(os.Getpid()), Comm: comm}, Params: map[string]string{"cap": name},
	}
}

// with adds values to an event.
func with(e event, more ...event) event {
	for _, m := range more {
		maps.Copy(e, m)
	}
	return e
}

// reboots asks n times as root and as often as another user.
func reboots(t *testing.T, kind tracer.HookKind, n int) (want []event) {
	t.Helper()
	onThread(t, func() error {
		for i := range 2 * n {
			answer, errno, uid, ret := "allowed", unix.EINVAL, int64(os.Getuid()), int64(0)
			if i == n {
				if err := setuid(); err != nil {
					return err
				}
			}
			if i >= n {
				answer, errno, uid, ret = "denied", unix.EPERM, 1000, -1
			}
			if err := reboot(); !errors.Is(err, errno) {
				return fmt.Errorf("rebooting: %w", err)
			}
			want = append(want, with(event{
				"type": "capable", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "uid": uid, "cap": "CAP_SYS_BOOT",
				"verdict": answer, "ret": ret, "own": true, "syscall": during("reboot"), "user_ns": userNS(t, os.Getpid()),
			}, options(kind, true, false)))
		}
		return nil
	})
	return want
}

func answers(t *testing.T, kind tracer.HookKind) {
	const n = 53
	var want []event
	events := tracetest.Trace(t, capable.Tracer, opts(kind, "sys_boot"), func() { want = reboots(t, kind, n) })
	tracetest.Same(t, events, want)
}

func failed(t *testing.T, kind tracer.HookKind) {
	const n = 11
	o := opts(kind, "CAP_SYS_BOOT")
	o.Failed = true
	var want []event
	events := tracetest.Trace(t, capable.Tracer, o, func() { want = reboots(t, kind, n) })
	tracetest.Same(t, events, want[n:])
}

// testOptions: setuid asks for itself, and seccomp without audit.
func testOptions(t *testing.T, kind tracer.HookKind) {
	const n = 7
	events := tracetest.Trace(t, capable.Tracer, opts(kind, "setuid"), func() {
		onThread(t, func() error {
			for range n {
				if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, 0, 0, 0); errno != 0 {
					return errno
				}
			}
			return nil
		})
	})
	var want []event
	for range n {
		want = append(want, with(event{"cap": "CAP_SETUID", "verdict": "allowed", "syscall": during("setuid")}, options(kind, true, true)))
	}
	tracetest.Same(t, events, want)

	// seccomp_prepare_filter() does without where no_new_privs is set.
	filter := unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}
	program := unix.SockFprog{Len: 1, Filter: &filter}
	events = tracetest.Trace(t, capable.Tracer, opts(kind, strconv.Itoa(unix.CAP_SYS_ADMIN)), func() {
		onThread(t, func() error {
			err := setuid()
			for range n {
				_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
				if errno != unix.EACCES {
					err = errors.Join(err, fmt.Errorf("setting a filter: %w", errno))
				}
			}
			return err
		})
	})
	if len(events) < n { // memory that is mapped meanwhile counts, too
		t.Errorf("%d events, want %d", len(events), n)
	}
	for _, e := range events {
		if diff := e.Diff(with(event{"cap": "CAP_SYS_ADMIN", "verdict": "denied"}, options(kind, false, false))); diff != "" {
			t.Error(diff)
		}
	}
}

// namespace: where the capability is needed, and that it is there only there.
func namespace(t *testing.T, kind tracer.HookKind) {
	const first = 100000
	mapped := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 1}}
	for name, want := range map[string]event{
		"sys_admin": {"cap": "CAP_SYS_ADMIN", "verdict": "allowed", "ret": int64(0)},
		"sys_boot":  {"cap": "CAP_SYS_BOOT", "verdict": "denied", "ret": int64(-1)},
	} {
		c := &bpftest.Child{
			Role: "namespace", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), "child")),
			Sys: &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS, UidMappings: mapped, GidMappings: mapped,
				Credential: &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
			},
		}
		c.Start(t)
		ns := userNS(t, c.PID())
		if ns == userNS(t, os.Getpid()) {
			t.Fatal("the child has no namespace of its own")
		}
		want["user_ns"], want["uid"] = ns, int64(first)
		if name == "sys_boot" {
			want["user_ns"] = userNS(t, os.Getpid())
		}
		o := attach.Options{Hook: kind, Filter: attach.Filter{PID: uint32(c.PID())}, Params: map[string]string{"cap": name}}
		events := tracetest.Trace(t, capable.Tracer, o, func() { c.End(t) })
		// Memory that is mapped is of the initial namespace.
		var own []event
		for _, e := range events {
			if name == "sys_boot" || e["user_ns"] == ns {
				own = append(own, e)
			}
		}
		tracetest.Same(t, own, []event{want})
	}
}

// own: who opened a socket must have the capability as well as who writes to it.
func own(t *testing.T, kind tracer.HookKind) {
	const n = 3
	var want []event
	events := tracetest.Trace(t, capable.Tracer, opts(kind, "net_admin"), func() {
		onThread(t, func() error {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := setuid(); err != nil {
				return err
			}
			// struct nlmsghdr of RTM_DELLINK, and an empty struct ifinfomsg.
			message := make([]byte, 32)
			message[0], message[4], message[6] = 32, unix.RTM_DELLINK, unix.NLM_F_REQUEST
			for range n {
				if _, err := unix.Write(fd, message); err != nil {
					return err
				}
				want = append(want,
					event{"cap": "CAP_NET_ADMIN", "verdict": "allowed", "own": false, "uid": int64(1000), "syscall": during("write")},
					event{"cap": "CAP_NET_ADMIN", "verdict": "denied", "own": true, "uid": int64(1000), "syscall": during("write")},
				)
			}
			return nil
		})
	})
	tracetest.Same(t, events, want)
}

// private is a directory of another user's alone, with the file file in it.
func private(t *testing.T, dir string, uid int) string {
	t.Helper()
	dir = filepath.Join(dir, "private")
	err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/file", nil, 0o600), os.Chown(dir+"/file", uid, uid), os.Chown(dir, uid, uid))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// access: access(2) asks with the rights of the real user, for whom it is made, and not with those
// that the thread has.
func access(t *testing.T, kind tracer.HookKind) {
	const n = 5
	path := private(t, bpftest.Dir(t), 1002) + "/file"
	var want []event
	events := tracetest.Trace(t, capable.Tracer, opts(kind, "dac_read_search"), func() {
		onThread(t, func() error {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1000, 1001, 1001); errno != 0 {
				return errno
			}
			for range n {
				if err := unix.Access(path, unix.F_OK); !errors.Is(err, unix.EACCES) {
					return fmt.Errorf("access: %w", err)
				}
				if _, err := os.Stat(path); !errors.Is(err, unix.EACCES) {
					return fmt.Errorf("stat: %w", err)
				}
				want = append(want,
					event{"verdict": "denied", "own": false, "uid": int64(1000), "syscall": during("faccessat")},
					event{"verdict": "denied", "own": true, "uid": int64(1000), "syscall": during("newfstatat")},
				)
			}
			return nil
		})
	})
	tracetest.Same(t, events, want)
}

// overlay: what lies below an overlay is looked at with the rights of who mounted it. It is
// the doing of who looks all the same.
func overlay(t *testing.T, kind tracer.HookKind) {
	const n, user = 5, 1000
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(known), "\toverlay\n") {
		bpftest.Lacks(t, "this kernel has no overlay file system, or as a module that is not here", "5.10", "6.1", "6.12", "newest")
	}
	dir := bpftest.Dir(t)
	if err := unix.Mount("rbtrace", dir, "tmpfs", 0, "mode=755"); err != nil { // an overlay cannot lie on an overlay
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	private(t, dir+"/upper", user)
	merged := dir + "/merged"
	if err := unix.Mount("rbtrace", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	for _, uid := range []uint32{user, 0} {
		o := opts(kind, "dac_read_search")
		o.Filter.UID = &uid
		events := tracetest.Trace(t, capable.Tracer, o, func() {
			onThread(t, func() error {
				if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, user, user, user); errno != 0 {
					return errno
				}
				err := setuid()
				for range n {
					fd, oerr := unix.Open(merged+"/private/file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
					err = errors.Join(err, oerr, unix.Close(fd))
				}
				return err
			})
		})
		if want := uid == user; len(events) >= n != want || !want && len(events) != 0 {
			t.Errorf("%d events of user %d", len(events), uid)
		}
		for _, e := range events { // the user itself has no such right
			if diff := e.Diff(event{
				"uid": int64(user), "gid": int64(user), "verdict": "allowed", "own": false, "syscall": during("openat"),
			}); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// overtaken: of a question that is still there when its task asks another one, nobody will know the
// answer, and it is lost.
func overtaken(t *testing.T, kind tracer.HookKind) {
	if kind != tracer.Kprobe {
		t.Skip("the hook has question and answer together")
	}
	for _, name := range []string{"sys_boot", "net_admin"} { // wanted after the other, and not
		s := tracetest.Open(t, opts(kind, name), capable.Tracer)
		s.Start()
		questions := tracetest.Map(t, "rb_capable_ques")
		// It asks as the kernel would if it forgot to tell the end.
		ask, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, License: "GPL", Instructions: asm.Instructions{
			asm.FnGetCurrentTask.Call(),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, -16, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, -24, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, questions.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -24),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		var want []event
		onThread(t, func() error {
			ret, err := ask.Run(nil)
			if err != nil || ret != 0 {
				return fmt.Errorf("asking: %d, %w", ret, err)
			}
			if err := reboot(); !errors.Is(err, unix.EINVAL) {
				return err
			}
			if name == "sys_boot" {
				want = []event{{"cap": "CAP_SYS_BOOT", "tid": int64(unix.Gettid())}}
			}
			return nil
		})
		r := s.Finish(t)
		tracetest.Same(t, r.Events, want)
		if r.Lost != 1 {
			t.Errorf("%d are lost, want 1", r.Lost)
		}
		ask.Close()
		questions.Close()
		s.Session.Close()
	}
}

func loss(t *testing.T, kind tracer.HookKind) {
	const n = 101
	o := opts(kind, "sys_boot")
	o.RingSize = uint32(os.Getpagesize())
	s := tracetest.Open(t, o, capable.Tracer)
	want := reboots(t, kind, n)
	r := s.Finish(t)
	if r.Lost == 0 || int(r.Lost)+len(r.Events) != len(want) {
		t.Errorf("%d events and %d lost, want %d", len(r.Events), r.Lost, len(want))
	}
	tracetest.Same(t, r.Events, want[:len(r.Events)])
}

// outer and inner are on the stack of those that ask.
//
//go:noinline
func outer() error { return errors.Join(inner()) }

//go:noinline
func inner() error { return errors.Join(reboot()) }

// stacks: by which functions of the kernel and of this program it came to a question.
func stacks(t *testing.T, kind tracer.HookKind) {
	const n = 5
	o := opts(kind, "sys_boot")
	o.Params[tracer.StackParam] = "both"
	var names *attach.Stacks
	traced := capable.Tracer.WithStacks(tracer.KernelStack|tracer.UserStack, func(b []byte, kind tracer.StackKind, who *wire.Who, addresses []uint64) []byte {
		if names == nil {
			names = bpftest.Must1(attach.NewStacks(tracer.KernelStack | tracer.UserStack))
		}
		return names.Append(b, kind, who, addresses)
	})
	events := tracetest.Trace(t, traced, o, func() {
		onThread(t, func() error {
			for range n {
				if err := outer(); !errors.Is(err, unix.EINVAL) {
					return err
				}
			}
			return nil
		})
	})
	if len(events) != n {
		t.Errorf("%d events, want %d", len(events), n)
	}
	// has reports whether these functions are on a stack, in this order.
	has := func(stack []string, functions ...string) bool {
		for _, frame := range stack {
			if strings.HasSuffix(function(frame), functions[0]) {
				if functions = functions[1:]; len(functions) == 0 {
					return true
				}
			}
		}
		return false
	}
	for _, e := range events {
		if stack := e["kernel_stack"].([]string); !has(stack, "_sys_reboot") || strings.Contains(stack[0], "bpf") {
			t.Errorf("the kernel's stack is %q", stack)
		}
		if stack := e["user_stack"].([]string); !has(stack, "capable_test.inner", "capable_test.outer", "capable_test.stacks.func2.1", "bpftest.startThread.func1") {
			var called []string
			for _, frame := range stack {
				called = append(called, function(frame))
			}
			t.Errorf("the program's stack is %q", called)
		}
	}
}

// function returns the name of a frame's function. go test leaves the symbols out of this program:
// then it is what the Go runtime calls it.
func function(frame string) string {
	name, _, ok := strings.Cut(frame, "+0x")
	if ok {
		return name
	}
	var offset uintptr
	if n, _ := fmt.Sscanf(frame, "0x%x [capable.test]", &offset); n == 0 {
		return frame
	}
	for line := range strings.Lines(string(bpftest.Must1(os.ReadFile("/proc/self/maps")))) {
		var start, end, at uintptr
		var access string
		n, _ := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &access, &at)
		if n == 4 && strings.Contains(access, "x") && strings.HasSuffix(line, "/capable.test\n") && offset-at < end-start {
			return runtime.FuncForPC(start + offset - at - 1).Name()
		}
	}
	return frame
}
