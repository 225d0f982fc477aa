// SPDX-License-Identifier: Apache-2.0

// Package attach brings tracers into the kernel: it sets the constants of their
// programs, loads them on a shared ring, picks a hook that this kernel takes, and
// explains what it does not take. When a Session's file descriptors are gone, so
// is everything that it made: nothing is pinned, and no probe is registered by
// name.
package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// Filter is what the programs let pass. The zero Filter lets everything pass.
type Filter struct {
	PID, PPID uint32  // thread group ids in the initial namespace; 0: any
	TID       uint32  // thread id in the initial namespace; 0: any
	UID       *uint32 // real user id; nil: any
	Comm      string  // the task's name, at most 15 bytes; empty: any
	Cgroup    string  // directory of a v2 cgroup: its tasks and those of the cgroups below it
	Follow    bool    // only processes given to Session.Follow, and their descendants
}

// Options say how a Session is made.
type Options struct {
	Filter Filter
	Failed bool            // the failed calls instead
	Hook   tracer.HookKind // only this kind; empty: the first that works
	// Params are the values of the tracers' own flags, by Param.Name or, of one of
	// several tracers, by Tracer.Name, a dot, and that.
	Params map[string]string
	// SkipHookless leaves out tracers that no hook works for, as long as one is left:
	// see Session.Skipped.
	SkipHookless bool
	RingSize     uint32   // of each ring, bytes; see ringbuf.ValidSize
	Topology     Topology // which ring an event goes to
	Rings        uint32   // how many, of the topology Hash
	Wakeup       Wakeup   // when a record wakes the reader
	KernelBTF    string   // file with the kernel's types, where it has none itself
	MaxFollows   uint32   // processes that can be followed at once; 0: 65536
}

// WakeupPolicy is enum rb_wakeup_policy of bpf/include/rbtrace/ring.h.
type WakeupPolicy uint32

// The policies.
const (
	WakeupAuto  WakeupPolicy = iota // the kernel's own: a reader that has caught up is woken
	WakeupEvery                     // each record wakes (BPF_RB_FORCE_WAKEUP)
	WakeupBytes                     // once Wakeup.Bytes wait; others do not (BPF_RB_NO_WAKEUP)
	WakeupNever                     // none does: the reader looks by itself
)

// Wakeup says when a record wakes the reader of the ring.
type Wakeup struct {
	Policy WakeupPolicy
	Bytes  uint64 // of WakeupBytes
}

// maxFollows bounds the followed processes: more than a machine usually has.
const maxFollows = 1 << 16

// Session holds tracers that are loaded and attached to one ring. Close it.
type Session struct {
	Tracers []*Loaded
	// Skipped says why tracers were left out, which Options.SkipHookless allows.
	Skipped []*NoHookError

	maps    map[string]*ebpf.Map // those that all objects share
	rings   []*ebpf.Map          // those that there were at the beginning; the first is the default ring
	cgroups *cgroupRings         // of the topology PerCgroup
	follow  *object              // what follows forks, for Filter.Follow
	opts    Options
	types   *btf.Spec // from Options.KernelBTF; nil: the running kernel's
	events  *os.File  // of tracefs, once a classic tracepoint was asked for
}

// Loaded is one tracer of a Session.
type Loaded struct {
	Tracer   *tracer.Tracer
	Hook     tracer.HookKind // the one taken
	Attempts []Attempt       // what was tried, in order; the last one is the one taken

	object *object
}

// Attempt is one hook that was tried.
type Attempt struct {
	Kind     tracer.HookKind
	Programs []string // ELF sections: what was to be attached, and where
	Err      error    // nil: it was taken
}

// Open loads tracers and attaches them: events flow into the ring from here on.
// The error says what a person can do about it, as far as that is known.
func Open(tracers []*tracer.Tracer, opts Options) (_ *Session, err error) {
	if err := kernel.CheckVersion(kernel.Release()); err != nil {
		return nil, err
	}
	if err := checkTopology(opts.Topology, kernel.Release()); err != nil {
		return nil, err
	}
	if err := kernel.CheckCapabilities(); err != nil {
		return nil, err
	}
	s := &Session{opts: opts}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.types, err = typesFrom(opts.KernelBTF); err != nil {
		return nil, err
	}
	// Before 5.11 maps count against RLIMIT_MEMLOCK. Where raising it fails they
	// may still fit, so the error is told only when they do not.
	memlock := rlimit.RemoveMemlock()
	if err := s.makeMaps(); err != nil {
		return nil, errors.Join(err, memlock)
	}
	if opts.Filter.Follow {
		if err := s.openFollow(); err != nil {
			return nil, err
		}
	}
	for i, t := range tracers {
		l, err := s.open(t, uint16(len(s.Tracers)))
		noHook, ok := errors.AsType[*NoHookError](err)
		if ok && opts.SkipHookless && (len(s.Tracers) > 0 || i < len(tracers)-1) {
			s.Skipped = append(s.Skipped, noHook)
			continue
		}
		if err != nil {
			return nil, err
		}
		s.Tracers = append(s.Tracers, l)
	}
	return s, nil
}

