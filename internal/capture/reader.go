// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Damage is a part of a recording that cannot be read.
type Damage struct {
	Offset int64 // where it begins in the file
	// Records is how many records are known to be in it. There may be more.
	Records uint64
	What    string
	// Cut says that the recording ends here, without its end.
	Cut bool
}

// Error implements error.
func (d *Damage) Error() string {
	s := fmt.Sprintf("at byte %d: %s", d.Offset, d.What)
	if d.Records > 0 {
		s += fmt.Sprintf(": %d records cannot be read", d.Records)
	}
	return s
}

const behindEnd = "there is more behind the end"

// Reader reads a recording. Its methods belong to one goroutine.
type Reader struct {
	// Meta says where the recording comes from.
	Meta Meta

	r       *bufio.Reader
	decoder *zstd.Decoder
	at      int64  // offset of what r gives next
	number  uint32 // of the next chunk
	stored  []byte // memory of a payload in the file
	plain   []byte // memory of a payload, uncompressed
	rest    []byte // the records of the chunk that are still to come
	restAt  int64  // offset of that chunk
	left    uint32 // how many they are to be
	wall    int64
	end     *End
	ended   bool // nothing more comes
}

// Open begins to read a recording, which remains the caller's to close. The error
// says what the file is, if it is no recording.
func Open(r io.Reader) (*Reader, error) {
	// Memory is bounded by maxPayload, whatever a frame says.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxPayload), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("preparing zstd: %w", err)
	}
	c := &Reader{r: bufio.NewReaderSize(r, 64<<10), decoder: decoder}
	first := make([]byte, magicSize)
	n, err := io.ReadFull(c.r, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if err := checkMagic(first[:n]); err != nil {
		return nil, err
	}
	c.at = magicSize
	h, payload, err := c.chunk()
	if err == nil && h.kind != kindMeta {
		err = &Damage{Offset: magicSize, What: "the beginning is missing"}
	}
	if err == nil {
		if jerr := json.Unmarshal(payload, &c.Meta); jerr != nil {
			err = &Damage{Offset: magicSize, What: jerr.Error()}
		}
	}
	if err == nil {
		err = c.Meta.check()
	}
	if err != nil {
		return nil, fmt.Errorf("what the recording is of cannot be read, nor then its records: %w", err)
	}
	return c, nil
}

// Next returns the next record, and what to add to its boot clock to get Unix
// time. The record is 8-byte aligned, and good until the next call.
//
// A *Damage is a part that cannot be read: what is behind it comes with the next
// call. At the end, and after one whose Cut is set, the error is io.EOF. Any other
// error is one of the underlying reader, and final.
func (c *Reader) Next() (record []byte, wall int64, err error) {
	for {
		if len(c.rest) > 0 {
			return c.record()
		}
		if c.ended {
			return nil, 0, io.EOF
		}
		if err := c.load(); err != nil {
			return nil, 0, err
		}
	}
}

// Buffered reports whether Next has something at hand and need not wait for the
// underlying reader. It may be wrong where a chunk has come in part.
func (c *Reader) Buffered() bool { return len(c.rest) > 0 || c.r.Buffered() > 0 }

// record takes a record out of the chunk.
func (c *Reader) record() ([]byte, int64, error) {
	n := uint64(0)
	if len(c.rest) >= recordHead {
		n = uint64(binary.LittleEndian.Uint32(c.rest))
	}
	if recordHead+n > uint64(len(c.rest)) {
		c.rest = nil
		return nil, 0, &Damage{Offset: c.restAt, Records: uint64(c.left), What: "the lengths of its records do not add up"}
	}
	record := c.rest[recordHead : recordHead+n : recordHead+n]
	c.rest = c.rest[min(recordHead+int(n)+pad(int(n)), len(c.rest)):]
	c.left -= min(c.left, 1)
	return record, c.wall, nil
}

// load reads the next chunk.
func (c *Reader) load() error {
	begin := c.at
	h, payload, err := c.chunk()
	if err != nil {
		return err
	}
	switch {
	case c.end != nil:
		return &Damage{Offset: begin, Records: uint64(h.records), What: behindEnd}
	case h.kind == kindRecords && len(payload) >= wallSize:
		c.wall = int64(binary.LittleEndian.Uint64(payload))
		c.rest, c.restAt, c.left = payload[wallSize:], begin, h.records
		return nil
	case h.kind == kindEnd:
		end := new(End)
		if err := json.Unmarshal(payload, end); err != nil {
			return &Damage{Offset: begin, What: "the ledger: " + err.Error()}
		}
		c.end = end
		return nil
	}
	return &Damage{Offset: begin, Records: uint64(h.records), What: fmt.Sprintf("a chunk of kind %d is out of place", h.kind)}
}

