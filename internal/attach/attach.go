// SPDX-License-Identifier: Apache-2.0

// Package attach brings tracers into the kernel: it sets the constants of their
// programs, loads them on a shared ring, picks a hook that this kernel takes, and
// explains what it does not take. When a Session's file descriptors are gone, so
// is everything that it made: nothing is pinned, and no probe is registered by
// name.
package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// Filter is what the programs let pass. The zero Filter lets everything pass.
type Filter struct {
	PID, PPID uint32  // thread group ids, as this process sees them; 0: any
	TID       uint32  // thread id, as this process sees it; 0: any
	UID       *uint32 // real user id; nil: any
	Comm      string  // the task's name, at most 15 bytes; empty: any
	Cgroup    string  // directory of a v2 cgroup: its tasks and those of the cgroups below it
	Follow    bool    // only processes given to Session.Follow, and their descendants
	// Tree is the process that will be given to Session.FollowTree: the files of uprobes are
	// looked for where it and its descendants have them. 0: where this process has them.
	Tree uint32
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
	Lineage      bool     // note which process made which: see Session.Lineage
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

	maps     map[string]*ebpf.Map // those that all objects share
	cgroupID uint64               // of Filter.Cgroup
	rings    []*ebpf.Map          // those that there were at the beginning; the first is the default ring
	cgroups  *cgroupRings         // of the topology PerCgroup
	follow   *object              // what follows forks, for Filter.Follow
	lineage  *Lineage             // for Options.Lineage
	opts     Options
	found    map[*tracer.Hook]found // for its uprobes
	types    *btf.Spec              // from Options.KernelBTF; nil: the running kernel's
	// Of the tracers: their objects, until they are loaded, and the kernel's types for all of them.
	objects     map[*tracer.Tracer]*ebpf.CollectionSpec
	tracerTypes *btf.Spec
	events      *os.File      // of tracefs, once a classic tracepoint was asked for
	nothing     *ebpf.Program // for iterate, once it was asked for
}

// Loaded is one tracer of a Session.
type Loaded struct {
	Tracer   *tracer.Tracer
	Hook     tracer.HookKind // the one taken
	Attempts []Attempt       // what was tried, in order; the last one is the one taken
	// Blind says which of the processes that are traced have no file that the uprobes could
	// be attached in, and why, where others have.
	Blind []string

	object *object
}

// Attempt is one hook that was tried.
type Attempt struct {
	Kind     tracer.HookKind
	Variant  string   // see tracer.Tracer
	Programs []string // ELF sections: what was to be attached, and where; none where it was not tried
	Err      error    // nil: it was taken
}

// String names the hook.
func (a *Attempt) String() string {
	if len(a.Programs) == 0 {
		return string(a.Kind)
	}
	if a.Variant != "" {
		return fmt.Sprintf("%s by %s (%s)", a.Kind, a.Variant, strings.Join(a.Programs, ", "))
	}
	return fmt.Sprintf("%s (%s)", a.Kind, strings.Join(a.Programs, ", "))
}

// Outcome says what became of it, and why: forced, that this kind was asked for.
func (a *Attempt) Outcome(forced bool) string {
	switch {
	case a.Err != nil:
		return a.Err.Error()
	case forced:
		return "taken: asked for"
	case a.Kind == tracer.KprobeMulti:
		return "taken: this kernel may preempt programs of tracepoints, and skips them for other tasks meanwhile; it preempts none of these"
	case slices.ContainsFunc(a.Programs, func(section string) bool { return strings.HasSuffix(section, allExits) }):
		return "taken: the first that this kernel takes; every system call of the machine pays for it, as this kernel may preempt programs of those of some calls"
	}
	return "taken: the first that this kernel takes"
}

