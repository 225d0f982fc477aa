// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

// awaitName is the argv[0] under which this program waits to become a traced
// command.
const awaitName = "rbtrace-await"

// awaits reports whether this process is one that waits to become a command.
func awaits() bool { return len(os.Args) > 2 && os.Args[0] == awaitName }

func init() {
	if awaits() {
		// The main thread is to call exec, so that the command has its pid as its tid.
		runtime.LockOSThread()
	}
}

// await becomes the command in os.Args as soon as a byte arrives on descriptor 3,
// and goes away when that is closed first. What fails is told on descriptor 4.
//
// The traced command begins as this waiting process so that its id is known, and
// followed, before its first instruction.
func await() int {
	start, report := os.NewFile(3, "start"), os.NewFile(4, "report")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	var b [1]byte
	if _, err := start.Read(b[:]); err != nil {
		return exitError
	}
	errno, _ := errors.AsType[unix.Errno](unix.Exec(os.Args[1], os.Args[2:], os.Environ())) // it returns no others
	fmt.Fprint(report, int(errno))
	return exitError
}

// command is a COMMAND that is traced.
type command struct {
	name   string
	path   string // that name has been found at
	as     string // the user who runs it; empty: whoever runs this
	cmd    *exec.Cmd
	start  *os.File
	report *os.File
	begun  atomic.Bool   // it is about to become the command
	begins chan struct{} // closed when it has, or has failed to
	ran    atomic.Bool   // it is the command, and no longer waits to become it
	told   atomic.Bool   // to end, by a signal
	ended  bool          // it went on after the trace, and was told to end
	done   chan struct{} // closed when the command has ended
	err    error         // of Wait, once done
}

