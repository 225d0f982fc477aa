// SPDX-License-Identifier: Apache-2.0

package bio_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/bio"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const diskSize = 16 << 20

// disk is an empty block device that nobody uses.
type disk struct {
	*os.File        // opened with O_DIRECT
	name     string // sda
	backing  string // the file of a loop device
}

// newDisk returns that of the emulated machines, or makes a loop device.
func newDisk(t *testing.T) *disk {
	t.Helper()
	bpftest.Require(t)
	d := &disk{}
	path := os.Getenv("RBTRACE_TEST_DISK")
	if path == "" {
		d.backing = filepath.Join(bpftest.Dir(t), "disk")
		check(t, os.WriteFile(d.backing, nil, 0o600))
		check(t, os.Truncate(d.backing, diskSize))
		out, err := exec.Command("losetup", "--find", "--show", d.backing).Output()
		if err != nil {
			t.Skipf("this machine makes no loop device: %v", err)
		}
		path = strings.TrimSpace(string(out))
		t.Cleanup(func() {
			if err := exec.Command("losetup", "--detach", path).Run(); err != nil {
				t.Error(err)
			}
		})
	}
	d.name = filepath.Base(path)
	var err error
	d.File, err = os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// aligned returns memory that O_DIRECT takes.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Munmap(b)) })
	return b
}

// scheduler switches the disk to an I/O scheduler, where the kernel has it.
func (d *disk) scheduler(t *testing.T, name string) {
	t.Helper()
	file := "/sys/block/" + d.name + "/queue/scheduler"
	text, err := os.ReadFile(file)
	check(t, err)
	old := strings.TrimSpace(string(text))
	if i, j := strings.IndexByte(old, '['), strings.IndexByte(old, ']'); i >= 0 && j > i {
		old = old[i+1 : j]
	}
	if !strings.Contains(string(text), name) || os.WriteFile(file, []byte(name), 0) != nil {
		t.Skipf("this kernel has no I/O scheduler %s: %s", name, text)
	}
	t.Cleanup(func() { check(t, os.WriteFile(file, []byte(old), 0)) })
}

// stat is what the kernel itself counts of a disk (Documentation/block/stat.rst).
type stat struct {
	reads, readMerges, readSectors, readTicks, writes, writeMerges, writeSectors int64
	writeTicks, inFlight, ticks, queueTicks                                      int64
	discards, discardMerges, discardSectors, discardTicks, flushes               int64
}

func (d *disk) stat(t *testing.T) (s stat) {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + d.name + "/stat")
	check(t, err)
	_, err = fmt.Sscan(string(text), &s.reads, &s.readMerges, &s.readSectors, &s.readTicks, &s.writes, &s.writeMerges, &s.writeSectors,
		&s.writeTicks, &s.inFlight, &s.ticks, &s.queueTicks, &s.discards, &s.discardMerges, &s.discardSectors, &s.discardTicks, &s.flushes)
	check(t, err)
	return s
}

// testTransfers: each read and write that goes by the page cache, with its place and size.
func testTransfers(t *testing.T, d *disk, queued bool) {
	const n = 53
	b := aligned(t, 64<<10)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opts := attach.Options{Filter: attach.Filter{TID: uint32(unix.Gettid())}, Params: map[string]string{"disk": d.name}}
	var want []event
	var longest time.Duration
	var device unix.Stat_t
	comm, err := os.ReadFile("/proc/thread-self/comm")
	check(t, errors.Join(err, unix.Fstat(int(d.Fd()), &device)))
	before := d.stat(t)
	events := tracetest.Trace(t, bio.Tracer, opts, func() {
		for i := range n {
			size := 512 << (i % 7)
			at := int64(i*37) << 12
			op := "read"
			start := time.Now()
			var got int
			var err error
			if i%3 == 0 {
				op = "write"
				got, err = unix.Pwrite(int(d.Fd()), b[:size], at)
			} else {
				got, err = unix.Pread(int(d.Fd()), b[:size], at)
			}
			longest = max(longest, time.Since(start))
			if err != nil || got != size {
				t.Fatalf("%s of %d bytes at %d: %d, %v", op, size, at, got, err)
			}
			want = append(want, event{
				"pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "uid": int64(os.Getuid()),
				"comm": strings.TrimSpace(string(comm)), "major": int64(unix.Major(device.Rdev)), "minor": int64(unix.Minor(device.Rdev)),
				"disk": d.name, "op": op, "sector": at / 512, "bytes": int64(size), "errno": "",
			})
		}
		if left := tracetest.MapEntries(t, "rb_bio_requests"); left != 0 {
			t.Errorf("%d requests that are done are remembered", left)
		}
	})
	after := d.stat(t)
	tracetest.Same(t, events, want)
	var reads, writes, sectors int64
	for _, e := range events {
		if e["op"] == "read" {
			reads++
		} else {
			writes++
		}
		sectors += e["bytes"].(int64) / 512
		l, q := time.Duration(e["latency_ns"].(int64)), time.Duration(e["queued_ns"].(int64))
		if l <= 0 || l+q > longest || queued && q <= 0 {
			t.Errorf("it took %v, and %v before; the longest call took %v", l, q, longest)
		}
		// A read is, with or without the flag: 5.10 does not set it.
		if f := e["flags"].([]string); e["op"] == "write" && !slices.Contains(f, "sync") {
			t.Errorf("flags %v", f)
		}
	}
	if got := (after.readSectors + after.writeSectors) - (before.readSectors + before.writeSectors); got != sectors ||
		after.reads-before.reads != reads || after.writes-before.writes != writes {
		t.Errorf("%d reads, %d writes, %d sectors; the kernel counts %+v, before %+v", reads, writes, sectors, after, before)
	}
}