// kernelTypes returns the types that the object of spec is relocated against:
// those of the file, or the running kernel's.
func (s *Session) kernelTypes(spec *ebpf.CollectionSpec) (*btf.Spec, error) {
	if s.types != nil {
		return s.types, nil
	}
	var names []string
	for t, err := range spec.Types.All() {
		if err != nil {
			return nil, fmt.Errorf("reading the types of the embedded object: %w", err)
		}
		if name := t.TypeName(); name != "" {
			names = append(names, name)
		}
	}
	return kernel.Types(names)
}

// typesFrom returns the types in a file, nil where there is none.
func typesFrom(file string) (*btf.Spec, error) {
	if file != "" {
		spec, err := btf.LoadSpec(file)
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's types from %s: %w", file, err)
		}
		return spec, nil
	}
	if _, err := os.Stat(kernel.BTFPath); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this kernel (%s) does not carry its types (no %s): give them with --btf FILE (BTF, as in a vmlinux with debug information or from btfhub), or boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
			kernel.Release(), kernel.BTFPath)
	}
	return nil, nil
}

// The maps that all objects of a session share, by the names that
// bpf/include/rbtrace gives them.
const (
	ringMap        = "rb_ring"
	ringsMap       = "rb_rings"
	cgroupRingsMap = "rb_cgroup_rings"
	treeMap        = "rb_tree"
	cgroupMap      = "rb_cgroup"
	booksMap       = "rb_books"
	// A map whose name begins so has one slot for each CPU that the machine may have.
	scratchMap = "rb_scratch"
)

// tracepointSection is how the ELF section of a classic tracepoint begins.
const tracepointSection = "tracepoint/"

func (s *Session) makeMaps() error {
	spec, err := wire.LoadFollow()
	if err != nil {
		return fmt.Errorf("reading the embedded object: %w", err)
	}
	s.maps = make(map[string]*ebpf.Map)
	if err := s.makeRings(spec.Maps); err != nil {
		return err
	}
	follows := uint32(1)
	if s.opts.Filter.Follow {
		if follows = s.opts.MaxFollows; follows == 0 {
			follows = maxFollows
		}
	}
	if err := s.create(spec.Maps[treeMap], follows); err != nil {
		return fmt.Errorf("creating the map of followed processes: %w", err)
	}
	if err := s.create(spec.Maps[cgroupMap], 1); err != nil {
		return fmt.Errorf("creating the map of the cgroup: %w", err)
	}
	if dir := s.opts.Filter.Cgroup; dir != "" {
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("opening the cgroup: %w", err)
		}
		defer f.Close()
		if err := s.maps[cgroupMap].Put(uint32(0), uint32(f.Fd())); err != nil {
			return fmt.Errorf("%s is no cgroup of the unified (v2) hierarchy: %w", dir, err)
		}
	}
	return nil
}

// create makes a map that all objects share.
func (s *Session) create(spec *ebpf.MapSpec, entries uint32) error {
	spec.MaxEntries = entries
	preallocate(spec, kernel.Release())
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	s.maps[spec.Name] = m
	return nil
}

// open loads and attaches one tracer: the first hook that works.
func (s *Session) open(t *tracer.Tracer, id uint16) (*Loaded, error) {
	l := &Loaded{Tracer: t}
	for _, hook := range t.Hooks {
		if hook.Failed != s.opts.Failed || s.opts.Hook != "" && s.opts.Hook != hook.Kind {
			continue
		}
		spec, err := t.Load()
		if err != nil {
			return nil, fmt.Errorf("reading the object of %s: %w", t.Name, err)
		}
		a := Attempt{Kind: hook.Kind}
		for _, p := range hook.Programs {
			a.Programs = append(a.Programs, spec.Programs[p.Name].SectionName)
			for _, place := range slices.Concat(p.Also, p.AlsoIf) {
				a.Programs = append(a.Programs, tracepointSection+place)
			}
		}
		if err := s.setConstants(spec, t, id); err != nil {
			return nil, err
		}
		l.object, a.Err = s.load(spec, hook)
		if a.Err != nil {
			a.Err = explain(hook.Kind, a.Err)
		} else {
			a.Programs = slices.DeleteFunc(a.Programs, func(section string) bool {
				return slices.Contains(l.object.absent, strings.TrimPrefix(section, tracepointSection))
			})
		}
		l.Attempts = append(l.Attempts, a)
		if a.Err == nil {
			l.Hook = hook.Kind
			return l, nil
		}
	}
	return nil, &NoHookError{Tracer: t, Forced: s.opts.Hook, Attempts: l.Attempts}
}

