package field

import (
	"net/netip"
	"testing"
)

func TestSocketNames(t *testing.T) {
	for _, test := range []struct {
		value      Value
		text, json string
	}{
		{SocketFamily(0), "-", `""`},
		{SocketFamily(1), "unix", `"unix"`},
		{SocketFamily(999), "AF_999", `"AF_999"`},
		{SocketType(0), "-", `""`},
		{SocketType(5), "seqpacket", `"seqpacket"`},
		{SocketType(9), "9", `"9"`},
		{SocketProto{}, "-", `""`},
		{SocketProto{afInet, 1, 6}, "tcp", `"tcp"`},
		{SocketProto{afInet6, 3, 6}, "raw", `"raw"`},
		{SocketProto{afInet6, 1, 262}, "mptcp", `"mptcp"`},
		{SocketProto{afInet, 1, 99}, "99", `"99"`},
		{SocketProto{afUnix, 1, 0}, "unix", `"unix"`},
		{&SocketName{}, "-", `""`},
		{&SocketName{Addr: Addr(netip.MustParseAddr("::1"))}, "::1", `"::1"`},
		{&SocketName{Name: Text("a\x1b\"")}, `a\x1b"`, `"a\u001b\""`},
		{&SocketName{Name: Text("\"\xff"), Abstract: true}, `@"\xff`, "\"@\\\"\uFFFD\""},
		{&SocketName{Abstract: true}, `@`, `"@"`},
	} {
		if got := string(test.value.AppendText([]byte("x"))); got != "x"+test.text {
			t.Errorf("%#v: text %q, want %q", test.value, got, test.text)
		}
		if got := string(test.value.AppendJSON([]byte("x"))); got != "x"+test.json {
			t.Errorf("%#v: JSON %s, want %s", test.value, got, test.json)
		}
	}
}

func TestParseSockaddr(t *testing.T) {
	for _, test := range []struct {
		addr string
		want string
		port Port
		fam  SocketFamily
	}{
		{"", "-", 0, 0},
		{"\x02", "-", 0, 0},
		{"\x02\x00", "-", 0, afInet},
		{"\x02\x00\x01\x02\x7f\x00\x00", "-", 0, afInet},
		{"\x02\x00\x01\x02\x7f\x00\x00\x01", "127.0.0.1", 258, afInet},
		{"\x00\x00\x01\x02\x7f\x00\x00\x01", "-", 0, 0},
		{"\x00\x00\x01\x02\x7f\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", "127.0.0.1", 258, 0},
		{"\x0a\x00\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "-", 0, afInet6},
		{"\x0a\x00\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", "::1", 258, afInet6},
		{"\x01\x00", "-", 0, afUnix},
		{"\x01\x00a\x00b", "a", 0, afUnix},
		{"\x01\x00abc", "abc", 0, afUnix},
		{"\x01\x00\x00a\x00b", `@a\x00b`, 0, afUnix},
		{"\x10\x00\x00\x00", "-", 0, 16},
	} {
		name, port, family := ParseSockaddr([]byte(test.addr))
		if got := string(name.AppendText(nil)); got != test.want || port != test.port || family != test.fam {
			t.Errorf("%q: %s, port %d, family %d", test.addr, got, port, family)
		}
	}
}

func TestIP(t *testing.T) {
	b := [16]byte{10: 0xff, 0xff, 127, 0, 0, 1}
	if got := string(IP(b, afInet6).AppendText(nil)); got != "127.0.0.1" {
		t.Errorf("mapped: %s", got)
	}
	if got := string(IP([16]byte{192, 0, 2, 1, 5: 7}, afInet).AppendText(nil)); got != "192.0.2.1" {
		t.Errorf("IPv4: %s", got)
	}
	if got := IP(b, afUnix); got != (Addr{}) {
		t.Errorf("no IP: %v", got)
	}
}
