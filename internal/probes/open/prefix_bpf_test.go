// SPDX-License-Identifier: Apache-2.0

package open_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// withPrefix lets the paths with that prefix pass, of the threads that mine does.
func withPrefix(prefix string) attach.Options {
	opts := mine()
	opts.Params = map[string]string{"path-prefix": prefix}
	return opts
}

// pathsOf returns the paths of events as they are.
func pathsOf(events []event) []string {
	paths := []string{}
	for _, e := range events {
		paths = append(paths, e[tracetest.Raw].(map[string]string)["path"])
	}
	return paths
}

// manyPaths makes calls with paths of all kinds. It may be called again. Where they are to fail all
// do, and are the same otherwise.
func manyPaths(t *testing.T, dir string, fail bool) {
	onThread(t, func() {
		resolve := func(dirfd int, file string, resolve uint64) {
			flags := uint64(0)
			if fail {
				flags = 1 << 40 // which is none
			}
			if fd := openat2(dirfd, file, flags, 0, resolve); fd >= 0 {
				bpftest.Must(unix.Close(fd))
			}
		}
		try := func(dirfd int, file string) { resolve(dirfd, file, 0) }
		bpftest.Must(unix.Chdir(dir))
		for _, file := range []string{
			"data", "dat", "data/", "link", "below/../link", "missing", hostile, "below/deep", "./data", "", "…", "..",
			dir + "/data", dir, "/", "//", "/…", "/missing",
		} {
			try(cwd, file)
			try(-1, file)
			for _, base := range []string{"below", "/"} {
				at(base, func(fd int) int { try(fd, file); return 0 })()
			}
		}
		at("below", func(fd int) int {
			resolve(fd, "/deep", unix.RESOLVE_IN_ROOT)
			return 0
		})()
		// As long as a short record takes, and longer.
		for n := 240; n < 272; n++ {
			try(cwd, "./"+strings.Repeat("x", n-2))
			try(cwd, dir+"/"+strings.Repeat("x", n-len(dir)-1))
		}
		for _, n := range []int{1000, 4090, 4096, 5000} {
			try(cwd, strings.Repeat("./", n/2))
			try(cwd, dir+strings.Repeat("/.", n/2))
		}
		bpftest.Must(unix.Chdir("/"))
		try(cwd, "dev/null")
		try(cwd, "/dev/null")
		bpftest.Must(unix.Mkdir(dir+"/gone", 0o755), unix.Chdir(dir+"/gone"), unix.Rmdir(dir+"/gone"))
		try(cwd, "x")
		try(cwd, "..")
		for name := range strings.SplitSeq(bases, ",") {
			enter(dir + "/" + name)
			try(cwd, "x")
			try(cwd, dir+"/x")
		}
		// Directories that no root leads to.
		bpftest.Must(
			unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Chdir(dir+"/below"),
			unix.Mount("rbtrace", ".", "tmpfs", 0, ""), unix.Mkdir(dir+"/below/etc", 0o755), unix.Chdir(dir+"/below/etc"),
		)
		at(dir+"/below", func(fd int) int {
			bpftest.Must(unix.Unmount(dir+"/below", unix.MNT_DETACH))
			try(cwd, "x")
			try(fd, "x")
			resolve(fd, "/", unix.RESOLVE_IN_ROOT)
			return 0
		})()
		bpftest.Must(unix.Chdir("/"))
	})
}

// bases are directories, each so many deep and so wide: of 200 to 300 bytes, since a
// prefix has at most 255; of about the 512 that a short record takes; longer than a
// walk stores; deeper than it goes.
const bases = "1x150,1x190,1x200,1x220,1x240,2x240,30x5,41x5,57x3,30x199,71x3"

// enter enters the directory that makeBases has made, whatever its length.
func enter(base string) {
	var depth, width int
	name := base[strings.LastIndexByte(base, '/')+1:]
	bpftest.Must1(fmt.Sscanf(name, "%dx%d", &depth, &width))
	bpftest.Must(unix.Chdir(base))
	for range depth {
		bpftest.Must(unix.Chdir(strings.Repeat("d", width)))
	}
}

func makeBases(t *testing.T, dir string) {
	onThread(t, func() {
		for name := range strings.SplitSeq(bases, ",") {
			var depth, width int
			bpftest.Must1(fmt.Sscanf(name, "%dx%d", &depth, &width))
			bpftest.Must(unix.Mkdir(dir+"/"+name, 0o755))
			deep(dir+"/"+name, depth, width)
		}
	})
}

