// Package nettest has what tests and recordings of the network tracers do: sockets, in a
// network namespace of their own, where nobody else has any.
package nettest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrExit says that what Run ran has ended its goroutine.
var ErrExit = errors.New("it has ended its goroutine")

// Run runs fn on a thread of its own, in a new network namespace in which lo is up. What
// fn panics with is the error, or ErrExit where it ends the goroutine.
func Run(fn func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := ErrExit
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("%v\n%s", r, debug.Stack())
			}
			done <- err
		}()
		Must(unix.Unshare(unix.CLONE_NEWNET))
		Up("lo")
		fn()
		err = nil
	}()
	return <-done
}

// Up brings an interface up.
func Up(name string) {
	fd := Must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(fd)
	ifr := Must1(unix.NewIfreq(name))
	Must(unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr))
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	Must(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// Gone takes the IPv4 address of an interface away, and brings it down.
func Gone(name string) {
	fd := Must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(fd)
	ifr := Must1(unix.NewIfreq(name))
	Must(ifr.SetInet4Addr(make([]byte, 4)), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr))
	ifr.SetUint16(0)
	Must(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// Must panics where an error is not nil.
func Must(errs ...error) {
	if err := errors.Join(errs...); err != nil {
		panic(err)
	}
}

// Must1 is Must for what returns a value, too.
func Must1[T any](v T, err error) T {
	Must(err)
	return v
}

// NetNS is the inode number of the thread's network namespace.
func NetNS() int64 {
	var st unix.Stat_t
	Must(unix.Stat("/proc/thread-self/ns/net", &st))
	return int64(st.Ino)
}

// Sockaddr returns an address as system calls want it.
func Sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	}
	return &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}
}

// AddrPort is its inverse: the zero AddrPort for what is no address of IP.
func AddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Family is that of an address.
func Family(addr netip.AddrPort) int {
	if addr.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Socket makes a TCP socket of that family.
func Socket(family int) int {
	return Must1(unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
}

// Listen listens on address, and returns where.
func Listen(address string, backlog int) (fd int, at netip.AddrPort) {
	addr := netip.MustParseAddrPort(address)
	fd = Socket(Family(addr))
	Must(unix.Bind(fd, Sockaddr(addr)), unix.Listen(fd, backlog))
	return fd, Local(fd)
}

// Full listens on an address where as many wait to be accepted as may: nobody answers a SYN. first is
// the one that waits.
func Full(address string) (fd, first int, at netip.AddrPort) {
	fd, at = Listen(address, 0)
	first = Must1(Connect(at))
	// It is connected before the listener has it.
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n == 1 {
			return fd, first, at
		}
		if !errors.Is(err, unix.EINTR) {
			Must(err)
		}
	}
}

// Connect connects a new socket.
func Connect(to netip.AddrPort) (fd int, err error) {
	fd = Socket(Family(to))
	return fd, unix.Connect(fd, Sockaddr(to))
}

// Accept accepts a connection.
func Accept(l int) int {
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	Must(err)
	return fd
}

// Local is the address that a socket has.
func Local(fd int) netip.AddrPort { return AddrPort(Must1(unix.Getsockname(fd))) }

// Close closes descriptors.
func Close(fds ...int) {
	for _, fd := range fds {
		Must(unix.Close(fd))
	}
}

// Other runs fn on another thread of the same network namespace, which is told its id.
func Other(fn func(tid int64)) { Begin(fn)() }

// Begin is Other that does not wait: what it returns does.
func Begin(fn func(tid int64)) (wait func()) {
	ns := Must1(unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	done := make(chan any)
	go func() {
		runtime.LockOSThread() // never unlocked
		defer func() { done <- recover() }()
		defer unix.Close(ns)
		Must(unix.Setns(ns, unix.CLONE_NEWNET))
		fn(int64(unix.Gettid()))
	}()
	return func() {
		if r := <-done; r != nil {
			panic(r)
		}
	}
}

// State is the state of a TCP socket, as the kernel counts them.
func State(fd int) uint8 { return Must1(unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)).State }

// Await waits until a socket is in that state.
func Await(fd int, state uint8) {
	for State(fd) != state {
		time.Sleep(time.Millisecond)
	}
}

// Send sends n bytes, and waits until they are acknowledged.
func Send(fd, n int) {
	for b := make([]byte, n); len(b) > 0; {
		b = b[Must1(unix.Write(fd, b)):]
	}
	for Must1(unix.IoctlGetInt(fd, unix.SIOCOUTQ)) > 0 {
		time.Sleep(time.Millisecond)
	}
}

// Receive receives n bytes.
func Receive(fd, n int) {
	for b := make([]byte, n); len(b) > 0; {
		k := Must1(unix.Read(fd, b))
		if k == 0 {
			panic("the connection has ended")
		}
		b = b[k:]
	}
}

// Finish closes both ends of a connection in order: first first, as far as it can, then
// the other one.
func Finish(first, other int) {
	Must(unix.Shutdown(first, unix.SHUT_WR))
	Await(first, FinWait2)
	Must1(unix.Read(other, make([]byte, 1)))
	Close(other)
	Await(first, CloseState)
	Close(first)
}

// The states that tests wait for, include/net/tcp_states.h.
const (
	Established = 1
	SynSent     = 2
	FinWait2    = 5
	CloseState  = 7
)

// Deaf lets a socket drop all that comes to it, by a filter.
func Deaf(fd int) {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // nothing of it
	Must(unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}))
}

