// SPDX-License-Identifier: Apache-2.0

package tcpaccept_test

import (
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

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/nettest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
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

// TestNoHook: a kernel with none of the hooks says so of each.
func TestNoHook(t *testing.T) {
	bpftest.Require(t)
	s, err := attach.Open([]*tracer.Tracer{tcpaccept.Tracer}, attach.Options{RingSize: uint32(os.Getpagesize())})
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
	kinds := []tracer.HookKind{tracer.Fentry, tracer.Kprobe} // both of which the kernels of scripts/kernels have
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
			t.Run("blocked", func(t *testing.T) { blocked(t, kind) })
		})
	}
}

// blocked lets more threads wait in accept than a kretprobe can follow.
func blocked(t *testing.T, kind tracer.HookKind) {
	const n = 37
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Hook: kind}, tcpaccept.Tracer)
	s.Start()
	var wg sync.WaitGroup
	tids, ports := make(chan int), make(chan int)
	for range n {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			err = errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1))
			if err != nil {
				t.Error(err)
			}
			addr, err := unix.Getsockname(fd)
			if err != nil {
				t.Error(err)
			}
			ports <- addr.(*unix.SockaddrInet4).Port
			tids <- unix.Gettid()
			a, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				t.Error(err)
			}
			unix.Close(a)
			unix.Close(fd)
		})
	}
	all := make(map[int64]bool)
	for range n {
		all[int64(<-ports)] = true
	}
	for range n {
		bpftest.AwaitCall(t, <-tids, unix.SYS_ACCEPT4)
	}
	for port := range all {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		check(t, err)
		c.Close()
	}
	wg.Wait()
	r := s.Finish(t)
	for _, e := range r.Events {
		port := e["lport"].(int64)
		if !all[port] {
			t.Errorf("no connection, or no second one, was to be seen on port %d", port)
		}
		delete(all, port)
	}
	t.Logf("%d of %d connections not seen, %d told as lost", len(all), n, r.Lost)
	if kind == tracer.Fentry {
		// Only where programs can be preempted it misses any, and then tells of each.
		if r.NoneTurnedAway(t); len(all) != int(r.Lost) {
			t.Errorf("%d of %d connections not seen, and %d told as lost", len(all), n, r.Lost)
		}
		return
	}
	// How many it has missed a kretprobe tells since 6.7. It may tell of more: a signal, such as the
	// one by which Go preempts a thread, makes accept return and be called again, and that hit is
	// missed as well, although it would have shown nothing.
	v, err := kernel.ParseVersion(kernel.Release())
	if tells := err != nil || !v.Less(kernel.Version{Major: 6, Minor: 7}); tells && int(r.Lost) < len(all) {
		t.Errorf("%d of %d connections not seen, and %d told as lost", len(all), n, r.Lost)
	}
}
