// SPDX-License-Identifier: Apache-2.0

package tcplife_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/tcplife"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

var must = nettest.Must

// key is what tells an event from those of other connections.
type key struct {
	role         string
	lport, rport int64
}

func keyOf(e event) key {
	return key{e["role"].(string), e["lport"].(int64), e["rport"].(int64)}
}

// compare checks that there is one event for each in want, in any order but for those of the same
// ports, which a later connection may get again.
func compare(t *testing.T, events, want []event) {
	t.Helper()
	all := make(map[key][]event)
	for _, e := range events {
		all[keyOf(e)] = append(all[keyOf(e)], e)
	}
	for _, w := range want {
		k := keyOf(w)
		if len(all[k]) == 0 {
			t.Errorf("%v: no event", k)
			continue
		}
		if diff := all[k][0].Diff(w); diff != "" {
			t.Errorf("%v: %s", k, diff)
		}
		all[k] = all[k][1:]
	}
	for _, left := range all {
		for _, e := range left {
			t.Errorf("not wanted: %v", e)
		}
	}
}

// TestBytes: the bytes that were sent, whoever closes first, and the time it took.
func TestBytes(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		name, listen, connect string
		ip                    int64
	}{
		{"ipv4", "127.0.0.1:0", "127.0.0.1", 4},
		{"ipv6", "[::1]:0", "::1", 6},
		{"mapped", "[::]:0", "::ffff:127.0.0.1", 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			var want []event
			var longest, least time.Duration
			events := tracetest.TraceNet(t, tcplife.Tracer, attach.Options{}, func() {
				l, at := nettest.Listen(test.listen, 5)
				at = netip.AddrPortFrom(netip.MustParseAddr(test.connect), at.Port())
				for i, n := range []struct{ tx, rx int }{{0, 0}, {1, 0}, {0, 1}, {1009, 7}, {1, 65537}, {1 << 20, 0}, {100003, 300007}} {
					began := time.Now()
					c, err := nettest.Connect(at)
					must(err)
					a := nettest.Accept(l)
					done := make(chan bool)
					go func() {
						nettest.Receive(a, n.tx)
						done <- true
					}()
					nettest.Send(c, n.tx)
					<-done
					go func() {
						nettest.Receive(c, n.rx)
						done <- true
					}()
					nettest.Send(a, n.rx)
					<-done
					least = 10 * time.Millisecond
					time.Sleep(least)
					local := nettest.Local(c)
					state, other := "FIN-WAIT-2", "LAST-ACK"
					if i%2 == 0 {
						nettest.Finish(c, a)
					} else {
						nettest.Finish(a, c)
						state, other = other, state
					}
					longest = max(longest, time.Since(began))
					want = append(want, event{
						"role": "connect", "lport": int64(local.Port()), "rport": int64(at.Port()), "ip": test.ip, "netns": nettest.NetNS(),
						"laddr": local.Addr().Unmap().String(), "raddr": at.Addr().Unmap().String(), "tid": int64(unix.Gettid()),
						"tx_bytes": int64(n.tx), "rx_bytes": int64(n.rx), "ret": int64(0), "errno": "", "last_state": state, "pid": int64(os.Getpid()),
					}, event{
						"role": "accept", "lport": int64(at.Port()), "rport": int64(local.Port()), "ip": test.ip, "netns": nettest.NetNS(),
						"laddr": at.Addr().Unmap().String(), "raddr": local.Addr().Unmap().String(), "tid": int64(unix.Gettid()),
						"tx_bytes": int64(n.rx), "rx_bytes": int64(n.tx), "ret": int64(0), "errno": "", "last_state": other, "pid": int64(os.Getpid()),
					})
				}
				nettest.Close(l)
			})
			compare(t, events, want)
			for _, e := range events {
				if age := time.Duration(e["age_ns"].(int64)); age < least || age > longest {
					t.Errorf("age %v, want %v to %v", age, least, longest)
				}
			}
		})
	}
}

