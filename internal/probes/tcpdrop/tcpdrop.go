// SPDX-License-Identifier: Apache-2.0

// Package tcpdrop traces TCP segments that the kernel drops.
package tcpdrop

import (
	"net/netip"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tcpdrop_event -target amd64,arm64 bpf ../../../bpf/tcpdrop.bpf.c -- -I../../../bpf/include

// Event is one segment that is dropped.
type Event struct {
	tracer.Common
	IP       field.Uint16   `json:"ip" col:"IP,w=2" doc:"version of the protocol on the wire, 4 or 6"`
	SAddr    field.Addr     `json:"saddr" col:"SADDR,w=15" doc:"source address of the segment"`
	SPort    field.Port     `json:"sport" col:"SPORT,w=5,right" doc:"source port"`
	DAddr    field.Addr     `json:"daddr" col:"DADDR,w=15" doc:"destination address"`
	DPort    field.Port     `json:"dport" col:"DPORT,w=5,right" doc:"destination port"`
	Flags    field.TCPFlags `json:"flags" col:"FLAGS,w=7" doc:"flags of the segment"`
	State    field.TCPState `json:"state" col:"STATE,w=10" doc:"state of the TCP socket, empty where none is known; kernels before 6.11 seldom tell which it is"`
	Reason   field.Text     `json:"reason" col:"REASON" doc:"why, as the kernel calls it: NO_SOCKET, SOCKET_FILTER …; empty before 5.17"`
	Number   field.Uint32   `json:"reason_number" col:"REASON#,w=7,right" doc:"the reason's number in this kernel: others have other numbers for it"`
	Location field.Text     `json:"location" col:"LOCATION,w=30" doc:"where in the kernel: function+offset/length, before 5.13 an address"`
	NetNS    field.Uint32   `json:"netns" col:"NETNS,w=10,right" doc:"inode number of the network namespace; 0 where it is not known"`

	location []byte // memory of Location, used again for each event
}

func programs(name string) []tracer.Program {
	return []tracer.Program{
		{Name: bpfProgRbOwnerAccept, AlsoIf: []string{"syscalls/sys_exit_accept"}, ForFilters: true},
		{Name: bpfProgRbOwnerState, ForFilters: true},
		{Name: name},
		{Name: bpfProgRbOwnerBefore, Prepares: true},
	}
}

// Tracer is rbtrace tcpdrop.
var Tracer = tracer.New(tracer.Def[bpfTcpdropEvent, Event]{
	Name:  "tcpdrop",
	Short: "TCP segments that the kernel drops",
	Long: `Shows every TCP segment that the kernel drops, received or to be sent: its header, where in the
kernel that was, and since 5.17 why. What it has no more use for it frees in another way, but
kernels before 5.17 do not hold to that everywhere. Segments that the network loses are not seen
here (see tcpretrans), nor are those behind IPv6 extension headers.

pid and comm are those of the last task that is known to have acted on the socket, where the
kernel tells which socket it is; where that is older than the trace, those of a process that has
it, of several the first by pid, if rbtrace's pid namespace has one. Else pid is 0, and filters by process do not let the event
pass; uid is that of the socket, if there is one, and gid is not known and 0. The socket need not
be of TCP: a raw or packet socket may have sent the segment, or received it as well.

The hook is passed by everything that is dropped on the machine, TCP or not: in a flood, such
as a firewall's, a program runs for each packet.`,
	Examples: []tracer.Example{
		{Args: "tcpdrop", What: "every segment dropped"},
		{Args: "tcpdrop --dport 443 -C +location", What: "those to a server, with the place in the kernel"},
		{Args: "tcpdrop --stack kernel -o json", What: "by which functions the kernel came to drop them"},
		{Args: `tcpdrop --filter 'reason != "NO_SOCKET"'`, What: "all but those to closed ports"},
		{Args: "tcpdrop -o json | jq -r .reason | sort | uniq -c", What: "the reasons, counted when it is ended"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs(bpfProgRbTcpdropSocket)},
		{Kind: tracer.Tracepoint, Programs: programs(bpfProgRbTcpdrop)},
	},
	Columns: []string{"time", "saddr", "sport", "daddr", "dport", "state", "reason"},
	Params: []tracer.Param{
		{Name: "sport", Value: "PORT", Usage: "only from this port", Const: bpfVarSport, Max: 65535, Column: "sport"},
		{Name: "dport", Value: "PORT", Usage: "only to this port", Const: bpfVarDport, Max: 65535, Column: "dport"},
		tracer.Stacks(tracer.KernelStack),
	},
	Enums:  []tracer.Enum{{Const: bpfVarReasonNames, Type: "skb_drop_reason", Prefix: "SKB_DROP_REASON_"}},
	Decode: decode,
})

func decode(w *bpfTcpdropEvent, _ []byte, e *Event) error {
	p := &w.Packet
	e.SAddr, e.DAddr = field.IP(p.Saddr, p.Family), field.IP(p.Daddr, p.Family)
	e.SPort, e.DPort = field.Port(p.Sport), field.Port(p.Dport)
	e.IP = 6
	if netip.Addr(e.SAddr).Is4() {
		e.IP = 4
	}
	e.Flags, e.State = field.TCPFlags(p.Flags), field.TCPState(w.State)
	e.Reason, e.Number = tracer.CString(w.Reason[:]), field.Uint32(w.Number)
	if e.Location = tracer.CString(w.Location[:]); len(e.Location) == 0 {
		e.location = field.Hex(w.Address).AppendText(e.location[:0])
		e.Location = e.location
	}
	e.NetNS = field.Uint32(w.Netns)
	return nil
}
