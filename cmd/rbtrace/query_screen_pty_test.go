// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

const (
	altScreen     = "\x1b[?1049h"
	mainScreen    = "\x1b[?1049l"
	cursorVisible = "\x1b[?25h"
)

// terminal is a pseudo-terminal, and all that was written to it.
type terminal struct {
	t        *testing.T
	fd       int // of pty
	pty, tty *os.File
	out      *output.Stream // tty, as this process writes to it
	modes    unix.Termios

	mu      sync.Mutex
	written bytes.Buffer
	done    chan struct{} // when nothing can be written to it any more
}

func newTerminal(t *testing.T, width, height uint16) *terminal {
	t.Helper()
	// Not blocking, so that closing it ends a read.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	pty := os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, fd: fd, pty: pty, tty: tty, out: output.NewStream(tty), done: make(chan struct{})}
	term.resize(width, height)
	term.modes = term.getModes()
	go func() {
		defer close(term.done)
		b := make([]byte, 4096)
		for {
			n, err := pty.Read(b)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.written.Write(b[:n])
			term.mu.Unlock()
		}
	}()
	t.Cleanup(term.close)
	return term
}

// close closes what is still open, and waits for the reader.
func (term *terminal) close() {
	term.out.Close()
	<-term.done // EIO, once no process has it open
	term.pty.Close()
}

func (term *terminal) getModes() unix.Termios {
	modes, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return *modes
}

func (term *terminal) resize(width, height uint16) {
	if err := unix.IoctlSetWinsize(term.fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.written.String()
}

func (term *terminal) forget() {
	term.mu.Lock()
	defer term.mu.Unlock()
	term.written.Reset()
}

func (term *terminal) press(keys string) {
	term.t.Helper()
	if _, err := term.pty.WriteString(keys); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until a text was written.
func (term *terminal) expect(want string) {
	term.t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(term.text(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			term.t.Fatalf("no %q was written, but %q", want, term.text())
		}
	}
}

// left checks that the terminal is as it was.
func (term *terminal) left() {
	term.t.Helper()
	if modes := term.getModes(); modes != term.modes {
		term.t.Errorf("the modes were %+v, and are %+v", term.modes, modes)
	}
	term.expect(mainScreen)
	text := term.text()
	if in, out := strings.LastIndex(text, altScreen), strings.LastIndex(text, mainScreen); out < in {
		term.t.Errorf("the alternate screen was not left: %q", text)
	}
	if hidden, shown := strings.LastIndex(text, "\x1b[?25l"), strings.LastIndex(text, cursorVisible); shown < hidden {
		term.t.Errorf("the cursor was left hidden: %q", text)
	}
}

// start starts rbtrace on the terminal, in a session of its own as a shell would have it.
func (term *terminal) start(env []string, args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	term.t.Helper()
	stderr = &bytes.Buffer{}
	cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{"rbtrace"}, args...),
		Env:   append([]string{"TERM=xterm-256color", "LANG=C.UTF-8", "PATH=" + os.Getenv("PATH")}, env...),
		Stdin: term.tty, Stdout: term.tty, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	if err := cmd.Start(); err != nil {
		term.t.Fatal(err)
	}
	term.t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed
	return cmd, stderr
}

// wait waits for the end and returns the exit status.
func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok && cmd.ProcessState == nil {
		t.Fatal("it did not run")
	}
	return cmd.ProcessState.ExitCode()
}

// The ways to end it.
func TestScreenLeavesTheTerminal(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		end  func(*terminal, *exec.Cmd)
	}{
		"q":      {nil, func(term *terminal, _ *exec.Cmd) { term.press("q") }},
		"Ctrl-C": {nil, func(term *terminal, _ *exec.Cmd) { term.press("\x03") }},
		"SIGTERM": {nil, func(_ *terminal, cmd *exec.Cmd) {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}},
		"SIGINT": {nil, func(_ *terminal, cmd *exec.Cmd) { _ = cmd.Process.Signal(syscall.SIGINT) }},
		"count":  {[]string{"--count", "2"}, func(*terminal, *exec.Cmd) {}},
	} {
		t.Run(name, func(t *testing.T) {
			term := newTerminal(t, 80, 24)
			cmd, stderr := term.start(nil, append([]string{"query", "--watch=0.2", "--name", "no such ring"}, test.args...)...)
			term.expect(altScreen)
			term.expect("0 ring buffers")
			if name != "count" && term.getModes() == term.modes {
				t.Error("keys are not read one by one")
			}
			test.end(term, cmd)
			if status := wait(t, cmd); status != exitComplete {
				t.Errorf("exit status %d: %s", status, stderr)
			}
			term.left()
		})
	}
}

