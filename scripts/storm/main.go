// SPDX-License-Identifier: Apache-2.0

// Command storm measures what tracers of opened files cost while one process opens
// and closes a file as fast as it can: how much they slow it down, the CPU time that
// they take themselves for each event, and how many events they lose. The tracers
// take turns, in several rounds. Right before and after each traced storm is one that
// nobody traces, and each waits for a calm moment, as a machine's other work makes a
// call slower than any tracer does.
//
//	go run ./scripts/storm -rounds 5 './rbtrace open -o json' opensnoop
//
// With -callers or -loops the machine is busy on purpose: many processes open the file,
// and others do nothing but take the processors.
//
// Each tracer writes to a file. Its start is not part of any figure.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The goals, for the first tracer.
const (
	maxSlowdown = 2.0
	minTimesCPU = 3.0 // what the others take of the CPU for an event
)

// The argv[0] of the processes that make the storm, and of those that change a BPF map.
const (
	callerName  = "storm-caller"
	changerName = "storm-changer"
)

func main() {
	if os.Args[0] == callerName {
		exit(storm(os.Args[1:]))
	}
	if os.Args[0] == changerName {
		exit(change())
	}
	rounds := flag.Int("rounds", 5, "number of rounds")
	calls := flag.Int("calls", 500_000, "files opened in each storm by each caller")
	callers := flag.Int("callers", 1, "processes that open the file; more than one run on any processor")
	loops := flag.Int("loops", 0, "endless loops beside them")
	changes := flag.Int("changes", 0, "processes beside them that change a BPF map all the time: the kernel runs no program of a probe on such a CPU meanwhile")
	same := flag.Int("same", 1, "the first N tracers are those that the goals are for")
	wait := flag.Duration("calm", 20*time.Second, "how long to wait for a calm moment before each storm")
	flag.Parse()
	if flag.NArg() < max(*same, 1) || *rounds < 1 || *calls < 1 || *callers < 1 || *loops < 0 || *changes < 0 || *same < 1 {
		fmt.Fprintln(os.Stderr, "usage: storm [-rounds N] [-calls N] [-callers N] [-loops N] [-changes N] [-same N] 'TRACER [ARG...]'...")
		os.Exit(2)
	}
	s := storms{calls: *calls, callers: *callers, loops: *loops, changes: *changes, calm: *wait}
	exit(s.run(flag.Args(), *rounds, *same))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// storm is a caller. It waits for its standard input to end, and prints what a call
// took, in ns.
func storm(args []string) error {
	path := args[0]
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if alone := args[2] == "1"; alone {
		// On the last CPU, so that the scheduler does not decide the outcome; the
		// tracers run where they like.
		var cpus unix.CPUSet
		cpus.Set(runtime.NumCPU() - 1)
		if err := unix.SchedSetaffinity(0, &cpus); err != nil {
			return fmt.Errorf("staying on one CPU: %w", err)
		}
	}
	debug.SetGCPercent(-1)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	begin := time.Now()
	if err := openAndClose(path, n); err != nil {
		return err
	}
	_, err = fmt.Println(float64(time.Since(begin).Nanoseconds()) / float64(n))
	return err
}

// change changes a map for ever.
func change() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "storm", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1024})
	if err != nil {
		return fmt.Errorf("creating a map: %w", err)
	}
	for i := uint32(0); ; i++ {
		if err := m.Put(i%1024, uint64(i)); err != nil {
			return fmt.Errorf("changing the map: %w", err)
		}
	}
}

// result is what one storm showed, or the medians of several.
type result struct {
	call     float64 // ns, of a caller
	untraced float64 // the same, with no tracer: the mean of before and after
	cpu      float64 // ns of the tracer, for each event seen
	seen     float64
}

// storms are what all rounds have in common.
type storms struct {
	file    string // to be opened
	calls   int    // of each caller
	callers int
	loops   int
	changes int
	calm    time.Duration
}

func (s *storms) run(tracers []string, rounds, same int) error {
	dir, err := os.MkdirTemp("", "storm") // short: bpftrace shows 64 bytes of a path
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.file = filepath.Join(dir, "opened")
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		return err
	}
	others := slices.Concat(
		slices.Repeat([][]string{{"sh", "-c", "while :; do :; done"}}, s.loops),
		slices.Repeat([][]string{{changerName}}, s.changes))
	for _, args := range others {
		cmd := &exec.Cmd{Path: "/bin/sh", Args: args}
		if args[0] == changerName {
			cmd.Path = "/proc/self/exe"
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		s.calm = 0 // there will be no calm moment
	}
	results := make([][]result, len(tracers))
	before, err := s.call()
	if err != nil {
		return err
	}
	for range rounds {
		for i, tracer := range tracers {
			r, err := s.measure(strings.Fields(tracer))
			if err != nil {
				return fmt.Errorf("%s: %w", tracer, err)
			}
			after, err := s.call()
			if err != nil {
				return err
			}
			r.untraced = (before + after) / 2
			before = after
			results[i] = append(results[i], r)
		}
	}
	report(tracers, results, float64(s.calls*s.callers), same)
	return nil
}

