// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
)

// newCgroup makes a cgroup of the unified hierarchy, and one below it.
func newCgroup(t *testing.T) (dir, child string) {
	mount, err := kernel.CgroupMount()
	if err == nil {
		dir, err = os.MkdirTemp(mount, "rbtrace-test")
	}
	if err != nil {
		bpftest.Skipf(t, "making a cgroup: %v", err)
	}
	child = dir + "/below"
	t.Cleanup(func() { check(t, os.Remove(dir)) })
	check(t, os.Mkdir(child, 0o755))
	t.Cleanup(func() { check(t, os.Remove(child)) })
	return dir, child
}

// inCgroup makes a process begin in the cgroup of dir.
func inCgroup(t *testing.T, dir string) *syscall.ProcAttr {
	f, err := os.Open(dir)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return &syscall.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}}
}

// execs are children of this process that each exec a quick program many times, or
// fail to.
type execs struct {
	attr *syscall.ProcAttr
	name string // the program's name, and with it the task's; a failed call's is that of the caller
}

func TestFilters(t *testing.T) {
	bpftest.Require(t)
	me := uint32(os.Getpid())
	uid := func(n uint32) *syscall.ProcAttr {
		return &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: n, Gid: n}}}
	}
	zero, other := uint32(0), uint32(12345)
	for _, test := range []struct {
		name    string
		filter  attach.Filter
		wanted  execs
		decoy   execs
		cgroups bool // wanted begin in the cgroup of the filter and in one below it
	}{
		{name: "uid", filter: attach.Filter{UID: &other}, wanted: execs{attr: uid(other)}, decoy: execs{attr: uid(other + 1)}},
		{name: "root", filter: attach.Filter{UID: &zero, PPID: me}, decoy: execs{attr: uid(other)}},
		{name: "comm", filter: attach.Filter{Comm: "rbtrace-wanted"}, wanted: execs{name: "rbtrace-wanted"}, decoy: execs{name: "rbtrace-wante"}},
		{
			name:   "longComm", // the kernel keeps 15 bytes
			filter: attach.Filter{Comm: "rbtrace-wanted-and-longer"},
			wanted: execs{name: "rbtrace-wanted-by-us"[:15] + "x"}, decoy: execs{name: "rbtrace-wanted"},
		},
		{name: "cgroup", cgroups: true},
		{
			name:   "all",
			filter: attach.Filter{UID: &other, Comm: "rbtrace-wanted", PPID: me},
			wanted: execs{name: "rbtrace-wanted", attr: uid(other)}, decoy: execs{name: "rbtrace-wanted"}, cgroups: true,
		},
	} {
		modes := []bool{false, true}
		if test.name != "all" { // their programs have the filters from one header
			modes = bpftest.Thin(modes, 2)
		}
		for _, failed := range modes {
			t.Run(fmt.Sprintf("%s/failed=%v", test.name, failed), func(t *testing.T) {
				dir, filter, wanted, decoy := bpftest.Dir(t), test.filter, []execs{test.wanted}, []execs{test.decoy}
				if test.cgroups {
					top, below := newCgroup(t)
					other, _ := newCgroup(t)
					filter.Cgroup = top
					if test.decoy.attr == nil {
						decoy = append(decoy, test.decoy)
						decoy[0].attr = inCgroup(t, other)
					}
					wanted = append(wanted, test.wanted)
					for i, dir := range []string{top, below} {
						attr := inCgroup(t, dir)
						if test.wanted.attr != nil {
							attr.Sys.Credential = test.wanted.attr.Sys.Credential
						}
						wanted[i].attr = attr
					}
				}
				spawn := func(all []execs, n int) {
					for _, e := range all {
						name := e.name
						if name == "" {
							name = "quick"
						}
						path, want := dir+"/"+name, error(nil)
						if failed {
							path, want = dir+"/missing", unix.ENOENT
							setComm(t, name)
						} else if _, err := os.Stat(path); err != nil {
							bpftest.LinkQuick(t, path)
						}
						bpftest.Spawn(t, n, path, []string{strconv.Itoa(n)}, e.attr, want)
					}
				}
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				defer setComm(t, "rbtrace-test")
				const many, some = 17, 13
				events := tracetest.Trace(t, exec.Tracer, attach.Options{Filter: filter, Failed: failed}, func() {
					spawn(decoy, some)
					spawn(wanted, many)
					spawn(decoy, some)
				})
				tracetest.Same(t, events, repeatedEvent(many*len(wanted), event{"args": []string{strconv.Itoa(many)}}))
			})
		}
	}
}

