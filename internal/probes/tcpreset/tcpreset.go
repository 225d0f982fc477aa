// SPDX-License-Identifier: Apache-2.0

// Package tcpreset traces RSTs of TCP.
package tcpreset

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpreset_event -target amd64,arm64 bpf ../../../bpf/tcpreset.bpf.c -- -I../../../bpf/include

// Event is one RST.
type Event struct {
	tracer.Common
	tracer.Ends
	State     field.TCPState `json:"state" col:"STATE,w=10" doc:"state of the socket, before its process closed it where that sends the RST; empty where there is none"`
	Direction Direction      `json:"direction" col:"DIR,w=8" doc:"sent or received"`
	Reason    field.Text     `json:"reason" col:"REASON" doc:"why it is sent, as the kernel calls it: NO_SOCKET, TCP_STATE …; empty before 6.10, and of one that is received"`
	Number    field.Uint32   `json:"reason_number" col:"REASON#,w=7,right" doc:"the reason's number in this kernel: others have other numbers for it"`
}

// Direction is the way of a RST.
type Direction bool

func (d Direction) name() string {
	if d {
		return "sent"
	}
	return "received"
}

// AppendText implements field.Value.
func (d Direction) AppendText(b []byte) []byte { return append(b, d.name()...) }

// AppendJSON implements field.Value: a string.
func (d Direction) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), d.name()...), '"')
}

// Tracer is rbtrace tcpreset.
var Tracer = tracer.New(tracer.Def[bpfTcpresetEvent, Event]{
	Name:  "tcpreset",
	Short: "TCP connections reset, by RSTs sent and received",
	Long: `Shows every RST that this machine sends, and every one that it receives and accepts for a
connection: who refuses and who breaks off. Within the machine one RST is two events. Since 6.10
kernels tell why they send it; kernels before do not tell of RSTs that no socket sends, as
those that a closed port answers with.

pid and comm are those of the last task that is known to have acted on the socket: connected
it, let it listen, accepted it, shut it down. Of a socket that is older than the trace they are
those of a process that has it, of several the first by pid, if rbtrace's pid namespace has one.
Where there is no socket, or none of these, pid is 0, and filters by process do not let the event
pass; uid is that of the socket, and gid is not known and 0.`,
	Examples: []tracer.Example{
		{Args: "tcpreset", What: "every RST"},
		{Args: `tcpreset --filter 'direction == "received"'`, What: "connections that the other side breaks off, or refuses"},
		{Args: "tcpreset --lport 443", What: "those of a server"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{{Kind: tracer.Tracepoint, Programs: []tracer.Program{
		{Name: bpfProgRbOwnerAccept, AlsoIf: []string{"syscalls/sys_exit_accept"}, ForFilters: true},
		{Name: bpfProgRbOwnerState, ForFilters: true},
		{Name: bpfProgRbTcpresetSent},
		{Name: bpfProgRbTcpresetReceived},
		{Name: bpfProgRbOwnerBefore, Prepares: true},
	}}},
	Columns: []string{"time", "pid", "comm", "lport", "raddr", "rport", "direction", "reason"},
	Params:  tracer.PortParams(bpfVarLport, bpfVarRport),
	Enums:   []tracer.Enum{{Const: bpfVarReasonNames, Type: "sk_rst_reason", Prefix: "SK_RST_REASON_"}},
	Decode:  decode,
})

func decode(w *bpfTcpresetEvent, _ []byte, e *Event) error {
	e.Set(w.Sock.Laddr, w.Sock.Raddr, w.Sock.Lport, w.Sock.Rport, w.Sock.Family, w.Sock.Netns)
	e.State, e.Direction = field.TCPState(w.Sock.State), w.Sent != 0
	e.Reason, e.Number = tracer.CString(w.Reason[:]), field.Uint32(w.Number)
	return nil
}
