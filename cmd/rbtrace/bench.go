// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringbench"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

const benchHelp = `Measures on this machine what a BPF ring buffer can do, and what its users must choose
between. The load is that of the kernel's own benchmark (bench ringbufs in its selftests):
programs make records of 8 bytes as fast as they can, and a reader counts them. Suites:

%s
Without a SUITE all are run. The cases of a suite are measured in turn, several times:

  M/S       million records a second that reached the reader: the median of the rounds
  MIN, MAX  the lowest and the highest round
  NS/REC    what a record costs the program that makes it, in ns, dropped ones too
  DROPS     share of the records for which there was no room
  WAKEUPS   times a second that the reader was woken, by a record or a timer

The reader is pinned to the first CPU that this process may use, producers to those after
it; where they are too few, some share. "Back to back" is one thread that makes some
hundred records, reads them, and begins again: no contention, no waiting. Else a producer
does not wait for the reader, so drops say that the reader is slower than the producer,
which no program is that does anything else besides. Do not run much else meanwhile.

JSON has an object for each case, with every round. A suite that this kernel does not
support is refused with the reason, and the exit status is 1. Ctrl-C ends it with what was
measured so far. It takes CAP_BPF and CAP_PERFMON.

What to make of the figures: docs/ringbuf.md.`

// benchFlags are the flags of rbtrace bench, as they were written.
type benchFlags struct {
	rounds     uint
	duration   seconds
	recordSize string
	ringSize   string
	format     string
	plot       string
	verbose    bool
}

func newBench(s streams) *cobra.Command {
	flags := benchFlags{duration: seconds(200 * time.Millisecond)}
	var suites strings.Builder
	var names []string
	for _, suite := range ringbench.Suites() {
		fmt.Fprintf(&suites, "  %-10s %s\n", suite.Name, suite.Short)
		names = append(names, suite.Name)
	}
	cmd := &cobra.Command{
		Use:   "bench [flags] [SUITE...]",
		Short: "Measure what BPF ring buffers cost on this machine",
		Long:  fmt.Sprintf(benchHelp, suites.String()),
		Example: examples([]tracer.Example{
			{Args: "bench", What: "all suites: about a minute"},
			{Args: "bench wakeup --record-size 128", What: "the wakeup policies, for records of 128 bytes"},
			{Args: "bench perf --plot perf.svg", What: "ring buffers and perf buffers, also as a picture"},
			{Args: "bench -o json | jq '[.case, .mrec_per_s]'", What: "for programs"},
		}),
		DisableFlagsInUseLine: true,
		ValidArgs:             names,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.plan(args)
			if err != nil {
				return err
			}
			return (&benchRun{streams: s, benchPlan: p}).run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.UintVar(&flags.rounds, "rounds", 5, "measure each case `N` times")
	f.VarP(&flags.duration, "duration", "d", "`TIME` of one measurement: seconds, or 200ms")
	f.StringVar(&flags.recordSize, "record-size", "8", "`SIZE` of the records, without their header: a multiple of 8, 4K at the most")
	f.StringVar(&flags.ringSize, "buffer-size", "512K", "`SIZE` of the ring buffer, and of a CPU's perf buffer: a power of two")
	f.StringVarP(&flags.format, "output", "o", string(output.FormatTable), "`FORMAT`: table or json (an object a line)")
	f.StringVar(&flags.plot, "plot", "", "also draw the results into `FILE`, which ends in .svg or .html")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "print each measurement to standard error")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this file
	}
	if err := cmd.MarkFlagFilename("plot", "svg", "html"); err != nil {
		panic(err)
	}
	return cmd
}

// benchPlan is what the command line asks for, checked.
type benchPlan struct {
	suites  []ringbench.Suite
	opts    ringbench.Options
	format  output.Format
	plot    string
	verbose bool
}

func (f *benchFlags) plan(args []string) (p benchPlan, err error) {
	all := ringbench.Suites()
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
		if len(args) == 0 || slices.Contains(args, s.Name) {
			p.suites = append(p.suites, s)
		}
	}
	for _, arg := range args {
		if !slices.Contains(names, arg) {
			return p, usagef("unknown suite %q: want some of %s", arg, strings.Join(names, ", "))
		}
	}
	if p.format, err = output.ParseFormat(f.format); err != nil {
		return p, usagef("--output: %w", err)
	}
	if f.rounds == 0 || f.rounds > 1000 {
		return p, usagef("--rounds: want 1 to 1000")
	}
	if f.duration < seconds(time.Millisecond) {
		return p, usagef("--duration: must be 1ms or more")
	}
	size, err := parseSize(f.recordSize)
	if err != nil {
		return p, usagef("--record-size: %w", err)
	}
	if size == 0 || size%8 != 0 || size > ringbench.MaxRecordSize {
		return p, usagef("--record-size: %d: want a multiple of 8, up to %d", size, ringbench.MaxRecordSize)
	}
	ring, err := parseRingSize(f.ringSize)
	if err != nil {
		return p, usagef("--buffer-size: %w", err)
	}
	if uint64(ring) < 4*(size+8) {
		return p, usagef("--buffer-size: %s is too small for records of %d bytes", formatSize(uint64(ring)), size)
	}
	if ext := filepath.Ext(f.plot); f.plot != "" && ext != ".svg" && ext != ".html" {
		return p, usagef("--plot: want a file that ends in .svg or .html")
	}
	p.opts = ringbench.Options{
		Rounds: int(f.rounds), Duration: time.Duration(f.duration),
		RecordSize: int(size), RingSize: int(ring),
	}
	p.plot, p.verbose = f.plot, f.verbose
	return p, nil
}

