// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

// KernelEnv names the environment variable that holds the label of the kernel
// on the machines of scripts/kernels, which have every hook.
const KernelEnv = "RBTRACE_TEST_KERNEL"

// Thin returns all cases, and on the machines of scripts/kernels the first of each n:
// those are emulated, and what differs between the cases is then not up to the kernel.
func Thin[T any](cases []T, n int) []T {
	if os.Getenv(KernelEnv) == "" {
		return cases
	}
	var some []T
	for i := 0; i < len(cases); i += n {
		some = append(some, cases[i])
	}
	return some
}

// Few returns n, and on the machines of scripts/kernels the smaller number, for what a test does
// many times over: those are emulated.
func Few(n, emulated int) int {
	if os.Getenv(KernelEnv) == "" {
		return n
	}
	return emulated
}

// Hidden is how often threads of the first process got a CPU. The kernels of some sandboxes run
// no program while their supervisor, which that process is there, is the current one: what an
// interrupt, a timer or the scheduler does then is seen by no tracer. On the machines of
// scripts/kernels that process is our own, and nothing is hidden.
func Hidden(tb testing.TB) (times int64) {
	tb.Helper()
	if os.Getenv(KernelEnv) != "" {
		return 0
	}
	threads, err := filepath.Glob("/proc/1/task/*/schedstat")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has just ended
		}
		var ran, waited, n int64
		if _, err := fmt.Sscan(string(text), &ran, &waited, &n); err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		times += n
	}
	return times
}

// Lacks skips the test, since this kernel lacks what it needs, for that reason. On the machines
// of scripts/kernels it fails, but on those with one of the labels.
func Lacks(tb testing.TB, why any, labels ...string) {
	tb.Helper()
	if label := os.Getenv(KernelEnv); label != "" && !slices.Contains(labels, label) {
		tb.Fatal(why)
	}
	tb.Skip(why)
}

const (
	roleEnv = "RBTRACE_TEST_ROLE" // what a process of the test binary is to do
	tidEnv  = "RBTRACE_TEST_TID"  // the thread that called exec
	report  = "report"            // the role of writing a Report, which every test binary has
)

// ReportTo is where a Child writes what Child.ReadLine and Child.End return; nil in other
// processes. It is the one os.File of its descriptor: any other would close that when
// collected.
var ReportTo *os.File

// scratch is a directory that every user can reach, unlike those of testing.T.
// Main makes it.
var scratch string

