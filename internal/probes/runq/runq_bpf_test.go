// SPDX-License-Identifier: Apache-2.0

package runq_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/runq"
)

type event = tracetest.Event

// naps is how often the role of that name sleeps.
const naps = 101

// The goroutine of main stays on the leader, so that there is one thread to look at.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// nap waits, sleeps often, says so, and waits.
		"nap": func() error {
			if err := onFirstCPU(); err != nil {
				return err
			}
			if err := readLine(); err != nil {
				return err
			}
			for range naps {
				ts := unix.NsecToTimespec(int64(100 * time.Microsecond))
				if err := unix.Nanosleep(&ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
					return err
				}
			}
			return reportAndWait()
		},
		// spin waits, is busy for some time on a CPU that another one wants, says so, and waits.
		"spin": func() error {
			if err := onFirstCPU(); err != nil {
				return err
			}
			if err := readLine(); err != nil {
				return err
			}
			for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
			}
			return reportAndWait()
		},
		// end waits, is busy until there is another line, and ends without having slept.
		"end": func() error {
			if err := onFirstCPU(); err != nil {
				return err
			}
			if err := readLine(); err != nil {
				return err
			}
			if err := unix.SetNonblock(0, true); err != nil {
				return err
			}
			for errors.Is(readLine(), unix.EAGAIN) {
			}
			unix.Exit(0)
			return nil
		},
	})
}

// onFirstCPU keeps the leader on the first CPU that this process may use.
func onFirstCPU() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	return unix.SchedSetaffinity(0, &one)
}

// readLine waits for a line by the system call, on this thread.
func readLine() error {
	var b [1]byte
	for {
		if _, err := unix.Read(0, b[:]); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func reportAndWait() error {
	if _, err := unix.Write(int(bpftest.ReportTo.Fd()), []byte("done\n")); err != nil {
		return err
	}
	return readLine()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stat is what the scheduler itself counts of a thread: how long it waited in run queues, how
// often it got a CPU after that (Documentation/scheduler/sched-stats.rst), and how often it left
// its CPU to another one. A thread that is preempted on its way to sleep is back on a CPU without
// having waited, by the first account; the last one has it, and counts every turn of a thread
// that was at rest before and is after.
type stat struct {
	ran, waited time.Duration
	waits       int64
	turns       int64
}

// schedstat reads the stat of a thread that has come to rest: it waits for a line, and for nothing
// that Go has to do first.
func schedstat(t *testing.T, pid int) (s stat) {
	t.Helper()
	for range 1000 {
		before := s
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, pid))
		if err == nil {
			_, err = fmt.Sscan(string(text), &s.ran, &s.waited, &s.waits)
		}
		check(t, err)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, pid))
		check(t, err)
		var voluntary, involuntary int64
		_, counts, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
		_, err = fmt.Sscanf(counts, "%d\nnonvoluntary_ctxt_switches:%d", &voluntary, &involuntary)
		check(t, err)
		s.turns = voluntary + involuntary
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, pid))
		check(t, err)
		_, state, _ = bytes.Cut(state, []byte(") "))
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, pid))
		check(t, err)
		reads := bytes.HasPrefix(call, fmt.Appendf(nil, "%d 0x0 ", unix.SYS_READ))
		if s == before && s.waits > 0 && reads && bytes.HasPrefix(state, []byte("S")) { // it does not wait for a CPU
			return s
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the thread does not come to rest")
	return s
}

// start starts a role whose leader waits for a line.
func start(t *testing.T, role string) *bpftest.Child {
	t.Helper()
	if _, err := os.Stat("/proc/self/schedstat"); err != nil {
		t.Skip("this kernel does not count what its scheduler does (CONFIG_SCHED_INFO)")
	}
	c := &bpftest.Child{Role: role}
	c.Start(t)
	schedstat(t, c.PID())
	return c
}

