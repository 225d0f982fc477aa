// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// Common are the columns that every event has. Pids and ids are those of the
// initial namespaces.
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
	Cgroup field.Uint64 `json:"cgroup_id" col:"CGROUP,w=10,right" doc:"id of the cgroup in the unified (v2) hierarchy"`
}

func (c *Common) fill(h *wire.Head, wall int64) {
	c.Time.Boot = h.Time
	c.Time.Wall = int64(h.Time) + wall
	c.Boot = field.Uint64(h.Time)
	c.CPU = field.Uint16(h.Cpu)
	c.PID = field.Uint32(h.Pid)
	c.TID = field.Uint32(h.Tid)
	c.PPID = field.Uint32(h.Ppid)
	c.UID = field.Uint32(h.Uid)
	c.GID = field.Uint32(h.Gid)
	c.Comm = h.Comm
	c.Cgroup = field.Uint64(h.Cgroup)
}