// newCommand starts a process that will become the command, with that standard output, run by user
// as: empty for whoever runs this.
func newCommand(args []string, as string, stdout io.Writer) (*command, error) {
	var attr syscall.SysProcAttr
	if as != "" {
		var err error
		if attr.Credential, err = credential(as); err != nil {
			return nil, usagef("--as: %w", err)
		}
	}
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) { // PATH says so
		return nil, notRun(fmt.Errorf("the command cannot be run: %w", err))
	}
	startR, startW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("preparing the command: %w", err)
	}
	defer startR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		startW.Close()
		return nil, fmt.Errorf("preparing the command: %w", err)
	}
	defer reportW.Close()
	c := &command{
		name: args[0], path: path, as: as, start: startW, report: reportR, begins: make(chan struct{}), done: make(chan struct{}),
		cmd: &exec.Cmd{
			Path: "/proc/self/exe", Args: append([]string{awaitName, path}, args...),
			Stdin: os.Stdin, Stdout: stdout, Stderr: os.Stderr,
			ExtraFiles: []*os.File{startR, reportW}, SysProcAttr: &attr,
		},
	}
	if err := c.cmd.Start(); err != nil {
		startW.Close()
		reportR.Close()
		switch {
		case as != "" && errors.Is(err, unix.EPERM):
			err = fmt.Errorf("%w: --as needs CAP_SETUID and CAP_SETGID: run it as root", unix.EPERM)
		case as != "" && errors.Is(err, unix.EACCES):
			self, _ := os.Executable()
			err = fmt.Errorf("%w: --as runs rbtrace itself as %s first, who may not execute %s: let everybody do it (chmod 755), also in the directories above",
				unix.EACCES, as, self)
		}
		return nil, fmt.Errorf("starting the command: %w", err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *command) pid() int { return c.cmd.Process.Pid }

// run lets the process become the command.
func (c *command) run() error {
	defer c.report.Close()
	defer close(c.begins)
	c.begun.Store(true)
	_, err := c.start.Write([]byte{0})
	c.start.Close()
	if err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	// Ends when the exec closes the other side.
	text, err := io.ReadAll(c.report)
	if err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	if errno, err := strconv.Atoi(string(text)); err == nil {
		how := ""
		if c.as != "" {
			how = " as " + c.as
		}
		return notRun(fmt.Errorf("running %s%s: %w", c.path, how, unix.Errno(errno)))
	}
	c.ran.Store(true)
	return nil
}

// runs reports whether it is the command. Where it is about to be, that is waited for: the command
// may have had someone send a signal before this process knows that it runs.
func (c *command) runs() bool {
	if c.begun.Load() {
		select {
		case <-c.begins:
		case <-time.After(afterwards):
		}
	}
	return c.ran.Load()
}

// passedOn are the signals that the command gets besides those that end a trace.
var passedOn = []os.Signal{syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// afterwards is how long a trace goes on after the signal that ends it, for what the
// command does about it.
const afterwards = 2 * time.Second

// pass gives a signal that this process got to the command. Where it is one that ends a
// trace, giveUp is called if the command goes on all the same, or at the second one.
func (c *command) pass(sig os.Signal, giveUp func()) {
	guessed := fromTerminal(sig)
	if !guessed {
		_ = c.cmd.Process.Signal(sig) // it may have ended just now
	}
	if slices.Contains(passedOn, sig) {
		return
	}
	if c.told.Swap(true) {
		giveUp()
		return
	}
	time.AfterFunc(afterwards, func() {
		if !guessed {
			giveUp()
			return
		}
		// It was for this process alone, or the command takes its time.
		_ = c.cmd.Process.Signal(sig)
		time.AfterFunc(afterwards, giveUp)
	})
}

// fromTerminal guesses whether a signal is one that the terminal has sent to all processes in
// its foreground, of which this one is: then the command has it already. Go does not tell who
// has sent it.
func fromTerminal(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT && sig != syscall.SIGHUP {
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false // there is none
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// end makes the command end, unless it has, and says how it ended: nothing where it was
// not run.
func (c *command) end() string {
	c.start.Close()
	if !c.ran.Load() {
		<-c.done // by itself, as it waits for more at start
		return ""
	}
	if c.endsWithin(0) {
		return c.status()
	}
	c.ended = true
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended in between
	if c.endsWithin(2 * time.Second) {
		return c.status()
	}
	return fmt.Sprintf("still runs, as process %d, although it was told to end", c.pid())
}

// outcome returns a commandError where the command has failed by itself, and another where it was not run. It comes
// after end.
func (c *command) outcome() error {
	if !c.ran.Load() { // what has ended is the process that was to become it
		return fmt.Errorf("%s was not run: tracing ended before", c.name)
	}
	failed, ok := errors.AsType[*exec.ExitError](c.err)
	if c.ended || !ok {
		return nil
	}
	status, _ := failed.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return &commandError{signal: status.Signal()}
	}
	return &commandError{status: status.ExitStatus()}
}

// commandError ends rbtrace as COMMAND has ended, or says why that was not run.
type commandError struct {
	status int
	signal syscall.Signal // that has killed it; 0: none
	why    error          // nil: it was run, and its end has been told
}

// notRun is the error of a command that cannot be run. The statuses are env's and the shell's.
func notRun(why error) error {
	if errors.Is(why, fs.ErrNotExist) || errors.Is(why, exec.ErrNotFound) {
		return &commandError{status: 127, why: why}
	}
	return &commandError{status: 126, why: why}
}

func (e *commandError) Error() string {
	if e.why == nil {
		return "the command has failed"
	}
	return e.why.Error()
}

func (e *commandError) Unwrap() error { return e.why }

// exitStatus returns what this process is to exit with, unless a signal that has killed the command can kill it, too.
func (e *commandError) exitStatus() int {
	if e.signal == 0 {
		return e.status
	}
	kernel.DieBy(e.signal)
	return 128 + int(e.signal)
}

func (c *command) endsWithin(d time.Duration) bool {
	select {
	case <-c.done:
	case <-time.After(d):
	}
	select { // of two that are ready, either may have been taken
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *command) status() string {
	if c.err == nil {
		return "exit status 0"
	}
	return c.err.Error() // an exec.ExitError says how it ended
}