// compare compares the events of a leader with what the scheduler says, and returns them.
func compare(t *testing.T, c *bpftest.Child, filter attach.Filter, more func()) []event {
	t.Helper()
	pid := c.PID()
	opened := schedstat(t, pid)
	s := tracetest.Open(t, attach.Options{Filter: filter, Params: map[string]string{"min": "0"}}, runq.Tracer)
	s.Start()
	before, unseen := schedstat(t, pid), -bpftest.Hidden(t)
	c.WriteLine(t)
	more()
	c.ReadLine(t)
	after := schedstat(t, pid)
	unseen = max(unseen+bpftest.Hidden(t), 0) // less than 0 where a thread has ended
	r := s.Finish(t)
	var waited time.Duration
	var mine []event
	for _, e := range r.Events {
		if e["tid"] != int64(pid) {
			continue
		}
		mine = append(mine, e)
		waited += time.Duration(e["latency_ns"].(int64))
		want := event{"pid": int64(pid), "ppid": int64(os.Getpid()), "uid": int64(os.Getuid()), "gid": int64(os.Getgid()), "comm": "child"}
		if diff := e.Diff(want); diff != "" {
			t.Fatal(diff)
		}
	}
	missed := int64(r.Ledger[0].Missed)
	least, most := after.turns-before.turns, after.turns-opened.turns // the same, but for what woke it while the programs were attached
	if int64(len(mine)) > most || int64(len(mine))+missed+unseen < least {
		t.Errorf("%d events (and %d missed, %d unseen at the most); it got a CPU %d to %d times", len(mine), missed, unseen, least, most)
	}
	// Two clocks are read, at places a little apart, and on the emulated machines that is more.
	want := after.waited - before.waited
	apart := 20 * time.Microsecond
	if os.Getenv(bpftest.KernelEnv) != "" {
		apart = time.Millisecond
	}
	if off := (waited - want).Abs(); missed == 0 && int64(len(mine)) == after.waits-before.waits && off > want/10+time.Duration(len(mine))*apart {
		t.Errorf("in %d events it waited for %v, by the scheduler's account for %v", len(mine), waited, want)
	}
	if r.Ledger[0].Total().Lost != uint64(missed) {
		t.Errorf("events are lost: %s", r.Ledger[0])
	}
	c.WriteLine(t)
	c.Wait(t)
	return mine
}

// TestWoken: each time that a thread is woken and gets the CPU.
func TestWoken(t *testing.T) {
	bpftest.Require(t)
	c := start(t, "nap")
	mine := compare(t, c, attach.Filter{TID: uint32(c.PID())}, func() {})
	woken := 0
	for _, e := range mine {
		if e["preempted"] == false {
			woken++
		}
		if (e["prev_tid"] == int64(0)) != (e["prev_pid"] == int64(0)) || e["prev_comm"] == "" {
			t.Errorf("who was before: %v, %v, %v", e["prev_pid"], e["prev_tid"], e["prev_comm"])
		}
		if want := fmt.Sprintf("swapper/%d", e["cpu"]); e["prev_tid"] == int64(0) && e["prev_comm"] != want {
			t.Errorf("the idle task is %v, want %s", e["prev_comm"], want)
		}
	}
	// The time may be up before it sleeps: on the emulated machines often.
	if woken+tracetest.Misses(t) < naps/2 {
		t.Errorf("it was woken %d times, and slept %d times", woken, naps)
	}
}

// TestPreempted: threads that share a CPU take turns.
func TestPreempted(t *testing.T) {
	bpftest.Require(t)
	c, rival := start(t, "spin"), start(t, "spin")
	mine := compare(t, c, attach.Filter{PID: uint32(c.PID())}, func() { rival.WriteLine(t) })
	turns := 0
	for _, e := range mine {
		if e["preempted"] == true && e["prev_pid"] == int64(rival.PID()) {
			turns++
			if e["prev_comm"] != "child" {
				t.Errorf("its rival is %v", e["prev_comm"])
			}
		}
	}
	if turns < 1 { // others may want that CPU, too
		t.Errorf("it got the CPU back from its rival %d times in 300 ms", turns)
	}
	rival.WriteLine(t)
	rival.Wait(t)
}

