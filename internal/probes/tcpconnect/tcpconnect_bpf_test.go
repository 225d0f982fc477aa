// SPDX-License-Identifier: Apache-2.0

package tcpconnect_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/tcpconnect"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// connect tells that it begins to.
		"connect": func() error {
			fd := nettest.Socket(unix.AF_INET)
			fmt.Fprintln(bpftest.ReportTo)
			return unix.Connect(fd, nettest.Sockaddr(at("127.0.0.1", 4711)))
		},
	})
}

var must = nettest.Must

func fails(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

func at(address string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port)
}

// TestConnect: connections and refusals, over IPv4, IPv6, and IPv4 between sockets of
// IPv6, by connect that blocks and that does not.
func TestConnect(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		name, listen, connect string
		ip                    int64
	}{
		{"ipv4", "127.0.0.1:0", "127.0.0.1", 4},
		{"ipv6", "[::1]:0", "::1", 6},
		{"mapped", "[::]:0", "::ffff:127.0.0.1", 4},
	} {
		for _, failed := range []bool{false, true} {
			var want []event
			var longest time.Duration
			events := tracetest.TraceNet(t, tcpconnect.Tracer, attach.Options{Failed: failed}, func() {
				l, server := nettest.Listen(test.listen, 16)
				server = at(test.connect, server.Port())
				closed := at(test.connect, nettest.ClosedPort(test.listen).Port())
				// The calls of one socket, which is bound, so that its port is known also
				// when all is over.
				try := func(to netip.AddrPort, nonblock bool, errno unix.Errno, calls ...error) {
					c := nettest.Socket(nettest.Family(to))
					must(unix.Bind(c, nettest.Sockaddr(at(test.connect, 0))))
					local := nettest.Local(c)
					must(unix.SetNonblock(c, nonblock))
					began := time.Now()
					for _, want := range calls {
						err := unix.Connect(c, nettest.Sockaddr(to))
						if want == nil {
							must(err)
						}
						fails(t, err, want)
						time.Sleep(2 * time.Millisecond)
					}
					longest = max(longest, time.Since(began))
					nettest.Close(c)
					name := ""
					if errno != 0 {
						name = unix.ErrnoName(errno)
					}
					if failed && errno == 0 {
						return
					}
					want = append(want, event{
						"type": "tcpconnect", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "ip": test.ip, "errno": name, "ret": -int64(errno),
						"established": errno == 0, "saddr": local.Addr().Unmap().String(), "sport": int64(local.Port()),
						"daddr": to.Addr().Unmap().String(), "dport": int64(to.Port()),
					})
				}
				for range 3 {
					try(server, false, 0, nil)
					try(closed, false, unix.ECONNREFUSED, unix.ECONNREFUSED)
					try(server, true, 0, unix.EINPROGRESS, nil)
					try(closed, true, unix.ECONNREFUSED, unix.EINPROGRESS, unix.ECONNREFUSED)
				}
				nettest.Close(l)
			})
			tracetest.Same(t, events, want)
			for _, e := range events {
				if lat := time.Duration(e["latency_ns"].(int64)); lat <= 0 || lat > longest {
					t.Errorf("%s: latency %v, of at most %v", test.name, lat, longest)
				}
			}
		}
	}
}