// TestPathPrefix: with a prefix come exactly those of the events that come without
// it of which the path has it, or the one that was asked for, and the books have the others as
// discarded.
func TestPathPrefix(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	makeBases(t, dir)
	workload := func() { manyPaths(t, dir, false) }
	all := pathsOf(tracetest.Trace(t, open.Tracer, mine(), workload))
	// Of a call that fails the path is the one that was asked for.
	asked := pathsOf(tracetest.Trace(t, open.Tracer, mine(), func() { manyPaths(t, dir, true) }))
	if len(all) < 150 || len(asked) != len(all) {
		t.Fatalf("the workload has only %d calls, and %d where all fail", len(all), len(asked))
	}

	prefixes := []string{
		"/", "//", "…", "…/", "…/ddd", "/dev/null", "/dev/null/", "/d", "/missing",
		dir, dir + "/", dir[:len(dir)-1], dir + "/data", dir + "/data/", dir + "/link", dir + "/below/../l", dir + "/below", dir + "/below/",
		dir + "/below/d", dir + "/below/deep", dir + "/below/deepe", dir + "/./", dir + "/" + hostile,
		dir + "/gone", dir + "/gone (deleted)", dir + "/gone (deleted)/", dir + "/gone (deleted)/x",
		dir + "/gone (deletes",
		"/etc/", "/x", "(unreachable)", "(unreachable)/", "(unreachable)/etc/", "(unreachable)/x", "(unreachable)//", "(unreachable)x",
	}
	for _, path := range asked {
		for _, base := range []string{"/1x200/", "/2x240/", "/41x5/"} {
			if strings.HasPrefix(path, dir+base) && strings.HasSuffix(path, "/x") {
				n := min(len(path), 255)
				prefixes = append(prefixes, path[:n], path[:n-1], path[:n-2], path[:n-1]+"?")
			}
		}
	}
	for _, n := range []int{254, 255} {
		prefixes = append(prefixes, (dir + "/" + strings.Repeat("x", 255))[:n], (dir + strings.Repeat("/.", 255))[:n])
	}
	slices.Sort(prefixes)
	for _, prefix := range bpftest.Thin(slices.Compact(prefixes), 23) {
		s := tracetest.Open(t, withPrefix(prefix), open.Tracer)
		s.Start()
		workload()
		r := s.Finish(t)
		want := []string{}
		for i, path := range all {
			if strings.HasPrefix(path, prefix) || strings.HasPrefix(asked[i], prefix) {
				want = append(want, path)
			}
		}
		if diff := cmp.Diff(want, pathsOf(r.Events)); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
		l := r.Ledger[0].Total()
		if l.Discarded != uint64(len(all)-len(want)) || l.Submitted != uint64(len(want)) || l.Lost != 0 {
			t.Errorf("prefix %q, of %d of %d: the books are %+v", prefix, len(want), len(all), l)
		}
	}
}

// TestPathPrefixFailed: both filters at once.
func TestPathPrefixFailed(t *testing.T) {
	bpftest.Require(t)
	dir := world(t)
	opts := withPrefix(dir + "/")
	opts.Failed = true
	s := tracetest.Open(t, opts, open.Tracer)
	s.Start()
	onThread(t, func() {
		bpftest.Must(unix.Chdir(dir))
		for range 101 {
			openat(cwd, "missing", 0, 0)
			openat(cwd, "/missing", 0, 0)
			bpftest.Must(unix.Close(openat(cwd, "data", 0, 0)))
		}
	})
	r := s.Finish(t)
	want := make([]event, 101)
	for i := range want {
		want[i] = event{"path": dir + "/missing", "errno": "ENOENT"}
	}
	tracetest.Same(t, r.Events, want)
	if l := r.Ledger[0].Total(); l.Discarded != 101 {
		t.Errorf("the books are %+v", l)
	}
}

