// SPDX-License-Identifier: Apache-2.0

package listen_test

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/probes/listen"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

var must = nettest.Must

// mine are the events of a thread that runs fn in a network namespace of its own.
func mine(t *testing.T, opts attach.Options, fn func()) []event {
	t.Helper()
	var events []event
	tracetest.InNetNS(t, func() {
		opts.Filter.TID = uint32(unix.Gettid())
		events = tracetest.Trace(t, listen.Tracer, opts, fn)
	})
	return events
}

func somaxconn() int64 {
	text := nettest.Must1(os.ReadFile("/proc/sys/net/core/somaxconn"))
	return int64(nettest.Must1(strconv.Atoi(strings.TrimSpace(string(text)))))
}

func TestListen(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := mine(t, attach.Options{}, func() {
		most, ns := somaxconn(), nettest.NetNS()
		for i := range int64(17) {
			address := []string{"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:1234"}[i%4]
			backlog := []int64{0, 7, most, most + 1, -1}[i%5]
			fd, at := nettest.Listen(address, int(backlog))
			limit := backlog
			if limit < 0 || limit > most {
				limit = most
			}
			family := "inet"
			if at.Addr().Is6() {
				family = "inet6"
			}
			want = append(want, event{
				"type": "listen", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "netns": ns, "proto": "tcp", "family": family, "sock_type": "stream",
				"ret": int64(0), "errno": "", "backlog": backlog, "limit": limit, "addr": at.Addr().String(), "port": int64(at.Port()), "abstract": false,
			})
			if has := int64(nettest.Must1(unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)).Sacked); has != limit {
				t.Errorf("the socket lets %d wait, want %d", has, limit)
			}
			// Once more, with another backlog.
			must(unix.Listen(fd, 3))
			want = append(want, event{"backlog": int64(3), "limit": int64(3), "port": int64(at.Port())})
			nettest.Close(fd)
		}
		// Bound to nothing: the kernel chooses a port.
		fd := nettest.Socket(unix.AF_INET)
		must(unix.Listen(fd, 5))
		at := nettest.Local(fd)
		want = append(want, event{"addr": "0.0.0.0", "port": int64(at.Port())})
		nettest.Close(fd)
	})
	tracetest.Same(t, events, want)
}

func TestUnix(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const hostile = "\x1b]0;b\a\n\"\\\xff"
	var want []event
	events := mine(t, attach.Options{}, func() {
		must(unix.Chdir(dir))
		for i, name := range []string{"x", "@x", hostile, "@" + hostile, strings.Repeat("y", 107), "@" + strings.Repeat("y", 106)} {
			typ := []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET}[i%2]
			fd := nettest.Must1(unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0))
			must(unix.Bind(fd, &unix.SockaddrUnix{Name: name}), unix.Listen(fd, 11+i))
			want = append(want, event{
				"proto": "unix", "family": "unix", "sock_type": []string{"stream", "seqpacket"}[i%2], "addr": tracetest.Text(name),
				"abstract": name[0] == '@', "backlog": int64(11 + i), "limit": int64(11 + i), "port": int64(0),
			})
			nettest.Close(fd)
		}
		most := somaxconn()
		fd := nettest.Must1(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		must(unix.Bind(fd, &unix.SockaddrUnix{Name: "@most"}), unix.Listen(fd, int(most)+7))
		want = append(want, event{"addr": "@most", "backlog": most + 7, "limit": most})
		nettest.Close(fd)
	})
	tracetest.Same(t, events, want)
}

// fail makes calls that fail, and one that does not.
func fail(t *testing.T, want *[]event) {
	add := func(err error, errno unix.Errno, e event) {
		if !errors.Is(err, errno) {
			t.Errorf("%v, want %v", err, errno)
		}
		e["errno"], e["ret"] = string(field.Errno(-int32(errno)).AppendText(nil)), -int64(errno)
		*want = append(*want, e)
	}
	add(unix.Listen(-1, 5), unix.EBADF, event{"proto": "", "addr": "", "backlog": int64(5), "limit": int64(0)})
	file := nettest.Must1(unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	add(unix.Listen(file, 5), unix.ENOTSOCK, event{"proto": "", "addr": ""})
	udp := nettest.Must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	add(unix.Listen(udp, 5), unix.EOPNOTSUPP, event{"proto": "udp", "sock_type": "dgram", "addr": "0.0.0.0"})
	u := nettest.Must1(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	add(unix.Listen(u, 5), unix.EINVAL, event{"proto": "unix", "addr": ""})
	l, at := nettest.Listen("127.0.0.1:0", 5)
	c, err := nettest.Connect(at)
	must(err)
	for range 7 {
		add(unix.Listen(c, 5), unix.EINVAL, event{"proto": "tcp", "addr": "127.0.0.1", "port": int64(nettest.Local(c).Port())})
	}
	nettest.Close(file, udp, u, l, c)
}

func TestFailed(t *testing.T) {
	bpftest.Require(t)
	var want []event
	tracetest.Same(t, mine(t, attach.Options{Failed: true}, func() { fail(t, &want) }), want)
	want = nil
	events := mine(t, attach.Options{}, func() { fail(t, &want) })
	if len(events) != len(want)+1 {
		t.Errorf("%d events in all, want %d", len(events), len(want)+1)
	}
}

// TestPort: --port, also where the kernel chose it.
func TestPort(t *testing.T) {
	bpftest.Require(t)
	var want []event
	var fd int
	var at netip.AddrPort
	tracetest.InNetNS(t, func() {
		fd = nettest.Socket(unix.AF_INET)
		must(unix.Bind(fd, &unix.SockaddrInet4{}))
		at = nettest.Local(fd)
	})
	events := mine(t, attach.Options{Params: map[string]string{"port": strconv.Itoa(int(at.Port()))}}, func() {
		for i := range 13 {
			other, _ := nettest.Listen("127.0.0.1:0", i)
			must(unix.Listen(fd, i))
			want = append(want, event{"port": int64(at.Port()), "backlog": int64(i)})
			nettest.Close(other)
		}
	})
	nettest.Close(fd)
	tracetest.Same(t, events, want)
}
