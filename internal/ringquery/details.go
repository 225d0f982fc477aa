// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

// Details are who holds a ring and what uses it. What could not be looked at, for lack
// of a capability or as it went away, is not in it.
type Details struct {
	// Owners are the processes that hold a descriptor of the ring, by id. A descriptor
	// that this process has only because it asks is none.
	Owners []Owner
	// Programs use the ring, or a map of maps that has it, by id.
	Programs []Program
	Pins     []string // paths, in each BPF file system that this process sees
	Outer    []Outer  // maps of maps that have the ring, by id
}

// Owner is a process.
type Owner struct {
	PID  int    // in the pid namespace of this process's /proc
	Comm string // its name, chosen by itself
}

// Program is a BPF program.
type Program struct {
	ID   ebpf.ProgramID
	Name string // as its maker chose it
	Type string // as the kernel spells it: raw_tracepoint
	// AttachedTo are the places that it is attached to, such as "tracepoint
	// sys_enter_openat" or "kprobe tcp_connect". Empty: to none, or where the kernel
	// does not tell.
	AttachedTo []string
}

// Outer is a map of maps.
type Outer struct {
	ID   ebpf.MapID
	Name string
}

// detailsCache is what is kept between snapshots.
type detailsCache struct {
	at       time.Time
	of       map[ebpf.MapID]*Details
	programs map[ebpf.ProgramID]*program
	links    map[linkID]attachment
	kernel   kernelNames
}

// program is a program of the machine. None of it changes (BPF_PROG_BIND_MAP does
// change the maps, but right after the load, and by maps that no program looks into).
type program struct {
	name, typ string
	maps      []ebpf.MapID
}

// detailsOf returns the details of the rings of a snapshot, at most maxAge old.
func (q *Querier) detailsOf(s *Snapshot, maxAge time.Duration) (map[ebpf.MapID]*Details, error) {
	c := &q.details
	fresh := c.of != nil && time.Since(c.at) < maxAge
	for _, r := range s.Rings {
		fresh = fresh && c.of[r.ID] != nil
	}
	if fresh {
		return c.of, nil
	}
	c.at = time.Now()
	c.of = make(map[ebpf.MapID]*Details, len(s.Rings))
	for _, r := range s.Rings {
		c.of[r.ID] = &Details{Owners: []Owner{}, Programs: []Program{}, Pins: []string{}, Outer: []Outer{}}
	}
	perf := walkProc(func(pid int, comm func() string, id ebpf.MapID) {
		d := c.of[id]
		if d != nil && (len(d.Owners) == 0 || d.Owners[len(d.Owners)-1].PID != pid) {
			d.Owners = append(d.Owners, Owner{pid, comm()})
		}
	})
	for _, file := range pinnedMaps() {
		if id, ok := pinnedID(file); ok && c.of[id] != nil {
			c.of[id].Pins = append(c.of[id].Pins, file)
		}
	}
	if q.limit != nil {
		return c.of, nil
	}
	users := make(map[ebpf.MapID][]*Details) // whom the users of a map are to be told to
	for id, d := range c.of {
		users[id] = []*Details{d}
	}
	err := q.eachInner(func(outer Outer, inner ebpf.MapID) {
		if d := c.of[inner]; d != nil && !slices.Contains(d.Outer, outer) {
			d.Outer = append(d.Outer, outer)
			users[outer.ID] = append(users[outer.ID], d)
		}
	})
	return c.of, errors.Join(err, q.findPrograms(users, perf))
}

// perfEvent is a descriptor of a perf event.
type perfEvent struct{ pid, fd int }

// walkProc calls found for each descriptor of a map that any process holds, processes
// in order, and returns the perf events that it meets. What it may not look at, it
// passes over.
func walkProc(found func(pid int, comm func() string, id ebpf.MapID)) (perf []perfEvent) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	pids := make([]int, 0, len(processes))
	for _, p := range processes {
		if pid, err := strconv.Atoi(p.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		comm := func() string {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // empty: it has gone
			return string(bytes.TrimSuffix(name, []byte("\n")))
		}
		_ = walkFDs(pid, func(fd int, id ebpf.MapID) {
			found(pid, comm, id)
		}, func(fd int) {
			perf = append(perf, perfEvent{pid, fd})
		})
	}
	return perf
}

