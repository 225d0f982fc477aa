// SPDX-License-Identifier: Apache-2.0

// Command rbtrace shows what happens on a Linux machine, event by event, through
// BPF ring buffers.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
)

// The exit statuses.
const (
	exitComplete = 0 // everything asked for was shown
	exitError    = 1
	exitUsage    = 2
	exitLost     = 3   // events were lost: the output is incomplete
	exitUnwell   = 4   // query: a ring buffer is in a state that was asked to be told of
	exitOwn      = 125 // rbtrace itself failed, where the others are those of COMMAND
)

// streams are where a command reads and writes.
type streams struct {
	Out *output.Stream // events and results
	Err io.Writer      // everything else
}

// lastWait is how long the end of a command waits for a reader that takes nothing.
const lastWait = 700 * time.Millisecond

// hurry says that the command ends, whether what it still has to say is read or not.
func (s streams) hurry() {
	s.Out.GiveUpAfter(lastWait)
	if e, ok := s.Err.(*output.Stream); ok {
		e.GiveUpAfter(lastWait)
	}
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
	s := streams{Out: output.NewStream(os.Stdout), Err: output.NewStream(os.Stderr)}
	if zone, err := field.Zone(os.Getenv("TZ")); err == nil {
		time.Local = zone
	} else {
		s.warn("%v: times are in UTC", err)
	}
	root := newRoot(s, os.Args[1:]...)
	cmd, err := root.ExecuteC()
	if e, ok := errors.AsType[*commandError](err); ok {
		if e.why != nil {
			s.warn("%v", e)
		}
		return e.exitStatus()
	}
	switch {
	case err == nil:
		return exitComplete
	case errors.Is(err, errLost):
		return exitLost
	case errors.Is(err, errUnwell):
		return exitUnwell
	}
	s.warn("%s", strings.TrimSpace(err.Error()))
	status := exitError
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(s.Err, "Run '%s --help' for usage.\n", cmd.CommandPath())
		status = exitUsage
	}
	// Behind -- is a COMMAND, which may not have been looked at yet.
	if i := slices.Index(os.Args, "--"); cmd.GroupID == tracersGroup && i >= 0 && i < len(os.Args)-1 {
		status = exitOwn
	}
	return status
}
