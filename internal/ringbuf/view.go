package ringbuf

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// View is a ring that somebody else reads, mapped read-only: nothing that is done
// through it can move a position or change a record. It belongs to one goroutine.
//
// It trusts nothing in the ring. The owner can write the consumer page at will, and of
// a ring of type BPF_MAP_TYPE_USER_RINGBUF everything but that.
type View struct {
	m    *ebpf.Map
	page int
	size uint64
	// overwrites says that the ring is one of BPF_F_RB_OVERWRITE.
	overwrites bool

	positions        []byte // the mapped consumer and producer page
	consPos, prodPos *uint64
	overPos          *uint64 // nil where the ring does not overwrite
}

// OpenView maps the positions of m, a ring of either type. It needs a descriptor that
// may be read and written, although it maps nothing writable: the kernel refuses any
// mapping of others (EPERM). m is the caller's, and must stay open until Close.
func OpenView(m *ebpf.Map) (*View, error) {
	if bits.UintSize != 64 {
		return nil, fmt.Errorf("ring buffer positions are 64 bits wide, use a 64-bit build: %w", errors.ErrUnsupported)
	}
	if m.Type() != ebpf.RingBuf && m.Type() != ebpf.UserRingbuf {
		return nil, fmt.Errorf("map type %s, need %s or %s: %w", m.Type(), ebpf.RingBuf, ebpf.UserRingbuf, errors.ErrUnsupported)
	}
	if err := ValidSize(uint64(m.MaxEntries())); err != nil {
		return nil, err
	}
	// Both types have the consumer page first, then the producer page, then the data,
	// twice: they differ in which of these the owner may map writable
	// (ringbuf_map_mmap_kern and ringbuf_map_mmap_user).
	v := &View{m: m, page: os.Getpagesize(), size: uint64(m.MaxEntries()), overwrites: Overwrites(m)}
	var err error
	if v.positions, err = unix.Mmap(m.FD(), 0, 2*v.page, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping the positions: %w", err)
	}
	v.consPos, v.prodPos = word(v.positions), word(v.positions[v.page:])
	if v.overwrites {
		// struct bpf_ringbuf has it behind producer_pos and pending_pos.
		v.overPos = word(v.positions[v.page+16:])
	}
	return v, nil
}

// Close unmaps the view.
func (v *View) Close() error {
	if v.positions == nil {
		return nil
	}
	err := unix.Munmap(v.positions)
	v.positions = nil
	if err != nil {
		return fmt.Errorf("unmapping the positions: %w", err)
	}
	return nil
}

// Positions returns consumer_pos, overwrite_pos and producer_pos, in bytes since the
// ring was made. over, how far a ring of BPF_F_RB_OVERWRITE has written over its oldest
// records, is 0 for others. They are loaded in this order, while the ring goes on, and
// but for a ring that overwrites cons and prod are at most Size apart, unless the
// owner has put them so.
func (v *View) Positions() (cons, over, prod uint64) {
	// Who is not let run between two of the loads finds positions of different times,
	// and more between them than the ring holds. Where the owner has written nonsense,
	// trying again does not help.
	const tries = 100
	for range tries {
		cons = atomic.LoadUint64(v.consPos)
		if v.overwrites {
			over = atomic.LoadUint64(v.overPos)
		}
		prod = atomic.LoadUint64(v.prodPos)
		if v.overwrites || prod-cons <= v.size {
			break
		}
	}
	return cons, over, prod
}

// Size is the ring's size in bytes (its max_entries).
func (v *View) Size() uint64 { return v.size }

// Overwrites reports whether the ring overwrites its oldest records where it is full
// (BPF_F_RB_OVERWRITE, Linux 6.19).
func (v *View) Overwrites() bool { return v.overwrites }

// head is where the oldest unread record is.
func (v *View) head() uint64 {
	cons, over, _ := v.Positions()
	return max(cons, over)
}

// Header is a record's header.
type Header struct {
	Pos       uint64 // of the header, in bytes since the ring was made
	Len       uint32 // of the payload, in bytes
	Busy      bool   // reserved, not yet committed
	Discarded bool   // committed, to be skipped
}

// End is where the next header is.
func (h Header) End() uint64 { return h.Pos + recordSize(h.Len) }

