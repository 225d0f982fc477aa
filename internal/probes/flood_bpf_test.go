// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/probes/open"
)

// floodComm is the name of processes that flood, and that of no others: the tests
// see all of the machine.
var floodComm = fmt.Sprintf("flood-%d", os.Getpid())

// roles: flood waits, and fails to open a file and to execute a program as often as
// its argument says: nothing makes events faster.
func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{"descend": descend, "sockets": holdSockets, "all": doAll, "flood": func() error {
		n, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		runtime.LockOSThread() // the name is the thread's
		if err := errors.Join(os.WriteFile("/proc/thread-self/comm", []byte(os.Args[0]), 0o644), bpftest.AwaitEOF()); err != nil {
			return err
		}
		for range n {
			if _, err := unix.Open("/nothing", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
				return err
			}
			if err := bpftest.Execveat(unix.AT_FDCWD, "/nothing", []string{"nothing"}, nil, 0); !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	}})
}

// flood starts a process that makes n events once it is told to end. It begins in
// the cgroup at dir, if there is one.
func flood(t *testing.T, n int, dir string) *bpftest.Child {
	t.Helper()
	c := &bpftest.Child{Role: "flood", Args: []string{floodComm, strconv.Itoa(n)}}
	if dir != "" {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.Sys = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	}
	c.Start(t)
	return c
}

var topologies = []struct {
	name string
	attach.Topology
	rings uint32
}{
	{"shared", attach.Shared, 0},
	{"percpu", attach.PerCPU, 0},
	{"hash", attach.Hash, 3},
	{"cgroup", attach.PerCgroup, 0},
}

var wakeups = []struct {
	name string
	attach.Wakeup
}{
	{"auto", attach.Wakeup{}},
	{"every", attach.Wakeup{Policy: attach.WakeupEvery}},
	{"bytes", attach.Wakeup{Policy: attach.WakeupBytes, Bytes: 2048}},
	{"never", attach.Wakeup{Policy: attach.WakeupNever}},
}

// floodOptions are those of traces of floods.
func floodOptions(t *testing.T, topology attach.Topology) attach.Options {
	if topology == attach.PerCgroup {
		if _, err := kernel.CgroupMount(); err != nil {
			bpftest.Skipf(t, "finding cgroups: %v", err)
		}
	}
	return attach.Options{Failed: true, Topology: topology, Filter: attach.Filter{Comm: floodComm}}
}

// TestFlood: two processes flood, with the events of two tracers, the smallest rings while the reader is slow. Most
// events are lost, and the books balance to the last one, whichever rings there are
// and whatever wakes the reader.
func TestFlood(t *testing.T) {
	bpftest.Require(t)
	const processes = 2
	each := bpftest.Few(2003, 307)
	for _, topology := range topologies {
		for _, wakeup := range bpftest.Thin(wakeups, 4) {
			t.Run(topology.name+"/"+wakeup.name, func(t *testing.T) {
				opts := floodOptions(t, topology.Topology)
				opts.Rings, opts.RingSize, opts.Wakeup = topology.rings, uint32(os.Getpagesize()), wakeup.Wakeup
				s := tracetest.Open(t, opts, exec.Tracer, open.Tracer)
				s.Sink.Delay = 5 * time.Millisecond // much longer than an event takes, however slow the machine is
				s.Start()
				var children [processes]*bpftest.Child
				for i := range children {
					children[i] = flood(t, each, "")
				}
				for _, c := range children {
					c.Release()
				}
				for _, c := range children {
					c.End(t)
				}
				r := s.Finish(t) // which compares the books with the stream
				lateSaid, made := uint64(0), uint64(each*processes)
				for _, l := range r.Ledger {
					total := l.Total()
					lateSaid += l.Late
					// The kernel may have missed events of others.
					if got := total.Lost + total.Submitted; got < made || got-l.Missed > made || total.Discarded != 0 {
						t.Errorf("%d events of %d: %s", got, made, l)
					}
					if l.Printed == 0 || total.Lost < made/2 {
						t.Errorf("%d of %d events were lost: this is no flood", total.Lost, made)
					}
				}
				var last int64
				late := uint64(0)
				for _, e := range r.Events {
					at := e["boot_ns"].(int64)
					if at < last {
						late++
					}
					last = max(last, at)
				}
				if topology.Topology != attach.Shared && late != lateSaid {
					t.Errorf("%d events are out of order, and %d are said to be", late, lateSaid)
				}
			})
		}
	}
}

