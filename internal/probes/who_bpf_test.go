// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/open"
)

// procField returns what is behind the name of a line of a file of /proc.
func procField(t *testing.T, file, name string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Fields(rest)
		}
	}
	t.Fatalf("%s has no line %s", file, name)
	return nil
}

// startTicks returns when a process was made, in clock ticks by the boot clock.
func startTicks(t *testing.T, pid int) uint64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	const place = 22 - 3 // starttime, of the fields behind the name
	n, err := strconv.ParseUint(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[place], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// thread waits until a process has a thread of that name. It returns the thread's id, and what
// it is in its own pid namespace.
func thread(t *testing.T, pid int, name string) (tid int64, own string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			comm, err := os.ReadFile(task + "/comm")
			if err != nil || strings.TrimSpace(string(comm)) != name {
				continue
			}
			tid, err := strconv.ParseInt(filepath.Base(task), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ids := procField(t, task+"/status", "NSpid")
			return tid, ids[len(ids)-1]
		}
	}
	t.Fatalf("process %d has no thread %s", pid, name)
	return 0, ""
}

// TestWho: processes in pid namespaces of several depths, each with its ids there and
// with the time that it was made at, as /proc has them.
func TestWho(t *testing.T) {
	bpftest.Require(t)
	for _, namespaced := range []bool{false, true} {
		t.Run(map[bool]string{false: "initial", true: "own"}[namespaced], func(t *testing.T) {
			const n = 17
			c := &bpftest.Child{Role: "flood", Args: []string{floodComm, strconv.Itoa(n)}}
			if namespaced {
				c.Sys = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
			}
			c.Start(t)
			pid := c.PID()
			own := procField(t, fmt.Sprintf("/proc/%d/status", pid), "NSpid")
			if (own[len(own)-1] == "1") != namespaced {
				t.Fatalf("NSpid %v", own)
			}
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
			if err != nil {
				t.Fatal(err)
			}
			ticks := startTicks(t, pid)
			tid, nsTID := thread(t, pid, floodComm)

			events := tracetest.Trace(t, open.Tracer, attach.Options{Failed: true, Filter: attach.Filter{PID: uint32(pid)}}, func() {
				c.End(t)
			})
			var mine int
			for _, e := range events {
				if e["comm"] != floodComm {
					continue // the Go runtime's
				}
				mine++
				if got := fmt.Sprint(e["ns_pid"]); got != own[len(own)-1] {
					t.Errorf("ns_pid %s, want %v", got, own)
				}
				if e["tid"] != tid || fmt.Sprint(e["ns_tid"]) != nsTID {
					t.Errorf("ns_tid %v of thread %v, want %s of %d", e["ns_tid"], e["tid"], nsTID, tid)
				}
				if got := fmt.Sprintf("pid:[%v]", e["pid_ns"]); got != link {
					t.Errorf("pid_ns %s, want %s", got, link)
				}
				start, id, _ := strings.Cut(e["proc_id"].(string), "-")
				ns, err := strconv.ParseUint(start, 10, 64)
				if err != nil || id != strconv.Itoa(pid) || ns/1e7 != ticks {
					t.Errorf("proc_id %v, want process %d that began at tick %d", e["proc_id"], pid, ticks)
				}
			}
			if mine != n {
				t.Errorf("%d events, want %d", mine, n)
			}
		})
	}
}
