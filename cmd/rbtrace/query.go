// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringquery"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// queryFlags are the flags of rbtrace query, as they were written.
type queryFlags struct {
	format    string
	columns   string
	ids       []uint
	names     []string
	pids      []int
	pins      []string
	programs  []string
	source    string
	look      seconds
	watch     seconds
	count     uint64
	peek      int
	failAbove string
	failOn    []string
	listen    string
}

const queryHelp = `Shows the BPF ring buffers of this machine, whoever made them, without disturbing those
who use them: their positions are read from a read-only mapping, or asked for in the
kernel by bpf_ringbuf_query.

A reader that keeps up leaves AVAIL_DATA near 0. For the verdict the rings are looked at
for 100 ms (--look), unless it is neither shown nor needed:

  idle              nothing was produced or consumed
  draining          the reader keeps up
  falling behind    the reader reads, and what is unread grows
  stalled consumer  producers go on, and the reader does not, with data to read
  full              there was no room for another record: who produces, loses now. Where
                    the oldest records are overwritten: unread ones were
  stuck head        the record at the head has been reserved and not committed for the
                    time in brackets, and holds back everything behind it

A reader that only looks at its ring now and then seems stalled in between: look for
longer than that.

The positions are asked for one after another while the ring is in use, so AVAIL_DATA may
be less than PROD_POS - CONS_POS, and never is more. Rates of records are counted in the
ring; where too much was overwritten for that they are reckoned from the size of the
records left (records_estimated).

A ring must match all kinds of selection that are given (--id, --name, --pid, --pin,
--prog), and one value of each. --peek shows records as they wait in the ring: where
rbtrace wrote them, or where the BTF of a program names their type (__type(value, T) of the
map), they are decoded, else they are shown as bytes, up to 256 of each, in JSON 4096. Those
that the reader consumed while they were copied are marked as stale. Getting at the maps of others takes CAP_SYS_ADMIN.
Without it, the pinned ones that one may open are shown.

On a terminal --watch has the screen to itself, unless columns are chosen (-C) or TERM is
dumb: then it prints one table after another. FILL shows the highest fill so far as a mark,
HISTORY the fill at the last intervals; k, M and G are powers of 1000, and ~ marks rates
that are reckoned. Its keys:

  up, down, j, k, PgUp, PgDn, Home, End   select a ring
  Enter, Esc       show its owners, programs, pins, head and positions, and back
  s, S, r          the next order, the one before, reverse: id, name, fill, high water,
                   produced, consumed, time to full, verdict
  /                show only rings with this in their name or owner; Esc clears it
  q, Ctrl-C        quit; what --fail-above and --fail-on found is told then

Exit status: 0 all is well, 1 error, also where a ring that was asked for does not exist or
is no ring, 2 usage error, 4 a ring is in a state that --fail-above or --fail-on names.`

