// SPDX-License-Identifier: Apache-2.0

package tcpaccept_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/tcpaccept"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

// connections are the numbers of the children below accept.
const connections = 11

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// accept tells its port, and accepts what it is sent.
		"accept": func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			fmt.Fprintln(bpftest.ReportTo, l.Addr().(*net.TCPAddr).Port)
			for range connections {
				c, err := l.Accept()
				if err != nil {
					return err
				}
				c.Close()
			}
			return l.Close()
		},
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// onFunction are the tracer's hooks but for the one that every kernel has.
var onFunction = tracetest.Without(tcpaccept.Tracer, tracer.Tracepoint)

// TestNoHook: a kernel with none of the hooks says so of each.
func TestNoHook(t *testing.T) {
	bpftest.Require(t)
	s, err := attach.Open([]*tracer.Tracer{onFunction}, attach.Options{RingSize: uint32(os.Getpagesize())})
	if err == nil {
		s.Close()
		t.Skip("this kernel has a hook")
	}
	var noHook *attach.NoHookError
	if !errors.As(err, &noHook) || os.Getenv(bpftest.KernelEnv) != "" {
		t.Fatal(err)
	}
	var tried []tracer.HookKind
	for _, a := range noHook.Attempts {
		tried = append(tried, a.Kind)
		if a.Err == nil || !strings.Contains(err.Error(), a.Err.Error()) {
			t.Errorf("the error does not tell %v: %v", a.Err, err)
		}
	}
	if want := []tracer.HookKind{tracer.KprobeMulti, tracer.Fentry, tracer.Kprobe}; !slices.Equal(tried, want) {
		t.Errorf("tried %v, want %v", tried, want)
	}
}

func listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// accept dials n times, accepts, and returns the events that shall be seen.
func accept(t *testing.T, n int, l *net.TCPListener, address string) (want []event) {
	t.Helper()
	comm, err := os.ReadFile("/proc/thread-self/comm")
	check(t, err)
	for range n {
		c, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)))
		check(t, err)
		a, err := l.AcceptTCP()
		check(t, err)
		waiting, limit := queue(t, l)
		remote, local := a.RemoteAddr().(*net.TCPAddr), a.LocalAddr().(*net.TCPAddr)
		if c.LocalAddr().String() != remote.String() {
			t.Fatalf("connected from %v and accepted from %v", c.LocalAddr(), remote)
		}
		version := int64(6)
		if strings.Contains(address, ".") {
			version = 4
		}
		want = append(want, event{
			"type": "tcpaccept", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "ppid": int64(os.Getppid()),
			"uid": int64(os.Getuid()), "gid": int64(os.Getgid()), "comm": strings.TrimSpace(string(comm)),
			"ip": version, "raddr": remote.IP.String(), "rport": int64(remote.Port),
			"laddr": local.IP.String(), "lport": int64(local.Port),
			"backlog": waiting, "backlog_max": limit,
			"netns": nettest.NetNS(),
		})
		a.Close()
		c.Close()
	}
	return want
}

// queue is what the kernel says of the accept queue of a listening socket: how many wait, and how
// many may (tcp_get_info(), net/ipv4/tcp.c).
func queue(t *testing.T, l *net.TCPListener) (waiting, limit int64) {
	t.Helper()
	raw, err := l.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		check(t, err)
		waiting, limit = int64(info.Unacked), int64(info.Sacked)
	}))
	return waiting, limit
}

// backlog lets connections wait, and accepts one after the other.
func backlog(t *testing.T, l *net.TCPListener, n int) (want []event) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		t.Cleanup(func() { c.Close() })
	}
	for i := range n {
		a, err := l.AcceptTCP()
		check(t, err)
		a.Close()
		waiting, limit := queue(t, l)
		if waiting != int64(n-1-i) || limit == 0 {
			t.Fatalf("%d of %d wait, the kernel says, want %d", waiting, limit, n-1-i)
		}
		want = append(want, event{"backlog": waiting, "backlog_max": limit})
	}
	return want
}

