// SPDX-License-Identifier: Apache-2.0

// Command startup measures how long tracers take from their start to the first
// event on their terminal, and how much memory they take at the most: rbtrace
// beside others, in turn, in several rounds.
//
//	go run ./scripts/startup -rounds 11 './rbtrace exec' execsnoop
//
// Programs are started in a tight loop all the while. The clock runs from just
// before the tracer's own start until the name of such a program can be read from
// a pseudo-terminal, so that no tracer's output waits in a buffer.
package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 11, "number of rounds")
	flag.Parse()
	if flag.NArg() == 0 || *rounds < 1 {
		fmt.Fprintln(os.Stderr, "usage: startup [-rounds N] 'TRACER [ARG...]'...")
		os.Exit(2)
	}
	if err := run(flag.Args(), *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "startup:", err)
		os.Exit(1)
	}
}

// result is one run of one tracer.
type result struct {
	first  time.Duration
	maxRSS int64 // KiB
}

// marker is the argument of the programs that are started: it shows in any
// tracer's output, whole, and nothing else of this machine has it.
const marker = "rbtrace-startup-marker"

func run(tracers []string, rounds int) error {
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- load(stop) }()

	results := make([][]result, len(tracers))
	for range rounds {
		for i, tracer := range tracers {
			r, err := measure(strings.Fields(tracer))
			if err != nil {
				return fmt.Errorf("%s: %w", tracer, err)
			}
			results[i] = append(results[i], r)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		return err
	}
	fmt.Printf("%-40s %8s %8s %8s  %7s  %10s\n", "TRACER", "MIN", "MEDIAN", "MAX", "RATIO", "MAX RSS")
	for i, tracer := range tracers {
		slices.SortFunc(results[i], func(a, b result) int { return cmp.Compare(a.first, b.first) })
		ms := func(k int) float64 { return results[i][k].first.Seconds() * 1000 }
		rss := slices.MaxFunc(results[i], func(a, b result) int { return cmp.Compare(a.maxRSS, b.maxRSS) }).maxRSS
		median := len(results[i]) / 2
		ratio := results[i][median].first.Seconds() / results[0][len(results[0])/2].first.Seconds()
		fmt.Printf("%-40s %5.1f ms %5.1f ms %5.1f ms  %7.2f  %6.1f MiB\n", tracer, ms(0), ms(median), ms(len(results[i])-1), ratio, float64(rss)/1024)
	}
	return nil
}

// load starts programs until stop is closed.
func load(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(500 * time.Microsecond):
			if err := exec.Command("/bin/true", marker).Run(); err != nil {
				return fmt.Errorf("starting a program to trace: %w", err)
			}
		}
	}
}

func measure(args []string) (result, error) {
	pty, tty, err := openPTY()
	if err != nil {
		return result{}, err
	}
	defer pty.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout = tty
	begin := time.Now()
	err = cmd.Start()
	tty.Close()
	if err != nil {
		return result{}, err
	}
	var seen []byte
	buf := make([]byte, 64<<10)
	for !bytes.Contains(seen, []byte(marker)) {
		n, err := pty.Read(buf)
		if err != nil {
			return result{}, fmt.Errorf("it ended without an event: %w", cmp.Or(cmd.Wait(), err))
		}
		seen = append(seen, buf[:n]...)
	}
	r := result{first: time.Since(begin)}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		return r, err
	}
	for { // until it is gone: a full terminal would keep it
		if _, err := pty.Read(buf); err != nil {
			break
		}
	}
	_ = cmd.Wait() // a tracer's exit status is its own affair
	r.maxRSS = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	return r, nil
}

// openPTY opens both ends of a pseudo-terminal.
func openPTY() (pty, tty *os.File, err error) {
	pty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlocking the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("naming the terminal: %w", err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	return pty, tty, err
}
