// SPDX-License-Identifier: Apache-2.0

// Package oomkill traces processes that are killed for want of memory.
package oomkill

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type oomkill_event -target amd64,arm64 bpf ../../../bpf/oomkill.bpf.c -- -I../../../bpf/include

// Event is one process that is killed. Sizes are in KiB, as the kernel's log has them.
type Event struct {
	tracer.Common
	VPID     field.Uint32 `json:"vpid" col:"VPID,w=7,right" doc:"process id of the victim"`
	VTID     field.Uint32 `json:"vtid" col:"VTID,w=7,right" doc:"thread id of that of its threads which was chosen, often the first"`
	VComm    field.Comm   `json:"vcomm" col:"VCOMM,w=15" doc:"name of that thread"`
	VUID     field.Uint32 `json:"vuid" col:"VUID,w=5,right" doc:"real user id of the victim"`
	VCgroup  field.Uint64 `json:"vcgroup_id" col:"VCGROUP,w=10,right" doc:"id of the victim's cgroup in the unified (v2) hierarchy"`
	ScoreAdj field.Int32  `json:"oom_score_adj" col:"ADJ,w=5,right" doc:"the victim's oom_score_adj: from -1000, which nobody kills, to 1000"`
	RSS      field.Uint64 `json:"rss_kb" col:"RSS,w=9,right" doc:"memory that the victim had, in KiB: the sum of the next three; the kernel keeps count of it roughly, to some 100 KiB for each CPU"`
	Anon     field.Uint64 `json:"anon_rss_kb" col:"ANON,w=9,right" doc:"of it, its own, in KiB"`
	File     field.Uint64 `json:"file_rss_kb" col:"FILE,w=9,right" doc:"of it, that of files, in KiB"`
	Shmem    field.Uint64 `json:"shmem_rss_kb" col:"SHMEM,w=9,right" doc:"of it, shared memory, in KiB"`
	Swap     field.Uint64 `json:"swap_kb" col:"SWAP,w=9,right" doc:"what it had in swap, in KiB"`
	Tables   field.Uint64 `json:"pgtables_kb" col:"PGTABLES,w=9,right" doc:"its page tables, in KiB"`
	Total    field.Uint64 `json:"total_vm_kb" col:"TOTALVM,w=9,right" doc:"its address space, in KiB"`
	Memcg    field.Maybe  `json:"memcg" col:"MEMCG,w=5" doc:"whether the memory of a cgroup was used up, and not all of the machine's; empty where the hook does not tell, which is the tracepoint"`
	Limit    field.Uint64 `json:"limit_kb" col:"LIMIT,w=10,right" doc:"what there was in all of the memory that was used up, in KiB: of the machine, with swap, or of a cgroup; 0 where the hook does not tell"`
	Load     field.Load   `json:"load" col:"LOAD,w=15" doc:"the load averages of the machine, of one, five and fifteen minutes; empty where the hook does not tell, or the kernel (CONFIG_KALLSYMS_ALL)"`
}

// Tracer is rbtrace oomkill.
var Tracer = tracer.New(tracer.Def[bpfOomkillEvent, Event]{
	Name:  "oomkill",
	Short: "Processes that are killed for want of memory",
	Long: `Shows every process that the kernel chooses to kill when memory is used up, that of the machine
or of a cgroup; where all of a cgroup goes (memory.oom.group), each of them. pid and comm, and the
filters for these, are those of the process that asked for memory when none was left, and often not
the one to blame. A process that is about to end anyway when it is chosen is shown, too. Other
processes that share the victim's memory (CLONE_VM) are killed with it, and not shown.

The tracepoint of older kernels, such as 5.10, does not tell who is chosen: they need a function
(mark_oom_victim). With that (--hook fentry or kprobe) memcg, limit_kb and load are known as well.`,
	Examples: []tracer.Example{
		{Args: "oomkill", What: "every process that is killed"},
		{Args: "oomkill -C vpid,vcomm,vcgroup_id,rss_kb,oom_score_adj", What: "victims, and where they lived"},
		{Args: "oomkill -o json >>/var/log/oomkill.json", What: "keep a log of them"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: []tracer.Program{{Name: bpfProgRbOomkill}}},
		{Kind: tracer.Fentry, Programs: []tracer.Program{
			{Name: bpfProgRbOomkillSearchFentry, Prepares: true}, {Name: bpfProgRbOomkillFentry},
		}},
		{Kind: tracer.Kprobe, Programs: []tracer.Program{
			{Name: bpfProgRbOomkillSearchKprobe, Prepares: true}, {Name: bpfProgRbOomkillKprobe},
		}},
	},
	Columns: []string{"time", "pid", "comm", "vpid", "vcomm", "rss_kb", "oom_score_adj"},
	Decode:  decode,
})

// The flags of bpf/oomkill.bpf.c.
const (
	memcg = 1 << iota
	known
	load
)

func decode(w *bpfOomkillEvent, _ []byte, e *Event) error {
	kb := func(pages uint64) field.Uint64 { return field.Uint64(pages * (w.PageSize >> 10)) }
	e.VPID, e.VTID, e.VComm, e.VUID = field.Uint32(w.Pid), field.Uint32(w.Tid), w.Comm, field.Uint32(w.Uid)
	e.VCgroup, e.ScoreAdj = field.Uint64(w.Cgroup), field.Int32(w.ScoreAdj)
	e.File, e.Anon, e.Swap, e.Shmem = kb(w.Rss[0]), kb(w.Rss[1]), kb(w.Rss[2]), kb(w.Rss[3])
	e.RSS = e.File + e.Anon + e.Shmem
	e.Tables, e.Total = field.Uint64(w.PageTables>>10), kb(w.TotalVm)
	e.Memcg = field.Maybe{Known: w.Head.Flags&known != 0, Yes: w.Head.Flags&memcg != 0}
	e.Limit = kb(w.Limit)
	e.Load = field.Load{Known: w.Head.Flags&load != 0, Averages: w.Load}
	return nil
}