// End returns what was known when the recording ended: nil if that cannot be
// read, or until Next has returned io.EOF.
func (c *Reader) End() *End { return c.end }

// chunk reads the next chunk whose head is whole. The payload is good until the
// next call.
func (c *Reader) chunk() (h head, payload []byte, err error) {
	begin := c.at
	b, err := c.r.Peek(headSize)
	switch {
	case len(b) == headSize:
	case !errors.Is(err, io.EOF):
		return h, nil, err
	case len(b) == 0 && c.end != nil:
		c.ended = true
		return h, nil, io.EOF
	default:
		return h, nil, c.cut(begin, 0)
	}
	h, ok := parseHead(b)
	if !ok {
		return h, nil, c.resync(begin)
	}
	if h.number < c.number {
		return h, nil, c.misplaced(h, begin)
	}
	if n := h.number - c.number; n > 0 {
		c.number = h.number // and the chunk comes with the next call
		return h, nil, &Damage{Offset: begin, What: fmt.Sprintf("%d chunks are missing in front of this one", n)}
	}
	c.number++
	c.skip(headSize)
	if uint32(cap(c.stored)) < h.stored {
		c.stored = make([]byte, h.stored)
	}
	c.stored = c.stored[:h.stored]
	n, err := io.ReadFull(c.r, c.stored)
	c.at += int64(n)
	switch {
	case errors.Is(err, io.EOF) && h.stored > 0, errors.Is(err, io.ErrUnexpectedEOF):
		return h, nil, c.cut(begin, h.records)
	case err != nil && !errors.Is(err, io.EOF):
		return h, nil, err
	}
	if sum := crc32.Checksum(c.stored, castagnoli); sum != h.sum {
		return h, nil, &Damage{Offset: begin, Records: uint64(h.records), What: fmt.Sprintf("%d bytes are corrupt", headSize+h.stored)}
	}
	if payload, err = c.unpack(h); err != nil {
		return h, nil, &Damage{Offset: begin, Records: uint64(h.records), What: err.Error()}
	}
	return h, payload, nil
}

func (c *Reader) unpack(h head) ([]byte, error) {
	switch h.codec {
	case codecNone:
		return c.stored, nil
	case codecZstd:
	default:
		return nil, fmt.Errorf("its codec %d is unknown to this version", h.codec)
	}
	// Room of 8 bytes and more is 8-byte aligned: the sizes that Go's allocator
	// hands out are multiples of 8.
	if uint32(cap(c.plain)) < h.length {
		c.plain = make([]byte, 0, max(h.length, batchSize))
	}
	plain, err := c.decoder.DecodeAll(c.stored, c.plain[:0:h.length])
	if err != nil {
		return nil, fmt.Errorf("uncompressing it: %w", err)
	}
	if len(plain) != int(h.length) {
		return nil, fmt.Errorf("it is of %d bytes, not the %d that it says", len(plain), h.length)
	}
	return plain, nil
}

// misplaced passes over a chunk with a number that is behind already.
func (c *Reader) misplaced(h head, begin int64) error {
	c.skip(headSize)
	n, err := io.CopyN(io.Discard, c.r, int64(h.stored))
	c.at += n
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return &Damage{Offset: begin, Records: uint64(h.records), What: "a chunk is here again, or out of order"}
}

// cut ends the reading.
func (c *Reader) cut(at int64, records uint32) error {
	c.ended = true
	if c.end != nil {
		return &Damage{Offset: at, Records: uint64(records), What: behindEnd}
	}
	return &Damage{Offset: at, Records: uint64(records), Cut: true, What: "the recording is cut off"}
}

// resync passes over bytes until a chunk begins.
func (c *Reader) resync(begin int64) error {
	for {
		c.skip(1)
		b, err := c.r.Peek(c.r.Size())
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := 0; ; {
			n := bytes.Index(b[i:], []byte(mark))
			if n < 0 || len(b)-(i+n) < headSize {
				break
			}
			i += n
			if _, ok := parseHead(b[i : i+headSize]); ok {
				c.skip(i)
				return &Damage{Offset: begin, What: fmt.Sprintf("%d bytes are corrupt", c.at-begin)}
			}
			i++
		}
		if errors.Is(err, io.EOF) {
			c.skip(len(b))
			return c.cut(begin, 0)
		}
		c.skip(len(b) - headSize) // a head may have begun
	}
}

// skip passes over bytes that Peek has shown.
func (c *Reader) skip(n int) {
	n, _ = c.r.Discard(n) // they are there
	c.at += int64(n)
}
