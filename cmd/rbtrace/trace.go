// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// newTracer derives the command of a tracer from its declaration.
func newTracer(s streams, t *tracer.Tracer) *cobra.Command {
	var flags traceFlags
	cmd := &cobra.Command{
		Use:                   t.Name + " [flags] [-- COMMAND [ARG...]]",
		Short:                 t.Short,
		Long:                  t.Long + "\n\n" + columnsHelp(t.Schema) + "\n\n" + traceHelp,
		Example:               examples(t.Examples),
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash > 0 || dash < 0 && len(args) > 0 {
				return usagef("unexpected argument %q: a command to trace goes behind --", args[0])
			}
			return checkDash(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			run := &traceRun{streams: s, tracers: []*tracer.Tracer{t}, flags: &flags, command: args, changed: cmd.Flags().Changed}
			return run.run(cmd.Context())
		},
	}
	flags.register(cmd.Flags(), t)
	completeTraceFlags(cmd, t.Schema)
	return cmd
}

const allTracers = "all"

// newTrace returns the command that runs several tracers.
func newTrace(s streams) *cobra.Command {
	flags := traceFlags{mixed: true}
	all := probes.All()
	cmd := &cobra.Command{
		Use:   "trace TRACER[,TRACER...] [flags] [-- COMMAND [ARG...]]",
		Short: "Several tracers, in one stream",
		Long: `Runs several tracers at a time: their events come in one stream, in the order in which they
happened. With "all" it runs those that this kernel has a hook for, and says which are left
out and why. rbtrace list lists the tracers.

The table has the columns that all tracers share, and the others as details; the JSON
objects are those of each tracer, which "type" tells. A tracer's own flags have its name in
front.

` + columnsHelp(output.MixedSchema()) + "\n\n" + traceHelp,
		Example: examples([]tracer.Example{
			{Args: "trace exec,open -- make", What: "what a build starts and reads"},
			{Args: "trace all -p 4711 -o json | jq .type", What: "all that is known of a process"},
		}),
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if named := args[:max(dash, 0)]; len(named) > 1 || dash < 0 && len(args) > 1 {
				return usagef("unexpected argument %q: tracers are separated by commas, and a command to trace goes behind --", args[1])
			}
			if dash == 0 || len(args) == 0 {
				return usagef("want tracers, separated by commas, or %s: %s", allTracers, strings.Join(tracerNames(all), ", "))
			}
			return checkDash(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			run := &traceRun{streams: s, flags: &flags, command: args[1:], changed: cmd.Flags().Changed}
			if args[0] == allTracers {
				run.tracers, run.skip = all, true
				return run.run(cmd.Context())
			}
			var err error
			if run.tracers, err = findTracers(all, args[0]); err != nil {
				return err
			}
			return run.run(cmd.Context())
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			before := typed[:strings.LastIndexByte(typed, ',')+1]
			var list []string
			for _, t := range all {
				list = append(list, before+t.Name)
			}
			return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
	}
	flags.register(cmd.Flags(), all...)
	completeTraceFlags(cmd, output.MixedSchema())
	return cmd
}

func tracerNames(tracers []*tracer.Tracer) (names []string) {
	for _, t := range tracers {
		names = append(names, t.Name)
	}
	return names
}

// findTracers returns those that a list separated by commas names.
func findTracers(all []*tracer.Tracer, list string) ([]*tracer.Tracer, error) {
	var found []*tracer.Tracer
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(t *tracer.Tracer) bool { return t.Name == name })
		if i < 0 {
			return nil, usagef("there is no tracer %q%s: the tracers are %s", name, suggest(tracerNames(all), name), strings.Join(tracerNames(all), ", "))
		}
		if slices.Contains(found, all[i]) {
			return nil, usagef("the tracer %s is named twice", name)
		}
		found = append(found, all[i])
	}
	return found, nil
}

// suggest returns a question for the name that a wrong one may stand for.
func suggest(names []string, wrong string) string {
	c := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		c.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	if s := c.SuggestionsFor(wrong); len(s) > 0 {
		return fmt.Sprintf(" (did you mean %s?)", s[0])
	}
	return ""
}

