// SPDX-License-Identifier: Apache-2.0

package tcpstates_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/tcpstates"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

var must = nettest.Must

// life is what the events of one socket tell.
type life struct {
	states string // all of them
	events []event
}

// lives sorts events by socket. gaps are what is wrong with that.
func lives(events []event) (all []*life, gaps []string) {
	alive := make(map[any]*life)
	for _, e := range events {
		l := alive[e["sock"]]
		if l == nil {
			l = &life{states: e["old_state"].(string)}
			alive[e["sock"]] = l
			all = append(all, l)
		}
		if states := strings.Fields(l.states); states[len(states)-1] != e["old_state"] {
			gaps = append(gaps, fmt.Sprintf("after %s it leaves %s", l.states, e["old_state"]))
		}
		l.states += " " + e["new_state"].(string)
		l.events = append(l.events, e)
		if e["new_state"] == "CLOSE" {
			delete(alive, e["sock"])
		}
	}
	if len(alive) != 0 {
		gaps = append(gaps, fmt.Sprintf("%d sockets have no end", len(alive)))
	}
	return all, gaps
}

const closeWait = 8 // include/net/tcp_states.h

const (
	listener = "CLOSE LISTEN CLOSE"
	first    = "CLOSE SYN-SENT ESTAB FIN-WAIT-1 FIN-WAIT-2 CLOSE"
	other    = "LISTEN SYN-RECV ESTAB CLOSE-WAIT LAST-ACK CLOSE"
	refused  = "CLOSE SYN-SENT CLOSE"
	reset    = "CLOSE SYN-SENT ESTAB CLOSE"
	wasReset = "LISTEN SYN-RECV ESTAB CLOSE"
)

// ends checks both ends of an event.
func ends(t *testing.T, e event, ip int64, local, remote netip.AddrPort) {
	t.Helper()
	if diff := e.Diff(event{
		"ip": ip, "laddr": local.Addr().Unmap().String(), "lport": int64(local.Port()),
		"raddr": remote.Addr().Unmap().String(), "rport": int64(remote.Port()),
	}); diff != "" {
		t.Errorf("%s to %s: %s", e["old_state"], e["new_state"], diff)
	}
}

// TestLives: all states of both ends, over IPv4, IPv6, and IPv4 between sockets of IPv6.
func TestLives(t *testing.T) {
	bpftest.Require(t)
	const n = 5
	for _, test := range []struct {
		name, listen, connect string
		ip                    int64
	}{
		{"ipv4", "127.0.0.1:0", "127.0.0.1", 4},
		{"ipv6", "[::1]:0", "::1", 6},
		{"mapped", "[::]:0", "::ffff:127.0.0.1", 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			type pair struct{ client, server netip.AddrPort }
			var pairs []pair
			var closed netip.AddrPort
			var me, acceptor, ns int64
			slept := 20 * time.Millisecond
			workload := func() {
				me, ns, pairs = int64(unix.Gettid()), nettest.NetNS(), nil
				l, at := nettest.Listen(test.listen, n)
				at = netip.AddrPortFrom(netip.MustParseAddr(test.connect), at.Port())
				var accepted []int
				var connected []int
				for range n {
					c, err := nettest.Connect(at)
					must(err)
					connected = append(connected, c)
					pairs = append(pairs, pair{nettest.Local(c), at})
				}
				nettest.Other(func(tid int64) {
					acceptor = tid
					for range n {
						accepted = append(accepted, nettest.Accept(l))
					}
				})
				time.Sleep(slept)
				for i := range n - 1 {
					nettest.Finish(connected[i], accepted[i])
				}
				nettest.Reset(connected[n-1])
				nettest.Await(accepted[n-1], nettest.CloseState)
				nettest.Close(accepted[n-1], l)
				closed = netip.AddrPortFrom(at.Addr(), at.Port())
				c, err := nettest.Connect(closed)
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Error(err)
				}
				nettest.Close(c)
			}
			want := map[string]int{listener: 1, first: n - 1, other: n - 1, refused: 1, reset: 1, wasReset: 1}
			var all []*life
			var gaps []string
			var counts map[string]int
			// An ACK may be that of a timer, in an interrupt.
			tracetest.Seen(t, func() bool {
				all, gaps = lives(tracetest.TraceNet(t, tcpstates.Tracer, attach.Options{}, workload))
				counts = make(map[string]int)
				for _, l := range all {
					counts[l.states]++
				}
				return len(gaps) == 0 && maps.Equal(counts, want)
			})
			clients, servers := 0, 0
			for _, l := range all {
				for i, e := range l.events {
					age := e["age_ns"].(int64)
					if e["netns"] != ns || (i > 0) != (age > 0) {
						t.Errorf("event %d of %s: age %d", i, l.states, age)
					}
				}
				switch l.states {
				case first, reset:
					p := pairs[clients]
					clients++
					if e := l.events[0]; e["rport"] != int64(p.server.Port()) || e["raddr"] != p.server.Addr().Unmap().String() || e["lport"] != int64(0) {
						t.Errorf("SYN-SENT: %v", e)
					}
					for _, e := range l.events[1:] {
						ends(t, e, test.ip, p.client, p.server)
					}
					for _, e := range l.events {
						if e["pid"] != int64(os.Getpid()) || e["tid"] != me {
							t.Errorf("%s: it is %d's, want %d", e["new_state"], e["tid"], me)
						}
					}
					if age := time.Duration(l.events[2]["age_ns"].(int64)); age < slept {
						t.Errorf("established for %v, want %v", age, slept)
					}
				case other, wasReset:
					p := pairs[servers]
					servers++
					if e := l.events[0]; e["lport"] != int64(p.server.Port()) {
						t.Errorf("SYN-RECV: %v", e)
					}
					for _, e := range l.events[1:] {
						ends(t, e, test.ip, p.server, p.client)
					}
					for i, e := range l.events {
						tid, pid := int64(0), int64(0) // until it is accepted
						if i >= 2 {
							tid, pid = acceptor, int64(os.Getpid())
						}
						if i >= 3 && l.states == other {
							tid = me // who closes it
						}
						if e["tid"] != tid || e["pid"] != pid || e["uid"] != int64(os.Getuid()) || (tid == 0) != (e["comm"] == "") {
							t.Errorf("%s: it is %d's, want %d: %v", e["new_state"], e["tid"], tid, e)
						}
					}
				}
			}
			if len(gaps) > 0 || !maps.Equal(counts, want) {
				t.Errorf("sockets go through %v, want %v; %q", counts, want, gaps)
			}
		})
	}
}