// Main is what TestMain calls: it runs the tests and looks for goroutines left
// behind; or it plays a role, where this process was started for one (see Child).
func Main(m *testing.M, roles map[string]func() error) {
	if name, ok := os.LookupEnv(roleEnv); ok {
		ReportTo = os.NewFile(3, "report")
		role := roles[name]
		if name == report {
			role = writeReport
		}
		if err := role(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "rbtrace-test"); err == nil {
		err = os.Chmod(scratch, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(scratch); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// Dir returns a new directory that every user can reach and that goes away with
// the test.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(scratch, "")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Link makes path another name of this test binary, in a Dir.
func Link(tb testing.TB, path string) string {
	tb.Helper()
	return link(tb, "self", path, func() ([]byte, error) { return os.ReadFile("/proc/self/exe") })
}

// LinkQuick makes path a name of a program that does nothing but end, with
// status 0, in a Dir. It starts a hundred times faster than a Go program.
func LinkQuick(tb testing.TB, path string) string {
	tb.Helper()
	return link(tb, "quick", path, func() ([]byte, error) { return Quick(), nil })
}

// link makes path a link to a file in scratch, which it makes of content first
// where it is not there.
func link(tb testing.TB, name, path string, content func() ([]byte, error)) string {
	tb.Helper()
	name = filepath.Join(scratch, name)
	_, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		var b []byte
		if b, err = content(); err == nil {
			err = os.WriteFile(name, b, 0o755)
		}
	}
	if err == nil {
		err = os.Link(name, path)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Report is what a process knows of itself: the truth that events are compared
// with.
type Report struct {
	PID, TID, PPID, UID, GID int64
	EUID, EGID               int64
	LoginUID, SessionID      int64 // 1<<32 - 1 where there is none
	Comm, PComm              []byte
	Exe, Cwd, Cmdline        []byte
	Cgroup                   int64 // 0: no unified hierarchy is mounted
}

func writeReport() error {
	r := Report{
		PID: int64(os.Getpid()), TID: int64(os.Getpid()), PPID: int64(os.Getppid()),
		UID: int64(os.Getuid()), GID: int64(os.Getgid()), EUID: int64(os.Geteuid()), EGID: int64(os.Getegid()),
	}
	if tid, err := strconv.ParseInt(os.Getenv(tidEnv), 10, 64); err == nil {
		r.TID = tid
	}
	var errs []error
	read := func(b []byte, err error) []byte {
		errs = append(errs, err)
		return b
	}
	readlink := func(path string) []byte { // without the limit on its length that paths have
		target, err := os.Readlink(path)
		return read([]byte(target), err)
	}
	login := func(name string) int64 {
		b, err := os.ReadFile("/proc/self/" + name)
		if errors.Is(err, os.ErrNotExist) { // the kernel has no audit log
			return 1<<32 - 1
		}
		n, perr := strconv.ParseInt(string(b), 10, 64)
		errs = append(errs, err, perr)
		return n
	}
	r.LoginUID, r.SessionID = login("loginuid"), login("sessionid")
	line := func(b []byte) []byte { return b[:max(len(b)-1, 0)] }
	r.Comm = line(read(os.ReadFile("/proc/self/comm")))
	if r.PPID != 0 { // in this pid namespace
		r.PComm = line(read(os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.PPID))))
	}
	r.Exe, r.Cwd = readlink("/proc/self/exe"), readlink("/proc/self/cwd")
	r.Cmdline = read(os.ReadFile("/proc/self/cmdline"))
	if mount, err := kernel.CgroupMount(); err == nil {
		cgroups := read(os.ReadFile("/proc/self/cgroup"))
		for l := range strings.Lines(string(cgroups)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(l), "0::"); ok {
				var st unix.Stat_t
				errs = append(errs, unix.Stat(filepath.Join(mount, path), &st))
				r.Cgroup = int64(st.Ino)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return json.NewEncoder(ReportTo).Encode(r)
}

// Child is a process of this test binary that plays a role: by default, to write
// a Report.
type Child struct {
	Role string
	Path string   // a Link; empty: any
	Args []string // argv, name included; empty: Path alone
	Dir  string
	Sys  *syscall.SysProcAttr

	in      io.WriteCloser
	cmd     *exec.Cmd
	reports *os.File
}

// Start starts the child. Until Report, it can wait for AwaitEOF.
func (c *Child) Start(tb testing.TB) {
	tb.Helper()
	if c.Path == "" {
		c.Path = Link(tb, filepath.Join(Dir(tb), "child"))
	}
	if c.Role == "" {
		c.Role = report
	}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	c.reports = r
	c.cmd = &exec.Cmd{
		Path: c.Path, Args: c.Args, Dir: c.Dir, Env: RoleEnv(c.Role),
		Stdout: os.Stderr, Stderr: os.Stderr, ExtraFiles: []*os.File{w}, SysProcAttr: c.Sys,
	}
	c.in, err = c.cmd.StdinPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		r.Close()
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.Kill(tb)
		}
	})
}

// PID returns the id of the started child.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// End lets the started child go on where it waits for AwaitEOF, reads what it
// writes to ReportTo, and waits for its end.
func (c *Child) End(tb testing.TB) []byte {
	tb.Helper()
	defer c.reports.Close()
	c.in.Close()
	b, err := io.ReadAll(c.reports)
	if werr := c.cmd.Wait(); werr != nil || err != nil {
		tb.Fatalf("child %s: %v", c.Role, errors.Join(err, werr))
	}
	return b
}

// Release lets the started child go on where it waits for AwaitEOF.
func (c *Child) Release() { c.in.Close() }

// Report starts the child if it was not, and returns the report that it, or the
// program that it became, wrote.
func (c *Child) Report(tb testing.TB) *Report {
	tb.Helper()
	if c.cmd == nil {
		c.Start(tb)
	}
	b := c.End(tb)
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		tb.Fatalf("child %s: reading its report %q: %v", c.Role, b, err)
	}
	return r
}

// Wait waits for the end of the started child, whatever it is, and returns its
// status.
func (c *Child) Wait(tb testing.TB) syscall.WaitStatus {
	tb.Helper()
	defer c.reports.Close()
	_ = c.cmd.Wait() // an error says how it ended
	if c.cmd.ProcessState == nil {
		tb.Fatalf("child %s: waiting for it", c.Role)
	}
	return c.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// Kill ends the started child at once.
func (c *Child) Kill(tb testing.TB) {
	tb.Helper()
	defer c.reports.Close()
	c.in.Close()
	if err := c.cmd.Process.Kill(); err != nil {
		tb.Fatal(err)
	}
	_ = c.cmd.Wait() // says that it was killed
}

// ReadLine waits for a line of the started child's ReportTo.
func (c *Child) ReadLine(tb testing.TB) string {
	tb.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(c.reports, b); err != nil {
			tb.Fatalf("child %s: reading a line: %v", c.Role, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
	}
}

// WriteLine writes an empty line to the started child's standard input.
func (c *Child) WriteLine(tb testing.TB) {
	tb.Helper()
	if _, err := c.in.Write([]byte{'\n'}); err != nil {
		tb.Fatalf("child %s: %v", c.Role, err)
	}
}

// AwaitEOF makes a child wait until its parent calls Child.End or Child.Report.
func AwaitEOF() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// Exec makes a child become the program path, as execveat has it, with the role
// of writing a report.
func Exec(dirfd int, path string, argv []string, flags int) error {
	runtime.LockOSThread()
	return Execveat(dirfd, path, argv, append(RoleEnv(report), tidEnv+"="+strconv.Itoa(unix.Gettid())), flags)
}

// RoleEnv is the environment of a process of the test binary that plays a role.
func RoleEnv(role string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, roleEnv+"=") })
	return append(env, roleEnv+"="+role)
}