// benchRun is one run of rbtrace bench.
type benchRun struct {
	streams
	benchPlan
	report  ringbench.Report
	status  bool // a line that shows the progress stands on the terminal
	done    int
	total   int
	refused error
}

func (r *benchRun) run(ctx context.Context) (err error) {
	if err := kernel.CheckCapabilities(); err != nil {
		return err
	}
	// Before measuring, as it would be a pity afterwards.
	var file *os.File
	if r.plot != "" {
		if file, err = os.OpenFile(r.plot, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
			return fmt.Errorf("--plot: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer watchSignals(end)()
	defer context.AfterFunc(ctx, r.hurry)()

	r.report.Machine = ringbench.ThisMachine()
	r.report.Options = r.opts
	r.opts.Progress = r.progress
	runErr := ringbench.Run(ctx, r.suites, &r.opts, r.show)
	r.clear()
	if errors.Is(runErr, context.Canceled) && ctx.Err() != nil {
		runErr = nil
		fmt.Fprintf(r.Err, "rbtrace: interrupted after %d of %d measurements\n", r.done, r.total)
	}
	if errors.Is(runErr, unix.EPIPE) { // its reader has seen enough
		return nil
	}
	if runErr == nil && file != nil && len(r.report.Suites) > 0 {
		runErr = r.draw(file)
	}
	return errors.Join(runErr, r.refused)
}

// progress shows how far it has come.
func (r *benchRun) progress(p ringbench.Progress) {
	r.done, r.total = p.Done, p.Total
	switch {
	case r.verbose && p.Last != nil:
		fmt.Fprintf(r.Err, "rbtrace: %d/%d: %s: %s: round %d of %d: %s million records/s\n",
			p.Done, p.Total, p.Suite, p.Case, p.Round, p.Rounds, ringbench.FormatFigure(p.Last.Rate()/1e6))
	case !r.verbose && p.Last == nil && isTerminal(r.Err):
		fmt.Fprintf(r.Err, "\r\x1b[K%3d %%  %s: %s, round %d of %d, %v left",
			100*p.Done/p.Total, p.Suite, p.Case, p.Round, p.Rounds, p.Left.Round(time.Second))
		r.status = true
	}
}

// clear takes the line of the progress away.
func (r *benchRun) clear() {
	if r.status {
		fmt.Fprint(r.Err, "\r\x1b[K")
		r.status = false
	}
}

// isTerminal says whether w is a terminal.
func isTerminal(w any) bool {
	s, ok := w.(*output.Stream)
	return ok && term.IsTerminal(int(s.Fd()))
}

// show shows what a suite gave.
func (r *benchRun) show(result *ringbench.SuiteResult) error {
	r.clear()
	if result.Err != nil {
		r.refused = errors.Join(r.refused, fmt.Errorf("suite %s: %w", result.Suite.Name, result.Err))
	}
	if len(result.Results) == 0 {
		return nil
	}
	r.report.Suites = append(r.report.Suites, *result)
	var b bytes.Buffer
	if r.format == output.FormatJSON {
		if err := encodeBench(&b, r.report.Machine, result.Results); err != nil {
			return err
		}
	} else {
		if len(r.report.Suites) == 1 {
			fmt.Fprintf(&b, "%s\n", r.report.Subtitle())
		}
		fmt.Fprintf(&b, "\n%s: %s\n\n", result.Suite.Name, result.Suite.Short)
		if err := renderBench(&b, result.Results); err != nil {
			return err
		}
		if isTerminal(r.Out) {
			b.WriteString("\n")
			b.Write(ringbench.AppendBars(nil, result, 80))
		}
		for _, note := range result.Notes {
			fmt.Fprintf(&b, "Note: %s.\n", note)
		}
	}
	_, err := r.Out.Write(b.Bytes())
	return err
}

// renderBench renders a table of results, at most 80 columns wide.
func renderBench(w *bytes.Buffer, results []ringbench.Result) error {
	align := tw.CellAlignment{PerColumn: []tw.Align{tw.AlignLeft, tw.AlignRight, tw.AlignRight, tw.AlignRight, tw.AlignRight, tw.AlignRight, tw.AlignRight}}
	table := tablewriter.NewTable(w, append(plainTable(),
		tablewriter.WithHeaderAlignmentConfig(align), tablewriter.WithRowAlignmentConfig(align))...)
	table.Header("CASE", "M/S", "MIN", "MAX", "NS/REC", "DROPS", "WAKEUPS")
	for i := range results {
		r := &results[i]
		rate := r.Over((*ringbench.Round).Rate)
		if err := table.Append(r.Case.Name,
			ringbench.FormatFigure(rate.Median/1e6), ringbench.FormatFigure(rate.Min/1e6), ringbench.FormatFigure(rate.Max/1e6),
			ringbench.FormatFigure(r.Over((*ringbench.Round).Cost).Median),
			ringbench.FormatShare(r.DropRatio()),
			strconv.FormatFloat(r.Over((*ringbench.Round).WakeupRate).Median, 'f', 0, 64),
		); err != nil {
			return err
		}
	}
	return table.Render()
}

// benchJSON is a case, as programs read it.
type benchJSON struct {
	Type         string      `json:"type"` // "bench"
	Suite        string      `json:"suite"`
	Case         string      `json:"case"`
	API          string      `json:"api"`
	Mode         string      `json:"mode"`
	Wakeup       string      `json:"wakeup"`
	NotifyEvery  int         `json:"notify_every"` // records; 0 but where wakeup is sampled
	PaceNS       int64       `json:"pace_ns"`
	RecordSize   int         `json:"record_size"`
	RingSize     int         `json:"ring_size"`
	Producers    int         `json:"producers"`
	PerCPU       bool        `json:"per_cpu"`
	ConsumerCPU  int         `json:"consumer_cpu"`
	ProducerCPUs []int       `json:"producer_cpus"`
	Rate         float64     `json:"mrec_per_s"`
	RateMin      float64     `json:"mrec_per_s_min"`
	RateMax      float64     `json:"mrec_per_s_max"`
	Cost         float64     `json:"producer_ns_per_record"`
	CostMin      float64     `json:"producer_ns_per_record_min"`
	CostMax      float64     `json:"producer_ns_per_record_max"`
	ConsumerCost float64     `json:"consumer_cpu_ns_per_record"`
	DropRatio    float64     `json:"drop_ratio"`
	Wakeups      float64     `json:"wakeups_per_s"`
	Rounds       []roundJSON `json:"rounds"`
	Kernel       string      `json:"kernel"`
	CPU          string      `json:"cpu"`
	CPUs         int         `json:"cpus"`
}

// roundJSON is one measurement.
type roundJSON struct {
	ElapsedNS     int64  `json:"elapsed_ns"`
	Attempts      uint64 `json:"attempts"`
	Consumed      uint64 `json:"consumed"`
	Dropped       uint64 `json:"dropped"`
	ProducerNS    int64  `json:"producer_ns"`
	ConsumerCPUNS int64  `json:"consumer_cpu_ns"`
	Wakeups       uint64 `json:"wakeups"`
}

func encodeBench(w *bytes.Buffer, machine ringbench.Machine, results []ringbench.Result) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range results {
		r := &results[i]
		c := &r.Case
		rate, cost := r.Over((*ringbench.Round).Rate), r.Over((*ringbench.Round).Cost)
		object := benchJSON{
			Type: "bench", Suite: r.Suite, Case: c.Name,
			API: string(c.API), Mode: string(c.Mode), Wakeup: string(c.Wakeup), NotifyEvery: c.Every, PaceNS: int64(c.Pace),
			RecordSize: c.RecordSize, RingSize: c.RingSize, Producers: c.Producers, PerCPU: c.PerCPU || c.API == ringbench.Perf,
			ConsumerCPU: r.ConsumerCPU, ProducerCPUs: r.ProducerCPUs,
			Rate: thousandths(rate.Median / 1e6), RateMin: thousandths(rate.Min / 1e6), RateMax: thousandths(rate.Max / 1e6),
			Cost: thousandths(cost.Median), CostMin: thousandths(cost.Min), CostMax: thousandths(cost.Max),
			ConsumerCost: thousandths(r.Over((*ringbench.Round).ConsumerCost).Median),
			DropRatio:    r.DropRatio(), Wakeups: thousandths(r.Over((*ringbench.Round).WakeupRate).Median),
			Kernel: machine.Kernel, CPU: machine.CPU, CPUs: machine.CPUs,
		}
		for _, m := range r.Rounds {
			object.Rounds = append(object.Rounds, roundJSON{
				ElapsedNS: int64(m.Elapsed), Attempts: m.Attempts, Consumed: m.Consumed, Dropped: m.Dropped,
				ProducerNS: int64(m.Busy), ConsumerCPUNS: int64(m.ConsumerCPU), Wakeups: m.Wakeups,
			})
		}
		if err := enc.Encode(object); err != nil {
			return err
		}
	}
	return nil
}

// thousandths leaves three digits behind the point: the others say nothing.
func thousandths(v float64) float64 { return math.Round(v*1000) / 1000 }

// draw writes the plot.
func (r *benchRun) draw(file *os.File) error {
	picture := r.report.AppendSVG(nil)
	if filepath.Ext(r.plot) == ".html" {
		picture = r.report.AppendHTML(nil)
	}
	if err := file.Truncate(0); err != nil && !errors.Is(err, unix.EINVAL) { // not a file, but /dev/stdout, say
		return fmt.Errorf("writing the plot: %w", err)
	}
	if _, err := file.Write(picture); err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}