func TestDirect(t *testing.T) {
	d := newDisk(t)
	d.scheduler(t, "none")
	testTransfers(t, d, false)
}

// TestScheduler: whoever runs the queue, it is the request of who queued it.
func TestScheduler(t *testing.T) {
	d := newDisk(t)
	d.scheduler(t, "mq-deadline")
	testTransfers(t, d, true)
}

// TestFilters: by disk, time and task.
func TestFilters(t *testing.T) {
	d := newDisk(t)
	b := aligned(t, 4096)
	me := attach.Filter{PID: uint32(os.Getpid())}
	for _, test := range []struct {
		name   string
		filter attach.Filter
		params map[string]string
		failed bool
		want   int
	}{
		{"own", me, map[string]string{"disk": d.name}, false, 11},
		{"any disk", me, nil, false, 11},
		{"another disk", me, map[string]string{"disk": d.name + "x"}, false, 0},
		{"part of the name", me, map[string]string{"disk": d.name[:len(d.name)-1]}, false, 0},
		{"slow", me, map[string]string{"disk": d.name, "min": "1h"}, false, 0},
		{"failed", me, map[string]string{"disk": d.name}, true, 0},
		{"another task", attach.Filter{Comm: "nobody-has-this"}, map[string]string{"disk": d.name}, false, 0},
		{"all tasks", attach.Filter{}, map[string]string{"disk": d.name}, false, 11},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := attach.Options{Filter: test.filter, Params: test.params, Failed: test.failed}
			events := tracetest.Trace(t, bio.Tracer, opts, func() {
				for i := range 11 {
					_, err := unix.Pread(int(d.Fd()), b, int64(i)<<12)
					check(t, err)
				}
			})
			events = slices.DeleteFunc(events, func(e event) bool { return e["disk"] != d.name }) // the test's own files
			if len(events) != test.want {
				t.Errorf("%d events, want %d", len(events), test.want)
			}
		})
	}
}

// TestOthers: requests that are neither reads nor writes. A flush is a kworker's, whatever the
// scheduler, and so is shown where a filter lets those pass.
func TestOthers(t *testing.T) {
	root := uint32(0)
	for _, scheduler := range []string{"none", "mq-deadline"} {
		for name, filter := range map[string]attach.Filter{"all": {}, "uid": {UID: &root}} {
			t.Run(scheduler+"/"+name, func(t *testing.T) {
				d := newDisk(t)
				d.scheduler(t, scheduler)
				opts := attach.Options{Filter: filter, Params: map[string]string{"disk": d.name}}
				before := d.stat(t)
				var discards bool
				events := tracetest.Trace(t, bio.Tracer, opts, func() {
					for range 5 {
						check(t, unix.Fsync(int(d.Fd())))
					}
					from := [2]uint64{1 << 20, 1 << 16}
					const blkdiscard = 0x1277 // include/uapi/linux/fs.h
					discards = bpftest.Ioctl(int(d.Fd()), blkdiscard, &from) == nil
				})
				flushes := d.stat(t).flushes - before.flushes
				for _, e := range events {
					switch e["op"] {
					case "flush":
						flushes--
						if diff := e.Diff(event{"sector": int64(0), "bytes": int64(0), "errno": "", "uid": int64(0)}); diff != "" {
							t.Error(diff)
						}
						if e["pid"] != int64(os.Getpid()) && !strings.HasPrefix(e["comm"].(string), "kworker/") {
							t.Errorf("a flush of %v, %v", e["pid"], e["comm"])
						}
					case "discard":
						if diff := e.Diff(event{"sector": int64(1 << 11), "bytes": int64(1 << 16), "errno": "", "pid": int64(os.Getpid())}); diff != "" {
							t.Error(diff)
						}
						discards = false
					default:
						t.Errorf("op %v", e["op"])
					}
				}
				if discards {
					t.Errorf("no discard is among %d events", len(events))
				}
				if flushes != 0 {
					t.Errorf("of %d events the kernel counts %d flushes more", len(events), flushes)
				}
			})
		}
	}
}

