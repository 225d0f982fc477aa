// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// object is one loaded BPF object with its programs attached.
type object struct {
	*ebpf.Collection
	links []io.Closer
	// Those whose misses are hits missed.
	counting      []*ebpf.Program
	countingLinks []link.Link
	iters         []*link.Iter // those of links that prepare
	absent        []string     // the places of Program.AlsoIf that this kernel does not have
	files         []string     // of uprobes: which functions of which files, as Attempt.Programs has them
	// What had been missed when the tracer was enabled, and when it was disabled.
	missedBefore uint64
	missedAtEnd  *uint64
}

// loadOwn loads and attaches all programs of an object that is no tracer's. special are those of which
// there is something to say.
func (s *Session) loadOwn(read func() (*ebpf.CollectionSpec, error), special ...tracer.Program) (*object, error) {
	spec, err := read()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded object: %w", err)
	}
	types := s.types
	if types == nil {
		names, err := appendTypeNames(nil, spec)
		if err != nil {
			return nil, err
		}
		if types, err = kernel.Types(names); err != nil {
			return nil, err
		}
	}
	hook := tracer.Hook{Kind: tracer.Tracepoint, Programs: special}
	for name := range spec.Programs {
		if !slices.ContainsFunc(special, func(p tracer.Program) bool { return p.Name == name }) {
			hook.Programs = append(hook.Programs, tracer.Program{Name: name})
		}
	}
	if mayPreempt(kernel.Release()) && slices.ContainsFunc(hook.Programs, func(p tracer.Program) bool { return onFunction(&p, spec.Programs[p.Name]) }) {
		multi := hook
		multi.Kind = tracer.KprobeMulti
		if o, err := s.load(spec.Copy(), multi, nil, nil, types); err == nil {
			return o, nil
		}
	}
	return s.load(spec, hook, nil, nil, types)
}

// load loads the programs of hook, and no others, on the session's maps, and
// attaches them: uprobes in these places. enums are those whose names they want to know,
// types the kernel's.
func (s *Session) load(spec *ebpf.CollectionSpec, hook tracer.Hook, enums []tracer.Enum, places []place, types *btf.Spec) (_ *object, err error) {
	wanted := make(map[string]*ebpf.ProgramSpec, len(hook.Programs))
	for _, p := range hook.Programs {
		if wanted[p.Name] = spec.Programs[p.Name]; wanted[p.Name] == nil {
			return nil, fmt.Errorf("the object has no program %s", p.Name)
		}
	}
	spec.Programs = wanted
	maps.DeleteFunc(wanted, func(name string, p *ebpf.ProgramSpec) bool { // its function need not be there
		return isUprobe(p) && !slices.ContainsFunc(places, func(p place) bool { return p.program == name })
	})
	switch {
	case hook.Kind == tracer.KprobeMulti:
		err = toFunctions(spec, hook.Programs)
	case mayPreempt(kernel.Release()):
		err = toAllCalls(spec, hook.Programs)
	}
	if err != nil {
		return nil, err
	}
	dropMaps(spec)
	for _, m := range spec.Maps {
		preallocate(m, kernel.Release())
	}

	shared := maps.Clone(s.maps)
	shared[ringMap] = s.rings[0] // the default ring
	for name, m := range shared {
		if spec.Maps[name] == nil {
			delete(shared, name)
			continue
		}
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	for name, m := range spec.Maps {
		if !strings.HasPrefix(name, scratchMap) {
			continue
		}
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return nil, fmt.Errorf("counting the CPUs: %w", err)
		}
		m.MaxEntries = uint32(cpus)
	}
	for _, e := range enums {
		v := spec.Variables[e.Const]
		if v == nil {
			return nil, fmt.Errorf("the object has no constant %s", e.Const)
		}
		if err := v.Set(e.Constant(types, v.Size())); err != nil {
			return nil, fmt.Errorf("setting %s: %w", e.Const, err)
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: shared,
		Programs:        ebpf.ProgramOptions{KernelTypes: types},
	})
	if err != nil {
		return nil, fmt.Errorf("loading: %w", err)
	}
	o := &object{Collection: c}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	if err := o.attachUprobes(spec, places); err != nil {
		return nil, err
	}
	for _, p := range hook.Programs {
		if wanted[p.Name] == nil {
			continue
		}
		if s.loses(&p) {
			o.counting = append(o.counting, c.Programs[p.Name])
		}
		at := spec.Programs[p.Name]
		if isUprobe(at) {
			continue
		}
		if at.AttachType == ebpf.AttachTraceKprobeMulti {
			if err := s.attachFunctions(o, &p, at); err != nil {
				return nil, fmt.Errorf("attaching %s: %w", p.Name, err)
			}
			continue
		}
		for i, place := range placesOf(&p, at) {
			l, err := s.attach(c.Programs[p.Name], at, place)
			if i > len(p.Also) && errors.Is(err, errNoPlace) {
				o.absent = append(o.absent, section(hook.Kind, &p, at.SectionName, place))
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("attaching %s to %s: %w", p.Name, place, err)
			}
			o.add(l, s.loses(&p))
			if iter, ok := l.(*link.Iter); ok && p.Prepares {
				o.iters = append(o.iters, iter)
			}
		}
	}
	if !s.opts.Filter.Follow { // else FollowTree, when it is known who is wanted
		err = o.lookBefore()
	}
	return o, err
}

