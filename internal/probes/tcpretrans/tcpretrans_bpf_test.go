// SPDX-License-Identifier: Apache-2.0

package tcpretrans_test

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/tcpretrans"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// TestData: data that does not arrive, as often as the socket says that it was sent again.
func TestData(t *testing.T) {
	bpftest.Require(t)
	const data = 1009
	for _, family := range bpftest.Thin(nettest.Families, 2) {
		t.Run(family.Name, func(t *testing.T) {
			var want event
			n, counted, seq := 0, 0, 0
			var events []event
			workload := func() {
				l, at := nettest.Listen(netip.AddrPortFrom(netip.MustParseAddr(family.Listen), 0).String(), 1)
				at = netip.AddrPortFrom(netip.MustParseAddr(family.Connect), at.Port())
				c := nettest.Must1(nettest.Connect(at))
				a := nettest.Accept(l)
				nettest.Deaf(a)
				seq = nettest.SendSeq(c)
				nettest.Must1(unix.Write(c, make([]byte, data)))
				for nettest.Retransmitted(c) < 3 {
					time.Sleep(time.Millisecond)
				}
				n, counted = nettest.Retransmitted(c), nettest.Counter("RetransSegs")
				local := nettest.Local(c)
				nettest.Reset(c)
				nettest.Reset(a)
				nettest.Close(l)
				want = event{
					"type": "tcpretrans", "ip": family.IP, "laddr": local.Addr().Unmap().String(), "lport": int64(local.Port()),
					"raddr": at.Addr().Unmap().String(), "rport": int64(at.Port()), "state": "ESTAB", "data_len": int64(data), "errno": "", "ret": int64(0),
					"pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "flags": []string{"PSH", "ACK"}, "seq": int64(seq),
				}
			}
			tracetest.Seen(t, func() bool {
				events = tracetest.TraceNet(t, tcpretrans.Tracer, attach.Options{}, workload)
				return len(events) == n
			})
			wants := make([]event, n)
			for i := range wants {
				wants[i] = want
			}
			tracetest.Same(t, events, wants)
			if n != counted {
				t.Errorf("the socket has sent %d segments again, the machine %d", n, counted)
			}
		})
	}
}

// TestHandshake: SYNs that nobody answers, and answers that do not arrive.
func TestHandshake(t *testing.T) {
	bpftest.Require(t)
	var full, answers netip.AddrPort
	syns := 0
	var events []event
	workload := func() {
		begin := func(c int, to netip.AddrPort) {
			nettest.Must(unix.SetNonblock(c, true))
			if err := unix.Connect(c, nettest.Sockaddr(to)); !errors.Is(err, unix.EINPROGRESS) {
				t.Error(err)
			}
		}
		// Where as many wait as may, SYNs are not answered.
		var l1, l2, first int
		l1, first, full = nettest.Full("127.0.0.1:0")
		waits := nettest.Socket(unix.AF_INET)
		begin(waits, full)
		// Who hears nothing gets answers again.
		l2, answers = nettest.Listen("[::1]:0", 5)
		deaf := nettest.Socket(unix.AF_INET6)
		nettest.Deaf(deaf)
		begin(deaf, answers)
		for nettest.Retransmitted(waits) == 0 || nettest.Retransmitted(deaf) == 0 || nettest.Counter("RetransSegs") < 3 { // and the answer
			time.Sleep(time.Millisecond)
		}
		nettest.Close(waits, deaf, first, l1, l2)
		syns = nettest.Counter("RetransSegs")
	}
	tracetest.Seen(t, func() bool {
		events = tracetest.TraceNet(t, tcpretrans.Tracer, attach.Options{}, workload)
		return len(events) == syns
	})
	counts := make(map[string]int)
	for _, e := range events {
		switch {
		case e["state"] == "SYN-SENT" && e["flags"].([]string)[0] == "SYN" && len(e["flags"].([]string)) == 1 && e["data_len"] == int64(0):
			counts["SYN"]++
			if r := e["rport"]; r != int64(full.Port()) && r != int64(answers.Port()) || e["tid"] == int64(0) {
				t.Errorf("%v", e)
			}
		case e["state"] == "SYN-RECV" && len(e["flags"].([]string)) == 2:
			counts["SYN-ACK"]++
			if e["lport"] != int64(answers.Port()) || e["laddr"] != "::1" || e["raddr"] != "::1" || e["rport"] == int64(0) || e["pid"] != int64(os.Getpid()) {
				t.Errorf("%v", e)
			}
		default:
			t.Errorf("%v", e)
		}
	}
	if len(events) != syns || counts["SYN"] < 2 || counts["SYN-ACK"] < 1 {
		t.Errorf("%v, but the machine counts %d", counts, syns)
	}
}

