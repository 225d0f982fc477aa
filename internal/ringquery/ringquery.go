// SPDX-License-Identifier: Apache-2.0

// Package ringquery finds the BPF ring buffers of the machine, whoever made them,
// and asks for their state without disturbing their owners.
//
// A ring is asked by a program of its own, which is loaded, run once and closed: 80 µs
// in all. One program for all rings would have to find them in a map of maps, and each
// update of one of these waits for an RCU grace period (kernel/bpf/syscall.c,
// maybe_wait_bpf_programs): 8 to 15 ms up to Linux 6.18, and batches wait once only
// from 6.8 on.
package ringquery

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	"github.com/rbtrace/rbtrace/internal/kernel"
)

//go:generate go tool bpf2go -type rb_state -target amd64,arm64 query ../../bpf/query.bpf.c -- -I../../bpf/include

// State is what bpf_ringbuf_query tells of a ring, all in bytes.
//
//   - AvailData (BPF_RB_AVAIL_DATA): what its reader has not consumed, headers
//     included, and discarded and not yet committed records too.
//   - RingSize (BPF_RB_RING_SIZE): the size of the data area, max_entries.
//   - ConsPos (BPF_RB_CONS_POS): how far the reader has come since the ring was made.
//   - ProdPos (BPF_RB_PROD_POS): how far the producers have.
//
// The kernel is asked for one after another while the owner goes on, so ConsPos <=
// ProdPos and AvailData <= ProdPos - ConsPos. Equality in the latter says that the
// three belong to one moment; a ring that overwrites its oldest records
// (BPF_F_RB_OVERWRITE, Linux 6.19) leaves these out of AvailData.
type State = queryRbState

// Ring is a ring buffer.
type Ring struct {
	ID   ebpf.MapID
	Name string // as its maker chose it: at most 15 bytes, may be empty
	State
}

// Snapshot is the state of rings at one time.
type Snapshot struct {
	Time  time.Time // when the first was asked
	Rings []Ring    // by ascending id
}

// NotRingError says that a map is not a ring buffer.
type NotRingError struct {
	ID   ebpf.MapID
	Type ebpf.MapType
}

func (e *NotRingError) Error() string {
	return fmt.Sprintf("BPF map %d is not a ring buffer: its type is %s", e.ID, e.Type)
}

// Options says how to ask. The zero value is right but for tests.
type Options struct {
	// Program is the type of the program that asks: ebpf.Syscall (Linux 5.14) or
	// ebpf.RawTracepoint (5.10). Zero: the first of these that works.
	Program ebpf.ProgramType
}

// Querier asks rings. Between its calls it holds none of them. It belongs to one
// goroutine.
type Querier struct {
	// The programs to try, in this order; the one that has worked remains.
	programs []*ebpf.ProgramSpec
	answer   *ebpf.Map
}

// Open prepares for asking. It needs CAP_SYS_ADMIN, as the kernel gives out the ids
// of maps and their file descriptors to nobody else (kernel/bpf/syscall.c,
// bpf_obj_get_next_id and bpf_map_get_fd_by_id). opts may be nil.
func Open(opts *Options) (*Querier, error) {
	if err := kernel.CheckVersion(kernel.Release()); err != nil {
		return nil, err
	}
	if !kernel.HasSysAdmin() {
		return nil, errors.New("missing CAP_SYS_ADMIN, without which the kernel does not show the BPF maps of others: run it as root (sudo rbtrace query)")
	}
	spec, err := loadQuery()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded object: %w", err)
	}
	q := &Querier{programs: []*ebpf.ProgramSpec{spec.Programs[queryProgRbAskSyscall], spec.Programs[queryProgRbAskRawTp]}}
	if opts != nil && opts.Program != ebpf.UnspecifiedProgram {
		q.programs = nil
		for _, p := range spec.Programs {
			if p.Type == opts.Program {
				q.programs = append(q.programs, p)
			}
		}
		if q.programs == nil {
			return nil, fmt.Errorf("no program of type %s asks rings: use %s or %s", opts.Program, ebpf.Syscall, ebpf.RawTracepoint)
		}
	}
	// Before 5.11 maps and programs count against RLIMIT_MEMLOCK. Where raising it
	// fails they may still fit, so the error is told only when they do not.
	memlock := rlimit.RemoveMemlock()
	if q.answer, err = ebpf.NewMap(spec.Maps[queryMapRbAnswer]); err != nil {
		return nil, errors.Join(fmt.Errorf("creating the map of the answer: %w", err), memlock)
	}
	for _, p := range q.programs {
		strip(p.Instructions)
		if err := p.Instructions.AssociateMap(queryMapRbAnswer, q.answer); err != nil {
			return nil, errors.Join(fmt.Errorf("preparing program %s: %w", p.Name, err), q.Close())
		}
	}
	return q, nil
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