// setComm names this thread, and what it forks.
func setComm(t *testing.T, name string) {
	t.Helper()
	check(t, os.WriteFile("/proc/thread-self/comm", []byte(name), 0o644))
}

// Roles of the children below.
var roles = map[string]func() error{
	// await waits to be released and becomes another program.
	"await": func() error {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		return execProg()
	},
	// awaitOnThread tells the id of a thread that does so, and is not the leader.
	"awaitOnThread": func() error {
		return onThread(func() error {
			if _, err := fmt.Fprintln(bpftest.ReportTo, unix.Gettid()); err != nil {
				return err
			}
			if err := bpftest.AwaitEOF(); err != nil {
				return err
			}
			return execProg()
		})
	},
	// becomes has a child, and becomes a parent of five.
	"becomes": func() error {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		if err := runQuick(); err != nil {
			return err
		}
		return syscall.Exec(prog(), []string{"prog", "5"}, bpftest.RoleEnv("parent"))
	},
	// parent becomes the parent of quick programs, as many as its arguments say.
	"parent": func() error {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		for range must(strconv.Atoi(os.Args[1])) {
			if err := runQuick(); err != nil {
				return err
			}
		}
		return nil
	},
	// family starts descendants of all kinds; each starts one quick program.
	"family": func() error {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		return errors.Join(runQuick(), runSelf("child"), onThread(func() error { return runSelf("child") }), runSelf("daemonise"))
	},
	"child":      func() error { return errors.Join(runQuick(), runSelf("grandchild")) },
	"grandchild": runQuick,
	// daemonise leaves a process behind that is nobody's child.
	"daemonise": func() error {
		_, err := startSelf("daemon")
		return err
	},
	"daemon": func() error {
		for parent := must(strconv.Atoi(os.Args[2])); os.Getppid() == parent; {
			runtime.Gosched()
		}
		return errors.Join(runQuick(), execProg())
	},
	// crowd has so many children at once.
	"crowd": func() error {
		if err := bpftest.AwaitEOF(); err != nil {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		started, out, err := os.Pipe()
		if err != nil {
			return err
		}
		var pids []int
		for range must(strconv.Atoi(os.Args[1])) {
			pid, err := syscall.ForkExec("/proc/self/exe", []string{"idle"}, &syscall.ProcAttr{
				Env: bpftest.RoleEnv("idle"), Files: []uintptr{r.Fd(), out.Fd(), 2},
			})
			if err != nil {
				return err
			}
			pids = append(pids, pid)
			if _, err := started.Read(make([]byte, 1)); err != nil {
				return err
			}
		}
		w.Close()
		return waitAll(pids)
	},
	"idle": func() error {
		if _, err := os.Stdout.Write([]byte{0}); err != nil {
			return err
		}
		return bpftest.AwaitEOF()
	},
}

func must(n int, err error) int {
	if err != nil {
		panic(err)
	}
	return n
}

func waitAll(pids []int) error {
	for _, pid := range pids {
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
			return fmt.Errorf("process %d: status %#x, %w", pid, status, err)
		}
	}
	return nil
}

func runQuick() error {
	pid, err := syscall.ForkExec("quick", []string{"quick"}, &syscall.ProcAttr{})
	if err != nil {
		return err
	}
	return waitAll([]int{pid})
}

// startSelf starts a process in another role. It holds the pipe that Child.End
// reads, which therefore waits for it.
func startSelf(role string) (pid int, err error) {
	return syscall.ForkExec(prog(), []string{"prog", role, strconv.Itoa(os.Getpid())}, &syscall.ProcAttr{
		Env: bpftest.RoleEnv(role), Files: []uintptr{0, 1, 2, bpftest.ReportTo.Fd()},
	})
}

func runSelf(role string) error {
	pid, err := startSelf(role)
	if err != nil {
		return err
	}
	return waitAll([]int{pid})
}