func TestAccept(t *testing.T) {
	bpftest.Require(t)
	me := attach.Filter{PID: uint32(os.Getpid())}
	kinds := []tracer.HookKind{tracer.Tracepoint, tracer.Fentry, tracer.Kprobe} // all of which the kernels of scripts/kernels have
	if attach.First(tcpaccept.Tracer, false) == tracer.KprobeMulti {
		kinds = append(kinds, tracer.KprobeMulti)
	}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			runtime.LockOSThread() // for comm and tid
			defer runtime.UnlockOSThread()
			check(t, os.WriteFile("/proc/thread-self/comm", []byte("rbtrace-accept"), 0o644))
			defer func() { check(t, os.WriteFile("/proc/thread-self/comm", []byte("rbtrace-test"), 0o644)) }()

			t.Run("addresses", func(t *testing.T) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				v4, v6, dual := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0"), listen(t, "[::]:0")
				var want []event
				events := tracetest.Trace(t, tcpaccept.Tracer, attach.Options{Filter: me, Hook: kind}, func() {
					want = slices.Concat(accept(t, 17, v4, "127.0.0.1"), accept(t, 13, v6, "::1"),
						accept(t, 7, dual, "127.0.0.1"), accept(t, 3, dual, "::1"))
				})
				tracetest.Same(t, events, want)
			})
			t.Run("port", func(t *testing.T) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				wanted, decoy := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
				port := wanted.Addr().(*net.TCPAddr).Port
				var want []event
				events := tracetest.Trace(t, tcpaccept.Tracer, attach.Options{Hook: kind, Params: map[string]string{"port": strconv.Itoa(port)}}, func() {
					accept(t, 13, decoy, "127.0.0.1")
					want = accept(t, 17, wanted, "127.0.0.1")
					accept(t, 5, decoy, "127.0.0.1")
				})
				tracetest.Same(t, events, want)
			})
			t.Run("backlog", func(t *testing.T) {
				l := listen(t, "127.0.0.1:0")
				var want []event
				events := tracetest.Trace(t, tcpaccept.Tracer, attach.Options{Filter: me, Hook: kind}, func() {
					want = backlog(t, l, 7)
				})
				tracetest.Same(t, events, want)
			})
			t.Run("pid", func(t *testing.T) {
				l := listen(t, "127.0.0.1:0")
				var c bpftest.Child
				c.Role = "accept"
				c.Start(t)
				port := c.ReadLine(t)
				events := tracetest.Trace(t, tcpaccept.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(c.PID())}, Hook: kind}, func() {
					for range connections {
						accept(t, 1, l, "127.0.0.1")
						conn, err := net.Dial("tcp", "127.0.0.1:"+port)
						check(t, err)
						conn.Close()
					}
					c.End(t)
				})
				n, err := strconv.ParseInt(port, 10, 64)
				check(t, err)
				want := make([]event, connections)
				for i := range want {
					want[i] = event{"pid": int64(c.PID()), "comm": "child", "lport": n}
				}
				tracetest.Same(t, events, want)
			})
			t.Run("loss", func(t *testing.T) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				const n = 101
				l := listen(t, "127.0.0.1:0")
				s := tracetest.Open(t, attach.Options{Filter: me, Hook: kind, RingSize: uint32(os.Getpagesize())}, tcpaccept.Tracer)
				want := accept(t, n, l, "127.0.0.1")
				r := s.Finish(t)
				if r.Lost == 0 || int(r.Lost)+len(r.Events) != n {
					t.Errorf("%d events and %d lost, want %d", len(r.Events), r.Lost, n)
				}
				tracetest.Same(t, r.Events, want[:len(r.Events)])
			})
			t.Run("uring", func(t *testing.T) { uring(t, kind) })
			for _, when := range []string{"before", "meanwhile"} {
				t.Run("blocked "+when, func(t *testing.T) { blocked(t, kind, when == "before") })
			}
			if kind == tracer.Kprobe {
				t.Run("unfollowed", unfollowed)
			}
		})
	}
}

// uring accepts by io_uring, which the function alone tells of, and by calls of the same thread after each.
func uring(t *testing.T, kind tracer.HookKind) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := listen(t, "127.0.0.1:0")
	raw, err := l.SyscallConn()
	check(t, err)
	var want []event
	events := tracetest.Trace(t, tcpaccept.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Hook: kind}, func() {
		for i := range 14 {
			c, err := net.Dial("tcp", l.Addr().String())
			check(t, err)
			a := 0
			check(t, raw.Control(func(fd uintptr) {
				if i%2 == 0 {
					a = acceptByRing(t, int(fd))
				} else {
					a = bpftest.Call(unix.SYS_ACCEPT4, int(fd), nil, nil, unix.SOCK_CLOEXEC)
				}
			}))
			check(t, errors.Join(unix.Close(a), c.Close()))
			if i%2 == 1 || kind != tracer.Tracepoint {
				want = append(want, event{"tid": int64(unix.Gettid()), "rport": int64(c.LocalAddr().(*net.TCPAddr).Port)})
			}
		}
	})
	tracetest.Same(t, events, want)
}

