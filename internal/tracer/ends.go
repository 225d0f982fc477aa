// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"net/netip"

	"github.com/rbtrace/rbtrace/internal/field"
)

// Ends are the columns of a TCP socket: struct rb_sock of bpf/include/rbtrace/socket.h.
// Events of such sockets embed it.
type Ends struct {
	IP    field.Uint16 `json:"ip" col:"IP,w=2" doc:"version of the protocol on the wire, 4 or 6"`
	LAddr field.Addr   `json:"laddr" col:"LADDR,w=15" doc:"local address"`
	LPort field.Port   `json:"lport" col:"LPORT,w=5,right" doc:"local port"`
	RAddr field.Addr   `json:"raddr" col:"RADDR,w=15" doc:"remote address"`
	RPort field.Port   `json:"rport" col:"RPORT,w=5,right" doc:"remote port"`
	NetNS field.Uint32 `json:"netns" col:"NETNS,w=10,right" doc:"inode number of the socket's network namespace"`
}

// Set fills e from the fields of a struct rb_sock.
func (e *Ends) Set(laddr, raddr [16]byte, lport, rport, family uint16, netns uint32) {
	e.LAddr, e.RAddr = field.IP(laddr, family), field.IP(raddr, family)
	e.LPort, e.RPort = field.Port(lport), field.Port(rport)
	e.NetNS = field.Uint32(netns)
	e.IP = 6
	if netip.Addr(e.LAddr).Is4() || netip.Addr(e.RAddr).Is4() {
		e.IP = 4
	}
}

// PortParams are the flags that choose sockets by their ports, for tracers whose BPF
// programs have the constants lport and rport.
func PortParams(lport, rport string) []Param {
	return []Param{
		{Name: "lport", Value: "PORT", Usage: "only this local port", Const: lport, Max: 65535, Column: "lport"},
		{Name: "rport", Value: "PORT", Usage: "only this remote port", Const: rport, Max: 65535, Column: "rport"},
	}
}
