// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/capture"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// newTracer derives the command of a tracer from its declaration.
func newTracer(s streams, t *tracer.Tracer) *cobra.Command {
	var flags traceFlags
	cmd := &cobra.Command{
		Use:                   t.Name + " [flags] [-- COMMAND [ARG...]]",
		Short:                 t.Short,
		Long:                  t.Long + uprobesHelp(t) + costlyHelp(t) + "\n\n" + columnsHelp(t.Schema()) + "\n\n" + traceHelp,
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
	completeTraceFlags(cmd, t.Schema())
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

` + columnsHelp(output.MixedSchema(false)) + "\n\n" + traceHelp,
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
			if slices.Contains(strings.Split(args[0], ","), allTracers) {
				if args[0] != allTracers {
					return usagef("%s are all tracers: name no others with it", allTracers)
				}
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
	completeTraceFlags(cmd, output.MixedSchema(false))
	return cmd
}

func tracerNames(tracers []*tracer.Tracer) (names []string) {
	for _, t := range tracers {
		names = append(names, t.Name)
	}
	return names
}

// tracersOnly returns a command that has nothing but one of the name of each tracer.
func tracersOnly(tracers []*tracer.Tracer) *cobra.Command {
	parent := new(cobra.Command)
	for _, t := range tracers {
		parent.AddCommand(&cobra.Command{Use: t.Name, Run: func(*cobra.Command, []string) {}})
	}
	return parent
}

// findTracers returns those that a list separated by commas names.
func findTracers(all []*tracer.Tracer, list string) ([]*tracer.Tracer, error) {
	var found []*tracer.Tracer
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(t *tracer.Tracer) bool { return t.Name == name })
		if i < 0 {
			return nil, usagef("there is no tracer %q%s: the tracers are %s", name, suggest(tracersOnly(all), name), strings.Join(tracerNames(all), ", "))
		}
		if slices.Contains(found, all[i]) {
			return nil, usagef("the tracer %s is named twice", name)
		}
		found = append(found, all[i])
	}
	return found, nil
}

// suggest returns a question for the command that a wrong name may stand for.
func suggest(parent *cobra.Command, wrong string) string {
	parent.SuggestionsMinimumDistance = 2
	if wrong == "" { // which every name begins with
		return ""
	}
	if s := parent.SuggestionsFor(wrong); len(s) > 0 {
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
		"output":          complete("table", "json"),
		"time":            complete(field.TimeModes()...),
		"wakeup":          complete("auto", "every", "bytes=64K", "interval=10ms"),
		"reader-priority": complete(readerHigh, readerNormal),
		"topology":        complete("shared", "percpu", "hash:4", "cgroup"),
		"hook":            complete(hookNames()...),
		"columns":         complete(schema.Keys()...),
	} {
		if err := cmd.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // no such flag: a mistake in this file
		}
	}
}

const traceHelp = `With COMMAND only it and its descendants are traced, from their first instruction
on, until it ends. Its standard output goes to standard error, but for -w FILE. It gets the
signals that rbtrace gets (SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2), and is told to end
(SIGTERM) when tracing ends before it. rbtrace ends as COMMAND does, by the same status or signal;
with 127 or 126 where COMMAND is not found or cannot be run, with 125 where rbtrace fails, and
with 3 where events were lost and COMMAND has not failed.

All filters but --filter work in the kernel: what they drop costs nothing more. --filter is
an expression of the language Expr over the JSON keys, in which an event has zero or
empty values for keys of other tracers, and "type" is the tracer's name; where it cannot be
evaluated it does not hold.`

// uprobesHelp says where functions of user space are looked for.
func uprobesHelp(t *tracer.Tracer) string {
	if !slices.ContainsFunc(t.Hooks, func(h tracer.Hook) bool { return h.Kind == tracer.Uprobe }) {
		return ""
	}
	return `

Files are looked for on this machine; with --pid, --tid, --tree, --cgroup or --container where
those processes have them, in containers too, as they are when tracing begins. Nothing is seen of
what gets another root later (a COMMAND that calls chroot or starts a container): give its file
with --lib. --explain says what was taken.`
}

// costlyHelp warns of a tracer that costs much.
func costlyHelp(t *tracer.Tracer) string {
	if !t.Costly {
		return ""
	}
	return `

This tracer can cost a busy machine much: docs/overhead.md has figures. It says so when it
falls behind.`
}

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
	advice  advice
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

// addStacks gives the tracers whose --stack is set the columns for it. It returns the kinds that any
// of them shows.
func (r *traceRun) addStacks(name func(b []byte, kind tracer.StackKind, who *wire.Who, addresses []uint64) []byte) (all tracer.StackKind) {
	r.tracers = slices.Clone(r.tracers)
	for i, t := range r.tracers {
		for _, flag := range []string{tracer.StackParam, t.Name + "." + tracer.StackParam} {
			if value, ok := r.flags.params[flag]; ok && r.changed(flag) && *value != "" {
				kinds := tracer.StackKindOf(*value)
				r.tracers[i] = r.tracers[i].WithStacks(kinds, name)
				all |= kinds
			}
		}
	}
	return all
}

func (r *traceRun) run(ctx context.Context) (err error) {
	if err := r.checkNames(); err != nil {
		return err
	}
	if r.flags.failed {
		if err := r.checkFailed(); err != nil {
			return err
		}
	}
	if r.changed("hook") {
		if err := r.selectHooks(); err != nil {
			return usagef("--hook: %w", err)
		}
	}
	var session *attach.Session
	var stacks *attach.Stacks
	if r.flags.ancestors {
		r.tracers = slices.Clone(r.tracers)
		for i, t := range r.tracers {
			r.tracers[i] = t.WithAncestors(func(list []field.Ancestor, who *wire.Who) []field.Ancestor {
				return session.Lineage().Ancestors(list, who)
			})
		}
	}
	kinds := r.addStacks(func(b []byte, kind tracer.StackKind, who *wire.Who, addresses []uint64) []byte {
		return stacks.Append(b, kind, who, addresses)
	})
	p, err := r.flags.plan(r.tracers, r.changed, r.warn)
	if err != nil {
		return err
	}
	rec, err := r.openWrite(p)
	if err != nil {
		return err
	}
	defer rec.abandon()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	hurry := r.hurry
	if rec != nil && rec.file != nil {
		hurry = func() {
			r.hurry()
			rec.file.GiveUpAfter(lastWait)
		}
	}
	defer context.AfterFunc(ctx, hurry)()
	p.consume.Enough = hurry

	var c *command
	endCommand := func() {}
	if len(r.command) == 0 && r.flags.as != "" {
		return usagef("--as: there is no COMMAND to run")
	}
	if len(r.command) > 0 {
		for _, name := range []string{"pid", "tid", "ppid", "tree"} {
			if r.changed(name) {
				return usagef("--%s: with COMMAND only it and its descendants are traced", name)
			}
		}
		stdout := os.Stdout
		if r.writesOut() {
			stdout = os.Stderr
		}
		if c, err = newCommand(r.command, r.flags.as, stdout); err != nil {
			return err
		}
		p.attach.Filter.Follow = true
		endCommand = sync.OnceFunc(func() {
			if how := c.end(); how != "" {
				r.warn("%s: %s", c.name, how)
			}
		})
		defer endCommand()
	}
	defer r.watchSignals(end, c)()
	p.attach.SkipHookless = r.skip
	session, err = attach.Open(r.tracers, p.attach)
	if err != nil {
		return err
	}
	defer session.Close()
	// The programs' own names are among those of the kernel now.
	if kinds != 0 {
		if stacks, err = attach.NewStacks(kinds); err != nil {
			return fmt.Errorf("--%s: %w", tracer.StackParam, err)
		}
	}
	for _, skipped := range session.Skipped {
		r.leaveOut(skipped, p)
	}
	for _, l := range session.Tracers {
		if len(l.Blind) > 0 && !r.flags.explain {
			r.warn("%s: some of the processes have no file that can be traced: --explain says which", l.Tracer.Name)
		}
	}
	if r.flags.explain {
		r.explain(session)
	}
	var stats *statsPrinter
	p.consume.Stats = func() { stats.print() }
	p.consume.Keep = p.keep(r.tracers)
	p.consume.Behind = r.tellBehind
	events, err := consumer.New(session.Rings(), r.tracers, p.columns, p.style, p.consume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, events.Close()) }()
	session.WatchCgroups(events.AddRing, events.RetireRing)
	if c != nil {
		if err := session.FollowExec(c.pid()); err != nil {
			return err
		}
	}
	if r.flags.tree != 0 {
		if err := session.FollowTree(int(r.flags.tree)); err != nil {
			return err
		}
	}
	var meta *capture.Meta
	if rec != nil {
		if meta, err = newMeta(r.flags.failed, session.Tracers); err != nil {
			return err
		}
	}
	if err := session.Enable(); err != nil {
		return err
	}
	// Not before: who sees a header, or a recording, may begin.
	sink, err := r.open(p, events, rec, meta)
	if sink == nil {
		return err
	}
	stats = newStatsPrinter(r.warn, session, events, sink)
	if err == nil {
		err = r.trace(ctx, end, events, sink, c)
	}
	hurry()
	err = errors.Join(err, session.Disable())
	signal.Reset(endSignals()...) // the next one ends it at once
	err = r.settle(session, events, sink, err)
	endCommand() // before the session is closed, which takes its time
	if advice := r.advice.String(); advice != "" {
		r.warn("%s", advice)
	}
	if c != nil && (err == nil || errors.Is(err, errLost)) {
		err = errors.Join(c.outcome(), err) // whose failure says more than that of the trace
	}
	return err
}

// checkNames checks that the tracers whose own flags are given are to run.
func (r *traceRun) checkNames() error {
	for flag := range r.flags.params {
		name, _, ok := strings.Cut(flag, ".")
		if ok && r.changed(flag) && !slices.ContainsFunc(r.tracers, func(t *tracer.Tracer) bool { return t.Name == name }) {
			return usagef("--%s: the tracer %s is not to run", flag, name)
		}
	}
	return nil
}

// checkFailed checks that all tracers can show failures, or leaves those out that
// cannot.
func (r *traceRun) checkFailed() error {
	var able []*tracer.Tracer
	for _, t := range r.tracers {
		switch {
		case t.HasFailed():
			able = append(able, t)
		case r.skip:
			r.warn("%s is left out: it shows no calls that could fail", t.Name)
		default:
			return usagef("--failed: %s shows no calls that could fail", t.Name)
		}
	}
	r.tracers = able
	return nil
}

// selectHooks leaves tracers the hooks of one kind. Those that have none are left out where
// all were asked for. Where they are named they take another one, as long as the kind is
// that of some.
func (r *traceRun) selectHooks() error {
	if r.flags.hook == "auto" {
		return nil
	}
	kind := tracer.HookKind(r.flags.hook)
	if !slices.Contains(tracer.Kinds(), kind) {
		return fmt.Errorf("unknown kind %q: want %s", kind, anyHook())
	}
	var chosen []*tracer.Tracer
	var others []string
	for _, t := range r.tracers {
		hooks, has := hooksOf(t, kind, r.flags.failed)
		if len(hooks) > 0 {
			r.advice.forced = r.advice.forced || kind != attach.First(t, r.flags.failed)
			t = t.WithHooks(hooks)
		} else {
			others = append(others, fmt.Sprintf("%s has no %s hook: it has %s", t.Name, kind, has))
			if r.skip {
				continue
			}
		}
		chosen = append(chosen, t)
	}
	if len(others) == len(r.tracers) {
		return errors.New(strings.Join(others, "; "))
	}
	for _, other := range others {
		if r.skip {
			other = "left out: " + other
		}
		r.warn("--hook: %s", other)
	}
	r.tracers = chosen
	return nil
}

// trace moves events until something ends it.
func (r *traceRun) trace(ctx context.Context, end context.CancelCauseFunc, events *consumer.Consumer, sink output.Sink, c *command) error {
	if c != nil && ctx.Err() == nil {
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
	if r.flags.reader == readerHigh {
		runtime.LockOSThread() // whose priority it is
		defer runtime.UnlockOSThread()
		restore, err := kernel.Prefer()
		if err != nil {
			r.advice.refused = true // it is told where something is lost
		} else {
			defer restore()
		}
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
		mixed := output.NewMixed(table, output.MixedSchema(r.flags.ancestors), p.mixed)
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

// tellBehind says which of the tracers may be too much for this machine.
func (r *traceRun) tellBehind() {
	var costly []string
	for _, t := range r.tracers {
		if t.Costly {
			costly = append(costly, t.Name)
		}
	}
	if len(costly) > 0 {
		r.warn("rbtrace falls behind, and %s costs much: ask for less (--pid, --cgroup, a flag of its own), or for more room (--buffer-size)",
			strings.Join(costly, " and "))
	}
}

// settle takes what is left once no events are made any more, shows the ledger, and
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
		r.advice.losses.Add(l.Losses())
	}
	r.advice.normal = r.flags.reader == readerNormal
	r.advice.about(events)
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
			r.warn("%s: %s: %s", l.Tracer.Name, &a, a.Outcome(r.flags.hook == string(a.Kind)))
		}
		for _, reason := range l.Blind {
			r.warn("%s: no file can be traced of %s", l.Tracer.Name, reason)
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
	table.Header("CPU", "HITS", "FILTERED", "NO ROOM", "NO ENTRY", "MISSED", "DISCARDED", "SUBMITTED")
	row := func(cpu any, b wire.Ledger, missed uint64) {
		_ = table.Append(cpu, b.Hits, b.Filtered, b.Lost-b.NoEntry-missed, b.NoEntry, missed, b.Discarded, b.Submitted) // the row fits the header
	}
	for cpu, b := range l.CPU {
		if b.Hits > 0 {
			row(cpu, b, 0)
		}
	}
	if l.Missed > 0 {
		row("any", wire.Ledger{Hits: l.Missed, Lost: l.Missed}, l.Missed)
	}
	if err := table.Render(); err != nil {
		r.warn("printing the ledger: %v", err)
	}
}

// watchSignals ends the trace at the signals that end a program. A command that runs (nil: there
// is none) gets them first, and the trace shows what it does about them.
func (r *traceRun) watchSignals(end context.CancelCauseFunc, c *command) (stop func()) {
	if c == nil {
		return watchSignals(end)
	}
	ending := endSignals()
	return onSignals(func(sig os.Signal) {
		giveUp := func() {
			signal.Reset(ending...)
			end(signalError{sig})
		}
		if !c.runs() {
			giveUp()
			return
		}
		c.pass(sig, giveUp)
	}, slices.Concat(ending, passedOn))
}

// watchSignals calls end at the first of the signals that end a program, and keeps a closed
// pipe from killing it. The second signal does kill it, whatever it waits for: a reader of its
// output that takes no more, or a file that never opens. The returned function ends the watch.
func watchSignals(end context.CancelCauseFunc) (stop func()) {
	ending := endSignals()
	return onSignals(func(sig os.Signal) {
		signal.Reset(ending...)
		end(signalError{sig})
	}, ending)
}

// endSignals are the signals that end a program, but for those that it was started to ignore,
// as nohup and shells do it for what runs in the background: they stay ignored, by COMMAND too.
func endSignals() []os.Signal {
	return slices.DeleteFunc([]os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}, signal.Ignored)
}

// onSignals calls fn at these signals. The returned function ends that.
func onSignals(fn func(os.Signal), which []os.Signal) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, which...)
	// Without a handler the Go runtime lets SIGPIPE of standard output kill the
	// process; with one, the write fails with EPIPE.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				fn(sig)
			case <-done:
				return
			}
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
func watchPipe(out *output.Stream, gone func()) (stop func()) {
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