// checkDash checks what is behind --.
func checkDash(cmd *cobra.Command, args []string) error {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 && len(args) == dash {
		return usagef("a command is missing behind --")
	}
	return nil
}

// completeTraceFlags lets shells complete the flags of a tracer's command.
func completeTraceFlags(cmd *cobra.Command, schema tracer.Schema) {
	_ = cmd.MarkFlagFilename("write") // the flag is there
	complete := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	for name, f := range map[string]cobra.CompletionFunc{
		"output":   complete("table", "json"),
		"time":     complete(field.TimeModes()...),
		"wakeup":   complete("auto", "every", "bytes=64K", "interval=10ms"),
		"topology": complete("shared", "percpu", "hash:4", "cgroup"),
		"hook":     complete("auto", "tracepoint", "fentry", "kprobe"),
		"columns":  complete(schema.Keys()...),
	} {
		if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // no such flag: a mistake in this file
		}
	}
}

const traceHelp = `With COMMAND only it and its descendants are traced, from their first instruction
on, until it ends. Its standard output goes to standard error. It is told to end
(SIGTERM) when tracing ends before it.

All filters but --filter work in the kernel: what they drop costs nothing more. --filter is
an expression of the language Expr over the JSON keys, in which an event has zero or
empty values for keys of other tracers, and "type" is the tracer's name; where it cannot be
evaluated it does not hold.`

func columnsHelp(schema tracer.Schema) string {
	var b strings.Builder
	b.WriteString("Columns of the table, and keys of the JSON objects:\n")
	for _, c := range schema {
		fmt.Fprintf(&b, "\n  %-15s %s", c.Key, c.Doc)
	}
	return b.String()
}

// traceRun is one run of tracers.
type traceRun struct {
	streams
	tracers []*tracer.Tracer
	skip    bool // those that this kernel has no hook for
	flags   *traceFlags
	command []string
	changed func(flag string) bool
}

func (r *traceRun) warn(format string, args ...any) {
	fmt.Fprintf(r.Err, "rbtrace: "+format+"\n", args...)
}

// Reasons for a trace to end, beside errors.
var (
	errDuration = errors.New("the time is up")
	errPipe     = errors.New("the reader of standard output has gone")
	errCommand  = errors.New("the command has ended")
)

// signalError is the end by a signal.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return e.String() }

