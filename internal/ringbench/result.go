// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"bufio"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

// Round is one measurement.
type Round struct {
	Elapsed     time.Duration // from the first record until all are consumed
	Attempts    uint64        // Consumed + Dropped
	Consumed    uint64
	Dropped     uint64        // found no room
	Busy        time.Duration // of all producers, in the program: the sum
	Wakeups     uint64        // times that the consumer slept and was woken, by a record or a timer
	ConsumerCPU time.Duration // of the consumer's thread; back to back, that is the producer's too
}

// Rate is the records consumed in a second.
func (r *Round) Rate() float64 { return ratio(float64(r.Consumed), r.Elapsed.Seconds()) }

// Cost is the time that an attempt took a producer, in ns. Those that found no room
// count as well.
func (r *Round) Cost() float64 { return ratio(float64(r.Busy), float64(r.Attempts)) }

// WakeupRate is the wakeups in a second.
func (r *Round) WakeupRate() float64 { return ratio(float64(r.Wakeups), r.Elapsed.Seconds()) }

// ConsumerCost is the CPU time of the consumer for a record, in ns.
func (r *Round) ConsumerCost() float64 { return ratio(float64(r.ConsumerCPU), float64(r.Consumed)) }

// ratio is a/b, and 0 where there is no b.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Result is what a case gave.
type Result struct {
	Suite        string
	Case         Case
	ConsumerCPU  int
	ProducerCPUs []int // of each producer
	Rounds       []Round
}

// Summary is the spread of a figure over the rounds.
type Summary struct{ Median, Min, Max float64 }

// Summarize returns the spread of values, all zero where there are none. The median of
// an even number is the mean of the two in the middle.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Summary{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}

// Over summarizes a figure of the rounds, such as (*Round).Rate.
func (r *Result) Over(figure func(*Round) float64) Summary {
	values := make([]float64, len(r.Rounds))
	for i := range r.Rounds {
		values[i] = figure(&r.Rounds[i])
	}
	return Summarize(values)
}

// DropRatio is the share of the attempts of all rounds that found no room, 0 to 1.
func (r *Result) DropRatio() float64 {
	var dropped, attempts uint64
	for _, m := range r.Rounds {
		dropped += m.Dropped
		attempts += m.Attempts
	}
	return ratio(float64(dropped), float64(attempts))
}

// Machine is what the figures are of.
type Machine struct {
	Kernel string // the release
	CPU    string // the model, where the kernel tells, else the architecture
	CPUs   int    // that this process may use
}

// ThisMachine describes this machine.
func ThisMachine() Machine {
	m := Machine{Kernel: kernel.Release(), CPU: runtime.GOARCH, CPUs: runtime.NumCPU()}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.Join(strings.Fields(value), " ")
			break
		}
	}
	return m
}

// String describes the machine in one line.
func (m Machine) String() string {
	return "Linux " + m.Kernel + ", " + count(m.CPUs, "CPU") + ", " + m.CPU
}
