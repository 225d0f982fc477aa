// SPDX-License-Identifier: Apache-2.0

package readline_test

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/readline"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

func raw(line string) event {
	return event{"command": tracetest.Text(line), tracetest.Raw: map[string]string{"command": line}}
}

// TestLines: whatever a readline returns, on any machine.
func TestLines(t *testing.T) {
	bpftest.Require(t)
	library := bpftest.NewLibrary(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	long := strings.Repeat("x", 4095)
	lines := []string{
		"", "ls", "\x1b]0;title\a\n\xff", "echo \"a\\b\" | \u202ecat", long[1:], long, long + "y", strings.Repeat("é", 4000),
	}
	want := make([]event, len(lines))
	for i, line := range lines {
		want[i] = raw(line[:min(len(line), len(long))])
		want[i]["truncated"], want[i]["pid"] = len(line) > len(long), int64(os.Getpid())
	}
	opts := attach.Options{
		Filter: attach.Filter{TID: uint32(unix.Gettid())},
		Params: map[string]string{tracer.LibraryParam: library.Path},
	}
	events := tracetest.Trace(t, readline.Tracer, opts, func() {
		library.Call("readline", 0) // the end of the input
		for _, line := range lines {
			library.Call("readline", append([]byte(line), 0))
		}
	})
	tracetest.Same(t, events, want)
}

// TestFilter: lines of others are not shown, and count as filtered.
func TestFilter(t *testing.T) {
	bpftest.Require(t)
	library := bpftest.NewLibrary(t)
	opts := attach.Options{
		Filter: attach.Filter{Comm: "nobody-has-this"},
		Params: map[string]string{tracer.LibraryParam: library.Path},
	}
	s := tracetest.Open(t, opts, readline.Tracer)
	s.Start()
	const n = 101
	for range n {
		library.Call("readline", []byte("x\x00"))
	}
	r := s.Finish(t)
	if l := r.Ledger[0].Total(); l.Hits != n || l.Filtered != n {
		t.Errorf("the ledger is %v", r.Ledger[0])
	}
}

// TestBash: what is typed into a real bash.
func TestBash(t *testing.T) {
	bpftest.Require(t)
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("this machine has no bash")
	}
	lines := []string{": one", ": \"two\xff\" \x1b;", "# three", "exit 7"}
	for _, library := range []string{"", bash} {
		opts := attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}, Params: map[string]string{}}
		if library != "" {
			opts.Params[tracer.LibraryParam] = library
		}
		cmd := exec.Command(bash, "--norc", "--noprofile", "-i")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		// What is typed is looked at by readline: in this locale it is bytes.
		cmd.Env = []string{"LC_ALL=C", "TERM=dumb", "HOME=/nonexistent", "INPUTRC=/dev/null", "HISTFILE="}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		events := tracetest.Trace(t, readline.Tracer, opts, func() {
			if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 7 {
				t.Errorf("bash: %v\n%s", err, out.Bytes())
			}
		})
		if len(events) == len(lines) {
			for i, line := range []string{": one", "", "# three", "exit 7"} {
				want := event{"comm": "bash", "pid": int64(cmd.ProcessState.Pid()), "truncated": false}
				if i != 1 { // of which readline took ESC ; for a key
					want["command"] = line
				}
				if diff := events[i].Diff(want); diff != "" {
					t.Errorf("line %d: %s", i, diff)
				}
			}
		} else {
			t.Errorf("%d lines, want %d: %v", len(events), len(lines), events)
		}
	}
}
