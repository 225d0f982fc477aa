// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/capture"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

func newReplay(s streams) *cobra.Command {
	var flags traceFlags
	cmd := &cobra.Command{
		Use:   "replay [flags] FILE",
		Short: "Show what was recorded with --write",
		Long: `Shows a recording that a tracer has made with --write, as if its events happened now:
filters, columns and output are those of the tracer. It takes no privileges, and the
machine may be another one, of either architecture. FILE may be -, for standard input.

At the end comes the ledger of the recording, so what was lost then is lost now. A
recording that is cut or damaged is shown as far as it can be read, and where it
cannot is said. Users are looked up on this machine: give --uid a number if the
recording comes from another.

Exit status: 0 all that was recorded was shown, and nothing had been lost; 1 error, and
a recording that is cut or damaged; 2 usage error; 3 events had been lost.`,
		Example: examples([]tracer.Example{
			{Args: "replay night.rbt", What: "as the tracer would have shown it"},
			{Args: "replay night.rbt -u 33 -o json | jq .args", What: "what a user ran"},
			{Args: "exec -w - | tee now.rbt | rbtrace replay -", What: "record, and watch at once"},
		}),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want one recording, or - for standard input")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			run := &replayRun{
				traceRun: traceRun{streams: s, flags: &flags, changed: cmd.Flags().Changed},
				name:     args[0],
			}
			return run.run(cmd.Context())
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // files
		},
	}
	flags.registerReplay(cmd.Flags())
	for name, values := range map[string][]string{"output": {"table", "json"}, "time": field.TimeModes()} {
		f := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
		if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // no such flag: a mistake in this file
		}
	}
	return cmd
}

// registerReplay registers those of the flags of all tracers that make sense for
// a recording. The others keep their defaults.
func (f *traceFlags) registerReplay(flags *pflag.FlagSet) {
	flags.SortFlags = false
	f.replay = true
	params := make(map[string]*string)
	for _, t := range probes.All() {
		all := pflag.NewFlagSet(t.Name, pflag.ContinueOnError)
		f.register(all, t)
		for _, p := range t.Params {
			if flags.Lookup(p.Name) == nil && p.Column != "" {
				flag := *all.Lookup(p.Name)
				flag.Usage = "of " + t.Name + ": " + flag.Usage
				flags.AddFlag(&flag)
				params[p.Name] = f.params[p.Name]
			}
		}
		for _, name := range []string{"pid", "tid", "ppid", "uid", "comm", "filter", "max-events", "output", "columns", "no-header", "time"} {
			if flags.Lookup(name) == nil {
				flags.AddFlag(all.Lookup(name))
			}
		}
	}
	f.params = params
}

// replayRun is one run of replay.
type replayRun struct {
	traceRun
	name string

	reader  *capture.Reader
	damages int  // parts that could not be read
	cut     bool // the end is missing
}

