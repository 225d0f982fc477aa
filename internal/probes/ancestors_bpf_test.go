// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// descend tells its pid on ReportTo, makes a process of the next generation, and ends.
// The last of them waits until its parent is gone, and makes the events.
func descend() error {
	name, rest := os.Args[0], os.Args[1:]
	fmt.Fprintln(bpftest.ReportTo, os.Getpid())
	// The filter looks at the name of the thread that opens, the lineage at that of the process.
	runtime.LockOSThread()
	for _, thread := range []string{"self", "thread-self"} {
		if err := os.WriteFile("/proc/"+thread+"/comm", []byte(name), 0o644); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		next := exec.Command("/proc/self/exe")
		next.Args, next.Env, next.ExtraFiles = rest, bpftest.RoleEnv("descend"), []*os.File{bpftest.ReportTo}
		next.Stderr = os.Stderr
		return next.Start()
	}
	for parent := os.Getppid(); os.Getppid() == parent && parent != 1; {
		time.Sleep(time.Millisecond)
	}
	for range descentEvents {
		if _, err := unix.Open("/nothing/of/descent", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

const descentEvents = 13

// TestAncestors: the chain of a process whose parent, and whose parent's parent, are
// gone, beside what each of them said of itself.
func TestAncestors(t *testing.T) {
	bpftest.Require(t)
	var s *tracetest.Session
	with := open.Tracer.WithAncestors(func(list []field.Ancestor, who *wire.Who) []field.Ancestor {
		return s.Lineage().Ancestors(list, who)
	})
	names := []string{"first", "second <", "third", "last"}
	// The first one is there before the session.
	c := &bpftest.Child{Role: "descend", Args: names}
	c.Start(t)
	pids := []string{c.ReadLine(t)}
	s = tracetest.Open(t, attach.Options{Failed: true, Lineage: true, Filter: attach.Filter{Comm: names[3]}}, []*tracer.Tracer{with}...)
	s.Start()
	pids = append(pids, strings.Fields(string(c.End(t)))...)
	if len(pids) != len(names) {
		t.Fatalf("pids %v", pids)
	}
	r := s.Finish(t)
	mine := 0
	for _, e := range r.Events {
		if e["path"] != "/nothing/of/descent" {
			continue // the Go runtime's
		}
		mine++
		chain := e["ancestors"].([]tracetest.Event)
		if len(chain) < 4 {
			t.Fatalf("ancestors %v", chain)
		}
		for i := range 3 {
			want := tracetest.Event{"comm": names[2-i], "pid": atoi(t, pids[2-i])}
			if diff := chain[i].Diff(want); diff != "" {
				t.Errorf("ancestor %d: %s", i, diff)
			}
			start, pid, _ := strings.Cut(chain[i]["proc_id"].(string), "-")
			if ns, err := strconv.ParseUint(start, 10, 64); err != nil || ns == 0 || pid != pids[2-i] {
				t.Errorf("proc_id %v of process %s", chain[i]["proc_id"], pids[2-i])
			}
		}
		me := chain[3]
		if me["pid"] != int64(os.Getpid()) || !strings.HasPrefix(me["proc_id"].(string), strconv.FormatUint(startTicks(t, os.Getpid()), 10)) {
			t.Errorf("the first one's parent is %v, want this process, %d", me, os.Getpid())
		}
		if e["pid"] != atoi(t, pids[3]) || e["ppid"] == atoi(t, pids[2]) {
			t.Errorf("process %v, child of %v; want %s, an orphan", e["pid"], e["ppid"], pids[3])
		}
	}
	if mine != descentEvents {
		t.Errorf("%d events, want %d", mine, descentEvents)
	}
}

func atoi(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
