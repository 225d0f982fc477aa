// SPDX-License-Identifier: Apache-2.0

// Package bind traces sockets that are bound to an address.
package bind

import (
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type bind_event -target amd64,arm64 bpf ../../../bpf/bind.bpf.c -- -I../../../bpf/include

// Event is one call of bind.
type Event struct {
	tracer.Common
	Proto    field.SocketProto  `json:"proto" col:"PROTO,w=7" doc:"what the socket speaks: tcp, udp, sctp, icmp, raw …, of one that is not of IP its family: unix, netlink …; empty where the descriptor is no socket"`
	Family   field.SocketFamily `json:"family" col:"FAMILY,w=7" doc:"the socket's address family, or where the descriptor is no socket that of the address"`
	Type     field.SocketType   `json:"sock_type" col:"TYPE,w=9" doc:"the socket's type: stream, dgram, raw, seqpacket"`
	Ret      field.Int32        `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number"`
	Errno    field.Errno        `json:"errno" col:"ERR,w=13" doc:"the error's name, empty when there was none"`
	Opts     Options            `json:"opts" col:"OPTS,w=5" doc:"options of the socket: freebind, transparent, bind_address_no_port, reuseaddr, reuseport; in a table their letters F, T, N, R, r"`
	If       field.Uint32       `json:"ifindex" col:"IF,w=2,right,void=0" doc:"index of the interface that the socket is bound to; 0: none"`
	Port     field.Port         `json:"port" col:"PORT,w=5,right" doc:"the port: that given, or where 0 was given that which the kernel chose"`
	Addr     field.SocketName   `json:"addr" col:"ADDR" doc:"the address as given: of IP, or the path of a Unix socket, or with @ in front its abstract name"`
	Abstract field.Bool         `json:"abstract" col:"ABSTRACT,w=8" doc:"whether addr is an abstract name"`
	Chosen   field.Bool         `json:"chosen" col:"CHOSEN,w=6" doc:"whether the kernel chose the port, or the name of a Unix socket"`
	NetNS    field.Uint32       `json:"netns" col:"NETNS,w=10,right" doc:"inode number of the socket's network namespace"`
}

// Options are the socket's options: enum bind_flags of bpf/bind.bpf.c.
type Options uint8

// Those that are no options.
const chosen = 1 << 5

var options = [...]struct {
	bit    Options
	letter byte
	name   string
}{
	{1 << 2, 'F', "freebind"},
	{1 << 3, 'T', "transparent"},
	{1 << 4, 'N', "bind_address_no_port"},
	{1 << 0, 'R', "reuseaddr"},
	{1 << 1, 'r', "reuseport"},
}

// AppendText implements field.Value: a letter for each option that is set, and a dot for
// each that is not.
func (o Options) AppendText(b []byte) []byte {
	for _, option := range options {
		if o&option.bit != 0 {
			b = append(b, option.letter)
		} else {
			b = append(b, '.')
		}
	}
	return b
}

// AppendJSON implements field.Value: an array of the names of those that are set.
func (o Options) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	first := true
	for _, option := range options {
		if o&option.bit == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(append(append(b, '"'), option.name...), '"')
	}
	return append(b, ']')
}

var programs = []tracer.Program{{Name: bpfProgRbBind}}

// Tracer is rbtrace bind.
var Tracer = tracer.New(tracer.Def[bpfBindEvent, Event]{
	Name:  "bind",
	Short: "Sockets bound to addresses",
	Long: `Shows every bind, when it returns: those that succeed and those that fail, or with --failed
only these. Sockets of all families are shown; those of IP and Unix sockets with their address.

The address is the one that was given, as it is in the caller's memory when the call
returns. A port of 0 lets the kernel choose one, and that is shown. The options are those
that the socket has by then.

Sockets that are never bound explicitly, as those of most clients, do not come this way.
Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoint. What io_uring
binds does not either.`,
	Examples: []tracer.Example{
		{Args: "bind", What: "every socket bound, and every attempt"},
		{Args: "bind -x", What: "binds that fail: the address is in use, the port is a privileged one"},
		{Args: "bind --port 443", What: "who takes a port, or wants to"},
		{Args: `bind --filter 'proto == "udp"'`, What: "those of UDP sockets"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "proto", "errno", "opts", "ifindex", "port", "addr"},
	Params: []tracer.Param{{
		Name: "port", Value: "PORT", Usage: "only this port, given or chosen", Const: bpfVarPort, Max: 65535, Column: "port",
	}},
	Decode: decode,
})

var errName = errors.New("the address in the record is too long")

func decode(w *bpfBindEvent, _ []byte, e *Event) error {
	if w.NameLen > uint32(len(w.Name)) {
		return errName
	}
	name, _, family := field.ParseSockaddr(w.Name[:w.NameLen])
	e.Proto = field.SocketProto{Family: field.SocketFamily(w.Sock.Family), Type: field.SocketType(w.Sock.Type), Protocol: w.Sock.Protocol}
	e.Family, e.Type = e.Proto.Family, e.Proto.Type
	if e.Family == 0 {
		e.Family = family
	}
	e.Ret, e.Errno = field.Int32(w.Ret), field.Errno(w.Ret)
	e.Opts, e.Chosen = Options(w.Head.Flags&(chosen-1)), w.Head.Flags&chosen != 0
	e.If, e.Port, e.NetNS = field.Uint32(w.Ifindex), field.Port(w.Port), field.Uint32(w.Sock.Netns)
	e.Addr, e.Abstract = name, field.Bool(name.Abstract)
	return nil
}