func report(tracers []string, results [][]result, calls float64, same int) {
	medians := make([]result, len(tracers))
	slowdowns := make([]float64, len(tracers))
	fmt.Printf("%-32s %9s %9s %9s %14s %9s %10s\n", "TRACER", "UNTRACED", "TRACED", "SLOWDOWN", "CPU PER EVENT", "LOST", "AT MOST")
	for i, r := range results {
		medians[i] = result{
			call:     median(r, func(r result) float64 { return r.call }),
			untraced: median(r, func(r result) float64 { return r.untraced }),
			cpu:      median(r, func(r result) float64 { return r.cpu }),
			seen:     median(r, func(r result) float64 { return r.seen }),
		}
		slowdowns[i] = median(r, func(r result) float64 { return r.call / r.untraced })
		fewest := slices.MinFunc(r, func(a, b result) int { return int(a.seen - b.seen) }).seen
		fmt.Printf("%-32s %6.0f ns %6.0f ns %9.2f %11.0f ns %9.0f %10.0f\n", tracers[i],
			medians[i].untraced, medians[i].call, slowdowns[i], medians[i].cpu, calls-medians[i].seen, calls-fewest)
	}
	for i := range same {
		fmt.Printf("%s: lost %.0f, goal none: %s\n", tracers[i], calls-medians[i].seen, outcome(medians[i].seen >= calls))
		fmt.Printf("%s: slowdown %.2f, goal at most %.0f: %s\n", tracers[i], slowdowns[i], maxSlowdown, outcome(slowdowns[i] <= maxSlowdown))
		for j := same; j < len(tracers); j++ {
			times := medians[j].cpu / medians[i].cpu
			fmt.Printf("%s: CPU per event of %s / its own %.1f, goal more than %.0f: %s\n",
				tracers[i], tracers[j], times, minTimesCPU, outcome(times > minTimesCPU))
		}
	}
}

func outcome(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

func median(results []result, of func(result) float64) float64 {
	var values []float64
	for _, r := range results {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// call waits for a calm moment, has the file opened so many times, and returns how
// long a call took, in ns: the mean of all callers.
func (s *storms) call() (mean float64, err error) {
	if err := calm(s.calm); err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	var callers []*exec.Cmd
	outs := make([]bytes.Buffer, s.callers)
	for i := range outs {
		c := exec.Command("/proc/self/exe")
		c.Args = []string{callerName, s.file, strconv.Itoa(s.calls), strconv.Itoa(s.callers)}
		c.Stdin, c.Stdout, c.Stderr = r, &outs[i], os.Stderr
		if err = c.Start(); err != nil {
			break
		}
		callers = append(callers, c)
	}
	r.Close()
	w.Close() // they begin
	for i, c := range callers {
		if werr := c.Wait(); werr != nil {
			err = errors.Join(err, fmt.Errorf("calling: %w", werr))
			continue
		}
		took, perr := strconv.ParseFloat(strings.TrimSpace(outs[i].String()), 64)
		err = errors.Join(err, perr)
		mean += took / float64(s.callers)
	}
	return mean, err
}

// measure has the file opened while a tracer runs.
func (s *storms) measure(args []string) (r result, err error) {
	out, err := os.CreateTemp(filepath.Dir(s.file), "out")
	if err != nil {
		return r, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	var says bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, &says
	if err := cmd.Start(); err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			err = fmt.Errorf("%w\n%s", err, says.Bytes())
		}
	}()
	before, err := quiet(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	if r.call, err = s.call(); err != nil {
		return r, err
	}
	after, err := quiet(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		return r, err
	}
	_ = cmd.Wait() // a tracer's exit status is its own affair
	seen, err := count(out.Name(), s.file)
	if err != nil {
		return r, err
	}
	if seen == 0 {
		return r, errors.New("it shows none of the calls")
	}
	r.seen = float64(seen)
	r.cpu = float64((after - before).Nanoseconds()) / r.seen
	return r, nil
}

// quiet waits until a process does next to nothing, because it has started or has
// done its work, but no longer than 20 s, and returns the CPU time that it has taken.
func quiet(pid int) (time.Duration, error) {
	const (
		look   = 400 * time.Millisecond
		little = 8 * time.Millisecond // others open files as well
	)
	last := time.Duration(-1)
	for range 50 {
		// clock_getcpuclockid(3): of all threads, those that are gone too, in ns.
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("asking for its CPU time: %w", err)
		}
		now := time.Duration(t.Nano())
		if last >= 0 && now-last < little {
			return now, nil
		}
		last = now
		time.Sleep(look)
	}
	fmt.Println("(other programs open many files: CPU PER EVENT has them too)")
	return last, nil
}

// calm waits until the machine has next to nothing else to do, but no longer than
// that.
func calm(most time.Duration) error {
	const (
		look   = 200 * time.Millisecond
		little = 0.1 // of one CPU
	)
	if most == 0 {
		return nil
	}
	before, err := idle()
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		if err != nil {
			return err
		}
		begin := time.Now()
		time.Sleep(look)
		var now time.Duration
		now, err = idle()
		busy := float64(runtime.NumCPU()) - float64(now-before)/float64(time.Since(begin))
		if err == nil && busy < little {
			return nil
		}
		before = now
	}
	fmt.Println("(the machine is busy)")
	return err
}

// idle returns how long all CPUs together have had nothing to do.
func idle() (time.Duration, error) {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	var up, idle float64
	if _, err := fmt.Sscan(string(b), &up, &idle); err != nil {
		return 0, fmt.Errorf("reading /proc/uptime: %w", err)
	}
	return time.Duration(idle * float64(time.Second)), nil
}

// count returns how many lines of a tracer's output are about file.
func count(output, file string) (n int, err error) {
	f, err := os.Open(output)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(file)) {
			n++
		}
	}
	return n, lines.Err()
}
