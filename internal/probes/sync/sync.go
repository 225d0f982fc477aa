// SPDX-License-Identifier: Apache-2.0

// Package sync traces calls that write to disk what waits in memory.
package sync

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type sync_event -target amd64,arm64 bpf ../../../bpf/sync.bpf.c -- -I../../../bpf/include

// Event is one sync, fsync, fdatasync, msync, sync_file_range or syncfs.
type Event struct {
	tracer.Common
	Call    field.Word    `json:"call" col:"CALL,w=15" doc:"the call: sync, fsync, fdatasync, msync, sync_file_range or syncfs"`
	Latency field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"how long it took, in ns in JSON; 0 where nobody knows"`
	FD      field.Int32   `json:"fd" col:"FD,w=4,right,void=-1" doc:"the descriptor that it was given, -1 for sync and msync"`
	Ret     field.Int32   `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, or the negative error number"`
	Errno   field.Errno   `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
	Flags   field.Flags   `json:"flags" col:"FLAGS,w=21" doc:"the flags of msync or sync_file_range; what has no name is in hexadecimal"`
	Addr    field.Hex     `json:"addr" col:"ADDR,w=14" doc:"where the memory of msync begins, else 0x0"`
	Offset  field.Int64   `json:"offset" col:"OFFSET,w=10,right" doc:"where the range of sync_file_range begins, else 0"`
	Bytes   field.Int64   `json:"bytes" col:"BYTES,w=10,right" doc:"how long the range of sync_file_range (0: to the end) or msync is, else 0"`
	Path    field.Text    `json:"path" col:"PATH" doc:"the absolute path of the descriptor's file, or what /proc/PID/fd calls it; empty where there is none"`

	path tracer.File
}

const (
	msync         = 3
	syncFileRange = 4
)

// enum sync_call of bpf/sync.bpf.c
var calls = []field.Word{"sync", "fsync", "fdatasync", msync: "msync", syncFileRange: "sync_file_range", 5: "syncfs"}

// The six calls, at their entries and exits.
var programs = []tracer.Program{
	{Name: bpfProgRbSyncEnter, Also: places("enter"), Prepares: true},
	{Name: bpfProgRbSync, Also: places("exit")},
	{Name: bpfProgRbSyncEnd, Prepares: true},
}

func places(at string) []string {
	var all []string
	for _, call := range calls {
		if call != "fsync" {
			all = append(all, "syscalls/sys_"+at+"_"+string(call))
		}
	}
	return all
}

// Tracer is rbtrace sync.
var Tracer = tracer.New(tracer.Def[bpfSyncEvent, Event]{
	Name:  "sync",
	Short: "Writing to disk what waits in memory, and how long it takes",
	Long: `Shows every sync, fsync, fdatasync, msync, sync_file_range and syncfs of every thread on the
machine, when it returns, and how long it took: those that succeed and those that fail, or
with --failed only these.

path is that of the descriptor's file when the call returns, across mount points; one that
has been removed ends in " (deleted)". A descriptor that another thread closes meanwhile has
none, nor has msync, which is given memory. For syncfs it is that of any file on the file
system that is written.
One in a mount that is in no mount namespace, as it was unmounted while in use or is not
mounted yet, begins with "(unreachable)", one too deep or long to be followed with "…".

How long a call took is not known where it began before tracing did, or where a seccomp filter
answered it. One that a signal interrupts (ERESTARTSYS) is no failure for --failed: it begins
anew, or the program gets EINTR. Calls of 32-bit programs on a 64-bit kernel pass
the tracepoints. What io_uring or AIO (IOCB_CMD_FSYNC) syncs does not either, nor what the
kernel writes by itself, as for O_SYNC or when memory is short.`,
	Examples: []tracer.Example{
		{Args: "sync", What: "who waits for the disk, and how long"},
		{Args: "sync --filter 'latency_ns > 10_000_000'", What: "calls that take more than 10 ms"},
		{Args: "sync -x", What: "those that fail: data that may be lost"},
		{Args: "sync -C +bytes,+flags -n postgres", What: "one program's, with all that it asks for"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "call", "latency_ns", "fd", "errno", "path"},
	Decode:  decode,
})

func decode(w *bpfSyncEvent, tail []byte, e *Event) error {
	p := &w.Path
	if _, err := e.path.Decode(tail, tracer.FileRecord{FileLen: p.FileLen, BaseLen: p.BaseLen, Flags: p.Flags}); err != nil {
		return err
	}
	e.Path = e.path.Path
	e.Call = field.WordOf(calls, w.Call)
	e.Latency, e.FD = field.Latency(w.Lat), field.Int32(w.Fd)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.Flags = field.Flags{Bits: uint64(w.Flags)}
	switch w.Call {
	case msync:
		e.Flags.Names = field.MsyncFlags
	case syncFileRange:
		e.Flags.Names = field.SyncRangeFlags
	}
	e.Addr, e.Offset, e.Bytes = field.Hex(w.Addr), field.Int64(w.Offset), field.Int64(w.Bytes)
	return nil
}