// Head returns the header at the head. ok is false where the ring is drained, and
// where the head has moved on meanwhile.
func (v *View) Head() (h Header, ok bool, err error) {
	pos := v.head()
	_, _, prod := v.Positions()
	if !v.between(pos, prod) || pos == prod {
		return h, false, nil
	}
	w, err := v.window(pos, pos+headerSize)
	if err != nil {
		return h, false, err
	}
	defer w.close()
	h, ok = w.at(pos, prod)
	return h, ok && v.head() == pos, nil
}

// between reports whether records can lie between pos and prod.
func (v *View) between(pos, prod uint64) bool {
	return prod-pos <= v.size && pos%headerSize == 0 && prod%headerSize == 0
}

// window is a part of a ring's data, mapped read-only.
type window struct {
	pages []byte
	base  uint64 // the position at the start of pages
}

// window maps the data between two positions, at most the ring's size apart.
func (v *View) window(from, to uint64) (*window, error) {
	page := uint64(v.page)
	base := from &^ (page - 1)
	length := (to - base + page - 1) &^ (page - 1)
	// The data is there twice, so this does not wrap: it begins in the first copy.
	pages, err := unix.Mmap(v.m.FD(), int64(2*page+base&(v.size-1)), int(length), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping records: %w", err)
	}
	return &window{pages, base}, nil
}

func (w *window) close() { _ = unix.Munmap(w.pages) } // it was mapped just so

// at reads the header at pos, which is inside the window. ok is false where no record
// there could end at or before prod.
func (w *window) at(pos, prod uint64) (h Header, ok bool) {
	length := recordsIn(w.pages).header(pos - w.base)
	h = Header{Pos: pos, Len: length &^ flagBits, Busy: length&busyBit != 0, Discarded: length&discardBit != 0}
	return h, recordSize(h.Len) <= prod-pos
}

// Counted is what Count found.
type Counted struct {
	Records uint64 // of any state
	Bytes   uint64 // that they take, headers and padding included
	Largest uint64 // what the largest of them takes, in bytes
}

// Count counts the records that were produced between two positions, which must both
// be those of a header, up to limit bytes of them. Records that were consumed can be
// counted as long as they are not overwritten; ok is false where some were, before or
// meanwhile, or may have been.
func (v *View) Count(from, to, limit uint64) (c Counted, ok bool, err error) {
	if from == to {
		return c, true, nil
	}
	if !v.between(from, to) {
		return c, false, nil
	}
	end := from + min(to-from, limit)
	w, err := v.window(from, end)
	if err != nil {
		return c, false, err
	}
	defer w.close()
	for pos := from; pos < end; {
		h, ok := w.at(pos, to)
		if !ok {
			return Counted{}, false, nil
		}
		size := h.End() - pos
		c.Records++
		c.Bytes += size
		c.Largest = max(c.Largest, size)
		pos += size
	}
	_, _, prod := v.Positions()
	return c, prod-from <= v.size, nil
}

// Record is a copy of an unread record.
type Record struct {
	Header
	Data []byte // the payload, or its beginning
	// Stale says that the owner consumed the record, or that it was overwritten, while
	// it was copied: neither header nor data can be relied on.
	Stale bool
}

// Peek copies the next n unread records, busy and discarded ones too, and up to limit
// bytes of the payload of each. No position is moved. Of a busy record the data is what
// its program has written so far, and what was in the memory before.
//
// There may be less: n is what is there at the most, and where the chain of headers
// breaks, as everything from there on was overwritten meanwhile, it ends.
func (v *View) Peek(n int, limit uint32) ([]Record, error) {
	// The producer position last: records up to it have a header.
	pos := v.head()
	_, _, prod := v.Positions()
	if !v.between(pos, prod) || pos == prod {
		return nil, nil
	}
	w, err := v.window(pos, prod)
	if err != nil {
		return nil, err
	}
	defer w.close()
	var records []Record
	for len(records) < n && pos < prod {
		h, ok := w.at(pos, prod)
		if !ok {
			break
		}
		start := pos - w.base + headerSize
		data := w.pages[start : start+uint64(min(h.Len, limit))]
		records = append(records, Record{Header: h, Data: append([]byte(nil), data...)})
		pos = h.End()
	}
	// Producers reuse a record's memory only when consumer_pos has passed it.
	head := v.head()
	for i := range records {
		records[i].Stale = records[i].Pos < head
	}
	return records, nil
}