// TestFilters: by thread those that it owns; by port those that have it.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	work := func(n int) (port uint16) {
		l, at := nettest.Listen("127.0.0.1:0", n)
		for range n {
			c, err := nettest.Connect(at)
			must(err)
			nettest.Other(func(int64) {
				a := nettest.Accept(l)
				must(unix.Shutdown(a, unix.SHUT_WR))
				nettest.Await(a, nettest.FinWait2)
				nettest.Close(c)
				nettest.Await(a, nettest.CloseState)
				nettest.Close(a)
			})
		}
		nettest.Other(func(int64) { nettest.Close(l) })
		return at.Port()
	}
	events := tracetest.TraceNet(t, tcpstates.Tracer, attach.Options{Filter: attach.Filter{TID: 1}}, func() { work(7) })
	var states []string
	for _, e := range events {
		states = append(states, e["new_state"].(string))
	}
	want := strings.TrimSpace("LISTEN " + strings.Repeat("SYN-SENT ESTAB CLOSE-WAIT ", 7)) // the other thread closes them
	if got := strings.Join(states, " "); got != want {
		t.Errorf("states %s, want %s", got, want)
	}

	for _, end := range []string{"lport", "rport"} {
		var port uint16
		var events []event
		n := map[string]int{"lport": 5*5 + 2, "rport": 5 * 5}[end] // the listener is bound to it before
		tracetest.Seen(t, func() bool {
			events = tracetest.TraceNet(t, tcpstates.Tracer, attach.Options{Params: map[string]string{end: "4711"}}, func() {
				work(3)
				l, at := nettest.Listen("127.0.0.1:4711", 5)
				for range 5 {
					c, err := nettest.Connect(at)
					must(err)
					a := nettest.Accept(l)
					nettest.Finish(a, c)
				}
				nettest.Close(l)
				port = at.Port()
			})
			return len(events) == n
		})
		if len(events) != n {
			t.Errorf("%s: %d events, want %d", end, len(events), n)
		}
		for _, e := range events {
			if e[end] != int64(port) {
				t.Errorf("%s is %v, want %s", end, e[end], strconv.Itoa(int(port)))
			}
		}
	}
}