// TestUnbegun: what connect finds itself, each once.
func TestUnbegun(t *testing.T) {
	bpftest.Require(t)
	var want []event
	opts := attach.Options{Failed: true}
	events := tracetest.TraceNet(t, tcpconnect.Tracer, opts, func() {
		add := func(err error, errno unix.Errno, e event) {
			t.Helper()
			fails(t, err, errno)
			e["errno"], e["ret"], e["established"], e["tid"] = unix.ErrnoName(errno), -int64(errno), false, int64(unix.Gettid())
			want = append(want, e)
		}
		raw := func(fd int, addr []byte, n int) error {
			_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(addr))), uintptr(n))
			return errno
		}
		c, c6 := nettest.Socket(unix.AF_INET), nettest.Socket(unix.AF_INET6)
		for range 7 {
			add(unix.Connect(c, nettest.Sockaddr(at("192.0.2.1", 443))), unix.ENETUNREACH,
				event{"ip": int64(4), "daddr": "192.0.2.1", "dport": int64(443), "sport": int64(0), "latency_ns": int64(0)})
		}
		add(unix.Connect(c6, nettest.Sockaddr(at("2001:db8::1", 443))), unix.ENETUNREACH, event{"ip": int64(6), "daddr": "2001:db8::1", "dport": int64(443)})
		add(raw(c, []byte{unix.AF_INET, 0, 0, 80, 127, 0, 0, 1}, 8), unix.EINVAL, event{"daddr": "127.0.0.1", "dport": int64(80)})
		add(raw(c, nil, 16), unix.EFAULT, event{"dport": int64(0)})
		add(raw(c, append([]byte{99, 0}, make([]byte, 14)...), 16), unix.EAFNOSUPPORT, event{"dport": int64(0)})

		// No port is free: the kernel finds that when the socket is in SYN-SENT already.
		l, server := nettest.Listen("127.0.0.1:0", 16)
		must(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("5001 5001"), 0))
		one := nettest.Must1(nettest.Connect(server))
		before := time.Now()
		add(unix.Connect(c, nettest.Sockaddr(server)), unix.EADDRNOTAVAIL, event{"daddr": "127.0.0.1", "dport": int64(server.Port())})
		if time.Since(before) == 0 {
			t.Error("no time has passed")
		}
		add(unix.Connect(one, nettest.Sockaddr(server)), unix.EISCONN, event{"daddr": "127.0.0.1", "dport": int64(server.Port())})
		nettest.Close(one, c, c6, l)
		// No TCP: not shown.
		udp := nettest.Must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
		fails(t, unix.Connect(udp, nettest.Sockaddr(at("192.0.2.1", 443))), unix.ENETUNREACH)
		fails(t, unix.Connect(-1, nettest.Sockaddr(server)), unix.EBADF)
		rawTCP := nettest.Must1(unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP))
		fails(t, unix.Connect(rawTCP, nettest.Sockaddr(at("192.0.2.1", 443))), unix.ENETUNREACH)
		nettest.Close(udp, rawTCP)
	})
	tracetest.Same(t, events, want)
}

// TestMPTCP: each attempt of a socket of MPTCP is told once, as one of TCP.
func TestMPTCP(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := tracetest.TraceNet(t, tcpconnect.Tracer, attach.Options{}, func() {
		mptcp := func() int {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
			if err != nil {
				t.Skipf("making a socket of MPTCP: %v", err)
			}
			return fd
		}
		l := mptcp()
		must(unix.Bind(l, nettest.Sockaddr(at("127.0.0.1", 0))), unix.Listen(l, 16))
		server := nettest.Local(l)
		for range 5 {
			for _, try := range []struct {
				to    netip.AddrPort
				errno unix.Errno
				name  string
			}{
				{server, 0, ""}, {nettest.ClosedPort("127.0.0.1:0"), unix.ECONNREFUSED, "ECONNREFUSED"}, {at("192.0.2.1", 443), unix.ENETUNREACH, "ENETUNREACH"},
			} {
				c := mptcp()
				if err := unix.Connect(c, nettest.Sockaddr(try.to)); err != nil || try.errno != 0 {
					fails(t, err, try.errno)
				}
				nettest.Close(c)
				want = append(want, event{
					"daddr": try.to.Addr().String(), "dport": int64(try.to.Port()), "errno": try.name, "established": try.errno == 0, "tid": int64(unix.Gettid()),
				})
			}
		}
		nettest.Close(l)
	})
	tracetest.Same(t, events, want)
}

