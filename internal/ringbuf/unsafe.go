package ringbuf

import (
	"sync/atomic"
	"unsafe"
)

// This file is the package's only use of package unsafe. It turns offsets into
// a mapping into pointers, without Go's bounds checks, and is sound because of
// three things:
//
//   - The memory outlives the pointers. A mapping is not moved or freed by the
//     garbage collector; Close unmaps it, and first makes the ring look drained
//     (see Ring.Close), so that no pointer into it is made afterwards. Samples
//     handed out before are the caller's to drop, as Next documents.
//   - Offsets stay inside. A records covers 2*size bytes and off is a position
//     masked to below size, a multiple of 8 (newRing and head refuse others), so
//     a header is inside. A sample is inside as the callers first check that
//     header and length end at or before the producer position, which head
//     accepts only when it is less than size ahead: off+length < 2*size.
//   - Alignment. The mapping is page-aligned and off a multiple of 8.
//
// What the kernel writes while we look (positions, length words) is accessed
// through sync/atomic alone: these loads have acquire semantics, which pairs
// with the kernel's release of producer_pos and its xchg of a record's length.
// A payload is written before the xchg and not again until consumer_pos has
// passed it.

// records is the data of a ring: its pages, twice in a row.
type records struct{ base unsafe.Pointer }

func recordsIn(data []byte) records {
	return records{unsafe.Pointer(unsafe.SliceData(data))}
}

// length is the length word of the record at off.
func (d records) length(off uint64) *uint32 {
	return (*uint32)(unsafe.Add(d.base, off))
}

// header loads the length word of the record at off, flag bits included.
func (d records) header(off uint64) uint32 { return atomic.LoadUint32(d.length(off)) }

// sample is the payload, of length bytes, of the record at off.
func (d records) sample(off uint64, length uint32) []byte {
	// Lengths are below 2³⁰, the flag bits being above them, which Next has just
	// checked: the compiler knows and drops the bounds check.
	return (*[1 << 30]byte)(unsafe.Add(d.base, off+headerSize))[:length:length]
}

// word is the position at the start of a mapped page.
func word(page []byte) *uint64 {
	return (*uint64)(unsafe.Pointer(unsafe.SliceData(page)))
}
