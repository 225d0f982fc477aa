// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// clockTick is the unit of times in /proc/PID/stat, in ns (USER_HZ is 100 on amd64 and arm64).
const clockTick = 10_000_000

const (
	// maxStackSymbols bounds the symbols of a file, in bytes, that are read while events wait,
	// and maxStackFiles the files whose symbols are kept.
	maxStackSymbols = 64 << 20
	maxStackFiles   = 64
	// maxStackProcesses bounds the processes whose mappings are kept, and maxStackMappings
	// those of one.
	maxStackProcesses = 1024
	maxStackMappings  = 65536
	// maxStackName is what is shown of a function's name, in bytes.
	maxStackName = 256
)

// Stacks names the addresses in stacks. It belongs to one goroutine.
type Stacks struct {
	symbols *kernel.Symbols
	read    time.Time
	core    [2]uint64 // from where to where the code is that is always there
	named   map[uint64]string

	pidNs     uint32 // this process's pid namespace, by inode
	processes map[uint32]*stackProcess
	files     map[[2]uint64]*stackFile
}

// stackProcess is a process, and what code it has mapped.
type stackProcess struct {
	pid      uint32    // as this process sees it; 0: it is gone
	id       [3]uint64 // its start, and where its code and its stack begin: another program has others
	read     time.Time
	mappings []stackMapping // by address
}

// stackMapping is a part of a process's memory with code in it.
type stackMapping struct {
	start, end, offset uint64
	name               string // of the file; [vdso] and the like; or empty
	link               string
	file               *stackFile // nil: it is yet to be opened
}

// stackFile are the functions of a file, by where they begin in it. It may have none.
type stackFile struct{ functions []stackFunction }

type stackFunction struct {
	offset, size uint64
	name         []byte // to the first NUL
}

