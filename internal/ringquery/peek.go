// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// Peek returns copies of the next n unread records of a ring, or of as many as there
// are, with up to limit bytes of the payload of each. Its owner loses none of them:
// they come from a read-only mapping, which moves no position. Those that the owner
// consumed meanwhile are marked as stale. Errors are as those of Ring.
func (q *Querier) Peek(id ebpf.MapID, n int, limit uint32) ([]ringbuf.Record, error) {
	t, err := q.byIDOrPin(id)
	if err != nil {
		return nil, err
	}
	defer t.close()
	v, err := ringbuf.OpenView(t.m)
	if err != nil {
		return nil, fmt.Errorf("peeking into ring buffer %d: %w", id, err)
	}
	defer v.Close()
	records, err := v.Peek(n, limit)
	if err != nil {
		return nil, fmt.Errorf("peeking into ring buffer %d: %w", id, err)
	}
	return records, nil
}

// byIDOrPin opens a ring by its id, or, where that is forbidden, by one of its pins.
func (q *Querier) byIDOrPin(id ebpf.MapID) (*target, error) {
	if q.limit == nil {
		return q.byID(id)
	}
	for _, file := range pinnedMaps() {
		t, err := q.byPin(file)
		if err != nil {
			continue // not ours to open, or no ring
		}
		if t.ring.ID == id {
			return t, nil
		}
		t.close()
	}
	return nil, fmt.Errorf("no pinned ring buffer that this user may open has the id %d: %w", id, errors.Join(fs.ErrNotExist, q.limit))
}

// Constant reads size bytes at offset from the constants (.rodata) of a program of the
// machine, which must be of the given size as a whole. ok is false where the program
// has no such constants, or cannot be looked at.
func (q *Querier) Constant(id ebpf.ProgramID, whole, offset, size uint32) (value []byte, ok bool) {
	p := q.details.programs[id]
	if p == nil || offset+size > whole {
		return nil, false
	}
	for _, mapID := range p.maps {
		m, err := ebpf.NewMapFromID(mapID)
		if err != nil {
			continue
		}
		info, err := m.Info()
		if err == nil && m.Type() == ebpf.Array && info.Name == ".rodata" && m.ValueSize() == whole {
			all := make([]byte, whole)
			err = m.Lookup(uint32(0), &all)
			m.Close()
			if err != nil {
				return nil, false
			}
			return all[offset : offset+size], true
		}
		m.Close()
	}
	return nil, false
}
