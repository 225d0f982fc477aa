// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

type linkID = link.ID

// attachment is where a link attaches a program.
type attachment struct {
	prog  ebpf.ProgramID
	place string // empty: the link does not tell
}

// attachments returns the places that the wanted programs are attached to, sorted: as
// their links tell, and, of programs that are attached to a perf event without a link
// or by one that does not tell (before 6.6), as the perf events do.
func (q *Querier) attachments(wanted func(ebpf.ProgramID) bool, perf []perfEvent) (map[ebpf.ProgramID][]string, error) {
	places := make(map[ebpf.ProgramID][]string)
	add := func(prog ebpf.ProgramID, place string) {
		if !slices.Contains(places[prog], place) {
			places[prog] = append(places[prog], place)
		}
	}
	var silent []attachment
	known := make(map[linkID]attachment)
	links := &link.Iterator{}
	defer links.Close()
	for links.Next() {
		// The program of a link can be replaced (BPF_LINK_UPDATE): only where it is
		// attached to is remembered.
		info, err := links.Link.Info()
		if err != nil || !wanted(info.Program) {
			continue
		}
		a, ok := q.details.links[links.ID]
		if !ok || a.prog != info.Program {
			a = attachment{info.Program, q.details.kernel.place(info)}
		}
		known[links.ID] = a
		if a.place == "" {
			silent = append(silent, a)
		} else {
			add(a.prog, a.place)
		}
	}
	q.details.links = known
	for _, p := range perf {
		event, err := queryFD(p.pid, p.fd)
		if err != nil || !wanted(ebpf.ProgramID(event.prog)) {
			continue
		}
		add(ebpf.ProgramID(event.prog), event.place())
	}
	for _, a := range silent {
		if len(places[a.prog]) == 0 {
			add(a.prog, "perf event")
		}
	}
	for _, list := range places {
		slices.Sort(list)
	}
	if err := links.Err(); err != nil && !errors.Is(err, link.ErrNotSupported) {
		return places, fmt.Errorf("listing the BPF links: %w", err)
	}
	return places, nil
}

// place says what a perf event is of.
func (f fdQuery) place() string {
	offset := func(s string) string {
		if f.offset > 0 {
			s += fmt.Sprintf("+%#x", f.offset)
		}
		return s
	}
	name := f.name
	if name == "" && f.addr != 0 {
		name = fmt.Sprintf("%#x", f.addr)
	}
	switch f.typ { // enum bpf_task_fd_type
	case 0:
		return "raw_tracepoint " + name
	case 1:
		return "tracepoint " + name
	case 2:
		return "kprobe " + offset(name)
	case 3:
		return "kretprobe " + offset(name)
	case 4:
		return "uprobe " + offset(name)
	case 5:
		return "uretprobe " + offset(name)
	}
	return "perf event"
}

// place says what a link attaches to; empty where it does not tell.
func (k *kernelNames) place(info *link.Info) string {
	switch info.Type {
	case link.RawTracepointType:
		if i := info.RawTracepoint(); i != nil {
			return "raw_tracepoint " + i.Name
		}
	case link.TracingType:
		if i := info.Tracing(); i != nil {
			return strings.TrimSpace(attachType(uint32(i.AttachType)) + " " + k.typeName(i.TargetObjectId, uint32(i.TargetBtfId)))
		}
	case link.CgroupType:
		if i := info.Cgroup(); i != nil {
			return fmt.Sprintf("cgroup %s (%s)", cgroupPath(i.CgroupId), attachType(uint32(i.AttachType)))
		}
	case link.PerfEventType:
		return perfPlace(info.PerfEvent())
	case link.KprobeMultiType:
		if i := info.KprobeMulti(); i != nil {
			return k.kprobes(i)
		}
	case link.UprobeMultiType:
		if i := info.UprobeMulti(); i != nil {
			return fmt.Sprintf("uprobe_multi %s (%d places)", i.File, i.Count)
		}
	case link.XDPType:
		if i := info.XDP(); i != nil {
			return "xdp " + interfaceName(i.Ifindex)
		}
	case link.TCXType:
		if i := info.TCX(); i != nil {
			return fmt.Sprintf("tcx %s (%s)", interfaceName(i.Ifindex), attachType(uint32(i.AttachType)))
		}
	case link.NetkitType:
		if i := info.Netkit(); i != nil {
			return fmt.Sprintf("netkit %s (%s)", interfaceName(i.Ifindex), attachType(uint32(i.AttachType)))
		}
	case link.NetNsType:
		if i := info.NetNs(); i != nil {
			return fmt.Sprintf("netns %d (%s)", i.NetnsInode, attachType(uint32(i.AttachType)))
		}
	case link.NetfilterType:
		return "netfilter"
	case link.IterType:
		return "iter"
	case link.StructOpsType:
		return "struct_ops"
	default:
		return fmt.Sprintf("link of type %d", info.Type)
	}
	return ""
}

