// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// openFollow loads and attaches the programs that follow forks.
func (s *Session) openFollow() error {
	// A fork or exec that is missed is a process not followed.
	follow, err := s.loadOwn(wire.LoadFollow, tracer.Program{Name: "rb_follow_free", Prepares: true, Atomic: true})
	if err != nil {
		return fmt.Errorf("following processes: %w", err)
	}
	s.follow = follow
	return nil
}

// Follow makes Options.Filter.Follow let pid and its descendants pass: those that it
// will have from now on. It must have been set. pid is as this process sees it.
func (s *Session) Follow(pid int) error {
	initial, err := s.initialPid(uint32(pid))
	if err == nil {
		err = s.maps[treeMap].Put(initial, uint64(0))
	}
	if err != nil {
		return fmt.Errorf("following process %d: %w", pid, err)
	}
	return nil
}

// FollowExec is Follow for pid from its next exec on, which is seen, too: what it does
// before is not.
func (s *Session) FollowExec(pid int) error {
	initial, err := s.initialPid(uint32(pid))
	if err == nil {
		err = s.follow.Variables["rb_awaited"].Set(initial)
	}
	if err != nil {
		return fmt.Errorf("following process %d: %w", pid, err)
	}
	return nil
}

// FollowTree is Follow for pid and the descendants that it has already, and what they
// have open. It is called once. The error wraps fs.ErrNotExist where there is no such process.
func (s *Session) FollowTree(pid int) error {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("following process %d: the /proc here is not that of this pid namespace: mount -t proc proc /proc", pid)
	}
	if err := s.Follow(pid); err != nil {
		return err
	}
	// Whoever is followed has no further descendants that are not. Until all are,
	// more may come, but from those alone.
	followed := map[int]bool{pid: true}
	for n := 0; n < len(followed); {
		n = len(followed)
		parents, err := parents()
		if err != nil {
			return err
		}
		if _, ok := parents[pid]; !ok {
			return fmt.Errorf("following process %d: %w", pid, fs.ErrNotExist)
		}
		for child := range parents {
			if followed[child] || !descends(child, pid, parents) {
				continue
			}
			if err := s.Follow(child); err != nil {
				return err
			}
			followed[child] = true
		}
	}
	for _, l := range s.Tracers {
		if err := l.object.lookBefore(); err != nil {
			return err
		}
	}
	return nil
}

// descends reports whether child descends from pid.
func descends(child, pid int, parents map[int]int) bool {
	for range parents { // which, read while it changed, may have a circle
		if child = parents[child]; child == pid || child == 0 {
			break
		}
	}
	return child == pid
}

// descendants returns a process and those that descend from it.
func descendants(pid uint32) ([]uint32, error) {
	parents, err := parents()
	if err != nil {
		return nil, err
	}
	list := []uint32{pid}
	for child := range parents {
		if child != int(pid) && descends(child, int(pid), parents) {
			list = append(list, uint32(child))
		}
	}
	slices.Sort(list[1:])
	return list, nil
}

// parents returns the parent of each process.
func parents() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing the processes: %w", err)
	}
	parents := make(map[int]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// PID (COMM) STATE PPID, and COMM may have parentheses and spaces in it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 {
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return parents, nil
}

// Unfollowed returns the number of processes that could not be followed since
// there was no room for them, and of forks and execs that the kernel did not show, of
// whichever processes.
func (s *Session) Unfollowed() (n uint64, err error) {
	if s.follow == nil {
		return 0, nil
	}
	if err := s.follow.Variables["rb_unfollowed"].Get(&n); err != nil {
		return 0, fmt.Errorf("reading how many processes were not followed: %w", err)
	}
	return n + s.follow.missed(), nil
}
