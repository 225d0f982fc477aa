// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
)

// found is an argv, and whether --arg finds a text in it.
type found struct {
	argv []string
	want bool
}

// around returns argvs of so many bytes with text at many places, and with almost
// that text.
func around(text string, size int) (all []found) {
	almost := []byte(text)
	almost[len(almost)-1] ^= 1
	last := size - len(text) - 1
	places := []int{0, 1, last - 1, last, size/argsInline*argsInline - 1, size - argsInline - len(text)/2}
	for _, border := range []int{256, 512, 4096, argsInline - 256, argsInline, 2 * argsInline, 3 * argsInline} {
		for _, before := range []int{0, 1, len(text) / 2, len(text) - 1, len(text)} {
			places = append(places, border-before)
		}
	}
	for _, place := range places {
		if place < 0 || place > last {
			continue
		}
		for _, text := range []string{text, string(almost)} {
			arg := bytes.Repeat([]byte{'-'}, size-1)
			copy(arg[place:], text)
			all = append(all, found{[]string{string(arg)}, text != string(almost)})
		}
	}
	return all
}

// split returns argvs that have a text and more around it, but its halves in two
// arguments.
func split(text string) (all []found) {
	for i := 1; i < len(text); i++ {
		all = append(all, found{[]string{"q", "x" + text[:i], text[i:] + "x"}, false})
	}
	return all
}

type search struct {
	name, text string
	all        []found
}

// searches is no variable: each process of this test binary, of which there are many, would make them.
func searches() []search {
	return []search{
		{"one byte", "x", []found{
			{[]string{"q"}, false}, {[]string{"x"}, true}, {[]string{"q", "", "", "x"}, true}, {[]string{"q", "X", ""}, false}, {[]string{""}, false},
		}},
		// Where it goes on at the wrong place it misses these.
		{"overlaps itself", "aab", []found{
			{[]string{"aab"}, true},
			{[]string{"aaab"}, true},
			{[]string{"aaaaab"}, true},
			{[]string{"aa", "b"}, false},
			{[]string{"aa", "ab", "aaa"}, false},
			{[]string{"abab", "aaab"}, true},
		}},
		{"overlaps itself twice", "abaabab", []found{
			{[]string{"abaabaabab"}, true}, {[]string{"abaababaab"}, true}, {[]string{"abaabaaba", "b"}, false}, {[]string{"abaabaabaabab"}, true},
		}},
		{"halves", "needle", split("needle")},
		{"binary", "\xff\x01\n\x80", append(split("\xff\x01\n\x80"), found{[]string{"q", "\xff\xff\x01\n\x80\x01"}, true}, found{[]string{"\xff\x01\n"}, false})},
		{"longest", strings.Repeat("ab", 31) + "aa", []found{
			{[]string{"q", strings.Repeat("ab", 100) + "aa"}, true},
			{[]string{"q", strings.Repeat("ab", 100)}, false},
			{[]string{"q", strings.Repeat("ab", 30) + "aa"}, false},
			{[]string{"q", strings.Repeat("ab", 31) + "aa"}, true},
		}},
		{"of 100 bytes", "needle", around("needle", 100)},
		{"of 4096 bytes", "needle", around("needle", 4096)},
		{"of 4097 bytes", "needle", around("needle", 4097)},
		{"inline", "needle", around("needle", argsInline)},
		{"two parts", "needle", around("needle", argsInline+1)},
		{"overlapping parts", "needle", around("needle", 70001)},
		{"all parts", "longer than a few words, so that borders are within", around("longer than a few words, so that borders are within", argsMax)},
		{"too far", "needle", []found{
			{[]string{strings.Repeat("-", argsMax-6), "needle"}, false}, // the end is behind what is looked at
			{[]string{strings.Repeat("-", argsMax-7), "needle"}, true},
			{[]string{strings.Repeat("-", argsMax-1), "needle"}, false},
			{[]string{"needle", strings.Repeat("-", argsMax-1), strings.Repeat("-", argsMax-1)}, true},
		}},
	}
}

// byArg lets those pass, of a filter, that have text in an argument.
func byArg(opts attach.Options, text string) attach.Options {
	opts.Params = map[string]string{"arg": text}
	return opts
}

