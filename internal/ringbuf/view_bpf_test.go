package ringbuf

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

func newView(tb testing.TB, m *ebpf.Map) *View {
	tb.Helper()
	v, err := OpenView(m)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := v.Close(); err != nil {
			tb.Error(err)
		}
	})
	return v
}

// A view sees what the reader sees, several times round the ring, and moves nothing.
func TestViewPeek(t *testing.T) {
	size := os.Getpagesize()
	m, writer := bpftest.NewRing(t, size)
	v := newView(t, m)
	r, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if records, err := v.Peek(10, 100); err != nil || len(records) != 0 {
		t.Errorf("an empty ring: %v, %v", records, err)
	}
	if _, ok, err := v.Head(); ok || err != nil {
		t.Errorf("an empty ring has a head, or %v", err)
	}
	for round := range 101 {
		const n = 3
		var want [n][]byte
		from := uint64(0)
		for i := range n {
			want[i] = numbered(uint64(round), 8+(round*37+i*113)%(bpftest.MaxRecord-8))
			if i == 0 {
				_, _, from = v.Positions()
			}
			if !writer.Write(t, want[i], noWakeup) {
				t.Fatal("the ring is full")
			}
		}
		cons, prod := r.Positions()
		if c, over, p := v.Positions(); c != cons || p != prod || over != 0 {
			t.Fatalf("positions %d, %d, %d, the reader has %d, %d", c, over, p, cons, prod)
		}
		records, err := v.Peek(n+1, bpftest.MaxRecord)
		if err != nil || len(records) != n {
			t.Fatalf("%d records, %v", len(records), err)
		}
		head, ok, err := v.Head()
		if err != nil || !ok || head != records[0].Header {
			t.Errorf("head %+v, %t, %v, the first record is %+v", head, ok, err, records[0].Header)
		}
		counted, ok, err := v.Count(from, prod, 1<<20)
		if err != nil || !ok || counted.Records != n || counted.Bytes != prod-from {
			t.Errorf("counted %+v, %t, %v", counted, ok, err)
		}
		pos := cons
		for i, rec := range records {
			if rec.Pos != pos || rec.Busy || rec.Discarded || rec.Stale || int(rec.Len) != len(want[i]) || !bytes.Equal(rec.Data, want[i]) {
				t.Errorf("round %d: record %d at %d: %+v", round, i, pos, rec.Header)
			}
			pos = rec.End()
		}
		if c, _, p := v.Positions(); c != cons || p != prod {
			t.Fatal("a position moved")
		}
		if few, err := v.Peek(1, 4); err != nil || len(few) != 1 || !bytes.Equal(few[0].Data, want[0][:4]) {
			t.Errorf("one record, four bytes: %v, %v", few, err)
		}
		for i := range n {
			if sample, ok := r.Next(); !ok || !bytes.Equal(sample, want[i]) {
				t.Fatalf("the reader: record %d: %t", i, ok)
			}
		}
		r.Commit()
		// Consumed, but still there.
		if after, ok, err := v.Count(from, prod, 1<<20); err != nil || !ok || after != counted {
			t.Errorf("counted %+v after consuming, %+v before: %t, %v", after, counted, ok, err)
		}
	}
	// More than a ring ago: not there any more.
	if _, ok, err := v.Count(0, uint64(r.Size())*2, 1<<20); ok || err != nil {
		t.Errorf("counted what was overwritten: %v", err)
	}
}

// The pages of a view cannot be made writable, and those of a descriptor that may only
// be read cannot be mapped at all.
func TestViewIsReadOnly(t *testing.T) {
	m, _ := bpftest.NewRing(t, os.Getpagesize())
	v := newView(t, m)
	if err := unix.Mprotect(v.positions, unix.PROT_READ|unix.PROT_WRITE); err == nil {
		t.Error("the positions can be made writable")
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "bpf-map") {
			seen++
			if perms := strings.Fields(line)[1]; perms != "r--s" {
				t.Errorf("mapped %s: %s", perms, line)
			}
		}
	}
	if seen == 0 {
		t.Error("no mapping of the ring in /proc/self/maps")
	}

	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	if _, err := OpenView(array); err == nil {
		t.Error("an array has no positions")
	}
}
