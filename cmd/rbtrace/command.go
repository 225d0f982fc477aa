// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// awaitName is the argv[0] under which this program waits to become a traced
// command.
const awaitName = "rbtrace-await"

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
	err := unix.Exec(os.Args[1], os.Args[2:], os.Environ())
	fmt.Fprint(report, err)
	return exitError
}

// command is a COMMAND that is traced.
type command struct {
	name   string
	cmd    *exec.Cmd
	start  *os.File
	report *os.File
	done   chan struct{} // closed when the command has ended
	err    error         // of Wait, once done
}

// credential is that of a user by number or name: with the user's groups, where
// this machine knows them.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		id, perr := strconv.ParseUint(name, 10, 32)
		if perr != nil || id == math.MaxUint32 {
			return nil, fmt.Errorf("no user %q on this machine (a number works without one)", name)
		}
		return &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}, nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("looking up the groups of %s: %w", name, err)
	}
	var numbers []uint32
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", name, err)
		}
		numbers = append(numbers, uint32(n))
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
}

// newCommand starts a process that will become the command, run by user as: empty
// for whoever runs this. What it writes to standard output goes to standard error,
// since standard output is for events.
func newCommand(args []string, as string) (*command, error) {
	var attr syscall.SysProcAttr
	if as != "" {
		var err error
		if attr.Credential, err = credential(as); err != nil {
			return nil, usagef("--as: %w", err)
		}
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, fmt.Errorf("the command cannot be run: %w", err)
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
		name: args[0], start: startW, report: reportR, done: make(chan struct{}),
		cmd: &exec.Cmd{
			Path: "/proc/self/exe", Args: append([]string{awaitName, path}, args...),
			Stdin: os.Stdin, Stdout: os.Stderr, Stderr: os.Stderr,
			ExtraFiles: []*os.File{startR, reportW}, SysProcAttr: &attr,
		},
	}
	if err := c.cmd.Start(); err != nil {
		startW.Close()
		reportR.Close()
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
	if len(text) > 0 {
		return fmt.Errorf("running %s: %s", c.name, text)
	}
	return nil
}

// end makes the command end, unless it has, and says how it ended. told says that
// the terminal has sent it a signal already.
func (c *command) end(told bool) string {
	c.start.Close()
	grace := time.Duration(0)
	if told {
		grace = 500 * time.Millisecond
	}
	if c.endsWithin(grace) {
		return c.status()
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended in between
	if c.endsWithin(2 * time.Second) {
		return c.status()
	}
	return fmt.Sprintf("still runs, as process %d, although it was told to end", c.pid())
}

func (c *command) endsWithin(d time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(d):
		return false
	}
}

func (c *command) status() string {
	if c.err == nil {
		return "exit status 0"
	}
	return c.err.Error() // an exec.ExitError says how it ended
}
