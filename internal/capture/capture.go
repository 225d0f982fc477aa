// SPDX-License-Identifier: Apache-2.0

// Package capture writes and reads recordings: files of raw records, as the
// kernel wrote them, with what is needed to make sense of them elsewhere.
//
// # Format
//
// A recording is a magic of 16 bytes and a sequence of chunks. Numbers of the
// framing are little-endian. Records are as the machine had them: the magic tells
// its byte order.
//
//	 0  "rbtrace" and a NUL
//	 8  uint32  version: 1
//	12  uint32  0x01020304, in the byte order of the machine that recorded
//
// A chunk is a head of 32 bytes and a payload. The head has a checksum of its
// own, so a damaged payload does not hide where the next chunk begins. Where the
// head is damaged, the next chunk is found by its mark.
//
//	 0  mark: 0xd7 "rb" 0xc7
//	 4  uint8   kind: 1 meta, 2 records, 3 end
//	 5  uint8   codec of the payload: 0 none, 1 zstd, one frame
//	 6  uint16  0
//	 8  uint32  number of the chunk, counted from 0
//	12  uint32  number of records in it
//	16  uint32  length of the payload in the file, at most 16 MiB
//	20  uint32  length of the payload, uncompressed, at most 16 MiB
//	24  uint32  CRC-32C of the payload as it is in the file
//	28  uint32  CRC-32C of the 28 bytes before
//
// The first chunk is a meta chunk: Meta as JSON. The last one is an end chunk:
// End as JSON. A file without it was cut. Between them are chunks of records:
//
//	0  int64   what to add to the boot clock of their records to get Unix time, in ns
//	8  the records, each
//	     0  uint32  its length
//	     4  uint32  0
//	     8  its bytes, and zeros up to a multiple of 8
//
// Each chunk stands for itself, so everything in front of a cut, and around
// damage, is readable.
package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/rbtrace/rbtrace/internal/tracer"
)

// Meta says where a recording comes from.
type Meta struct {
	Version  string   `json:"version"` // of rbtrace
	Args     []string `json:"args"`    // the command line, without the program's name
	Host     string   `json:"host"`
	Kernel   string   `json:"kernel"` // release
	Arch     string   `json:"arch"`   // as Go names it
	PageSize int      `json:"page_size"`
	CPUs     int      `json:"cpus"` // that the machine may have

	// Start is when the recording began, by both clocks.
	Start     time.Time `json:"start"`
	StartBoot int64     `json:"start_boot_ns"`

	// Tracers are in the order of the ids in their records.
	Tracers []Tracer `json:"tracers"`
}

// check returns an error for what no rbtrace writes.
func (m *Meta) check() error {
	// Records tell tracer and CPU in 16 bits.
	if n := len(m.Tracers); n < 1 || n > math.MaxUint16 {
		return fmt.Errorf("it names %d tracers", n)
	}
	if m.CPUs < 1 || m.CPUs > math.MaxUint16+1 {
		return fmt.Errorf("it names %d CPUs", m.CPUs)
	}
	return nil
}

// Tracer is one of the tracers of a recording.
type Tracer struct {
	Name   string `json:"name"`
	Failed bool   `json:"failed"` // it shows failed calls
	Hook   string `json:"hook"`   // the kind of hook that was taken
	// Layout is that of the wire type: see tracer.Tracer.Layout.
	Layout []string `json:"layout"`
}

// Check returns an error where the tracer's records do not have the layout that
// this program would give them.
func (r *Tracer) Check(t *tracer.Tracer) error {
	layout := t.Layout()
	for i := range max(len(r.Layout), len(layout)) {
		was, is := "nothing", "nothing"
		if i < len(r.Layout) {
			was = r.Layout[i]
		}
		if i < len(layout) {
			is = layout[i]
		}
		if was != is {
			return fmt.Errorf("its records of %s have another layout than those of this version (%q, here %q)", t.Name, was, is)
		}
	}
	return nil
}

