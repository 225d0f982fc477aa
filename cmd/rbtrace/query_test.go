// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/ringquery"
)

func someRings() *ringquery.Snapshot {
	return &ringquery.Snapshot{
		Time: time.Date(2026, 11, 22, 19, 17, 22, 1000, time.FixedZone("CET", 3600)),
		Rings: []ringquery.Ring{
			{ID: 7, Name: "rb_ring", State: ringquery.State{AvailData: 32, RingSize: 4096, ConsPos: 64, ProdPos: 96}},
			{ID: 12, State: ringquery.State{RingSize: 1 << 31}},
			// The kernel takes letters, digits, _ and . alone; that is not for a terminal to rely on.
			{ID: math.MaxUint32, Name: "\x1b[2J\n\"\xff \u202e", State: ringquery.State{AvailData: 1 << 31, RingSize: 1 << 31, ConsPos: 1 << 63, ProdPos: 1<<63 + 1<<31}},
		},
	}
}

func TestRingsJSON(t *testing.T) {
	const want = `{"type":"ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":7,"name":"rb_ring","avail_data":32,"ring_size":4096,"cons_pos":64,"prod_pos":96}
{"type":"ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":12,"name":"","avail_data":0,"ring_size":2147483648,"cons_pos":0,"prod_pos":0}
{"type":"ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":4294967295,"name":"\u001b[2J\n\"` + "\uFFFD" + ` \u202e","avail_data":2147483648,"ring_size":2147483648,"cons_pos":9223372036854775808,"prod_pos":9223372039002259456}
`
	got := string(appendRings(nil, someRings()))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for line := range strings.Lines(got) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if got := appendRings(nil, &ringquery.Snapshot{}); len(got) != 0 {
		t.Errorf("no rings: %q", got)
	}
}

func TestRingsTable(t *testing.T) {
	var got bytes.Buffer
	if err := renderRings(&got, someRings()); err != nil {
		t.Fatal(err)
	}
	const want = `        ID  NAME                   AVAIL_DATA   RING_SIZE             CONS_POS             PROD_POS
         7  rb_ring                        32        4096                   64                   96
        12  -                               0  2147483648                    0                    0
4294967295  \x1b[2J\n"\xff \u202e  2147483648  2147483648  9223372036854775808  9223372039002259456
`
	if diff := cmp.Diff(want, trimLines(got.String())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	got.Reset()
	if err := renderRings(&got, &ringquery.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	if got, want := trimLines(got.String()), "ID  NAME  AVAIL_DATA  RING_SIZE  CONS_POS  PROD_POS\n"; got != want {
		t.Errorf("no rings: got %q, want %q", got, want)
	}
}

func trimLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

func TestMapIDs(t *testing.T) {
	if got, err := mapIDs([]uint{9, 7}); err != nil || len(got) != 2 || got[0] != 9 || got[1] != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	var usage usageError
	if _, err := mapIDs([]uint{math.MaxUint32 + 1}); !errors.As(err, &usage) {
		t.Errorf("an id beyond 32 bits: %v", err)
	}
}
