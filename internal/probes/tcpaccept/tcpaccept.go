// SPDX-License-Identifier: Apache-2.0

// Package tcpaccept traces accepted TCP connections.
package tcpaccept

import (
	"net/netip"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpaccept_event -target amd64,arm64 bpf ../../../bpf/tcpaccept.bpf.c -- -I../../../bpf/include

// Event is one accepted connection.
type Event struct {
	tracer.Common
	IP      field.Uint16 `json:"ip" col:"IP,w=2" doc:"version of the protocol on the wire, 4 or 6"`
	RAddr   field.Addr   `json:"raddr" col:"RADDR,w=15" doc:"remote address"`
	RPort   field.Port   `json:"rport" col:"RPORT,w=5,right" doc:"remote port"`
	LAddr   field.Addr   `json:"laddr" col:"LADDR,w=12" doc:"local address"`
	LPort   field.Port   `json:"lport" col:"LPORT,w=5,right" doc:"local port"`
	Backlog field.Int64  `json:"backlog" col:"BL,w=5,right" doc:"connections to the same socket that are still to be accepted: the accept queue; -1 where nobody knows"`
	Limit   field.Int64  `json:"backlog_max" col:"BLMAX,w=5,right" doc:"how long that queue may be: the socket's backlog, as the kernel limits it; -1 where nobody knows"`
	NetNS   field.Uint32 `json:"netns" col:"NETNS,w=10,right" doc:"its network namespace: the number in /proc/PID/ns/net"`
}

// exit is the program of the calls' exits. It is left on its tracepoints by kprobe.multi: at the return of a call's
// function a connection that was waited for when tracing began would not be seen. Where the kernel skips it, the function's
// program has shown the connection, if that covers it.
func exit(covered bool) tracer.Program {
	return tracer.Program{Name: bpfProgRbTcpacceptExit, Also: []string{"syscalls/sys_exit_accept"}, Atomic: true, Prepares: covered}
}

// Tracer is rbtrace tcpaccept.
var Tracer = tracer.New(tracer.Def[bpfTcpacceptEvent, Event]{
	Name:  "tcpaccept",
	Short: "TCP connections accepted",
	Long: `Shows every TCP connection that a process accepts, over IPv4 and IPv6. A connection
over IPv4 to an IPv6 socket is shown with its IPv4 addresses. How many others wait to be
accepted from the same socket, and how many may, tell backlog and backlog_max (-C
+backlog,+backlog_max): where the queue is full the kernel drops new ones.

The exits of the system calls tell this. What io_uring accepts and 32-bit programs on a 64-bit
kernel do comes by the kernel function inet_csk_accept, by fexit or a kretprobe; on a kernel with
neither it is not seen. A connection that is taken by an accept that was waiting when tracing began is shown.`,
	Examples: []tracer.Example{
		{Args: "tcpaccept", What: "every connection accepted"},
		{Args: "tcpaccept --port 443", What: "those on one local port"},
		{Args: "tcpaccept -C +backlog,+backlog_max", What: "with the accept queue of the socket"},
		{Args: "tcpaccept -o json | jq -r .raddr", What: "who connects"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.KprobeMulti, Programs: []tracer.Program{
			{Name: bpfProgRbTcpacceptKprobe, Prepares: true}, {Name: bpfProgRbTcpacceptKretprobe}, exit(true),
		}},
		{Kind: tracer.Fentry, Programs: []tracer.Program{{Name: bpfProgRbTcpacceptFexit}, exit(true)}},
		// Of the calls that wait at a time a kretprobe sees some only: the exits see all.
		{Kind: tracer.Kprobe, Programs: []tracer.Program{
			{Name: bpfProgRbTcpacceptKprobe, Prepares: true}, {Name: bpfProgRbTcpacceptKretprobe, Prepares: true}, exit(false),
		}},
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{exit(false)}},
	},
	Columns: []string{"time", "pid", "comm", "ip", "raddr", "rport", "laddr", "lport"},
	Params: []tracer.Param{{
		Name: "port", Value: "PORT", Usage: "only connections to this local port", Const: bpfVarPort, Max: 65535, Column: "lport",
	}},
	Decode: decode,
})

func decode(w *bpfTcpacceptEvent, _ []byte, e *Event) error {
	e.RAddr, e.LAddr = field.IP(w.Raddr, w.Family), field.IP(w.Laddr, w.Family)
	e.IP = 6
	if netip.Addr(e.RAddr).Is4() {
		e.IP = 4
	}
	e.Backlog, e.Limit = -1, -1
	if w.Known != 0 {
		e.Backlog, e.Limit = field.Int64(w.Backlog), field.Int64(w.Limit)
	}
	e.NetNS = field.Uint32(w.Netns)
	e.RPort, e.LPort = field.Port(w.Rport), field.Port(w.Lport)
	return nil
}
