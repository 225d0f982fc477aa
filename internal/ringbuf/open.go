package ringbuf

import (
	"errors"
	"fmt"
	"math/bits"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// overwriteFlag is BPF_F_RB_OVERWRITE (Linux 6.19).
const overwriteFlag = 1 << 19

// Overwrites reports whether the ring m overwrites its oldest records when it is full.
func Overwrites(m *ebpf.Map) bool { return m.Flags()&overwriteFlag != 0 }

// Open maps the ring m for reading and takes up where consumer_pos stands. It
// needs a file descriptor that may be read and written, and leaves m to the
// caller, who may close it right away: the ring has a duplicate of its own.
//
// A ring has one reader. Opening one that somebody else reads corrupts both
// streams.
//
// It refuses, with an error that wraps [errors.ErrUnsupported], maps of another
// type, rings that overwrite their oldest records (BPF_F_RB_OVERWRITE: a sample
// could change under its reader), and 32-bit user space, where the kernel's
// 64-bit positions would be misread. A frozen map (EPERM) or a read-only
// descriptor (EACCES) cannot be mapped for reading and committing.
func Open(m *ebpf.Map) (*Ring, error) {
	if bits.UintSize != 64 {
		return nil, fmt.Errorf("ring buffer positions are 64 bits wide, use a 64-bit build: %w", errors.ErrUnsupported)
	}
	if m.Type() != ebpf.RingBuf {
		return nil, fmt.Errorf("map type %s, need %s: %w", m.Type(), ebpf.RingBuf, errors.ErrUnsupported)
	}
	if Overwrites(m) {
		return nil, fmt.Errorf("the ring overwrites its oldest records (BPF_F_RB_OVERWRITE): %w", errors.ErrUnsupported)
	}
	if err := ValidSize(uint64(m.MaxEntries())); err != nil {
		return nil, err
	}

	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating the map's file descriptor: %w", err)
	}

	// Offset 0 is the consumer page, the only one that the kernel lets us write;
	// the producer page and the data, twice, follow (ringbuf_map_mmap_kern).
	page, size := os.Getpagesize(), int(m.MaxEntries())
	cons, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mapping the consumer page: %w%s", err, whyRefused(m, err))
	}
	prod, err := unix.Mmap(fd, int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Munmap(cons)
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mapping the producer page and the data: %w", err)
	}

	r := newRing(word(cons), word(prod), prod[page:])
	r.fd = fd
	r.unmap = func() error { return errors.Join(unix.Munmap(cons), unix.Munmap(prod)) }
	if err := r.Err(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// whyRefused completes an error of mapping the consumer page with what the
// errno stands for.
func whyRefused(m *ebpf.Map, err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		if info, err := m.Info(); err == nil && info.Frozen() {
			return " (the map is frozen, so that no reader can publish its position)"
		}
	case errors.Is(err, unix.EACCES):
		return " (the map was opened read-only)"
	}
	return ""
}

// Close takes the ring out of its [Poller], unmaps it and closes its file
// descriptor. It commits nothing: what was read since the last [Ring.Commit] is
// there for the next reader of a pinned ring.
//
// No sample may be used afterwards: its memory is gone, and touching it kills
// the process with SIGSEGV. The ring itself may be: it looks drained, and keeps
// its counters and its Err.
func (r *Ring) Close() error {
	if r.unmap == nil {
		return nil
	}
	var errs []error
	if r.poller != nil {
		errs = append(errs, r.poller.Remove(r))
	}
	// Nothing reaches into the mapping from here on: drained at pos, with a
	// copy for each position that stood in the mapping.
	cons, prod := r.committed, r.pos
	r.prod = r.pos
	r.consPos, r.prodPos = &cons, &prod
	errs = append(errs, r.unmap())
	r.unmap = nil
	if r.fd >= 0 {
		errs = append(errs, unix.Close(r.fd))
		r.fd = -1
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing the ring: %w", err)
	}
	return nil
}
