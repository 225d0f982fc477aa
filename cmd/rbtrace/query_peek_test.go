// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

func TestPeekedRecords(t *testing.T) {
	ring := &ringquery.Ring{ID: 7, State: ringquery.State{RingSize: 4096}}
	long := make([]byte, 5000)
	for _, test := range []struct {
		record     ringbuf.Record
		text, json string
	}{
		{
			ringbuf.Record{Header: ringbuf.Header{Pos: 8192 + 16, Len: 4}, Data: []byte("\x1b[2J")},
			"offset 16, length 4\n  00000000  1b 5b 32 4a                                       |.[2J|\n",
			`{"type":"record","time":"1970-01-01T00:00:01.000000000Z","ring_id":7,"pos":8208,"offset":16,"length":4,"busy":false,"discarded":false,"stale":false,"data":"1b5b324a","data_truncated":false,"decoded_as":"","decoded":{}}` + "\n",
		},
		{
			ringbuf.Record{Header: ringbuf.Header{Len: 0, Busy: true, Discarded: true}, Stale: true},
			"offset 0, length 0, busy, discarded, stale: its reader has consumed it meanwhile\n",
			`{"type":"record","time":"1970-01-01T00:00:01.000000000Z","ring_id":7,"pos":0,"offset":0,"length":0,"busy":true,"discarded":true,"stale":true,"data":"","data_truncated":false,"decoded_as":"","decoded":{}}` + "\n",
		},
	} {
		p := peeked{ring: ring, record: test.record}
		p.decode(nil)
		if diff := cmp.Diff(test.text, string(p.appendText(nil))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if diff := cmp.Diff(test.json, string(p.appendJSON(nil, time.Unix(1, 0)))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	event := &btf.Struct{Name: "event", Size: 4, Members: []btf.Member{{Name: "pid", Type: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}}}}
	p := peeked{ring: ring, record: ringbuf.Record{Header: ringbuf.Header{Len: 5}, Data: []byte{7, 0, 0, 0, 1}}}
	p.decodeAs(event)
	if got, want := string(p.appendText(nil)), "offset 0, length 5, struct event: {\"pid\":7}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(p.appendJSON(nil, time.Time{})); !strings.HasSuffix(got, `"decoded_as":"struct event","decoded":{"pid":7}}`+"\n") || !json.Valid([]byte(got)) {
		t.Errorf("got %s", got)
	}
	for _, r := range []ringbuf.Record{
		{Header: ringbuf.Header{Len: 3}, Data: []byte{7, 0, 0}}, // too short
		{Header: ringbuf.Header{Len: 4, Busy: true}, Data: []byte{7, 0, 0, 0}},
	} {
		p = peeked{ring: ring, record: r}
		if p.decodeAs(event); p.as != "" {
			t.Errorf("%+v was decoded", r)
		}
	}
	p = peeked{ring: ring, record: ringbuf.Record{Header: ringbuf.Header{Len: 6000}, Data: long}}
	if text := string(p.appendText(nil)); strings.Count(text, "\n") != 1+256/16+1 || !strings.HasSuffix(text, "  and 5744 bytes more\n") {
		t.Errorf("a long record: %s", text)
	}
	var object struct {
		Data      string `json:"data"`
		Truncated bool   `json:"data_truncated"`
	}
	if err := json.Unmarshal(p.appendJSON(nil, time.Time{}), &object); err != nil || len(object.Data) != 2*4096 || !object.Truncated {
		t.Errorf("a long record: %d digits, %t, %v", len(object.Data), object.Truncated, err)
	}
}
