// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// callerName is argv[0] of the process that makes the calls.
const callerName = "overhead-caller"

// workload is one kind of call.
type workload struct {
	what    string // a call, in words; where there is no workload, why
	args    []string
	events  int  // at least, of a call
	silent  bool // a call makes no event
	machine bool // trace the whole machine: the events are those of other processes
	library bool // trace the functions of libraryPath
	calls   int
	make    func() (call func() error, err error) // nil: there is none
}

// fails is a call that fails so; raw system calls, so that Go has no part in it.
func fails(want unix.Errno, nr, a, b, c uintptr) func() (func() error, error) {
	return func() (func() error, error) {
		return func() error {
			if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != want {
				return fmt.Errorf("%w, want %w", errno, want)
			}
			return nil
		}, nil
	}
}

const nothing = "/nothing/of/that/name"

// named is a call on a file that is not there.
func named(f func(path string) error) func() (func() error, error) {
	return func() (func() error, error) {
		return func() error {
			if err := f(nothing); !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%w, want ENOENT", err)
			}
			return nil
		}, nil
	}
}

// start starts a program and waits for its end.
func start() (func() error, error) {
	program, err := filepath.EvalSymlinks("/bin/true")
	return func() error {
		pid, err := syscall.ForkExec(program, []string{"true"}, nil)
		if err != nil {
			return err
		}
		_, err = syscall.Wait4(pid, nil, 0, nil)
		return err
	}, err
}

// withFile hands a new file to f.
func withFile(f func(fd int, path string) func() error) func() (func() error, error) {
	return func() (func() error, error) {
		path := fmt.Sprintf("/dev/shm/overhead-%d", os.Getpid())
		file, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		cleanup = func() { os.Remove(path) }
		return f(int(file.Fd()), path), nil
	}
}

// libraryPath is where withLibrary makes its library, for the process that starts the caller.
func libraryPath(pid int) string { return fmt.Sprintf("/dev/shm/overhead-%d.so", pid) }

// withLibrary calls a function of a library that does nothing but to return.
func withLibrary(f func(l *bpftest.Library)) func() (func() error, error) {
	return func() (func() error, error) {
		path := libraryPath(os.Getppid())
		cleanup = func() { os.Remove(path) }
		if err := bpftest.WriteLibrary(path); err != nil {
			return nil, err
		}
		l, err := bpftest.OpenLibrary(path)
		return func() error {
			f(l)
			return nil
		}, err
	}
}

// diskRead reads from a disk, past the page cache.
func diskRead() (func() error, error) {
	path := fmt.Sprintf("/var/tmp/overhead-%d", os.Getpid())
	cleanup = func() { os.Remove(path) }
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := unix.Pwrite(fd, block, 0); err != nil {
		return nil, err
	}
	return func() error {
		_, err := unix.Pread(fd, block, 0)
		return err
	}, unix.Fsync(fd)
}

// cleanup is called when the calls end.
var cleanup = func() {}

// listener returns a socket that listens on the loopback interface, and its address.
func listener() (int, unix.Sockaddr, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 64)); err != nil {
		return 0, nil, err
	}
	addr, err := unix.Getsockname(fd)
	return fd, addr, err
}

// connection makes a connection, accepts it, and ends it from the client's side.
func connection() (func() error, error) {
	fd, addr, err := listener()
	return func() error {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// No TIME_WAIT, of which there can be only so many.
		linger := unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err := errors.Join(linger, unix.Connect(client, addr)); err != nil {
			return err
		}
		server, _, err := unix.Accept(fd)
		if err != nil {
			return err
		}
		return errors.Join(unix.Close(client), unix.Close(server))
	}, err
}

// pingPong sends a byte to a thread on the same CPU, and gets one back.
func pingPong() (func() error, error) {
	var there, back [2]int
	if err := errors.Join(unix.Pipe2(there[:], unix.O_CLOEXEC), unix.Pipe2(back[:], unix.O_CLOEXEC)); err != nil {
		return nil, err
	}
	go func() {
		runtime.LockOSThread() // its thread is this one's child, and so on its CPU
		b := make([]byte, 1)
		for {
			if n, err := unix.Read(there[0], b); n != 1 || err != nil {
				return
			}
			if _, err := unix.Write(back[1], b); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 1)
	return func() error {
		_, werr := unix.Write(there[1], b)
		_, rerr := unix.Read(back[0], b)
		return errors.Join(werr, rerr)
	}, nil
}

// refused asks for connections that are refused.
func refused() (func() error, error) {
	fd, addr, err := listener()
	if err == nil {
		err = unix.Close(fd)
	}
	return func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, addr); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("%w, want ECONNREFUSED", err)
		}
		return unix.Close(fd)
	}, err
}

// call makes as many calls as each line of standard input says, and says what one took,
// in ns.
func call(tracer string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	// On the last CPU, so that the scheduler does not decide the outcome.
	var cpus unix.CPUSet
	cpus.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("staying on one CPU: %w", err)
	}
	one, err := workloads[tracer].make()
	if err != nil {
		return err
	}
	defer func() { cleanup() }()
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		n, aerr := strconv.Atoi(strings.TrimSpace(line))
		if err := errors.Join(err, aerr); err != nil {
			return err
		}
		begin := time.Now()
		for range n {
			if err := one(); err != nil {
				return err
			}
		}
		fmt.Println(float64(time.Since(begin).Nanoseconds()) / float64(n))
	}
}