// TestJournal: what is to be written behind a flush is queued by a kworker, and is the
// journal's all the same.
func TestJournal(t *testing.T) {
	d := newDisk(t)
	if d.backing == "" || !atLeast(t, 6, 5) {
		t.Skip("a kernel before 6.5, or an emulated machine, which makes no file system")
	}
	d.scheduler(t, "mq-deadline")
	dev := d.Name()
	if out, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", dev).CombinedOutput(); err != nil {
		t.Skipf("no file system: %v %s", err, out)
	}
	dir := bpftest.Dir(t)
	check(t, unix.Mount(dev, dir, "ext4", 0, ""))
	defer func() { check(t, unix.Unmount(dir, 0)) }()
	const n = 7
	writes := 0
	for _, e := range tracetest.Trace(t, bio.Tracer, attach.Options{Params: map[string]string{"disk": d.name}}, func() {
		for i := range n {
			f, err := os.Create(fmt.Sprintf("%s/%d", dir, i))
			check(t, err)
			check(t, errors.Join(f.Sync(), f.Close()))
		}
	}) {
		if e["op"] != "write" {
			continue
		}
		switch comm := e["comm"].(string); {
		case strings.HasPrefix(comm, "jbd2/"+d.name):
			writes++
		case e["pid"] != int64(os.Getpid()) && !strings.HasPrefix(comm, "kworker/u"): // which write back what is in memory
			t.Errorf("sector %v is written by %s", e["sector"], comm)
		}
	}
	if writes < 2*n { // what is changed, and that this is all
		t.Errorf("%d writes of the journal for %d files", writes, n)
	}
}

// TestHook: which tracepoints there are, and how they are called, differs.
func TestHook(t *testing.T) {
	bpftest.Require(t)
	want := 1 // of what is told; the first is for 7.0 and later
	switch {
	case !atLeast(t, 6, 5): // those of 5.10 alone are gone from what Debian has of it
		want = 4
	case !atLeast(t, 7, 0):
		want = 2
	}
	s := tracetest.Open(t, attach.Options{}, bio.Tracer)
	if got := s.Tracers[0].Attempts; len(got) != want {
		t.Errorf("the hook is the last of %+v, want %d", got, want)
	}
}

// atLeast reports whether the kernel is of that release or a newer one.
func atLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	v, err := kernel.ParseVersion(kernel.Release())
	check(t, err)
	return !v.Less(kernel.Version{Major: major, Minor: minor})
}

// TestFailed: what the device could not do.
func TestFailed(t *testing.T) {
	d := newDisk(t)
	if d.backing == "" {
		t.Skip("this disk does not fail")
	}
	b := aligned(t, 4096)
	check(t, os.Truncate(d.backing, diskSize/2)) // behind the loop device's back
	const n = 7
	opts := attach.Options{Failed: true, Filter: attach.Filter{PID: uint32(os.Getpid())}, Params: map[string]string{"disk": d.name}}
	events := tracetest.Trace(t, bio.Tracer, opts, func() {
		for i := range n {
			if _, err := unix.Pread(int(d.Fd()), b, int64(i)<<12); err != nil {
				t.Error(err)
			}
			if _, err := unix.Pread(int(d.Fd()), b, diskSize/2+int64(i)<<12); !errors.Is(err, unix.EIO) {
				t.Errorf("a read behind the end of the file: %v", err)
			}
		}
	})
	want := make([]event, n)
	for i := range want {
		want[i] = event{"op": "read", "errno": "EIO", "sector": int64(diskSize/2/512 + i*8), "bytes": int64(4096)}
	}
	tracetest.Same(t, events, want)
}

// TestPart: the device does a part of a request and gets the rest again: that is one
// request, of who asked for all of it, and it has failed.
func TestPart(t *testing.T) {
	d := newDisk(t)
	if d.backing == "" {
		t.Skip("this disk does not fail")
	}
	b := aligned(t, 8192)
	check(t, os.Truncate(d.backing, diskSize/2))
	const n = 7
	for _, scheduler := range []string{"none", "mq-deadline"} {
		t.Run(scheduler, func(t *testing.T) {
			d.scheduler(t, scheduler)
			opts := attach.Options{Filter: attach.Filter{PID: uint32(os.Getpid())}, Params: map[string]string{"disk": d.name}}
			var longest time.Duration
			events := tracetest.Trace(t, bio.Tracer, opts, func() {
				for range n {
					start := time.Now()
					if got, err := unix.Pread(int(d.Fd()), b, diskSize/2-4096); got > 4096 {
						t.Errorf("a read across the end of the file: %d, %v", got, err)
					}
					longest = max(longest, time.Since(start))
				}
				if left := tracetest.MapEntries(t, "rb_bio_requests"); left != 0 {
					t.Errorf("%d requests that are done are remembered", left)
				}
			})
			want := make([]event, n)
			for i := range want {
				want[i] = event{"op": "read", "errno": "EIO", "sector": int64(diskSize/2-4096) / 512, "bytes": int64(8192), "pid": int64(os.Getpid())}
			}
			tracetest.Same(t, events, want)
			for _, e := range events {
				if l := time.Duration(e["latency_ns"].(int64)); l <= 0 || l > longest {
					t.Errorf("it took %v, and the longest read %v", l, longest)
				}
			}
		})
	}
}