// TestSeccomp: a call that a seccomp filter answers, which does not enter the kernel's connect.
func TestSeccomp(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := tracetest.TraceNet(t, tcpconnect.Tracer, attach.Options{}, func() {
		l, server := nettest.Listen("127.0.0.1:0", 16)
		nettest.Other(func(tid int64) {
			c, udp := nettest.Socket(unix.AF_INET), nettest.Must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
			must(bpftest.Refuse(unix.EACCES, unix.SYS_CONNECT))
			for range 11 {
				fails(t, unix.Connect(c, nettest.Sockaddr(server)), unix.EACCES)
				want = append(want, event{
					"daddr": "127.0.0.1", "dport": int64(server.Port()), "errno": "EACCES", "ret": -int64(unix.EACCES), "established": false,
					"latency_ns": int64(0), "tid": tid, "pid": int64(os.Getpid()),
				})
			}
			fails(t, unix.Connect(udp, nettest.Sockaddr(server)), unix.EACCES)
			nettest.Close(c, udp)
		})
		nettest.Close(l)
	})
	tracetest.Same(t, events, want)
}

// TestGivenUp: no answer comes, and then time is over, or the process does not wait for it.
func TestGivenUp(t *testing.T) {
	bpftest.Require(t)
	var want []event
	waits := 50 * time.Millisecond
	events := tracetest.TraceNet(t, tcpconnect.Tracer, attach.Options{Failed: true}, func() {
		// Where as many wait as may, SYNs are not answered.
		l, first, server := nettest.Full("127.0.0.1:0")
		begin := func() int {
			c := nettest.Socket(unix.AF_INET)
			must(unix.SetNonblock(c, true))
			fails(t, unix.Connect(c, nettest.Sockaddr(server)), unix.EINPROGRESS)
			fails(t, unix.Connect(c, nettest.Sockaddr(server)), unix.EALREADY)
			want = append(want, event{
				"sport": int64(nettest.Local(c).Port()), "dport": int64(server.Port()), "established": false, "errno": "", "ret": int64(0), "tid": int64(unix.Gettid()),
			})
			time.Sleep(waits)
			return c
		}
		nettest.Close(begin())
		c := begin()
		must(unix.Shutdown(c, unix.SHUT_RDWR))
		nettest.Close(c)
		c = begin()
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(c), uintptr(unsafe.Pointer(&unix.RawSockaddr{})), 16) // AF_UNSPEC
		if errno != 0 {
			t.Error(errno)
		}
		nettest.Close(c)
		c = begin()
		nettest.Other(func(int64) { nettest.Close(c) }) // it is still who connected

		c = nettest.Socket(unix.AF_INET)
		must(unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_SYNCNT, 1))
		must(unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 100))
		fails(t, unix.Connect(c, nettest.Sockaddr(server)), unix.ETIMEDOUT)
		want = append(want, event{"dport": int64(server.Port()), "errno": "ETIMEDOUT", "ret": -int64(unix.ETIMEDOUT), "established": false})
		nettest.Close(c, first, l)
	})
	tracetest.Same(t, events, want)
	for _, e := range events {
		if lat := time.Duration(e["latency_ns"].(int64)); lat < waits {
			t.Errorf("%v: latency %v, want %v", e["errno"], lat, waits)
		}
	}
}

// TestFilters: by port, and by thread.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	work := func() {
		l, server := nettest.Listen("127.0.0.1:4711", 16)
		try := func() {
			for i := range 5 {
				c, err := nettest.Connect(server)
				must(err)
				nettest.Close(c)
				c, err = nettest.Connect(at("127.0.0.1", 4712))
				fails(t, err, unix.ECONNREFUSED)
				nettest.Close(c)
				c, err = nettest.Connect(at("192.0.2.1", 4711+uint16(i%2)))
				fails(t, err, unix.ENETUNREACH)
				nettest.Close(c)
			}
		}
		try()
		nettest.Other(func(int64) { try() })
		nettest.Close(l)
	}
	for _, test := range []struct {
		opts attach.Options
		want int
	}{
		{attach.Options{}, 30},
		{attach.Options{Params: map[string]string{"port": "4711"}}, 16},
		{attach.Options{Filter: attach.Filter{TID: 1}}, 15},
		{attach.Options{Filter: attach.Filter{TID: 1}, Failed: true}, 10},
		{attach.Options{Filter: attach.Filter{TID: 1}, Failed: true, Params: map[string]string{"port": "4712"}}, 7},
	} {
		var me int64
		events := tracetest.TraceNet(t, tcpconnect.Tracer, test.opts, func() {
			me = int64(unix.Gettid())
			work()
		})
		if len(events) != test.want {
			t.Errorf("%+v: %d events, want %d", test.opts, len(events), test.want)
		}
		for _, e := range events {
			if test.opts.Filter.TID != 0 && e["tid"] != me {
				t.Errorf("it is %v's, want %d", e["tid"], me)
			}
		}
	}
}