// TestEnds: a thread that was woken while it ran, and ends without having waited again, leaves
// nothing behind. The entry is made here, since that it is woken then is a matter of luck.
func TestEnds(t *testing.T) {
	bpftest.Require(t)
	for i := range 5 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			c, rival := start(t, "end"), start(t, "spin")
			s := tracetest.Open(t, attach.Options{Filter: attach.Filter{TID: uint32(c.PID())}, Params: map[string]string{"min": "0"}}, runq.Tracer)
			s.Start()
			waits := tracetest.Map(t, "rb_runq_waits")
			rival.WriteLine(t)
			c.WriteLine(t)
			var key, value []byte
			for begin := time.Now(); !waits.Iterate().Next(&key, &value) && time.Since(begin) < time.Second; { // while it waits for its rival
			}
			rival.ReadLine(t)
			// Nobody takes the CPU from it.
			check(t, unix.SchedSetAttr(c.PID(), &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0))
			time.Sleep(time.Millisecond)
			if key != nil {
				check(t, waits.Put(key, value))
			}
			c.WriteLine(t)
			c.Wait(t)
			left := 1
			for i := 0; left != 0 && i < 100; i++ { // until it has left its CPU
				time.Sleep(time.Millisecond)
				left = tracetest.MapEntries(t, "rb_runq_waits")
			}
			s.Finish(t)
			if key == nil || left != 0 {
				t.Errorf("%d threads that have ended are remembered; key %x", left, key)
			}
			rival.WriteLine(t)
			rival.Wait(t)
		})
	}
}

// TestFilters: they look at the thread that waits, not at who wakes it or makes room.
func TestFilters(t *testing.T) {
	bpftest.Require(t)
	uid := uint32(os.Getuid())
	me := uint32(os.Getpid())
	filters := map[string]attach.Filter{
		"ppid": {PPID: me},
		"comm": {Comm: "child", PPID: me},
		"uid":  {UID: &uid, PPID: me},
		"tree": {Follow: true},
		"none": {},
	}
	if cgroup, err := kernel.CgroupMount(); err == nil {
		filters["cgroup"] = attach.Filter{Cgroup: cgroup, PPID: me}
	}
	for name, filter := range filters {
		t.Run(name, func(t *testing.T) {
			c := start(t, "nap")
			if filter.Follow {
				s := tracetest.Open(t, attach.Options{Filter: filter, Params: map[string]string{"min": "0"}}, runq.Tracer)
				check(t, s.Follow(c.PID()))
				s.Start()
				c.WriteLine(t)
				c.ReadLine(t)
				events := s.Finish(t).Events
				for _, e := range events {
					if e["pid"] != int64(c.PID()) {
						t.Fatalf("an event of %v", e["comm"])
					}
				}
				if len(events)+tracetest.Misses(t) < naps/2 {
					t.Errorf("%d events", len(events))
				}
				c.WriteLine(t)
				c.Wait(t)
				return
			}
			if mine := compare(t, c, filter, func() {}); len(mine)+tracetest.Misses(t) < naps/2 {
				t.Errorf("%d events", len(mine))
			}
		})
	}
	other := uint32(54321)
	nobody := map[string]attach.Filter{"uid": {UID: &other}, "comm": {Comm: "nobody-has-this"}, "ppid": {PPID: 1<<22 + 1}}
	if cgroup, err := kernel.CgroupMount(); err == nil {
		dir := cgroup + "/rbtrace-test-" + strconv.Itoa(os.Getpid())
		if os.Mkdir(dir, 0o755) == nil {
			defer os.Remove(dir)
			nobody["cgroup"] = attach.Filter{Cgroup: dir}
		}
	}
	for name, filter := range nobody {
		t.Run("no "+name, func(t *testing.T) {
			events := tracetest.Trace(t, runq.Tracer, attach.Options{Filter: filter, Params: map[string]string{"min": "0"}}, func() {
				for range 10 {
					time.Sleep(time.Millisecond)
				}
			})
			if len(events) > 0 {
				t.Errorf("%d events, the first one %v", len(events), events[0])
			}
		})
	}
}

// TestMin: by default what takes 10 ms.
func TestMin(t *testing.T) {
	bpftest.Require(t)
	c, rival := start(t, "spin"), start(t, "spin")
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, runq.Tracer)
	s.Start()
	rival.WriteLine(t)
	c.WriteLine(t)
	c.ReadLine(t)
	rival.ReadLine(t)
	for _, e := range s.Finish(t).Events {
		if l := time.Duration(e["latency_ns"].(int64)); l < 10*time.Millisecond {
			t.Errorf("%v are shown", l)
		}
	}
	for _, c := range []*bpftest.Child{c, rival} {
		c.WriteLine(t)
		c.Wait(t)
	}
}