// start starts a child in a directory with the programs prog and quick.
func start(t *testing.T, role string, args ...string) *bpftest.Child {
	dir := bpftest.Dir(t)
	bpftest.LinkQuick(t, dir+"/quick")
	c := &bpftest.Child{Role: role, Path: bpftest.Link(t, dir+"/prog"), Args: append([]string{"prog"}, args...), Dir: dir}
	c.Start(t)
	return c
}

func TestFilterPID(t *testing.T) {
	bpftest.Require(t)
	wanted, decoy := start(t, "await"), start(t, "await")
	events := tracetest.Trace(t, exec.Tracer, attach.Options{Filter: attach.Filter{PID: uint32(wanted.PID())}}, func() {
		decoy.Report(t)
		wanted.Report(t)
		decoy = start(t, "await")
		decoy.Report(t)
	})
	tracetest.Same(t, events, []event{{"pid": int64(wanted.PID()), "args": []string{"prog", "x"}}})
}

// TestFilterTID: a thread that is not the leader is found by the id that it calls with, and
// not by the one that it has then.
func TestFilterTID(t *testing.T) {
	bpftest.Require(t)
	wanted, decoy := start(t, "awaitOnThread"), start(t, "awaitOnThread")
	tid := int64(must(strconv.Atoi(wanted.ReadLine(t))))
	decoy.ReadLine(t)
	var report *bpftest.Report
	events := tracetest.Trace(t, exec.Tracer, attach.Options{Filter: attach.Filter{TID: uint32(tid)}}, func() {
		decoy.Report(t)
		report = wanted.Report(t)
	})
	want := wantOf(report)
	if want["tid"] = tid; want["pid"] == tid {
		t.Fatal("the thread is the leader")
	}
	tracetest.Same(t, events, []event{want})

	wanted = start(t, "awaitOnThread")
	wanted.ReadLine(t)
	events = tracetest.Trace(t, exec.Tracer, attach.Options{Filter: attach.Filter{TID: uint32(wanted.PID())}}, func() {
		wanted.Report(t)
	})
	tracetest.Same(t, events, nil)
}

func TestFilterPPID(t *testing.T) {
	bpftest.Require(t)
	wanted, decoy := start(t, "parent", "17"), start(t, "parent", "13")
	events := tracetest.Trace(t, exec.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(wanted.PID())}}, func() {
		decoy.End(t)
		wanted.End(t)
	})
	tracetest.Same(t, events, repeatedEvent(17, event{"ppid": int64(wanted.PID()), "comm": "quick"}))
}

// TestFollow: all descendants of a process are followed from their first exec on,
// whoever their parents are by then, and nobody else is.
func TestFollow(t *testing.T) {
	bpftest.Require(t)
	wanted, decoy := start(t, "family"), start(t, "family")
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{Follow: true}}, exec.Tracer)
	check(t, s.Follow(wanted.PID()))
	s.Start()
	decoy.Report(t)
	daemon := wanted.Report(t) // returns when the daemon has reported
	r := s.Finish(t)

	var got []string
	for _, e := range r.Events {
		got = append(got, strings.Join(e["args"].([]string)[:min(2, len(e["args"].([]string)))], " "))
		if args := e["args"].([]string); args[len(args)-1] == "x" {
			tracetest.Same(t, []event{e}, []event{wantOf(daemon)})
		}
	}
	child := []string{"prog child", "quick", "prog grandchild", "quick"}
	want := slices.Concat([]string{"quick"}, child, child, []string{"prog daemonise", "prog daemon", "quick", "prog x"})
	if !slices.Equal(got, want) || r.Lost != 0 {
		t.Errorf("followed %q, want %q; %d lost", got, want, r.Lost)
	}
	if n, err := s.Unfollowed(); n != 0 || err != nil {
		t.Errorf("%d processes not followed, %v", n, err)
	}
}

// TestFollowExec: who is followed from its exec on is seen to call that, and what it starts is
// followed, but not what it has started before; and nobody else is.
func TestFollowExec(t *testing.T) {
	bpftest.Require(t)
	wanted, decoy := start(t, "becomes"), start(t, "becomes")
	s := tracetest.Open(t, attach.Options{Filter: attach.Filter{Follow: true}}, exec.Tracer)
	check(t, s.FollowExec(wanted.PID()))
	s.Start()
	decoy.End(t)
	wanted.End(t)
	r := s.Finish(t)
	want := append([]event{{"pid": int64(wanted.PID()), "args": []string{"prog", "5"}}},
		repeatedEvent(5, event{"ppid": int64(wanted.PID()), "comm": "quick"})...)
	tracetest.Same(t, r.Events, want)
	if n, err := s.Unfollowed(); n != 0 || err != nil || r.Lost != 0 {
		t.Errorf("%d processes not followed, %v; %d lost", n, err, r.Lost)
	}
}