func TestScreenOnATerminal(t *testing.T) {
	term := newTerminal(t, 80, 24)
	cmd, _ := term.start(nil, "query", "--watch=0.2", "--name", "no such ring")
	term.expect("q quit  enter details")

	// The terminal is asked for nothing: answers would come too late.
	for _, request := range []string{"$p", "\x1b[c", "\x1b[?u", "\x1b[6n", "\x1b]11;?", "\x1bP+q", "\x1b[>q", "\x1b[>0q"} {
		if strings.Contains(term.text(), request) {
			t.Errorf("it is asked %q: %q", request, term.text())
		}
	}

	term.forget()
	term.resize(20, 5)
	term.expect("small")
	term.forget()
	term.resize(100, 30)
	term.expect("q quit  enter details")
	if text := term.text(); !strings.Contains(text, "\r\x1b[30d") && !strings.Contains(text, "\x1b[30;1H") {
		t.Errorf("the keys are not in the last line: %q", text)
	}

	term.press("/abc")
	term.expect("filter by name or owner")
	term.forget()
	term.press("\x1b")
	term.expect("q quit")
	term.press("q")
	if status := wait(t, cmd); status != exitComplete {
		t.Errorf("exit status %d", status)
	}
	term.left()
}

var colour = regexp.MustCompile("\x1b\\[([0-9;]*;)?(3[0-7]|9[0-7])m")

func TestScreenColours(t *testing.T) {
	for _, test := range []struct {
		env  string
		want bool
	}{{"COLORTERM=", true}, {"NO_COLOR=1", false}} {
		t.Run(test.env, func(t *testing.T) {
			t.Setenv("TERM", "xterm-256color")
			name, value, _ := strings.Cut(test.env, "=")
			t.Setenv(name, value)
			term := newTerminal(t, 80, 24)
			if err := showOn(term, nil, someSnapshots(2)); err != nil {
				t.Error(err)
			}
			term.expect(mainScreen)
			if got := colour.MatchString(term.text()); got != test.want {
				t.Errorf("colours are %t: %q", got, term.text())
			}
			if !strings.Contains(term.text(), "stuck") {
				t.Errorf("the words are missing: %q", term.text())
			}
		})
	}
}

// What is wrong from the start is told as without a screen.
func TestScreenWithNothingToShow(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--id", "4294967295"}, "4294967295"},
		{[]string{"--pin", "/nowhere"}, "/nowhere: no such file or directory"},
	} {
		term := newTerminal(t, 80, 24)
		cmd, stderr := term.start(nil, append([]string{"query", "--watch=0.2"}, test.args...)...)
		if status := wait(t, cmd); status != exitError || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%q: exit status %d: %s", test.args, status, stderr)
		}
		if modes := term.getModes(); modes != term.modes {
			t.Errorf("%q: the terminal was not left as it was", test.args)
		}
		if strings.Contains(term.text(), altScreen) {
			t.Errorf("%q: the screen flickered: %q", test.args, term.text())
		}
	}
}

// Tables for those who choose columns, and for terminals that have no screen.
func TestScreenNotTaken(t *testing.T) {
	for _, test := range []struct{ env, args []string }{
		{nil, []string{"-C", "id"}},
		{[]string{"TERM=dumb"}, nil},
		{nil, []string{"-o", "json"}},
	} {
		term := newTerminal(t, 80, 24)
		cmd, stderr := term.start(test.env, append([]string{"query", "--watch=0.05", "--count", "2", "--name", "no such ring"}, test.args...)...)
		if status := wait(t, cmd); status != exitComplete || strings.Contains(term.text(), "\x1b") {
			t.Errorf("%v: exit status %d, %q: %s", test, status, term.text(), stderr)
		}
	}
}

