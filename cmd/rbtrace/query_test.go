// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/ringquery"
)

func someRings() *ringquery.Snapshot {
	still := ringquery.Motion{Verdict: ringquery.Idle, Interval: 100 * time.Millisecond, TimeToFull: -1}
	return &ringquery.Snapshot{
		Time: time.Date(2026, 11, 22, 19, 17, 22, 1000, time.FixedZone("CET", 3600)),
		Rings: []ringquery.Ring{
			{
				ID: 7, Name: "events", Type: ebpf.RingBuf, Memory: 8192, Source: ringquery.Mmap,
				State: ringquery.State{AvailData: 32, RingSize: 262144, ConsPos: 7340064, ProdPos: 7340096},
				Motion: ringquery.Motion{
					Verdict: ringquery.Behind, Interval: 100 * time.Millisecond, Produced: 1e9 / 3, Consumed: 7, ProducedRecords: 2.5,
					ConsumedRecords: 1e6, Estimated: true, HighWater: 96, TimeToFull: time.Second, HeadBusy: true, HeadAge: time.Millisecond,
				},
				Details: &ringquery.Details{
					Owners: []ringquery.Owner{{PID: 5}, {PID: 31337, Comm: "evil\x1b[2J\n"}},
					Programs: []ringquery.Program{
						{ID: 3, Name: "p", Type: "kprobe", AttachedTo: []string{"kprobe do_exit", "uprobe /tmp/\x1b[1m"}},
						{ID: 4, Type: "xdp"},
					},
					Pins:  []string{"/sys/fs/bpf/a b"},
					Outer: []ringquery.Outer{{ID: 9, Name: "outer"}},
				},
			},
			{ID: 12, Type: ebpf.UserRingbuf, Source: ringquery.Mmap, State: ringquery.State{RingSize: 1 << 31}, Motion: still},
			// The kernel takes letters, digits, _ and . alone; that is not for a terminal to rely on.
			{
				ID: math.MaxUint32, Name: "\x1b[2J\n\"\xff \u202e", Type: ebpf.RingBuf, Overwrites: true, Source: ringquery.Helper,
				State:  ringquery.State{AvailData: 1 << 31, RingSize: 1 << 31, ConsPos: 1 << 63, ProdPos: 1<<63 + 1<<31, OverwritePos: 1<<63 - 1},
				Motion: ringquery.Motion{Verdict: ringquery.Stuck, HeadBusy: true, HeadAge: 1230 * time.Millisecond, TimeToFull: -1},
			},
		},
	}
}

func TestRingsJSON(t *testing.T) {
	const want = `{"type":"ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":7,"name":"events","avail_data":32,"ring_size":262144,"cons_pos":7340064,"prod_pos":7340096,"overwrite_pos":0,"fill_percent":0.012,"verdict":"falling behind","overwrites":false,"memory":8192,"source":"mmap","interval_ns":100000000,"produced_bytes_per_s":333333333.333,"consumed_bytes_per_s":7,"produced_records_per_s":2.5,"consumed_records_per_s":1000000,"records_estimated":true,"high_water":96,"time_to_full_ns":1000000000,"head_busy":true,"head_age_ns":1000000,"owners":[{"pid":5,"comm":""},{"pid":31337,"comm":"evil\u001b[2J\n"}],"programs":[{"id":3,"name":"p","type":"kprobe","attached_to":["kprobe do_exit","uprobe /tmp/\u001b[1m"]},{"id":4,"name":"","type":"xdp","attached_to":[]}],"pins":["/sys/fs/bpf/a b"],"outer_maps":[{"id":9,"name":"outer"}]}
{"type":"user_ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":12,"name":"","avail_data":0,"ring_size":2147483648,"cons_pos":0,"prod_pos":0,"overwrite_pos":0,"fill_percent":0,"verdict":"idle","overwrites":false,"memory":0,"source":"mmap","interval_ns":100000000,"produced_bytes_per_s":0,"consumed_bytes_per_s":0,"produced_records_per_s":0,"consumed_records_per_s":0,"records_estimated":false,"high_water":0,"time_to_full_ns":-1,"head_busy":false,"head_age_ns":0,"owners":[],"programs":[],"pins":[],"outer_maps":[]}
{"type":"ringbuf","time":"2026-11-22T18:17:22.000001000Z","id":4294967295,"name":"\u001b[2J\n\"` + "\uFFFD" + ` \u202e","avail_data":2147483648,"ring_size":2147483648,"cons_pos":9223372036854775808,"prod_pos":9223372039002259456,"overwrite_pos":9223372036854775807,"fill_percent":100,"verdict":"stuck head","overwrites":true,"memory":0,"source":"helper","interval_ns":0,"produced_bytes_per_s":0,"consumed_bytes_per_s":0,"produced_records_per_s":0,"consumed_records_per_s":0,"records_estimated":false,"high_water":0,"time_to_full_ns":-1,"head_busy":true,"head_age_ns":1230000000,"owners":[],"programs":[],"pins":[],"outer_maps":[]}
`
	got := string(appendRings(nil, someRings()))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	types := make(map[string]string)
	for line := range strings.Lines(got) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for key, value := range object {
			kind := fmt.Sprintf("%T", value)
			if was, ok := types[key]; ok && was != kind {
				t.Errorf("the type of %s is %s and %s", key, was, kind)
			}
			types[key] = kind
		}
	}
	if got := appendRings(nil, &ringquery.Snapshot{}); len(got) != 0 {
		t.Errorf("no rings: %q", got)
	}
}

