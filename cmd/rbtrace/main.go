// SPDX-License-Identifier: Apache-2.0

// Command rbtrace shows what happens on a Linux machine, event by event, through
// BPF ring buffers.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
)

// The exit statuses.
const (
	exitComplete = 0 // everything asked for was shown
	exitError    = 1
	exitUsage    = 2
	exitLost     = 3 // events were lost: the output is incomplete
	exitUnwell   = 4 // query: a ring buffer is in a state that was asked to be told of
)

// streams are where a command reads and writes.
type streams struct {
	Out *os.File  // events and results
	Err io.Writer // everything else
}

// warn writes a line of text about the run itself. Names in it may be anybody's: a terminal
// obeys none of them.
func (s streams) warn(format string, args ...any) {
	text := fmt.Appendf(nil, "rbtrace: "+format+"\n", args...)
	_, _ = s.Err.Write(field.AppendLinesEscaped(nil, text)) // there is no other place to tell of it
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef returns a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errLost ends a command whose output is incomplete, which has been told.
var errLost = errors.New("events were lost")

func main() { os.Exit(run()) }

// run is main, but for the exit: tests call it.
func run() int {
	if awaits() {
		return await()
	}
	s := streams{Out: os.Stdout, Err: os.Stderr}
	root := newRoot(s, os.Args[1:]...)
	cmd, err := root.ExecuteC()
	switch {
	case err == nil:
		return exitComplete
	case errors.Is(err, errLost):
		return exitLost
	case errors.Is(err, errUnwell):
		return exitUnwell
	}
	s.warn("%s", strings.TrimSpace(err.Error()))
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(s.Err, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitError
}
