// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// What the functions of a library are given and return.
var host, line, data = []byte("localhost\x00"), []byte("make test\x00"), make([]byte, 100)

// How many calls: such as take a microsecond, some, and a millisecond.
const quick, middle, slow = 200_000, 10_000, 500

// workloads are those of each tracer.
var workloads = map[string]workload{
	"exec": {what: "fork, exec and wait", events: 1, calls: slow, machine: true, make: start},
	"exit": {what: "fork, exec and wait", events: 1, calls: slow, machine: true, make: start},
	"fork": {what: "fork, exec and wait", events: 1, calls: slow, machine: true, make: start},
	"open": {
		what: "openat and close", events: 1, calls: quick,
		make: withFile(func(_ int, path string) func() error {
			return func() error {
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				return unix.Close(fd)
			}
		}),
	},
	"unlink": {what: "unlink of a file that is not there", events: 1, calls: quick, make: named(unix.Unlink)},
	"rename": {what: "rename of a file that is not there", events: 1, calls: quick, make: named(func(path string) error { return unix.Rename(path, path) })},
	"link":   {what: "link to a file that is not there", events: 1, calls: quick, make: named(func(path string) error { return unix.Link(path, path) })},
	"stat": {
		what: "newfstatat", events: 1, calls: quick,
		make: withFile(func(_ int, path string) func() error {
			var st unix.Stat_t
			return func() error { return unix.Fstatat(unix.AT_FDCWD, path, &st, 0) }
		}),
	},
	"sync": {
		what: "fdatasync in memory (tmpfs)", events: 1, calls: quick,
		make: withFile(func(fd int, _ string) func() error {
			return func() error { return unix.Fdatasync(fd) }
		}),
	},
	"mount": {what: "mount at a place that is not there", events: 1, calls: quick, make: named(func(path string) error {
		return unix.Mount("none", path, "tmpfs", 0, "")
	})},
	"signal": {
		what: "kill of a process that ignores it", events: 1, calls: quick,
		make: func() (func() error, error) {
			pid := os.Getppid() // a Go program
			return func() error { return unix.Kill(pid, unix.SIGWINCH) }, nil
		},
	},
	"setuid":  {what: "setresuid that changes nothing", events: 1, calls: quick, make: fails(0, unix.SYS_SETRESUID, ^uintptr(0), ^uintptr(0), ^uintptr(0))},
	"capable": {what: "sethostname with a name that is too long", events: 1, calls: quick, make: fails(unix.EINVAL, unix.SYS_SETHOSTNAME, 0, 1<<20, 0)},
	"oomkill": {what: "too rare to matter"},
	"module": {what: "finit_module of no file (`-x`)", args: []string{"-x"}, events: 1, calls: quick, make: func() (func() error, error) {
		return func() error { // also on a kernel without modules, which no hook works on
			_, _, _ = unix.RawSyscall(unix.SYS_FINIT_MODULE, ^uintptr(0), 0, 0)
			return nil
		}, nil
	}},
	"bpf":        {what: "bpf with a command that there is not", events: 1, calls: quick, make: fails(unix.EINVAL, unix.SYS_BPF, 9999, 0, 0)},
	"ptrace":     {what: "ptrace of a process that is not there", events: 1, calls: quick, make: fails(unix.ESRCH, unix.SYS_PTRACE, unix.PTRACE_CONT, 1<<22+1, 0)},
	"tcpconnect": {what: "connect, accept, and close both", events: 1, calls: middle, make: connection},
	"tcpaccept":  {what: "connect, accept, and close both", events: 1, calls: middle, make: connection},
	"tcplife":    {what: "connect, accept, and close both", events: 1, calls: middle, make: connection},
	"tcpstates":  {what: "connect, accept, and close both", events: 2, calls: middle, make: connection},
	"tcpretrans": {what: "too rare to matter"},
	"tcpreset":   {what: "connect that is refused", events: 1, calls: middle, machine: true, make: refused},
	"tcpdrop":    {what: "connect that is refused", events: 1, calls: middle, machine: true, make: refused},
	"bind": {
		what: "bind of a socket that is bound", events: 1, calls: quick,
		make: func() (func() error, error) {
			fd, addr, err := listener()
			return func() error {
				if err := unix.Bind(fd, addr); !errors.Is(err, unix.EINVAL) {
					return err
				}
				return nil
			}, err
		},
	},
	"listen": {
		what: "listen of a socket that listens", events: 1, calls: quick,
		make: func() (func() error, error) {
			fd, _, err := listener()
			return func() error { return unix.Listen(fd, 64) }, err
		},
	},
	"dns": {what: "getaddrinfo, a function that does nothing", events: 1, calls: quick, library: true, make: withLibrary(
		func(l *bpftest.Library) { l.Call("getaddrinfo", 0, host, 0, 0, 0) },
	)},
	"bio": {what: "a read of 4 KiB from the disk (O_DIRECT)", events: 1, calls: middle / 5, make: diskRead},
	"readline": {what: "readline, a function that does nothing", events: 1, calls: quick, library: true, make: withLibrary(
		func(l *bpftest.Library) { l.Call("readline", line) },
	)},
	"tls": {what: "SSL_write of 100 bytes, a function that does nothing", events: 1, calls: quick, library: true, make: withLibrary(
		func(l *bpftest.Library) { l.Call("SSL_write", len(data), len(data), data, len(data)) },
	)},
	"runq": {
		what: "a byte to another thread and back, two switches", silent: true, machine: true, calls: middle,
		make: pingPong,
	},
	"slowsys": {what: "getppid, too quick to be shown", silent: true, calls: 5 * quick, make: func() (func() error, error) {
		return func() error {
			_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
			return nil
		}, nil
	}},
}
