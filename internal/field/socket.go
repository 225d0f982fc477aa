package field

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Address families, include/linux/socket.h: the same on all architectures.
const (
	afUnix  = 1
	afInet  = 2
	afInet6 = 10
)

// IP returns the IP address that a socket of that family has in b: an IPv4 address in its first
// four bytes; one that is mapped into IPv6 as IPv4. It is the zero Addr for other families.
func IP(b [16]byte, family uint16) Addr {
	switch family {
	case afInet:
		return Addr(netip.AddrFrom4([4]byte(b[:4])))
	case afInet6:
		return Addr(netip.AddrFrom16(b).Unmap())
	}
	return Addr{}
}

// IsInet reports whether that is the family of IPv4 or IPv6.
func IsInet(family uint16) bool { return family == afInet || family == afInet6 }

// SocketFamily is an address family (AF_INET); 0 is none.
type SocketFamily uint16

var socketFamilies = map[SocketFamily]string{
	afUnix: "unix", afInet: "inet", afInet6: "inet6", 3: "ax25", 4: "ipx", 5: "appletalk", 9: "x25", 15: "key", 16: "netlink",
	17: "packet", 20: "atmsvc", 21: "rds", 24: "pppox", 26: "llc", 27: "ib", 28: "mpls", 29: "can", 30: "tipc", 31: "bluetooth",
	33: "rxrpc", 36: "ieee802154", 37: "caif", 38: "alg", 39: "nfc", 40: "vsock", 41: "kcm", 42: "qipcrtr", 43: "smc", 44: "xdp",
	45: "mctp",
}

// AppendText implements Value: the name without AF_ in lower case, AF_ and the number for one
// without a name, - for none.
func (f SocketFamily) AppendText(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	return f.append(b)
}

// AppendJSON implements Value: a string with the same, empty for none.
func (f SocketFamily) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if f != 0 {
		b = f.append(b)
	}
	return append(b, '"')
}

func (f SocketFamily) append(b []byte) []byte {
	if name := socketFamilies[f]; name != "" {
		return append(b, name...)
	}
	return strconv.AppendUint(append(b, "AF_"...), uint64(f), 10)
}

// SocketType is the type of a socket (SOCK_STREAM); 0 is none.
type SocketType uint16

func (t SocketType) append(b []byte) []byte {
	switch t {
	case 1:
		return append(b, "stream"...)
	case 2:
		return append(b, "dgram"...)
	case 3:
		return append(b, "raw"...)
	case 4:
		return append(b, "rdm"...)
	case 5:
		return append(b, "seqpacket"...)
	case 6:
		return append(b, "dccp"...)
	case 10:
		return append(b, "packet"...)
	}
	return strconv.AppendUint(b, uint64(t), 10)
}

// AppendText implements Value: the name without SOCK_ in lower case, the number of one without a
// name, - for none.
func (t SocketType) AppendText(b []byte) []byte {
	if t == 0 {
		return append(b, '-')
	}
	return t.append(b)
}

// AppendJSON implements Value: a string with the same, empty for none.
func (t SocketType) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if t != 0 {
		b = t.append(b)
	}
	return append(b, '"')
}

// SocketProto is what a socket speaks. The zero value is nothing known.
type SocketProto struct {
	Family   SocketFamily
	Type     SocketType
	Protocol uint16
}

func (p SocketProto) append(b []byte) []byte {
	if !IsInet(uint16(p.Family)) {
		return p.Family.append(b)
	}
	if p.Type == 3 {
		return append(b, "raw"...)
	}
	// include/uapi/linux/in.h
	switch p.Protocol {
	case 1:
		return append(b, "icmp"...)
	case 6:
		return append(b, "tcp"...)
	case 17:
		return append(b, "udp"...)
	case 33:
		return append(b, "dccp"...)
	case 58:
		return append(b, "icmpv6"...)
	case 132:
		return append(b, "sctp"...)
	case 136:
		return append(b, "udplite"...)
	case 256:
		return append(b, "smc"...)
	case 262:
		return append(b, "mptcp"...)
	}
	return strconv.AppendUint(b, uint64(p.Protocol), 10)
}

// AppendText implements Value: of an IP socket its protocol (tcp, udp, sctp, icmp …, the number of
// another one) or raw, of others their family (unix, netlink), - where nothing is known.
func (p SocketProto) AppendText(b []byte) []byte {
	if p.Family == 0 {
		return append(b, '-')
	}
	return p.append(b)
}

// AppendJSON implements Value: a string with the same, empty where nothing is known.
func (p SocketProto) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if p.Family != 0 {
		b = p.append(b)
	}
	return append(b, '"')
}

// SocketName is the address of a socket: an IP address, or of a Unix socket a path or an abstract
// name. The zero value is none.
type SocketName struct {
	Addr
	// Name, where Addr is none, is a path, or with Abstract a name without the NUL in front of it.
	// It is often a view of ring memory.
	Name     Text
	Abstract bool
}

// ParseSockaddr returns what a struct sockaddr says: its address, port and family. What is too
// short for its family has no address. name aliases b.
func ParseSockaddr(b []byte) (name SocketName, port Port, family SocketFamily) {
	if len(b) < 2 {
		return name, 0, 0
	}
	family, b = SocketFamily(binary.LittleEndian.Uint16(b)), b[2:] // as both architectures are
	switch {
	case family == afUnix:
		name.Name = b
		if len(b) > 0 && b[0] == 0 {
			name.Name, name.Abstract = b[1:], true
		} else if i := bytes.IndexByte(b, 0); i >= 0 {
			name.Name = b[:i]
		}
	// Within AF_UNSPEC the kernel takes an IPv4 address, too (__inet_bind).
	case family == afInet && len(b) >= 6, family == 0 && len(b) >= 14:
		port = Port(binary.BigEndian.Uint16(b))
		name.Addr = Addr(netip.AddrFrom4([4]byte(b[2:6])))
	case family == afInet6 && len(b) >= 22:
		port = Port(binary.BigEndian.Uint16(b))
		name.Addr = IP([16]byte(b[6:22]), afInet6)
	}
	return name, port, family
}

// AppendText implements Value: the address, or the name as Text has it, with @ in front of an
// abstract one; - where there is none.
func (n *SocketName) AppendText(b []byte) []byte {
	switch {
	case netip.Addr(n.Addr).IsValid():
		return n.Addr.AppendText(b)
	case n.Abstract:
		return AppendTextEscaped(append(b, '@'), n.Name)
	case len(n.Name) == 0:
		return append(b, '-')
	}
	return AppendTextEscaped(b, n.Name)
}

// AppendJSON implements Value: a string with the same, empty where there is none.
func (n *SocketName) AppendJSON(b []byte) []byte {
	if netip.Addr(n.Addr).IsValid() {
		return n.Addr.AppendJSON(b)
	}
	start := len(b)
	b = AppendJSONString(b, n.Name)
	if n.Abstract {
		b = append(b, 0)
		copy(b[start+2:], b[start+1:])
		b[start+1] = '@'
	}
	return b
}
