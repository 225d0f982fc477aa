// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Suite is a question, and the cases that answer it.
type Suite struct {
	Name  string
	Short string // the question
	// cases returns the cases on a machine of that many CPUs, and what to know about
	// them.
	cases func(o *Options, cpus int) ([]Case, []string)
}

// Suites returns all suites, in the order in which they are best read.
func Suites() []Suite {
	return []Suite{
		{"submit", "reserve and submit against output", submitCases},
		{"wakeup", "the wakeup policies", wakeupCases},
		{"sampled", "a wakeup for one record in 1 to 3000", sampledCases},
		{"size", "records of 8 bytes to 4 KiB, back to back", sizeCases},
		{"ring", "rings of 16 KiB to 16 MiB", ringCases},
		{"producers", "one ring, 1 to as many producers as there are CPUs left", producersCases},
		{"topology", "one ring for all CPUs against one for each", topologyCases},
		{"perf", "ring buffers against the perf buffers that they replaced", perfCases},
	}
}

// base is the case that all suites vary.
func (o *Options) base() Case {
	return Case{
		API: Reserve, Wakeup: Auto, Mode: Parallel,
		RecordSize: o.RecordSize, RingSize: o.RingSize, Producers: 1,
	}
}

// tick is how long a consumer lets records gather where it sets the pace itself.
const tick = time.Millisecond

// oneCPU says what a machine of one CPU means for what is measured.
func oneCPU(cpus int) []string {
	if cpus > 1 {
		return nil
	}
	return []string{"producers and consumer share the only CPU"}
}

func submitCases(o *Options, cpus int) ([]Case, []string) {
	var cases []Case
	for _, mode := range []Mode{Parallel, BackToBack} {
		for _, api := range []API{Reserve, Output} {
			c := o.base()
			c.Name, c.API, c.Mode = string(api), api, mode
			if mode == BackToBack {
				c.Name += ", back to back"
			}
			cases = append(cases, c)
		}
	}
	return cases, oneCPU(cpus)
}

func wakeupCases(o *Options, cpus int) ([]Case, []string) {
	var cases []Case
	add := func(name string, wakeup Wakeup, every int, pace time.Duration) {
		c := o.base()
		c.Name, c.Wakeup, c.Every, c.Pace = name, wakeup, every, pace
		cases = append(cases, c)
	}
	add("auto", Auto, 0, 0)
	add("auto, reader paced 1ms", Auto, 0, tick)
	add("none, timer 1ms", None, 0, tick)
	notes := oneCPU(cpus)
	if c := o.base(); c.wakeable(often) {
		add(fmt.Sprintf("sampled, 1 in %d", often), Sampled, often, 0)
	} else {
		notes = append(notes, leftOut(o, []int{often}))
	}
	add("force", Force, 0, 0)
	return cases, notes
}

// often is the rate of the kernel's own figures.
const often = 500

// wakeable says whether half the ring holds that many records. Where it does not, the
// wakeup would come when the ring is nearly full, or never.
func (c *Case) wakeable(every int) bool { return every*c.space() <= c.RingSize/2 }

func leftOut(o *Options, every []int) string {
	return fmt.Sprintf("left out: 1 in %s: so many records of %d bytes do not fit in half a ring of %d bytes", list(every), o.RecordSize, o.RingSize)
}

func sampledCases(o *Options, cpus int) (cases []Case, notes []string) {
	var without []int
	for _, every := range []int{1, 5, 10, 50, 100, 500, 1000, 2000, 3000} {
		c := o.base()
		if !c.wakeable(every) {
			without = append(without, every)
			continue
		}
		c.Name, c.Wakeup, c.Every = fmt.Sprintf("1 in %d", every), Sampled, every
		cases = append(cases, c)
	}
	notes = oneCPU(cpus)
	if without != nil {
		notes = append(notes, leftOut(o, without))
	}
	return cases, notes
}

// Back to back, as drops would hide what is asked for: the larger the records, the fewer
// fit, and one that finds no room costs its producer less.
func sizeCases(o *Options, cpus int) (cases []Case, notes []string) {
	for _, size := range []int{8, 64, 256, 1024, 4096} {
		for _, api := range []API{Reserve, Output} {
			c := o.base()
			c.Name, c.API, c.RecordSize, c.Mode = fmt.Sprintf("%d bytes, %s", size, api), api, size, BackToBack
			if 4*c.space() <= c.RingSize {
				cases = append(cases, c)
			}
		}
	}
	return cases, oneCPU(cpus)
}

func ringCases(o *Options, cpus int) (cases []Case, notes []string) {
	for _, size := range []int{16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20} {
		c := o.base()
		c.Name, c.RingSize = bytesName(size), size
		if 4*c.space() <= size {
			cases = append(cases, c)
		}
	}
	return cases, oneCPU(cpus)
}

// bytesName writes a size that is a whole number of KiB.
func bytesName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// mostProducers ends the series: the kernel's own figures end there, too.
const mostProducers = 32

func producersCases(o *Options, cpus int) (cases []Case, notes []string) {
	left := max(1, cpus-1)
	for n := 1; n <= min(max(left, 4), mostProducers); n *= 2 {
		c := o.base()
		c.Name, c.Producers = count(n, "producer"), n
		cases = append(cases, c)
	}
	notes = oneCPU(cpus)
	if cpus > 1 && left < 4 {
		notes = append(notes, fmt.Sprintf("more than %s share what the consumer leaves of %s", count(left, "producer"), count(cpus, "CPU")))
	}
	return cases, notes
}

func topologyCases(o *Options, cpus int) (cases []Case, notes []string) {
	many := min(max(2, cpus-1), 8)
	for _, n := range []int{1, many} {
		for _, perCPU := range []bool{false, true} {
			c := o.base()
			c.Producers, c.PerCPU = n, perCPU
			c.Crowded = cpus-1 < many
			if perCPU {
				c.Name = "a ring per CPU, " + count(n, "producer")
			} else {
				c.Name = "one ring, " + count(n, "producer")
			}
			cases = append(cases, c)
		}
	}
	if cpus > 1 && cpus-1 < many {
		notes = append(notes, "the last producer shares the consumer's CPU")
	}
	return cases, append(notes, oneCPU(cpus)...)
}

func perfCases(o *Options, cpus int) (cases []Case, notes []string) {
	for _, mode := range []Mode{Parallel, BackToBack} {
		for _, every := range []int{0, often} {
			for _, api := range []API{Reserve, Perf} {
				c := o.base()
				c.API, c.Mode = api, mode
				c.Name = map[API]string{Reserve: "ring", Perf: "perf"}[api]
				if mode == BackToBack {
					c.Name += ", back to back"
				}
				if every > 0 {
					if !c.wakeable(every) {
						continue
					}
					c.Wakeup, c.Every = Sampled, every
					c.Name += fmt.Sprintf(", 1 in %d", every)
				}
				cases = append(cases, c)
			}
		}
	}
	notes = oneCPU(cpus)
	if c := o.base(); !c.wakeable(often) {
		notes = append(notes, leftOut(o, []int{often}))
	}
	return cases, notes
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// list writes numbers with commas.
func list(numbers []int) string {
	words := make([]string, len(numbers))
	for i, n := range numbers {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ", ")
}
