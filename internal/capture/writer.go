// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// batchSize is how many bytes of records are gathered for a chunk. Records of
	// exec (170 bytes on average) shrink to a ninth in chunks of 16 KiB, to an eleventh
	// in chunks of 256 KiB, and no further in larger ones, at 0.3 µs a record with
	// zstd's fastest level. The slower levels make nothing smaller.
	batchSize = 256 << 10
	// compressFrom is the payload from which on zstd is tried: with a few records it
	// saves a tenth and takes 10 µs.
	compressFrom = 1 << 10
)

// Writer writes a recording. Its methods belong to one goroutine.
type Writer struct {
	w       io.Writer
	file    truncater // w, if it can be shortened
	encoder *zstd.Encoder
	batch   []byte // payload of the chunk that is being gathered
	wall    int64  // of its records
	records uint32 // in it
	chunk   []byte // memory of the chunk that is being written
	number  uint32 // of the next chunk
	size    int64  // of what is whole
	written uint64
	err     error // the first, for good
}

// truncater is a file that can be shortened.
type truncater interface {
	io.Seeker
	Truncate(size int64) error
}

// NewWriter begins a recording. Where w can be sought and truncated, as an
// *os.File can, it is taken for an empty file of the Writer's own: what a failed
// write leaves is cut off, so the file ends with a whole chunk. It remains the
// caller's to close.
func NewWriter(w io.Writer, meta *Meta) (*Writer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(batchSize), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("preparing zstd: %w", err)
	}
	text, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encoding what the recording is of: %w", err)
	}
	c := &Writer{w: w, encoder: encoder, batch: make([]byte, wallSize, batchSize)}
	c.file, _ = w.(truncater)
	c.chunk = appendMagic(c.chunk)
	return c, c.write(kindMeta, codecNone, text, 0)
}

// Record adds a record; wall is what to add to its boot clock to get Unix time,
// in ns. It is copied. Once writing has failed, every call returns the same
// error.
func (c *Writer) Record(raw []byte, wall int64) error {
	if c.err != nil {
		return c.err
	}
	if len(raw) > MaxRecord {
		return fmt.Errorf("a record of %d bytes is more than a recording takes (%d)", len(raw), MaxRecord)
	}
	if c.records > 0 && (wall != c.wall || len(c.batch)+recordHead+len(raw) > batchSize) {
		if err := c.Flush(); err != nil {
			return err
		}
	}
	c.wall = wall
	c.batch = binary.LittleEndian.AppendUint32(c.batch, uint32(len(raw)))
	c.batch = append(c.batch, 0, 0, 0, 0)
	c.batch = append(c.batch, raw...)
	c.batch = append(c.batch, make([]byte, pad(len(raw)))...)
	c.records++
	return nil
}

// Flush writes the records that were gathered, as a chunk.
func (c *Writer) Flush() error {
	if c.err != nil || c.records == 0 {
		return c.err
	}
	binary.LittleEndian.PutUint64(c.batch, uint64(c.wall))
	records := c.records
	c.records = 0
	err := c.write(kindRecords, codecZstd, c.batch, records)
	if err == nil {
		c.written += uint64(records)
	}
	if cap(c.batch) > batchSize { // a giant record
		c.batch = make([]byte, wallSize, batchSize)
	}
	c.batch = c.batch[:wallSize]
	return err
}

// Written is the number of records in the file.
func (c *Writer) Written() uint64 { return c.written }

// Size is the number of bytes in the file.
func (c *Writer) Size() int64 { return c.size }

// Close writes what was gathered and the end. In a file of the Writer's own it
// tries to after a failed write, too, as the end takes little room. It returns the
// first error.
func (c *Writer) Close(end *End) error {
	err := c.Flush()
	if err != nil && (c.file == nil || c.number == 0) {
		return err
	}
	text, jerr := json.Marshal(end)
	if jerr != nil {
		return fmt.Errorf("encoding the ledger: %w", jerr)
	}
	c.err = nil
	if werr := c.write(kindEnd, codecNone, text, 0); err == nil {
		err = werr
	}
	return err
}

// write writes a chunk, and in front of the first one the magic, which c.chunk
// holds then.
func (c *Writer) write(k kind, with codec, payload []byte, records uint32) error {
	begin := len(c.chunk)
	c.chunk = append(c.chunk, make([]byte, headSize)...)
	body := len(c.chunk)
	if len(payload) < compressFrom {
		with = codecNone
	}
	if with == codecZstd {
		c.chunk = c.encoder.EncodeAll(payload, c.chunk)
		if len(c.chunk)-body >= len(payload) {
			with, c.chunk = codecNone, c.chunk[:body]
		}
	}
	if with == codecNone {
		c.chunk = append(c.chunk, payload...)
	}
	stored := c.chunk[body:]
	h := head{
		kind: k, codec: with, number: c.number, records: records,
		stored: uint32(len(stored)), length: uint32(len(payload)), sum: crc32.Checksum(stored, castagnoli),
	}
	h.appendTo(c.chunk[:begin])
	n, err := c.w.Write(c.chunk)
	if err == nil && n < len(c.chunk) {
		err = io.ErrShortWrite
	}
	if err != nil {
		c.err = err
		c.shorten()
		c.chunk = c.chunk[:0]
		return err
	}
	c.size += int64(len(c.chunk))
	c.number++
	c.chunk = c.chunk[:0]
	return nil
}

// shorten cuts off what a failed write has left.
func (c *Writer) shorten() {
	if c.file == nil {
		return
	}
	if c.file.Truncate(c.size) != nil {
		c.file = nil // a device: there is nothing to be saved
		return
	}
	if _, err := c.file.Seek(c.size, io.SeekStart); err != nil {
		c.file = nil
	}
}
