// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
)

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		"hold": hold,
		"ask":  askAndAsk,
	})
}

// hold keeps a descriptor of the ring whose id is its argument.
func hold() error {
	id, err := strconv.ParseUint(os.Args[1], 10, 32)
	if err != nil {
		return err
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return err
	}
	defer m.Close()
	fmt.Fprintln(bpftest.ReportTo, "held")
	return bpftest.AwaitEOF()
}

func startHolder(t *testing.T, id ebpf.MapID) *bpftest.Child {
	t.Helper()
	c := &bpftest.Child{Role: "hold", Args: []string{"holder", strconv.FormatUint(uint64(id), 10)}}
	c.Start(t)
	if line := c.ReadLine(t); line != "held" {
		t.Fatalf("the holder says %q", line)
	}
	return c
}

// look takes a snapshot of the selected rings, with details.
func look(t *testing.T, q *Querier, s Selection) []Ring {
	t.Helper()
	snapshot, err := q.Snapshot(t.Context(), Request{Select: s, Details: true})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Rings
}

// only returns the one ring of a snapshot.
func only(t *testing.T, rings []Ring, id ebpf.MapID) Ring {
	t.Helper()
	if len(rings) != 1 || rings[0].ID != id {
		t.Fatalf("got %+v, want ring %d alone", rings, id)
	}
	return rings[0]
}

func ids(rings []Ring) []ebpf.MapID {
	var list []ebpf.MapID
	for _, r := range rings {
		list = append(list, r.ID)
	}
	return list
}

// All holders of a descriptor are owners, this process too, unless all it does is ask.
func TestOwners(t *testing.T) {
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{})
	a, b := startHolder(t, id), startHolder(t, id)
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	own := Owner{os.Getpid(), strings.TrimSuffix(string(comm), "\n")}
	want := []Owner{own, {a.PID(), "child"}, {b.PID(), "child"}}
	slices.SortFunc(want, func(a, b Owner) int { return a.PID - b.PID })
	byID := Selection{IDs: []ebpf.MapID{id}}
	if r := only(t, look(t, q, byID), id); !slices.Equal(r.Details.Owners, want) {
		t.Errorf("owners %v, want %v", r.Details.Owners, want)
	}
	if rings := look(t, q, Selection{PIDs: []int{os.Getpid()}}); !slices.Contains(ids(rings), id) {
		t.Errorf("this process holds %v, and %d is missing", ids(rings), id)
	}
	m.Close() // what it asks by does not count
	want = slices.DeleteFunc(want, func(o Owner) bool { return o == own })
	if r := only(t, look(t, q, byID), id); !slices.Equal(r.Details.Owners, want) {
		t.Errorf("owners %v, want %v", r.Details.Owners, want)
	}
	if rings := look(t, q, Selection{PIDs: []int{os.Getpid()}}); slices.Contains(ids(rings), id) {
		t.Errorf("this process holds %v", ids(rings))
	}
	for _, c := range []*bpftest.Child{a, b} {
		only(t, look(t, q, Selection{PIDs: []int{c.PID()}}), id)
	}
	a.End(t)
	if _, err := q.Snapshot(t.Context(), Request{Select: Selection{PIDs: []int{a.PID()}}}); err == nil || !strings.Contains(err.Error(), "there is no process") {
		t.Errorf("a process that has ended: %v", err)
	}
	if r := only(t, look(t, q, byID), id); !slices.Equal(r.Details.Owners, []Owner{{b.PID(), "child"}}) {
		t.Errorf("owners %v", r.Details.Owners)
	}
	b.End(t)
	gone(t, id)
	if _, err := q.Snapshot(t.Context(), Request{Select: byID}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a ring that is gone: %v", err)
	}
}

// usesRing is a program that does nothing but use a ring.
func usesRing(typ ebpf.ProgramType, name string, m *ebpf.Map) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: name, Type: typ, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRingbufQuery.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	}
}

func load(t *testing.T, spec *ebpf.ProgramSpec) (*ebpf.Program, ebpf.ProgramID) {
	t.Helper()
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { p.Close() })
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return p, id
}

