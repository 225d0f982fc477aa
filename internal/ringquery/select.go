// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"
)

// Selection chooses rings. A ring must match each of the lists that are not empty, and
// matches a list if it matches one entry.
type Selection struct {
	IDs   []ebpf.MapID
	Names []string // globs, as path.Match has them
	PIDs  []int    // of processes that hold a descriptor of the ring
	Pins  []string // paths in a BPF file system
	// Programs that use the ring, or the map of maps that has it: ids, or names as the
	// kernel has them, at most 15 bytes.
	Programs []string
}

// Check returns what is wrong with the selection in itself.
func (s *Selection) Check() error {
	for _, name := range s.Names {
		if _, err := path.Match(name, ""); err != nil {
			return fmt.Errorf("name %q is no pattern: %w", name, err)
		}
	}
	for _, pid := range s.PIDs {
		if pid <= 0 || pid > math.MaxInt32 {
			return fmt.Errorf("no process has the id %d", pid)
		}
	}
	if slices.Contains(s.Programs, "") {
		return errors.New("a program's id or name is needed")
	}
	return nil
}

// All reports whether the selection is that of all rings.
func (s *Selection) All() bool {
	return len(s.IDs) == 0 && len(s.Names) == 0 && len(s.PIDs) == 0 && len(s.Pins) == 0 && len(s.Programs) == 0
}

// named reports whether the selection names rings that must exist.
func (s *Selection) named() bool { return len(s.IDs) > 0 || len(s.Pins) > 0 }

func (s *Selection) matchName(name string) bool {
	return len(s.Names) == 0 || slices.ContainsFunc(s.Names, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// targets opens the selected rings. The error tells of those that are named and cannot
// be opened; the list is nil where the others are not to be shown either.
func (q *Querier) targets(req *Request) ([]*target, error) {
	sel := &req.Select
	targets := []*target{}
	var errs []error
	add := func(t *target, err error) {
		switch {
		case err != nil:
			errs = append(errs, err)
		case !sel.matchName(t.ring.Name) || len(sel.IDs) > 0 && !slices.Contains(sel.IDs, t.ring.ID) ||
			slices.ContainsFunc(targets, func(u *target) bool { return u.ring.ID == t.ring.ID }) && sel.named():
			t.close()
		default:
			targets = append(targets, t)
		}
	}
	switch {
	case len(sel.Pins) > 0:
		for _, file := range sel.Pins {
			add(q.byPin(file))
		}
	case q.limit != nil:
		seen := make(map[ebpf.MapID]bool)
		for _, p := range pinnedMaps() {
			if t, err := q.byPin(p); err == nil && !seen[t.ring.ID] {
				seen[t.ring.ID] = true
				add(t, nil)
			} else if err == nil {
				t.close()
			}
		}
		for _, id := range sel.IDs {
			if !seen[id] {
				errs = append(errs, fmt.Errorf("no pinned ring buffer that this user may open has the id %d, and others cannot be opened: %w", id, q.limit))
			}
		}
	case len(sel.IDs) > 0:
		for _, id := range slices.Compact(slices.Sorted(slices.Values(sel.IDs))) {
			t, err := q.byID(id)
			if errors.Is(err, fs.ErrNotExist) && q.rings[id] != nil {
				err = fmt.Errorf("ring buffer %d has gone: %w", id, fs.ErrNotExist)
			}
			add(t, err)
		}
	default:
		ids, err := mapIDs()
		if err != nil {
			return nil, err
		}
		q.keepFacts(ids)
		for _, id := range ids {
			if f, ok := q.facts[id]; ok && (!f.ring() || !sel.matchName(f.name)) {
				continue
			}
			t, err := q.byID(id)
			var notRing *NotRingError
			if errors.Is(err, fs.ErrNotExist) || errors.As(err, &notRing) {
				continue
			}
			add(t, err)
		}
	}
	if len(sel.PIDs) > 0 || len(sel.Programs) > 0 {
		kept, err := q.narrow(targets, req)
		if err != nil {
			for _, t := range targets {
				t.close()
			}
			return nil, errors.Join(append(errs, err)...)
		}
		targets = kept
	}
	return targets, errors.Join(errs...)
}

// keepFacts forgets what is known of maps that are no more.
func (q *Querier) keepFacts(ids []ebpf.MapID) {
	for id := range q.facts {
		if _, ok := slices.BinarySearch(ids, id); !ok {
			delete(q.facts, id)
		}
	}
}

// byPin opens a pinned ring.
func (q *Querier) byPin(file string) (*target, error) {
	m, err := openPin(file)
	if err != nil {
		return nil, err
	}
	f, id, err := factsOf(m)
	switch {
	case err != nil:
		m.Close()
		return nil, err
	case !f.ring():
		m.Close()
		return nil, fmt.Errorf("%s is a BPF map, but not a ring buffer: its type is %s", file, f.typ)
	}
	t := newTarget(m, id, f)
	return t, nil
}

// openPin opens a pinned map: for reading and writing, without which the kernel gives
// no mapping, or, where the file's mode forbids that, for reading.
func openPin(file string) (*ebpf.Map, error) {
	var object pin.Pinner
	err := onBPFFS(file)
	if err == nil {
		object, err = pin.Load(file, nil)
		if errors.Is(err, fs.ErrPermission) {
			object, err = pin.Load(file, &ebpf.LoadPinOptions{ReadOnly: true})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the pinned map %s: %w", file, unwrapPath(err))
	}
	if m, ok := object.(*ebpf.Map); ok {
		return m, nil
	}
	what := "link"
	if p, ok := object.(*ebpf.Program); ok {
		what = "program of type " + programType(p.Type())
	}
	_ = object.Close()
	return nil, fmt.Errorf("%s is not a BPF map: it is a %s", file, what)
}

// onBPFFS returns why no BPF object can be pinned at a path.
func onBPFFS(file string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		return err
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return errors.New("it is not in a BPF file system, and no pin")
	}
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errors.New("it is a directory, and no pin")
	}
	return nil
}

// unwrapPath leaves out the library's words about the path, which is told already.
func unwrapPath(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}

// narrow keeps the targets that the selected processes hold and the selected programs
// use, and closes the others.
func (q *Querier) narrow(targets []*target, req *Request) ([]*target, error) {
	sel := &req.Select
	keep := func(ebpf.MapID) bool { return true }
	if len(sel.Programs) > 0 {
		ids, err := q.mapsOfPrograms(sel.Programs)
		if err != nil {
			return nil, err
		}
		keep = func(id ebpf.MapID) bool { return ids[id] }
	}
	if len(sel.PIDs) > 0 {
		asking := make(map[int]bool) // what this process holds because it asks
		for _, t := range targets {
			asking[t.m.FD()] = true
		}
		held := make(map[ebpf.MapID]bool)
		for _, pid := range sel.PIDs {
			ids, err := mapsOfProcess(pid, asking)
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				held[id] = true
			}
		}
		used := keep
		keep = func(id ebpf.MapID) bool { return used(id) && held[id] }
	}
	kept := targets[:0:0]
	for _, t := range targets {
		if keep(t.ring.ID) {
			kept = append(kept, t)
		} else {
			t.close()
		}
	}
	return kept, nil
}

// programID reads a program's id, where the text is one.
func programID(text string) (ebpf.ProgramID, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return ebpf.ProgramID(n), err == nil
}
