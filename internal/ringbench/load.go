// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// loaded is a case in the kernel, with its reader.
type loaded struct {
	c            *Case
	coll         *ebpf.Collection
	prog         *ebpf.Program
	books        *ebpf.Map
	source       source
	consumerCPU  int
	producerCPUs []int
}

// load makes the buffers of a case, and the program that fills them.
func load(c *Case, consumerCPU int, producerCPUs []int) (_ *loaded, err error) {
	spec, err := loadBench()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded object: %w", err)
	}
	for name, value := range map[string]any{
		benchVarRbApi: map[API]benchRbBenchApi{
			Reserve: benchRbBenchApiRB_BENCH_RESERVE,
			Output:  benchRbBenchApiRB_BENCH_OUTPUT,
			Perf:    benchRbBenchApiRB_BENCH_PERF,
		}[c.API],
		benchVarRbWakeup: map[Wakeup]benchRbBenchWakeup{
			Auto:    benchRbBenchWakeupRB_BENCH_AUTO,
			None:    benchRbBenchWakeupRB_BENCH_NONE,
			Force:   benchRbBenchWakeupRB_BENCH_FORCE,
			Sampled: benchRbBenchWakeupRB_BENCH_BYTES,
		}[c.Wakeup],
		benchVarRbWakeupBytes: uint64(c.Every * c.space()),
		benchVarRbSize:        uint32(c.RecordSize),
		benchVarRbBatch:       uint32(c.batch()),
		benchVarRbPercpu:      c.PerCPU,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	spec.Maps[benchMapRbProducers].MaxEntries = uint32(c.Producers)
	size := uint32(c.RingSize)
	rings := spec.Maps[benchMapRbRings]
	rings.InnerMap.MaxEntries = size
	if c.PerCPU {
		rings.MaxEntries = uint32(slices.Max(producerCPUs)) + 1
	}
	if c.API != Perf && !c.PerCPU {
		spec.Maps[benchMapRbRing].MaxEntries = size
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the program: %w", err)
	}
	l := &loaded{
		c: c, coll: coll, prog: coll.Programs[benchProgRbProduce], books: coll.Maps[benchMapRbProducers],
		consumerCPU: consumerCPU, producerCPUs: producerCPUs,
	}
	switch {
	case c.API == Perf:
		l.source, err = newPerfSource(c, coll.Maps[benchMapRbPerf], unique(producerCPUs))
	case c.PerCPU:
		l.source, err = newShardedSource(c, rings.InnerMap, coll.Maps[benchMapRbRings], unique(producerCPUs))
	default:
		l.source, err = newRingSource(c, coll.Maps[benchMapRbRing])
	}
	if err != nil {
		coll.Close()
		return nil, err
	}
	return l, nil
}

// Close releases everything.
func (l *loaded) Close() error {
	err := l.source.Close()
	l.coll.Close()
	return err
}

// unique returns cpus in ascending order, each once.
func unique(cpus []int) []int { return slices.Compact(slices.Sorted(slices.Values(cpus))) }

// counts are the sums of the producers' books.
type counts struct{ attempts, dropped, busy uint64 }

func (l *loaded) counts() (sum counts, err error) {
	var p benchRbBenchProducer
	for id := range uint32(l.c.Producers) {
		if err := l.books.Lookup(id, &p); err != nil {
			return sum, fmt.Errorf("reading the books of producer %d: %w", id, err)
		}
		sum.attempts += p.Attempts
		sum.dropped += p.Dropped
		sum.busy += p.BusyNs
	}
	return sum, nil
}

// newRingSource reads one ring.
func newRingSource(c *Case, m *ebpf.Map) (source, error) {
	r, err := ringbuf.Open(m)
	if err != nil {
		return nil, fmt.Errorf("opening the ring: %w", err)
	}
	return newRingsSource(c, []*ringbuf.Ring{r})
}

// newShardedSource makes a ring for each CPU, puts them into the map of maps, and reads
// them all.
func newShardedSource(c *Case, inner *ebpf.MapSpec, outer *ebpf.Map, cpus []int) (_ source, err error) {
	var rings []*ringbuf.Ring
	defer func() {
		if err != nil {
			for _, r := range rings {
				err = errors.Join(err, r.Close())
			}
		}
	}()
	for _, cpu := range cpus {
		m, err := ebpf.NewMap(inner)
		if err != nil {
			return nil, fmt.Errorf("making the ring of CPU %d: %w", cpu, err)
		}
		r, err := ringbuf.Open(m)
		if err == nil {
			rings = append(rings, r)
			err = outer.Put(uint32(cpu), m)
		}
		m.Close() // the reader and the map of maps hold it
		if err != nil {
			return nil, fmt.Errorf("putting the ring of CPU %d into the map of maps: %w", cpu, err)
		}
	}
	return newRingsSource(c, rings)
}