func attach(t *testing.T, l link.Link, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestPrograms(t *testing.T) {
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{})
	var want []Program

	raw, rawID := load(t, usesRing(ebpf.RawTracepoint, "rbt_raw", m))
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exit", Program: raw})
	attach(t, l, err)
	l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: raw})
	attach(t, l, err)
	want = append(want, Program{rawID, "rbt_raw", "raw_tracepoint", []string{"raw_tracepoint sched_process_exec", "raw_tracepoint sched_process_exit"}})

	_, idleID := load(t, usesRing(ebpf.RawTracepoint, "rbt_idle", m))
	want = append(want, Program{idleID, "rbt_idle", "raw_tracepoint", []string{}})

	btfSpec := usesRing(ebpf.Tracing, "rbt_btf", m)
	btfSpec.AttachType, btfSpec.AttachTo = ebpf.AttachTraceRawTp, "sched_process_fork"
	btfProg, btfID := load(t, btfSpec)
	l, err = link.AttachTracing(link.TracingOptions{Program: btfProg})
	attach(t, l, err)
	want = append(want, Program{btfID, "rbt_btf", "tracing", []string{"raw_tracepoint sched_process_fork"}})

	fentrySpec := usesRing(ebpf.Tracing, "rbt_fentry", m)
	fentrySpec.AttachType, fentrySpec.AttachTo = ebpf.AttachTraceFEntry, "wake_up_new_task"
	if probe, err := ebpf.NewProgram(fentrySpec); err == nil {
		probe.Close()
		fentry, fentryID := load(t, fentrySpec)
		l, err = link.AttachTracing(link.TracingOptions{Program: fentry})
		attach(t, l, err)
		place := "fentry wake_up_new_task"
		if running(t).Less(kernel.Version{Major: 5, Minor: 13}) {
			place = "fentry"
		}
		want = append(want, Program{fentryID, "rbt_fentry", "tracing", []string{place}})
	} else if os.Getenv(bpftest.KernelEnv) != "" {
		t.Fatal(err)
	} else {
		t.Logf("this kernel has no fentry: %v", err)
	}

	// By way of perf events: with a link from 5.15 on, which tells from 6.6 on.
	tp, tpID := load(t, usesRing(ebpf.TracePoint, "rbt_tp", m))
	events, err := kernel.Tracefs()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	tracepoint, err := kernel.TracepointID(events, "sched/sched_process_exec")
	if err != nil {
		t.Fatal(err)
	}
	openEvent(t, tp, unix.PERF_TYPE_TRACEPOINT, tracepoint)
	want = append(want, Program{tpID, "rbt_tp", "tracepoint", []string{"tracepoint sched_process_exec"}})

	if text, err := os.ReadFile("/sys/bus/event_source/devices/kprobe/type"); err == nil {
		kp, kpID := load(t, usesRing(ebpf.Kprobe, "rbt_kp", m))
		typ, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		openEvent(t, kp, uint32(typ), 0)
		want = append(want, Program{kpID, "rbt_kp", "kprobe", []string{"kprobe do_exit"}})
	} else {
		t.Log("this kernel has no kprobes")
	}

	// Programs come by id, and ids go up.
	r := only(t, look(t, q, Selection{IDs: []ebpf.MapID{id}}), id)
	if len(r.Details.Programs) != len(want) {
		t.Fatalf("programs %+v\nwant %+v", r.Details.Programs, want)
	}
	for i, p := range r.Details.Programs {
		if p.ID != want[i].ID || p.Name != want[i].Name || p.Type != want[i].Type || !slices.Equal(p.AttachedTo, want[i].AttachedTo) {
			t.Errorf("program %+v\nwant %+v", p, want[i])
		}
	}
	only(t, look(t, q, Selection{Programs: []string{"rbt_tp"}}), id)
	only(t, look(t, q, Selection{Programs: []string{strconv.FormatUint(uint64(rawID), 10)}}), id)
	if _, err := q.Snapshot(t.Context(), Request{Select: Selection{Programs: []string{"rbt_none"}}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

// openEvent opens a perf event, that of do_exit where config is 0, and attaches a
// program to it, without a link.
func openEvent(t *testing.T, p *ebpf.Program, typ uint32, config uint64) {
	t.Helper()
	attr := unix.PerfEventAttr{Type: typ, Config: config, Size: unix.PERF_ATTR_SIZE_VER5}
	if config == 0 {
		// struct perf_event_attr has its name in config1.
		name, err := unix.BytePtrFromString("do_exit")
		if err != nil {
			t.Fatal(err)
		}
		attr.Ext1 = pointer(name)
		defer runtime.KeepAlive(name)
	}
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, p.FD()); err != nil {
		t.Fatal(err)
	}
}

func TestOuter(t *testing.T) {
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{Name: "rbt_inner"})
	inner := &ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())}
	var want []Outer
	for i, spec := range []ebpf.MapSpec{
		{Name: "rbt_array", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 7, InnerMap: inner},
		{Name: "rbt_hash", Type: ebpf.HashOfMaps, KeySize: 8, ValueSize: 4, MaxEntries: 7, InnerMap: inner},
		{Name: "rbt_empty", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 7, InnerMap: inner},
	} {
		outer, err := ebpf.NewMap(&spec)
		if err != nil {
			t.Fatal(err)
		}
		defer outer.Close()
		var key any = uint32(3)
		if spec.KeySize == 8 {
			key = uint64(1) << 40
		}
		if spec.Name == "rbt_empty" {
			continue
		}
		if err := outer.Put(key, m); err != nil {
			t.Fatal(err)
		}
		want = append(want, Outer{idOf(t, outer), spec.Name})
		if i == 0 {
			// A program that has the outer map uses the inner ones.
			_, _ = load(t, &ebpf.ProgramSpec{
				Name: "rbt_outer", Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
				Instructions: asm.Instructions{asm.LoadMapPtr(asm.R1, outer.FD()), asm.Mov.Imm(asm.R0, 0), asm.Return()},
			})
		}
	}
	slices.SortFunc(want, func(a, b Outer) int { return int(a.ID) - int(b.ID) })
	r := only(t, look(t, q, Selection{IDs: []ebpf.MapID{id}}), id)
	if !slices.Equal(r.Details.Outer, want) {
		t.Errorf("outer maps %v, want %v", r.Details.Outer, want)
	}
	if p := r.Details.Programs; len(p) != 1 || p[0].Name != "rbt_outer" {
		t.Errorf("programs %v, want rbt_outer", p)
	}
	only(t, look(t, q, Selection{Programs: []string{"rbt_outer"}}), id)
	m.Close()
	only(t, look(t, q, Selection{Names: []string{"rbt_i*"}}), id)
}

