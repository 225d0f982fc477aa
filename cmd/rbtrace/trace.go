// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
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
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// newTrace derives the command of a tracer from its declaration.
func newTrace(s streams, t *tracer.Tracer) *cobra.Command {
	var flags traceFlags
	cmd := &cobra.Command{
		Use:                   t.Name + " [flags] [-- COMMAND [ARG...]]",
		Short:                 t.Short,
		Long:                  t.Long + "\n\n" + columnsHelp(t) + "\n\n" + traceHelp,
		Example:               examples(t.Examples),
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case dash > 0, dash < 0 && len(args) > 0:
				return usagef("unexpected argument %q: a command to trace goes behind --", args[0])
			case dash == 0 && len(args) == 0:
				return usagef("a command is missing behind --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			run := &traceRun{streams: s, tracer: t, flags: &flags, command: args, changed: cmd.Flags().Changed}
			return run.run(cmd.Context())
		},
	}
	flags.register(cmd.Flags(), t)
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
		"columns":  complete(t.Schema.Keys()...),
	} {
		if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // no such flag: a mistake in this file
		}
	}
	return cmd
}

const traceHelp = `With COMMAND only it and its descendants are traced, from their first instruction
on, until it ends. Its standard output goes to standard error. It is told to end
(SIGTERM) when tracing ends before it.

All filters but --max-events work in the kernel: what they drop costs nothing more.`

func columnsHelp(t *tracer.Tracer) string {
	var b strings.Builder
	b.WriteString("Columns of the table, and keys of the JSON objects:\n")
	for _, c := range t.Schema {
		fmt.Fprintf(&b, "\n  %-15s %s", c.Key, c.Doc)
	}
	return b.String()
}

// traceRun is one run of a tracer.
type traceRun struct {
	streams
	tracer  *tracer.Tracer
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
	p, err := r.flags.plan(r.tracer, r.changed, r.warn)
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
	if len(r.command) > 0 {
		if c, err = newCommand(r.command); err != nil {
			return err
		}
		p.attach.Filter.Follow = true
		defer func() {
			var by signalError
			told := errors.As(context.Cause(ctx), &by)
			r.warn("%s: %s", c.name, c.end(told))
		}()
	}
	session, err := attach.Open([]*tracer.Tracer{r.tracer}, p.attach)
	if err != nil {
		return err
	}
	defer session.Close()
	loaded := session.Tracers[0]
	if r.flags.explain {
		r.explain(loaded)
	}
	var stats *statsPrinter
	p.consume.Stats = func() { stats.print() }
	events, err := consumer.New(session.Rings(), []*tracer.Tracer{r.tracer}, [][]int{p.columns}, p.style, p.consume)
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
	sink, err := r.open(p, events, loaded)
	if sink == nil {
		return err
	}
	stats = newStatsPrinter(r.warn, loaded, events, sink)
	if err == nil {
		err = r.trace(ctx, end, events, sink, c)
	}
	session.Detach()
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // a second one ends it at once
	return r.settle(session, events, sink, err)
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
	if err := table.Header(events.Source(0)); err != nil {
		return table, fmt.Errorf("writing the header: %w", err)
	}
	return table, nil
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
	loaded := session.Tracers[0]
	rec, recorded := sink.(*recorder)
	var booksErr error
	ledger := func() *consumer.Ledger {
		books, err := loaded.Books()
		booksErr = err
		return &consumer.Ledger{Name: r.tracer.Name, CPU: books.CPU, Missed: books.Missed, Counts: events.Counts(0), Recorded: recorded}
	}
	err := events.Finish(sink, func() bool { return ledger().Balanced() })
	l := ledger()
	if booksErr != nil {
		return errors.Join(runErr, booksErr)
	}
	if err == nil {
		err = events.ShowLosses(0, l.CPU, l.Missed)
	}
	if runErr == nil {
		runErr = err
	}
	if age, stuck := events.Stuck(); stuck {
		r.warn("a record that its program has not submitted for %v holds up what is behind it", age.Round(time.Millisecond))
	}
	r.showLedger(l)
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
		runErr = rec.finish(l, unfollowed, runErr)
	}
	// A reader that has seen enough is no error.
	if runErr != nil && !errors.Is(runErr, unix.EPIPE) && !errors.Is(runErr, consumer.ErrLost) {
		return runErr
	}
	if !l.Complete() || unfollowed > 0 {
		return errLost
	}
	return nil
}

func (r *traceRun) explain(l *attach.Loaded) {
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