// TestPathPrefixLoss: where the ring has no room to make a path in, that is a loss,
// also of what might not have been wanted.
func TestPathPrefixLoss(t *testing.T) {
	bpftest.Require(t)
	const early, late = 211, 2
	opts := withPrefix("/wanted/")
	opts.RingSize = uint32(os.Getpagesize())
	s := tracetest.Open(t, opts, open.Tracer)
	var cpu unix.CPUSet
	cpu.Set(bpftest.Pin(t))
	calls := func(n int) {
		onThread(t, func() {
			bpftest.Must(unix.SchedSetaffinity(0, &cpu))
			for i := range n {
				openat(cwd, []string{"/wanted/x", "/other/x"}[i%2], 0, 0)
			}
		})
	}
	calls(early)
	s.Drain(t)
	calls(late)
	r := s.Finish(t)
	l := r.Ledger[0].Total()
	if l.Lost == 0 || l.Lost+l.Submitted+l.Discarded != early+late || l.Discarded < 2 || l.Lost != uint64(r.Lost) {
		t.Errorf("%d lost of %d, and the books are %+v", r.Lost, early+late, l)
	}
	if n := len(r.Events); n < 2 || r.Lines[n-1]["type"] != "lost" || r.Lines[n]["type"] != "open" {
		t.Errorf("the loss is not where it happened: %v", r.Lines)
	}
}

// prompt is a sink that tells at once of each event.
type prompt struct {
	*tracetest.Sink
	got chan struct{}
}

func (p *prompt) Event(s *output.Source) error {
	p.got <- struct{}{}
	return p.Sink.Event(s)
}

// TestWakeupBehindDiscards: however records wake the reader, an event comes at once
// although much is discarded in front of it and nothing comes behind it; and what is
// discarded does not fill the ring.
func TestWakeupBehindDiscards(t *testing.T) {
	bpftest.Require(t)
	const (
		ring   = 64 << 10
		burst  = 41 // some 45 KiB
		bursts = 5
		rounds = 3
	)
	type test struct {
		name    string
		wakeup  attach.Wakeup
		options consumer.Options
	}
	for _, test := range bpftest.Thin([]test{
		{"auto", attach.Wakeup{}, consumer.Options{Pace: consumer.DefaultPace}},
		{"every", attach.Wakeup{Policy: attach.WakeupEvery}, consumer.Options{}},
		{"bytes", attach.Wakeup{Policy: attach.WakeupBytes, Bytes: 16 << 10}, consumer.Options{LookEvery: 500 * time.Millisecond}},
		{"interval", attach.Wakeup{Policy: attach.WakeupNever}, consumer.Options{LookEvery: 20 * time.Millisecond}},
	}, 2) {
		t.Run(test.name, func(t *testing.T) {
			dir := world(t)
			opts := withPrefix(dir + "/wanted")
			opts.RingSize, opts.Wakeup = ring, test.wakeup
			session, err := attach.Open([]*tracer.Tracer{open.Tracer}, opts)
			check(t, err)
			defer session.Close()
			events, err := consumer.New(session.Rings(), []*tracer.Tracer{open.Tracer}, [][]int{nil}, field.NewTimeStyle(field.TimeWall, nil), test.options)
			check(t, err)
			defer func() { check(t, events.Close()) }()
			sink := &prompt{tracetest.NewSink(), make(chan struct{}, rounds)}
			ctx, end := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			check(t, session.Enable())
			go func() { ran <- events.Run(ctx, sink) }()

			onThread(t, func() {
				bpftest.Must(unix.Chdir(dir))
				for round := range rounds {
					for range bursts {
						for i := range burst {
							openat(cwd, []string{"data", "/missing"}[i%2], unix.O_WRONLY|unix.O_DIRECTORY, 0)
						}
						time.Sleep(50 * time.Millisecond)
					}
					openat(cwd, "wanted", 0, 0)
					select {
					case <-sink.got:
					case <-time.After(5 * time.Second):
						t.Errorf("round %d: the event has not come", round)
					}
				}
			})
			end()
			check(t, <-ran)
			check(t, session.Disable())
			kernel.Settle()
			ledger := func() *consumer.Ledger {
				books, err := session.Tracers[0].Books()
				check(t, err)
				return &consumer.Ledger{Name: "open", CPU: books.CPU, Missed: books.Missed, Counts: events.Counts(0)}
			}
			check(t, events.Finish(sink, func() bool { return ledger().Balanced() }))
			l := ledger()
			if total := l.Total(); !l.Balanced() || total.Discarded != rounds*bursts*burst || l.Printed != rounds || total.Lost != 0 {
				t.Errorf("%s, want %d discarded and %d printed", l, rounds*bursts*burst, rounds)
			}
		})
	}
}