// TestArg: --arg shows those that have the text, whole, and no others.
func TestArg(t *testing.T) {
	bpftest.Require(t)
	path := quick(t)
	for _, search := range bpftest.Thin(searches(), 4) {
		for _, opts := range []attach.Options{mine(), byMyself()} {
			t.Run(fmt.Sprintf("%s/failed=%v", search.name, opts.Failed), func(t *testing.T) {
				opts.RingSize = 32 << 20 // for all of them, if the reader is not let run
				s := tracetest.Open(t, byArg(opts, search.text), exec.Tracer)
				s.Start()
				var want []event
				for _, f := range search.all {
					check(t, execOnce(path, f.argv, opts.Failed))
					if f.want {
						want = append(want, event{tracetest.Raw: map[string]string{"args": rawArgs(f.argv)}})
					}
				}
				r := s.Finish(t)
				if r.Ledger[0].Missed > 0 {
					r.NoneTurnedAway(t)
					return // which ones is not known
				}
				tracetest.Same(t, r.Events, want)
				unwanted := len(search.all) - len(want)
				if b := r.Ledger[0].Total(); !opts.Failed && b.Discarded != uint64(unwanted) || opts.Failed && b.Discarded != 0 || b.Lost != 0 {
					t.Errorf("%+v, want %d discarded", b, unwanted)
				}
			})
		}
	}
}

// TestArgAtOnce: the memory that one CPU looks at is not that of another.
func TestArgAtOnce(t *testing.T) {
	bpftest.Require(t)
	const threads, needles = 4, 7
	each := bpftest.Few(211, 53)
	path := quick(t)
	for _, opts := range []attach.Options{mine(), byMyself()} {
		t.Run(fmt.Sprintf("failed=%v", opts.Failed), func(t *testing.T) {
			opts.RingSize = 64 << 20
			s := tracetest.Open(t, byArg(opts, "\xfeneedle"), exec.Tracer)
			s.Start()
			var wg sync.WaitGroup
			argv := func(n int) []string { // of all sizes
				argv := []string{strconv.Itoa(n), strings.Repeat("-", n*7919%100003), ""}
				if n%needles == 0 {
					argv[2] = "\xfeneedle"
				}
				return argv
			}
			for thread := range threads {
				wg.Go(func() {
					for i := range each {
						if err := execOnce(path, argv(thread*each+i), opts.Failed); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			r := s.Finish(t)
			seen := make(map[string]bool)
			for _, e := range r.Events {
				raw := e[tracetest.Raw].(map[string]string)["args"]
				first, _, _ := strings.Cut(raw, "\x00")
				n, err := strconv.Atoi(first)
				if err != nil || seen[first] || n%needles != 0 || raw != rawArgs(argv(n)) {
					t.Errorf("an event of %q, %d bytes", first, len(raw))
				}
				seen[first] = true
			}
			wanted := (threads*each + needles - 1) / needles
			r.Accounts(t, wanted)
			r.NoneTurnedAway(t)
			if b := r.Ledger[0].Total(); !opts.Failed && b.Discarded+b.Lost+b.Submitted != uint64(threads*each) {
				t.Errorf("%+v, want %d discarded", b, threads*each-wanted)
			}
		})
	}
}

// TestArgFull: what is looked at in a ring without room is lost.
func TestArgFull(t *testing.T) {
	bpftest.Require(t)
	const n = 101
	path := quick(t)
	for _, size := range []int{13, 5000, 40000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			opts := byArg(mine(), "needle")
			opts.RingSize = 128 << 10
			s := tracetest.Open(t, opts, exec.Tracer)
			bpftest.Spawn(t, n, path, randomArgs(1, "q", size), nil, nil)
			s.Drain(t)
			bpftest.Spawn(t, 1, path, []string{"needle"}, nil, nil)
			r := s.Finish(t)
			b := r.Ledger[0].Total()
			if len(r.Events) != 1 || b.Submitted != 1 || b.Discarded == 0 || b.Lost == 0 || b.Discarded+b.Lost != n {
				t.Errorf("%d events, %+v", len(r.Events), b)
			}
		})
	}
}