// TestErrors: connections that errors end, which are those of --failed.
func TestErrors(t *testing.T) {
	bpftest.Require(t)
	for _, failed := range []bool{false, true} {
		var want []event
		add := func(failure bool, e event) {
			if failure || !failed {
				want = append(want, e)
			}
		}
		events := tracetest.TraceNet(t, tcplife.Tracer, attach.Options{Failed: failed}, func() {
			l, at := nettest.Listen("127.0.0.1:0", 5)
			server := int64(at.Port())
			for range 3 { // reset, when 1009 bytes have come
				c, err := nettest.Connect(at)
				must(err)
				a, port := nettest.Accept(l), int64(nettest.Local(c).Port())
				nettest.Send(c, 1009)
				nettest.Reset(c)
				nettest.Await(a, nettest.CloseState)
				nettest.Close(a)
				add(false, event{"role": "connect", "lport": port, "rport": server, "tx_bytes": int64(1009), "rx_bytes": int64(0), "errno": "", "last_state": "ESTAB"})
				add(true, event{"role": "accept", "lport": server, "rport": port, "tx_bytes": int64(0), "rx_bytes": int64(1009), "errno": "ECONNRESET", "ret": -int64(unix.ECONNRESET), "last_state": "ESTAB"})
			}
			// Reset before it is accepted: nobody's.
			c, err := nettest.Connect(at)
			must(err)
			port := int64(nettest.Local(c).Port())
			nettest.ResetUnaccepted(c)
			add(false, event{"role": "connect", "lport": port, "rport": server, "errno": ""})
			add(true, event{"role": "accept", "lport": server, "rport": port, "errno": "ECONNRESET", "pid": int64(0), "comm": "", "uid": int64(os.Getuid())})
			nettest.Close(l)
			closed := nettest.ClosedPort("127.0.0.1:0")
			for i := range 5 {
				c := nettest.Socket(unix.AF_INET)
				must(unix.Bind(c, nettest.Sockaddr(netip.MustParseAddrPort("127.0.0.1:0"))))
				port := int64(nettest.Local(c).Port())
				if err := unix.Connect(c, nettest.Sockaddr(closed)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("connection %d: %v", i, err)
				}
				nettest.Close(c)
				add(true, event{"role": "connect", "lport": port, "rport": int64(closed.Port()), "errno": "ECONNREFUSED", "last_state": "SYN-SENT", "tx_bytes": int64(0), "rx_bytes": int64(0)})
			}
		})
		compare(t, events, want)
	}
}

// TestOwner: who accepts by the older call is known, and of what nobody accepted the user.
func TestOwner(t *testing.T) {
	bpftest.Require(t)
	const uid = 65534
	var want []event
	events := tracetest.TraceNet(t, tcplife.Tracer, attach.Options{}, func() {
		l, at := nettest.Listen("127.0.0.1:0", 5)
		must(unix.Fchown(l, uid, uid)) // the socket's user, which those that it makes have, too
		for i := range 8 {
			c, err := nettest.Connect(at)
			must(err)
			e := event{"role": "accept", "lport": int64(at.Port()), "rport": int64(nettest.Local(c).Port()), "pid": int64(0), "uid": int64(uid), "gid": int64(0)}
			want = append(want, e, event{"role": "connect", "lport": e["rport"], "rport": e["lport"]})
			if i%2 == 0 {
				nettest.ResetUnaccepted(c)
				a, _, errno := unix.RawSyscall(unix.SYS_ACCEPT, uintptr(l), 0, 0)
				if errno != 0 {
					panic(errno)
				}
				nettest.Close(int(a))
				continue
			}
			nettest.Other(func(tid int64) {
				a, _, errno := unix.RawSyscall(unix.SYS_ACCEPT, uintptr(l), 0, 0)
				if errno != 0 {
					panic(errno)
				}
				e["tid"], e["pid"], e["uid"], e["gid"] = tid, int64(os.Getpid()), int64(os.Getuid()), int64(os.Getgid())
				nettest.Reset(c)
				nettest.Close(int(a))
			})
		}
		nettest.Close(l)
	})
	compare(t, events, want)
}

// TestBefore: a connection that is there before is not shown, nor is a listener.
func TestBefore(t *testing.T) {
	bpftest.Require(t)
	tracetest.InNetNS(t, func() {
		l, at := nettest.Listen("127.0.0.1:0", 5)
		c, err := nettest.Connect(at)
		must(err)
		a := nettest.Accept(l)
		opts := attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}}
		events := tracetest.Trace(t, tcplife.Tracer, opts, func() {
			nettest.Finish(c, a)
			nettest.Close(l)
			l2, at := nettest.Listen("127.0.0.1:0", 5)
			c, err := nettest.Connect(at)
			must(err)
			a := nettest.Accept(l2)
			nettest.Finish(a, c)
			nettest.Close(l2)
		})
		if len(events) != 2 {
			t.Errorf("%d events, want 2: %v", len(events), events)
		}
	})
}

