// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/tcpconnect"
	"github.com/rbtrace/rbtrace/internal/probes/tcpdrop"
	"github.com/rbtrace/rbtrace/internal/probes/tcplife"
	"github.com/rbtrace/rbtrace/internal/probes/tcpreset"
	"github.com/rbtrace/rbtrace/internal/probes/tcpretrans"
	"github.com/rbtrace/rbtrace/internal/probes/tcpstates"
)

// ownersRing is the ring of a process, of so many: rb_ring_of_pid of ring.h.
func ownersRing(pid, rings uint32) uint32 { return (pid * 2654435761 >> 16) % rings }

// TestOwnersRing: what timers do to a socket goes to the ring of the process that it is of,
// not to that of who was interrupted.
func TestOwnersRing(t *testing.T) {
	bpftest.Require(t)
	pid, rings := uint32(os.Getpid()), uint32(5)
	for ownersRing(pid, rings) == ownersRing(0, rings) { // an idle CPU's
		rings++
	}
	var counts map[any]int
	tracers := []string{"tcpconnect", "tcplife", "tcpstates", "tcpretrans", "tcpreset"}
	tracetest.Seen(t, func() bool {
		tracetest.InNetNS(t, func() { counts = timersRing(t, rings) })
		return !slices.ContainsFunc(tracers, func(tr string) bool { return counts[tr] == 0 })
	})
	for _, tr := range tracers {
		if counts[tr] == 0 {
			t.Errorf("%s has no event: %v", tr, counts)
		}
	}
}

// timersRing has timers change sockets of this process, fails the test where another ring than
// this process's has any of it, and counts the events of each tracer.
func timersRing(t *testing.T, rings uint32) map[any]int {
	pid := uint32(os.Getpid())
	opts := attach.Options{Topology: attach.Hash, Rings: rings, Filter: attach.Filter{PID: pid}}
	s := tracetest.Open(t, opts, tcpconnect.Tracer, tcplife.Tracer, tcpstates.Tracer, tcpretrans.Tracer, tcpreset.Tracer, tcpdrop.Tracer)
	s.Start()
	// Nobody answers: SYNs are sent again, and then it fails.
	full, first, at := nettest.Full("127.0.0.1:0")
	waits := nettest.Socket(unix.AF_INET)
	nettest.Must(unix.SetsockoptInt(waits, unix.SOL_TCP, unix.TCP_SYNCNT, 1),
		unix.SetsockoptInt(waits, unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 100))
	if err := unix.Connect(waits, nettest.Sockaddr(at)); !errors.Is(err, unix.ETIMEDOUT) {
		t.Error(err)
	}
	// Nobody hears: who asks whether the other end is there breaks off.
	l, at := nettest.Listen("127.0.0.1:0", 1)
	c := nettest.Must1(nettest.Connect(at))
	a := nettest.Accept(l)
	nettest.Deaf(a)
	nettest.Must(unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_KEEPIDLE, 1), unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_KEEPINTVL, 1),
		unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_KEEPCNT, 1), unix.SetsockoptInt(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
	for nettest.State(c) != nettest.CloseState {
		time.Sleep(10 * time.Millisecond)
	}
	nettest.Close(waits, first, full, c, a, l)
	r := s.Finish(t)
	for i, n := range s.Written(t) {
		if (n > 0) != (uint32(i) == ownersRing(pid, rings)) {
			t.Errorf("ring %d of %d has %d bytes; this process has number %d", i, rings, n, ownersRing(pid, rings))
		}
	}
	counts := make(map[any]int)
	for _, e := range r.Events {
		counts[e["type"]]++
	}
	return counts
}

// holdSockets makes a connection, says so, and once the line that it waits for has come
// sends what is not heard, until that was sent again, and breaks off.
func holdSockets() error {
	l, at := nettest.Listen("127.0.0.1:0", 1)
	c := nettest.Must1(nettest.Connect(at))
	a := nettest.Accept(l)
	fmt.Fprintln(bpftest.ReportTo, "ready")
	nettest.Must1(os.Stdin.Read(make([]byte, 1)))
	nettest.Deaf(a)
	nettest.Must1(unix.Write(c, []byte("hello")))
	for nettest.Retransmitted(c) < 2 {
		time.Sleep(time.Millisecond)
	}
	nettest.Reset(c)
	return nil
}

// TestOwnersBefore: sockets that are there before the trace are those of the process that
// has them, also for filters.
func TestOwnersBefore(t *testing.T) {
	bpftest.Require(t)
	type test struct {
		name   string
		filter func(pid uint32) attach.Filter
		sys    syscall.SysProcAttr
	}
	for _, test := range bpftest.Thin([]test{
		{"none", func(uint32) attach.Filter { return attach.Filter{} }, syscall.SysProcAttr{}},
		{"pid", func(pid uint32) attach.Filter { return attach.Filter{PID: pid} }, syscall.SysProcAttr{}},
		{"tree", func(uint32) attach.Filter { return attach.Filter{Follow: true} }, syscall.SysProcAttr{}},
		{"pid namespace", func(pid uint32) attach.Filter { return attach.Filter{PID: pid} }, syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}},
		{"comm", func(uint32) attach.Filter { return attach.Filter{Comm: "holdsockets"} }, syscall.SysProcAttr{}},
	}, 3) {
		t.Run(test.name, func(t *testing.T) {
			var counts map[any]int
			all := func() bool { return counts["tcpstates"] > 0 && counts["tcpretrans"] >= 2 && counts["tcpreset"] > 0 }
			tracetest.Seen(t, func() bool {
				tracetest.InNetNS(t, func() { counts = heldSockets(t, test.filter, test.sys) })
				return all()
			})
			if !all() {
				t.Errorf("%v", counts)
			}
		})
	}
}

// heldSockets traces what happens to the sockets of holdSockets, fails the test where that is
// anybody else's, and counts the events of each tracer.
func heldSockets(t *testing.T, filter func(pid uint32) attach.Filter, sys syscall.SysProcAttr) map[any]int {
	ns := nettest.NetNS()
	c := bpftest.Child{Role: "sockets", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), "holdsockets")), Sys: &sys}
	c.Start(t)
	c.ReadLine(t)
	opts := attach.Options{Filter: filter(uint32(c.PID()))}
	s := tracetest.Open(t, opts, tcpstates.Tracer, tcpretrans.Tracer, tcpreset.Tracer, tcpdrop.Tracer)
	if opts.Filter.Follow {
		nettest.Must(s.FollowTree(c.PID()))
	}
	s.Start()
	pid := int64(c.PID())
	c.WriteLine(t)
	c.Wait(t)
	counts := make(map[any]int)
	for _, e := range s.Finish(t).Events {
		// What a socket answers that is no more, and before 6.11 who drops, is nobody's.
		if e["netns"] != ns || e["state"] == "" {
			continue
		}
		counts[e["type"]]++
		inNS := pid
		if sys.Cloneflags != 0 {
			inNS = 1
		}
		if e["pid"] != pid || e["ns_pid"] != inNS || e["comm"] != "holdsockets" {
			t.Errorf("it is not %d's: %v", pid, e)
		}
	}
	return counts
}
