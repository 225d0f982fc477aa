// SPDX-License-Identifier: Apache-2.0

// Package mount traces file systems that are mounted, moved and unmounted.
package mount

import (
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type mount_event -target amd64,arm64 bpf ../../../bpf/mount.bpf.c -- -I../../../bpf/include

// Event is one of the calls that mount.
type Event struct {
	tracer.Common
	Call      field.Word       `json:"call" col:"CALL,w=10" doc:"the call: mount, umount, pivot_root, fsopen, fspick, fsconfig, fsmount, move_mount, open_tree, open_tree_attr or mount_setattr"`
	Latency   field.Latency    `json:"latency_ns" col:"LAT,w=7,right" doc:"how long it took, in ns in JSON; 0 where nobody knows"`
	Ret       field.Int32      `json:"ret" col:"RET,w=4,right" doc:"what the call returned: 0, of fsopen, fspick, fsmount, open_tree and open_tree_attr a descriptor, or the negative error number"`
	Errno     field.Errno      `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
	FSType    field.Text       `json:"fstype" col:"FSTYPE,w=7" doc:"the type of the file system, of mount and fsopen"`
	Flags     field.Flags      `json:"flags" col:"FLAGS,w=24" doc:"the flags of the call; what has no name is in hexadecimal"`
	Attrs     field.Flags      `json:"attrs" col:"ATTRS,w=24" doc:"the attributes that fsmount, mount_setattr or open_tree_attr gives the mount"`
	Clear     field.Flags      `json:"attrs_clear" col:"ATTRSCLEAR,w=24" doc:"those that mount_setattr or open_tree_attr takes away"`
	Propagate field.Flags      `json:"propagation" col:"PROPAGATION,w=12" doc:"the propagation that these set: one of MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE and MS_SHARED"`
	Cmd       field.Word       `json:"cmd" col:"CMD,w=23" doc:"the command of fsconfig; empty where it has no name"`
	Aux       field.Int32      `json:"aux" col:"AUX,w=6,right" doc:"the number that fsconfig was given last: a descriptor, or how long FSCONFIG_SET_BINARY's value is; else 0"`
	FD        field.Int32      `json:"fd" col:"FD,w=4,right,void=-1" doc:"the descriptor of the file system that fsconfig or fsmount was given, or of the mount that move_mount was; else -1"`
	Data      field.Text       `json:"data" col:"DATA,w=24" doc:"the options of mount, or KEY or KEY=VALUE of fsconfig: there may be passwords among them"`
	SrcSource field.PathSource `json:"src_source" col:"SRCSOURCE,w=10" doc:"where src begins: absolute (as given), cwd, dirfd, unresolved: there is none, or nobody knows, or text: it is no path for the call"`
	DstSource field.PathSource `json:"dst_source" col:"DSTSOURCE,w=10" doc:"where dst begins, likewise"`
	SrcFile   field.Text       `json:"src_file" col:"SRCFILE,w=24" doc:"src as given"`
	DstFile   field.Text       `json:"dst_file" col:"DSTFILE,w=24" doc:"dst as given"`
	Src       field.Text       `json:"src" col:"SRC,w=11" doc:"what is mounted: the source of mount as given, or fsconfig's; the absolute path where it is one for the call, as with MS_BIND and MS_MOVE, of pivot_root, move_mount, open_tree, open_tree_attr and what fsconfig takes by path or descriptor"`
	Dst       field.Text       `json:"dst" col:"DST" doc:"the absolute path where it is mounted, or was: of mount, umount, move_mount, fspick and mount_setattr; of pivot_root where the old root goes"`
	MntNs     field.Uint32     `json:"mnt_ns" col:"MNTNS,w=10,right" doc:"the caller's mount namespace: the number in /proc/PID/ns/mnt"`

	src, dst, fstype, key, data tracer.File
	option                      []byte // memory of Data
}

// enum mount_call of bpf/mount.bpf.c, and the flags of each.
const (
	mount = iota
	umount
	fsopen
	fsconfig
	fsmount
	moveMount
	openTree
	fspick
	pivotRoot
	setattr
	openTreeAttr
)

var calls = []field.Word{
	"mount", "umount", "fsopen", "fsconfig", "fsmount", "move_mount", "open_tree", "fspick", "pivot_root", setattr: "mount_setattr", openTreeAttr: "open_tree_attr",
}

var flags = []field.FlagNames{
	mount: field.MountFlags, umount: field.UmountFlags, fsopen: field.FsopenFlags, fsconfig: nil, fsmount: field.FsmountFlags,
	moveMount: field.MoveMountFlags, openTree: field.OpenTreeFlags, fspick: field.FspickFlags, pivotRoot: nil,
	setattr: field.SetattrFlags, openTreeAttr: field.OpenTreeFlags,
}

// enum fsconfig_command, include/uapi/linux/mount.h
const setString = 1

var commands = []field.Word{
	"FSCONFIG_SET_FLAG", setString: "FSCONFIG_SET_STRING", 2: "FSCONFIG_SET_BINARY", 3: "FSCONFIG_SET_PATH",
	4: "FSCONFIG_SET_PATH_EMPTY", 5: "FSCONFIG_SET_FD", 6: "FSCONFIG_CMD_CREATE", 7: "FSCONFIG_CMD_RECONFIGURE",
	8: "FSCONFIG_CMD_CREATE_EXCL",
}

// The calls, at their entries and exits. The last two came with 5.12 and 6.15.
var programs = []tracer.Program{
	{Name: bpfProgRbMountEnter, Also: places("enter", calls[1:setattr]), AlsoIf: places("enter", calls[setattr:]), Prepares: true},
	{Name: bpfProgRbMount, Also: places("exit", calls[1:setattr]), AlsoIf: places("exit", calls[setattr:])},
	{Name: bpfProgRbMountEnd, Prepares: true},
}

func places(at string, calls []field.Word) []string {
	var all []string
	for _, call := range calls {
		all = append(all, "syscalls/sys_"+at+"_"+string(call))
	}
	return all
}

// Tracer is rbtrace mount.
var Tracer = tracer.New(tracer.Def[bpfMountEvent, Event]{
	Name:  "mount",
	Short: "File systems that are mounted, moved and unmounted",
	Long: `Shows every mount, umount (which programs call umount2, too) and pivot_root of every thread
on the machine, when it returns, and how long it took; and the calls that do what mount does
in several steps: fsopen, fspick, fsconfig, fsmount, move_mount, open_tree, open_tree_attr and
mount_setattr. Those that fail are shown, too, or with --failed only these. Mount namespaces do
not matter: the calls of containers are among them, and mnt_ns tells them apart.

Paths are absolute: a relative one is joined to the path of the working directory, or of
the directory that the call named by a descriptor, across mount points, as that path is
when the call returns. What a descriptor alone tells of, with an empty path, has the path
that it has then: a mount that move_mount has just put in its place is there already. They
are what was asked for, not what was found: symbolic links, . and .. stay as they are. In a
chroot or a container an absolute path begins at the root of that, as its processes see it.
One in a mount that is in no mount namespace, as it was unmounted while in use or is not
mounted yet, begins with "(unreachable)", one too deep or long to be followed with "…".

data is not in the table unless it is asked for (-C +data): some file systems take
passwords there. It is in JSON, and in recordings.

How long a call took is not known where it began before tracing did, or where a seccomp filter
answered it. Calls of 32-bit programs on a 64-bit kernel do not pass the tracepoints. What the kernel
mounts by itself, as for automounts, and what is unmounted with the last process of a mount
namespace does not either.` + tracer.AtExitHelp,
	Examples: []tracer.Example{
		{Args: "mount", What: "what is mounted and unmounted, by all containers as well"},
		{Args: "mount -x", What: "calls that fail, with the error"},
		{Args: "mount -C +flags,+latency_ns,+data", What: "with flags, options, and how long each took"},
		{Args: `mount --filter 'call == "umount"'`, What: "who unmounts"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Tracepoint, Programs: programs},
		{Kind: tracer.Tracepoint, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "call", "errno", "fstype", "src", "dst"},
	Decode:  decode,
})

// The highest bits of the flags were a magic number once, which mount still takes
// (MS_MGC_VAL, include/uapi/linux/mount.h).
const (
	magicMask = 0xffff0000
	magic     = 0xc0ed0000
)

func decode(w *bpfMountEvent, tail []byte, e *Event) error {
	var err error
	for _, f := range []struct {
		file   *tracer.File
		record tracer.FileRecord
	}{
		{&e.src, tracer.FileRecord{FileLen: w.Src.FileLen, BaseLen: w.Src.BaseLen, Flags: w.Src.Flags}},
		{&e.dst, tracer.FileRecord{FileLen: w.Dst.FileLen, BaseLen: w.Dst.BaseLen, Flags: w.Dst.Flags}},
		{&e.fstype, tracer.FileRecord{FileLen: w.Fstype.FileLen, BaseLen: w.Fstype.BaseLen, Flags: w.Fstype.Flags}},
		{&e.key, tracer.FileRecord{FileLen: w.Key.FileLen, BaseLen: w.Key.BaseLen, Flags: w.Key.Flags}},
		{&e.data, tracer.FileRecord{FileLen: w.Data.FileLen, BaseLen: w.Data.BaseLen, Flags: w.Data.Flags}},
	} {
		if tail, err = f.file.Decode(tail, f.record); err != nil {
			return err
		}
	}
	e.SrcSource, e.SrcFile, e.Src = e.src.Source, e.src.Given, e.src.Path
	e.DstSource, e.DstFile, e.Dst = e.dst.Source, e.dst.Given, e.dst.Path
	e.FSType, e.Data = e.fstype.Given, e.data.Given

	e.Call = field.WordOf(calls, w.Call)
	e.Latency, e.FD = field.Latency(w.Lat), field.Int32(w.Fd)
	e.Ret, e.Errno = field.Int32(w.Ret), min(0, field.Errno(w.Ret))
	e.MntNs, e.Aux = field.Uint32(w.MntNs), field.Int32(w.Aux)
	e.Flags, e.Attrs = field.Flags{Bits: w.Flags}, field.Flags{Bits: w.Attrs, Names: field.MountAttrs}
	e.Clear = field.Flags{Bits: w.AttrsClear, Names: field.MountAttrs}
	e.Propagate = field.Flags{Bits: w.Propagation, Names: field.MountFlags}
	if int64(w.Call) < int64(len(flags)) {
		e.Flags.Names = flags[w.Call]
	}
	if w.Call == mount && w.Flags&magicMask == magic {
		e.Flags.Bits &^= magicMask
	}
	e.Cmd = ""
	if w.Call == fsconfig {
		e.Cmd = field.WordOf(commands, w.Cmd)
		e.option = append(e.option[:0], e.key.Given...)
		if w.Cmd == setString {
			e.option = append(append(e.option, '='), e.data.Given...)
			if string(e.key.Given) == "source" {
				e.SrcSource, e.SrcFile, e.Src = e.data.Source, e.data.Given, e.data.Given
			}
		}
		e.Data = e.option
	}
	return nil
}
