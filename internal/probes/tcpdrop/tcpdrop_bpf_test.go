// SPDX-License-Identifier: Apache-2.0

package tcpdrop_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
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
	"github.com/rbtrace/rbtrace/internal/probes/tcpdrop"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// since reports whether this kernel is of that version or newer.
func since(t *testing.T, major, minor int) bool {
	v, err := kernel.ParseVersion(kernel.Release())
	if err != nil {
		t.Fatal(err)
	}
	return !v.Less(kernel.Version{Major: major, Minor: minor})
}

// TestDrops: SYNs to a closed port, and data to a socket whose filter lets nothing pass.
func TestDrops(t *testing.T) {
	bpftest.Require(t)
	for _, family := range bpftest.Thin(nettest.Families, 2) {
		t.Run(family.Name, func(t *testing.T) {
			var refused, filtered, toClosed, data []event
			var closed, open netip.AddrPort
			workload := func() {
				refused, filtered = nil, nil
				me := int64(unix.Gettid())
				segment := func(local, remote netip.AddrPort, reason string, flags ...string) event {
					e := event{
						"type": "tcpdrop", "ip": family.IP, "saddr": local.Addr().Unmap().String(), "sport": int64(local.Port()),
						"daddr": remote.Addr().Unmap().String(), "dport": int64(remote.Port()), "flags": flags, "reason": "",
					}
					if since(t, 5, 17) {
						e["reason"] = reason
					}
					return e
				}
				address := netip.AddrPortFrom(netip.MustParseAddr(family.Listen), 0).String()
				l, at := nettest.Listen(address, 1)
				open = netip.AddrPortFrom(netip.MustParseAddr(family.Connect), at.Port())
				closed = netip.AddrPortFrom(open.Addr(), nettest.ClosedPort(address).Port())
				for range 7 {
					c := nettest.Socket(nettest.Family(closed))
					nettest.Must(unix.Bind(c, nettest.Sockaddr(netip.AddrPortFrom(closed.Addr(), 0))))
					local := nettest.Local(c)
					if err := unix.Connect(c, nettest.Sockaddr(closed)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Error(err)
					}
					nettest.Close(c)
					e := segment(local, closed, "NO_SOCKET", "SYN")
					e["state"], e["pid"] = "", int64(0)
					refused = append(refused, e)
				}
				c := nettest.Must1(nettest.Connect(open))
				a := nettest.Accept(l)
				nettest.Deaf(a)
				local := nettest.Local(c)
				nettest.Must1(unix.Write(c, []byte("hello")))
				sent := 0 // and dropped: the last one may still be on its way
				for sent < 3 || sent != nettest.Retransmitted(c)+1 {
					time.Sleep(time.Millisecond)
					sent = nettest.Drops(a)
				}
				nettest.Reset(c)
				nettest.Reset(a)
				nettest.Close(l)
				for range sent {
					e := segment(local, open, "SOCKET_FILTER", "PSH", "ACK")
					if since(t, 6, 11) {
						e["state"], e["tid"], e["pid"] = "ESTAB", me, int64(os.Getpid())
					}
					filtered = append(filtered, e)
				}
			}
			tracetest.Seen(t, func() bool {
				// Segments of the handshake, and RSTs, may have been dropped as well.
				toClosed, data = nil, nil
				for _, e := range tracetest.TraceNet(t, tcpdrop.Tracer, attach.Options{}, workload) {
					if s := e["location"].(string); !strings.Contains(s, "+0x") && (since(t, 5, 13) || !strings.HasPrefix(s, "0xffff")) {
						t.Errorf("location %q", s)
					}
					tracetest.Reason(t, e, "skb_drop_reason", "SKB_DROP_REASON_")
					flags := strings.Join(e["flags"].([]string), " ")
					switch {
					case e["dport"] == int64(closed.Port()) && flags == "SYN":
						toClosed = append(toClosed, e)
					case e["dport"] == int64(open.Port()) && flags == "PSH ACK":
						data = append(data, e)
					}
				}
				return len(toClosed) == len(refused) && len(data) == len(filtered)
			})
			tracetest.Same(t, toClosed, refused)
			tracetest.Same(t, data, filtered)
		})
	}
}

// TestFilters: by port.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		param string
		want  int
	}{{"dport", 5}, {"sport", 0}} {
		events := tracetest.TraceNet(t, tcpdrop.Tracer, attach.Options{Params: map[string]string{test.param: "4711"}}, func() {
			for i := range 10 {
				c, err := nettest.Connect(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 4711+uint16(i%2)))
				if !errors.Is(err, unix.ECONNREFUSED) {
					t.Error(err)
				}
				nettest.Close(c)
			}
		})
		n := 0
		for _, e := range events {
			if e[test.param] != int64(4711) {
				t.Errorf("%v", e)
			}
			if len(e["flags"].([]string)) == 1 { // SYN; some kernels drop the RST that answers, too
				n++
			}
		}
		if n != test.want {
			t.Errorf("--%s: %d SYNs, want %d", test.param, n, test.want)
		}
	}
}

