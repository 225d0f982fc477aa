// SPDX-License-Identifier: Apache-2.0

package bind_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/bind"
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
		events = tracetest.Trace(t, bind.Tracer, opts, fn)
	})
	return events
}

func socket(family, typ, proto int) int {
	return nettest.Must1(unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto))
}

// raw is bind with any bytes as an address, of any length.
func raw(fd int, addr []byte, length int) int64 {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(addr))), uintptr(length))
	return -int64(errno)
}

// TestKinds: what each socket is, and the address and port that getsockname tells.
func TestKinds(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := mine(t, attach.Options{}, func() {
		ns := nettest.NetNS()
		for _, k := range []struct {
			family, typ, proto int
			name, kind         string
		}{
			{unix.AF_INET, unix.SOCK_STREAM, 0, "tcp", "stream"},
			{unix.AF_INET, unix.SOCK_DGRAM, 0, "udp", "dgram"},
			{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, "raw", "raw"},
			{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, "udplite", "dgram"},
			{unix.AF_INET6, unix.SOCK_STREAM, 0, "tcp", "stream"},
			{unix.AF_INET6, unix.SOCK_DGRAM, 0, "udp", "dgram"},
			{unix.AF_INET6, unix.SOCK_RAW, 89, "raw", "raw"},
		} {
			addr, version := "127.0.0.3", "inet"
			if k.family == unix.AF_INET6 {
				addr, version = "::1", "inet6"
			}
			for _, port := range []int{0, 0, 1234} {
				fd, err := unix.Socket(k.family, k.typ|unix.SOCK_CLOEXEC, k.proto)
				if err != nil {
					continue // UDP-Lite is no more, since 7.1
				}
				if k.family == unix.AF_INET {
					must(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 3}}))
				} else {
					must(unix.Bind(fd, &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}))
				}
				at := nettest.Local(fd)
				e := event{
					"type": "bind", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "proto": k.name, "family": version, "sock_type": k.kind,
					"ret": int64(0), "errno": "", "addr": addr, "port": int64(at.Port()), "chosen": port == 0, "ifindex": int64(0), "netns": ns,
				}
				if k.typ == unix.SOCK_RAW { // has no ports, and getsockname tells its protocol, or what was given
					e["port"], e["chosen"] = int64(port), false
				}
				if at.Addr().Unmap().String() != addr {
					t.Errorf("bound to %v", at)
				}
				want = append(want, e)
				nettest.Close(fd)
			}
		}
	})
	tracetest.Same(t, events, want)
	if len(want) < 18 {
		t.Errorf("only %d kinds", len(want))
	}
}

// TestOptions: each option is told, and no other; and the interface.
func TestOptions(t *testing.T) {
	bpftest.Require(t)
	type option struct {
		level, name int
		text        string
	}
	all := []option{
		{unix.SOL_IP, unix.IP_FREEBIND, "freebind"},
		{unix.SOL_IP, unix.IP_TRANSPARENT, "transparent"},
		{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, "bind_address_no_port"},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, "reuseaddr"},
		{unix.SOL_SOCKET, unix.SO_REUSEPORT, "reuseport"},
	}
	var want []event
	events := mine(t, attach.Options{}, func() {
		for set := range 1 << len(all) {
			fd := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			texts := []string{}
			for i, o := range all {
				if set&(1<<i) != 0 {
					must(unix.SetsockoptInt(fd, o.level, o.name, 1))
					texts = append(texts, o.text)
				}
			}
			must(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
			want = append(want, event{"opts": texts, "port": int64(nettest.Local(fd).Port()), "ifindex": int64(0)})
			nettest.Close(fd)
		}
		fd := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		must(unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"), unix.Bind(fd, &unix.SockaddrInet6{}))
		want = append(want, event{"ifindex": int64(1), "addr": "::", "opts": []string{}})
		nettest.Close(fd)
	})
	tracetest.Same(t, events, want)
}

// TestUnix: paths and abstract names of all lengths, whatever is in them.
func TestUnix(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const hostile = "\x1b]0;b\a\n\"\\\xff"
	var want []event
	events := mine(t, attach.Options{}, func() {
		must(unix.Chdir(dir))
		try := func(sun string, abstract bool) {
			fd := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			addr, shown := append([]byte{unix.AF_UNIX, 0}, sun...), sun
			if abstract {
				shown = "@" + sun[1:]
			}
			e := event{
				"proto": "unix", "family": "unix", "sock_type": "dgram", "abstract": abstract, "chosen": false, "port": int64(0),
				"addr": tracetest.Text(shown), "ret": raw(fd, addr, len(addr)),
			}
			if e["ret"] == int64(0) && !abstract {
				if _, err := os.Lstat(sun); err != nil {
					t.Error(err)
				}
			}
			want = append(want, e)
			nettest.Close(fd)
		}
		for _, name := range []string{"x", hostile, "ü", "with\x00nul", strings.Repeat("y", 107)} {
			try("\x00"+name, true)
		}
		try("\x00", true)
		for _, name := range []string{"x", "@x", hostile, dir + "/z", "missing/" + hostile, strings.Repeat("y", 107), strings.Repeat("z", 108)} {
			try(name, false)
		}
		// A path ends at its NUL.
		fd := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "nul")}))
		want = append(want, event{"addr": dir + "/nul", "sock_type": "stream"})
		nettest.Close(fd)
		// The kernel chooses a name.
		fd = socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if ret := raw(fd, []byte{unix.AF_UNIX, 0}, 2); ret != 0 {
			t.Errorf("autobind: %d", ret)
		}
		chosen := nettest.Must1(unix.Getsockname(fd)).(*unix.SockaddrUnix).Name
		want = append(want, event{"addr": chosen, "abstract": true, "chosen": true})
		nettest.Close(fd)
	})
	tracetest.Same(t, events, want)
	for i, e := range events[:min(len(events), 5)] {
		if e["ret"] != int64(0) {
			t.Errorf("name %d: %v", i, e["errno"])
		}
	}
}

