// SPDX-License-Identifier: Apache-2.0

// Package listen traces sockets that begin to listen.
package listen

import (
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type listen_event -target amd64,arm64 bpf ../../../bpf/listen.bpf.c -- -I../../../bpf/include

// Event is one call of listen.
type Event struct {
	tracer.Common
	Proto    field.SocketProto  `json:"proto" col:"PROTO,w=7" doc:"what the socket speaks: tcp, sctp …, of one that is not of IP its family: unix, vsock …; empty where the descriptor is no socket"`
	Family   field.SocketFamily `json:"family" col:"FAMILY,w=7" doc:"the socket's address family"`
	Type     field.SocketType   `json:"sock_type" col:"TYPE,w=9" doc:"the socket's type: stream, seqpacket, dgram"`
	Ret      field.Int32        `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number"`
	Errno    field.Errno        `json:"errno" col:"ERR,w=10" doc:"the error's name, empty when there was none"`
	Backlog  field.Int32        `json:"backlog" col:"BACKLOG,w=7,right" doc:"how many connections may wait, as given"`
	Limit    field.Uint32       `json:"limit" col:"LIMIT,w=5,right" doc:"how many may wait, at most net.core.somaxconn; of a failed call what the socket had before"`
	Port     field.Port         `json:"port" col:"PORT,w=5,right" doc:"the port that the socket is bound to, or was just now as it was bound to none"`
	Addr     field.SocketName   `json:"addr" col:"ADDR" doc:"the address that it is bound to: of IP, or the path of a Unix socket, or with @ in front its abstract name"`
	Abstract field.Bool         `json:"abstract" col:"ABSTRACT,w=8" doc:"whether addr is an abstract name"`
	NetNS    field.Uint32       `json:"netns" col:"NETNS,w=10,right" doc:"inode number of the socket's network namespace"`
}

var programs = []tracer.Program{{Name: bpfProgRbListen}}

// Tracer is rbtrace listen.
var Tracer = tracer.New(tracer.Def[bpfListenEvent, Event]{
	Name:  "listen",
	Short: "Sockets that begin to listen",
	Long: `Shows every listen, when it returns: those that succeed and those that fail, or with
--failed only these. A second listen on the same socket, which changes the backlog, is shown
as well.

The kernel makes the backlog of no socket larger than net.core.somaxconn: limit is
what became of it.

Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoint. What io_uring does
does not either.`,
	Examples: []tracer.Example{
		{Args: "listen", What: "every server that starts"},
		{Args: "listen -x", What: "those that fail: another one listens there already"},
		{Args: "listen --port 8080 -C +limit", What: "who listens on a port, and how many connections may wait"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "proto", "errno", "backlog", "port", "addr"},
	Params: []tracer.Param{{
		Name: "port", Value: "PORT", Usage: "only this port", Const: bpfVarPort, Max: 65535, Column: "port",
	}},
	Decode: decode,
})

var errName = errors.New("the address in the record is too long")

func decode(w *bpfListenEvent, _ []byte, e *Event) error {
	if w.NameLen > uint32(len(w.Name)) {
		return errName
	}
	e.Proto = field.SocketProto{Family: field.SocketFamily(w.Sock.Family), Type: field.SocketType(w.Sock.Type), Protocol: w.Sock.Protocol}
	e.Family, e.Type = e.Proto.Family, e.Proto.Type
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(w.Ret)
	e.Backlog, e.Limit = field.Int32(w.Backlog), field.Uint32(w.Limit)
	e.Port, e.NetNS = field.Port(w.Sock.Lport), field.Uint32(w.Sock.Netns)
	if field.IsInet(w.Sock.Family) {
		e.Addr = field.SocketName{Addr: field.IP(w.Sock.Laddr, w.Sock.Family)}
	} else {
		e.Addr, _, _ = field.ParseSockaddr(w.Name[:w.NameLen])
	}
	e.Abstract = field.Bool(e.Addr.Abstract)
	return nil
}