func table(t *testing.T, snapshot *ringquery.Snapshot, spec string) string {
	t.Helper()
	columns, err := querySchema().Select(queryDefaults(), spec)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := renderRings(&b, snapshot, columns); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRingsTable(t *testing.T) {
	for spec, want := range map[string]string{
		"": `        ID  NAME                   AVAIL_DATA   RING_SIZE             CONS_POS             PROD_POS  FILL  VERDICT             OWNERS
         7  events                         32      262144              7340064              7340096   <1%  falling behind      [5], evil\x1b[2J\n[31337]
        12  - (user)                        0  2147483648                    0                    0    0%  idle                -
4294967295  \x1b[2J\n"\xff \u202e  2147483648  2147483648  9223372036854775808  9223372039002259456  100%  stuck head (1.23s)  -
`,
		"id,pins,outer,overwrite_pos,memory,source": `        ID        OVERWRITE_POS  MEMORY  SOURCE  PINS             OUTER
         7                    0    8192  mmap    /sys/fs/bpf/a b  outer[9]
        12                    0       0  mmap    -                -
4294967295  9223372036854775807       0  helper  -                -
`,
		"id,prod_b/s,full_in,head_age,head_busy,programs": `        ID   PROD_B/S  FULL_IN  HEAD_AGE  HEAD_BUSY  PROGRAMS
         7  333333333    1.00s    1.00ms  yes        p[3] kprobe do_exit + uprobe /tmp/\x1b[1m, [4] xdp
        12          0        -       0ns  no         -
4294967295          0        -     1.23s  yes        -
`,
	} {
		if diff := cmp.Diff(want, table(t, someRings(), spec)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", spec, diff)
		}
	}
	if got, want := table(t, &ringquery.Snapshot{}, ""), "ID  NAME  AVAIL_DATA  RING_SIZE  CONS_POS  PROD_POS  FILL  VERDICT  OWNERS\n"; got != want {
		t.Errorf("no rings: got %q, want %q", got, want)
	}

	// What is usual fits into 80 columns.
	usual := &ringquery.Snapshot{Rings: []ringquery.Ring{{
		ID: 123, Name: "events", State: ringquery.State{AvailData: 123456, RingSize: 262144, ConsPos: 12345678, ProdPos: 12345678},
		Motion: ringquery.Motion{Verdict: ringquery.Draining}, Details: &ringquery.Details{Owners: []ringquery.Owner{{PID: 123, Comm: "abc"}}},
	}}}
	for line := range strings.Lines(table(t, usual, "")) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

func TestPercent(t *testing.T) {
	for part, want := range map[float64]string{0: "0%", 1e-9: "<1%", 0.004: "<1%", 0.006: "1%", 0.5: "50%", 0.996: ">99%", 1: "100%"} {
		if got := percent(part); got != want {
			t.Errorf("%v: %s, want %s", part, got, want)
		}
	}
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
