// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/capture"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// recordEvery is how often what was gathered is written to a file: what a crash
// of the machine, or a kill, may cost.
const recordEvery = time.Second

// checkWrite checks --write, and what goes with it.
func (r *traceRun) checkWrite(p *plan) error {
	for _, name := range []string{"output", "columns", "no-header", "time", "filter"} {
		if r.changed(name) {
			return usagef("--%s: nothing is printed while --write records: give it to rbtrace replay", name)
		}
	}
	if r.flags.ancestors {
		return usagef("--ancestors: they are found while events are shown, and a recording has no place for them")
	}
	for name := range r.flags.params {
		if (name == tracer.StackParam || strings.HasSuffix(name, "."+tracer.StackParam)) && r.changed(name) {
			return usagef("--%s: functions get their names while events are shown, and a recording has no place for them", name)
		}
	}
	p.consume.Hold = recordEvery
	if r.flags.write != "-" {
		return nil
	}
	if term.IsTerminal(int(r.Out.Fd())) {
		return usagef("--write: a recording is not for a terminal: name a file, or send standard output to one")
	}
	if info, err := r.Out.Stat(); err == nil && !info.Mode().IsRegular() {
		p.consume.Hold = 0 // somebody may be looking
	}
	return nil
}

// openWrite opens what --write names before anything is attached. What a file holds stays
// there until the recording begins. nil: nothing is to be recorded.
func (r *traceRun) openWrite(p *plan) (*recorder, error) {
	if !r.changed("write") {
		return nil, nil
	}
	if err := r.checkWrite(p); err != nil {
		return nil, err
	}
	rec := &recorder{name: "standard output", notice: r.noteLoss}
	if r.flags.write == "-" {
		return rec, nil
	}
	rec.name = r.flags.write
	_, err := os.Lstat(rec.name)
	rec.created = errors.Is(err, fs.ErrNotExist)
	// Arguments of other people's programs are nobody else's business. A FIFO that nobody
	// reads is no reason to wait.
	file, err := os.OpenFile(rec.name, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("--write: nobody reads from %s: %w", rec.name, unix.ENXIO)
	case err != nil:
		return nil, fmt.Errorf("--write: %w", err)
	}
	rec.file = output.NewStream(file)
	return rec, nil
}

// writesOut reports whether events or records go to standard output.
func (r *traceRun) writesOut() bool { return r.flags.write == "" || r.flags.write == "-" }

// recorder is the sink of --write.
type recorder struct {
	*capture.Writer
	name    string
	file    *output.Stream // nil: standard output
	created bool           // the file was not there before
	notice  func(output.Loss)
}

// abandon closes the file where no recording has begun, and leaves nothing of it behind.
func (r *recorder) abandon() {
	if r == nil || r.file == nil || r.Writer != nil {
		return
	}
	r.file.Close()
	if r.created {
		os.Remove(r.name)
	}
}

// Event implements output.Sink. A recorder is a RawSink and gets no events.
func (r *recorder) Event(*output.Source) error { return nil }

// Record implements output.RawSink.
func (r *recorder) Record(record []byte, wall int64) error {
	return recording(r.Writer.Record(record, wall))
}

// Flush implements output.Sink.
func (r *recorder) Flush() error { return recording(r.Writer.Flush()) }

func recording(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("recording: %w", err)
}

// Lost implements output.Sink. In the recording the records tell of losses.
func (r *recorder) Lost(l output.Loss) error {
	r.notice(l)
	return nil
}

// open begins to record, with rec and meta, or to print, where these are nil.
func (r *traceRun) open(p *plan, events *consumer.Consumer, rec *recorder, meta *capture.Meta) (output.Sink, error) {
	if rec == nil {
		return r.sink(p, events)
	}
	var w io.Writer = struct{ io.Writer }{r.Out} // not ours to shorten
	if rec.file != nil {
		if info, err := rec.file.Stat(); err == nil && info.Mode().IsRegular() {
			if err := rec.file.Truncate(0); err != nil {
				return nil, fmt.Errorf("--write: %w", err)
			}
		}
		w = rec.file
	}
	var err error
	if rec.Writer, err = capture.NewWriter(w, meta); rec.Writer == nil {
		return nil, err
	}
	return rec, err
}

func newMeta(failed bool, tracers []*attach.Loaded) (*capture.Meta, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("counting the CPUs: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("asking for the host's name: %w", err)
	}
	now := time.Now()
	meta := &capture.Meta{
		Version: buildVersion(), Args: os.Args[1:], Host: host, Kernel: kernel.Release(), Arch: runtime.GOARCH,
		PageSize: os.Getpagesize(), CPUs: cpus,
		Start: now.UTC(), StartBoot: now.UnixNano() - kernel.ReadWall().Offset(),
	}
	for _, l := range tracers {
		meta.Tracers = append(meta.Tracers, capture.Tracer{
			Name: l.Tracer.Name, Failed: failed, Hook: string(l.Hook), Layout: l.Tracer.Layout(),
		})
	}
	return meta, nil
}

// finish ends the recording with the books. err is what tracing ended with; it
// comes back with what went wrong here.
func (r *recorder) finish(ledgers []*consumer.Ledger, unfollowed uint64, err error) error {
	end := &capture.End{Time: time.Now().UTC(), Unfollowed: unfollowed}
	for _, l := range ledgers {
		books := capture.Books{
			Missed: l.Missed, Consumed: l.Consumed, Recorded: l.Printed, Unwritten: l.Unwritten, Left: l.Left,
		}
		for _, c := range l.CPU {
			books.CPU = append(books.CPU, capture.Ledger{
				Hits: c.Hits, Filtered: c.Filtered, Lost: c.Lost, NoEntry: c.NoEntry, Discarded: c.Discarded, Submitted: c.Submitted,
			})
		}
		end.Tracers = append(end.Tracers, books)
	}
	if err != nil && !errors.Is(err, consumer.ErrLost) {
		end.Error = err.Error()
	}
	closeErr := r.Close(end)
	if closeErr != nil && err != nil && errors.Is(err, closeErr) {
		closeErr = nil // told already
	}
	if r.file != nil {
		closeErr = errors.Join(closeErr, r.file.Close())
	}
	if closeErr != nil {
		err = errors.Join(err, fmt.Errorf("ending the recording: %w", closeErr))
	}
	if end.Error != "" && r.file != nil && r.Written() > 0 {
		err = fmt.Errorf("%w\n%s holds the %d events before that, readable by rbtrace replay", err, r.name, r.Written())
	}
	return err
}