// walkFDs calls onMap for each descriptor of a map that a process holds, and onPerf for
// each of a perf event; the latter may be nil.
func walkFDs(pid int, onMap func(fd int, id ebpf.MapID), onPerf func(fd int)) error {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	// A descriptor's kind is the target of a link: cheaper to read than fdinfo.
	var target [64]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(dir.Fd()), name, target[:])
		if err != nil {
			continue
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		switch string(target[:n]) {
		case "anon_inode:bpf-map":
			if id, ok := mapIDOf(pid, fd); ok {
				onMap(fd, id)
			}
		case "anon_inode:[perf_event]":
			if onPerf != nil {
				onPerf(fd)
			}
		}
	}
	return nil
}

// mapIDOf reads which map a descriptor of a process is of.
func mapIDOf(pid, fd int) (ebpf.MapID, bool) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "map_id:"); ok {
			id, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 32)
			return ebpf.MapID(id), err == nil
		}
	}
	return 0, false
}

// mapsOfProcess returns the maps that a process holds, but for those that this process
// holds by the given descriptors.
func mapsOfProcess(pid int, asking map[int]bool) ([]ebpf.MapID, error) {
	var ids []ebpf.MapID
	err := walkFDs(pid, func(fd int, id ebpf.MapID) {
		if pid != os.Getpid() || !asking[fd] {
			ids = append(ids, id)
		}
	}, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no process %d", pid)
	case err != nil:
		return nil, fmt.Errorf("looking at the descriptors of process %d: %w", pid, err)
	}
	return ids, nil
}

// pinnedMaps returns the paths of what may be maps in all BPF file systems that are
// mounted here. Links are not followed, nor are other file systems entered.
func pinnedMaps() []string {
	var files []string
	mounts, _ := kernel.Mounts("bpf") // where they cannot be read, nothing is found
	for _, mount := range mounts {
		var root unix.Statfs_t
		if unix.Statfs(mount, &root) != nil || root.Type != unix.BPF_FS_MAGIC {
			continue // another one is mounted over it
		}
		_ = filepath.WalkDir(mount, func(file string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil: // not ours to look at, or gone
				if entry != nil && entry.IsDir() {
					return fs.SkipDir
				}
			case entry.IsDir():
				var st unix.Statfs_t
				if unix.Statfs(file, &st) != nil || st.Type != unix.BPF_FS_MAGIC {
					return fs.SkipDir
				}
			case entry.Type().IsRegular() && !slices.Contains(files, file):
				files = append(files, file)
			}
			return nil
		})
	}
	return files
}

// pinnedID returns the id of the map that is pinned at a path.
func pinnedID(file string) (ebpf.MapID, bool) {
	object, err := pin.Load(file, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, false // a link, which is never read-only, or not ours to open
	}
	defer object.Close()
	m, ok := object.(*ebpf.Map)
	if !ok {
		return 0, false
	}
	f, id, err := factsOf(m)
	return id, err == nil && f.ring()
}

// eachInner calls found for each map in each map of maps.
func (q *Querier) eachInner(found func(outer Outer, inner ebpf.MapID)) error {
	ids, err := mapIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if f, ok := q.facts[id]; ok && f.typ != ebpf.ArrayOfMaps && f.typ != ebpf.HashOfMaps {
			continue
		}
		m, f, err := q.open(id)
		if err != nil {
			continue // it has gone
		}
		if f.typ == ebpf.ArrayOfMaps || f.typ == ebpf.HashOfMaps {
			outer := Outer{ID: id}
			if info, err := m.Info(); err == nil {
				outer.Name = info.Name
			}
			var key []byte
			var inner uint32
			entries := m.Iterate()
			for entries.Next(&key, &inner) {
				if inner != 0 {
					found(outer, ebpf.MapID(inner))
				}
			}
		}
		m.Close()
	}
	return nil
}

// eachProgram calls found for each program of the machine.
func (q *Querier) eachProgram(found func(id ebpf.ProgramID, p *program)) error {
	known := make(map[ebpf.ProgramID]*program)
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			q.details.programs = known
			return nil
		} else if err != nil {
			return fmt.Errorf("listing the BPF programs: %w", advise(err))
		}
		p := q.details.programs[id]
		if p == nil {
			if p, err = readProgram(id); err != nil {
				continue // it has gone
			}
		}
		known[id] = p
		found(id, p)
	}
}

