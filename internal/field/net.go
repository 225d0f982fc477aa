package field

import (
	"net/netip"
	"strconv"
)

// Addr is an IP address. The zero Addr is no address: "-" in a table, "" in JSON. An IPv4 address
// mapped into IPv6 is printed as that (::ffff:192.0.2.1); a tracer that wants it as IPv4 calls Unmap.
type Addr netip.Addr

// Port is a TCP or UDP port, in host byte order.
type Port uint16

// AppendText implements Value.
func (a Addr) AppendText(b []byte) []byte {
	if !netip.Addr(a).IsValid() {
		return append(b, '-')
	}
	return a.appendTo(b)
}

// AppendJSON implements Value: a string.
func (a Addr) AppendJSON(b []byte) []byte {
	return append(a.appendTo(append(b, '"')), '"')
}

func (a Addr) appendTo(b []byte) []byte {
	n := len(b)
	return dropUnsafe(netip.Addr(a).AppendTo(b), n)
}

// AppendText implements Value.
func (p Port) AppendText(b []byte) []byte { return strconv.AppendUint(b, uint64(p), 10) }

// AppendJSON implements Value: a number.
func (p Port) AppendJSON(b []byte) []byte { return p.AppendText(b) }

// dropUnsafe makes an address that was written to b[n:] safe for both a terminal and a JSON string.
// An IPv6 zone is any string (netip takes it as it comes, an interface's name is chosen by people):
// what is not plain in it becomes '?'.
func dropUnsafe(b []byte, n int) []byte {
	for s := b[n:]; ; s = s[1:] {
		if s = s[plain(s):]; len(s) == 0 {
			return b
		}
		s[0] = '?'
	}
}