// add takes a link of the object's. counts says that what the kernel misses at it are hits missed.
func (o *object) add(l io.Closer, counts bool) {
	o.links = append(o.links, l)
	if l, ok := l.(link.Link); ok && counts {
		o.countingLinks = append(o.countingLinks, l)
	}
}

// lookBefore lets the programs of iterators see what was there before the session.
func (o *object) lookBefore() error {
	for _, iter := range o.iters {
		if err := runIter(iter); err != nil {
			return fmt.Errorf("looking at what is there: %w", err)
		}
	}
	return nil
}

// runIter runs the program of an iterator, which writes nothing, for all that it is about.
func runIter(iter *link.Iter) error {
	r, err := iter.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		_, err = io.Copy(io.Discard, r)
		// The kernel pauses after a million (bpf_seq_read(), kernel/bpf/bpf_iter.c).
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
}

// loses reports whether an event may be lost where the kernel does not run a program.
func (s *Session) loses(p *tracer.Program) bool {
	return !p.Prepares && (!p.ForFilters || s.opts.Filter != Filter{})
}

// preallocate lets the kernel allocate the elements of a hash when it is made, not
// when a program adds one, where that matters: before 6.1 a program of a tracepoint
// could find the allocator under way, and the kernel warns of that, with a stack
// trace in its log, when such a program is loaded (check_map_prealloc,
// kernel/bpf/verifier.c).
func preallocate(m *ebpf.MapSpec, release string) {
	since := kernel.Version{Major: 6, Minor: 1}
	if v, err := kernel.ParseVersion(release); m.Type == ebpf.Hash && err == nil && v.Less(since) {
		m.Flags &^= unix.BPF_F_NO_PREALLOC
	}
}

// dropMaps removes the maps that no program of spec refers to, which would be
// created all the same. Those of variables stay.
func dropMaps(spec *ebpf.CollectionSpec) {
	used := make(map[string]bool)
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.IsLoadFromMap() {
				used[ins.Reference()] = true
			}
		}
	}
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool {
		return !used[name] && !strings.HasPrefix(name, ".")
	})
}

func (s *Session) attach(p *ebpf.Program, spec *ebpf.ProgramSpec, place string) (io.Closer, error) {
	switch spec.Type {
	case ebpf.RawTracepoint:
		return attachRaw(p, place)
	case ebpf.Tracing:
		if spec.AttachType == ebpf.AttachTraceIter {
			return link.AttachIter(link.IterOptions{Program: p})
		}
		return link.AttachTracing(link.TracingOptions{Program: p})
	case ebpf.TracePoint:
		return s.attachTracepoint(p, place)
	case ebpf.Kprobe:
		// By way of this, the probe lives as long as its file descriptor. The other
		// way, kprobe_events in tracefs, leaves it behind when rbtrace is killed.
		if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err != nil {
			return nil, fmt.Errorf("the kernel does not offer kprobes to perf_event_open: %w", ebpf.ErrNotSupported)
		}
		if strings.HasPrefix(spec.SectionName, "kretprobe/") {
			return link.Kretprobe(place, p, nil)
		}
		return link.Kprobe(place, p, nil)
	}
	return nil, fmt.Errorf("programs of type %s are not attached here", spec.Type)
}