// NewStacks returns Stacks. The kernel's symbols are only read for the stacks of the kernel.
func NewStacks(kinds tracer.StackKind) (*Stacks, error) {
	s := &Stacks{
		pidNs: ownPidNs(), named: make(map[uint64]string), processes: make(map[uint32]*stackProcess), files: make(map[[2]uint64]*stackFile),
	}
	if kinds&tracer.KernelStack != 0 {
		if err := s.readSymbols(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Stacks) readSymbols() error {
	s.read = time.Now()
	symbols, err := kernel.ReadSymbols()
	if err != nil {
		return err
	}
	s.symbols = symbols
	s.core[0], s.core[1] = symbols.Core()
	clear(s.named)
	return nil
}

// Append appends what to print of the addresses of a stack, the innermost first, each with a
// NUL behind it.
func (s *Stacks) Append(b []byte, kind tracer.StackKind, who *wire.Who, addresses []uint64) []byte {
	if kind == tracer.UserStack {
		return s.appendUser(b, who, addresses)
	}
	begun := false
	for i, a := range addresses {
		name, ok := s.kernel(a, i == 0)
		// The tracing itself is no news.
		if begun = begun || !ok || !isTracing(name); begun {
			b = append(append(b, name...), 0)
		}
	}
	return b
}

// isTracing reports whether a function of the kernel is one by which a hook comes to a
// program: those are the innermost of a stack.
func isTracing(name string) bool {
	if strings.HasSuffix(name, "[bpf]") {
		return true
	}
	for _, prefix := range []string{
		"bpf_trace_run", "__bpf_trace_", "__traceiter_", "trace_call_bpf", "bpf_trampoline_", // tracepoints and trampolines
		"kprobe_", "kretprobe_", "__kretprobe_", "rethook_", "arch_rethook_", "trampoline_handler", // probes
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// kernel returns what to print of an address in the kernel, and whether that has a name. All but
// the innermost are where a call returns to: behind its last byte may be another function.
func (s *Stacks) kernel(address uint64, innermost bool) (string, bool) {
	if name, ok := s.named[address]; ok {
		return name, true
	}
	inside := address
	if !innermost {
		inside--
	}
	// Modules and programs come and go.
	if (inside < s.core[0] || inside >= s.core[1]) && time.Since(s.read) > lookAgain {
		_ = s.readSymbols() // what was read before is kept
	}
	name, offset, module, ok := s.symbols.Find(inside)
	if !ok {
		return fmt.Sprintf("%#x", address), false
	}
	text := fmt.Sprintf("%s+%#x", name, offset+address-inside)
	if module != nil {
		text += fmt.Sprintf(" [%s]", module)
	}
	s.named[address] = text
	return text, true
}

// appendUser is Append for the stack of a process.
func (s *Stacks) appendUser(b []byte, who *wire.Who, addresses []uint64) []byte {
	p := s.process(who)
	for i, a := range addresses {
		inside := a
		if i > 0 {
			inside--
		}
		m := p.mapping(inside)
		if m == nil && time.Since(p.read) > lookAgain {
			p.readMappings() // a library may have been loaded
			m = p.mapping(inside)
		}
		if m == nil || m.name == "" { // made while it runs
			b = append(fmt.Appendf(b, "%#x", a), 0)
			continue
		}
		offset := inside - m.start + m.offset
		if f := s.fileOf(m).function(offset); f != nil {
			b = append(b, f.text()...)
			offset -= f.offset
			b = append(b, '+')
		}
		b = append(fmt.Appendf(b, "%#x [%s]", offset+a-inside, m.name), 0)
	}
	return b
}

// process returns what is known of a process: nothing where it is gone.
func (s *Stacks) process(who *wire.Who) *stackProcess {
	pid := uint32(0)
	switch s.pidNs {
	case initialPidNs:
		pid = who.Pid
	case who.PidNs:
		pid = who.NsPid
	}
	id, ok := identify(pid)
	if !ok || id[0] != (who.Start+uint64(kernel.BootOffset()))/clockTick {
		return &stackProcess{}
	}
	p := s.processes[pid]
	if p == nil || p.id != id {
		if len(s.processes) >= maxStackProcesses {
			clear(s.processes)
		}
		p = &stackProcess{pid: pid, id: id}
		p.readMappings()
		s.processes[pid] = p
	}
	return p
}

// identify returns the id of a stackProcess: fields 22, 26 and 28 of /proc/PID/stat.
func identify(pid uint32) (id [3]uint64, ok bool) {
	if pid == 0 {
		return id, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return id, false
	}
	// The second field is the name, with anything in it, in parentheses.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const first = 3
	for i, n := range []int{22, 26, 28} {
		if n-first >= len(fields) {
			return id, false
		}
		if id[i], err = strconv.ParseUint(fields[n-first], 10, 64); err != nil {
			return id, false
		}
	}
	return id, true
}

// readMappings reads what code the process has mapped.
func (p *stackProcess) readMappings() {
	p.read, p.mappings = time.Now(), nil
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan() && len(p.mappings) < maxStackMappings; {
		// 7f0000000000-7f0000001000 r-xp 00000000 08:01 1234    /usr/lib/libssl.so.3
		var m stackMapping
		var access string
		line := lines.Text()
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x", &m.start, &m.end, &access, &m.offset); n < 4 || !strings.Contains(access, "x") {
			continue
		}
		if at := strings.IndexAny(line, "/["); at >= 0 {
			m.name = strings.TrimSuffix(line[at:], " (deleted)")
			if m.name[0] == '/' {
				m.name = path.Base(m.name)
				m.link = fmt.Sprintf("/proc/%d/map_files/%x-%x", p.pid, m.start, m.end)
			} else {
				m.name = strings.Trim(m.name, "[]")
			}
		}
		p.mappings = append(p.mappings, m)
	}
}

// mapping returns the mapping that an address is in, nil where there is none.
func (p *stackProcess) mapping(address uint64) *stackMapping {
	i, _ := slices.BinarySearchFunc(p.mappings, address, func(m stackMapping, address uint64) int {
		return cmp.Compare(m.end, address+1)
	})
	if i < len(p.mappings) && p.mappings[i].start <= address {
		return &p.mappings[i]
	}
	return nil
}

// fileOf returns the functions of a mapped file.
func (s *Stacks) fileOf(m *stackMapping) *stackFile {
	if m.file == nil {
		m.file = s.open(m.link)
	}
	return m.file
}

// open reads the functions of a file: none where it is no program or library, or cannot be read.
func (s *Stacks) open(link string) *stackFile {
	file := &stackFile{}
	if link == "" {
		return file
	}
	o, st, err := openFound(link, unix.S_IFREG, func() (int, error) { return openPath(link) })
	if err != nil {
		return file
	}
	defer o.Close()
	id := [2]uint64{st.Dev, st.Ino}
	if have := s.files[id]; have != nil {
		return have
	}
	if len(s.files) >= maxStackFiles {
		clear(s.files)
	}
	s.files[id] = file
	// What was read until then remains.
	_ = eachFunction(o, st.Size, maxStackSymbols, func(name []byte, offset, size uint64) {
		file.functions = append(file.functions, stackFunction{offset, size, name})
	})
	slices.SortStableFunc(file.functions, func(a, b stackFunction) int { return cmp.Compare(a.offset, b.offset) })
	return file
}

// function returns the function that the code at an offset in the file is of, nil for none. Of
// several at one place it is the first.
func (f *stackFile) function(offset uint64) *stackFunction {
	i, found := slices.BinarySearchFunc(f.functions, offset, func(f stackFunction, offset uint64) int {
		return cmp.Compare(f.offset, offset)
	})
	if !found {
		if i--; i < 0 {
			return nil
		}
	}
	for i > 0 && f.functions[i-1].offset == f.functions[i].offset {
		i--
	}
	if at := &f.functions[i]; at.size == 0 || offset-at.offset < at.size {
		return at
	}
	return nil
}

// text returns the function's name.
func (f *stackFunction) text() []byte {
	name := f.name[:min(len(f.name), maxStackName)]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return name
}
