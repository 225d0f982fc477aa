// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// cgroupRings keeps a ring for each cgroup of the unified hierarchy.
type cgroupRings struct {
	outer  *ebpf.Map // id to ring
	create func() (*ebpf.Map, error)

	object  *object
	changes *ringbuf.Ring
	poller  *ringbuf.Poller
	rings   map[uint64]*ebpf.Map // by id; nil: it shares the default ring
	without atomic.Uint64        // cgroups that do

	added func(*ebpf.Map) error
	gone  func(*ebpf.Map)
	ended chan struct{} // closed when the watch has ended; nil: it has not begun
	err   error         // that has ended it
}

// openCgroups gives a ring to each cgroup that there is, and prepares to do so for
// those that come.
func (s *Session) openCgroups() (err error) {
	c := &cgroupRings{outer: s.maps[cgroupRingsMap], create: s.newCgroupRing, rings: make(map[uint64]*ebpf.Map)}
	s.cgroups = c // whose Close closes it
	// Changes are told of before the cgroups are listed, so none is missed.
	if c.object, err = s.loadOwn(wire.LoadCgroups); err != nil {
		return fmt.Errorf("watching for cgroups: %w", err)
	}
	if c.changes, err = ringbuf.Open(c.object.Maps["rb_cgroup_changes"]); err != nil {
		return fmt.Errorf("watching for cgroups: %w", err)
	}
	if c.poller, err = ringbuf.NewPoller(c.changes); err != nil {
		return fmt.Errorf("watching for cgroups: %w", err)
	}
	ids, err := cgroupIDs()
	if err != nil {
		return err
	}
	if len(ids) > maxCgroups {
		c.without.Add(uint64(len(ids) - maxCgroups))
		ids = ids[:maxCgroups]
	}
	rings, err := s.newRings(len(ids))
	if err != nil {
		return err
	}
	for i, id := range ids {
		c.rings[id] = rings[i]
	}
	s.rings = append(s.rings, rings...)
	return enter(c.outer, ids, rings)
}

// cgroupIDs returns the ids of all cgroups below the mount of the unified
// hierarchy, as bpf_get_current_cgroup_id tells them: the numbers of the inodes
// (kernfs_ino, include/linux/kernfs.h).
func cgroupIDs() ([]uint64, error) {
	mount, err := kernel.CgroupMount()
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	var ids []uint64
	err = filepath.WalkDir(mount, func(_ string, d fs.DirEntry, err error) error {
		if d == nil || !d.IsDir() && err == nil {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // it has gone
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		ids = append(ids, info.Sys().(*syscall.Stat_t).Ino)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	return ids, nil
}

// watch follows what comes and goes, until close.
func (c *cgroupRings) watch(added func(*ebpf.Map) error, gone func(*ebpf.Map)) {
	c.added, c.gone, c.ended = added, gone, make(chan struct{})
	go func() {
		defer close(c.ended)
		for {
			for {
				sample, ok := c.changes.Next()
				if !ok {
					break
				}
				var change wire.CgroupChange
				if _, c.err = binary.Decode(sample, binary.NativeEndian, &change); c.err != nil {
					return
				}
				if change.Gone != 0 {
					c.remove(change.Id)
				} else {
					c.add(change.Id)
				}
			}
			if c.err = c.changes.Err(); c.err != nil {
				return
			}
			wake, err := c.poller.Wait(-1)
			if c.err = err; err != nil || wake == ringbuf.Interrupted {
				return
			}
		}
	}()
}

// add gives the cgroup a ring, if there can be one.
func (c *cgroupRings) add(id uint64) {
	if _, ok := c.rings[id]; ok {
		return // it was there when they were listed
	}
	c.rings[id] = nil
	ring, err := c.create()
	if err != nil {
		c.without.Add(1)
		return
	}
	// The reader comes first: nothing is written that nobody reads.
	if err := c.added(ring); err != nil {
		ring.Close()
		c.without.Add(1)
		return
	}
	if err := c.outer.Put(id, ring); err != nil { // there are too many
		c.gone(ring)
		ring.Close()
		c.without.Add(1)
		return
	}
	c.rings[id] = ring
}

// remove takes the ring of a cgroup away.
func (c *cgroupRings) remove(id uint64) {
	ring := c.rings[id]
	delete(c.rings, id)
	if ring == nil {
		return
	}
	// The kernel returns when no program uses the ring any more
	// (maybe_wait_bpf_programs, kernel/bpf/syscall.c). An error would mean that the
	// ring is not there.
	_ = c.outer.Delete(id)
	c.gone(ring)
	ring.Close()
}

// ringless returns how many cgroups have shared the default ring, once they are no longer watched.
func (c *cgroupRings) ringless() (uint64, error) {
	if c.err != nil {
		return 0, fmt.Errorf("watching for cgroups, of which the later ones share the default ring: %w", c.err)
	}
	var lost uint64
	if err := c.object.Variables["rb_changes_lost"].Get(&lost); err != nil {
		return 0, fmt.Errorf("reading how many cgroups were not seen: %w", err)
	}
	return c.without.Load() + lost + c.object.missed(), nil
}

// unwatch ends the watch: rings stay as they are.
func (c *cgroupRings) unwatch() {
	if c.ended != nil {
		c.poller.Interrupt()
		<-c.ended
		c.ended = nil
	}
}

// close frees everything.
func (c *cgroupRings) close() {
	c.unwatch()
	if c.poller != nil {
		_ = c.poller.Close() // nothing can be lost by it
	}
	if c.changes != nil {
		_ = c.changes.Close()
	}
	if c.object != nil {
		c.object.close()
	}
	for _, ring := range c.rings {
		ring.Close() // also of nil
	}
}