func (r *replayRun) run(ctx context.Context) error {
	in := os.Stdin
	if r.name != "-" {
		f, err := os.Open(r.name)
		if err != nil {
			return fmt.Errorf("opening the recording: %w", err)
		}
		defer f.Close()
		in = f
	} else if term.IsTerminal(int(in.Fd())) {
		return usagef("standard input is a terminal: name a recording, or send one here")
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer watchSignals(end)()
	// A signal leaves a recording that comes through a pipe to end by itself, as Ctrl-C has
	// ended whoever makes it, too.
	if in == os.Stdin {
		ctx = context.WithoutCancel(ctx)
	}

	defer context.AfterFunc(ctx, r.hurry)()

	var err error
	if r.reader, err = capture.Open(in); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	if err := r.findTracers(); err != nil {
		return err
	}
	p, err := r.plan()
	if err != nil {
		return err
	}
	r.introduce()

	p.consume.Keep, p.consume.Enough = r.keep(p), r.hurry
	events := consumer.NewReplay(r.tracers, p.columns, p.style, r.reader.Meta.CPUs, p.consume)
	sink, err := r.sink(p, events)
	if err == nil {
		err = events.Replay(ctx, r, sink)
	}
	return r.settle(events, err)
}

// findTracers finds those that made the recording.
func (r *replayRun) findTracers() error {
	meta := &r.reader.Meta
	for i := range meta.Tracers {
		recorded := &meta.Tracers[i]
		all := probes.All()
		at := slices.IndexFunc(all, func(t *tracer.Tracer) bool { return t.Name == recorded.Name })
		if at < 0 {
			return fmt.Errorf("%s: recorded with the tracer %q, which this version does not have: replay it with the rbtrace that made it (version %q)",
				r.name, recorded.Name, meta.Version)
		}
		if err := recorded.Check(all[at]); err != nil {
			return fmt.Errorf("%s: %w: replay it with the rbtrace that made it (version %q)", r.name, err, meta.Version)
		}
		r.tracers = append(r.tracers, all[at])
	}
	return nil
}

// plan checks the flags for the tracers of the recording.
func (r *replayRun) plan() (*plan, error) {
	flags := *r.flags
	flags.failed = r.reader.Meta.Tracers[0].Failed // all of them, or none
	p, err := flags.plan(r.tracers, r.changed, r.warn)
	if err != nil {
		return nil, err
	}
	for name := range r.flags.params {
		has := func(t *tracer.Tracer) bool {
			return slices.ContainsFunc(t.Params, func(p tracer.Param) bool { return p.Name == name })
		}
		if r.changed(name) && !slices.ContainsFunc(r.tracers, has) {
			return nil, usagef("--%s: no tracer of this recording has it", name)
		}
	}
	return p, nil
}

// introduce says where the recording comes from.
func (r *replayRun) introduce() {
	m := &r.reader.Meta
	var names []string
	for _, t := range m.Tracers {
		name := t.Name
		if t.Failed {
			name += " --failed"
		}
		names = append(names, name)
	}
	// From a file that anybody may have made.
	safe := func(s string) []byte { return field.AppendTextEscaped(nil, []byte(s)) }
	r.warn("%s, recorded %s on %s (Linux %s, %s) by rbtrace %s", strings.Join(names, ", "),
		m.Start.Local().Format(time.DateTime), safe(m.Host), safe(m.Kernel), safe(m.Arch), safe(m.Version))
}

// keep returns the filter of the flags: the kernel's, in user space. nil keeps
// everything.
func (r *replayRun) keep(plan *plan) func(int, *wire.Head, []field.Value) bool {
	f := plan.attach.Filter
	type match struct {
		param   *tracer.Param
		columns []int // one of which is to be as wanted
		text    string
	}
	matches := make([][]match, len(r.tracers))
	filters := f != attach.Filter{}
	for i, t := range r.tracers {
		for _, p := range t.Params {
			if v, ok := plan.attach.Params[p.Name]; ok {
				columns := []int{t.Schema().Index(p.Column)}
				if p.Or != "" {
					columns = append(columns, t.Schema().Index(p.Or))
				}
				matches[i] = append(matches[i], match{&p, columns, v})
				filters = true
			}
		}
	}
	expression := plan.keep(r.tracers)
	if !filters {
		return expression
	}
	return func(i int, h *wire.Head, event []field.Value) bool {
		who := &h.Who
		comm := field.Comm(who.Comm)
		if f.PID != 0 && who.Pid != f.PID || f.TID != 0 && who.Tid != f.TID || f.PPID != 0 && who.Ppid != f.PPID ||
			f.UID != nil && who.Uid != *f.UID || f.Comm != "" && string(comm.Bytes()) != f.Comm {
			return false
		}
		for _, m := range matches[i] {
			if !slices.ContainsFunc(m.columns, func(i int) bool { return m.param.Match(event[i], m.text) }) {
				return false
			}
		}
		return expression == nil || expression(i, h, event)
	}
}

// Next implements consumer.Recording. It passes over what cannot be read.
func (r *replayRun) Next() (record []byte, wall int64, err error) {
	for {
		record, wall, err = r.reader.Next()
		damage, ok := errors.AsType[*capture.Damage](err)
		if !ok {
			return record, wall, err
		}
		r.damages++
		r.cut = r.cut || damage.Cut
		// The thousandth is no news.
		const told = 20
		if r.damages <= told || damage.Cut {
			r.warn("%s: %v", r.name, damage)
		}
	}
}

// Buffered implements consumer.Recording.
func (r *replayRun) Buffered() bool { return r.reader.Buffered() }

// settle shows the ledger of the recording, and turns it and how the replay ended
// into the command's error.
func (r *replayRun) settle(events *consumer.Consumer, runErr error) error {
	end := r.reader.End()
	if end != nil && len(end.Tracers) != len(r.tracers) {
		r.warn("%s: the ledger is of other tracers", r.name)
		r.damages++
		end = nil
	}
	complete := true
	for i, t := range r.tracers {
		l := &consumer.Ledger{Name: t.Name, Counts: events.Counts(i)}
		if end == nil {
			r.showCounts(l)
			complete = complete && l.Complete()
			continue
		}
		r.fill(l, &end.Tracers[i])
		if err := events.ShowLosses(i, l.CPU, l.Missed); runErr == nil {
			runErr = err
		}
		r.showLedger(l)
		complete = complete && l.Complete()
	}
	if n := events.Unknown(); n > 0 {
		r.warn("%d records are of no tracer, or parts of no event", n)
		complete = false
	}
	if end != nil && end.Unfollowed > 0 {
		r.warn("%d processes were not followed: too many at once", end.Unfollowed)
		complete = false
	}
	switch {
	case errors.Is(runErr, unix.EPIPE): // a reader that has seen enough is no error
	case runErr != nil:
		return runErr
	case r.cut:
		return fmt.Errorf("%s: the recording is cut: its end is missing, and with it the ledger", r.name)
	case r.damages > 0:
		return fmt.Errorf("%s: the recording is damaged: %d parts of it could not be read", r.name, r.damages)
	case end != nil && end.Error != "":
		return fmt.Errorf("%s: the recording ended early: %s", r.name, field.AppendTextEscaped(nil, []byte(end.Error)))
	}
	if !complete {
		return errLost
	}
	return nil
}

// fill enters the books of the recording.
func (r *replayRun) fill(l *consumer.Ledger, b *capture.Books) {
	for _, c := range b.CPU {
		l.CPU = append(l.CPU, wire.Ledger{
			Hits: c.Hits, Filtered: c.Filtered, Lost: c.Lost, NoEntry: c.NoEntry, Discarded: c.Discarded, Submitted: c.Submitted,
		})
	}
	l.Missed = b.Missed
	l.Left = b.Left
	// Consumed then, and not recorded.
	l.Consumed += b.Unwritten
	l.Unwritten += b.Unwritten
	if read := l.Consumed + l.Left; r.damages > 0 && l.Total().Submitted > read {
		l.Unreadable = l.Total().Submitted - read
	}
}

// showCounts says what became of the records that were read, where there is no
// ledger to compare them with.
func (r *replayRun) showCounts(l *consumer.Ledger) {
	why := "not read to its end"
	if r.cut || r.damages > 0 {
		why = "its ledger cannot be read"
	}
	r.warn("%s: %d records read = %d printed + %d filtered + %d undecodable + %d not written; %s",
		l.Name, l.Consumed, l.Printed, l.Counts.Filtered, l.Undecodable, l.Unwritten, why)
}
