// Command report turns what the machines of run.sh left behind into a report, per kernel and per test.
//
//	report MANIFEST DIR...
//
// MANIFEST lists the packages that every machine had to run. Each DIR is named after its kernel's label, with "+N" behind
// it where that kernel ran the tests several times, and holds tests.log (written by ../init, which describes it),
// console.log (the kernel's messages), status (QEMU's exit status), and again where the machine had to be booted twice.
//
// At the end it says how often each test failed that did, and how many seconds each package took; with a warning where that
// is more than the budget, which run.sh has for all machines together.
//
// Nothing passes unless the logs prove it: a test must have reported its own end, its package the exit status 0, and the
// machine that all packages ran. The exit status is 1 if anything failed, or if a kernel ran no test.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: report MANIFEST DIR...")
		os.Exit(2)
	}
	total, err := report(context.Background(), os.Stdout, os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if total.failed > 0 {
		os.Exit(1)
	}
}

// A tally counts results.
type tally struct{ passed, failed, skipped int }

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
}

func (t tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

// An entry is one package of the manifest.
type entry struct {
	path     string // import path
	dir      string // directory in the repository
	selected bool   // the user chose among the tests, so none is a number that may be right
}

// A machine is what one virtual machine wrote to its results port.
type machine struct {
	label    string
	kernel   string // release
	boot     string // seconds it took
	done     bool   // all packages ran
	errors   []string
	sections map[string]*section // by import path
	failed   []string            // package and test
}

// A section is the raw result of one package.
type section struct {
	output  bytes.Buffer
	ended   bool
	status  int    // exit status, as in a shell
	seconds string // how long it took
}

// A test is one test or subtest.
type test struct {
	name     string
	action   string // pass, fail or skip; empty for one that did not end
	elapsed  float64
	output   []string
	children bool // it has subtests
	failing  bool // one of its subtests failed
}

// report writes the report of all machines to w.
func report(ctx context.Context, w io.Writer, manifest string, dirs []string) (tally, error) {
	var total tally
	entries, err := readManifest(manifest)
	if err != nil {
		return total, err
	}
	var machines []*machine
	for _, dir := range dirs {
		m, t, err := reportMachine(ctx, w, dir, entries)
		if err != nil {
			return total, fmt.Errorf("reporting on kernel %s: %w", filepath.Base(dir), err)
		}
		total.add(t)
		machines = append(machines, m)
	}
	if err := summarize(w, machines, entries); err != nil {
		return total, err
	}
	if _, err := fmt.Fprintln(w, total); err != nil {
		return total, err
	}
	return total, nil
}

// readManifest reads the list of packages that run.sh gave to each machine.
func readManifest(path string) ([]entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	var entries []entry
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 2 {
			return nil, fmt.Errorf("manifest line %q: want an import path and a directory", line)
		}
		e := entry{path: fields[0], dir: fields[1]}
		for _, arg := range fields[2:] {
			e.selected = e.selected || strings.HasPrefix(arg, "-test.run=")
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// readMachine parses tests.log. A machine that died can have left any part of it, so it takes what it finds.
func readMachine(path string) (*machine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()

	m := &machine{sections: map[string]*section{}}
	var current *section
	for br := bufio.NewReader(f); ; {
		line, err := br.ReadString('\n')
		whole := strings.HasSuffix(line, "\n")
		if out, ok := strings.CutPrefix(line, "|"); ok && current != nil {
			current.output.WriteString(out)
		}
		if record, ok := strings.CutPrefix(line, "#"); ok && whole { // half a record proves nothing
			current = m.record(strings.TrimSuffix(record, "\n"), current)
		}
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// record takes one record of init in, and returns the section that output belongs to from here on.
func (m *machine) record(text string, current *section) *section {
	verb, rest, _ := strings.Cut(text, " ")
	fields := strings.Fields(rest)
	switch {
	case verb == "kernel" && len(fields) == 2:
		m.kernel, m.boot = fields[0], fields[1]
	case verb == "begin" && len(fields) == 1:
		current = &section{}
		m.sections[fields[0]] = current
	case verb == "end" && len(fields) == 3 && m.sections[fields[0]] == current:
		status, err := strconv.Atoi(fields[1])
		if err != nil || current == nil {
			m.errors = append(m.errors, "malformed record: "+text)
			break
		}
		current.ended, current.status, current.seconds = true, status, fields[2]
		current = nil
	case verb == "error":
		m.errors = append(m.errors, rest)
	case verb == "done":
		m.done = true
	default:
		m.errors = append(m.errors, "malformed record: "+text)
	}
	return current
}

// reportMachine writes the report of the machine whose logs are in dir.
func reportMachine(ctx context.Context, w io.Writer, dir string, entries []entry) (*machine, tally, error) {
	var t tally
	label := filepath.Base(dir)
	m, err := readMachine(filepath.Join(dir, "tests.log"))
	if errors.Is(err, os.ErrNotExist) { // QEMU did not even start
		m, err = &machine{}, nil
	}
	if err != nil {
		return nil, t, err
	}
	m.label, _, _ = strings.Cut(label, "+")
	if m.kernel == "" {
		fmt.Fprintf(w, "== %s: no sign of life\n", label)
	} else {
		fmt.Fprintf(w, "== %s: Linux %s, booted in %s s\n", label, m.kernel, m.boot)
	}

	if _, err := os.Stat(filepath.Join(dir, "again")); err == nil {
		fmt.Fprintf(w, "      booted once more: the first time it ended before any test began, see %s\n", filepath.Join(dir, "first"))
	}

	for _, e := range entries {
		pt, failed, err := reportPackage(ctx, w, e, m.sections[e.path])
		if err != nil {
			return nil, t, fmt.Errorf("package %s: %w", e.path, err)
		}
		t.add(pt)
		m.failed = append(m.failed, failed...)
	}
	if t == (tally{}) {
		t.failed++
		fmt.Fprintln(w, "FAIL  no test ran")
	}
	if problems := machineProblems(m, dir); len(problems) > 0 {
		t.failed++
		m.failed = append(m.failed, "machine")
		fmt.Fprintf(w, "FAIL  machine: %s\n", strings.Join(problems, "; "))
		for _, name := range []string{"console.log", "qemu.log"} {
			if err := printTail(w, filepath.Join(dir, name)); err != nil {
				return nil, t, err
			}
		}
	}
	_, err = fmt.Fprintf(w, "-- %s: %s\n\n", label, t)
	return m, t, err
}

// machineProblems says what kept the machine from a clean end, if anything did.
func machineProblems(m *machine, dir string) []string {
	problems := m.errors
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	switch s := strings.TrimSpace(string(status)); {
	case err != nil:
		problems = append(problems, "QEMU left no exit status")
	case s == "124" || s == "137": // of timeout(1)
		problems = append(problems, "still running when its time was over (RBTRACE_KERNEL_TIMEOUT)")
	case s != "0":
		problems = append(problems, "QEMU ended with status "+s)
	}
	if !m.done {
		problems = append(problems, "ended before all packages had run")
	}
	console, err := os.ReadFile(filepath.Join(dir, "console.log"))
	if err == nil && bytes.Contains(console, []byte("Kernel panic")) {
		problems = append(problems, "kernel panic")
	}
	return problems
}

// printTail prints the end of a log, where it says why a machine died.
func printTail(w io.Writer, path string) error {
	const enough = 60 // lines: an oops and its stack
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(data), "\r", "")), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	fmt.Fprintf(w, "      the end of %s:\n", path)
	return printIndented(w, lines[max(0, len(lines)-enough):])
}

// printIndented prints lines below the result that they belong to.
func printIndented(w io.Writer, lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "      %s\n", strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// reportPackage writes the results of one package, and returns what failed of it. A test with subtests counts only by
// these, unless it failed itself.
func reportPackage(ctx context.Context, w io.Writer, e entry, s *section) (t tally, failed []string, err error) {
	if s == nil {
		t.failed++
		_, err := fmt.Fprintf(w, "FAIL  %s: did not run\n", e.dir)
		return t, []string{e.dir}, err
	}
	tests, output, passed, err := parse(ctx, e.path, s.output.Bytes())
	if err != nil {
		return t, nil, err
	}
	for _, test := range tests {
		before := t.failed
		if err := reportTest(w, &t, e.dir, test); err != nil {
			return t, nil, err
		}
		if t.failed > before {
			failed = append(failed, e.dir+" "+test.name)
		}
	}

	// What no test owns up to: a panic, a TestMain that objects, a truncated log.
	var problem string
	switch {
	case !s.ended:
		problem = "did not end"
	case s.status > 128:
		problem = fmt.Sprintf("killed by signal %d", s.status-128)
	case s.status != 0 && t.failed == 0:
		problem = fmt.Sprintf("exit status %d, though no test failed", s.status)
	case s.status == 0 && !passed:
		problem = "exit status 0, but it did not report PASS"
	case t == (tally{}) && !e.selected:
		problem = "no test ran"
	}
	if problem != "" {
		t.failed++
		failed = append(failed, e.dir)
		fmt.Fprintf(w, "FAIL  %s: %s\n", e.dir, problem)
	}
	if t.failed > 0 {
		err = printIndented(w, output)
	}
	return t, failed, err
}

// reportTest writes the result of one test and counts it.
func reportTest(w io.Writer, t *tally, dir string, test *test) error {
	reason := ""
	result := test.action
	switch {
	case result == "":
		result, reason = "fail", ": did not end"
	case result != "fail" && test.failing: // impossible, unless the log lost a line
		result, reason = "fail", ": passed although a subtest failed"
	}
	switch {
	case result == "fail" && test.failing && test.action == "fail":
		// Its subtests were counted; it may have something to add.
		return printIndented(w, test.output)
	case result == "fail":
		t.failed++
		fmt.Fprintf(w, "FAIL  %s %s (%.2fs)%s\n", dir, test.name, test.elapsed, reason)
		return printIndented(w, test.output)
	case test.children:
		return nil
	case result == "skip":
		t.skipped++
		_, err := fmt.Fprintf(w, "SKIP  %s %s: %s\n", dir, test.name, skipReason(test.output))
		return err
	default:
		t.passed++
		_, err := fmt.Fprintf(w, "PASS  %s %s (%.2fs)\n", dir, test.name, test.elapsed)
		return err
	}
}

// position is where package testing says that a message comes from.
var position = regexp.MustCompile(`^\S+\.go:\d+: `)

// skipReason is what a skipped test said last, in one line.
func skipReason(output []string) string {
	var reason []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if position.MatchString(line) {
			reason = reason[:0]
		}
		reason = append(reason, position.ReplaceAllString(line, ""))
	}
	if len(reason) == 0 {
		return "no reason given"
	}
	return strings.Join(reason, " ")
}

// parse reads the output of a test binary run with -test.v=test2json. It returns the tests in the order of their start,
// the lines that belong to no test, and whether the binary reported PASS.
func parse(ctx context.Context, path string, log []byte) (tests []*test, output []string, passed bool, err error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", path) // without -t, no durations
	cmd.Stdin = bytes.NewReader(log)
	cmd.Stderr = os.Stderr
	events, err := cmd.Output()
	if err != nil {
		return nil, nil, false, fmt.Errorf("running test2json: %w", err)
	}

	byName := map[string]*test{}
	for dec := json.NewDecoder(bytes.NewReader(events)); ; {
		var ev struct {
			Action, Test, Output string
			Elapsed              float64
		}
		err := dec.Decode(&ev)
		if errors.Is(err, io.EOF) {
			return tests, output, passed, nil
		}
		if err != nil {
			return nil, nil, false, fmt.Errorf("parsing the events of test2json: %w", err)
		}
		if ev.Test == "" {
			switch {
			case ev.Action == "output" && !frame(ev.Output):
				output = append(output, ev.Output)
			case ev.Action == "pass":
				passed = true
			}
			continue
		}
		t := byName[ev.Test]
		if t == nil {
			t = &test{name: ev.Test}
			byName[ev.Test] = t
			tests = append(tests, t)
		}
		switch ev.Action {
		case "output":
			if !frame(ev.Output) {
				t.output = append(t.output, ev.Output)
			}
		case "pass", "fail", "skip":
			t.action, t.elapsed = ev.Action, ev.Elapsed
		}
		for name := ev.Test; strings.Contains(name, "/"); {
			name = name[:strings.LastIndexByte(name, '/')]
			if parent := byName[name]; parent != nil {
				parent.children = true
				parent.failing = parent.failing || ev.Action == "fail"
			}
		}
	}
}

// frame says whether a line of output only repeats what an event says.
func frame(line string) bool {
	line = strings.TrimLeft(line, " ")
	return strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") || line == "PASS\n" || line == "FAIL\n"
}