// constants are those that every object has, for the tracer with that id.
func (o *Options) constants(id uint16) map[string]any {
	f := o.Filter
	uid := uint32(0)
	if f.UID != nil {
		uid = *f.UID
	}
	var comm [16]byte
	copy(comm[:15], f.Comm)
	return map[string]any{
		"rb_tracer": id, "rb_failed": o.Failed,
		"rb_topology": uint32(o.Topology), "rb_ring_count": max(o.Rings, 1),
		"rb_wakeup": uint32(o.Wakeup.Policy), "rb_wakeup_bytes": o.Wakeup.Bytes,
		"rb_pid": f.PID, "rb_tid": f.TID, "rb_ppid": f.PPID,
		"rb_by_uid": f.UID != nil, "rb_uid": uid,
		"rb_by_comm": f.Comm != "", "rb_comm": comm,
		"rb_by_cgroup": f.Cgroup != "", "rb_by_tree": f.Follow,
	}
}

// Constants returns the names of the constants that every tracer's object must
// have, as bpf/include/rbtrace/ring.h and filter.h declare them.
func Constants() []string {
	return slices.Sorted(maps.Keys(new(Options).constants(0)))
}

func (s *Session) setConstants(spec *ebpf.CollectionSpec, t *tracer.Tracer, id uint16) error {
	constants := s.opts.constants(id)
	for _, p := range t.Params {
		v, ok := s.opts.Params[t.Name+"."+p.Name]
		if !ok {
			v, ok = s.opts.Params[p.Name]
		}
		if !ok {
			continue
		}
		more, err := p.Constants(v)
		if err != nil {
			return fmt.Errorf("--%s: %w", p.Name, err)
		}
		maps.Copy(constants, more)
	}
	for name, value := range constants {
		v := spec.Variables[name]
		if v == nil {
			return fmt.Errorf("the object of %s has no constant %s", t.Name, name)
		}
		if n, ok := value.(uint64); ok {
			value = sized(n, v.Size())
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("setting %s of %s: %w", name, t.Name, err)
		}
	}
	return nil
}

// sized returns n as an integer of size bytes.
func sized(n uint64, size uint32) any {
	switch size {
	case 1:
		return uint8(n)
	case 2:
		return uint16(n)
	case 4:
		return uint32(n)
	}
	return n
}

// Detach ends the flow of events. Programs that are under way may still finish a
// record: see kernel.Settle.
func (s *Session) Detach() {
	for _, l := range s.Tracers {
		l.object.detach()
	}
	if s.follow != nil {
		s.follow.detach()
	}
	if s.cgroups != nil {
		s.cgroups.detach()
	}
}

// Close detaches and frees everything.
func (s *Session) Close() {
	for _, l := range s.Tracers {
		l.object.close()
	}
	if s.follow != nil {
		s.follow.close()
	}
	if s.cgroups != nil {
		s.cgroups.close()
	}
	for _, m := range s.rings {
		m.Close() // for the second time, where the cgroup's is closed
	}
	for _, m := range s.maps {
		m.Close()
	}
	if s.events != nil {
		s.events.Close()
	}
}

// Books are the books of a tracer: one entry for each CPU that the machine may
// have.
type Books struct {
	CPU []wire.Ledger
	// Missed are the hits, wanted or not, for which the kernel did not run the
	// program: because the CPU was inside it already (recursion_misses of the
	// program), or because a kretprobe had too many calls under way (told by the
	// kernel since 6.7). They are part of no CPU's entry.
	Missed uint64
}

// Books reads the tracer's books from the kernel.
func (l *Loaded) Books() (Books, error) {
	var b Books
	if err := l.object.Maps[booksMap].Lookup(uint32(0), &b.CPU); err != nil {
		return b, fmt.Errorf("reading the ledger of %s: %w", l.Tracer.Name, err)
	}
	b.Missed = l.object.missed()
	return b, nil
}
