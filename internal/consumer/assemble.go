// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"slices"

	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// What is kept is bounded, since a recording may be damaged, or made to do harm. No
// program goes near these bounds.
const (
	maxPart   = 1 << 20  // bytes that the parts of one event hold
	maxParts  = 64       // their number
	maxGroups = 4        // incomplete ones of one tracer on one CPU, which makes one after the other
	maxKept   = 64 << 20 // bytes of all incomplete ones: less than a ring holds with them
)

// group is the parts of one event, as far as they have come.
type group struct {
	tracer, cpu, id uint16
	time            uint64

	n    int    // parts
	data []byte // what they hold, where it belongs
	have []span // what of data has come
	bad  bool   // one of them cannot be
}

// span is the bytes from begin to end.
type span struct{ begin, end int }

// parts puts events together that came in several records. Its zero value is
// ready.
type parts struct {
	groups []*group // incomplete, the oldest first
	free   []*group // to be used again
	kept   int      // bytes of data in groups
	record []byte   // the last event
}

// find returns the index in groups of the one that head belongs to: -1 where there
// is none. All heads of an event are alike.
func (p *parts) find(head *wire.Head) int {
	return slices.IndexFunc(p.groups, func(g *group) bool {
		return g.id == head.Group && g.cpu == head.Cpu && g.tracer == head.Tracer && g.time == head.Time
	})
}

// keep keeps a copy of a part until the main record comes. It returns how many
// other parts it gave up, whose main record is not expected any more.
func (p *parts) keep(head *wire.Head, record []byte) (dropped uint64) {
	i := p.find(head)
	if i < 0 {
		dropped = p.makeRoom(head)
		var g *group
		if n := len(p.free); n > 0 {
			g, p.free = p.free[n-1], p.free[:n-1]
		} else {
			g = &group{}
		}
		*g = group{tracer: head.Tracer, cpu: head.Cpu, id: head.Group, time: head.Time, data: g.data[:0], have: g.have[:0]}
		i = len(p.groups)
		p.groups = append(p.groups, g)
	}
	g := p.groups[i]
	p.kept -= len(g.data)
	g.add(tracer.Part(record))
	p.kept += len(g.data)
	return dropped
}

// makeRoom drops the oldest groups for one that head begins.
func (p *parts) makeRoom(head *wire.Head) (dropped uint64) {
	same, oldest := 0, -1
	for i, g := range p.groups {
		if g.cpu == head.Cpu && g.tracer == head.Tracer {
			if same++; oldest < 0 {
				oldest = i
			}
		}
	}
	if same >= maxGroups {
		dropped += p.drop(oldest)
	}
	for p.kept > maxKept-maxPart {
		dropped += p.drop(0)
	}
	return dropped
}

// drop forgets a group, and returns how many parts it has.
func (p *parts) drop(i int) uint64 {
	g := p.groups[i]
	p.groups = slices.Delete(p.groups, i, i+1)
	p.free = append(p.free, g)
	p.kept -= len(g.data)
	return uint64(g.n)
}

// dropAll forgets all groups, and returns how many parts they have.
func (p *parts) dropAll() (dropped uint64) {
	for len(p.groups) > 0 {
		dropped += p.drop(0)
	}
	return dropped
}

// join returns the event that a main record ends, as one record: behind the main
// record is what the parts hold. It is 8-byte aligned and good until the next call.
// nil: parts are missing, or wrong.
func (p *parts) join(head *wire.Head, record []byte) []byte {
	i := p.find(head)
	if i < 0 {
		return nil
	}
	g := p.groups[i]
	p.drop(i)
	if !g.whole() {
		return nil
	}
	// Room of 8 bytes and more is 8-byte aligned: see capture.Reader.
	p.record = append(append(p.record[:0], record...), g.data...)
	tracer.Head(p.record).Group = 0
	return p.record
}

// add enters a part: nil for one that has not the length of a part.
func (g *group) add(part *wire.Part) {
	g.n++
	if part == nil || part.Offset > maxPart-uint64(len(part.Data)) || g.n > maxParts {
		g.bad = true
		return
	}
	s := span{begin: int(part.Offset), end: int(part.Offset) + len(part.Data)}
	if more := s.end - len(g.data); more > 0 {
		g.data = slices.Grow(g.data, more)[:s.end]
	}
	copy(g.data[s.begin:], part.Data[:])
	g.have = append(g.have, s)
}

// whole reports whether all bytes before the last one have come.
func (g *group) whole() bool {
	slices.SortFunc(g.have, func(a, b span) int { return a.begin - b.begin })
	end := 0
	for _, s := range g.have {
		if s.begin > end {
			return false
		}
		end = max(end, s.end)
	}
	return !g.bad && end > 0
}