// End is what is known when a recording ends.
type End struct {
	Time    time.Time `json:"time"`
	Tracers []Books   `json:"tracers"` // in the order of Meta.Tracers
	// Unfollowed is how many processes could not be followed.
	Unfollowed uint64 `json:"unfollowed"`
	// Error is what the recording stopped for before it was to: a full disk.
	Error string `json:"error,omitempty"`
}

// Books are the books of one tracer at the end.
type Books struct {
	CPU    []Ledger `json:"cpu"`    // of the kernel's side
	Missed uint64   `json:"missed"` // hits for which the kernel did not run the program

	// What became of the records in user space.
	Consumed  uint64 `json:"consumed"`
	Recorded  uint64 `json:"recorded"`
	Unwritten uint64 `json:"unwritten"`
	Left      uint64 `json:"left"`
}

// Ledger is one CPU's books: see wire.Ledger.
type Ledger struct {
	Hits      uint64 `json:"hits"`
	Filtered  uint64 `json:"filtered"`
	Lost      uint64 `json:"lost"`
	NoEntry   uint64 `json:"no_entry"` // none before there was this column
	Discarded uint64 `json:"discarded"`
	Submitted uint64 `json:"submitted"`
}

const (
	magic     = "rbtrace\x00"
	version   = 1
	byteOrder = 0x01020304
	magicSize = 16

	mark     = "\xd7rb\xc7"
	headSize = 32
	// maxPayload bounds the memory that a chunk takes of its reader.
	maxPayload = 16 << 20
	// recordHead is what stands in front of each record, and wallSize what stands in
	// front of the first.
	recordHead, wallSize = 8, 8
)

// MaxRecord is the size of the largest record that a recording can hold.
const MaxRecord = maxPayload - wallSize - recordHead

type kind uint8

const (
	kindMeta kind = iota + 1
	kindRecords
	kindEnd
)

type codec uint8

const (
	codecNone codec = iota
	codecZstd
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head is the head of a chunk.
type head struct {
	kind    kind
	codec   codec
	number  uint32
	records uint32
	stored  uint32 // length in the file
	length  uint32 // uncompressed
	sum     uint32 // of the payload
}

// appendTo appends the head with its checksum.
func (h *head) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, mark...)
	b = append(b, byte(h.kind), byte(h.codec), 0, 0)
	for _, n := range []uint32{h.number, h.records, h.stored, h.length, h.sum} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseHead reads a head of headSize bytes. It reports false where it is none.
func parseHead(b []byte) (h head, ok bool) {
	const sumAt = headSize - 4
	if string(b[:len(mark)]) != mark || binary.LittleEndian.Uint32(b[sumAt:]) != crc32.Checksum(b[:sumAt], castagnoli) {
		return head{}, false
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	h = head{
		kind: kind(b[4]), codec: codec(b[5]), number: u32(8), records: u32(12),
		stored: u32(16), length: u32(20), sum: u32(24),
	}
	return h, h.stored <= maxPayload && h.length <= maxPayload
}

// appendMagic appends what a recording begins with.
func appendMagic(b []byte) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	return binary.NativeEndian.AppendUint32(b, byteOrder)
}

// ErrNoRecording says that a file is none.
var ErrNoRecording = errors.New("this is no recording: rbtrace TRACER --write FILE makes one")

func checkMagic(b []byte) error {
	if len(b) < magicSize || string(b[:len(magic)]) != magic {
		return ErrNoRecording
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return fmt.Errorf("this recording has version %d of the format, and this rbtrace reads version %d: use the rbtrace that made it, or a newer one", v, version)
	}
	if binary.NativeEndian.Uint32(b[12:]) != byteOrder {
		return errors.New("this recording was made on a machine with another byte order: replay it on one with the same")
	}
	return nil
}

func pad(n int) int { return -n & 7 }