// TestPorts: --lport and --rport.
func TestPorts(t *testing.T) {
	bpftest.Require(t)
	for _, end := range []string{"lport", "rport"} {
		events := tracetest.TraceNet(t, tcplife.Tracer, attach.Options{Params: map[string]string{end: "4711"}}, func() {
			for i := range 14 {
				l, at := nettest.Listen([]string{"127.0.0.1:4711", "127.0.0.1:0"}[i%2], 1)
				c, err := nettest.Connect(at)
				must(err)
				a := nettest.Accept(l)
				nettest.Finish(c, a) // TIME-WAIT is not the listener's
				nettest.Close(l)
			}
		})
		want := make([]event, 7)
		for i := range want {
			want[i] = event{end: int64(4711), "role": map[string]string{"lport": "accept", "rport": "connect"}[end]}
		}
		tracetest.Same(t, events, want)
	}
}

// TestFull: a connection whose beginning there is no room for is lost, and told.
func TestFull(t *testing.T) {
	bpftest.Require(t)
	const room, n = 8, 29
	tracetest.InNetNS(t, func() {
		s := tracetest.Open(t, attach.Options{}, tracetest.WithMap(tcplife.Tracer, "rb_lives", room))
		s.Start()
		var fds []int
		l, at := nettest.Listen("127.0.0.1:0", n)
		for range n {
			c := nettest.Must1(nettest.Connect(at))
			fds = append(fds, c, nettest.Accept(l))
		}
		for i := range n {
			nettest.Finish(fds[2*i], fds[2*i+1])
		}
		nettest.Close(l)
		r := s.Finish(t)
		mine := 0
		for _, e := range r.Events {
			if e["netns"] == nettest.NetNS() {
				mine++
			}
		}
		// Others on the machine may have connections, too, which take room or are lost.
		if lost := int(r.Ledger[0].Total().Lost); mine > room || mine+lost < 2*n {
			t.Errorf("%d events and %d lost, of %d", mine, lost, 2*n)
		}
	})
}

// TestForget: of sockets that are closed nothing is kept.
func TestForget(t *testing.T) {
	bpftest.Require(t)
	const n = 101
	tracetest.InNetNS(t, func() {
		s := tracetest.Open(t, attach.Options{}, tcplife.Tracer)
		s.Start()
		l, at := nettest.Listen("127.0.0.1:0", n)
		for i := range n {
			c := nettest.Must1(nettest.Connect(at))
			a := nettest.Accept(l)
			if i%2 == 0 {
				nettest.Reset(a)
				nettest.Await(c, nettest.CloseState)
				nettest.Close(c)
			} else {
				nettest.Finish(a, c)
			}
		}
		nettest.Close(l)
		for _, name := range []string{"rb_owners", "rb_lives"} {
			if left := tracetest.MapEntries(t, name); left > n/2 { // others have sockets, too
				t.Errorf("%d entries are left in %s of %d sockets", left, name, 2*n+1)
			}
		}
		s.Finish(t)
	})
}

// TestMPTCP: of a connection of MPTCP, what carries it is who connects and who accepts.
func TestMPTCP(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := tracetest.TraceNet(t, tcplife.Tracer, attach.Options{}, func() {
		mptcp := func() int {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
			if err != nil {
				t.Skipf("making a socket of MPTCP: %v", err)
			}
			return fd
		}
		l := mptcp()
		must(unix.Bind(l, nettest.Sockaddr(netip.MustParseAddrPort("127.0.0.1:0"))), unix.Listen(l, 5))
		at := nettest.Local(l)
		for range 7 {
			c := mptcp()
			must(unix.Connect(c, nettest.Sockaddr(at)))
			port := int64(nettest.Local(c).Port())
			nettest.Other(func(tid int64) {
				a := nettest.Accept(l)
				nettest.Reset(c) // which tells nothing of whose a is, as its close would
				nettest.Close(a)
				want = append(want, event{"role": "accept", "lport": int64(at.Port()), "rport": port, "tid": tid, "pid": int64(os.Getpid())})
			})
			want = append(want, event{"role": "connect", "lport": port, "rport": int64(at.Port()), "pid": int64(os.Getpid())})
		}
		nettest.Close(l)
	})
	compare(t, events, want)
}
