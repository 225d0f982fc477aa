// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// How the names of tracepoints of system calls begin, and those of all of them.
const (
	entries    = "syscalls/sys_enter_"
	exits      = "syscalls/sys_exit_"
	allEntries = "raw_syscalls/sys_enter"
	allExits   = "raw_syscalls/sys_exit"
)

// preempts is the first kernel that may preempt programs of tracepoints.
var preempts = kernel.Version{Major: 7, Minor: 0}

// errPreempts says why tracer.KprobeMulti is not for older kernels.
var errPreempts = fmt.Errorf("for Linux %s and later, which may preempt programs of tracepoints: before, it would miss events", preempts)

// mayPreempt reports whether a kernel of this release may.
func mayPreempt(release string) bool {
	v, err := kernel.ParseVersion(release)
	return err == nil && !v.Less(preempts)
}

// First returns the kind of hook of a tracer that Open tries first on this kernel.
func First(t *tracer.Tracer, failed bool) tracer.HookKind {
	for _, h := range t.Hooks {
		if h.Failed == failed && (h.Kind != tracer.KprobeMulti || mayPreempt(kernel.Release())) {
			return h.Kind
		}
	}
	return ""
}

// The constants of bpf/include/rbtrace/context.h and syscall.h.
const (
	byFunctionConstant   = "rb_by_function"
	ownCallsConstant     = "rb_own_calls"
	ownCallCountConstant = "rb_own_call_count"
	ofAllCallsConstant   = "rb_of_all_calls"
)

// iterator is how the name of the function begins that calls all programs of a tracepoint.
const iterator = "__traceiter_"

// refuses is the function that asks a task's seccomp filters about a call, and refused the cookie of
// programs there: see bpf/include/rbtrace/syscall.h.
const (
	refuses = "__secure_computing"
	refused = 1
)

// toFunctions makes programs of tracepoints those of functions: see tracer.KprobeMulti.
func toFunctions(spec *ebpf.CollectionSpec, programs []tracer.Program) error {
	for _, p := range programs {
		if at := spec.Programs[p.Name]; onFunction(&p, at) {
			at.Type, at.AttachType = ebpf.Kprobe, ebpf.AttachTraceKprobeMulti
		}
	}
	if err := set(spec, map[string]any{byFunctionConstant: true}); err != nil {
		return err
	}
	return setOwnCalls(spec, programs)
}

// toAllCalls makes programs of the tracepoints of some system calls those of the tracepoints of all, which
// the kernel does not preempt.
func toAllCalls(spec *ebpf.CollectionSpec, programs []tracer.Program) error {
	if err := setOwnCalls(spec, programs); err != nil {
		return err
	}
	constants := make(map[string]any)
	for _, at := range spec.Programs {
		if all := ofAllCalls(at.AttachTo); all != "" {
			at.AttachTo, constants[ofAllCallsConstant] = all, true
		}
	}
	return set(spec, constants)
}

// ofAllCalls returns the tracepoint of all system calls that stands for that of one; empty: it is not of one.
func ofAllCalls(place string) string {
	switch {
	case strings.HasPrefix(place, entries):
		return allEntries
	case strings.HasPrefix(place, exits):
		return allExits
	}
	return ""
}