const mountedEnv = "RBTRACE_TEST_MOUNTED"

// withBPFFS runs the test again, in a process with a BPF file system that no other sees,
// and returns where that is, or, outside, an empty string.
func withBPFFS(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv(mountedEnv); dir != "" {
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	open(t, nil) // or skip
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	// A directory whose name mountinfo escapes.
	dir := filepath.Join(bpftest.Dir(t), "bpf fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), mountedEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return ""
}

func TestPins(t *testing.T) {
	dir := withBPFFS(t)
	if dir == "" {
		return
	}
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{Name: "rbt_pinned"})
	other, otherID := newRing(t, ebpf.MapSpec{Name: "rbt_other"})
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	p, _ := load(t, usesRing(ebpf.RawTracepoint, "rbt_raw", m))
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exit", Program: p})
	attach(t, l, err)
	pinned := func(o interface{ Pin(string) error }, name string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := o.Pin(file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	clone := func(m *ebpf.Map) *ebpf.Map { // a pin moves a map's object of the library
		c, err := m.Clone()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	want := []string{pinned(clone(m), "a/b/ring"), pinned(clone(m), "ring \x1b[2J")}
	otherFile := pinned(clone(other), "other")
	arrayFile, progFile, linkFile := pinned(array, "array"), pinned(p, "prog"), pinned(l, "link")
	if err := os.Symlink(want[0], filepath.Join(dir, "symlink")); err != nil {
		t.Fatal(err)
	}
	// Neither is what is mounted inside of it entered.
	hidden := filepath.Join(dir, "tmpfs")
	if err := errors.Join(os.Mkdir(hidden, 0o755), unix.Mount("tmpfs", hidden, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(hidden, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(pinnedMaps(), file) {
		t.Error("a tmpfs was entered")
	}

	if r := only(t, look(t, q, Selection{IDs: []ebpf.MapID{id}}), id); !slices.Equal(r.Details.Pins, want) {
		t.Errorf("pins %q, want %q", r.Details.Pins, want)
	}
	for _, file := range want {
		only(t, look(t, q, Selection{Pins: []string{file}}), id)
	}
	if got := ids(look(t, q, Selection{Pins: append(want, otherFile)})); !slices.Equal(got, []ebpf.MapID{id, otherID}) {
		t.Errorf("by three pins: %v", got)
	}
	for file, want := range map[string]string{
		arrayFile:                     "not a ring buffer: its type is Array",
		progFile:                      "not a BPF map: it is a program of type raw_tracepoint",
		linkFile:                      "not a BPF map: it is a link",
		filepath.Join(dir, "nothing"): "no such file",
		dir:                           "a directory",
		file:                          "not in a BPF file system",
	} {
		if s, err := q.Snapshot(t.Context(), Request{Select: Selection{Pins: []string{file}}}); err == nil || !strings.Contains(err.Error(), want) || len(s.Rings) > 0 {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}

	// A ring that nothing holds but its pin, by a user who may open that.
	m.Close()
	p.Close()
	testUnprivileged(t, dir, want[0], id, otherID)
}

// testUnprivileged looks at the rings from a thread without capabilities.
func testUnprivileged(t *testing.T, dir, file string, id, otherID ebpf.MapID) {
	for _, d := range []string{dir, filepath.Join(dir, "a"), filepath.Join(dir, "a/b"), filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	if err := os.Chown(file, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		q, err := Open(nil)
		if err != nil {
			t.Error(err)
			return
		}
		if q.Limit() == nil || !strings.Contains(q.Limit().Error(), "missing CAP_SYS_ADMIN") {
			t.Errorf("the limit is %v", q.Limit())
		}
		s, err := q.Snapshot(t.Context(), Request{Details: true, Look: 10 * time.Millisecond})
		closed, _ := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled")
		if running(t).Less(kernel.Version{Major: 5, Minor: 19}) && string(closed) != "0\n" {
			// Before, kernel.unprivileged_bpf_disabled forbade all of bpf(2).
			if err != nil || len(s.Rings) != 0 {
				t.Errorf("rings %+v, %v", s, err)
			}
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		if !slices.Equal(ids(s.Rings), []ebpf.MapID{id}) {
			t.Errorf("rings %v, want %d alone", ids(s.Rings), id)
			return
		}
		if r := s.Rings[0]; r.Name != "rbt_pinned" || r.Verdict != Idle || len(r.Details.Pins) == 0 {
			t.Errorf("ring %+v", r)
		}
		if s, err := q.Snapshot(t.Context(), Request{Select: Selection{Pins: []string{file}}}); err != nil || len(s.Rings) != 1 {
			t.Errorf("by its pin: %v", err)
		}
		if _, err := q.Snapshot(t.Context(), Request{Select: Selection{IDs: []ebpf.MapID{otherID}}}); err == nil || !strings.Contains(err.Error(), "missing CAP_SYS_ADMIN") {
			t.Errorf("a ring that cannot be opened: %v", err)
		}
		if _, err := q.Snapshot(t.Context(), Request{Select: Selection{Programs: []string{"x"}}}); err == nil || !strings.Contains(err.Error(), "missing CAP_SYS_ADMIN") {
			t.Errorf("by a program: %v", err)
		}
	})
}

// asNobody runs f on a thread of its own, as the user nobody without capabilities.
func asNobody(t *testing.T, f func()) {
	done := make(chan error)
	go func() {
		// The goroutine ends locked, and takes the thread along.
		runtime.LockOSThread()
		const nobody = 65534
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// In a user namespace a process has all capabilities, and none that counts.
func TestUserNamespace(t *testing.T) {
	const env = "RBTRACE_TEST_USERNS"
	if os.Getenv(env) == "" {
		open(t, nil) // or skip
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), env+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
				t.Skipf("making a user namespace: %v", err)
			}
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	q, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !kernel.HasSysAdmin() || !errors.Is(q.Limit(), fs.ErrPermission) || !strings.Contains(q.Limit().Error(), "user namespace") {
		t.Errorf("the limit is %v", q.Limit())
	}
}

// askAndAsk asks a ring in every way until it is killed, with the source of its argument.
func askAndAsk() error {
	q, err := Open(&Options{Source: Source(os.Args[1])})
	if err != nil {
		return err
	}
	id := mustID(os.Args[2])
	for i := 0; ; i++ {
		_, err := q.Ring(id)
		if err == nil {
			_, err = q.Peek(id, 10, 100)
		}
		if err == nil {
			_, err = q.Snapshot(context.Background(), Request{Select: Selection{IDs: []ebpf.MapID{id}}, Look: 3 * time.Millisecond})
		}
		if err != nil {
			return err
		}
		if i == 50 {
			fmt.Fprintln(bpftest.ReportTo, "asked")
		}
	}
}

func mustID(text string) ebpf.MapID {
	id, _ := strconv.ParseUint(text, 10, 32) // the parent wrote it
	return ebpf.MapID(id)
}

// A querier maps nothing writable, and, killed, leaves nothing: no program, no map, no pin,
// and no hold on the ring.
func TestKilled(t *testing.T) {
	q := open(t, nil)
	for _, source := range []Source{Mmap, Helper} {
		m, id := newRing(t, ebpf.MapSpec{Name: "rbt_killed"})
		// Something to peek at, by a program that goes with the subtest.
		t.Run("fill", func(t *testing.T) { newProducer(t, m)(3) })
		var leftAlone []ebpf.ProgramID
		if err := q.eachProgram(func(id ebpf.ProgramID, p *program) {
			if strings.HasPrefix(p.name, "rb_ask_") {
				leftAlone = append(leftAlone, id)
			}
		}); err != nil {
			t.Fatal(err)
		}
		c := &bpftest.Child{Role: "ask", Args: []string{"asker", string(source), strconv.FormatUint(uint64(id), 10)}}
		c.Start(t)
		if line := c.ReadLine(t); line != "asked" {
			t.Fatalf("it says %q", line)
		}
		// Neither is mapped all the time: one for moments alone, which nobody may catch, the other
		// long enough that somebody does who goes on looking.
		seen := 0
		deadline := time.Now().Add(30 * time.Second)
		for looks := 0; looks < 300 || source == Mmap && seen == 0 && time.Now().Before(deadline); looks++ {
			maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.PID()))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(maps)) {
				if strings.Contains(line, "bpf-map") {
					seen++
					if perms := strings.Fields(line)[1]; perms != "r--s" {
						t.Fatalf("%s: a ring is mapped %s", source, perms)
					}
				}
			}
		}
		if seen == 0 && source == Mmap {
			t.Errorf("%s: the ring was never seen to be mapped", source)
		}
		if info, err := m.Info(); err != nil || info.Frozen() {
			t.Errorf("%s: the ring is frozen, or %v", source, err)
		}
		c.Kill(t)
		m.Close()
		gone(t, id)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			left := 0
			if err := q.eachProgram(func(id ebpf.ProgramID, p *program) {
				if strings.HasPrefix(p.name, "rb_ask_") && !slices.Contains(leftAlone, id) {
					left++
				}
			}); err != nil {
				t.Fatal(err)
			}
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d programs are left", source, left)
			}
		}
	}
}