func (r *traceRun) run(ctx context.Context) (err error) {
	if r.flags.failed {
		if err := r.checkFailed(); err != nil {
			return err
		}
	}
	p, err := r.flags.plan(r.tracers, r.changed, r.warn)
	if err != nil {
		return err
	}
	if err := r.checkWrite(p); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer watchSignals(end)()

	var c *command
	if len(r.command) == 0 && r.changed("as") {
		return usagef("--as: there is no COMMAND to run")
	}
	if len(r.command) > 0 {
		if r.flags.tree != 0 {
			return usagef("--tree: with COMMAND only it and its descendants are traced")
		}
		if c, err = newCommand(r.command, r.flags.as); err != nil {
			return err
		}
		p.attach.Filter.Follow = true
		defer func() {
			var by signalError
			told := errors.As(context.Cause(ctx), &by)
			r.warn("%s: %s", c.name, c.end(told))
		}()
	}
	p.attach.SkipHookless = r.skip
	session, err := attach.Open(r.tracers, p.attach)
	if err != nil {
		return err
	}
	defer session.Close()
	for _, skipped := range session.Skipped {
		r.leaveOut(skipped, p)
	}
	if r.flags.explain {
		r.explain(session)
	}
	var stats *statsPrinter
	p.consume.Stats = func() { stats.print() }
	p.consume.Keep = p.keep(r.tracers)
	events, err := consumer.New(session.Rings(), r.tracers, p.columns, p.style, p.consume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	session.WatchCgroups(events.AddRing, events.RetireRing)
	if c != nil {
		if err := session.Follow(c.pid()); err != nil {
			return err
		}
	}
	if r.flags.tree != 0 {
		if err := session.FollowTree(int(r.flags.tree)); err != nil {
			return err
		}
	}
	sink, err := r.open(p, events, session)
	if sink == nil {
		return err
	}
	stats = newStatsPrinter(r.warn, session, events, sink)
	if err == nil {
		err = r.trace(ctx, end, events, sink, c)
	}
	session.Detach()
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // a second one ends it at once
	return r.settle(session, events, sink, err)
}

// checkFailed checks that all tracers can show failures, or leaves those out that
// cannot.
func (r *traceRun) checkFailed() error {
	var able []*tracer.Tracer
	for _, t := range r.tracers {
		if !t.HasFailed() && !r.skip {
			return usagef("--failed: %s shows no calls that could fail", t.Name)
		}
		if t.HasFailed() {
			able = append(able, t)
		}
	}
	r.tracers = able
	return nil
}

// trace moves events until something ends it.
func (r *traceRun) trace(ctx context.Context, end context.CancelCauseFunc, events *consumer.Consumer, sink output.Sink, c *command) error {
	if c != nil {
		if err := c.run(); err != nil {
			return err
		}
		go func() {
			<-c.done
			end(errCommand)
		}()
	}
	if d := time.Duration(r.flags.duration); d > 0 {
		defer time.AfterFunc(d, func() { end(errDuration) }).Stop()
	}
	if r.writesOut() {
		defer watchPipe(r.Out, func() { end(errPipe) })()
	}
	return events.Run(ctx, sink)
}

// sink makes the sink and shows the header.
func (r *traceRun) sink(p *plan, events *consumer.Consumer) (output.Sink, error) {
	if p.format == output.FormatJSON {
		return output.NewJSON(r.Out), nil
	}
	table := output.NewTable(r.Out, p.style, !r.flags.noHeader, r.noteLoss)
	var sink output.Sink = table
	header := func() error { return table.Header(events.Source(0)) }
	if p.mixed != nil {
		mixed := output.NewMixed(table, p.mixed)
		sink, header = mixed, mixed.Header
	}
	if err := header(); err != nil {
		return sink, fmt.Errorf("writing the header: %w", err)
	}
	return sink, nil
}

// noteLoss tells of a loss where the output has no place for it.
func (r *traceRun) noteLoss(l output.Loss) {
	where := ""
	if l.CPU >= 0 {
		where = fmt.Sprintf(" on CPU %d", l.CPU)
	}
	r.warn("%s: %d events lost%s", l.Source.Name, l.Lost, where)
}

// settle takes what is left once the probes are detached, shows the ledger, and
// turns how the trace ended, and its books, into the command's error.
func (r *traceRun) settle(session *attach.Session, events *consumer.Consumer, sink output.Sink, runErr error) error {
	kernel.Settle()
	rec, recorded := sink.(*recorder)
	var booksErr error
	ledgers := func() []*consumer.Ledger {
		list := make([]*consumer.Ledger, 0, len(session.Tracers))
		for i, loaded := range session.Tracers {
			books, err := loaded.Books()
			booksErr = errors.Join(booksErr, err)
			list = append(list, &consumer.Ledger{
				Name: loaded.Tracer.Name, CPU: books.CPU, Missed: books.Missed, Counts: events.Counts(i), Recorded: recorded,
			})
		}
		return list
	}
	err := events.Finish(sink, func() bool {
		return !slices.ContainsFunc(ledgers(), func(l *consumer.Ledger) bool { return !l.Balanced() })
	})
	list := ledgers()
	if booksErr != nil {
		return errors.Join(runErr, booksErr)
	}
	complete := true
	for i, l := range list {
		complete = complete && l.Complete()
		if err == nil {
			err = events.ShowLosses(i, l.CPU, l.Missed)
		}
	}
	if runErr == nil {
		runErr = err
	}
	if age, stuck := events.Stuck(); stuck {
		r.warn("a record that its program has not submitted for %v holds up what is behind it", age.Round(time.Millisecond))
	}
	for _, l := range list {
		r.showLedger(l)
	}
	unfollowed, err := session.Unfollowed()
	if err != nil {
		return errors.Join(runErr, err)
	}
	if unfollowed > 0 {
		r.warn("%d processes were not followed: too many at once", unfollowed)
	}
	ringless, err := session.Ringless()
	if err != nil {
		return errors.Join(runErr, err)
	}
	if ringless > 0 {
		r.warn("%d cgroups had no ring of their own, but shared the default one", ringless)
	}
	if recorded {
		runErr = rec.finish(list, unfollowed, runErr)
	}
	// A reader that has seen enough is no error.
	if runErr != nil && !errors.Is(runErr, unix.EPIPE) && !errors.Is(runErr, consumer.ErrLost) {
		return runErr
	}
	if !complete || unfollowed > 0 {
		return errLost
	}
	return nil
}

// leaveOut takes a tracer that no hook works for out of the run.
func (r *traceRun) leaveOut(skipped *attach.NoHookError, p *plan) {
	r.warn("%s is left out, as no hook of it works on this kernel:\n%s", skipped.Tracer.Name, skipped.Reasons())
	i := slices.Index(r.tracers, skipped.Tracer)
	r.tracers = slices.Delete(slices.Clone(r.tracers), i, i+1)
	p.columns = slices.Delete(p.columns, i, i+1)
}

// explain says which hooks were tried, and which were taken.
func (r *traceRun) explain(session *attach.Session) {
	for _, l := range session.Tracers {
		for _, a := range l.Attempts {
			outcome := "taken: the first that this kernel takes"
			if r.flags.hook != "auto" {
				outcome = "taken: asked for"
			}
			if a.Err != nil {
				outcome = a.Err.Error()
			}
			r.warn("%s: %s (%s): %s", l.Tracer.Name, a.Kind, strings.Join(a.Programs, ", "), outcome)
		}
	}
}

// showLedger prints a line when all is well, and a table with a row for each CPU
// when it is not.
func (r *traceRun) showLedger(l *consumer.Ledger) {
	r.warn("%s", l)
	if !l.Balanced() {
		r.warn("%s: the ledger does not add up: this is a bug, please report it", l.Name)
	}
	if l.Complete() && l.Balanced() {
		return
	}
	table := tablewriter.NewTable(r.Err, plainTable()...)
	table.Header("CPU", "HITS", "FILTERED", "LOST", "DISCARDED", "SUBMITTED")
	row := func(cpu any, hits, filtered, lost, discarded, submitted uint64) {
		_ = table.Append(cpu, hits, filtered, lost, discarded, submitted) // the row fits the header
	}
	for cpu, b := range l.CPU {
		if b.Hits > 0 {
			row(cpu, b.Hits, b.Filtered, b.Lost, b.Discarded, b.Submitted)
		}
	}
	if l.Missed > 0 {
		row("missed", l.Missed, 0, l.Missed, 0, 0)
	}
	if err := table.Render(); err != nil {
		r.warn("printing the ledger: %v", err)
	}
}

// watchSignals ends the trace at the signals that end a program, and keeps a
// closed pipe from killing it. The returned function ends the watch.
func watchSignals(end context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// Without a handler the Go runtime lets SIGPIPE of standard output kill the
	// process; with one, the write fails with EPIPE.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		select {
		case sig := <-signals:
			end(signalError{sig})
		case <-done:
		}
	}()
	return func() {
		close(done)
		signal.Stop(signals)
		signal.Stop(pipe)
	}
}

// watchPipe calls gone when out is a pipe or socket whose reader closes it, which
// a write would tell only at the next event. The returned function ends the
// watch, and waits for it.
func watchPipe(out *os.File, gone func()) (stop func()) {
	info, err := out.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return func() {}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return func() {} // then the next write tells
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fds := []unix.PollFd{{Fd: int32(out.Fd())}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(fds, -1)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err == nil && fds[0].Revents != 0 && fds[1].Revents == 0:
				gone()
			}
			return
		}
	}()
	return func() {
		w.Close()
		<-done
		r.Close()
	}
}
