// SPDX-License-Identifier: Apache-2.0

package ringmetrics

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

// namespace is what the names of all metrics begin with.
const namespace = "rbtrace"

// scrape is what one scrape shows.
type scrape struct {
	snapshot *ringquery.Snapshot
	took     time.Duration
	success  bool
	errors   uint64
	counts   map[ebpf.MapID]records
}

// metrics are the metrics of one scrape.
type metrics struct {
	scrape *scrape

	ring     []ringMetric
	verdict  *prometheus.Desc
	info     *prometheus.Desc
	owner    *prometheus.Desc
	program  *prometheus.Desc
	pin      *prometheus.Desc
	outer    *prometheus.Desc
	rings    *prometheus.Desc
	duration *prometheus.Desc
	success  *prometheus.Desc
	errors   *prometheus.Desc
	build    prometheus.Metric
}

// ringMetric is a metric with one series for each ring.
type ringMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*ringquery.Ring, records) float64
	of    func(*ringquery.Ring) bool // which rings have it; nil: all
}

// ringLabels are the labels of all metrics of rings. None changes while a ring lives, and
// the id alone tells it from all others.
var ringLabels = [...]string{"id", "name", "type"}

func ofRing(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "ringbuf", name), help, append(ringLabels[:], more...), nil)
}

func ofScrape(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "scrape", name), help, nil, nil)
}

func gauge(name, help string, value func(*ringquery.Ring, records) float64) ringMetric {
	return ringMetric{desc: ofRing(name, help), kind: prometheus.GaugeValue, value: value}
}

func counter(name, help string, value func(*ringquery.Ring, records) float64) ringMetric {
	return ringMetric{desc: ofRing(name, help), kind: prometheus.CounterValue, value: value}
}

