// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

var testMeta = &Meta{
	Version: "test", Args: []string{"exec", "--write", "x"}, Host: "host", Kernel: "6.1.0", Arch: "amd64",
	PageSize: 4096, CPUs: 4, Start: time.Unix(1, 2).UTC(), StartBoot: 3,
	Tracers: []Tracer{{Name: "exec", Failed: true, Hook: "tracepoint", Layout: []string{"A 0 uint64", "size 8"}}},
}

var testEnd = &End{Time: time.Unix(5, 6).UTC(), Unfollowed: 7, Tracers: []Books{{
	CPU:    []Ledger{{Hits: 9, Filtered: 1, Lost: 2, Discarded: 3, Submitted: 3}, {}},
	Missed: 1, Consumed: 3, Recorded: 2, Unwritten: 1, Left: 4,
}}}

// testRecord returns record i: of a length that differs, with its number in it.
func testRecord(i int) []byte {
	b := make([]byte, 8+i*7%300)
	binary.NativeEndian.PutUint64(b, uint64(i))
	for j := range b[8:] {
		b[8+j] = byte(i + j/16)
	}
	return b
}

// record makes a recording of n records, in chunks of perChunk.
func record(tb testing.TB, n, perChunk int) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, testMeta)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		if err := w.Record(testRecord(i), int64(i/100)); err != nil {
			tb.Fatal(err)
		}
		if (i+1)%perChunk == 0 {
			if err := w.Flush(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(testEnd); err != nil {
		tb.Fatal(err)
	}
	if w.Written() != uint64(n) || w.Size() != int64(b.Len()) {
		tb.Fatalf("written %d records, %d bytes; want %d and %d", w.Written(), w.Size(), n, b.Len())
	}
	return b.Bytes()
}

// read is what a reader finds: the numbers of the records, and the damages.
func read(tb testing.TB, r io.Reader) (numbers []int, damages []*Damage, end *End, err error) {
	tb.Helper()
	c, err := Open(r)
	if err != nil {
		return nil, nil, nil, err
	}
	for {
		b, _, err := c.Next()
		var d *Damage
		switch {
		case errors.As(err, &d):
			damages = append(damages, d)
			continue
		case errors.Is(err, io.EOF):
			if _, _, err := c.Next(); !errors.Is(err, io.EOF) {
				tb.Errorf("behind the end: %v", err)
			}
			return numbers, damages, c.End(), nil
		case err != nil:
			return numbers, damages, c.End(), err
		}
		if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 != 0 {
			tb.Fatal("a record is not aligned")
		}
		if len(b) >= 8 {
			numbers = append(numbers, int(binary.NativeEndian.Uint64(b)))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 5000} {
		file := record(t, n, 1<<30)
		c, err := Open(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(testMeta, &c.Meta); diff != "" {
			t.Error(diff)
		}
		for i := range n {
			b, wall, err := c.Next()
			if err != nil || wall != int64(i/100) || !bytes.Equal(b, testRecord(i)) {
				t.Fatalf("record %d of %d: %x, %d, %v", i, n, b, wall, err)
			}
		}
		if _, _, err := c.Next(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(testEnd, c.End()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestGiantRecord(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, testMeta)
	if err != nil {
		t.Fatal(err)
	}
	giant := make([]byte, MaxRecord)
	for _, record := range [][]byte{testRecord(0), giant, testRecord(1)} {
		if err := w.Record(record, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Record(make([]byte, MaxRecord+1), 0); err == nil {
		t.Error("a record that nothing can read is taken")
	}
	if err := w.Close(testEnd); err != nil {
		t.Fatal(err)
	}
	if numbers, damages, _, err := read(t, &b); err != nil || len(damages) != 0 || len(numbers) != 3 {
		t.Errorf("%d records, %v, %v", len(numbers), damages, err)
	}
}

// Wherever a recording is cut, what was whole before that is there, and the place
// is told.
func TestCut(t *testing.T) {
	const n, perChunk = 50, 5
	file := record(t, n, perChunk)
	wholeAt := func(size int) int { // records in whole chunks
		numbers := 0
		for at := magicSize; at+headSize <= size; {
			h, ok := parseHead(file[at : at+headSize])
			if !ok {
				t.Fatalf("no head at %d", at)
			}
			at += headSize + int(h.stored)
			if at <= size {
				numbers += int(h.records)
			}
		}
		return numbers
	}
	opened := 0
	for size := range len(file) {
		numbers, damages, end, err := read(t, bytes.NewReader(file[:size]))
		if err != nil {
			continue // in the meta chunk
		}
		opened++
		if len(damages) != 1 || !damages[0].Cut || damages[0].Offset > int64(size) || end != nil {
			t.Fatalf("cut at %d: %v, end %v", size, damages, end)
		}
		if want := wholeAt(size); len(numbers) != want {
			t.Fatalf("cut at %d: %d records, want %d", size, len(numbers), want)
		}
	}
	if opened < len(file)/2 {
		t.Errorf("only %d of %d could be opened", opened, len(file))
	}
}

// Wherever a byte is damaged, the records of the other chunks are there, and the
// place is told.
func TestDamage(t *testing.T) {
	const n, perChunk = 50, 5
	file := record(t, n, perChunk)
	meta, _ := parseHead(file[magicSize : magicSize+headSize])
	for at := magicSize + headSize + int(meta.stored); at < len(file); at++ {
		bad := bytes.Clone(file)
		bad[at] ^= 0x10
		numbers, damages, _, err := read(t, bytes.NewReader(bad))
		if err != nil || len(damages) == 0 {
			t.Fatalf("byte %d: %v, %v", at, damages, err)
		}
		if d := damages[0]; d.Offset > int64(at) || d.Offset < int64(at)-1000 {
			t.Fatalf("byte %d: told for byte %d", at, d.Offset)
		}
		if len(numbers) < n-perChunk {
			t.Fatalf("byte %d: %d records", at, len(numbers))
		}
		for i, number := range numbers { // whole and in order
			if i > 0 && number <= numbers[i-1] || number >= n {
				t.Fatalf("byte %d: records %v", at, numbers)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	file := record(t, 10, 2)
	var chunks [][]byte
	for at := magicSize; at < len(file); {
		h, _ := parseHead(file[at : at+headSize])
		end := at + headSize + int(h.stored)
		chunks = append(chunks, file[at:end])
		at = end
	}
	for _, test := range []struct {
		order   []int
		records int
		want    string
	}{
		{[]int{0, 1, 2, 3, 4, 5, 6}, 10, ""},
		{[]int{0, 1, 3, 4, 5, 6}, 8, "1 chunks are missing"},
		{[]int{0, 1, 2, 2, 3, 4, 5, 6}, 10, "here again"},
		{[]int{0, 1, 2, 0, 3, 4, 5, 6}, 10, "here again"},
		{[]int{0, 1, 2, 3, 4, 5, 6, 5}, 10, "here again"},
		{[]int{1, 2, 3}, 0, "the beginning is missing|missing in front"},
	} {
		b := appendMagic(nil)
		for _, i := range test.order {
			b = append(b, chunks[i]...)
		}
		numbers, damages, _, err := read(t, bytes.NewReader(b))
		told := fmt.Sprint(damages, err)
		ok := test.want == "" && len(damages) == 0
		for want := range strings.SplitSeq(test.want, "|") {
			ok = ok || want != "" && strings.Contains(told, want)
		}
		if len(numbers) != test.records || !ok {
			t.Errorf("chunks %v: %d records, %s; want %d, %q", test.order, len(numbers), told, test.records, test.want)
		}
	}
	// Rubbish behind the end.
	for _, tail := range []string{"x", strings.Repeat("x", 1<<18)} {
		numbers, damages, end, err := read(t, strings.NewReader(string(file)+tail))
		if len(numbers) != 10 || len(damages) != 1 || damages[0].Cut || end == nil || err != nil {
			t.Errorf("%d records, %v, %v, %v", len(numbers), damages, end, err)
		}
	}
}

func TestNoRecording(t *testing.T) {
	other := record(t, 1, 1)
	other[8] = 2
	swapped := record(t, 1, 1)
	swapped[12], swapped[15] = swapped[15], swapped[12]
	for text, want := range map[string]string{
		"":                         "no recording",
		"rbtrace":                  "no recording",
		"#!/bin/sh\nexit 0\n# ...": "no recording",
		string(other):              "version 2 of the format",
		string(swapped):            "byte order",
	} {
		if _, err := Open(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want something about %q", text, err, want)
		}
	}
}

// fullDisk is a file with room for so many bytes.
type fullDisk struct {
	bytes.Buffer
	room int
}

func (f *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), f.room-f.Len())
	f.Buffer.Write(b[:n])
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (f *fullDisk) Truncate(size int64) error {
	f.Buffer.Truncate(int(size))
	return nil
}

func (f *fullDisk) Seek(to int64, _ int) (int64, error) {
	if to != int64(f.Len()) {
		return 0, errors.New("sought elsewhere")
	}
	return to, nil
}

// A full disk stops the recording; what was written is readable, and has an end
// where there is room for it.
func TestFullDisk(t *testing.T) {
	ended := 0
	for room := 2000; room < 12000; room += 97 {
		f := &fullDisk{room: room}
		w, err := NewWriter(f, testMeta)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		random := make([]byte, 1000)
		for err == nil {
			for i := range random {
				random[i] = byte(r.Uint32())
			}
			if err = w.Record(random, 0); err == nil {
				err = w.Flush()
			}
		}
		if !errors.Is(err, syscall.ENOSPC) || !errors.Is(w.Record(random, 0), syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := w.Close(testEnd); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		numbers, damages, end, err := read(t, &f.Buffer)
		if err != nil || uint64(len(numbers)) != w.Written() || end == nil && len(damages) != 1 {
			t.Fatalf("room for %d: %d records of %d, %v, %v", room, len(numbers), w.Written(), damages, err)
		}
		if end != nil {
			ended++
		}
	}
	if ended == 0 {
		t.Error("no recording has an end")
	}
}

// Nothing is allocated for a record.
func TestNoAllocation(t *testing.T) {
	w, err := NewWriter(io.Discard, testMeta)
	if err != nil {
		t.Fatal(err)
	}
	b := testRecord(40)
	record := func() {
		for range 10000 {
			if err := w.Record(b, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	record()
	if n := testing.AllocsPerRun(10, record); n > 100 {
		t.Errorf("%v allocations for 10000 records", n)
	}
}

// Whatever a file holds, the reader comes to an end, with no panic and in bounded
// memory.
func FuzzReader(f *testing.F) {
	whole := record(f, 20, 3)
	f.Add(whole, false)
	f.Add(whole[:len(whole)-100], false)
	f.Add(record(f, 300, 300), true)
	f.Add([]byte(magic), false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = mendSums(bytes.Clone(b))
		}
		_, damages, _, _ := read(t, bytes.NewReader(b))
		for _, d := range damages {
			if d.Offset < 0 || d.Offset > int64(len(b)) {
				t.Errorf("damage at %d of %d bytes", d.Offset, len(b))
			}
		}
	})
}

// mendSums makes the checksums right, so that the fuzzer gets behind them.
func mendSums(b []byte) []byte {
	for at := magicSize; at+headSize <= len(b); {
		stored := uint64(binary.LittleEndian.Uint32(b[at+16:]))
		end := min(uint64(at+headSize)+stored, uint64(len(b)))
		h := head{
			kind: kind(b[at+4]), codec: codec(b[at+5]),
			number: binary.LittleEndian.Uint32(b[at+8:]), records: binary.LittleEndian.Uint32(b[at+12:]),
			stored: uint32(stored), length: binary.LittleEndian.Uint32(b[at+20:]),
			sum: crc32.Checksum(b[at+headSize:end], castagnoli),
		}
		copy(b[at:], h.appendTo(nil))
		at = int(end)
	}
	return b
}

func BenchmarkRecord(b *testing.B) {
	w, err := NewWriter(io.Discard, testMeta)
	if err != nil {
		b.Fatal(err)
	}
	records := make([][]byte, 1000)
	for i := range records {
		records[i] = testRecord(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := w.Record(records[i%len(records)], 0); err != nil {
			b.Fatal(err)
		}
	}
}