// setOwnCalls tells the programs the numbers of the calls whose exits they are for.
func setOwnCalls(spec *ebpf.CollectionSpec, programs []tracer.Program) error {
	var own [32]uint16
	var n uint32
	for _, p := range programs {
		at := spec.Programs[p.Name]
		if at == nil {
			continue // it has no file to be attached in
		}
		for _, place := range placesOf(&p, at) {
			call, ok := strings.CutPrefix(place, exits)
			if !ok {
				continue
			}
			nr, ok := callNumber(call)
			if !ok {
				continue // not of this architecture
			}
			if int(n) == len(own) {
				return fmt.Errorf("programs of more than %d system calls", len(own))
			}
			own[n] = nr
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return set(spec, map[string]any{ownCallsConstant: own, ownCallCountConstant: n})
}

// placesOf returns where a program is attached to.
func placesOf(p *tracer.Program, at *ebpf.ProgramSpec) []string {
	if at.AttachTo == allEntries || at.AttachTo == allExits {
		return []string{at.AttachTo}
	}
	return slices.Concat([]string{at.AttachTo}, p.Also, p.AlsoIf)
}

// callNumber returns the number of the system call that a tracepoint is named after: by its function,
// which some calls have another name for.
func callNumber(name string) (nr uint16, ok bool) {
	others := map[string]string{"newstat": "stat", "newlstat": "lstat", "newfstat": "fstat", "umount": "umount2"}
	abi := map[string]field.ABI{"amd64": field.X86, "arm64": field.ARM64}[runtime.GOARCH]
	if other := others[name]; other != "" {
		name = other
	}
	n, ok := field.FindSyscall(name, abi)
	return uint16(n), ok
}

// functionOf returns the function that stands for the place of a tracepoint, and whether its exit
// does: __x64_sys_openat() and true of "syscalls/sys_exit_openat", __traceiter_task_newtask() of the
// raw tracepoint "task_newtask", and the function itself of a probe.
func functionOf(elf, place string) (function string, exit, ok bool) {
	switch of, _, _ := strings.Cut(elf, "/"); of {
	case "raw_tp":
		return iterator + place, false, true
	case "kprobe":
		return place, false, true
	case "kretprobe":
		return place, true, true
	}
	prefix := map[string]string{"amd64": "__x64_sys_", "arm64": "__arm64_sys_"}[runtime.GOARCH]
	call, entry := strings.CutPrefix(place, entries)
	if !entry {
		call, exit = strings.CutPrefix(place, exits)
	}
	return prefix + call, exit, entry || exit
}

// onFunction reports whether tracer.KprobeMulti has a program on a function.
func onFunction(p *tracer.Program, spec *ebpf.ProgramSpec) bool {
	_, _, ok := functionOf(spec.SectionName, spec.AttachTo)
	return ok && !p.Atomic
}

// function is one that a program is attached to.
type function struct {
	name     string
	place    string // that it stands for; empty: none, it is refuses
	cookie   uint64
	optional bool // it need not be there
}

// attachFunctions attaches a program to the functions that stand for its places: to all of them by one
// link, as the kernel takes its time for each, or where it lacks one by one.
func (s *Session) attachFunctions(o *object, p *tracer.Program, spec *ebpf.ProgramSpec) error {
	var all []function
	for i, place := range placesOf(p, spec) {
		name, _, _ := functionOf(spec.SectionName, place)
		all = append(all, function{name: name, place: place, optional: i > len(p.Also)})
	}
	if strings.HasPrefix(spec.AttachTo, exits) && !p.Prepares && !p.ForFilters {
		all = append(all, function{name: refuses, cookie: refused, optional: true}) // a kernel without seccomp has none
	}
	err := s.attachTo(o, p, spec, all...)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range all {
		err := s.attachTo(o, p, spec, f)
		switch {
		case f.optional && errors.Is(err, fs.ErrNotExist):
			if f.place != "" {
				o.absent = append(o.absent, section(tracer.KprobeMulti, p, spec.SectionName, f.place))
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// attachTo attaches a program to functions by one link.
func (s *Session) attachTo(o *object, p *tracer.Program, spec *ebpf.ProgramSpec, functions ...function) error {
	var opts link.KprobeMultiOptions
	for _, f := range functions {
		opts.Symbols, opts.Cookies = append(opts.Symbols, f.name), append(opts.Cookies, f.cookie)
		if strings.HasPrefix(f.name, iterator) {
			if err := s.iterate(o, f.place); err != nil {
				return err
			}
		}
	}
	to := link.KprobeMulti
	if _, exit, _ := functionOf(spec.SectionName, spec.AttachTo); exit {
		to = link.KretprobeMulti
	}
	l, err := to(o.Programs[p.Name], opts)
	if err != nil {
		return fmt.Errorf("to %s: %w", strings.Join(opts.Symbols, ", "), err)
	}
	o.add(l, s.loses(p))
	return nil
}

// iterate has the kernel call the function __traceiter_NAME() at a raw tracepoint: it does where
// there are two programs, and else calls the only one by itself (include/linux/tracepoint.h,
// kernel/tracepoint.c). So two are attached that do nothing.
func (s *Session) iterate(o *object, tracepoint string) (err error) {
	if s.nothing == nil {
		s.nothing, err = ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "rb_nothing", Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			return fmt.Errorf("loading a program that does nothing: %w", err)
		}
	}
	for range 2 {
		l, err := attachRaw(s.nothing, tracepoint)
		if err != nil {
			return fmt.Errorf("attaching a program that does nothing to %s: %w", tracepoint, err)
		}
		o.links = append(o.links, l)
	}
	return nil
}

// section returns how a program of a hook is attached, as an ELF section says it.
func section(kind tracer.HookKind, p *tracer.Program, elf, place string) string {
	if function, exit, ok := functionOf(elf, place); ok && kind == tracer.KprobeMulti && !p.Atomic {
		if exit {
			return "kretprobe.multi/" + function
		}
		return "kprobe.multi/" + function
	}
	if all := ofAllCalls(place); all != "" && kind != tracer.KprobeMulti && mayPreempt(kernel.Release()) {
		place = all
	}
	of, _, _ := strings.Cut(elf, "/")
	return of + "/" + place
}
