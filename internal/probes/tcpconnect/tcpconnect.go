// SPDX-License-Identifier: Apache-2.0

// Package tcpconnect traces TCP connections that are opened.
package tcpconnect

import (
	"net/netip"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpconnect_event -target amd64,arm64 bpf ../../../bpf/tcpconnect.bpf.c -- -I../../../bpf/include

// Event is one attempt to connect.
type Event struct {
	tracer.Common
	IP          field.Uint16  `json:"ip" col:"IP,w=2" doc:"version of the protocol on the wire, 4 or 6"`
	SAddr       field.Addr    `json:"saddr" col:"SADDR,w=15" doc:"source address; unspecified where it was not chosen yet"`
	SPort       field.Port    `json:"sport" col:"SPORT,w=5,right" doc:"source port; 0 where it was not chosen yet"`
	DAddr       field.Addr    `json:"daddr" col:"DADDR,w=15" doc:"destination address"`
	DPort       field.Port    `json:"dport" col:"DPORT,w=5,right" doc:"destination port"`
	Latency     field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"from before the first SYN is sent until it was answered, or the attempt given up; 0 where there was none, or it was not seen"`
	Ret         field.Int32   `json:"ret" col:"RET,w=4,right" doc:"0, or the negative number of the error"`
	Errno       field.Errno   `json:"errno" col:"ERR" doc:"the error's name, empty when there was none"`
	Established field.Bool    `json:"established" col:"ESTAB,w=5" doc:"whether it was; where there is no error either, the process gave up"`
	NetNS       field.Uint32  `json:"netns" col:"NETNS,w=10,right" doc:"inode number of the socket's network namespace"`
}

var programs = []tracer.Program{
	{Name: bpfProgRbTcpconnectExit},
	{Name: bpfProgRbTcpconnect},
	{Name: bpfProgRbTcpconnectEnter},
}

// Tracer is rbtrace tcpconnect.
var Tracer = tracer.New(tracer.Def[bpfTcpconnectEvent, Event]{
	Name:  "tcpconnect",
	Short: "TCP connections opened",
	Long: `Shows every attempt to open a TCP connection, once its outcome is known: established, and how
long that took, or failed, and why. With --failed it shows only those that are not established.
Attempts that are still going on are not shown; a connect that does not block returns
EINPROGRESS meanwhile, and that is no outcome.

Errors are those that came over the network or were found on the way there (ECONNREFUSED,
ETIMEDOUT, EHOSTUNREACH), and those that connect itself finds (ENETUNREACH, EADDRNOTAVAIL) or a
seccomp filter answers with. An attempt that its own process breaks off, by closing the socket,
has none.

pid and comm are who called connect. A connection over IPv4 by an IPv6 socket is shown with its
IPv4 addresses; one of MPTCP is several of TCP, each of which is shown. Of calls of 32-bit programs
on a 64-bit kernel, by io_uring and by sendto (MSG_FASTOPEN) the errors that connect itself finds
are not seen: there is no event, or where no port is free (EADDRNOTAVAIL) one without an error.
With TCP_FASTOPEN_CONNECT the SYN may wait for the first write, and latency_ns has that time in it.`,
	Examples: []tracer.Example{
		{Args: "tcpconnect", What: "every connection opened, and every attempt"},
		{Args: "tcpconnect -x", What: "those that fail"},
		{Args: "tcpconnect --port 443", What: "those to one remote port"},
		{Args: "tcpconnect -o json | jq 'select(.latency_ns > 1e8)'", What: "those that take more than 100 ms"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "ip", "sport", "daddr", "dport", "latency_ns", "errno"},
	Params: []tracer.Param{{
		Name: "port", Value: "PORT", Usage: "only connections to this remote port", Const: bpfVarPort, Max: 65535, Column: "dport",
	}},
	Decode: decode,
})

func decode(w *bpfTcpconnectEvent, _ []byte, e *Event) error {
	e.SAddr, e.DAddr = field.IP(w.Sock.Laddr, w.Sock.Family), field.IP(w.Sock.Raddr, w.Sock.Family)
	e.SPort, e.DPort = field.Port(w.Sock.Lport), field.Port(w.Sock.Rport)
	e.IP = 6
	if netip.Addr(e.DAddr).Is4() {
		e.IP = 4
	}
	e.Latency, e.Established = field.Latency(w.Latency), w.Established != 0
	e.Ret, e.Errno = field.Int32(w.Error), field.Errno(w.Error)
	e.NetNS = field.Uint32(w.Sock.Netns)
	return nil
}