// acceptByRing makes an io_uring for one accept, and returns the descriptor.
func acceptByRing(t *testing.T, listener int) int {
	t.Helper()
	var params struct { // struct io_uring_params, include/uapi/linux/io_uring.h
		_              [10]uint32
		sqHead, sqTail uint32
		_              [4]uint32
		sqArray        uint32
		_              [3]uint32
		cqHead, cqTail uint32
		_              [3]uint32
		cqes           uint32
		_              [4]uint32
	}
	ring := bpftest.Call(unix.SYS_IO_URING_SETUP, 1, unsafe.Slice((*byte)(unsafe.Pointer(&params)), unsafe.Sizeof(params)))
	if ring < 0 {
		t.Skipf("io_uring: %v", unix.Errno(-ring))
	}
	defer unix.Close(ring)
	const offSQ, offCQ, offSQEs = 0, 0x8000000, 0x10000000
	page := func(offset int64) []byte {
		b, err := unix.Mmap(ring, offset, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		check(t, err)
		t.Cleanup(func() { check(t, unix.Munmap(b)) })
		return b
	}
	sq, cq, sqe := page(offSQ), page(offCQ), page(offSQEs)
	const opAccept = 13
	sqe[0] = opAccept
	binary.NativeEndian.PutUint32(sqe[4:], uint32(listener))
	binary.NativeEndian.PutUint32(sq[params.sqArray:], 0)
	binary.NativeEndian.PutUint32(sq[params.sqTail:], 1)
	const getEvents = 1
	if n := bpftest.Call(unix.SYS_IO_URING_ENTER, ring, 1, 1, getEvents, nil, 0); n != 1 {
		t.Fatalf("io_uring_enter: %d", n)
	}
	fd := int(int32(binary.NativeEndian.Uint32(cq[params.cqes+8:]))) // behind user_data
	if fd < 0 {
		t.Fatalf("accept by io_uring: %v", unix.Errno(-fd))
	}
	return fd
}

// more is more calls at a time than a kretprobe can follow.
const more = 37

// waiting has so many threads wait in accept, half of them in accept4, each at a port of its own. It returns the ports and
// what waits until a client of each has made it return.
func waiting(t *testing.T, n int) (ports []int, wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	type thread struct{ tid, port int }
	threads := make(chan thread)
	for i := range n {
		wg.Go(func() {
			// No signal makes accept return, and be called again.
			bpftest.WithoutSignals(func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				err = errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1))
				if err != nil {
					t.Error(err)
				}
				addr, err := unix.Getsockname(fd)
				if err != nil {
					t.Error(err)
				}
				threads <- thread{unix.Gettid(), addr.(*unix.SockaddrInet4).Port}
				var a int
				if i%2 == 0 {
					a = bpftest.Call(unix.SYS_ACCEPT, fd, nil, nil)
				} else {
					a = bpftest.Call(unix.SYS_ACCEPT4, fd, nil, nil, unix.SOCK_CLOEXEC)
				}
				if a < 0 {
					t.Error(unix.Errno(-a))
				}
				unix.Close(a)
				unix.Close(fd)
			})
		})
	}
	tids := make([]int, n)
	ports = make([]int, n)
	for i := range n {
		th := <-threads
		tids[i], ports[i] = th.tid, th.port
	}
	for _, tid := range tids {
		bpftest.AwaitCall(t, tid, unix.SYS_ACCEPT4, unix.SYS_ACCEPT)
	}
	return ports, wg.Wait
}

// connectTo is a client of each port, and returns what its accept shows.
func connectTo(t *testing.T, ports []int) []event {
	t.Helper()
	var want []event
	for _, port := range ports {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		check(t, err)
		c.Close()
		want = append(want, event{"lport": int64(port), "backlog": int64(0), "backlog_max": int64(1)})
	}
	return want
}

func sortByPort(events []event) {
	slices.SortFunc(events, func(a, b event) int { return int(a["lport"].(int64) - b["lport"].(int64)) })
}

// blocked lets more threads wait in accept than a kretprobe can follow, before tracing begins or once it has.
func blocked(t *testing.T, kind tracer.HookKind, before bool) {
	var s *tracetest.Session
	trace := func() {
		s = tracetest.Open(t, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Hook: kind}, tcpaccept.Tracer)
		s.Start()
	}
	trace()
	if before { // so it can, and another one will
		s.Finish(t)
	}
	ports, wait := waiting(t, more)
	if before {
		trace()
	}
	want := connectTo(t, ports)
	wait()
	r := s.Finish(t)
	r.NoneTurnedAway(t)
	sortByPort(r.Events)
	sortByPort(want)
	tracetest.Same(t, r.Events, want)
	if missed, skipped := r.Ledger[0].Losses().Missed, tracetest.Misses(t); missed > uint64(skipped) {
		t.Errorf("%d told as missed, but the kernel has skipped %d programs", missed, skipped)
	}
}

// unfollowed accepts by io_uring while no kretprobe is left, so that nothing tells of it: each such connection is lost, and
// known to be when the thread accepts again.
func unfollowed(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := listen(t, "127.0.0.1:0")
	raw, err := l.SyscallConn()
	check(t, err)
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Hook: tracer.Kprobe}, tcpaccept.Tracer)
	s.Start()
	ports, wait := waiting(t, more)
	const unseen = 3
	for i := range unseen + 1 {
		c, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		a := 0
		check(t, raw.Control(func(fd uintptr) {
			if i < unseen {
				a = acceptByRing(t, int(fd))
			} else {
				a = bpftest.Call(unix.SYS_ACCEPT4, int(fd), nil, nil, unix.SOCK_CLOEXEC)
			}
		}))
		check(t, errors.Join(unix.Close(a), c.Close()))
	}
	want := append(connectTo(t, ports), event{"lport": int64(l.Addr().(*net.TCPAddr).Port)})
	wait()
	r := s.Finish(t)
	sortByPort(r.Events)
	sortByPort(want)
	tracetest.Same(t, r.Events, want)
	r.Accounts(t, more+unseen+1)
	if lost := r.Ledger[0].Losses().NoEntry; lost != unseen {
		t.Errorf("%d told as lost without their beginning, want %d", lost, unseen)
	}
}