// TestErrors: what cannot be sent again, with the reason, as often as the timers have tried.
func TestErrors(t *testing.T) {
	bpftest.Require(t)
	v, err := kernel.ParseVersion(kernel.Release())
	if err != nil {
		t.Fatal(err)
	}
	if v.Less(kernel.Version{Major: 6, Minor: 18}) {
		t.Skip("kernels before 6.18 do not tell of what cannot be sent")
	}
	timeouts, n := 0, 0
	var events []event
	workload := func() {
		l, at := nettest.Listen("127.0.0.1:0", 1)
		c := nettest.Must1(nettest.Connect(at))
		a := nettest.Accept(l)
		nettest.Deaf(a)
		nettest.Must1(unix.Write(c, []byte("hello")))
		nettest.Gone("lo")
		for nettest.Counter("TCPTimeouts") < 3 {
			time.Sleep(time.Millisecond)
		}
		timeouts = nettest.Counter("TCPTimeouts")
		nettest.Reset(c)
		nettest.Reset(a)
		nettest.Close(l)
	}
	tracetest.Seen(t, func() bool {
		events, n = tracetest.TraceNet(t, tcpretrans.Tracer, attach.Options{}, workload), 0
		for _, e := range events {
			if e["kind"] == "timeout" {
				n++
			}
		}
		return n == timeouts
	})
	for _, e := range events {
		if diff := e.Diff(event{"errno": "EHOSTUNREACH", "ret": -int64(unix.EHOSTUNREACH), "data_len": int64(5), "state": "ESTAB"}); diff != "" {
			t.Error(diff)
		}
	}
	if n != timeouts {
		t.Errorf("%d events by timeout, but the machine counts %d", n, timeouts)
	}
}

// TestKinds: why segments are sent again, as the machine counts it.
func TestKinds(t *testing.T) {
	bpftest.Require(t)
	var want, kinds map[string]int
	workload := func() {
		l, at := nettest.Listen("127.0.0.1:0", 1)
		c := nettest.Must1(nettest.Connect(at))
		a := nettest.Accept(l)
		nettest.Must(unix.SetsockoptInt(c, unix.SOL_TCP, unix.TCP_NODELAY, 1))
		// The first segment of several does not arrive: acknowledgements of the others tell.
		nettest.Deaf(a)
		nettest.Must1(unix.Write(c, []byte("hello")))
		nettest.Must(unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
		for range 11 {
			nettest.Must1(unix.Write(c, []byte("x")))
		}
		nettest.Receive(a, 5+11)
		// None arrives: after a probe it is the timer's.
		nettest.Deaf(a)
		before := nettest.Retransmitted(c)
		nettest.Must1(unix.Write(c, []byte("hello")))
		for nettest.Retransmitted(c) < before+3 {
			time.Sleep(time.Millisecond)
		}
		// Nobody answers.
		full, first, at := nettest.Full("127.0.0.1:0")
		waits := nettest.Socket(unix.AF_INET)
		nettest.Must(unix.SetNonblock(waits, true))
		if err := unix.Connect(waits, nettest.Sockaddr(at)); !errors.Is(err, unix.EINPROGRESS) {
			t.Error(err)
		}
		for nettest.Retransmitted(waits) == 0 {
			time.Sleep(time.Millisecond)
		}
		want = map[string]int{"timeout": nettest.Counter("TCPTimeouts"), "probe": nettest.Counter("TCPLossProbes"), "fast": nettest.Counter("TCPFastRetrans")}
		nettest.Reset(c)
		nettest.Reset(a)
		nettest.Close(l, full, first, waits)
	}
	tracetest.Seen(t, func() bool {
		kinds = make(map[string]int)
		for _, e := range tracetest.TraceNet(t, tcpretrans.Tracer, attach.Options{}, workload) {
			kinds[e["kind"].(string)]++
		}
		return maps.Equal(kinds, want)
	})
	if diff := cmp.Diff(want, kinds); diff != "" || want["timeout"] < 2 || want["probe"] == 0 || want["fast"] == 0 {
		t.Errorf("%v (-want +got):\n%s", want, diff)
	}
}

// TestFilters: by thread, and by port.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		opts attach.Options
		some bool
	}{
		{attach.Options{Filter: attach.Filter{TID: 1}}, true},
		{attach.Options{Filter: attach.Filter{PID: 1}}, false},
		{attach.Options{Params: map[string]string{"rport": "4711"}}, true},
		{attach.Options{Params: map[string]string{"lport": "4711"}}, false},
	} {
		var events []event
		workload := func() {
			l, at := nettest.Listen("127.0.0.1:4711", 1)
			c := nettest.Must1(nettest.Connect(at))
			a := nettest.Accept(l)
			nettest.Deaf(a)
			nettest.Must1(unix.Write(c, []byte("hello")))
			for nettest.Retransmitted(c) == 0 {
				time.Sleep(time.Millisecond)
			}
			nettest.Reset(c)
			nettest.Reset(a)
			nettest.Close(l)
		}
		tracetest.Seen(t, func() bool {
			events = tracetest.TraceNet(t, tcpretrans.Tracer, test.opts, workload)
			return (len(events) > 0) == test.some
		})
		if (len(events) > 0) != test.some {
			t.Errorf("%+v: %d events", test.opts, len(events))
		}
	}
}
