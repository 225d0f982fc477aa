// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/capture"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// BenchmarkRingToFile moves events from a ring that was filled before, off the
// clock, to a file, as the command does. An op is an event; the events are those of
// the tracer's recording, over and over.
//
//	go test -run '^$' -bench RingToFile -benchtime 2000000x -cpu 1 ./internal/probes
func BenchmarkRingToFile(b *testing.B) {
	for _, tr := range probes.All() {
		records := recorded(b, tr)
		b.Run(tr.Name+"/json", func(b *testing.B) {
			benchmarkRingToFile(b, tr, records, func(w io.Writer, _ *field.TimeStyle) output.Sink { return output.NewJSON(w) })
		})
		b.Run(tr.Name+"/table", func(b *testing.B) {
			benchmarkRingToFile(b, tr, records, func(w io.Writer, style *field.TimeStyle) output.Sink {
				return output.NewTable(w, style, false, nil)
			})
		})
	}
}

func benchmarkRingToFile(b *testing.B, tr *tracer.Tracer, records [][]byte, newSink func(io.Writer, *field.TimeStyle) output.Sink) {
	ring, w := bpftest.NewRing(b, 64<<20)
	style := field.NewTimeStyle(field.TimeWall, nil)
	columns, err := tr.Schema().Select(tr.Columns, "")
	if err != nil {
		b.Fatal(err)
	}
	c, err := consumer.New([]*ebpf.Map{ring}, []*tracer.Tracer{tr}, [][]int{columns}, style, consumer.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	file, err := os.Create(filepath.Join(b.TempDir(), "events"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	sink := newSink(file, style)

	const run = 499 // of each record
	var written int64
	var cpu time.Duration
	round := func(n int) (moved int) {
		b.StopTimer()
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		for i := 0; moved < n; i++ {
			want := min(run, n-moved)
			wrote := w.Repeat(b, records[i%len(records)], want, 0)
			moved += wrote
			if wrote < want {
				break
			}
		}
		begin := cpuTime(b)
		b.StartTimer()
		if err := c.Finish(sink, func() bool { return true }); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cpu += cpuTime(b) - begin
		at, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			b.Fatal(err)
		}
		written += at
		return moved
	}
	round(1 << 30) // so that buffers, and the file, have their size
	b.ReportAllocs()
	b.ResetTimer()
	before, total := c.Counts(0), 0
	written, cpu = 0, 0
	for total < b.N {
		total += round(b.N - total)
	}
	if got := c.Counts(0).Printed - before.Printed; got != uint64(b.N) {
		b.Fatalf("%d events printed, want %d", got, b.N)
	}
	// What a core can do, whatever else the machine and its disk have to do.
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/cpu.Seconds()/1e6, "Mevents/cpu-s")
	b.ReportMetric(float64(written)/float64(b.N), "B/event")
}

// cpuTime is what this process has had of the CPUs.
func cpuTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// recorded returns the records of a tracer's recording.
func recorded(b *testing.B, tr *tracer.Tracer) [][]byte {
	f, err := os.Open(filepath.Join(tr.Name, "testdata", tr.Name+".rbt"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, err := capture.Open(f)
	if err != nil {
		b.Fatal(err)
	}
	var records [][]byte
	for {
		record, _, err := r.Next()
		if errors.Is(err, io.EOF) {
			return records
		}
		if err != nil {
			b.Fatal(err)
		}
		if len(record) <= bpftest.MaxRecord {
			records = append(records, bytes.Clone(record))
		}
	}
}