// newCgroup makes a cgroup of the unified hierarchy.
func newCgroup(t *testing.T) (dir string, id uint64) {
	t.Helper()
	mount, err := kernel.CgroupMount()
	if err == nil {
		dir, err = os.MkdirTemp(mount, "rbtrace-test")
	}
	if err != nil {
		bpftest.Skipf(t, "making a cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return dir, st.Ino
}

// ringOf returns the id of the ring that the kernel has for the cgroup, 0 where
// there is none, in this process's own session: others may run.
func ringOf(t *testing.T, cgroup uint64) (ring uint32) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		_, line, ok := strings.Cut(string(info), "map_id:")
		if !ok {
			continue
		}
		line, _, _ = strings.Cut(line, "\n")
		id, err := strconv.ParseUint(strings.TrimSpace(line), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue // it has gone
		}
		if info, err := m.Info(); err == nil && info.Name == "rb_cgroup_rings" && m.Lookup(cgroup, &ring) != nil {
			ring = 0
		}
		m.Close()
		if ring != 0 {
			return ring
		}
	}
	return 0
}

// until waits for ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestNoisyCgroup: a cgroup that floods fills its own ring and loses its own events.
// Another one loses none of its few, whether the cgroups were there before or came
// while tracing.
func TestNoisyCgroup(t *testing.T) {
	bpftest.Require(t)
	const noise, few = 5003, 17
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			opts := floodOptions(t, attach.PerCgroup)
			opts.RingSize = 4 * uint32(os.Getpagesize())
			var s *tracetest.Session
			start := func() { s = tracetest.Open(t, opts, exec.Tracer) } // the reader sleeps
			if !late {
				_, _ = newCgroup(t) // an empty one
			} else {
				start()
			}
			loud, loudID := newCgroup(t)
			quiet, quietID := newCgroup(t)
			if !late {
				start()
			}
			until(t, "the cgroups have their rings", func() bool { return ringOf(t, loudID) != 0 && ringOf(t, quietID) != 0 })
			if ringOf(t, loudID) == ringOf(t, quietID) {
				t.Fatal("they share one")
			}
			for _, c := range []*bpftest.Child{flood(t, few, quiet), flood(t, noise, loud), flood(t, few, quiet), flood(t, few, "")} {
				c.End(t)
			}
			r := s.Finish(t)
			seen := make(map[uint64]int)
			for _, e := range r.Events {
				seen[uint64(e["cgroup_id"].(int64))]++
			}
			l := r.Ledger[0]
			total := l.Total()
			if seen[quietID] != 2*few || len(seen) != 3 {
				t.Errorf("events by cgroup: %v, want %d of the quiet one", seen, 2*few)
			}
			if n := seen[loudID]; n == 0 || n > noise/2 || uint64(noise-n) != total.Lost-l.Missed {
				t.Errorf("%d of %d events of the loud one, and %d lost", n, noise, total.Lost)
			}
		})
	}
}

// TestCgroupGoes: the ring of a cgroup that is removed is emptied, and is then no
// more; and cgroups that come and go all the time lose no event.
func TestCgroupGoes(t *testing.T) {
	bpftest.Require(t)
	const rounds, each = 7, 13
	opts := floodOptions(t, attach.PerCgroup)
	opts.RingSize = 1 << 20
	s := tracetest.Open(t, opts, exec.Tracer)
	before := s.Fill().Rings
	s.Start()
	seen := make(map[uint64]int)
	for range rounds {
		dir, id := newCgroup(t)
		seen[id] = each
		until(t, "the cgroup has its ring", func() bool { return ringOf(t, id) != 0 })
		flood(t, each, dir).End(t)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		until(t, "the cgroup has no ring", func() bool { return ringOf(t, id) == 0 })
	}
	s.Stop(t)
	until(t, "they are looked at no more", func() bool {
		s.Drain(t)
		return s.Fill().Rings == before
	})
	s.Start()
	flood(t, each, "").End(t)
	r := s.Finish(t)
	for _, e := range r.Events {
		seen[uint64(e["cgroup_id"].(int64))]--
	}
	if len(r.Events) != (rounds+1)*each || r.Lost != 0 {
		t.Errorf("%d events, want %d; lost %d", len(r.Events), (rounds+1)*each, r.Lost)
	}
	for id, n := range seen {
		if n > 0 {
			t.Errorf("%d events of cgroup %d are missing", n, id)
		}
	}
}