// TestNotTCP: of segments that a raw socket does not take, or a packet socket sends, there is
// neither a state nor an owner: the socket's user alone.
func TestNotTCP(t *testing.T) {
	bpftest.Require(t)
	const received, sent, port, uid = 7, 5, 4711, 65534
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		nettest.Close(tun)
	}
	hasTun := err == nil
	var want []event
	events := tracetest.TraceNet(t, tcpdrop.Tracer, attach.Options{Params: map[string]string{"dport": strconv.Itoa(port)}}, func() {
		raw := nettest.Must1(unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP))
		nettest.Must(unix.Fchown(raw, uid, uid))
		nettest.Deaf(raw)
		for range received {
			c, err := nettest.Connect(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Error(err)
			}
			nettest.Close(c)
			e := event{"saddr": "127.0.0.1", "reason": "", "pid": int64(0), "state": ""}
			if since(t, 5, 17) {
				e["reason"] = "SOCKET_FILTER"
			}
			if since(t, 6, 11) {
				e["uid"] = int64(uid)
			}
			want = append(want, e)
		}
		nettest.Close(raw)
		if !hasTun {
			return
		}
		// What is sent to an interface that nobody is behind does not leave its queue.
		tun := nettest.Must1(unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0))
		ifr := nettest.Must1(unix.NewIfreq("rbtest"))
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		nettest.Must(unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr), unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1))
		nettest.Close(tun)
		nettest.Up("rbtest")
		packet := nettest.Must1(unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
		nettest.Must(unix.Fchown(packet, uid, uid), unix.IoctlIfreq(packet, unix.SIOCGIFINDEX, ifr))
		syn := []byte{
			0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
			0x10, 0, port >> 8, port & 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
		}
		to := &unix.SockaddrLinklayer{Protocol: 0x0008 /* ETH_P_IP, big-endian */, Ifindex: int(ifr.Uint32())}
		for range sent {
			_ = unix.Sendto(packet, syn, 0, to) // some kernels tell of the drop
			want = append(want, event{"saddr": "192.0.2.1", "daddr": "192.0.2.2", "sport": int64(4096), "pid": int64(0), "state": "", "uid": int64(uid)})
		}
		nettest.Close(packet)
	})
	events = slices.DeleteFunc(events, func(e event) bool { return e["reason"] == "NO_SOCKET" || !since(t, 5, 17) && e["uid"] == int64(0) })
	if !since(t, 5, 17) { // no reasons: what the raw socket does not take is told as what no socket takes
		want = slices.DeleteFunc(want, func(e event) bool { return e["uid"] == nil })
	}
	tracetest.Same(t, events, want)
}

// TestStack: by which functions the kernel came to drop a segment.
func TestStack(t *testing.T) {
	bpftest.Require(t)
	const n = 3
	var names *attach.Stacks
	traced := tcpdrop.Tracer.WithStacks(tracer.KernelStack, func(b []byte, kind tracer.StackKind, who *wire.Who, addresses []uint64) []byte {
		if names == nil {
			names = bpftest.Must1(attach.NewStacks(tracer.KernelStack))
		}
		return names.Append(b, kind, who, addresses)
	})
	o := attach.Options{Params: map[string]string{"dport": "4711", tracer.StackParam: "kernel"}}
	events := tracetest.TraceNet(t, traced, o, func() {
		for range n {
			c, err := nettest.Connect(netip.MustParseAddrPort("127.0.0.1:4711"))
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Error(err)
			}
			nettest.Close(c)
		}
	})
	syns := 0
	for _, e := range events {
		if len(e["flags"].([]string)) != 1 { // SYN; some kernels drop the RST that answers, too
			continue
		}
		syns++
		stack := e["kernel_stack"].([]string)
		received := slices.IndexFunc(stack, func(frame string) bool { return strings.HasPrefix(frame, "tcp_v4_rcv+0x") })
		sent := slices.IndexFunc(stack, func(frame string) bool { return strings.HasPrefix(frame, "tcp_v4_connect+0x") })
		// Not in the thread that sends it where ksoftirqd receives it.
		if received < 0 || sent >= 0 && sent < received || strings.Contains(stack[0], "bpf") || strings.Contains(stack[0], "trace") {
			t.Errorf("the stack is %q", stack)
		}
	}
	if syns != n {
		t.Errorf("%d SYNs, want %d", syns, n)
	}
}
