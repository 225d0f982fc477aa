// SPDX-License-Identifier: Apache-2.0

// Package tcpstates traces the states of TCP sockets.
package tcpstates

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpstates_event -target amd64,arm64 bpf ../../../bpf/tcpstates.bpf.c -- -I../../../bpf/include

// Event is one change of state.
type Event struct {
	tracer.Common
	tracer.Ends
	Old  field.TCPState `json:"old_state" col:"OLD,w=10" doc:"the state that it leaves"`
	New  field.TCPState `json:"new_state" col:"NEW,w=10" doc:"the state that it comes into"`
	Age  field.Latency  `json:"age_ns" col:"AGE,w=7,right" doc:"how long it was in the old state; 0 where that is not known"`
	Sock field.Hex      `json:"sock" col:"SOCK,w=18" doc:"the kernel's address of the socket: the same for all events of one"`
}

// Tracer is rbtrace tcpstates.
var Tracer = tracer.New(tracer.Def[bpfTcpstatesEvent, Event]{
	Name:  "tcpstates",
	Short: "TCP sockets that change their state",
	Long: `Shows every change of a TCP socket's state, with both ends and the time that it spent in the
state before. A connection within the machine is two sockets. An accepted socket begins with
LISTEN to SYN-RECV, when its ends may still be those of the listening one. A socket that has
nothing left to do but wait in TIME-WAIT is replaced by something smaller, and goes to CLOSE.

Most changes are made by segments that come, whoever is running. pid and comm are therefore
those of the last task that is known to have acted on the socket: connected it, let it
listen, accepted it, shut it down or closed it. Of a socket that is older than the trace they are
those of a process that has it, of several the first by pid, if rbtrace's pid namespace has one.
Where none was seen yet, as for an accepted
socket until accept returns, pid is 0, uid is that of the socket, gid is not known and 0, and
filters by process do not let the event pass. What accepts by io_uring is not seen.`,
	Examples: []tracer.Example{
		{Args: "tcpstates", What: "every change of state"},
		{Args: "tcpstates --lport 443", What: "those of a server"},
		{Args: "tcpstates -C +comm,+laddr,-pid", What: "other columns"},
		{Args: `tcpstates --filter 'old_state == "CLOSE-WAIT"'`, What: "connections that are closed at last, with the time that took"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{{Kind: tracer.Tracepoint, Programs: []tracer.Program{
		{Name: bpfProgRbOwnerAccept, AlsoIf: []string{"syscalls/sys_exit_accept"}, ForFilters: true},
		{Name: bpfProgRbTcpstates},
		{Name: bpfProgRbOwnerBefore, Prepares: true},
	}}},
	Columns: []string{"time", "pid", "lport", "raddr", "rport", "old_state", "new_state", "age_ns"},
	Params:  tracer.PortParams(bpfVarLport, bpfVarRport),
	Decode:  decode,
})

func decode(w *bpfTcpstatesEvent, _ []byte, e *Event) error {
	e.Set(w.Sock.Laddr, w.Sock.Raddr, w.Sock.Lport, w.Sock.Rport, w.Sock.Family, w.Sock.Netns)
	e.Old, e.New = field.TCPState(w.Old), field.TCPState(w.New)
	e.Age, e.Sock = field.Latency(w.Age), field.Hex(w.Address)
	return nil
}
