// Package ringbuf reads BPF ring buffers (BPF_MAP_TYPE_RINGBUF, kernel/bpf/ringbuf.c)
// through their own mapping: records are handed out where the kernel wrote
// them, the consumer position is published in batches, nothing is allocated
// per record, and an uncommitted record is waited for without spinning and
// without a lock.
//
// A [Ring] is one mapped ring, a [Poller] waits for any number of them:
//
//	for {
//		for {
//			sample, ok := ring.Next()
//			if !ok {
//				break
//			}
//			use(sample) // no longer than until Commit
//			if ring.Held() >= uint64(ring.Size()/8) {
//				ring.Commit()
//			}
//		}
//		if ctx.Err() != nil {
//			return
//		}
//		if _, err := poller.Wait(-1); err != nil { // commits what was read
//			return err
//		}
//	}
//
// One goroutine at a time uses a Ring, and a Poller with all its rings; only
// [Poller.Interrupt] may be called from anywhere.
package ringbuf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Layout of a record's 8-byte header: a length word, and a page offset that
// only the kernel uses (include/uapi/linux/bpf.h, struct bpf_ringbuf_hdr).
const (
	headerSize = 8
	busyBit    = 1 << 31 // BPF_RINGBUF_BUSY_BIT: reserved, not yet committed
	discardBit = 1 << 30 // BPF_RINGBUF_DISCARD_BIT: committed, to be skipped
	flagBits   = busyBit | discardBit
)

// ErrCorrupt is wrapped by [Ring.Err] where the positions or a record's length
// cannot be what the kernel wrote, as when something else moved the ring's
// consumer position.
var ErrCorrupt = errors.New("the ring is corrupt")

// Ring is one mapped ring buffer and the reader's place in it. Make one with
// [Open].
//
// The reader's own position runs ahead of the published consumer position
// (consumer_pos): [Ring.Next] moves the first, [Ring.Commit] publishes it.
type Ring struct {
	data records // the data pages, twice in a row
	mask uint64  // the ring's size - 1

	pos  uint64 // the reader's position: where the next header is
	prod uint64 // producer_pos when last loaded; equals pos once err is set

	lastLength uint32 // of a record handed out, and
	lastSize   uint64 // what it took

	committed uint64 // consumer_pos as this reader last stored it
	read      uint64 // records handed out
	discarded uint64 // records skipped
	start     uint64 // consumer_pos when opened

	consPos, prodPos *uint64 // into the mapping; atomic access only

	busyPos   uint64    // where head last met a busy record, and
	busySince time.Time // when it first did; zero: never
	err       error

	unmap  func() error
	fd     int     // the ring's own duplicate of the map's file descriptor; -1: none
	poller *Poller // the poller it is registered with
}

// newRing reads the ring of size bytes whose consumer and producer positions
// are at cons and prod and whose data, twice in a row, is data.
func newRing(cons, prod *uint64, data []byte) *Ring {
	r := &Ring{
		data:     recordsIn(data),
		mask:     uint64(len(data)/2) - 1,
		lastSize: recordSize(0),
		consPos:  cons,
		prodPos:  prod,
		unmap:    func() error { return nil },
		fd:       -1,
	}
	// A ring that was read before, by way of a pin, does not begin at 0.
	r.start = atomic.LoadUint64(cons)
	r.pos, r.prod, r.committed = r.start, r.start, r.start
	if r.pos%headerSize != 0 {
		r.corrupt("consumer position %d is not a multiple of %d", r.pos, headerSize)
	}
	return r
}

// Next returns the next record that was submitted, skipping the discarded
// ones before it. ok is false where there is none: because everything was
// read, because the record at the head is not committed yet (see [Ring.Busy]),
// or because the ring is corrupt (see [Ring.Err]).
//
// sample is the record's payload in the ring's own memory: 8-byte aligned,
// read-only (a write faults), possibly empty, and valid until the next call of
// [Ring.Commit], [Poller.Wait] or [Ring.Close]. Its capacity is its length.
func (r *Ring) Next() (sample []byte, ok bool) {
	// The usual cases alone, so that it stays short: submitted records below the
	// producer position as last loaded. nextSlow sorts out everything else.
	if pos := r.pos; pos != r.prod {
		off := pos & r.mask
		length := r.data.header(off)
		if length == r.lastLength {
			// Where a record ends is not computed from its header here, but from the
			// one before: so the processor, which guesses the branch, can load the next
			// headers while this one still comes from memory.
			if n := r.lastSize; n <= r.prod-pos {
				r.pos = pos + n
				r.read++
				return r.data.sample(off, length), true
			}
		} else if length < discardBit {
			if n := recordSize(length); n <= r.prod-pos {
				r.lastLength, r.lastSize = length, n
				r.pos = pos + n
				r.read++
				return r.data.sample(off, length), true
			}
		}
	}
	return r.nextSlow()
}

//go:noinline
func (r *Ring) nextSlow() ([]byte, bool) {
	length, s := r.head()
	if s != ready {
		return nil, false
	}
	off := r.pos & r.mask
	r.pos += recordSize(length)
	r.read++
	return r.data.sample(off, length), true
}

// Peek returns what Next would return, and leaves it to Next. The sample is valid
// as long as one of Next.
func (r *Ring) Peek() (sample []byte, ok bool) {
	length, s := r.head()
	if s != ready {
		return nil, false
	}
	return r.data.sample(r.pos&r.mask, length), true
}

// state is what stands at the reader's position.
type state uint8

const (
	drained state = iota // nothing
	ready                // a submitted record
	busy                 // a record not yet committed
	corrupt              // nothing that can be trusted
)