// TestTable: ends and state as /proc/net/tcp and tcp6 have them.
func TestTable(t *testing.T) {
	bpftest.Require(t)
	for _, family := range nettest.Families {
		var want []event
		workload := func() {
			want = nil
			l, at := nettest.Listen(netip.AddrPortFrom(netip.MustParseAddr(family.Listen), 0).String(), 5)
			look := func(fd int, name string, number uint8) {
				local, remote, state := nettest.Table(fd)
				if state != number {
					t.Errorf("state %d, want %d", state, number)
				}
				want = append(want, event{
					"new_state": name, "ip": family.IP, "laddr": local.Addr().Unmap().String(), "lport": int64(local.Port()),
					"raddr": remote.Addr().Unmap().String(), "rport": int64(remote.Port()),
				})
			}
			c := nettest.Must1(nettest.Connect(netip.AddrPortFrom(netip.MustParseAddr(family.Connect), at.Port())))
			a := nettest.Accept(l)
			look(a, "ESTAB", nettest.Established)
			look(c, "ESTAB", nettest.Established)
			must(unix.Shutdown(c, unix.SHUT_WR))
			nettest.Await(c, nettest.FinWait2)
			look(a, "CLOSE-WAIT", closeWait)
			look(c, "FIN-WAIT-2", nettest.FinWait2)
			nettest.Close(a, c, l)
		}
		var wrong []string
		tracetest.Seen(t, func() bool {
			events := tracetest.TraceNet(t, tcpstates.Tracer, attach.Options{}, workload)
			wrong = nil
			for _, w := range want {
				n := 0
				for _, e := range events {
					if e["new_state"] == w["new_state"] && e.Diff(w) == "" {
						n++
					}
				}
				if n != 1 {
					wrong = append(wrong, fmt.Sprintf("%d events are %v, want 1", n, w))
				}
			}
			return len(wrong) == 0
		})
		if len(wrong) > 0 {
			t.Errorf("%s: %q", family.Name, wrong)
		}
	}
}

// onCPU moves the thread to a CPU, where there is one of that number.
func onCPU(cpu int) {
	var set unix.CPUSet
	set.Set(cpu)
	_ = unix.SchedSetaffinity(0, &set)
}

// TestRace: a FIN comes while accept returns. The socket is the acceptor's all the same, and
// how long it was in its state is known.
func TestRace(t *testing.T) {
	bpftest.Require(t)
	const most = 5003
	tracetest.InNetNS(t, func() {
		s := tracetest.Open(t, attach.Options{}, tcpstates.Tracer)
		s.Start()
		me, ns := int64(unix.Gettid()), nettest.NetNS()
		l, at := nettest.Listen("127.0.0.1:0", 5)
		ready, accepted, reset := make(chan bool), make(chan bool), make(chan bool)
		wait := nettest.Begin(func(int64) {
			onCPU(1)
			i := 0
			for range ready {
				c := nettest.Must1(nettest.Connect(at))
				for began := time.Now(); time.Since(began) < time.Duration(i%100)*100*time.Nanosecond; {
				}
				i++
				must(unix.Shutdown(c, unix.SHUT_WR))
				<-accepted
				nettest.Reset(c)
				reset <- true
			}
		})
		onCPU(0)
		must(unix.SetNonblock(l, runtime.NumCPU() > 1)) // who need not be woken is there in time
		n := 0
		for began := time.Now(); n < most && time.Since(began) < 5*time.Second; n++ { // a busy machine makes few
			ready <- true
			a, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			for errors.Is(err, unix.EAGAIN) {
				a, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC)
			}
			must(err)
			accepted <- true
			<-reset
			nettest.Close(a)
		}
		close(ready)
		wait()
		nettest.Close(l)
		r := s.Finish(t)
		ended, wrong := 0, 0
		for _, e := range r.Events {
			if e["netns"] == ns && e["old_state"] == "CLOSE-WAIT" && e["new_state"] == "CLOSE" {
				ended++
				if e["tid"] != me || e["age_ns"].(int64) <= 0 || e["age_ns"].(int64) > int64(time.Second) {
					wrong++
				}
			}
		}
		// Changes are missed that come while the program runs on that CPU, or whose beginning is.
		missed := tracetest.Misses(t)
		if v, err := kernel.ParseVersion(kernel.Release()); err == nil && v.Less(kernel.Version{Major: 5, Minor: 12}) {
			missed = n / 20 // it does not tell
		}
		if ended > n || ended+missed < n || n == 0 || wrong > missed {
			t.Errorf("%d connections end, want %d; %d of them have another owner, or no age; %d hits missed", ended, n, wrong, missed)
		}
	})
}
