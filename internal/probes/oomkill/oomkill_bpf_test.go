// SPDX-License-Identifier: Apache-2.0

package oomkill_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/oomkill"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// hog takes memory when its parent says so, tells when it has it, and keeps it: hog
		// ADJ MIB.
		"hog": func() error {
			mib, err := strconv.Atoi(os.Args[2])
			err = errors.Join(err, os.WriteFile("/proc/self/oom_score_adj", []byte(os.Args[1]), 0o644), bpftest.AwaitEOF())
			if err != nil {
				return err
			}
			memory, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return err
			}
			for i := 0; i < len(memory); i += 4096 {
				if i%(1<<20) == 0 {
					time.Sleep(5 * time.Millisecond) // of a victim there is some still to be freed
				}
				memory[i] = 1
			}
			fmt.Fprintln(bpftest.ReportTo, "there")
			time.Sleep(time.Minute)
			return errors.New("nobody has killed it")
		},
	})
}

const (
	limit   = 64 // of a cgroup's memory, MiB
	hostile = "a\x1b]0;\n\xff\"b"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// group is a cgroup with little memory.
type group struct {
	dir string
	v2  bool
}

func newGroup(t *testing.T) group {
	t.Helper()
	name := fmt.Sprintf("rbtrace-oomkill-%d", os.Getpid())
	g := group{v2: true}
	mount, err := kernel.CgroupMount()
	check(t, err)
	file := "memory.max"
	if err := os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		// The controller is with the hierarchies of version 1.
		g.v2, file = false, "memory.limit_in_bytes"
		mount = "/sys/fs/cgroup/memory"
		if _, err1 := os.Stat(filepath.Join(mount, file)); err1 != nil {
			bpftest.Skipf(t, "no cgroup limits memory: %v", errors.Join(err, err1))
		}
	}
	g.dir = filepath.Join(mount, name)
	check(t, os.Mkdir(g.dir, 0o755))
	t.Cleanup(func() {
		var err error
		for range 100 { // what was killed may still be on its way out
			if err = unix.Rmdir(g.dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	check(t, os.WriteFile(filepath.Join(g.dir, file), []byte(fmt.Sprint(limit<<20)), 0))
	return g
}

// hog is a process in the group that is about to take so much memory, in MiB.
func (g group) hog(t *testing.T, name string, adj, mib int) *bpftest.Child {
	t.Helper()
	c := &bpftest.Child{
		Role: "hog", Path: bpftest.Link(t, filepath.Join(bpftest.Dir(t), name)), Args: []string{name, fmt.Sprint(adj), fmt.Sprint(mib)},
	}
	c.Start(t)
	check(t, os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(fmt.Sprint(c.PID())), 0))
	return c
}

// killed waits for the end of c.
func killed(t *testing.T, c *bpftest.Child) {
	t.Helper()
	if status := c.Wait(t); !status.Signaled() || status.Signal() != unix.SIGKILL {
		t.Errorf("it ended with %#x", status)
	}
}

// hasMemory checks that a process has the memory that it shall have, in MiB, as far as the
// kernel knows.
func hasMemory(t *testing.T, e event, mib int64) {
	t.Helper()
	anon, rss := e["anon_rss_kb"].(int64)>>10, e["rss_kb"].(int64)
	if anon < mib*3/4 || anon > limit+8 { // as roughly as the kernel counts
		t.Errorf("it has %d MiB, want %d", anon, mib)
	}
	if sum := e["anon_rss_kb"].(int64) + e["file_rss_kb"].(int64) + e["shmem_rss_kb"].(int64); rss != sum {
		t.Errorf("rss is %d, want %d", rss, sum)
	}
	if total, tables := e["total_vm_kb"].(int64), e["pgtables_kb"].(int64); total < rss || tables < anon<<10/512/1024*4 || tables > rss {
		t.Errorf("%d KiB of address space, and %d of page tables, for %d of memory", total, tables, rss)
	}
}

// hasLimit checks what the group may have in all: its limit and, if it has any, swap; where the
// hook tells.
func hasLimit(t *testing.T, e event, memcg string) {
	t.Helper()
	var info unix.Sysinfo_t
	check(t, unix.Sysinfo(&info))
	least, swap := int64(0), int64(0)
	if memcg != "" {
		least, swap = limit<<10, int64(info.Totalswap)*int64(info.Unit)>>10
	}
	if n := e["limit_kb"].(int64); n < least || n > least+swap {
		t.Errorf("limit_kb is %d, want %d, and up to %d of swap", n, least, swap)
	}
}

// kernelLog is what the kernel logs from now on.
type kernelLog struct{ *os.File }

func openKernelLog(t *testing.T) kernelLog {
	t.Helper()
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		bpftest.Skipf(t, "reading the kernel's log: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
	check(t, err)
	return kernelLog{f}
}

// killed returns what the log says of a victim.
func (l kernelLog) killed(t *testing.T, pid int) event {
	t.Helper()
	line := regexp.MustCompile(fmt.Sprintf(`Killed process %d \(.*\) total-vm:(\d+)kB, anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB, `+
		`UID:(\d+) pgtables:(\d+)kB oom_score_adj:(-?\d+)`, pid))
	for b := make([]byte, 8192); ; {
		n, err := unix.Read(int(l.Fd()), b) // a line each
		if errors.Is(err, unix.EPIPE) {     // some are overwritten already
			continue
		}
		if err != nil {
			t.Fatalf("the kernel's log has no line of process %d: %v", pid, err)
		}
		found := line.FindSubmatch(b[:n])
		if found == nil {
			continue
		}
		e := event{"vpid": int64(pid)}
		for i, key := range []string{"total_vm_kb", "anon_rss_kb", "file_rss_kb", "shmem_rss_kb", "vuid", "pgtables_kb", "oom_score_adj"} {
			n, err := strconv.ParseInt(string(found[i+1]), 10, 64)
			check(t, err)
			e[key] = n
		}
		return e
	}
}

// round takes what the log tells of memory for the same where the kernel adds what each CPU has
// counted by itself, which is 32 pages at the most, or two for each CPU; or, before 6.2, where
// threads add now and then what they have counted.
func round(events []event, want event) {
	v, err := kernel.ParseVersion(kernel.Release())
	if err != nil || v.Less(kernel.Version{Major: 7}) && !v.Less(kernel.Version{Major: 6, Minor: 2}) {
		return // it does not: the numbers are the same
	}
	for _, key := range []string{"anon_rss_kb", "file_rss_kb", "shmem_rss_kb"} {
		for _, e := range events {
			cpus := int64(runtime.NumCPU())
			if n, logged := e[key].(int64), want[key].(int64); max(n-logged, logged-n) <= max(32, 2*cpus)*cpus*4 {
				e["rss_kb"] = e["rss_kb"].(int64) + logged - n
				e[key] = logged
			}
		}
	}
}

// tellsOfTask reports whether the tracepoint of this kernel does.
func tellsOfTask(t *testing.T) bool {
	t.Helper()
	types, err := btf.LoadKernelSpec()
	check(t, err)
	var event *btf.Struct
	check(t, types.TypeByName("trace_event_raw_mark_victim", &event))
	return slices.ContainsFunc(event.Members, func(m btf.Member) bool { return m.Name == "oom_score_adj" })
}

func TestOOMKill(t *testing.T) {
	bpftest.Require(t)
	for _, kind := range []tracer.HookKind{tracer.Tracepoint, tracer.Fentry, tracer.Kprobe} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == tracer.Tracepoint && !tellsOfTask(t) {
				bpftest.Lacks(t, "the tracepoint does not tell of the task", "5.10")
			}
			memcg := "yes"
			if kind == tracer.Tracepoint {
				memcg = ""
			}
			t.Run("itself", func(t *testing.T) { itself(t, kind, memcg) })
			t.Run("another", func(t *testing.T) { another(t, kind, memcg) })
			t.Run("group", func(t *testing.T) { together(t, kind, memcg) })
		})
	}
}

// itself: who asks for too much is killed.
func itself(t *testing.T, kind tracer.HookKind, memcg string) {
	n := bpftest.Few(3, 1)
	g := newGroup(t)
	for range n {
		c := g.hog(t, hostile, 777, 2*limit)
		pid := int64(c.PID())
		log := openKernelLog(t)
		var cgroup unix.Stat_t
		check(t, unix.Stat(g.dir, &cgroup))
		events := tracetest.Trace(t, oomkill.Tracer, attach.Options{Hook: kind, Filter: attach.Filter{PID: uint32(c.PID())}}, func() {
			c.Release()
			killed(t, c)
		})
		want := event{
			"type": "oomkill", "pid": pid, "vpid": pid, "vcomm": tracetest.Text(hostile), "vuid": int64(os.Getuid()), "oom_score_adj": int64(777),
			"memcg": memcg, "swap_kb": int64(0),
		}
		if g.v2 {
			want["vcgroup_id"], want["cgroup_id"] = int64(cgroup.Ino), int64(cgroup.Ino)
		}
		maps.Copy(want, log.killed(t, c.PID()))
		round(events, want)
		tracetest.Same(t, events, []event{want})
		for _, e := range events {
			hasMemory(t, e, limit-16) // and some that is not its own
		}
	}
}

// loadAverages are those of /proc/loadavg, or empty where the hook does not know them.
func loadAverages(t *testing.T, kind tracer.HookKind) string {
	t.Helper()
	if kind == tracer.Tracepoint {
		return ""
	}
	symbols, err := os.ReadFile("/proc/kallsyms")
	check(t, err)
	if !bytes.Contains(symbols, []byte(" avenrun\n")) {
		if os.Getenv(bpftest.KernelEnv) != "" {
			t.Fatal("this kernel does not tell where the load averages are (CONFIG_KALLSYMS_ALL)")
		}
		return ""
	}
	text, err := os.ReadFile("/proc/loadavg")
	check(t, err)
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// another: who asks for a little is served, and another one killed.
func another(t *testing.T, kind tracer.HookKind, memcg string) {
	g := newGroup(t)
	victim := g.hog(t, "victim", 1000, 44)
	victim.Release()
	if line := victim.ReadLine(t); line != "there" {
		t.Fatal(line)
	}
	asks, log := g.hog(t, "asks", 100, 28), openKernelLog(t)
	var loads []string
	events := tracetest.Trace(t, oomkill.Tracer, attach.Options{Hook: kind, Filter: attach.Filter{PID: uint32(asks.PID())}}, func() {
		loads = append(loads, loadAverages(t, kind))
		asks.Release()
		killed(t, victim)
		loads = append(loads, loadAverages(t, kind))
	})
	asks.Kill(t)
	// It may follow: what a victim leaves takes a while to be free.
	if len(events) == 2 && events[1]["vpid"] == int64(asks.PID()) {
		events = events[:1]
	}
	want := log.killed(t, victim.PID())
	maps.Copy(want, event{
		"pid": int64(asks.PID()), "comm": "asks", "vpid": int64(victim.PID()), "vcomm": "victim", "oom_score_adj": int64(1000), "memcg": memcg,
	})
	round(events, want)
	tracetest.Same(t, events, []event{want})
	for _, e := range events {
		hasMemory(t, e, 44)
		hasLimit(t, e, memcg)
		if load := e["load"].(string); !slices.Contains(loads, load) { // the kernel takes them every 5 s
			t.Errorf("the load is %q, by /proc/loadavg %q", load, loads)
		}
	}
}

// together: all of a group that is to live or die together.
func together(t *testing.T, kind tracer.HookKind, memcg string) {
	g := newGroup(t)
	if !g.v2 {
		t.Skip("only version 2 of cgroups has memory.oom.group")
	}
	check(t, os.WriteFile(filepath.Join(g.dir, "memory.oom.group"), []byte("1"), 0))
	first, last := g.hog(t, "first", 0, 8), g.hog(t, "last", 0, 2*limit)
	first.Release()
	first.ReadLine(t)
	events := tracetest.Trace(t, oomkill.Tracer, attach.Options{Hook: kind, Filter: attach.Filter{PID: uint32(last.PID())}}, func() {
		last.Release()
		killed(t, last)
		killed(t, first)
	})
	names := make(map[string]int64)
	for _, e := range events {
		hasLimit(t, e, memcg)
		names[e["vcomm"].(string)] = e["vpid"].(int64)
		if e["memcg"] != memcg {
			t.Errorf("memcg is %q", e["memcg"])
		}
	}
	if len(events) != 2 || names["first"] != int64(first.PID()) || names["last"] != int64(last.PID()) {
		t.Errorf("%d events: %v; want %d and %d", len(events), names, first.PID(), last.PID())
	}
}
