// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// Topology says how many rings there are, and which events go to which: enum
// rb_topologies of bpf/include/rbtrace/ring.h.
type Topology uint32

// The topologies.
const (
	Shared    Topology = iota // one ring, one order over all CPUs
	PerCPU                    // a ring for each CPU
	Hash                      // Options.Rings rings, by process: each process keeps its order
	PerCgroup                 // a ring for each cgroup, those that come while tracing among them
)

const (
	// maxCgroups bounds the rings of PerCgroup: the others share the default ring.
	maxCgroups = 1024
	// updates is how many rings are entered in a map of maps at a time. Each update
	// waits until no program uses what was there before, some 10 ms before Linux 7.0,
	// and those that wait together wait no longer than one.
	updates = 64
)

// Sizes of rings, in bytes, where none is asked for.
const (
	// allRings is that of all together: room for a burst of some ten thousand events while
	// the reader is not scheduled.
	allRings = 8 << 20
	// eachRing is what one needs: a CPU that does nothing else fills it in some 5 ms (docs/performance.md), and the
	// reader waits for a few of these, for the order and for a CPU.
	eachRing  = 1 << 20
	leastRing = 256 << 10
	// ringsShare is the part of the memory that is left which they may take where there may be many: a 64th.
	ringsShare = 64
)

// DefaultRingSize returns the size of each ring of a topology, n of them with Hash. Where there may be many,
// it depends on the memory that the machine has left, of which the kernel takes them at once.
func DefaultRingSize(t Topology, n uint32) (uint32, error) {
	rings, size := uint64(1), uint64(allRings)
	switch t {
	case Shared:
		return allRings, nil
	case Hash:
		rings = uint64(n)
	case PerCPU:
		cpus, err := kernel.OnlineCPUs()
		if err != nil {
			return 0, err
		}
		rings = uint64(len(cpus))
	case PerCgroup:
		ids, err := cgroupIDs()
		if err != nil {
			return 0, err
		}
		rings = uint64(len(ids)) + 1
	}
	available, err := kernel.MemAvailable()
	if err != nil {
		return 0, err
	}
	if t != PerCgroup { // of which most are idle, and one makes all the noise
		size = max(allRings/rings, eachRing)
	}
	below, _ := ringbuf.NearestSizes(max(min(size, available/ringsShare/rings), leastRing))
	return uint32(below), nil
}

// checkTopology returns an error where this kernel lacks what the topology needs.
func checkTopology(t Topology, release string) error {
	// Since 4a8f87e60f6d, inner maps may differ in max_entries.
	needs := kernel.Version{Major: 5, Minor: 10}
	if v, err := kernel.ParseVersion(release); t != Shared && err == nil && v.Less(needs) {
		return fmt.Errorf("several rings need Linux %s (this is %s): take the shared topology", needs, release)
	}
	return nil
}

// makeRings creates the rings, and the maps by which programs find them.
func (s *Session) makeRings(specs map[string]*ebpf.MapSpec) error {
	entries, cgroups := uint32(1), uint32(1)
	var keys []uint32
	switch s.opts.Topology {
	case PerCPU:
		possible, err := ebpf.PossibleCPU()
		if err != nil {
			return fmt.Errorf("counting the CPUs: %w", err)
		}
		online, err := kernel.OnlineCPUs()
		if err != nil {
			return err
		}
		// The others, should they come, use the default ring: that of the first.
		entries = uint32(possible)
		for _, cpu := range online {
			keys = append(keys, uint32(cpu))
		}
	case Hash:
		entries = s.opts.Rings
		for i := range entries {
			keys = append(keys, i)
		}
	case PerCgroup:
		cgroups = maxCgroups
	}
	for name, n := range map[string]uint32{ringsMap: entries, cgroupRingsMap: cgroups} {
		// The kernel wants to see one of the rings to come; their sizes may differ.
		specs[name].InnerMap.MaxEntries = uint32(os.Getpagesize())
		if err := s.create(specs[name], n); err != nil {
			return fmt.Errorf("creating the map of ring buffers: %w", advise(err))
		}
	}
	var err error
	if s.rings, err = s.newRings(max(len(keys), 1)); err != nil {
		return err
	}
	if s.opts.Topology == PerCgroup {
		return s.openCgroups()
	}
	return enter(s.maps[ringsMap], keys, s.rings)
}

// newRings makes n rings.
func (s *Session) newRings(n int) (rings []*ebpf.Map, err error) {
	if n == 0 {
		return nil, nil
	}
	size := uint64(s.opts.RingSize)
	// The kernel would take what the rest of the machine needs before it refused.
	if available, err := kernel.MemAvailable(); err == nil && uint64(n)*size > available {
		return nil, fmt.Errorf("creating %d ring buffers of %d bytes: that is more memory than the machine has left (%d MiB): take a smaller --buffer-size",
			n, size, available>>20)
	}
	for range n {
		ring, err := s.newRing()
		if err != nil {
			for _, r := range rings {
				r.Close()
			}
			return nil, fmt.Errorf("creating a ring buffer of %d bytes (number %d of %d): %w", size, len(rings)+1, n, advise(err))
		}
		rings = append(rings, ring)
	}
	return rings, nil
}

func (s *Session) newRing() (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{Name: ringMap, Type: ebpf.RingBuf, MaxEntries: s.opts.RingSize})
}

// newCgroupRing makes a ring for a cgroup that has come. However many do, rings leave the machine most of its memory.
func (s *Session) newCgroupRing() (*ebpf.Map, error) {
	if available, err := kernel.MemAvailable(); err == nil && uint64(s.opts.RingSize) > available/ringsShare {
		return nil, unix.ENOMEM
	}
	return s.newRing()
}

// enter makes each ring the one of its key.
func enter[K uint32 | uint64](outer *ebpf.Map, keys []K, rings []*ebpf.Map) error {
	var puts errgroup.Group
	puts.SetLimit(updates)
	for i, key := range keys {
		puts.Go(func() error { return outer.Put(key, rings[i]) })
	}
	if err := puts.Wait(); err != nil {
		return fmt.Errorf("entering the ring buffers in their map: %w", err)
	}
	return nil
}

// Rings are the rings that there were when the session was opened: at least one.
// They remain the session's.
func (s *Session) Rings() []*ebpf.Map { return s.rings }

// WatchCgroups makes the topology PerCgroup follow the cgroups that come and go:
// added is called with each new ring, before programs use it, and gone with each
// whose cgroup was removed, when they no longer do. Both are called from one
// goroutine, which Close ends. The map is good until gone or Close returns. An error
// of added leaves the cgroup to the default ring. It does nothing with other
// topologies, and may be called once.
func (s *Session) WatchCgroups(added func(*ebpf.Map) error, gone func(*ebpf.Map)) {
	if s.cgroups != nil {
		s.cgroups.watch(added, gone)
	}
}

// Ringless is the number of cgroups, of those there were and those that came,
// that had to share the default ring because there were too many, or no memory
// for more.
func (s *Session) Ringless() (n uint64, err error) {
	if s.cgroups == nil {
		return 0, nil
	}
	return s.cgroups.ringless()
}
