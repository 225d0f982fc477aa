// SPDX-License-Identifier: Apache-2.0

// Package tcpretrans traces TCP segments that are sent again.
package tcpretrans

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpretrans_event -target amd64,arm64 bpf ../../../bpf/tcpretrans.bpf.c -- -I../../../bpf/include

// Event is one segment that is sent again.
type Event struct {
	tracer.Common
	tracer.Ends
	State field.TCPState `json:"state" col:"STATE,w=10" doc:"state of the socket"`
	Flags field.TCPFlags `json:"flags" col:"FLAGS,w=7" doc:"flags of the segment: SYN and ACK of one that answers a SYN"`
	Seq   field.Uint32   `json:"seq" col:"SEQ,w=10,right" doc:"sequence number of its first byte; of one that answers a SYN 0"`
	Len   field.Uint32   `json:"data_len" col:"LEN,w=4,right" doc:"bytes of data in it"`
	Kind  Kind           `json:"kind" col:"KIND,w=7" doc:"why: timeout, as the timer ran out, or the path takes smaller segments only, and what follows from that; fast, by fast retransmit or what follows; probe, as a tail loss probe; else empty, as of one that answers a SYN"`
	Ret   field.Int32    `json:"ret" col:"RET,w=4,right" doc:"the negative number of the error where it could not be sent, which newer kernels tell; else 0"`
	Errno field.Errno    `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
}

// Kind is why a segment is sent again: enum tcpretrans_kind of bpf/tcpretrans.bpf.c.
type Kind uint8

func (k Kind) name() string {
	names := [...]string{1: "timeout", 2: "fast", 3: "probe"}
	if int(k) < len(names) {
		return names[k]
	}
	return ""
}

// AppendText implements field.Value.
func (k Kind) AppendText(b []byte) []byte { return append(b, k.name()...) }

// AppendJSON implements field.Value: a string.
func (k Kind) AppendJSON(b []byte) []byte { return append(append(append(b, '"'), k.name()...), '"') }

func programs(name string) []tracer.Program {
	return []tracer.Program{
		{Name: bpfProgRbOwnerAccept, AlsoIf: []string{"syscalls/sys_exit_accept"}, ForFilters: true},
		{Name: bpfProgRbOwnerState, ForFilters: true},
		{Name: bpfProgRbTcpretransSynack, Atomic: true},
		{Name: name, Atomic: true},
		{Name: bpfProgRbOwnerBefore, Prepares: true},
	}
}

// Tracer is rbtrace tcpretrans.
var Tracer = tracer.New(tracer.Def[bpfTcpretransEvent, Event]{
	Name:  "tcpretrans",
	Short: "TCP segments sent again",
	Long: `Shows every TCP segment that is sent again, as no acknowledgement came for it: by timeout, by
fast retransmit or as a tail loss probe, with SYNs and the answers to SYNs. Where several
segments are still one in the kernel (GSO), they are one event.

pid and comm are those of the last task that is known to have acted on the socket: connected
it, let it listen, accepted it, shut it down. Of a socket that is older than the trace they are
those of a process that has it, of several the first by pid, if rbtrace's pid namespace has one.
Where none is known pid is 0, uid is that of the socket, gid is not known and 0, and filters by
process do not let the event pass.`,
	Examples: []tracer.Example{
		{Args: "tcpretrans", What: "every segment sent again"},
		{Args: `tcpretrans --filter 'state == "SYN-SENT"'`, What: "connects that are not answered"},
		{Args: "tcpretrans -C +kind,+flags,-comm", What: "which segments, and why"},
		{Args: "tcpretrans -o json | jq -r .raddr | sort | uniq -c", What: "to whom, when it is ended"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs(bpfProgRbTcpretransError)},
		{Kind: tracer.Tracepoint, Programs: programs(bpfProgRbTcpretrans)},
	},
	Columns: []string{"time", "pid", "comm", "lport", "raddr", "rport", "state", "data_len"},
	Params:  tracer.PortParams(bpfVarLport, bpfVarRport),
	Decode:  decode,
})

func decode(w *bpfTcpretransEvent, _ []byte, e *Event) error {
	e.Set(w.Sock.Laddr, w.Sock.Raddr, w.Sock.Lport, w.Sock.Rport, w.Sock.Family, w.Sock.Netns)
	e.State, e.Flags = field.TCPState(w.Sock.State), field.TCPFlags(w.Flags)
	e.Seq, e.Len = field.Uint32(w.Seq), field.Uint32(w.Len)
	e.Kind = Kind(w.Kind)
	e.Ret, e.Errno = field.Int32(w.Error), field.Errno(w.Error)
	return nil
}