func attachRaw(p *ebpf.Program, tracepoint string) (io.Closer, error) {
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: p})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoPlace, err)
	}
	if errors.Is(err, unix.EINVAL) { // __bpf_probe_register, kernel/trace/bpf_trace.c
		return nil, fmt.Errorf("the tracepoint has fewer arguments in this kernel: %w", unix.EINVAL)
	}
	return l, err
}

func isUprobe(spec *ebpf.ProgramSpec) bool {
	return strings.HasPrefix(spec.SectionName, "uprobe/") || strings.HasPrefix(spec.SectionName, "uretprobe/")
}

// attachUprobes attaches programs to the places of uprobes, of files that are the same
// one to the kernel to those of the first.
func (o *object) attachUprobes(spec *ebpf.CollectionSpec, places []place) error {
	twins := newTwins(places)
	for _, p := range places {
		if twins.has(p.file) {
			continue
		}
		at := spec.Programs[p.program]
		unpatched := twins.unpatched(p)
		l, err := attachUprobe(o.Programs[p.program], at, p)
		if errors.Is(err, unix.EACCES) && !kernel.HasSysAdmin() {
			// perf_uprobe_event_init, kernel/events/core.c; it was CAP_PERFMON from 5.8 until a change that
			// kernels got in 2025, stable ones, too.
			err = fmt.Errorf("%w (uprobes take CAP_SYS_ADMIN on this kernel: run it as root)", err)
		}
		if err != nil {
			return fmt.Errorf("attaching %s to %s of %s: %w", p.program, p.symbol, shown(p.file.name), err)
		}
		twins.compare(p, unpatched)
		o.links = append(o.links, l)
		kind, _, _ := strings.Cut(at.SectionName, "/")
		o.files = append(o.files, fmt.Sprintf("%s/%s of %s", kind, p.symbol, shown(p.file.name)))
	}
	return nil
}

// attachUprobe attaches a program in all processes that have the file mapped, or will.
func attachUprobe(p *ebpf.Program, spec *ebpf.ProgramSpec, at place) (io.Closer, error) {
	// As for kprobes, see attach: it must not outlive rbtrace.
	if _, err := os.Stat("/sys/bus/event_source/devices/uprobe"); err != nil {
		return nil, fmt.Errorf("the kernel does not offer uprobes to perf_event_open: %w", ebpf.ErrNotSupported)
	}
	file, err := link.OpenExecutable(at.file.path())
	if err != nil {
		return nil, err
	}
	opts := &link.UprobeOptions{Address: at.file.symbols[at.symbol]} // which it would look for in its own way: see image
	if strings.HasPrefix(spec.SectionName, "uretprobe/") {
		return file.Uretprobe(at.symbol, p, opts)
	}
	return file.Uprobe(at.symbol, p, opts)
}

// errNoPlace says that this kernel has no tracepoint of that name.
var errNoPlace = errors.New("no such tracepoint")

// perfEvent is an attached classic tracepoint.
type perfEvent int

func (fd perfEvent) Close() error { return unix.Close(int(fd)) }

// attachTracepoint does what link.Tracepoint does, but finds the tracepoint in a
// tracefs that need not be mounted where everybody sees it. The program runs on
// all CPUs although the event is opened on one (kernel/events/core.c,
// perf_event_set_bpf_prog: it is attached to the trace event call).
func (s *Session) attachTracepoint(p *ebpf.Program, name string) (io.Closer, error) {
	if s.events == nil {
		events, err := kernel.Tracefs()
		if err != nil {
			return nil, err
		}
		s.events = events
	}
	id, err := kernel.TracepointID(s.events, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoPlace, err)
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Size: unix.PERF_ATTR_SIZE_VER5,
		Sample: 1, Sample_type: unix.PERF_SAMPLE_RAW, Wakeup: 1,
	}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening the perf event: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, p.FD()); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("setting the program of the perf event: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("enabling the perf event: %w", err)
	}
	return perfEvent(fd), nil
}

// close detaches and frees it. The kernel lets a tracepoint go when nobody is in it any more, and
// waits for many at once no longer than for one.
func (o *object) close() {
	var wg sync.WaitGroup
	for _, l := range o.links {
		wg.Go(func() { l.Close() })
	}
	wg.Wait()
	o.Collection.Close()
}

