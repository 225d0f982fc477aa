// SPDX-License-Identifier: Apache-2.0

package tcpreset_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/tcpreset"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// reasons reports whether this kernel tells why it sends a RST, and of all that it sends.
func reasons(t *testing.T) bool {
	v, err := kernel.ParseVersion(kernel.Release())
	if err != nil {
		t.Fatal(err)
	}
	return !v.Less(kernel.Version{Major: 6, Minor: 10})
}

// TestReset: who breaks off, and who refuses, each RST where it is sent and where it is
// received.
func TestReset(t *testing.T) {
	bpftest.Require(t)
	for _, family := range bpftest.Thin(nettest.Families, 2) {
		t.Run(family.Name, func(t *testing.T) {
			var want []event
			sent := 0
			events := tracetest.TraceNet(t, tcpreset.Tracer, attach.Options{}, func() {
				l, at := nettest.Listen(netip.AddrPortFrom(netip.MustParseAddr(family.Listen), 0).String(), 1)
				at = netip.AddrPortFrom(netip.MustParseAddr(family.Connect), at.Port())
				me, pid := int64(unix.Gettid()), int64(os.Getpid())
				add := func(direction, state, reason string, tid int64, local, remote netip.AddrPort) {
					e := event{
						"type": "tcpreset", "direction": direction, "state": state, "reason": reason, "tid": tid, "pid": int64(0), "ip": family.IP,
						"laddr": local.Addr().Unmap().String(), "lport": int64(local.Port()), "raddr": remote.Addr().Unmap().String(), "rport": int64(remote.Port()),
					}
					if tid != 0 {
						e["pid"] = pid
					}
					if direction == "sent" {
						sent++
						if !reasons(t) {
							e["reason"] = ""
							if state == "" {
								return
							}
						}
					}
					want = append(want, e)
				}
				for range 3 {
					c := nettest.Must1(nettest.Connect(at))
					local := nettest.Local(c)
					a := nettest.Accept(l)
					nettest.Reset(c)
					nettest.Await(a, nettest.CloseState)
					nettest.Close(a)
					add("received", "ESTAB", "", me, at, local)
					add("sent", "ESTAB", "TCP_STATE", me, local, at)
				}
				for range 2 { // with data that nobody has read
					c := nettest.Must1(nettest.Connect(at))
					local := nettest.Local(c)
					nettest.Other(func(tid int64) {
						a := nettest.Accept(l)
						nettest.Send(c, 5)
						nettest.Close(a)
						add("sent", "ESTAB", "TCP_ABORT_ON_CLOSE", tid, at, local)
					})
					nettest.Await(c, nettest.CloseState)
					add("received", "ESTAB", "", me, local, at)
					nettest.Close(c)
				}
				nettest.Close(l)
				at = netip.AddrPortFrom(at.Addr(), nettest.ClosedPort("127.0.0.1:0").Port())
				for range 5 {
					c := nettest.Socket(nettest.Family(at))
					nettest.Must(unix.Bind(c, nettest.Sockaddr(netip.AddrPortFrom(at.Addr(), 0))))
					local := nettest.Local(c)
					if err := unix.Connect(c, nettest.Sockaddr(at)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Error(err)
					}
					add("sent", "", "NO_SOCKET", 0, at, local)
					add("received", "SYN-SENT", "", me, local, at)
					nettest.Close(c)
				}
				if n := nettest.Counter("OutRsts"); n != sent {
					t.Errorf("the workload sends %d RSTs, the machine counts %d", sent, n)
				}
			})
			compare(t, events, want)
		})
	}
}

// compare checks that there is one event for each in want: in which order the two ends of
// one RST come is the kernel's business.
func compare(t *testing.T, events, want []event) {
	t.Helper()
	type key struct {
		direction    string
		lport, rport int64
	}
	keyOf := func(e event) key { return key{e["direction"].(string), e["lport"].(int64), e["rport"].(int64)} }
	all := make(map[key]event)
	for _, e := range events {
		all[keyOf(e)] = e
	}
	for _, w := range want {
		e := all[keyOf(w)]
		tracetest.Reason(t, e, "sk_rst_reason", "SK_RST_REASON_")
		// Which reason it gives for a RST of a process's own has changed.
		if w["state"] == "ESTAB" && w["reason"] != "" && e["reason"] != "" {
			w["reason"] = e["reason"]
		}
		if diff := e.Diff(w); diff != "" {
			t.Errorf("%v: %s", keyOf(w), diff)
		}
	}
	if len(events) != len(want) {
		t.Errorf("%d events, want %d", len(events), len(want))
	}
}

// TestFilters: by thread, and by port.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		opts attach.Options
		want int
	}{
		{attach.Options{Filter: attach.Filter{TID: 1}}, 3 + 2},
		{attach.Options{Params: map[string]string{"lport": "4711"}}, 3},
		{attach.Options{Params: map[string]string{"rport": "4711"}}, 3},
		{attach.Options{Params: map[string]string{"rport": "4711"}, Filter: attach.Filter{TID: 1}}, 3},
	} {
		events := tracetest.TraceNet(t, tcpreset.Tracer, test.opts, func() {
			l, at := nettest.Listen("127.0.0.1:4711", 1)
			var a int
			for range 3 { // received by this one, sent by another
				c := nettest.Must1(nettest.Connect(at))
				nettest.Other(func(int64) {
					a = nettest.Accept(l)
					nettest.Reset(a)
				})
				nettest.Await(c, nettest.CloseState)
				nettest.Close(c)
			}
			nettest.Close(l)
			closed := nettest.ClosedPort("127.0.0.1:0")
			for range 2 {
				c, err := nettest.Connect(closed)
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Error(err)
				}
				nettest.Close(c)
			}
		})
		if len(events) != test.want {
			t.Errorf("%+v: %d events, want %d", test.opts, len(events), test.want)
		}
	}
}
