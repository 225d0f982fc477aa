// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

const (
	// maxAncestors bounds a chain: deeper ones are cut.
	maxAncestors = 64
	// lookAgain bounds how often processes that are not noted make all be noted anew.
	lookAgain = time.Second
	// maxKnown bounds what is remembered of processes that the kernel's side has
	// forgotten.
	maxKnown = 1 << 16
)

// Lineage knows the ancestors of processes, also of those whose parents are gone. It
// belongs to one goroutine.
type Lineage struct {
	object   *object
	descents *ebpf.Map
	tasks    *link.Iter // reading it notes all processes
	looked   time.Time
	known    map[wire.Process]wire.Descent
}

// openLineage notes the processes that there are, and those that will be made.
func (s *Session) openLineage() (*Lineage, error) {
	o, err := s.loadOwn(wire.LoadLineage)
	if err != nil {
		return nil, fmt.Errorf("noting which process made which: %w", advise(err))
	}
	l := &Lineage{object: o, descents: o.Maps["rb_descents"], known: make(map[wire.Process]wire.Descent)}
	for _, at := range l.object.links {
		if tasks, ok := at.(*link.Iter); ok {
			l.tasks = tasks
		}
	}
	// Those that are made from here on are noted as they are.
	if err := l.look(); err != nil {
		l.object.close()
		return nil, err
	}
	return l, nil
}

// Lineage returns what Options.Lineage asked for, nil where it did not.
func (s *Session) Lineage() *Lineage { return s.lineage }

// look notes the processes that there are.
func (l *Lineage) look() error {
	l.looked = time.Now()
	if err := runIter(l.tasks); err != nil {
		return fmt.Errorf("noting the processes of this machine: %w", err)
	}
	return nil
}

// Ancestors appends the ancestors of who's process, its parent first. A parent is who
// made the process, be it gone or not; of those that were there before the session,
// it is who the kernel took for it then. The last one is process 1 or 2, unless
// somebody between is not known any more, or there are more than 64.
func (l *Lineage) Ancestors(list []field.Ancestor, who *wire.Who) []field.Ancestor {
	at := wire.Process{Start: who.Start, Pid: who.Pid}
	d, ok := l.descent(at)
	for n := 0; ok && d.Parent.Pid != 0 && n < maxAncestors; n++ {
		at = d.Parent
		if d, ok = l.descent(at); !ok {
			break
		}
		list = append(list, field.Ancestor{Proc: field.ProcID{Start: at.Start, PID: at.Pid}, Comm: d.Comm})
	}
	return list
}

// descent finds a process: in the kernel's notes; in what it was found to be before;
// or among those that there are, if they have not just been looked at.
func (l *Lineage) descent(p wire.Process) (d wire.Descent, ok bool) {
	if p.Pid == 0 {
		return d, false
	}
	if l.descents.Lookup(p, &d) == nil {
		if len(l.known) >= maxKnown {
			clear(l.known)
		}
		l.known[p] = d
		return d, true
	}
	if d, ok = l.known[p]; ok {
		return d, true
	}
	if time.Since(l.looked) < lookAgain || l.look() != nil {
		return d, false
	}
	return d, l.descents.Lookup(p, &d) == nil
}
