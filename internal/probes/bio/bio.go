// SPDX-License-Identifier: Apache-2.0

// Package bio traces requests to block devices.
package bio

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type bio_event -target amd64,arm64 bpf ../../../bpf/bio.bpf.c -- -I../../../bpf/include

// Event is one request, when the device is done with it.
type Event struct {
	tracer.Common
	Disk    field.Text       `json:"disk" col:"DISK,w=8" doc:"name of the whole disk, also for a partition's requests; empty for requests that manage a device"`
	Major   field.Uint32     `json:"major" col:"MAJ,w=4,right" doc:"the disk's major number"`
	Minor   field.Uint32     `json:"minor" col:"MIN,w=4,right" doc:"the disk's minor number"`
	Op      field.BlockOp    `json:"op" col:"OP,w=6" doc:"read, write, flush, discard, secure_erase, write_zeroes, drv_in or drv_out (commands passed to the device), others by number"`
	Flags   field.BlockFlags `json:"flags" col:"FLAGS,w=12" doc:"sync, meta, prio, fua, preflush, ahead"`
	Sector  field.Uint64     `json:"sector" col:"SECTOR,w=10,right" doc:"where it begins on the disk, in units of 512 bytes"`
	Bytes   field.Uint32     `json:"bytes" col:"BYTES,w=7,right" doc:"its size"`
	Latency field.Latency    `json:"latency_ns" col:"LAT,w=7,right" doc:"how long the device took, from when it was given the request, the first time where it got it again"`
	Queued  field.Latency    `json:"queued_ns" col:"QUE,w=7,right" doc:"how long it was queued before; 0 where it was not, as mostly on disks without an I/O scheduler"`
	Errno   field.Errno      `json:"errno" col:"ERR,w=8" doc:"the error's name, also where only a part could not be done; empty when there was none"`
}

// Tracer is rbtrace bio.
var Tracer = tracer.New(tracer.Def[bpfBioEvent, Event]{
	Name:  "bio",
	Short: "Requests to disks, and how long they take",
	Long: `Shows each request to a block device, when the device is done with it, or with --failed those
that it could not do. What the page cache answers is no request; one request may be of several
calls, and one call of several requests.

pid and comm are of the thread that gave the request to the disk's queue. That is who reads, or
writes with O_DIRECT or fsync. What is written into the page cache is given later, by a thread of
the kernel (kworker/…), or by whoever needs memory; flushes are a kworker's, too, and before Linux
6.5 what is written with a flush in front or behind, as the commits of a journal. A filter looks
at that thread. pid is 0 where nobody knows: the request was queued before tracing began.

Disks that are made of others (dm, md) are seen as those that they are made of; a loop device's
requests are seen, and those of its file's disk.`,
	Examples: []tracer.Example{
		{Args: "bio", What: "every request"},
		{Args: "bio --disk sda --min 10ms", What: "what a slow disk does"},
		{Args: "bio -x", What: "what fails"},
		{Args: "bio -C +queued_ns,+flags -- sync", What: "what is yet to be written"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Programs: oldest},
		{Kind: tracer.Tracepoint, Programs: older},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: oldest},
		{Kind: tracer.Tracepoint, Failed: true, Programs: older},
	},
	Columns:       []string{"time", "pid", "comm", "disk", "op", "sector", "bytes", "latency_ns"},
	FailedColumns: []string{"time", "pid", "comm", "disk", "op", "sector", "bytes", "errno"},
	Params: []tracer.Param{
		{
			Name: "disk", Value: "NAME", Usage: "only the disk of this `NAME`: sda, nvme0n1", Max: 31, Const: bpfVarDisk, Column: "disk",
			Text: &tracer.Text{
				Here:      isDisk,
				Constants: func(string) map[string]any { return map[string]any{bpfVarByDisk: true} },
				Match: func(value field.Value, name string) bool {
					return string(*value.(*field.Text)) == name
				},
			},
		},
		{
			Name: "min", Value: "TIME", Usage: "only requests that take the device this `TIME` or longer: 500us, 10ms, 1s",
			Const: bpfVarMinNs, Max: math.MaxInt64, Duration: true, Column: "latency_ns",
		},
	},
	Decode: decode,
})

// oldest are those for kernels whose tracepoints have another argument in front. Others
// refuse them.
var oldest = []tracer.Program{
	{Name: bpfProgRbBioInsertQ},
	{Name: bpfProgRbBioIssueQ},
	{Name: bpfProgRbBioRequeueQ, Prepares: true},
	{Name: bpfProgRbBioMergeQ, Prepares: true},
	{Name: bpfProgRbBio, Atomic: true},
}

// older are those for kernels before 6.5. What rb_bio_issue misses, rb_bio does not know
// to be a loss: so its misses count.
var older = []tracer.Program{
	{Name: bpfProgRbBioInsert},
	{Name: bpfProgRbBioIssue},
	{Name: bpfProgRbBioRequeue, Prepares: true},
	{Name: bpfProgRbBioMerge, Prepares: true},
	{Name: bpfProgRbBio, Atomic: true},
}

var programs = append([]tracer.Program{{Name: bpfProgRbBioStart}}, older...)

// isDisk returns an error where this machine has no disk of that name.
func isDisk(name string) error {
	file := strings.ReplaceAll(name, "/", "!") // as sysfs has it
	if _, err := os.Stat("/sys/block/" + file + "/stat"); err == nil {
		return nil
	}
	if _, err := os.Stat("/sys/class/block/" + file + "/partition"); err == nil {
		if at, err := filepath.EvalSymlinks("/sys/class/block/" + file); err == nil {
			return fmt.Errorf("%q is a partition: want its disk, %s", name, filepath.Base(filepath.Dir(at)))
		}
	}
	return fmt.Errorf("this machine has no disk %q: /sys/block has their names", name)
}

func decode(w *bpfBioEvent, _ []byte, e *Event) error {
	name, _, _ := bytes.Cut(w.Disk[:], []byte{0})
	e.Disk, e.Major, e.Minor = name, field.Uint32(w.Major), field.Uint32(w.Minor)
	e.Op, e.Flags = field.BlockOp(w.Op), field.BlockFlags(w.Flags)
	e.Sector, e.Bytes = field.Uint64(w.Sector), field.Uint32(w.Bytes)
	e.Latency, e.Queued = field.Latency(w.Latency), field.Latency(w.Queued)
	e.Errno = field.BlockStatus(w.Status)
	return nil
}
