// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// perfSource reads perf buffers, one for each CPU that has a producer.
type perfSource struct {
	c       *Case
	buffers []*perfBuffer
	epoll   int
	bell    int // eventfd
	events  [16]unix.EpollEvent
	sum     uint64
}

// newPerfSource opens the buffers and puts them into the map of them.
func newPerfSource(c *Case, array *ebpf.Map, cpus []int) (_ source, err error) {
	s := &perfSource{c: c, epoll: -1, bell: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("creating an epoll instance: %w", err)
	}
	if s.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("creating an eventfd: %w", err)
	}
	if err := s.register(s.bell); err != nil {
		return nil, err
	}
	for _, cpu := range cpus {
		b, err := openPerfBuffer(c, cpu)
		if err != nil {
			return nil, err
		}
		s.buffers = append(s.buffers, b)
		if err := s.register(b.fd); err != nil {
			return nil, err
		}
		if err := array.Put(uint32(cpu), uint32(b.fd)); err != nil {
			return nil, fmt.Errorf("putting the perf buffer of CPU %d into its map: %w", cpu, err)
		}
	}
	return s, nil
}

func (s *perfSource) register(fd int) error {
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("adding a descriptor to epoll: %w", err)
	}
	return nil
}

func (s *perfSource) wait() error {
	msec := -1
	if s.c.Wakeup == Sampled {
		msec = int(forgotten.Milliseconds())
	} else {
		for _, b := range s.buffers {
			if b.waiting() {
				return nil
			}
		}
	}
	n, err := unix.EpollWait(s.epoll, s.events[:], msec)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("waiting for perf buffers: %w", err)
	}
	for _, ev := range s.events[:max(n, 0)] {
		if ev.Fd == int32(s.bell) {
			var buf [8]byte
			if _, err := unix.Read(s.bell, buf[:]); err != nil && err != unix.EAGAIN {
				return fmt.Errorf("reading the eventfd: %w", err)
			}
		}
	}
	return nil
}

func (s *perfSource) drain() (n uint64, err error) {
	for _, b := range s.buffers {
		read, sum, err := b.drain()
		if err != nil {
			return n, err
		}
		n += read
		s.sum += sum
	}
	return n, nil
}

func (s *perfSource) interrupt() {
	// It cannot fail: the counter is reset long before it could overflow.
	_, _ = unix.Write(s.bell, binary.NativeEndian.AppendUint64(nil, 1))
}

func (s *perfSource) Close() error {
	var errs []error
	for _, b := range s.buffers {
		errs = append(errs, b.close())
	}
	for _, fd := range []int{s.epoll, s.bell} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// perfBuffer is the buffer of one CPU: a page of positions, and the data.
type perfBuffer struct {
	fd     int
	mem    []byte
	meta   *unix.PerfEventMmapPage
	data   []byte
	tail   uint64 // how far it was read
	commit uint64 // bytes after which space is given back
	joined []byte // a record that wraps, put together
}

// openPerfBuffer opens a buffer of the ring's size.
func openPerfBuffer(c *Case, cpu int) (*perfBuffer, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_BPF_OUTPUT,
		Size: unix.PERF_ATTR_SIZE_VER5, Sample_type: unix.PERF_SAMPLE_RAW,
		Sample: 1, Wakeup: 1,
	}
	if c.Wakeup == Sampled {
		attr.Wakeup = uint32(c.Every) // events, as PerfBitWatermark is not set
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening the perf buffer of CPU %d: %w%s", cpu, err, whyNoPerf(err))
	}
	page := os.Getpagesize()
	mem, err := unix.Mmap(fd, 0, page+c.RingSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping the perf buffer of CPU %d: %w%s", cpu, err, whyNoPerf(err)), unix.Close(fd))
	}
	b := &perfBuffer{fd: fd, mem: mem, meta: metaPage(mem), data: mem[page:], commit: commitEvery(c)}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("enabling the perf buffer of CPU %d: %w", cpu, err), b.close())
	}
	return b, nil
}

func whyNoPerf(err error) string {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return " (see kernel.perf_event_paranoid and kernel.perf_event_mlock_kb, or run it as root)"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSYS):
		return " (the kernel needs CONFIG_PERF_EVENTS)"
	}
	return ""
}

// close unmaps the buffer. Nothing may use it afterwards.
func (b *perfBuffer) close() error {
	b.meta, b.data = nil, nil
	return errors.Join(unix.Munmap(b.mem), unix.Close(b.fd))
}

func (b *perfBuffer) waiting() bool { return atomic.LoadUint64(&b.meta.Data_head) != b.tail }

// The records that the kernel writes (include/uapi/linux/perf_event.h), each after a
// header of 8 bytes: u32 type, u16 misc, u16 size with the header. A sample has a u32
// with the payload's length, padded, and then the payload.
const (
	perfHeader     = 8
	perfRecordLost = 2
	perfSample     = 9
)

func (b *perfBuffer) drain() (n, sum uint64, err error) {
	given := b.tail
	head := atomic.LoadUint64(&b.meta.Data_head)
	for {
		if b.tail == head {
			if head = atomic.LoadUint64(&b.meta.Data_head); b.tail == head {
				break
			}
		}
		record, err := b.record(head)
		if err != nil {
			return n, sum, err
		}
		switch t := binary.NativeEndian.Uint32(record); t {
		case perfSample:
			n++
			// Not aligned: the payload begins 4 bytes after the header.
			sum += binary.NativeEndian.Uint64(record[perfHeader+4:])
		case perfRecordLost: // the program has counted these
		default:
			return n, sum, fmt.Errorf("reading a perf buffer: unexpected record of type %d", t)
		}
		b.tail += uint64(len(record))
		if b.tail-given >= b.commit {
			given = b.tail
			atomic.StoreUint64(&b.meta.Data_tail, b.tail)
		}
	}
	atomic.StoreUint64(&b.meta.Data_tail, b.tail)
	return n, sum, nil
}

// record is the record at the tail, where it lies unless it wraps.
func (b *perfBuffer) record(head uint64) ([]byte, error) {
	size := uint64(len(b.data))
	off := b.tail & (size - 1)
	// Records are multiples of 8 bytes, so a header does not wrap.
	length := uint64(binary.NativeEndian.Uint16(b.data[off+6:]))
	if length < perfHeader+12 || length > head-b.tail {
		return nil, fmt.Errorf("reading a perf buffer: a record of %d bytes at position %d, head %d", length, b.tail, head)
	}
	if off+length <= size {
		return b.data[off : off+length], nil
	}
	b.joined = append(append(b.joined[:0], b.data[off:]...), b.data[:off+length-size]...)
	return b.joined, nil
}
