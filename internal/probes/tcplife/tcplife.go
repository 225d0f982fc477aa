// SPDX-License-Identifier: Apache-2.0

// Package tcplife traces TCP connections that are over.
package tcplife

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcplife_event -target amd64,arm64 bpf ../../../bpf/tcplife.bpf.c -- -I../../../bpf/include

// Event is the life of one socket.
type Event struct {
	tracer.Common
	tracer.Ends
	Role  Role           `json:"role" col:"ROLE,w=7" doc:"how the socket began: connect or accept"`
	TX    field.Uint64   `json:"tx_bytes" col:"TX,w=6,right" doc:"bytes that were sent and acknowledged"`
	RX    field.Uint64   `json:"rx_bytes" col:"RX,w=6,right" doc:"bytes that came"`
	Age   field.Latency  `json:"age_ns" col:"AGE,w=7,right" doc:"from the first SYN, or where it was accepted from the end of the handshake, to CLOSE"`
	State field.TCPState `json:"last_state" col:"STATE,w=10" doc:"its last state before CLOSE: which side closed, or where it ended otherwise"`
	Ret   field.Int32    `json:"ret" col:"RET,w=4,right" doc:"the negative number of the error that ended it, or 0"`
	Errno field.Errno    `json:"errno" col:"ERR,w=12" doc:"the name of the error that ended it, such as ECONNRESET; empty when there was none"`
	Sock  field.Hex      `json:"sock" col:"SOCK,w=18" doc:"the kernel's address of the socket"`
}

// Role is how a socket began.
type Role bool

func (r Role) name() string {
	if r {
		return "connect"
	}
	return "accept"
}

// AppendText implements field.Value.
func (r Role) AppendText(b []byte) []byte { return append(b, r.name()...) }

// AppendJSON implements field.Value: a string.
func (r Role) AppendJSON(b []byte) []byte { return append(append(append(b, '"'), r.name()...), '"') }

var programs = []tracer.Program{
	{Name: bpfProgRbOwnerAccept, AlsoIf: []string{"syscalls/sys_exit_accept"}, ForFilters: true},
	{Name: bpfProgRbTcplife},
}

// Tracer is rbtrace tcplife.
var Tracer = tracer.New(tracer.Def[bpfTcplifeEvent, Event]{
	Name:  "tcplife",
	Short: "TCP connections, with bytes and duration",
	Long: `Shows every TCP connection when it is over: its ends, the bytes that went either way, how long
it was, and how it ended; with --failed those that an error ended: refused, reset, timed out.
A connection within the machine is two sockets, and both are shown. Connections that began
before the trace are not.

tx_bytes are acknowledged by the other side; rx_bytes came in order, whether they were read or
not. last_state is that before CLOSE: FIN-WAIT-2 (or TIME-WAIT) of the side that closes first,
LAST-ACK of the other, SYN-SENT of a connect that had no success, others where it was reset.
A connection that waits in TIME-WAIT is over here.

pid and comm are those of the last task that is known to have acted on the socket: connected,
accepted, shut down or closed it. Where none was seen pid is 0, uid is that of the socket, gid is
not known and 0, and filters by process do not let the event pass. What accepts by io_uring is
not seen. A connection of MPTCP is several of TCP, of which the first is known to be accepted.`,
	Examples: []tracer.Example{
		{Args: "tcplife", What: "every connection, when it is over"},
		{Args: "tcplife -x", What: "those that an error ended"},
		{Args: "tcplife --rport 5432 -C +lport,+laddr", What: "those to a database"},
		{Args: "tcplife -o json | jq 'select(.age_ns > 60e9)'", What: "those of more than a minute"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns:       []string{"time", "pid", "comm", "raddr", "rport", "tx_bytes", "rx_bytes", "age_ns"},
	FailedColumns: []string{"time", "pid", "comm", "raddr", "rport", "age_ns", "errno"},
	Params:        tracer.PortParams(bpfVarLport, bpfVarRport),
	Decode:        decode,
})

func decode(w *bpfTcplifeEvent, _ []byte, e *Event) error {
	e.Set(w.Sock.Laddr, w.Sock.Raddr, w.Sock.Lport, w.Sock.Rport, w.Sock.Family, w.Sock.Netns)
	e.Role, e.State = w.Connects != 0, field.TCPState(w.State)
	e.TX, e.RX, e.Age = field.Uint64(w.Tx), field.Uint64(w.Rx), field.Latency(w.Age)
	e.Ret, e.Errno, e.Sock = field.Int32(w.Error), field.Errno(w.Error), field.Hex(w.Address)
	return nil
}