// Retransmitted is how many segments a socket has sent again.
func Retransmitted(fd int) int {
	return int(Must1(unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)).Total_retrans)
}

// Drops is how many segments were dropped that came for a socket.
func Drops(fd int) int {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		panic(errno)
	}
	return int(info[drops])
}

// SendSeq is the sequence number of the byte that a socket takes next.
func SendSeq(fd int) (seq int) {
	const sendQueue, off = 2, -1 // TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP
	Must(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1), unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, sendQueue))
	seq = int(uint32(Must1(unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ))))
	Must(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, off))
	return seq
}

// Table is what /proc/net/tcp and tcp6 of the thread's network namespace say of a socket.
func Table(fd int) (local, remote netip.AddrPort, state uint8) {
	var st unix.Stat_t
	Must(unix.Fstat(fd, &st))
	for f := range table() {
		if f[9] == strconv.FormatUint(st.Ino, 10) {
			return tableAddr(f[1]), tableAddr(f[2]), uint8(Must1(strconv.ParseUint(f[3], 16, 8)))
		}
	}
	panic("the socket is in no table")
}

// table has the fields of the lines of /proc/net/tcp and tcp6, without their headings.
func table() iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for _, file := range []string{"tcp", "tcp6"} {
			_, lines, _ := strings.Cut(string(Must1(os.ReadFile("/proc/thread-self/net/"+file))), "\n")
			for line := range strings.Lines(lines) {
				if !yield(strings.Fields(line)) {
					return
				}
			}
		}
	}
}

// tableAddr reads an address: words of the machine's byte order, and a port.
func tableAddr(text string) netip.AddrPort {
	addr, port, _ := strings.Cut(text, ":")
	b := Must1(hex.DecodeString(addr))
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip, uint16(Must1(strconv.ParseUint(port, 16, 16))))
}

// Counter is a counter of the thread's network namespace, of TCP (/proc/net/snmp) or
// TcpExt (/proc/net/netstat).
func Counter(name string) int {
	for _, file := range []string{"snmp", "netstat"} {
		lines := strings.Split(string(Must1(os.ReadFile("/proc/thread-self/net/"+file))), "\n")
		for i := range len(lines) / 2 {
			keys, values := strings.Fields(lines[2*i]), strings.Fields(lines[2*i+1])
			if keys[0] != "Tcp:" && keys[0] != "TcpExt:" {
				continue
			}
			if at := slices.Index(keys, name); at > 0 {
				return Must1(strconv.Atoi(values[at]))
			}
		}
	}
	panic("there is no counter " + name)
}

// Families are where to listen and to connect, over IPv4, IPv6, and IPv4 between sockets
// of IPv6.
var Families = []struct {
	Name, Listen, Connect string
	IP                    int64
}{
	{"ipv4", "127.0.0.1", "127.0.0.1", 4},
	{"ipv6", "::1", "::1", 6},
	{"mapped", "::", "::ffff:127.0.0.1", 4},
}

// Reset closes a socket with a RST.
func Reset(fd int) {
	Must(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	Close(fd)
}

// ResetUnaccepted is Reset of a connection that nobody has accepted. It waits until the RST has come:
// the kernel may leave that to a thread of its own, and who accepts before has what is still open.
func ResetUnaccepted(fd int) {
	local, remote := Local(fd), AddrPort(Must1(unix.Getpeername(fd)))
	Reset(fd)
	for open := true; open; {
		open = false
		for f := range table() {
			open = open || tableAddr(f[1]) == remote && tableAddr(f[2]) == local
		}
	}
}

// ClosedPort is a port that nobody listens on, in a namespace of its own, with that
// address. The kernel does not choose it for anybody either: who is bound to the port that
// it connects to is connected to itself.
func ClosedPort(address string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddrPort(address).Addr(), 9)
}

