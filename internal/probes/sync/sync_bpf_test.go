// SPDX-License-Identifier: Apache-2.0

package sync_test

import (
	"fmt"
	"math"
	"os"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/sync"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// timed are the events wanted, and how long each call took by the clock of the test.
type timed struct {
	tracetest.Named
	took []time.Duration
}

// call makes a call that is to return that.
func (w *timed) call(wanted unix.Errno, want event, nr uintptr, args ...any) {
	var took time.Duration
	ret := tracetest.As(func() int {
		begin := time.Now()
		ret := bpftest.Call(nr, args...)
		took = time.Since(begin)
		return ret
	})
	if ret != -int(wanted) {
		panic(fmt.Sprintf("%s %v returned %d", want["call"], args, ret))
	}
	w.Add(fmt.Sprintf("%s %v", want["call"], args), tracetest.Merge(want, tracetest.Returned(ret), event{
		"type": "sync", "comm": tracetest.PathComm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()),
	}))
	w.took = append(w.took, took)
}

// check compares with what was traced. The clock of the test saw each call take longer,
// but at the best not much. It returns of how many calls an end is not known.
func (w *timed) check(t *testing.T, events []event) (unknown int) {
	t.Helper()
	if !w.Same(t, events) {
		return len(w.Want) - len(events)
	}
	least := time.Duration(math.MaxInt64)
	for i, e := range events {
		lat := time.Duration(e["latency_ns"].(int64))
		if lat == 0 {
			unknown++
			continue
		}
		if lat < 0 || lat > w.took[i] {
			t.Errorf("%s took %v, and for the test %v", w.Names[i], lat, w.took[i])
		}
		least = min(least, w.took[i]-lat)
	}
	if len(events) > 100 && least > time.Millisecond {
		t.Errorf("all calls took at least %v less than for the test", least)
	}
	return unknown
}

// explained fails the test where the kernel has missed fewer hits than that.
func explained(t *testing.T, unknown int) {
	t.Helper()
	if missed := tracetest.Misses(t); unknown > missed {
		t.Errorf("%d calls of which an end is not known, and %d hits missed", unknown, missed)
	}
}

func TestCalls(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const n = 1009
	w := new(timed)
	events := tracetest.Trace(t, sync.Tracer, tracetest.Paths(), func() {
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(unix.Chdir(dir), unix.Mkdir("d", 0o755))
			open := func(name string, flags int) int { return bpftest.Must1(unix.Open(name, flags|unix.O_CREAT, 0o600)) }
			fd := open("f", unix.O_RDWR)
			bpftest.Must(unix.Ftruncate(fd, 1<<20))
			for i := range n {
				want := event{"call": "fsync", "fd": int64(fd), "path": dir + "/f", "flags": []string{}, "offset": int64(0), "bytes": int64(0), "addr": "0x0"}
				nr := uintptr(unix.SYS_FSYNC)
				if i%2 == 0 {
					want["call"], nr = "fdatasync", unix.SYS_FDATASYNC
				}
				w.call(0, want, nr, fd, 1<<40)
			}
			w.call(0, event{"call": "syncfs", "fd": int64(fd), "path": dir + "/f"}, unix.SYS_SYNCFS, fd)
			w.call(0, event{"call": "sync", "fd": int64(-1), "path": ""}, unix.SYS_SYNC, fd, fd)
			w.call(0, event{"call": "sync_file_range", "fd": int64(fd), "path": dir + "/f", "offset": int64(4096), "bytes": int64(1 << 13), "flags": []string{"SYNC_FILE_RANGE_WAIT_BEFORE", "SYNC_FILE_RANGE_WRITE"}},
				unix.SYS_SYNC_FILE_RANGE, fd, 4096, 1<<13, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE)
			w.call(unix.EINVAL, event{"call": "sync_file_range", "offset": int64(-7), "bytes": int64(-11), "flags": []string{"SYNC_FILE_RANGE_WAIT_AFTER", "0x80000000"}},
				unix.SYS_SYNC_FILE_RANGE, fd, -7, -11, 1<<31|unix.SYNC_FILE_RANGE_WAIT_AFTER)

			mem := bpftest.Must1(unix.Mmap(fd, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
			mem[0] = 1
			w.call(0, event{"call": "msync", "fd": int64(-1), "path": "", "addr": fmt.Sprintf("%p", &mem[0]), "bytes": int64(1 << 16), "flags": []string{"MS_SYNC"}},
				unix.SYS_MSYNC, mem, 1<<16, unix.MS_SYNC)
			w.call(unix.EINVAL, event{"call": "msync", "addr": "0x1001", "bytes": int64(2), "flags": []string{"MS_ASYNC", "MS_INVALIDATE", "0x8"}},
				unix.SYS_MSYNC, 0x1001, 2, unix.MS_ASYNC|unix.MS_INVALIDATE|8)
			w.call(unix.ENOMEM, event{"call": "msync", "addr": "0x1000", "bytes": int64(1)}, unix.SYS_MSYNC, 0x1000, 1, unix.MS_ASYNC)
			bpftest.Must(unix.Munmap(mem), unix.Unlink("f"))

			// What descriptors refer to.
			w.call(0, event{"path": dir + "/f (deleted)", "call": "fsync"}, unix.SYS_FSYNC, fd)
			bpftest.Must(unix.Close(fd))
			w.call(unix.EBADF, event{"path": "", "fd": int64(fd)}, unix.SYS_FSYNC, fd)
			w.call(unix.EBADF, event{"path": "", "fd": int64(-1)}, unix.SYS_FDATASYNC, -1)
			w.call(unix.EBADF, event{"path": "", "fd": int64(unix.AT_FDCWD)}, unix.SYS_FSYNC, unix.AT_FDCWD)
			w.call(unix.EBADF, event{"path": "", "fd": int64(math.MaxInt32)}, unix.SYS_SYNCFS, math.MaxInt32)
			fd = open(tracetest.HostileName, unix.O_WRONLY)
			w.call(0, event{"path": dir + "/" + tracetest.Text(tracetest.HostileName), tracetest.Raw: map[string]string{"path": dir + "/" + tracetest.HostileName}}, unix.SYS_FSYNC, fd)
			bpftest.Must(unix.Close(fd))
			fd = bpftest.Must1(unix.Open("d", unix.O_DIRECTORY, 0))
			w.call(0, event{"path": dir + "/d", "fd": int64(fd)}, unix.SYS_FSYNC, fd)
			bpftest.Must(unix.Close(fd))
			var pipe [2]int
			bpftest.Must(unix.Pipe(pipe[:]))
			path := bpftest.Must1(os.Readlink(fmt.Sprintf("/proc/thread-self/fd/%d", pipe[1])))
			w.call(unix.EINVAL, event{"path": path, "fd": int64(pipe[1])}, unix.SYS_FSYNC, pipe[1])
			w.call(unix.ESPIPE, event{"path": path, "call": "sync_file_range"}, unix.SYS_SYNC_FILE_RANGE, pipe[1], 0, 0, 0)
			bpftest.Must(unix.Close(pipe[0]), unix.Close(pipe[1]))

			// In a mount, and too deep.
			bpftest.Must(
				unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
				unix.Mount("rbtrace", dir+"/d", "tmpfs", 0, ""),
			)
			fd = open("d/f", unix.O_WRONLY)
			w.call(0, event{"path": dir + "/d/f"}, unix.SYS_FSYNC, fd)
			bpftest.Must(unix.Close(fd), unix.Chdir("d"))
			deep := dir + "/d"
			for name := strings.Repeat("d", 199); len(deep) < 30*200; deep += "/" + name {
				bpftest.Must(unix.Mkdir(name, 0o755), unix.Chdir(name))
			}
			fd = open("f", unix.O_WRONLY)
			deep += "/f"
			w.call(0, event{"path": "…" + deep[len(deep)-20*200-2:]}, unix.SYS_FSYNC, fd)
			bpftest.Must(unix.Close(fd), unix.Chdir("/"))
		})
	})
	explained(t, w.check(t, events))
}

