// SPDX-License-Identifier: Apache-2.0

// Package ringmetrics exports the state of ring buffers as Prometheus metrics: an
// Exporter takes a snapshot for each scrape. docs/metrics.md tells of the metrics.
package ringmetrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/rbtrace/rbtrace/internal/ringquery"
)

// Snapshotter takes snapshots, for one caller at a time, and remembers what they need
// of each other: a *ringquery.Querier.
type Snapshotter interface {
	Snapshot(context.Context, ringquery.Request) (*ringquery.Snapshot, error)
}

// Options says what is exported, and how.
type Options struct {
	Request ringquery.Request // of each scrape
	// Limit is how long a scrape may take; must be more than Request.Look.
	Limit   time.Duration
	Version string // of rbtrace
	// Failed is told why rings are missing from a scrape, unless that is what it was told
	// last. It is called by one goroutine at a time; may be nil.
	Failed func(error)
}

// Exporter takes a snapshot for each scrape. Its methods may be called concurrently.
type Exporter struct {
	rings    Snapshotter
	opts     Options
	ctx      context.Context // of all scrapes
	end      context.CancelCauseFunc
	metrics  *metrics
	registry *prometheus.Registry

	mu     sync.Mutex // held for a scrape; guards what follows, and rings
	errors uint64     // scrapes with rings missing
	told   string     // to Options.Failed
	counts map[ebpf.MapID]records
}

// records are those that were seen of a ring.
type records struct{ produced, consumed float64 }

var errClosed = errors.New("the exporter is closed")

// New returns an exporter of the rings that rings looks at, which nobody else may use
// until it is closed.
func New(rings Snapshotter, opts Options) *Exporter {
	e := &Exporter{
		rings: rings, opts: opts, metrics: newMetrics(opts.Version),
		registry: prometheus.NewRegistry(), counts: make(map[ebpf.MapID]records),
	}
	e.ctx, e.end = context.WithCancelCause(context.Background())
	e.registry.MustRegister(e.metrics) // fails for metrics that contradict each other only
	return e
}

// Close ends the scrape that is under way, and waits for its end.
func (e *Exporter) Close() {
	e.end(errClosed)
	e.mu.Lock()
	defer e.mu.Unlock()
}

// Gather takes a snapshot and returns the metrics of it. It fails where no ring can be
// shown and there is a reason why. Where some are missing, rbtrace_scrape_success is 0.
func (e *Exporter) Gather() ([]*dto.MetricFamily, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(e.ctx, e.opts.Limit,
		fmt.Errorf("looking at the ring buffers took longer than %s", e.opts.Limit))
	defer cancel()
	begin := time.Now()
	snapshot, err := e.rings.Snapshot(ctx, e.opts.Request)
	if snapshot == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e.count(snapshot)
	e.tell(err)
	if err != nil && (snapshot == nil || len(snapshot.Rings) == 0) {
		return nil, err
	}
	e.metrics.scrape = &scrape{
		snapshot: snapshot, took: time.Since(begin), success: err == nil, errors: e.errors, counts: e.counts,
	}
	return e.registry.Gather()
}

// tell counts and tells of an error. One that stays, such as that of a ring that has
// gone, would be told of several times a minute.
func (e *Exporter) tell(err error) {
	if err == nil {
		e.told = ""
		return
	}
	e.errors++
	if text := err.Error(); text != e.told && e.opts.Failed != nil && !errors.Is(err, errClosed) {
		e.told = text
		e.opts.Failed(err)
	}
}

// count adds up the records of rings, of which snapshots tell the rates since the one
// before, and forgets those of rings that have gone.
func (e *Exporter) count(snapshot *ringquery.Snapshot) {
	if snapshot == nil {
		return
	}
	counts := make(map[ebpf.MapID]records, len(snapshot.Rings))
	for i := range snapshot.Rings {
		r := &snapshot.Rings[i]
		c := e.counts[r.ID]
		c.produced += math.Round(r.ProducedRecords * r.Interval.Seconds())
		c.consumed += math.Round(r.ConsumedRecords * r.Interval.Seconds())
		counts[r.ID] = c
	}
	e.counts = counts
}

// inFlight is how many scrapes may wait for their answer. It takes more than one server
// that scrapes, and is not much to hold.
const inFlight = 32

const index = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>rbtrace</title></head>
<body><h1>rbtrace</h1><p>The BPF ring buffers of this machine: <a href="/metrics">metrics</a></p></body></html>
`

// Handler serves the metrics on /metrics, and a page that points there on /. A scrape
// that comes while a snapshot is being taken gets that one: many at once cost no more
// than one.
func (e *Exporter) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError,
		// Of a scrape whose snapshot has not heard of its own end: a walk over /proc cannot.
		Timeout:             e.opts.Limit + time.Second/2,
		MaxRequestsInFlight: inFlight,
		CoalesceGather:      true,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = strings.NewReader(index).WriteTo(w) // to one who has gone: no matter
	})
	return mux
}