// Main is a program: its first argument says what to do.
func Main() {
	work := map[string]func(){
		"accept": accept,
		"bind":   bind,
		"tcp":    tcp,
		"deaf":   deaf,
	}[os.Args[1]]
	if work == nil {
		fmt.Fprintf(os.Stderr, "sockets: nothing is called %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := Run(work); err != nil {
		fmt.Fprintln(os.Stderr, "sockets:", err)
		os.Exit(1)
	}
}

// bind binds sockets of all kinds, lets some listen, and fails with others.
func bind() {
	fails := func(err, want error) {
		if !errors.Is(err, want) {
			panic(fmt.Sprintf("%v, want %v", err, want))
		}
	}
	l, at := Listen("127.0.0.1:8080", 11)
	l6, _ := Listen("[::]:8081", 1<<20)
	_ = unix.Listen(l, 13)
	other := Socket(unix.AF_INET)
	fails(unix.Bind(other, Sockaddr(at)), unix.EADDRINUSE)
	fails(unix.Bind(other, Sockaddr(netip.MustParseAddrPort("192.0.2.1:80"))), unix.EADDRNOTAVAIL)
	udp := Must1(unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	Must(unix.SetsockoptInt(udp, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(udp, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.SetsockoptInt(udp, unix.SOL_IP, unix.IP_FREEBIND, 1),
		unix.Bind(udp, Sockaddr(netip.MustParseAddrPort("[::1]:53"))))
	fails(unix.Listen(udp, 5), unix.EOPNOTSUPP)
	u := Must1(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	Must(unix.Bind(u, &unix.SockaddrUnix{Name: "@name\x1b]0;b\a\n\xff"}), unix.Listen(u, 17))
	none := Must1(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))
	fails(unix.Bind(none, &unix.SockaddrUnix{Name: "/nothing/\x1b[31m\n\xff"}), unix.ENOENT)
	fails(unix.Listen(none, 19), unix.EINVAL)
	fails(unix.Listen(1<<20, 23), unix.EBADF)
	Close(l, l6, other, udp, u, none)
}

// accept accepts connections under several names, two of each that have waited.
func accept() {
	for _, server := range []struct{ name, listen, connect string }{
		{"server", "127.0.0.1:8080", "127.0.0.1"},
		{"server", "[::1]:8443", "::1"},
		{"dual stack", "[::]:8444", "::ffff:127.0.0.1"},
		{"\x1b]0;x\a\n\xff\u202eabc", "127.0.0.1:65535", "127.0.0.1"},
	} {
		Must(os.WriteFile("/proc/thread-self/comm", []byte(server.name), 0))
		l, at := Listen(server.listen, 5)
		at = netip.AddrPortFrom(netip.MustParseAddr(server.connect), at.Port())
		for range 2 {
			Must1(Connect(at))
		}
		Accept(l)
		Accept(l)
	}
}

// The connections of tcp: each over IPv4, IPv6, and IPv4 between sockets of IPv6.
const (
	orderly  = 7
	resets   = 2
	refused  = 3
	sent     = 10007 // bytes one way, in those that end orderly
	returned = 211   // the other way
)

// tcp makes connections that end in all ways.
func tcp() {
	for _, family := range []struct{ listen, connect string }{
		{"127.0.0.1:8080", "127.0.0.1"}, {"[::1]:8080", "::1"}, {"[::]:8081", "::ffff:127.0.0.1"},
	} {
		l, at := Listen(family.listen, 16)
		at = netip.AddrPortFrom(netip.MustParseAddr(family.connect), at.Port())
		connect := func() (c, a int) {
			c = Must1(Connect(at))
			return c, Accept(l)
		}
		for range orderly {
			c, a := connect()
			Send(c, sent)
			Receive(a, sent)
			Send(a, returned)
			Receive(c, returned)
			Finish(c, a)
		}
		for range resets {
			c, a := connect()
			Reset(c)
			Await(a, CloseState)
			Close(a)
		}
		Close(l)
		for range refused {
			c, err := Connect(at)
			if !errors.Is(err, unix.ECONNREFUSED) {
				panic(err)
			}
			Close(c)
		}
	}
}

// repeated is how often deaf sends its data again over each family.
const repeated = 3

// deaf makes connections whose one end drops what the other one sends.
func deaf() {
	for i, family := range Families {
		l, at := Listen(netip.AddrPortFrom(netip.MustParseAddr(family.Listen), uint16(8080+i)).String(), 1)
		c := Must1(Connect(netip.AddrPortFrom(netip.MustParseAddr(family.Connect), at.Port())))
		a := Accept(l)
		Deaf(a)
		Must1(unix.Write(c, []byte("hello")))
		for Retransmitted(c) < repeated {
			time.Sleep(time.Millisecond)
		}
		Reset(c)
		Reset(a)
		Close(l)
	}
}
