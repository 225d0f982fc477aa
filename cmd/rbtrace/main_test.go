// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/capability"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
)

func TestMain(m *testing.M) {
	if awaits() { // the test binary traced a command
		os.Exit(await())
	}
	testscript.Main(tests{m}, map[string]func(){
		"rbtrace":  func() { os.Exit(run()) },
		"spawn":    spawn,
		"nonblock": func() { nettest.Must(unix.SetNonblock(1, true)) },
		"sockets":  nettest.Main,
	})
}

// Somebody may call the program as it calls itself.
func TestAwaits(t *testing.T) {
	defer func(args []string) { os.Args = args }(os.Args)
	for want, args := range map[bool][]string{true: {awaitName, "/bin/true", "true"}, false: {awaitName}} {
		if os.Args = args; awaits() != want {
			t.Errorf("%q waits: %v", args, !want)
		}
	}
}

// tests are those of this package. What they start does not ignore signals that this process
// was started to ignore: rbtrace would, too.
type tests struct{ *testing.M }

func (t tests) Run() int {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // which children do not inherit
		}
	}
	return t.M.Run()
}

// spawn starts a program many times: spawn N COMMAND [ARG...] gives it one more
// argument, the number of the run from 0 on.
func spawn() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "spawn:", err)
		os.Exit(2)
	}
	for i := range n {
		cmd := exec.Command(os.Args[2], append(os.Args[3:], strconv.Itoa(i))...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "spawn:", err)
			os.Exit(1)
		}
	}
}

// The command line as people meet it: testdata/script has a script for each
// tracer and each other subject.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Condition: func(name string) (bool, error) {
			switch name {
			case "bpf": // may this process trace?
				err := kernel.CheckCapabilities()
				if err != nil && os.Getenv(bpftest.RequireEnv) == "1" {
					return false, fmt.Errorf("%s=1: %w", bpftest.RequireEnv, err)
				}
				return err == nil, nil
			case "kprobes": // does the kernel have them?
				_, err := os.Stat("/sys/bus/event_source/devices/kprobe")
				return err == nil, nil
			case "nice": // may this process raise its priority?
				return kernel.Has(capability.CAP_SYS_NICE), nil
			case "cgroup2": // is the unified hierarchy mounted?
				_, err := kernel.CgroupMount()
				return err == nil, nil
			}
			if name, ok := strings.CutPrefix(name, "tracepoint:"); ok { // does the kernel have it?
				events, err := kernel.Tracefs()
				if err != nil {
					return false, err
				}
				defer events.Close()
				_, err = kernel.TracepointID(events, name)
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"json":      jsonCount,
			"samecalls": sameCalls,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv(bpftest.RequireEnv, os.Getenv(bpftest.RequireEnv))
			recordings, err := filepath.Abs("../../internal/probes")
			env.Setenv("RECORDINGS", recordings)
			return err
		},
	})
}

// jsonCount checks that stdout is NDJSON and counts the objects that match:
//
//	json N [KEY=VALUE...]
//
// VALUE is compared with the JSON text of the key's value, or, written between
// slashes, must be a part of it.
func jsonCount(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: json N [KEY=VALUE...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("%v in line %q", err, line)
		}
		match := true
		for _, arg := range args[1:] {
			key, value, _ := strings.Cut(arg, "=")
			text, ok := object[key]
			if part := strings.Trim(value, "/"); len(value) > 1 && part != value {
				match = match && ok && strings.Contains(string(text), part)
			} else {
				match = match && ok && string(text) == value
			}
		}
		if match {
			got++
		}
	}
	if got != want {
		ts.Fatalf("%d objects match %q, want %d", got, args[1:], want)
	}
}

// docs/commands is what the commands say of themselves.
func TestDocs(t *testing.T) {
	dir := t.TempDir()
	root := newRoot(streams{Out: output.NewStream(os.Stdout), Err: os.Stderr})
	root.SetArgs([]string{"docs", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	const committed = "../../docs/commands"
	pages := readDir(t, dir)
	if diff := cmp.Diff(pages, readDir(t, committed)); diff != "" {
		t.Errorf("docs/commands is not what make docs writes (-commands +docs):\n%s", diff)
	}
	if len(pages) < 6 {
		t.Errorf("only %d pages", len(pages))
	}
}

func readDir(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

// Every command explains itself with an example, and every flag has a usage.
func TestHelp(t *testing.T) {
	root := newRoot(streams{Out: output.NewStream(os.Stdout), Err: os.Stderr})
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue // cobra's own
		}
		if cmd.Short == "" || cmd.Long == "" || !strings.Contains(cmd.Example, "rbtrace "+cmd.Name()) {
			t.Errorf("%s: no short or long help, or no example", cmd.Name())
		}
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "      --") && len(strings.Fields(line)) < 2 {
				t.Errorf("%s: flag without usage: %s", cmd.Name(), line)
			}
		}
	}
}
