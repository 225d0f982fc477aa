// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// Recording is where a replay takes records from.
type Recording interface {
	// Next returns the next record, 8-byte aligned and good until the next call, and
	// what to add to its boot clock to get Unix time, in ns. The end is io.EOF.
	Next() (record []byte, wall int64, err error)
	// Buffered reports whether Next need not wait.
	Buffered() bool
}

// NewReplay returns a consumer for Replay. tracers are in the order of the ids in
// the records; cpus is how many the machine may have that recorded them. It need
// not be closed.
func NewReplay(tracers []*tracer.Tracer, columns [][]int, style *field.TimeStyle, cpus int, opts Options) *Consumer {
	return &Consumer{opts: opts, sources: newSources(tracers, columns, style, cpus)}
}

// Replay moves the records of a recording to sink, as Run and Finish do those of
// a ring: until its end, until MaxEvents are printed or ctx is done (all nil), or
// until the recording or the sink fails.
func (c *Consumer) Replay(ctx context.Context, recording Recording, sink output.Sink) error {
	c.setSink(sink)
	c.lastFlush = time.Now()
	err := c.replay(ctx, recording)
	if ferr := c.flush(); err == nil {
		err = ferr
	}
	return err
}

func (c *Consumer) replay(ctx context.Context, recording Recording) error {
	for ctx.Err() == nil && !c.reached() {
		record, wall, err := recording.Next()
		if errors.Is(err, io.EOF) {
			c.unknown += c.parts.dropAll()
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the recording: %w", err)
		}
		c.wall = wall
		if err := c.take(record); err != nil {
			return err
		}
		// What is still being recorded, and comes through a pipe, is shown as it comes.
		if len(c.pending) >= checkEvery || !recording.Buffered() {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