// Close releases what the querier holds in the kernel. The last programs, and with
// them their hold on the rings that they asked, go with the end of an RCU grace
// period, some ms later: a ring whose owner ends meanwhile lives on for that long.
func (q *Querier) Close() error {
	if err := q.answer.Close(); err != nil {
		return fmt.Errorf("closing the map of the answer: %w", err)
	}
	return nil
}

// Snapshot asks the rings with these ids, or, without ids, all rings of the machine;
// those that come and go meanwhile are in it or are not. Where some cannot be asked,
// the snapshot has the others, and the error says which and why, as that of Ring. The
// snapshot is nil where no ring could be looked for.
func (q *Querier) Snapshot(ids ...ebpf.MapID) (*Snapshot, error) {
	s := &Snapshot{Time: time.Now()}
	all := len(ids) == 0
	if all {
		var err error
		if ids, err = mapIDs(); err != nil {
			return nil, err
		}
	} else {
		ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	}
	var errs []error
	for _, id := range ids {
		ring, err := q.Ring(id)
		var notRing *NotRingError
		switch {
		case err == nil:
			s.Rings = append(s.Rings, ring)
		case all && (errors.Is(err, fs.ErrNotExist) || errors.As(err, &notRing)):
		default:
			errs = append(errs, err)
		}
	}
	return s, errors.Join(errs...)
}

// mapIDs returns the ids of all maps of the machine, ascending.
func mapIDs() ([]ebpf.MapID, error) {
	var ids []ebpf.MapID
	for id := ebpf.MapID(0); ; ids = append(ids, id) {
		var err error
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			return ids, nil
		} else if err != nil {
			return nil, fmt.Errorf("listing the BPF maps: %w", advise(err))
		}
	}
}

// Ring asks one ring. An error wraps fs.ErrNotExist where no map has this id, and is
// a *NotRingError where the map is of another type.
func (q *Querier) Ring(id ebpf.MapID) (Ring, error) {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return Ring{}, fmt.Errorf("no BPF map has the id %d: %w", id, err)
	}
	if err != nil {
		return Ring{}, fmt.Errorf("opening BPF map %d: %w", id, advise(err))
	}
	defer m.Close()
	if m.Type() != ebpf.RingBuf {
		return Ring{}, &NotRingError{ID: id, Type: m.Type()}
	}
	info, err := m.Info()
	if err != nil {
		return Ring{}, fmt.Errorf("reading about ring buffer %d: %w", id, err)
	}
	ring := Ring{ID: id, Name: info.Name}
	if ring.State, err = q.ask(m); err != nil {
		return Ring{}, fmt.Errorf("asking ring buffer %d: %w", id, err)
	}
	return ring, nil
}

// ask asks with the first program that works, and keeps to that.
func (q *Querier) ask(ring *ebpf.Map) (State, error) {
	var errs []error
	for _, p := range q.programs {
		state, err := q.askBy(p, ring)
		if err == nil {
			q.programs = []*ebpf.ProgramSpec{p}
			return state, nil
		}
		errs = append(errs, fmt.Errorf("by a program of type %s: %w", p.Type, err))
	}
	return State{}, errors.Join(errs...)
}

func (q *Querier) askBy(spec *ebpf.ProgramSpec, ring *ebpf.Map) (state State, err error) {
	spec = spec.Copy()
	if err := spec.Instructions.AssociateMap(queryMapRbAsked, ring); err != nil {
		return state, err
	}
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return state, err
	}
	defer p.Close()
	if _, err := p.Run(nil); err != nil {
		return state, err
	}
	if err := q.answer.Lookup(uint32(0), &state); err != nil {
		return state, fmt.Errorf("reading the answer: %w", err)
	}
	return state, nil
}

// advise adds what may be behind an error of a process that has CAP_SYS_ADMIN.
func advise(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (CAP_SYS_ADMIN in a user namespace does not do, and a container's seccomp filter may forbid bpf(2): run it as root of the machine)", err)
	}
	return err
}