// TestFollowMany: whoever has ended takes no place among the followed, once the
// kernel has put the last of it away, which takes it some ms.
func TestFollowMany(t *testing.T) {
	bpftest.Require(t)
	many := bpftest.Few(2003, 101)
	for _, test := range []struct {
		role       string
		n, events  int
		follows    uint32
		unfollowed uint64
	}{
		{"parent", many, many, uint32(many / 2), 0},
		{"crowd", 7, 2, 3, 5},
	} {
		t.Run(test.role, func(t *testing.T) {
			c := start(t, test.role, strconv.Itoa(test.n))
			s := tracetest.Open(t, attach.Options{Filter: attach.Filter{Follow: true}, MaxFollows: test.follows}, exec.Tracer)
			check(t, s.Follow(c.PID()))
			s.Start()
			c.End(t)
			r := s.Finish(t)
			if len(r.Events) != test.events {
				t.Errorf("%d events, want %d", len(r.Events), test.events)
			}
			if n, err := s.Unfollowed(); n != test.unfollowed || err != nil {
				t.Errorf("%d processes not followed, %v; want %d", n, err, test.unfollowed)
			}
		})
	}
}

// TestLoss: what a full ring had no room for is told where it happened, and the
// books have all of it.
func TestLoss(t *testing.T) {
	bpftest.Require(t)
	const many, late = 211, 7
	path := quick(t)
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("failed=%v", failed), func(t *testing.T) {
			cpu := bpftest.Pin(t)
			opts, path, want := mine(), path, error(nil)
			if opts.Failed = failed; failed {
				path, want = path+"-not", unix.ENOENT
			}
			opts.RingSize = uint32(os.Getpagesize())
			s := tracetest.Open(t, opts, exec.Tracer)
			bpftest.Spawn(t, many, path, []string{"early"}, nil, want)
			s.Drain(t)
			bpftest.Spawn(t, late, path, []string{"late"}, nil, want)
			r := s.Finish(t)

			fitted := len(r.Lines) - 1 - late
			if fitted < 5 || fitted >= many {
				t.Fatalf("%d events fitted", fitted)
			}
			var lines []event
			for i := range many + late {
				switch {
				case i < fitted:
					lines = append(lines, event{"type": "exec", "args": []string{"early"}})
				case i == many:
					lines = append(lines, event{
						"type": "lost", "tracer": "exec", "cpu": int64(cpu), "lost": int64(many - fitted),
						"after_boot_ns": r.Lines[fitted-1]["boot_ns"], "before_boot_ns": r.Lines[fitted+1]["boot_ns"],
					})
					fallthrough
				case i > many:
					lines = append(lines, event{"type": "exec", "args": []string{"late"}})
				}
			}
			tracetest.Same(t, r.Lines, lines)
			if b := r.Ledger[0].CPU[cpu]; b.Lost != uint64(many-fitted) || b.Submitted != uint64(fitted+late) {
				t.Errorf("the books of CPU %d are %+v", cpu, b)
			}
		})
	}
}

// TestLossAtTheEnd: losses that no event comes after are told at the end, on
// whichever CPUs they were.
func TestLossAtTheEnd(t *testing.T) {
	bpftest.Require(t)
	const n = 401
	path := quick(t)
	opts := mine()
	opts.RingSize = uint32(os.Getpagesize())
	s := tracetest.Open(t, opts, exec.Tracer)
	bpftest.Spawn(t, n, path, nil, nil, nil)
	r := s.Finish(t)
	if r.Lost == 0 || int(r.Lost)+len(r.Events) != n {
		t.Errorf("%d events and %d lost, want %d", len(r.Events), r.Lost, n)
	}
	for i, l := range r.Lines {
		if lost := l["type"] == "lost"; lost != (i >= len(r.Events)) || lost && l["before_boot_ns"] != int64(0) {
			t.Errorf("line %d is %v", i, l)
		}
	}
}