// Open loads tracers and attaches them: events flow into the ring once Enable is called.
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
	objects := make(chan error, 1)
	go func() { objects <- s.readObjects(tracers) }() // while the kernel finds memory for the rings
	// Before 5.11 maps count against RLIMIT_MEMLOCK. Where raising it fails they
	// may still fit, so the error is told only when they do not.
	memlock := rlimit.RemoveMemlock()
	err = s.makeMaps()
	if err := errors.Join(err, <-objects); err != nil {
		return nil, errors.Join(err, memlock)
	}
	if err := s.initialPids(); err != nil {
		return nil, err
	}
	find, err := s.findFiles(tracers, opts.Filter)
	defer find.close()
	if err != nil {
		return nil, err
	}
	if opts.Filter.Follow {
		if err := s.openFollow(); err != nil {
			return nil, err
		}
	}
	if opts.Lineage {
		if s.lineage, err = s.openLineage(); err != nil {
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

// readObjects reads the objects of tracers, and those of the kernel's types that any of them
// wants: to look for them all takes as long as for those of one.
func (s *Session) readObjects(tracers []*tracer.Tracer) error {
	s.objects = make(map[*tracer.Tracer]*ebpf.CollectionSpec, len(tracers))
	var names []string
	for _, t := range tracers {
		spec, err := t.Load()
		if err != nil {
			return fmt.Errorf("reading the object of %s: %w", t.Name, err)
		}
		s.objects[t] = spec
		if names, err = appendTypeNames(names, spec); err != nil {
			return err
		}
	}
	s.tracerTypes = s.types
	if s.types != nil {
		return nil
	}
	var err error
	s.tracerTypes, err = kernel.Types(names)
	return err
}

// appendTypeNames appends the names of the types that an object has.
func appendTypeNames(names []string, spec *ebpf.CollectionSpec) ([]string, error) {
	for t, err := range spec.Types.All() {
		if err != nil {
			return nil, fmt.Errorf("reading the types of the embedded object: %w", err)
		}
		if name := t.TypeName(); name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

// object returns a tracer's object, which the caller may change.
func (s *Session) object(t *tracer.Tracer) (*ebpf.CollectionSpec, error) {
	if spec := s.objects[t]; spec != nil {
		delete(s.objects, t)
		return spec, nil
	}
	spec, err := t.Load() // once more, for another hook
	if err != nil {
		return nil, fmt.Errorf("reading the object of %s: %w", t.Name, err)
	}
	return spec, nil
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
	switchMap      = ".data.switch"
	booksMap       = "rb_books"
	// A map whose name begins so has one slot for each CPU that the machine may have.
	scratchMap = "rb_scratch"
)

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
	spec.Maps[switchMap].Flags |= unix.BPF_F_MMAPABLE // as the library makes maps of variables
	if err := s.create(spec.Maps[switchMap], 1); err != nil {
		return fmt.Errorf("creating the switch: %w", err)
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
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return fmt.Errorf("reading the id of the cgroup %s: %w", dir, err)
		}
		s.cgroupID = st.Ino
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

// found is where the uprobes of a hook are attached, or why they cannot be.
type found struct {
	places []place
	blind  []string // see Loaded.Blind
	err    error
}

// findFiles looks for the files of all uprobes. What they say of those must be known before
// anything is attached. The finder, nil where none was needed, has the files open.
func (s *Session) findFiles(tracers []*tracer.Tracer, filter Filter) (find *finder, err error) {
	s.found = make(map[*tracer.Hook]found)
	specs := make(map[*tracer.Hook]*ebpf.CollectionSpec)
	wanted := make(map[string]bool)
	for _, t := range tracers {
		for hook := range s.hooks(t) {
			if hook.Kind != tracer.Uprobe {
				continue
			}
			specs[hook] = s.objects[t]
			for _, p := range hook.Programs {
				for _, symbol := range slices.Concat([]string{specs[hook].Programs[p.Name].AttachTo}, p.Also, p.AlsoIf) {
					wanted[symbol] = true
				}
			}
		}
	}
	if len(specs) == 0 {
		return nil, nil
	}
	if find, err = newFinder(filter, wanted); err != nil {
		return nil, err
	}
	for _, t := range tracers {
		library, _ := s.param(t, tracer.LibraryParam)
		hopeless := 0
		for hook := range s.hooks(t) {
			if hook.Kind != tracer.Uprobe {
				continue
			}
			var f found
			if f.places, f.blind, f.err = find.places(specs[hook].Programs, hook.Programs, library); f.err != nil {
				hopeless++
			}
			s.found[hook] = f
		}
		if hopeless > 0 && hopeless == len(slices.Collect(s.hooks(t))) && !s.opts.SkipHookless {
			_, err := s.open(t, 0) // which says so, and attaches nothing
			return find, err
		}
	}
	return find, nil
}

// hooks are those of a tracer that the options allow.
func (s *Session) hooks(t *tracer.Tracer) iter.Seq[*tracer.Hook] {
	return func(yield func(*tracer.Hook) bool) {
		for i := range t.Hooks {
			hook := &t.Hooks[i]
			if hook.Failed == s.opts.Failed && (s.opts.Hook == "" || s.opts.Hook == hook.Kind) && !yield(hook) {
				return
			}
		}
	}
}

// open loads and attaches one tracer: the first hook that works.
func (s *Session) open(t *tracer.Tracer, id uint16) (*Loaded, error) {
	l := &Loaded{Tracer: t}
	for hook := range s.hooks(t) {
		if hook.Kind == tracer.KprobeMulti && !mayPreempt(kernel.Release()) {
			l.Attempts = append(l.Attempts, Attempt{Kind: hook.Kind, Err: errPreempts})
			continue
		}
		spec, err := s.object(t)
		if err != nil {
			return nil, err
		}
		a := Attempt{Kind: hook.Kind, Variant: t.Variant(hook)}
		for _, p := range hook.Programs {
			elf := spec.Programs[p.Name]
			for _, place := range placesOf(&p, elf) {
				a.Programs = append(a.Programs, section(hook.Kind, &p, elf.SectionName, place))
			}
		}
		a.Programs = slices.Compact(a.Programs) // where those of some calls are at all of them
		if err := s.setConstants(spec, t, id); err != nil {
			return nil, err
		}
		f := s.found[hook]
		if a.Err = f.err; a.Err == nil {
			l.object, a.Err = s.load(spec, *hook, t.Enums, f.places, s.tracerTypes)
		}
		switch {
		case exhausted(a.Err): // which says nothing of the hook
			return nil, fmt.Errorf("%s cannot be traced now: %w", t.Name, advise(a.Err))
		case a.Err != nil:
			a.Err = explain(hook.Kind, a.Err)
		case hook.Kind == tracer.Uprobe:
			a.Programs, l.Blind = l.object.files, f.blind
		default:
			a.Programs = slices.DeleteFunc(a.Programs, func(section string) bool {
				return slices.Contains(l.object.absent, section)
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
		byFunctionConstant: false, // until it is known: see toFunctions
	}
}

// Constants returns the names of the constants that every tracer's object must
// have, as bpf/include/rbtrace/ring.h, context.h and filter.h declare them.
func Constants() []string {
	return slices.Sorted(maps.Keys(new(Options).constants(0)))
}

// OptionalConstants returns the names of those that only objects have with events of tasks that are not the current
// ones, or with programs of system calls: see other.h and syscall.h.
func OptionalConstants() []string {
	return []string{cgroupConstant, ownCallsConstant, ownCallCountConstant, ofAllCallsConstant}
}

// param returns the value of a tracer's own flag, and whether it was given.
func (s *Session) param(t *tracer.Tracer, name string) (string, bool) {
	if v, ok := s.opts.Params[t.Name+"."+name]; ok {
		return v, true
	}
	v, ok := s.opts.Params[name]
	return v, ok
}

// cgroupConstant is the constant of bpf/include/rbtrace/other.h.
const cgroupConstant = "rb_cgroup_id"

func (s *Session) setConstants(spec *ebpf.CollectionSpec, t *tracer.Tracer, id uint16) error {
	constants := s.opts.constants(id)
	for _, p := range t.Params {
		v, ok := s.param(t, p.Name)
		if !ok {
			v = p.Default
		}
		if v == "" && !ok {
			continue
		}
		more, err := p.Constants(v)
		if err != nil {
			return fmt.Errorf("--%s: %w", p.Name, err)
		}
		maps.Copy(constants, more)
	}
	if v := spec.Variables[cgroupConstant]; v != nil {
		constants[cgroupConstant] = s.cgroupID
	}
	if err := set(spec, constants); err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	return nil
}

// set sets constants of an object. A uint64 takes the size that the constant has.
func set(spec *ebpf.CollectionSpec, constants map[string]any) error {
	for name, value := range constants {
		v := spec.Variables[name]
		if v == nil {
			return fmt.Errorf("the object has no constant %s", name)
		}
		if n, ok := value.(uint64); ok {
			value = sized(n, v.Size())
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
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

// Enable begins the flow of events, of all tracers at the same moment.
func (s *Session) Enable() error {
	for _, l := range s.Tracers {
		l.object.turned(true)
	}
	return s.turn(1)
}

// Disable ends it, at once, where to detach takes its time. What happens from here on is in no
// books. Programs that are under way may still finish a record: see kernel.Settle.
func (s *Session) Disable() error {
	if err := s.turn(0); err != nil {
		return err
	}
	for _, l := range s.Tracers {
		l.object.turned(false)
	}
	if s.cgroups != nil {
		s.cgroups.unwatch()
	}
	return nil
}

// turn sets the switch by a write to its memory: a call of bpf() would be an event itself, as
// would the questions about what was missed.
func (s *Session) turn(on uint32) error {
	memory, err := s.maps[switchMap].Memory()
	if err != nil {
		return fmt.Errorf("mapping the switch: %w", err)
	}
	if _, err := memory.WriteAt(binary.NativeEndian.AppendUint32(nil, on), 0); err != nil {
		return fmt.Errorf("switching the programs: %w", err)
	}
	return nil
}

// Close detaches and frees everything.
func (s *Session) Close() {
	var wg sync.WaitGroup
	for _, l := range s.Tracers {
		wg.Go(l.object.close)
	}
	wg.Wait()
	if s.follow != nil {
		s.follow.close()
	}
	if s.cgroups != nil {
		s.cgroups.close()
	}
	if s.lineage != nil {
		s.lineage.object.close()
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
	if s.nothing != nil {
		s.nothing.Close()
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