func newQuery(s streams) *cobra.Command {
	var flags queryFlags
	cmd := &cobra.Command{
		Use:   "query [flags]",
		Short: "Show what the BPF ring buffers on this machine are doing",
		Long:  queryHelp + "\n\n" + listenHelp + "\n\n" + queryColumnsHelp(),
		Example: examples([]tracer.Example{
			{Args: "query", What: "all ring buffers"},
			{Args: "query --id 7 -C +programs", What: "one, with the programs that use it"},
			{Args: "query --name 'ev*' --watch 5", What: "some, on a live screen, every 5 seconds"},
			{Args: "query -o json | jq 'select(.fill_percent > 50)'", What: "those more than half full"},
			{Args: "query --fail-above 80% --fail-on full,stalled,stuck", What: "a health check"},
			{Args: "query --id 7 --peek 3", What: "and the next three records that its reader will get"},
			{Args: "query --listen 127.0.0.1:9435", What: "metrics for Prometheus"},
		}),
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			// "--watch 5": a flag that needs no value takes none from the next argument.
			if f := cmd.Flags().Lookup("watch"); len(args) == 1 && f.Changed && f.Value.String() == defaultWatch {
				if err := f.Value.Set(args[0]); err != nil {
					return usagef("--watch: %w", err)
				}
				return nil
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := &queryRun{streams: s, flags: &flags, changed: cmd.Flags().Changed}
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.UintSliceVar(&flags.ids, "id", nil, "the ring buffer whose map has this `ID`; repeatable, as all of these")
	f.StringArrayVar(&flags.names, "name", nil, "ring buffers whose name matches this `GLOB`")
	f.IntSliceVar(&flags.pids, "pid", nil, "ring buffers of which the process `PID` holds a descriptor")
	f.StringArrayVar(&flags.pins, "pin", nil, "the ring buffer that is pinned at this `PATH`")
	f.StringArrayVar(&flags.programs, "prog", nil, "ring buffers that the BPF program of this id or `NAME` uses")
	f.StringVarP(&flags.format, "output", "o", string(output.FormatTable), "`FORMAT`: table or json (an object a line)")
	f.StringVarP(&flags.columns, "columns", "C", "", "columns of the table: a `LIST` instead of the default (id,fill), or changes to it (+programs,-owners)")
	f.StringVar(&flags.source, "source", string(ringquery.Auto), "`WAY` to the positions: auto, helper (bpf_ringbuf_query in the kernel), or mmap (a read-only mapping)")
	flags.look = seconds(100 * time.Millisecond)
	f.Var(&flags.look, "look", "for this `TIME` look at the rings, for verdicts and rates; 0: a moment, and no verdict")
	f.Var(&flags.watch, "watch", "go on: every `INTERVAL` (default 1s), on a live screen, or with an object for each ring where standard output is no terminal")
	f.Lookup("watch").NoOptDefVal = defaultWatch
	f.Uint64Var(&flags.count, "count", 0, "end --watch after `N` times")
	f.IntVar(&flags.peek, "peek", 0, "show the next `N` unread records of each ring too, without consuming them")
	f.StringVar(&flags.failAbove, "fail-above", "", "exit with status 4 where a ring is fuller than this `PERCENT` (80%)")
	f.StringSliceVar(&flags.failOn, "fail-on", nil, "exit with status 4 where a ring's verdict is one of this `LIST`: idle, draining, behind, stalled, full, stuck")
	f.StringVar(&flags.listen, "listen", "", "export metrics for Prometheus on `ADDRESS`, such as 127.0.0.1:9435, until ended; a port alone is one of the loopback")
	for _, name := range []string{"id", "name", "pid", "pin", "prog", "fail-on"} {
		f.Lookup(name).DefValue = "" // or the help says (default [])
	}
	_ = cmd.MarkFlagFilename("pin") // the flag is there
	for name, complete := range map[string][]string{
		"output": {"table", "json"}, "source": {"auto", "helper", "mmap"},
		"fail-on": verdictNames(), "columns": querySchema().Keys(),
	} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(complete, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // no such flag: a mistake in this file
		}
	}
	return cmd
}

const defaultWatch = "1s"

func verdictNames() []string {
	var names []string
	for _, v := range ringquery.Verdicts() {
		names = append(names, v.Short())
	}
	return names
}

// errUnwell ends a query that found what --fail-above or --fail-on name, which has been
// told.
var errUnwell = errors.New("a ring buffer is not well")

// queryRun is one run of rbtrace query.
type queryRun struct {
	streams
	flags   *queryFlags
	changed func(flag string) bool

	format  output.Format
	columns []int
	request ringquery.Request
	alarm   alarm
}

// alarm is what --fail-above and --fail-on ask for.
type alarm struct {
	above    float64 // a fill from 0 to 1; more: none
	verdicts map[ringquery.Verdict]bool
	rung     map[ebpf.MapID]bool // rings that have been told of
}

func (r *queryRun) run(ctx context.Context) (err error) {
	source, err := r.parse()
	if err != nil {
		return err
	}
	listener, err := r.listen(ctx)
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	q, err := ringquery.Open(&ringquery.Options{Source: source})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	if limit := q.Limit(); limit != nil {
		r.warn("%v; only pinned ring buffers that may be opened are shown", limit)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer watchSignals(end)()
	defer context.AfterFunc(ctx, r.hurry)()
	watch := func(ctx context.Context) iter.Seq2[*ringquery.Snapshot, error] {
		return q.Watch(ctx, r.request, time.Duration(r.flags.watch))
	}
	switch {
	case listener != nil:
		err = r.serve(ctx, q, listener)
	case r.changed("watch") && r.liveScreen():
		keys, done := keyboard()
		defer done()
		err = r.live(ctx, keys, watch, q.Limit())
	case r.changed("watch"):
		defer watchPipe(r.Out, func() { end(errPipe) })()
		err = r.watch(ctx, watch(ctx))
	default:
		err = r.once(ctx, q)
	}
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if errors.Is(err, unix.EPIPE) { // a reader that has seen enough is no error
		err = nil
	}
	if err == nil && len(r.alarm.rung) > 0 {
		return errUnwell
	}
	return err
}

// parse checks the flags.
func (r *queryRun) parse() (source ringquery.Source, err error) {
	f := r.flags
	if err := r.parseListen(); err != nil {
		return "", err
	}
	if r.format, err = output.ParseFormat(f.format); err != nil {
		return "", usagef("--output: %w", err)
	}
	if source, err = ringquery.ParseSource(f.source); err != nil {
		return "", usagef("--source: %w", err)
	}
	if r.columns, err = querySchema().Select(queryDefaults(), f.columns); err != nil {
		return "", usagef("--columns: %w", err)
	}
	sel := ringquery.Selection{Names: f.names, PIDs: f.pids, Pins: f.pins, Programs: f.programs}
	if sel.IDs, err = mapIDs(f.ids); err != nil {
		return "", err
	}
	if err := sel.Check(); err != nil {
		return "", usagef("selecting ring buffers: %w", err)
	}
	if err := r.parseAlarm(); err != nil {
		return "", err
	}
	switch {
	case r.changed("watch") && f.watch == 0:
		return "", usagef("--watch: an interval of 0 would never rest")
	case r.changed("count") && !r.changed("watch"):
		return "", usagef("--count: is for --watch")
	case r.changed("count") && f.count == 0:
		return "", usagef("--count: must be more than 0")
	case r.changed("peek") && f.peek <= 0:
		return "", usagef("--peek: must be more than 0")
	case r.changed("peek") && r.changed("watch"):
		return "", usagef("--peek: not with --watch")
	case len(f.failOn) > 0 && f.look == 0 && !r.changed("watch"):
		return "", usagef("--fail-on: there is no verdict with --look 0")
	}
	if r.changed("watch") && !r.changed("output") && !term.IsTerminal(int(r.Out.Fd())) {
		r.format = output.FormatJSON
	}
	r.request = ringquery.Request{Select: sel, DetailsAge: detailsAge}
	r.request.Details = r.format == output.FormatJSON || f.peek > 0 || r.shows(queryDetails)
	if r.format == output.FormatJSON || r.shows(queryMotion) || len(f.failOn) > 0 {
		r.request.Look = time.Duration(f.look)
	}
	if r.liveScreen() {
		r.request.Details, r.request.Look = true, time.Duration(f.look)
	}
	return source, nil
}

// detailsAge is how old owners and programs may be that --watch shows.
const detailsAge = 2 * time.Second

// shows reports whether one of the columns is of the given kind.
func (r *queryRun) shows(kind queryKind) bool {
	for _, i := range r.columns {
		if queryColumns[i].kind == kind {
			return true
		}
	}
	return false
}

func (r *queryRun) parseAlarm() error {
	r.alarm = alarm{above: math.Inf(1), verdicts: make(map[ringquery.Verdict]bool), rung: make(map[ebpf.MapID]bool)}
	for _, name := range r.flags.failOn {
		v, err := ringquery.ParseVerdict(name)
		if err != nil {
			return usagef("--fail-on: %w", err)
		}
		r.alarm.verdicts[v] = true
	}
	if text := r.flags.failAbove; text != "" || r.changed("fail-above") {
		percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
		if err != nil || percent < 0 || percent > 100 || math.IsNaN(percent) {
			return usagef("--fail-above: %q is no percentage: write a number from 0 to 100, such as 80%%", text)
		}
		r.alarm.above = percent / 100
	}
	return nil
}

// ringAlarm tells of a ring that --fail-above or --fail-on name, once.
func (r *queryRun) ringAlarm(ring *ringquery.Ring) {
	bad := r.alarm.verdicts[ring.Verdict]
	if !bad && ring.Fill() <= r.alarm.above || r.alarm.rung[ring.ID] {
		return
	}
	r.alarm.rung[ring.ID] = true
	r.warn("ring buffer %d (%s): %s, %s full", ring.ID, field.AppendTextEscaped(nil, []byte(ring.Name)), ring.Verdict, percent(ring.Fill()))
}

// once shows the rings one time. Those that can be asked are shown even if others
// cannot.
func (r *queryRun) once(ctx context.Context, q *ringquery.Querier) error {
	snapshot, err := q.Snapshot(ctx, r.request)
	if ctx.Err() != nil {
		return fmt.Errorf("ended while looking at the ring buffers: %w", context.Cause(ctx))
	}
	if snapshot == nil || err != nil && len(snapshot.Rings) == 0 {
		return err
	}
	if err == nil && len(snapshot.Rings) == 0 {
		if q.Limit() != nil {
			return errors.New("no pinned ring buffer may be opened")
		}
		if !r.request.Select.All() {
			return errors.New("no ring buffer matches")
		}
	}
	b, renderErr := r.render(snapshot)
	if err = errors.Join(err, renderErr); r.flags.peek > 0 {
		var peekErr error
		b, peekErr = r.peek(b, q, snapshot)
		err = errors.Join(err, peekErr)
	}
	_, writeErr := r.Out.Write(b)
	return errors.Join(err, writeErr)
}

// watch shows one snapshot after another, where they are not for a screen of their own.
func (r *queryRun) watch(ctx context.Context, snapshots iter.Seq2[*ringquery.Snapshot, error]) error {
	told := make(map[string]bool) // errors that each snapshot has again
	var failed error
	n := uint64(0)
	for snapshot, err := range snapshots {
		if err != nil && (snapshot == nil || len(snapshot.Rings) == 0) {
			return err
		}
		if err != nil && !told[err.Error()] {
			told[err.Error()] = true
			failed = errors.Join(failed, err)
		}
		b, err := r.render(snapshot)
		if err != nil {
			return err
		}
		if n > 0 && r.format == output.FormatTable {
			b = append([]byte("\n"), b...)
		}
		if _, err := r.Out.Write(b); err != nil {
			return err
		}
		if n++; n == r.flags.count {
			break
		}
	}
	return failed
}

// render returns a snapshot as it is to be written, in one piece, and tells of rings that
// are not well.
func (r *queryRun) render(snapshot *ringquery.Snapshot) ([]byte, error) {
	for i := range snapshot.Rings {
		r.ringAlarm(&snapshot.Rings[i])
	}
	if r.format == output.FormatJSON {
		return appendRings(nil, snapshot), nil
	}
	var b bytes.Buffer
	err := renderRings(&b, snapshot, r.columns)
	return b.Bytes(), err
}

// mapIDs takes ids from the command line.
func mapIDs(ids []uint) ([]ebpf.MapID, error) {
	selected := make([]ebpf.MapID, 0, len(ids))
	for _, id := range ids {
		if uint64(id) > math.MaxUint32 {
			return nil, usagef("--id: %d is no map id, which are numbers up to %d", id, uint32(math.MaxUint32))
		}
		selected = append(selected, ebpf.MapID(id))
	}
	return selected, nil
}