// TestFailed: the errors, of descriptors and addresses of all kinds.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	work := func(want *[]event, failures bool) func() {
		return func() {
			add := func(ret int64, e event) {
				if ret < 0 || !failures {
					e["ret"] = ret
					*want = append(*want, e)
				}
			}
			sa := func(port uint16, a, b, c, d byte) []byte {
				return []byte{unix.AF_INET, 0, byte(port >> 8), byte(port), a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0}
			}
			one, two := socket(unix.AF_INET, unix.SOCK_STREAM, 0), socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			add(raw(one, sa(80, 127, 0, 0, 1), 16), event{"errno": "", "port": int64(80), "addr": "127.0.0.1"})
			for range 7 {
				add(raw(two, sa(80, 127, 0, 0, 1), 16), event{"errno": "EADDRINUSE", "port": int64(80), "addr": "127.0.0.1", "proto": "tcp"})
			}
			add(raw(one, sa(80, 127, 0, 0, 1), 16), event{"errno": "EINVAL"})
			add(raw(two, sa(0, 192, 0, 2, 1), 16), event{"errno": "EADDRNOTAVAIL", "port": int64(0), "addr": "192.0.2.1", "chosen": false})
			add(raw(two, sa(81, 127, 0, 0, 1), 1), event{"errno": "EINVAL", "addr": "", "port": int64(0)})
			add(raw(two, sa(81, 127, 0, 0, 1), 4), event{"errno": "EINVAL", "addr": "", "port": int64(81)})
			add(raw(two, nil, 16), event{"errno": "EFAULT", "addr": "", "port": int64(0), "proto": "tcp"})
			add(raw(two, sa(81, 127, 0, 0, 1), -1), event{"errno": "EINVAL", "addr": ""})
			add(raw(-1, sa(81, 127, 0, 0, 1), 16), event{"errno": "EBADF", "proto": "", "family": "inet", "port": int64(81), "addr": "127.0.0.1"})
			file := nettest.Must1(unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0))
			add(raw(file, sa(82, 127, 0, 0, 1), 16), event{"errno": "ENOTSOCK", "proto": "", "port": int64(82)})
			path := nettest.Must1(unix.Open("/proc/thread-self/fd/"+strconv.Itoa(one), unix.O_PATH|unix.O_CLOEXEC, 0))
			add(raw(path, sa(83, 127, 0, 0, 1), 16), event{"errno": "EBADF", "proto": "", "port": int64(83)})
			netlink := socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
			add(raw(netlink, []byte{unix.AF_NETLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 12), event{"proto": "netlink", "addr": "", "port": int64(0), "errno": ""})
			nettest.Close(one, two, file, path, netlink)
		}
	}
	var all, failed []event
	events := mine(t, attach.Options{}, work(&all, false))
	tracetest.Same(t, events, all)
	events = mine(t, attach.Options{Failed: true}, work(&failed, true))
	tracetest.Same(t, events, failed)
	if len(failed) != 16 || len(all) != 18 {
		t.Errorf("%d calls, %d of them fail", len(all), len(failed))
	}
}

// TestPort: --port.
func TestPort(t *testing.T) {
	bpftest.Require(t)
	var want []event
	events := mine(t, attach.Options{Params: map[string]string{"port": "4321"}}, func() {
		for i := range 23 {
			fd := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			must(unix.Bind(fd, &unix.SockaddrInet4{Port: 4320 + i%3}))
			if i%3 == 1 {
				want = append(want, event{"port": int64(4321), "ret": int64(0)})
			}
			nettest.Close(fd)
		}
	})
	tracetest.Same(t, events, want)
}