func readProgram(id ebpf.ProgramID) (*program, error) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return nil, err
	}
	maps, _ := info.MapIDs()
	return &program{name: info.Name, typ: programType(info.Type), maps: maps}, nil
}

// findPrograms enters the programs that use maps, with what they are attached to.
func (q *Querier) findPrograms(users map[ebpf.MapID][]*Details, perf []perfEvent) error {
	type use struct {
		details *Details
		program Program
	}
	uses := make(map[ebpf.ProgramID][]use)
	err := q.eachProgram(func(id ebpf.ProgramID, p *program) {
		var told []*Details
		for _, m := range p.maps {
			for _, d := range users[m] {
				if !slices.Contains(told, d) {
					told = append(told, d)
					uses[id] = append(uses[id], use{d, Program{ID: id, Name: p.name, Type: p.typ}})
				}
			}
		}
	})
	if err != nil || len(uses) == 0 {
		return err
	}
	places, err := q.attachments(func(id ebpf.ProgramID) bool { return uses[id] != nil }, perf)
	for id, list := range uses {
		for _, u := range list {
			u.program.AttachedTo = places[id]
			if u.program.AttachedTo == nil {
				u.program.AttachedTo = []string{}
			}
			u.details.Programs = append(u.details.Programs, u.program)
		}
	}
	for _, list := range users {
		for _, d := range list {
			slices.SortFunc(d.Programs, func(a, b Program) int { return cmp.Compare(a.ID, b.ID) })
		}
	}
	return err
}

// mapsOfPrograms returns the maps that programs of these ids or names use, and those
// inside of them. An error tells of one that does not exist.
func (q *Querier) mapsOfPrograms(wanted []string) (map[ebpf.MapID]bool, error) {
	if q.limit != nil {
		return nil, fmt.Errorf("looking for the maps of programs: %w", q.limit)
	}
	used := make(map[ebpf.MapID]bool)
	there := make([]bool, len(wanted))
	err := q.eachProgram(func(id ebpf.ProgramID, p *program) {
		for i, text := range wanted {
			if n, ok := programID(text); ok && n == id || text == p.name {
				there[i] = true
				for _, m := range p.maps {
					used[m] = true
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for i, text := range wanted {
		if !there[i] {
			return nil, fmt.Errorf("there is no BPF program %q: %w", text, fs.ErrNotExist)
		}
	}
	return used, q.eachInner(func(outer Outer, inner ebpf.MapID) {
		if used[outer.ID] {
			used[inner] = true
		}
	})
}

// programType returns a program type as the kernel's tools spell it.
func programType(t ebpf.ProgramType) string {
	names := map[ebpf.ProgramType]string{
		ebpf.SocketFilter: "socket_filter", ebpf.Kprobe: "kprobe", ebpf.SchedCLS: "sched_cls", ebpf.SchedACT: "sched_act",
		ebpf.TracePoint: "tracepoint", ebpf.XDP: "xdp", ebpf.PerfEvent: "perf_event", ebpf.CGroupSKB: "cgroup_skb",
		ebpf.CGroupSock: "cgroup_sock", ebpf.LWTIn: "lwt_in", ebpf.LWTOut: "lwt_out", ebpf.LWTXmit: "lwt_xmit",
		ebpf.SockOps: "sock_ops", ebpf.SkSKB: "sk_skb", ebpf.CGroupDevice: "cgroup_device", ebpf.SkMsg: "sk_msg",
		ebpf.RawTracepoint: "raw_tracepoint", ebpf.CGroupSockAddr: "cgroup_sock_addr", ebpf.LWTSeg6Local: "lwt_seg6local",
		ebpf.LircMode2: "lirc_mode2", ebpf.SkReuseport: "sk_reuseport", ebpf.FlowDissector: "flow_dissector",
		ebpf.CGroupSysctl: "cgroup_sysctl", ebpf.RawTracepointWritable: "raw_tracepoint_writable",
		ebpf.CGroupSockopt: "cgroup_sockopt", ebpf.Tracing: "tracing", ebpf.StructOps: "struct_ops", ebpf.Extension: "ext",
		ebpf.LSM: "lsm", ebpf.SkLookup: "sk_lookup", ebpf.Syscall: "syscall", ebpf.Netfilter: "netfilter",
	}
	if name, ok := names[t]; ok {
		return name
	}
	return t.String()
}
