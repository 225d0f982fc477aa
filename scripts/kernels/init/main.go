// Command init is process 1 of the virtual machines in which run.sh tests a kernel: it mounts what a test may expect of
// a Linux system, runs the test binaries of the initramfs one after the other, and powers off.
//
// What to run comes from /tests/manifest.LABEL, one package a line, separated by tabs: import path, directory below /tests
// (which holds pkg.test and testdata), and the arguments of the test binary. The label of the kernel is on the kernel's
// command line, since the machines share all else.
//
// Results go to the second serial port, for the kernel writes its own messages to the first one in the middle of a line.
// Each line there is either "|" and a line of the tests' output, or "#" and a record of this program, so that no output
// can pass for a record:
//
//	#kernel RELEASE SECONDS          the kernel's release, and the time since boot
//	#begin IMPORTPATH
//	#end IMPORTPATH STATUS SECONDS   STATUS as in a shell: the exit code, or 128 and the signal
//	#error TEXT                      the machine could not be set up
//	#done PACKAGES                   all packages ran; where this is missing, something died
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	testsDir    = "/tests"
	resultsPort = "/dev/ttyS1"
	// disk is the scratch disk that run.sh gives the machine: the one block device whose driver no kernel has as a module.
	disk = "/dev/nvme0n1"
)

// A mount is one file system that a test may expect.
type mount struct {
	target, fstype, data string
	flags                uintptr
}

// mounts in their order, the parent before its child.
var mounts = [...]mount{
	{"/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID},
	{"/dev/pts", "devpts", "mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"/sys/fs/cgroup", "cgroup2", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"/sys/fs/bpf", "bpf", "mode=0700", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"/sys/kernel/tracing", "tracefs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"/sys/kernel/security", "securityfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is process 1 of a test machine, and nothing to run by hand (see run.sh)")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	// Whatever went wrong shows in the records; the machine must not linger until run.sh loses patience.
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintln(os.Stderr, "init: powering off:", err)
	os.Exit(1) // the kernel panics, which ends the machine too
}

// run does all the work between boot and power-off. It reports an error on the results port as well, once that is open.
func run() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("making a mount point: %w", err)
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
		}
	}
	port, err := openResults(resultsPort)
	if err != nil {
		return fmt.Errorf("opening the results port: %w", err)
	}
	defer port.Close()

	err = setUp()
	if err == nil {
		err = runPackages(port)
	}
	if err != nil {
		fmt.Fprintf(port, "#error %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	// A power-off does not wait for the port's transmit buffer.
	return errors.Join(err, drain(port))
}

// openResults opens a serial port that passes bytes on as they are.
func openResults(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("reading its settings: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.B115200 | unix.CS8 | unix.CREAD | unix.CLOCAL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("changing its settings: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// drain returns when the port has sent all that was written to it.
func drain(port *os.File) error {
	if err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("draining the results port: %w", err)
	}
	return nil
}

// setUp gives the machine the little that a mount does not.
func setUp() error {
	for name, target := range map[string]string{
		"/dev/fd":     "/proc/self/fd",
		"/dev/stdin":  "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil {
			return fmt.Errorf("linking to a standard stream: %w", err)
		}
	}
	if err := unix.Sethostname([]byte("rbtrace-test")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}

// loopbackUp brings lo up, on which the kernel gives it 127.0.0.1 and ::1 by itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// runPackages runs what the manifest lists, and writes the records of it to the port.
func runPackages(port io.Writer) error {
	release, err := release()
	if err != nil {
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("reading the time since boot: %w", err)
	}
	fmt.Fprintf(port, "#kernel %s %.2f\n", release, time.Duration(now.Nano()).Seconds())

	label, err := label()
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(testsDir, "manifest."+label))
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	env := environment(release, label)
	packages := 0
	for line := range strings.Lines(string(manifest)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 2 {
			return fmt.Errorf("manifest line %q: want an import path and a directory", line)
		}
		path, dir, args := fields[0], filepath.Join(testsDir, fields[1]), fields[2:]
		fmt.Fprintf(port, "#begin %s\n", path)
		start := time.Now()
		status, err := runPackage(port, dir, args, env)
		if err != nil {
			return fmt.Errorf("running the tests of %s: %w", path, err)
		}
		fmt.Fprintf(port, "#end %s %d %.2f\n", path, status, time.Since(start).Seconds())
		packages++
	}
	fmt.Fprintf(port, "#done %d\n", packages)
	return nil
}

// release returns the kernel's release.
func release() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("asking for the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}

// label returns the label of the kernel.
func label() (string, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("reading the kernel's command line: %w", err)
	}
	for arg := range strings.FieldsSeq(string(cmdline)) {
		if label, ok := strings.CutPrefix(arg, "rbtrace.label="); ok {
			return label, nil
		}
	}
	return "", errors.New("the kernel's command line has no rbtrace.label")
}

// environment returns the environment of a test.
func environment(release, label string) []string {
	return []string{
		"PATH=/bin", "HOME=/root", "TMPDIR=/tmp", "USER=root", "LANG=C.UTF-8",
		"GOGC=400", // there is more memory than time
		"RBTRACE_REQUIRE_BPF=1",
		"RBTRACE_TEST_KERNEL=" + label,
		"RBTRACE_TEST_DISK=" + disk,
		"RBTRACE_TEST_MODULE=" + filepath.Join("/lib/modules", release, "dummy.ko"),
	}
}

// runPackage runs one test binary to its end, copies its output to the port, and leaves no process of it behind.
func runPackage(port io.Writer, dir string, args, env []string) (status int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return 0, errors.Join(err, w.Close())
	}
	defer stdin.Close()

	binary := filepath.Join(dir, "pkg.test")
	// Not os/exec: its Wait and the reaping of orphans, which is the duty of process 1, would take each other's children.
	pid, err := syscall.ForkExec(binary, append([]string{binary}, args...), &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: []uintptr{stdin.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, err
	}
	copied := make(chan error, 1)
	go func() { copied <- copyLines(port, r) }()

	status, err = reap(pid)
	if err != nil {
		return 0, err
	}
	// To process 1, -1 means every other process: what the tests left running must not disturb the next package, nor hold
	// the pipe open.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("killing left-over processes: %w", err)
	}
	if _, err := reap(-1); err != nil {
		return 0, err
	}
	return status, <-copied
}

// reap waits for children until the one called pid has ended, and returns its status as a shell would. With -1 it waits
// until there are none.
func reap(pid int) (status int, err error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD) && pid == -1:
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("waiting for process %d: %w", pid, err)
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case got == pid:
			return ws.ExitStatus(), nil
		}
	}
}

// copyLines copies r to w line by line, each behind the "|" that marks it as output.
func copyLines(w io.Writer, r io.Reader) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			if _, err := fmt.Fprintf(w, "|%s\n", strings.TrimSuffix(line, "\n")); err != nil {
				return fmt.Errorf("writing the tests' output: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the tests' output: %w", err)
		}
	}
}
