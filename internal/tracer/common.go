// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// Common are the columns that every event has. Pids and ids are those of the
// initial namespaces where they do not say otherwise.
type Common struct {
	Time   field.Time   `json:"time" col:"TIME" doc:"when it happened, by the wall clock"`
	Boot   field.Uint64 `json:"boot_ns" col:"BOOT,w=15,right" doc:"the same instant by the boot clock (goes on through suspend), in ns"`
	CPU    field.Uint16 `json:"cpu" col:"CPU,w=3,right" doc:"the CPU that it happened on"`
	PID    field.Uint32 `json:"pid" col:"PID,w=7,right" doc:"process id"`
	TID    field.Uint32 `json:"tid" col:"TID,w=7,right" doc:"thread id"`
	PPID   field.Uint32 `json:"ppid" col:"PPID,w=7,right" doc:"parent's process id"`
	UID    field.Uint32 `json:"uid" col:"UID,w=5,right" doc:"real user id"`
	GID    field.Uint32 `json:"gid" col:"GID,w=5,right" doc:"real group id"`
	Comm   field.Comm   `json:"comm" col:"COMM,w=15" doc:"the thread's name"`
	NsPID  field.Uint32 `json:"ns_pid" col:"NSPID,w=7,right" doc:"process id as the process itself sees it, in its pid namespace"`
	NsTID  field.Uint32 `json:"ns_tid" col:"NSTID,w=7,right" doc:"thread id there"`
	PidNs  field.Uint32 `json:"pid_ns" col:"PIDNS,w=10,right" doc:"that namespace: the number in /proc/PID/ns/pid"`
	Proc   field.ProcID `json:"proc_id" col:"PROC,w=23" doc:"START-PID: the process for good, as pids are used again; START is when it was made, by the boot clock in ns"`
	Cgroup field.Uint64 `json:"cgroup_id" col:"CGROUP,w=10,right" doc:"id of the cgroup in the unified (v2) hierarchy"`
}

func (c *Common) fill(h *wire.Head, wall int64) {
	c.Time.Boot = h.Time
	c.Time.Wall = int64(h.Time) + wall
	c.Boot = field.Uint64(h.Time)
	c.CPU = field.Uint16(h.Cpu)
	who := &h.Who
	c.PID = field.Uint32(who.Pid)
	c.TID = field.Uint32(who.Tid)
	c.PPID = field.Uint32(who.Ppid)
	c.UID = field.Uint32(who.Uid)
	c.GID = field.Uint32(who.Gid)
	c.Comm = who.Comm
	c.NsPID = field.Uint32(who.NsPid)
	c.NsTID = field.Uint32(who.NsTid)
	c.PidNs = field.Uint32(who.PidNs)
	c.Proc = field.ProcID{Start: who.Start, PID: who.Pid}
	c.Cgroup = field.Uint64(who.Cgroup)
}