// turned notes that the object's events flow from now on, or no longer.
func (o *object) turned(on bool) {
	n := o.missedSoFar()
	if on {
		o.missedBefore = n
		return
	}
	o.missedAtEnd = &n
}

// missed returns the hits for which the kernel did not run a program, while it was enabled.
func (o *object) missed() uint64 {
	if o.missedAtEnd != nil {
		return *o.missedAtEnd - o.missedBefore
	}
	return o.missedSoFar() - o.missedBefore
}

func (o *object) missedSoFar() uint64 {
	n := o.missedByLinks()
	for _, p := range o.counting {
		if stats, err := p.Stats(); err == nil { // told since 5.12
			n += stats.RecursionMisses
		}
	}
	return n
}

func (o *object) missedByLinks() (n uint64) {
	for _, l := range o.countingLinks {
		info, err := l.Info()
		if err != nil {
			continue // no links for perf events before 5.15
		}
		if event := info.PerfEvent(); event != nil && event.Kprobe() != nil {
			n += event.Kprobe().Missed
		}
		if multi := info.KprobeMulti(); multi != nil {
			n += multi.Missed
		}
	}
	return n
}

// NoHookError says that none of a tracer's hooks works on this kernel.
type NoHookError struct {
	Tracer   *tracer.Tracer
	Forced   tracer.HookKind // empty: any would have done
	Attempts []Attempt
}

func (e *NoHookError) Error() string {
	if len(e.Attempts) == 0 {
		return fmt.Sprintf("%s has no hook of the kind %q", e.Tracer.Name, e.Forced)
	}
	if errors.Is(e, ErrNoFile) {
		return fmt.Sprintf("%s cannot be traced here:\n%s", e.Tracer.Name, e.Reasons())
	}
	return fmt.Sprintf("%s cannot be traced on this kernel (%s):\n%s", e.Tracer.Name, kernel.Release(), e.Reasons())
}

// Reasons says of each hook that was tried why it does not work, in a line each.
func (e *NoHookError) Reasons() string {
	lines := make([]string, 0, len(e.Attempts))
	for _, a := range e.Attempts {
		lines = append(lines, fmt.Sprintf("  %s: %v", &a, a.Err))
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the attempts' errors.
func (e *NoHookError) Unwrap() []error {
	var errs []error
	for _, a := range e.Attempts {
		errs = append(errs, a.Err)
	}
	return errs
}

// explain adds to an error of a hook what it means, and what can be done.
func explain(kind tracer.HookKind, err error) error {
	switch {
	case kind == tracer.Fentry && errors.Is(err, unix.EPERM):
		// The capabilities were checked before; the chain of wraps would only guess at
		// the memlock limit.
		return fmt.Errorf("this kernel refuses fentry and fexit programs: %w", unix.EPERM)
	case kind == tracer.Fentry && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel has no fentry and fexit programs (CONFIG_FUNCTION_TRACER, CONFIG_DEBUG_INFO_BTF; on arm64 since 6.0): %w", err)
	case kind == tracer.KprobeMulti && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel has no probes for many functions (they need CONFIG_FPROBE=y and CONFIG_KPROBE_EVENTS=y): %w", ebpf.ErrNotSupported)
	case kind == tracer.Kprobe && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel has no kprobes (they need CONFIG_KPROBE_EVENTS=y): %w", ebpf.ErrNotSupported)
	case kind == tracer.Uprobe && errors.Is(err, ErrNoFile):
		return err
	case kind == tracer.Uprobe && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel has no uprobes (they need CONFIG_UPROBE_EVENTS=y): %w", ebpf.ErrNotSupported)
	}
	return advise(err)
}

// exhausted reports whether an error says that there is no more of something, and
// nothing of what it was to be used for.
func exhausted(err error) bool {
	return slices.ContainsFunc([]error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC}, func(no error) bool { return errors.Is(err, no) })
}

// advise adds what is known about an error of any BPF call.
func advise(err error) error {
	switch {
	case errors.Is(err, kernel.ErrNoTracefs): // which says it all
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (the capabilities are there, so a container, user namespace, seccomp filter or kernel lockdown forbids it: run it on the host)", err)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w (raise this process's limit: ulimit -n 4096)", err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w (of the whole machine: raise fs.file-max)", err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w (the kernel has no room for more of it: end other tracing programs)", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (not enough memory: take a smaller --buffer-size, or raise the memory limit of this cgroup)", err)
	}
	return err
}