// unanswered begins to connect n sockets, where nobody answers.
func unanswered(t *testing.T, n int) (fds []int, done func()) {
	l, first, server := nettest.Full("127.0.0.1:0")
	for range n {
		c := nettest.Socket(unix.AF_INET)
		must(unix.SetNonblock(c, true))
		fails(t, unix.Connect(c, nettest.Sockaddr(server)), unix.EINPROGRESS)
		fds = append(fds, c)
	}
	return fds, func() { nettest.Close(first, l) }
}

// TestFull: an attempt that there is no room for is lost, and told.
func TestFull(t *testing.T) {
	bpftest.Require(t)
	const room, n = 5, 17
	tracetest.InNetNS(t, func() {
		opts := attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}}
		s := tracetest.Open(t, opts, tracetest.WithMap(tcpconnect.Tracer, "rb_attempts", room))
		s.Start()
		fds, done := unanswered(t, n)
		nettest.Close(fds...)
		done()
		r := s.Finish(t)
		// One was established before the others.
		if lost := r.Ledger[0].Total().Lost - r.Ledger[0].Missed; lost != n-room || len(r.Events) != 1+room {
			t.Errorf("%d events and %d lost, of %d", len(r.Events), lost, 1+n)
		}
	})
}

// TestForget: what was remembered goes when it is over, also where a signal ends it.
func TestForget(t *testing.T) {
	bpftest.Require(t)
	tracetest.InNetNS(t, func() {
		s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}}, tcpconnect.Tracer)
		s.Start()
		fds, done := unanswered(t, 7)
		if n := tracetest.MapEntries(t, "rb_attempts"); n != 7 {
			t.Errorf("%d attempts are known, want 7", n)
		}
		nettest.Close(fds...)
		done()
		for _, to := range []netip.AddrPort{nettest.ClosedPort("127.0.0.1:0"), at("192.0.2.1", 1)} {
			c, err := nettest.Connect(to)
			if err == nil {
				t.Errorf("%v answers", to)
			}
			nettest.Close(c)
		}
		for _, name := range []string{"rb_attempts", "rb_calls"} {
			if n := tracetest.MapEntries(t, name); n != 0 {
				t.Errorf("%d entries are left in %s", n, name)
			}
		}
		s.Finish(t)
	})
	tracetest.InNetNS(t, func() {
		l, first, _ := nettest.Full("127.0.0.1:4711")
		s := tracetest.Open(t, attach.Options{Filter: attach.Filter{Comm: "connectchild"}}, tcpconnect.Tracer)
		s.Start()
		c := bpftest.Child{Role: "connect", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), "connectchild"))}
		c.Start(t)
		c.ReadLine(t)
		for tracetest.MapEntries(t, "rb_attempts") == 0 {
			time.Sleep(time.Millisecond)
		}
		if n := tracetest.MapEntries(t, "rb_calls"); n != 1 {
			t.Errorf("%d calls are under way, want 1", n)
		}
		pid := int64(c.PID())
		c.Kill(t)
		for tracetest.MapEntries(t, "rb_attempts") != 0 {
			time.Sleep(time.Millisecond) // the kernel closes its socket
		}
		if n := tracetest.MapEntries(t, "rb_calls"); n != 0 {
			t.Errorf("%d calls are left", n)
		}
		tracetest.Same(t, s.Finish(t).Events, []event{{"pid": pid, "comm": "connectchild", "established": false, "dport": int64(4711)}})
		nettest.Close(first, l)
	})
}