func perfPlace(i *link.PerfEventInfo) string {
	if i == nil {
		return ""
	}
	f := fdQuery{}
	switch i.Type {
	case link.PerfEventTracepoint:
		if t := i.Tracepoint(); t != nil {
			f.typ, f.name = 1, t.Tracepoint
		}
	case link.PerfEventKprobe, link.PerfEventKretprobe:
		if p := i.Kprobe(); p != nil {
			f.typ, f.name, f.offset, f.addr = 2, p.Function, uint64(p.Offset), p.Address
			if i.Type == link.PerfEventKretprobe {
				f.typ = 3
			}
		}
	case link.PerfEventUprobe, link.PerfEventUretprobe:
		if p := i.Uprobe(); p != nil {
			f.typ, f.name, f.offset = 4, p.File, uint64(p.Offset)
			if i.Type == link.PerfEventUretprobe {
				f.typ = 5
			}
		}
	case link.PerfEventEvent:
		if e := i.Event(); e != nil {
			return fmt.Sprintf("perf event type %d config %#x", e.Type, e.Config)
		}
	}
	if f.name == "" && f.addr == 0 {
		return ""
	}
	return f.place()
}

// attachType returns an attach type as the kernel's tools spell it.
func attachType(t uint32) string {
	names := map[ebpf.AttachType]string{
		ebpf.AttachTraceRawTp: "tp_btf", ebpf.AttachTraceFEntry: "fentry", ebpf.AttachTraceFExit: "fexit",
		ebpf.AttachModifyReturn: "fmod_ret", ebpf.AttachLSMMac: "lsm", ebpf.AttachTraceIter: "iter",
		ebpf.AttachCGroupInetIngress: "ingress", ebpf.AttachCGroupInetEgress: "egress",
		ebpf.AttachTCXIngress: "ingress", ebpf.AttachTCXEgress: "egress",
	}
	if name, ok := names[ebpf.AttachType(t)]; ok {
		return name
	}
	return ebpf.AttachType(t).String()
}

func interfaceName(index uint32) string {
	i, err := net.InterfaceByIndex(int(index))
	if err != nil { // in another network namespace
		return strconv.FormatUint(uint64(index), 10)
	}
	return i.Name
}

// cgroupPath returns the path of a cgroup below the mount of the unified hierarchy, or
// its id.
func cgroupPath(id uint64) string {
	text := fmt.Sprintf("id %d", id)
	mount, err := kernel.CgroupMount()
	if err != nil {
		return text
	}
	root, err := os.Open(mount)
	if err != nil {
		return text
	}
	defer root.Close()
	// The id is the file handle of the cgroup's directory (fs/kernfs/mount.c).
	const fileidKernfs = 0xfe
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(root.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return text
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return text
	}
	if rest, ok := strings.CutPrefix(path, mount); ok && rest != "" {
		return rest
	}
	return "/"
}

// kernelNames finds names of kernel functions and types, when there is need for one.
type kernelNames struct {
	vmlinux uint32 // the id of the kernel's own BTF; 0: not looked for yet
}

// typeName returns the name of a type, which is that of a function or, with btf_trace_
// in front, which is cut off, of a tracepoint. It is empty where it cannot be found.
func (k *kernelNames) typeName(object, id uint32) string {
	if object == 0 || id == 0 {
		return "" // before 5.13, links do not tell
	}
	if k.vmlinux == 0 {
		handles := new(btf.HandleIterator)
		for handles.Next() {
			info, err := handles.Handle.Info()
			if err == nil && info.IsVmlinux() {
				k.vmlinux = uint32(info.ID)
				break
			}
		}
		handles.Handle.Close()
	}
	if object != k.vmlinux {
		if h, err := btf.NewHandleFromID(btf.ID(object)); err == nil {
			defer h.Close()
			if info, err := h.Info(); err == nil && info.IsModule() {
				return fmt.Sprintf("type %d of module %s", id, info.Name)
			}
		}
		return fmt.Sprintf("function %d of BPF program %d", id, object)
	}
	name, err := kernel.TypeName(id)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(name, "btf_trace_")
}

// kprobes names the functions of a kprobe_multi link, the first few.
func (k *kernelNames) kprobes(i *link.KprobeMultiInfo) string {
	addrs, ok := i.Addresses()
	const named = 3
	if !ok || len(addrs) == 0 {
		return fmt.Sprintf("kprobe_multi (%d functions)", i.Count)
	}
	wanted := make(map[string]string)
	for _, a := range addrs[:min(named, len(addrs))] {
		wanted[fmt.Sprintf("%016x", a.Address)] = ""
	}
	if f, err := os.Open("/proc/kallsyms"); err == nil {
		defer f.Close()
		left := len(wanted)
		for lines := bufio.NewScanner(f); left > 0 && lines.Scan(); {
			addr, rest, _ := strings.Cut(lines.Text(), " ")
			if name, ok := wanted[addr]; ok && name == "" {
				wanted[addr] = strings.Fields(rest)[1]
				left--
			}
		}
	}
	var names []string
	for _, name := range wanted {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	text := "kprobe_multi " + strings.Join(names, ", ")
	if more := int(i.Count) - len(names); more > 0 {
		text = strings.TrimSuffix(text, " ") + fmt.Sprintf(" and %d more", more)
	}
	return text
}