func newMetrics(version string) *metrics {
	type ring = *ringquery.Ring
	overwritten := counter("overwritten_bytes_total", "How far the oldest records were overwritten, in bytes since the ring was made. Only of rings that overwrite them.",
		func(r ring, _ records) float64 { return float64(r.OverwritePos) })
	overwritten.of = func(r ring) bool { return r.Overwrites }
	return &metrics{
		ring: []ringMetric{
			gauge("size_bytes", "Bytes that the ring can hold.",
				func(r ring, _ records) float64 { return float64(r.RingSize) }),
			gauge("available_bytes", "Bytes that the reader has not consumed, record headers included, and also of records that are not committed yet or were discarded.",
				func(r ring, _ records) float64 { return float64(r.AvailData) }),
			gauge("fill_ratio", "Part of the ring that is not consumed, from 0 to 1.",
				func(r ring, _ records) float64 { return r.Fill() }),
			gauge("high_water_bytes", "The most unconsumed bytes that any scrape has found since rbtrace first looked at the ring.",
				func(r ring, _ records) float64 { return float64(r.HighWater) }),
			counter("consumed_bytes_total", "How far the reader has come, in bytes since the ring was made (consumer position).",
				func(r ring, _ records) float64 { return float64(r.ConsPos) }),
			counter("produced_bytes_total", "How far the producers have come, in bytes since the ring was made (producer position).",
				func(r ring, _ records) float64 { return float64(r.ProdPos) }),
			overwritten,
			counter("consumed_records_total", "Records consumed since rbtrace first looked at the ring, discarded ones included.",
				func(_ ring, c records) float64 { return c.consumed }),
			counter("produced_records_total", "Records produced since rbtrace first looked at the ring, discarded ones included.",
				func(_ ring, c records) float64 { return c.produced }),
			gauge("records_estimated", "1 where records since the scrape before were not counted, but reckoned from the size of others, since they were overwritten or too many. Else 0.",
				func(r ring, _ records) float64 { return boolean(r.Estimated) }),
			gauge("head_busy", "1 where the record at the head is reserved and not committed, which holds back all behind it. Else 0.",
				func(r ring, _ records) float64 { return boolean(r.HeadBusy) }),
			gauge("head_age_seconds", "For how many seconds the record at the head is known to be reserved and not committed. 0 where it is not.",
				func(r ring, _ records) float64 { return r.HeadAge.Seconds() }),
			gauge("memory_bytes", "Bytes of kernel memory that the ring is charged for.",
				func(r ring, _ records) float64 { return float64(r.Memory) }),
		},
		verdict: ofRing("verdict", "What the ring is doing: 1 for the verdict that holds, 0 for the others.", "verdict"),
		info:    ofRing("info", "Always 1. How the ring was made, and where its positions were read from (mmap or helper).", "overwrites", "source"),
		owner:   ofRing("owner_info", "Always 1. A process that holds a descriptor of the ring.", "pid", "comm"),
		program: ofRing("program_info", "Always 1. A BPF program that uses the ring, or the map of maps that has it, and what it is attached to.",
			"program_id", "program_name", "program_type", "attached_to"),
		pin:      ofRing("pin_info", "Always 1. A path at which the ring is pinned.", "path"),
		outer:    ofRing("outer_map_info", "Always 1. A map of maps that has the ring.", "outer_id", "outer_name"),
		rings:    prometheus.NewDesc(namespace+"_ringbufs", "Number of ring buffers that this scrape shows.", nil, nil),
		duration: ofScrape("duration_seconds", "Seconds that the look at the ring buffers took."),
		success:  ofScrape("success", "1 where this scrape shows all ring buffers that it was to show, with their owners and programs, 0 where some of that is missing."),
		errors:   ofScrape("errors_total", "Scrapes since the start of which something was missing, failed ones included."),
		build: prometheus.MustNewConstMetric(prometheus.NewDesc(namespace+"_build_info",
			"Always 1. The version of rbtrace, and what it was built with.", []string{"version", "goversion", "goarch"}, nil),
			prometheus.GaugeValue, 1, label(version), runtime.Version(), runtime.GOARCH),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, r := range m.ring {
		to <- r.desc
	}
	for _, d := range []*prometheus.Desc{
		m.verdict, m.info, m.owner, m.program, m.pin, m.outer, m.rings, m.duration, m.success, m.errors, m.build.Desc(),
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector: the metrics of m.scrape.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	s := m.scrape
	for i := range s.snapshot.Rings {
		r := &s.snapshot.Rings[i]
		m.collectRing(to, r, s.counts[r.ID])
	}
	// The numbers of labels are those of the descriptions, and all are valid UTF-8, so
	// that these cannot fail.
	to <- prometheus.MustNewConstMetric(m.rings, prometheus.GaugeValue, float64(len(s.snapshot.Rings)))
	to <- prometheus.MustNewConstMetric(m.duration, prometheus.GaugeValue, s.took.Seconds())
	to <- prometheus.MustNewConstMetric(m.success, prometheus.GaugeValue, boolean(s.success))
	to <- prometheus.MustNewConstMetric(m.errors, prometheus.CounterValue, float64(s.errors))
	to <- m.build
}

func (m *metrics) collectRing(to chan<- prometheus.Metric, r *ringquery.Ring, counts records) {
	labels := []string{strconv.FormatUint(uint64(r.ID), 10), label(r.Name), ringType(r)}
	gauge := func(desc *prometheus.Desc, value float64, more ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, slices.Concat(labels, more)...)
	}
	for _, rm := range m.ring {
		if rm.of == nil || rm.of(r) {
			to <- prometheus.MustNewConstMetric(rm.desc, rm.kind, rm.value(r, counts), labels...)
		}
	}
	for _, v := range append(ringquery.Verdicts(), ringquery.Unknown) {
		gauge(m.verdict, boolean(r.Verdict == v), v.Short())
	}
	gauge(m.info, 1, strconv.FormatBool(r.Overwrites), string(r.Source))
	if r.Details == nil {
		return
	}
	for _, o := range r.Details.Owners {
		gauge(m.owner, 1, strconv.Itoa(o.PID), label(o.Comm))
	}
	for _, p := range r.Details.Programs {
		gauge(m.program, 1, strconv.FormatUint(uint64(p.ID), 10), label(p.Name), p.Type, label(strings.Join(p.AttachedTo, " + ")))
	}
	for _, path := range r.Details.Pins {
		gauge(m.pin, 1, label(path))
	}
	for _, o := range r.Details.Outer {
		gauge(m.outer, 1, strconv.FormatUint(uint64(o.ID), 10), label(o.Name))
	}
}

// label makes a label's value of a text that others chose. It is escaped as in tables:
// valid UTF-8, harmless on the terminal of who looks at it with curl, and different for
// different texts, as two series of the same labels would fail the whole scrape.
func label(s string) string { return string(field.AppendTextEscaped(nil, []byte(s))) }

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// ringType is a ring's type as the kernel's tools spell it.
func ringType(r *ringquery.Ring) string {
	if r.Type == ebpf.UserRingbuf {
		return "user_ringbuf"
	}
	return "ringbuf"
}