// head moves the reader's position past discarded records and says what stands
// there, with the length of its payload where that is a record.
func (r *Ring) head() (length uint32, s state) {
	for {
		if r.pos == r.prod {
			if r.err != nil {
				return 0, corrupt
			}
			// The shared line is loaded once per batch: each load of it takes
			// it away from the producers.
			r.prod = atomic.LoadUint64(r.prodPos)
			if avail := r.prod - r.pos; avail > r.mask || avail%headerSize != 0 {
				r.corrupt("producer position %d cannot follow consumer position %d in a ring of %d bytes", r.prod, r.pos, r.mask+1)
				return 0, corrupt
			}
			if r.pos == r.prod {
				return 0, drained
			}
		}
		hdr := r.data.header(r.pos & r.mask)
		length = hdr &^ flagBits
		n := recordSize(length)
		if n > r.prod-r.pos {
			r.corrupt("record at position %d, length %d, runs past producer position %d", r.pos, length, r.prod)
			return 0, corrupt
		}
		if hdr&busyBit != 0 {
			if r.busyPos != r.pos || r.busySince.IsZero() {
				r.busyPos, r.busySince = r.pos, time.Now()
			}
			return length, busy
		}
		if hdr&discardBit == 0 {
			return length, ready
		}
		r.pos += n
		r.discarded++
	}
}

// corrupt stops the reader where it stands, for good.
func (r *Ring) corrupt(format string, args ...any) {
	r.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	r.prod = r.pos
}

// recordSize is what a record with a payload of length bytes takes in the ring,
// header and padding included. The length is there even while the record is
// busy: the kernel writes it before it moves producer_pos past the record.
func recordSize(length uint32) uint64 {
	return (uint64(length) + headerSize + 7) &^ 7
}

// Commit publishes the reader's position as consumer_pos, which gives the space
// of all records read so far back to the producers and ends the life of their
// samples. It costs nothing where there is nothing to publish.
//
// A commit for every record is slow for both sides, and one only when the ring
// is drained makes producers wait for space: commit when [Ring.Held] passes a
// part of the ring, say an eighth. The last one may be left to [Poller.Wait].
func (r *Ring) Commit() {
	if r.committed != r.pos {
		r.committed = r.pos
		// Sequentially consistent, hence also a full barrier between this store
		// and the loads by which the caller then finds the ring drained. The
		// kernel has the other half (an xchg of the length, then a load of
		// consumer_pos), so a record either is seen by that load or wakes.
		atomic.StoreUint64(r.consPos, r.pos)
	}
}

// Held is the space of the records read, or skipped as discarded, since the
// last [Ring.Commit], in bytes with headers and padding.
func (r *Ring) Held() uint64 { return r.pos - r.committed }

// Size is the ring's size in bytes (its max_entries).
func (r *Ring) Size() int { return int(r.mask + 1) }

// Positions returns consumer_pos and producer_pos as they stand in the ring:
// byte counts since the ring was created, at most Size apart, that wrap at 2⁶⁴.
// After [Ring.Close] both are the last consumer position.
func (r *Ring) Positions() (cons, prod uint64) {
	// In this order, as the other could find cons ahead of prod.
	cons = atomic.LoadUint64(r.consPos)
	return cons, atomic.LoadUint64(r.prodPos)
}

// Avail is the fill of the ring in bytes, with headers and padding: what is
// reserved, committed, or read and not yet given back by [Ring.Commit]. It is
// what bpf_ringbuf_query(BPF_RB_AVAIL_DATA) answers.
func (r *Ring) Avail() uint64 {
	cons, prod := r.Positions()
	return prod - cons
}

// Counters counts what a reader passed since it was opened.
type Counters struct {
	Records   uint64 // submitted records, handed out by Next
	Discarded uint64 // discarded records, skipped
	Bytes     uint64 // ring space of both, headers and padding included
}

// Counters returns the counts so far.
func (r *Ring) Counters() Counters {
	return Counters{Records: r.read, Discarded: r.discarded, Bytes: r.pos - r.start}
}

// Busy reports whether the record at the head is reserved but not committed,
// and for how long this reader has known: the age counts from the first Next,
// Busy or [Poller.Wait] that met the record, so the real one is higher.
// Nothing behind such a record can be read before its program ends it.
func (r *Ring) Busy() (age time.Duration, ok bool) {
	if _, s := r.head(); s != busy {
		return 0, false
	}
	return time.Since(r.busySince), true
}

// Unread is what lies between the reader's position and the producer position.
type Unread struct {
	Records   uint64 // submitted, whether or not a busy record is before them
	Discarded uint64
	Busy      uint64 // reserved, not yet committed
}

// Unread counts the records not yet read, and consumes none. It looks past busy
// records, as the ones behind them were submitted too. It takes time in
// proportion to their number, and is a snapshot where producers are running.
// It counts nothing from the point on where the ring is corrupt.
func (r *Ring) Unread() Unread {
	var u Unread
	prod := r.prod
	if r.err == nil {
		prod = atomic.LoadUint64(r.prodPos)
	}
	if avail := prod - r.pos; avail > r.mask || avail%headerSize != 0 {
		return u // Next will say so
	}
	for pos := r.pos; pos != prod; {
		hdr := r.data.header(pos & r.mask)
		n := recordSize(hdr &^ flagBits)
		if n > prod-pos {
			break
		}
		switch {
		case hdr&busyBit != 0:
			u.Busy++
		case hdr&discardBit != 0:
			u.Discarded++
		default:
			u.Records++
		}
		pos += n
	}
	return u
}

// Err says why the reader stopped for good: an error that wraps [ErrCorrupt],
// or nil.
func (r *Ring) Err() error { return r.err }
