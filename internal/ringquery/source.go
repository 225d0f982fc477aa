// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// Source is a way to a ring's state.
type Source string

// The sources. They give the same values.
const (
	// Auto takes the mapping, and where the kernel refuses that, the helper.
	Auto Source = "auto"
	// Helper is bpf_ringbuf_query, run inside the kernel by a program of its own. The
	// verifier lets it ask rings of BPF_MAP_TYPE_RINGBUF alone.
	Helper Source = "helper"
	// Mmap is a read-only mapping of the ring's positions.
	Mmap Source = "mmap"
)

// ParseSource returns the source of that name.
func ParseSource(name string) (Source, error) {
	switch s := Source(strings.ToLower(name)); s {
	case Auto, Helper, Mmap:
		return s, nil
	}
	return "", fmt.Errorf("unknown source %q: want auto, helper or mmap", name)
}

// asker asks one ring, which it holds until it is closed.
type asker interface {
	ask() (State, error)
	close() error
	source() Source
}

// asker returns one for the ring m. It uses m until it is closed.
func (q *Querier) asker(m *ebpf.Map) (asker, error) {
	var mapErr error
	if q.source != Helper {
		v, err := ringbuf.OpenView(m)
		if err == nil {
			return viewAsker{v}, nil
		}
		mapErr = err
	}
	if q.source == Mmap {
		return nil, mapErr
	}
	if m.Type() != ebpf.RingBuf {
		return nil, errors.Join(mapErr, fmt.Errorf("bpf_ringbuf_query cannot ask maps of type %s: use the source mmap", m.Type()))
	}
	a, err := q.helperAsker(m)
	if err != nil {
		return nil, errors.Join(mapErr, err)
	}
	return a, nil
}

// viewAsker asks by looking at the mapped positions.
type viewAsker struct{ *ringbuf.View }

func (a viewAsker) source() Source { return Mmap }
func (a viewAsker) close() error   { return a.Close() }

func (a viewAsker) ask() (State, error) {
	cons, over, prod := a.Positions()
	s := State{RingSize: a.Size(), ConsPos: cons, ProdPos: prod, OverwritePos: over, AvailData: prod - cons}
	if a.Overwrites() { // as ringbuf_avail_data_sz
		s.AvailData = min(prod-max(cons, over), s.RingSize)
	}
	return s, nil
}

// helperAsker asks by running a program.
type helperAsker struct {
	prog   *ebpf.Program
	answer *ebpf.Map
}

func (a *helperAsker) source() Source { return Helper }
func (a *helperAsker) close() error   { return a.prog.Close() }

func (a *helperAsker) ask() (state State, err error) {
	if _, err := a.prog.Run(nil); err != nil {
		return state, err
	}
	if err := a.answer.Lookup(uint32(0), &state); err != nil {
		return state, fmt.Errorf("reading the answer: %w", err)
	}
	return state, nil
}

// helpers are the programs that ask.
type helpers struct {
	// The programs to try, in this order; the one that has worked remains.
	programs []*ebpf.ProgramSpec
	answer   *ebpf.Map
}

// openHelpers prepares the programs of the given type, or of any.
func openHelpers(only ebpf.ProgramType) (*helpers, error) {
	spec, err := loadQuery()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded object: %w", err)
	}
	h := &helpers{programs: []*ebpf.ProgramSpec{spec.Programs[queryProgRbAskSyscall], spec.Programs[queryProgRbAskRawTp]}}
	if only != ebpf.UnspecifiedProgram {
		h.programs = nil
		for _, p := range spec.Programs {
			if p.Type == only {
				h.programs = append(h.programs, p)
			}
		}
		if h.programs == nil {
			return nil, fmt.Errorf("no program of type %s asks rings: use %s or %s", only, ebpf.Syscall, ebpf.RawTracepoint)
		}
	}
	// Before 5.11 maps and programs count against RLIMIT_MEMLOCK. Where raising it
	// fails they may still fit, so the error is told only when they do not.
	memlock := rlimit.RemoveMemlock()
	if h.answer, err = ebpf.NewMap(spec.Maps[queryMapRbAnswer]); err != nil {
		return nil, errors.Join(fmt.Errorf("creating the map of the answer: %w", err), memlock)
	}
	for _, p := range h.programs {
		strip(p.Instructions)
		if err := p.Instructions.AssociateMap(queryMapRbAnswer, h.answer); err != nil {
			return nil, errors.Join(fmt.Errorf("preparing program %s: %w", p.Name, err), h.answer.Close())
		}
	}
	return h, nil
}

// strip takes the source lines and types out of instructions. A debugger would like
// them, but they cost a BTF object for each load, a third of the load's time.
func strip(insns asm.Instructions) {
	for i, ins := range insns {
		insns[i].Metadata = asm.Metadata{}
		if ref := ins.Reference(); ref != "" {
			insns[i] = insns[i].WithReference(ref)
		}
	}
}

// helperAsker loads the first program that works, and keeps to that.
func (q *Querier) helperAsker(m *ebpf.Map) (asker, error) {
	if q.helpers == nil {
		h, err := openHelpers(q.program)
		if err != nil {
			return nil, err
		}
		q.helpers = h
	}
	var errs []error
	for _, spec := range q.helpers.programs {
		a, err := q.helpers.load(spec, m)
		if err == nil {
			q.helpers.programs = []*ebpf.ProgramSpec{spec}
			return a, nil
		}
		errs = append(errs, fmt.Errorf("by a program of type %s: %w", spec.Type, err))
	}
	return nil, errors.Join(errs...)
}

func (h *helpers) load(spec *ebpf.ProgramSpec, m *ebpf.Map) (*helperAsker, error) {
	spec = spec.Copy()
	if err := spec.Instructions.AssociateMap(queryMapRbAsked, m); err != nil {
		return nil, err
	}
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, err
	}
	a := &helperAsker{p, h.answer}
	// SYSCALL programs can be loaded and not run on 5.13.
	if _, err := a.ask(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return a, nil
}