// TestSeccomp: what a filter answers is shown, too, although the kernel does not enter the call.
func TestSeccomp(t *testing.T) {
	bpftest.Require(t)
	const n = 11
	var want tracetest.Named
	for _, failed := range []bool{false, true} {
		opts := tracetest.Paths()
		opts.Failed = failed
		want = tracetest.Named{}
		events := tracetest.Trace(t, sync.Tracer, opts, func() {
			bpftest.OnThread(t, "paths", func() {
				bpftest.Must(bpftest.Refuse(unix.EPERM, unix.SYS_FSYNC))
				fd := bpftest.Must1(unix.MemfdCreate("rbtrace", 0))
				for range n {
					ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_FSYNC, fd) })
					want.Add("answered", tracetest.Merge(tracetest.Returned(ret), event{
						"call": "fsync", "errno": "EPERM", "fd": int64(fd), "path": "/memfd:rbtrace (deleted)", "latency_ns": int64(0),
					}))
				}
				bpftest.Must(unix.Close(fd))
			})
		})
		want.Same(t, events)
	}
}

func TestFailed(t *testing.T) {
	bpftest.Require(t)
	opts := tracetest.Paths()
	opts.Failed = true
	w := new(timed)
	events := tracetest.Trace(t, sync.Tracer, opts, func() {
		bpftest.OnThread(t, "paths", func() {
			fd := bpftest.Must1(unix.MemfdCreate("rbtrace", 0))
			for i := range 509 {
				if i%7 == 0 {
					w.call(unix.EBADF, event{"call": "fsync", "fd": int64(-i - 1)}, unix.SYS_FSYNC, -i-1)
				} else if ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_FDATASYNC, fd) }); ret != 0 {
					panic(ret)
				}
			}
			bpftest.Must(unix.Close(fd))
		})
	})
	explained(t, w.check(t, events))
}

// TestAtOnce: each of the calls under way has a beginning of its own.
func TestAtOnce(t *testing.T) {
	bpftest.Require(t)
	const threads, each = 4, 251
	all := make([]*timed, threads)
	events := tracetest.Trace(t, sync.Tracer, tracetest.Paths(), func() {
		var wg gosync.WaitGroup
		for i := range all {
			wg.Go(func() {
				all[i] = new(timed)
				bpftest.OnThread(t, "paths", func() {
					fd := bpftest.Must1(unix.MemfdCreate(fmt.Sprint("thread ", i), 0))
					for range each {
						all[i].call(0, event{"call": "fsync", "path": fmt.Sprintf("/memfd:thread %d (deleted)", i)}, unix.SYS_FSYNC, fd)
					}
					bpftest.Must(unix.Close(fd))
				})
			})
		}
		wg.Wait()
	})
	of := make(map[any][]event)
	for _, e := range events {
		of[e["tid"]] = append(of[e["tid"]], e)
	}
	unknown := 0
	for _, w := range all {
		unknown += w.check(t, of[w.Want[0]["tid"]])
	}
	explained(t, unknown)
}
