// SPDX-License-Identifier: Apache-2.0

// Command overhead measures, for each tracer, how long it takes from its start to its
// first event, and what a traced call takes longer than one that is not.
//
//	go run ./scripts/overhead -rounds 5 ./rbtrace [TRACER...]
//
// A process makes one kind of call over and over. In each round it makes many that
// nobody traces, before and after; in between rbtrace is started while calls go on, until its
// first event can be read; then it makes as many again; and at last some more while the kernel measures
// the programs (bpf_enable_stats), which makes them slower and so is no part of the
// rest. Where a workload says how many events a call makes, the ledger must have them
// all. The output is a table in Markdown, of medians.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/probes"
)

func main() {
	if os.Args[0] == callerName {
		exit(call(os.Args[1]))
	}
	rounds := flag.Int("rounds", 5, "number of rounds")
	flag.Parse()
	if flag.NArg() == 0 || *rounds < 1 {
		fmt.Fprintln(os.Stderr, "usage: overhead [-rounds N] RBTRACE [TRACER...]")
		os.Exit(2)
	}
	exit(run(flag.Arg(0), flag.Args()[1:], *rounds))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// result is one round, or the medians of several.
type result struct {
	first            time.Duration
	untraced, traced float64 // ns, of a call
	program          float64 // ns, of all programs for a call
	hits             float64 // of a call
}

func run(rbtrace string, only []string, rounds int) error {
	fmt.Println("| tracer | a call | untraced | traced | more | programs | hits | first event |")
	fmt.Println("|---|---|---:|---:|---:|---:|---:|---:|")
	for _, t := range probes.All() {
		if len(only) > 0 && !slices.Contains(only, t.Name) {
			continue
		}
		w, ok := workloads[t.Name]
		if !ok {
			return fmt.Errorf("there is no workload for %s", t.Name)
		}
		if w.make == nil {
			fmt.Printf("| %s | %s | | | | | | |\n", t.Name, w.what)
			continue
		}
		var results []result
		for range rounds {
			r, err := measure(rbtrace, t.Name, w)
			if errors.Is(err, errNoHook) {
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
			results = append(results, r)
		}
		if len(results) == 0 {
			fmt.Printf("| %s | no hook works on this kernel | | | | | | |\n", t.Name)
			continue
		}
		median := func(of func(result) float64) float64 {
			var values []float64
			for _, r := range results {
				values = append(values, of(r))
			}
			slices.Sort(values)
			return values[len(values)/2]
		}
		first := ""
		if !w.silent {
			first = fmt.Sprintf("%.0f ms", median(func(r result) float64 { return r.first.Seconds() * 1000 }))
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %.0f | %s |\n", t.Name, w.what,
			ns(median(func(r result) float64 { return r.untraced })),
			ns(median(func(r result) float64 { return r.traced })),
			ns(median(func(r result) float64 { return r.traced - r.untraced })),
			ns(median(func(r result) float64 { return r.program })),
			median(func(r result) float64 { return r.hits }), first)
	}
	return nil
}

// ns writes a time with three digits or so.
func ns(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.1f ms", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f µs", v/1e3)
	}
	return fmt.Sprintf("%.0f ns", v)
}

// caller is the process that makes the calls.
type caller struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startCaller(tracer string) (*caller, error) {
	c := &caller{cmd: &exec.Cmd{Path: "/proc/self/exe", Args: []string{callerName, tracer}, Stderr: os.Stderr}}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// calls makes n calls and returns what one takes, in ns.
func (c *caller) calls(n int) (float64, error) {
	if _, err := fmt.Fprintln(c.in, n); err != nil {
		return 0, err
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the caller has ended: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(line), 64)
}

func (c *caller) end() error {
	c.in.Close()
	return c.cmd.Wait()
}

var errNoHook = errors.New("no hook of it works on this kernel")

// measure is one round.
func measure(rbtrace, tracer string, w workload) (r result, err error) {
	c, err := startCaller(tracer)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	made := 0 // calls while it was traced
	if _, err := c.calls(w.calls / 10); err != nil {
		return r, err
	}
	if r.untraced, err = c.calls(w.calls); err != nil {
		return r, err
	}

	args := []string{tracer, "-o", "json", "--buffer-size", "16M"}
	if !w.machine {
		args = append(args, "-p", strconv.Itoa(c.cmd.Process.Pid))
	}
	if w.library {
		args = append(args, "--lib", libraryPath(os.Getpid()))
	}
	cmd := exec.Command(rbtrace, append(args, w.args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return r, err
	}
	first, drained := make(chan time.Duration, 1), make(chan struct{})
	go func() {
		defer close(drained)
		var b [1]byte
		if _, err := io.ReadFull(out, b[:]); err == nil {
			first <- time.Since(begin)
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	for waiting := true; waiting; {
		if _, err := c.calls(1); err != nil {
			return r, err
		}
		select {
		case r.first = <-first:
			waiting = false
		case <-drained:
			_ = cmd.Wait()
			if strings.Contains(stderr.String(), "cannot be traced on this kernel") {
				return r, errNoHook
			}
			return r, fmt.Errorf("rbtrace has ended: %s", stderr.String())
		case <-time.After(200 * time.Microsecond):
		}
		if w.silent && time.Since(begin) > 200*time.Millisecond {
			waiting = false
		}
	}
	if r.traced, err = c.calls(w.calls); err != nil {
		return r, err
	}
	made += w.calls

	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return r, err
	}
	defer stats.Close() // for the second time, where all is well
	before, err := hits(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	if _, err = c.calls(w.calls); err != nil {
		return r, err
	}
	made += w.calls
	after, err := hits(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	r.hits = (after.count - before.count) / float64(w.calls)
	r.program = (after.time - before.time) / float64(w.calls)

	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		return r, err
	}
	<-drained
	if err := cmd.Wait(); err != nil {
		return r, fmt.Errorf("rbtrace: %w: %s", err, stderr.String())
	}
	if err := stats.Close(); err != nil {
		return r, err
	}
	untraced, err := c.calls(w.calls)
	if err != nil {
		return r, err
	}
	r.untraced = (r.untraced + untraced) / 2
	m := printed.FindStringSubmatch(stderr.String())
	if m == nil {
		return r, fmt.Errorf("no ledger in %s", stderr.String())
	}
	if events, err := strconv.Atoi(m[1]); err != nil || events < made*w.events {
		return r, fmt.Errorf("%d events of %d calls: %s", events, made, stderr.String())
	}
	return r, nil
}

var printed = regexp.MustCompile(`submitted = (\d+) printed`)

// run is what programs have been up to.
type ran struct{ time, count float64 }

// hits adds up what the kernel counted of all programs that a process holds, while it
// was told to.
func hits(pid int) (all ran, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		return all, err
	}
	seen := make(map[string]bool)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // closed in between
		}
		of := make(map[string]string)
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok {
				of[key] = strings.TrimSpace(value)
			}
		}
		if of["run_cnt"] == "" || seen[of["prog_id"]] {
			continue
		}
		seen[of["prog_id"]] = true
		time, terr := strconv.ParseFloat(of["run_time_ns"], 64)
		count, cerr := strconv.ParseFloat(of["run_cnt"], 64)
		if err := errors.Join(terr, cerr); err != nil {
			return all, err
		}
		all.time += time
		all.count += count
	}
	return all, nil
}