// A real ring: its details, its end, and the exit status that it was watched for.
func TestScreenShowsARing(t *testing.T) {
	bpftest.Require(t)
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Name: "rb_shown", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	term := newTerminal(t, 80, 24)
	cmd, stderr := term.start(nil, "query", "--watch=0.1", "--name", "rb_shown", "--fail-on", "idle")
	term.expect("rb_shown")
	term.expect("idle")
	term.press("\r")
	term.expect("nothing is unread")
	term.expect(fmt.Sprintf("[%d]", os.Getpid()))
	ring.Close()
	term.expect("has gone")
	term.expect("no ring buffer to show")
	term.press("q")
	if status, want := wait(t, cmd), "(rb_shown): idle, 0% full\n"; status != exitUnwell || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	term.left()
}

// The terminal goes away, as at the end of an ssh session.
func TestScreenHangup(t *testing.T) {
	term := newTerminal(t, 80, 24)
	cmd, stderr := term.start(nil, "query", "--watch=0.05", "--name", "no such ring")
	term.expect("0 ring buffers")
	term.pty.Close()
	if status := wait(t, cmd); status != exitComplete {
		t.Errorf("exit status %d: %s", status, stderr)
	}
}

// someSnapshots gives so many snapshots of rings, then waits for the end.
func someSnapshots(n int) iter.Seq2[*ringquery.Snapshot, error] {
	return func(yield func(*ringquery.Snapshot, error) bool) {
		for range n {
			if !yield(busyRings(), nil) {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// showOn shows the snapshots on the screen of a terminal, in this process.
func showOn(term *terminal, stderr io.Writer, snapshots iter.Seq2[*ringquery.Snapshot, error]) error {
	if stderr == nil {
		stderr = io.Discard
	}
	r := &queryRun{streams: streams{Out: term.out, Err: stderr}, flags: &queryFlags{watch: seconds(time.Second), failOn: []string{"full"}}, changed: func(string) bool { return false }}
	if err := r.parseAlarm(); err != nil {
		return err
	}
	return r.live(context.Background(), term.tty, func(context.Context) iter.Seq2[*ringquery.Snapshot, error] { return snapshots }, nil)
}

// Nothing goes on after the end, and alarms and errors are told then.
func TestScreenEnds(t *testing.T) {
	t.Setenv("TERM", "xterm")
	ignored := goleak.IgnoreCurrent()
	term := newTerminal(t, 80, 24)
	bad := errors.New("no more rings today")
	var stderr bytes.Buffer
	err := showOn(term, &stderr, func(yield func(*ringquery.Snapshot, error) bool) {
		yield(busyRings(), nil)
		yield(busyRings(), bad)
		yield(busyRings(), bad)
		if stderr.Len() > 0 {
			t.Errorf("written into the screen: %s", &stderr)
		}
		yield(nil, errors.New("nothing can be looked for"))
	})
	if want := "no more rings today\nnothing can be looked for"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if want := "rbtrace: ring buffer 105 (full_of_events_x): full, >99% full\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", &stderr, want)
	}
	term.left()
	term.close()
	goleak.VerifyNone(t, ignored)
}

// Also when something is wrong with the program itself.
func TestScreenPanics(t *testing.T) {
	t.Setenv("TERM", "xterm")
	term := newTerminal(t, 80, 24)
	defer func() {
		if v, ok := recover().(string); !ok || !strings.HasPrefix(v, "a mistake\n") {
			t.Errorf("the panic was %v", v)
		}
		term.left()
	}()
	err := showOn(term, nil, func(yield func(*ringquery.Snapshot, error) bool) {
		yield(busyRings(), nil)
		term.expect("full_of_ev")
		panic("a mistake")
	})
	t.Errorf("no panic, but %v", err)
}