// Execveat is the system call: execve where dirfd is AT_FDCWD and flags are 0.
// All that it passes is in memory.
func Execveat(dirfd int, path string, argv, envv []string, flags int) error {
	return execveat(dirfd, pointers([]string{path})[0], pointers(argv), pointers(envv), flags)
}

// Spawn starts a program n times, each time waits for its end, and takes an
// error that want says for success.
func Spawn(tb testing.TB, n int, path string, argv []string, attr *syscall.ProcAttr, want error) {
	tb.Helper()
	if attr == nil {
		attr = &syscall.ProcAttr{}
	}
	for range n {
		pid, err := syscall.ForkExec(path, argv, attr)
		if !errors.Is(err, want) {
			tb.Fatalf("starting %q: %v, want %v", path, err, want)
		}
		if err == nil {
			Wait(tb, pid)
		}
	}
}

// Pin keeps this goroutine, and what it starts, on one CPU until the test ends.
func Pin(tb testing.TB) (cpu int) {
	tb.Helper()
	var allowed, one unix.CPUSet
	runtime.LockOSThread()
	err := unix.SchedGetaffinity(0, &allowed)
	for err == nil && !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err == nil {
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &allowed); err != nil {
			tb.Error(err)
		}
		runtime.UnlockOSThread()
	})
	return cpu
}

// Wait waits for the end of a process that was started by syscall.ForkExec.
func Wait(tb testing.TB, pid int) {
	tb.Helper()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || status.ExitStatus() != 0 {
			tb.Fatalf("process %d: status %#x, %v", pid, status, err)
		}
		return
	}
}

// Quick returns an ELF program that ends at once.
func Quick() []byte {
	_, code := quickCode()
	return Program(code)
}

// Crash returns an ELF program that SIGSEGV ends at once.
func Crash() []byte { return Program(crashCode()) }

// Threads returns an ELF program with two threads, of which each ends by itself: the first one
// with the status 7, the other one with 3, and nobody knows which is the last.
func Threads() []byte { return Program(threadsCode()) }

// Broken returns an ELF program that cannot be mapped where it wants to be,
// which the kernel finds when the old program is gone.
func Broken() []byte {
	_, code := quickCode()
	return program(1<<63, code)
}

// Program returns an ELF program that is nothing but that machine code.
func Program(code []byte) []byte { return program(0x400000, code) }

func program(base uint64, code []byte) []byte {
	machine, _ := quickCode()
	const header = 64 + 56
	size := uint64(header + len(code))
	elf := slices.Concat(
		[]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		// Elf64_Ehdr: a program of this machine, its entry behind the headers
		le(2, 2), le(2, uint64(machine)), le(4, 1), le(8, base+header), le(8, 64), le(8, 0), le(4, 0),
		le(2, 64), le(2, 56), le(2, 1), le(2, 0), le(2, 0), le(2, 0),
		// Elf64_Phdr: PT_LOAD, readable and executable
		le(4, 1), le(4, 5), le(8, 0), le(8, base), le(8, base), le(8, size), le(8, size), le(8, 0x1000),
		code,
	)
	return elf
}

// le returns n as that many bytes, little-endian.
func le(bytes int, n uint64) []byte {
	b := make([]byte, bytes)
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return b
}
