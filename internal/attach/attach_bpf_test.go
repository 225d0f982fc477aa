// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/probes/readline"
	"github.com/rbtrace/rbtrace/internal/probes/tcpaccept"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// hold holds all that sessions make until it is killed.
		"hold": func() error {
			var sessions []*attach.Session
			for _, b := range oneOfEach(os.Args[1]) {
				s, _, err := b.open(b.opts)
				if err != nil {
					return err
				}
				sessions = append(sessions, s)
			}
			ids, err := held()
			if err != nil {
				return err
			}
			err = json.NewEncoder(bpftest.ReportTo).Encode(ids)
			err = errors.Join(err, bpftest.AwaitEOF())
			runtime.KeepAlive(sessions) // or the descriptors go with the garbage
			return err
		},
		"pids": tellPids,
		"wait": bpftest.AwaitEOF,
		// map waits with the code of a file in its memory.
		"map": func() error {
			_, err := bpftest.MapCode(os.Args[1])
			fmt.Fprintln(bpftest.ReportTo, "mapped")
			return errors.Join(err, bpftest.AwaitEOF())
		},
		"lines": callLines,
		// open tells the error of a session without privileges.
		"open": func() error {
			_, err := attach.Open(probes.All(), attach.Options{RingSize: ringSize})
			fmt.Fprintln(bpftest.ReportTo, err)
			return nil
		},
		// few is open with few descriptors, where tracers may be left out.
		"few": func() error {
			err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 60, Max: 60})
			if err != nil {
				return err
			}
			_, err = attach.Open(probes.All(), attach.Options{RingSize: ringSize, SkipHookless: true})
			fmt.Fprintln(bpftest.ReportTo, errors.Is(err, unix.EMFILE), err)
			return nil
		},
		// process tells the error of a session with the library or the process of argv.
		"process": func() error {
			pid, err := strconv.ParseUint(os.Args[2], 10, 32)
			if err != nil {
				return err
			}
			opts := attach.Options{RingSize: ringSize, Filter: attach.Filter{PID: uint32(pid)}, Params: map[string]string{}}
			if os.Args[1] != "" {
				opts.Params[tracer.LibraryParam] = os.Args[1]
			}
			s, err := attach.Open([]*tracer.Tracer{readline.Tracer}, opts)
			if err == nil {
				s.Close()
			}
			fmt.Fprintln(bpftest.ReportTo, err)
			return nil
		},
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var ringSize = uint32(os.Getpagesize())

// lacking are the hooks, by one.name, that kernels of scripts/kernels do not have, and what
// people read where they are tried. All have the others.
var lacking = map[string]struct{ kernels, reason string }{
	// A backport took the first argument away; it was there in 5.10.0.
	"bio/tracepoint/failed=false/rb_bio_insert_q":            {"5.10 6.1 6.12 newest", "fewer arguments"},
	"bio/tracepoint/failed=true/rb_bio_insert_q":             {"5.10 6.1 6.12 newest", "fewer arguments"},
	"bio/tracepoint/failed=false/rb_bio_start":               {"5.10 6.1", "no such tracepoint"}, // block_io_start: 6.5
	"bio/tracepoint/failed=true/rb_bio_start":                {"5.10 6.1", "no such tracepoint"},
	"capable/tracepoint/failed=false":                        {"5.10 6.1 6.12", "no such tracepoint"},
	"capable/tracepoint/failed=true":                         {"5.10 6.1 6.12", "no such tracepoint"},
	"oomkill/tracepoint/failed=false":                        {"5.10", "bad CO-RE relocation"},
	"tcpdrop/tracepoint/failed=false/rb_tcpdrop_socket":      {"5.10 6.1", "fewer arguments"},
	"tcpretrans/tracepoint/failed=false/rb_tcpretrans_error": {"5.10 6.1 6.12", "fewer arguments"},
}

// one is a tracer with one of its hooks.
type one struct {
	name   string
	tracer *tracer.Tracer
}

// batch is one session of such tracers, for many take hardly longer than one to open.
type batch struct {
	ones []one
	opts attach.Options
}

// everything is each hook of each tracer, but those that are for newer kernels. Uprobes are in library.
func everything(library string) (all []*batch) {
	functions := attach.First(exec.Tracer, false) == tracer.KprobeMulti
	for _, failed := range []bool{false, true} {
		var batches []*batch // a tracer is in each of them once at the most
		for _, tr := range probes.All() {
			n := 0
			for i := range tr.Hooks {
				hook := &tr.Hooks[i]
				if hook.Failed != failed || hook.Kind == tracer.KprobeMulti && !functions {
					continue
				}
				if n == len(batches) {
					opts := attach.Options{RingSize: ringSize, Failed: failed, Filter: attach.Filter{Follow: true}, SkipHookless: true}
					opts.Params = map[string]string{}
					batches = append(batches, &batch{opts: opts})
				}
				name := fmt.Sprintf("%s/%s/failed=%v", tr.Name, hook.Kind, failed)
				if variant := tr.Variant(hook); variant != "" {
					name += "/" + variant
				}
				o := one{name, new(*tr)}
				o.tracer.Hooks = []tracer.Hook{*hook}
				if hook.Kind == tracer.Uprobe {
					batches[n].opts.Params[tr.Name+"."+tracer.LibraryParam] = library
				}
				batches[n].ones = append(batches[n].ones, o)
				n++
			}
		}
		all = append(all, batches...)
	}
	return all
}

// oneOfEach is as few tracers as have each kind of program, on which depends what holds one in
// the kernel.
func oneOfEach(library string) (some []*batch) {
	seen := make(map[string]bool)
	for _, b := range everything(library) {
		few := &batch{opts: b.opts}
		for _, o := range b.ones {
			if lacking[o.name].kernels != "" {
				continue
			}
			spec := bpftest.Must1(o.tracer.Load())
			before := len(seen)
			for _, p := range o.tracer.Hooks[0].Programs {
				kind, _, _ := strings.Cut(spec.Programs[p.Name].SectionName, "/")
				if o.tracer.Hooks[0].Kind == tracer.KprobeMulti && !p.Atomic {
					kind = string(tracer.KprobeMulti) + " for " + kind
				}
				seen[kind] = true
			}
			if len(seen) > before {
				few.ones = append(few.ones, o)
			}
		}
		if len(few.ones) > 0 {
			some = append(some, few)
		}
	}
	return some
}

// open opens the session; nil where this kernel has none of its hooks, and need not have them:
// then none says why not.
func (b *batch) open(opts attach.Options) (s *attach.Session, none, err error) {
	var tracers []*tracer.Tracer
	for _, o := range b.ones {
		tracers = append(tracers, o.tracer)
	}
	s, err = attach.Open(tracers, opts)
	if noHook(err) {
		return nil, err, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, skipped := range s.Skipped {
		i := slices.Index(tracers, skipped.Tracer)
		if !b.ones[i].lacks(skipped) {
			s.Close()
			return nil, nil, skipped
		}
	}
	return s, nil, nil
}

// noHook reports whether an error is that of a kernel that lacks a hook, which
// those of scripts/kernels do not.
func noHook(err error) bool {
	var noHook *attach.NoHookError
	return errors.As(err, &noHook) && os.Getenv(bpftest.KernelEnv) == ""
}

// lacked reports whether this kernel is one that is known not to have the hook of o.
func (o one) lacked() bool {
	return slices.Contains(strings.Fields(lacking[o.name].kernels), os.Getenv(bpftest.KernelEnv))
}

// lacks reports whether the error is that of a kernel that does not have the hook of o: one of
// scripts/kernels of which that is known, or another one.
func (o one) lacks(err *attach.NoHookError) bool {
	return noHook(err) || o.lacked() && strings.Contains(err.Reasons(), lacking[o.name].reason)
}

// TestLoad loads and attaches all programs, with no filter and with all of them, and the
// largest with each, since the verifier sees other programs then.
func TestLoad(t *testing.T) {
	bpftest.Require(t)
	t.Cleanup(func() { // when all are loaded
		if os.Getenv(bpftest.KernelEnv) == "" {
			return // the warning may be of anything else
		}
		text, err := os.ReadFile("/proc/sys/kernel/tainted")
		check(t, err)
		tainted, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		check(t, err)
		const warned = 1 << 9 // TAINT_WARN
		if tainted&warned != 0 {
			t.Error("the kernel has warned of something: see its log")
		}
	})
	uid := uint32(12345)
	cgroup, err := kernel.CgroupMount()
	if err != nil {
		bpftest.Skipf(t, "%v", err)
	}
	all := attach.Filter{PID: 1, PPID: 1, UID: &uid, Comm: "rbtrace-test", Cgroup: cgroup, Follow: true}
	library := bpftest.NewLibrary(t).Path
	var closing sync.WaitGroup // the kernel takes its time to detach
	t.Cleanup(closing.Wait)
	load := func(t *testing.T, b *batch, opts attach.Options) {
		t.Parallel()
		s, none, err := b.open(opts)
		check(t, err)
		why := make(map[*tracer.Tracer]error)
		if s != nil {
			closing.Go(s.Close)
			for _, skipped := range s.Skipped {
				why[skipped.Tracer] = skipped
			}
		}
		for _, o := range b.ones {
			t.Run(o.name, func(t *testing.T) {
				switch {
				case s == nil:
					t.Skipf("as the last one of these: %v", none)
				case why[o.tracer] != nil:
					t.Skip(why[o.tracer])
				case o.lacked():
					t.Error("this kernel has the hook, and should not")
				}
			})
		}
	}
	wakeups := []attach.Wakeup{{}, {Policy: attach.WakeupBytes, Bytes: 512}, {Policy: attach.WakeupEvery}, {Policy: attach.WakeupNever}}
	batches := everything(library)
	for i, b := range batches {
		opts := b.opts
		opts.Wakeup = wakeups[i%len(wakeups)]
		if os.Getenv(bpftest.KernelEnv) == "" { // with none programs are a part of what they are with all
			t.Run(fmt.Sprintf("no filter/%d", i), func(t *testing.T) {
				opts := opts
				opts.Filter = attach.Filter{}
				load(t, b, opts)
			})
		}
		t.Run(fmt.Sprintf("all filters/%d", i), func(t *testing.T) {
			opts := opts
			opts.Filter, opts.Params = all, b.params()
			load(t, b, opts)
		})
	}
	largest := *batches[0]
	largest.ones = slices.DeleteFunc(slices.Clone(largest.ones), func(o one) bool { return o.tracer.Name != exec.Tracer.Name })
	for i, f := range []attach.Filter{{PID: 1}, {PPID: 1}, {UID: &uid}, {Comm: "rbtrace-test"}, {Cgroup: cgroup}, {Follow: true}} {
		opts := largest.opts
		opts.Filter, opts.Wakeup = f, wakeups[i%len(wakeups)]
		t.Run(fmt.Sprintf("a filter/%d", i), func(t *testing.T) { load(t, &largest, opts) })
	}
}

// params has a value for each of the tracers' own flags, the largest where that is known.
func (b *batch) params() map[string]string {
	params := maps.Clone(b.opts.Params)
	for _, o := range b.ones {
		for _, p := range o.tracer.Params {
			value := strconv.FormatUint(p.Max, 10)
			switch {
			case p.Name == tracer.LibraryParam:
				continue
			case p.Name == tracer.StackParam:
				value = "kernel"
			case p.Text != nil && p.Text.Check != nil && p.Check("1") == nil:
				value = "1"
			case p.Text != nil:
				value = strings.Repeat("/", int(p.Max)) // a path, where one is wanted
			case p.Duration:
				value = "1ms"
			}
			params[o.tracer.Name+"."+p.Name] = value
		}
	}
	return params
}

// TestTypesFromFile gives the kernel's types by way of a file.
func TestTypesFromFile(t *testing.T) {
	bpftest.Require(t)
	types, err := os.ReadFile(kernel.BTFPath)
	check(t, err)
	path := filepath.Join(t.TempDir(), "vmlinux.btf")
	check(t, os.WriteFile(path, types, 0o644))
	s, err := attach.Open([]*tracer.Tracer{exec.Tracer}, attach.Options{RingSize: ringSize, KernelBTF: path})
	check(t, err)
	s.Close()
}

// TestErrors: what a person gets to read.
func TestErrors(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		name string
		opts attach.Options
		want string
		is   error
	}{
		{"ring", attach.Options{RingSize: 12345}, "creating a ring buffer of 12345 bytes", unix.EINVAL},
		{"cgroup", attach.Options{RingSize: ringSize, Filter: attach.Filter{Cgroup: "/proc"}}, "/proc is no cgroup", unix.EBADF},
		{"no cgroup", attach.Options{RingSize: ringSize, Filter: attach.Filter{Cgroup: "/missing"}}, "opening the cgroup", fs.ErrNotExist},
		{"types", attach.Options{RingSize: ringSize, KernelBTF: "/proc/self/comm"}, "/proc/self/comm", nil},
		{"hook", attach.Options{RingSize: ringSize, Hook: tracer.Kprobe}, "exec has no", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := attach.Open([]*tracer.Tracer{exec.Tracer}, test.opts)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q, want %q", err, test.want)
			}
		})
	}
}

// TestUnprivileged: who lacks capabilities learns which.
func TestUnprivileged(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "open", Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}}
	c.Start(t)
	if got := string(c.End(t)); !strings.Contains(got, "missing CAP_BPF and CAP_PERFMON") {
		t.Errorf("error %q", got)
	}
}

// TestExhausted: where this process cannot have more, that is told, and no tracer is left
// out for it.
func TestExhausted(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "few"}
	c.Start(t)
	if got := string(c.End(t)); !strings.HasPrefix(got, "true ") || !strings.Contains(got, "ulimit -n") {
		t.Errorf("error %q", got)
	}
}

// TestCapabilities: who has those of BPF alone learns what others uprobes take, and processes of
// other users.
func TestCapabilities(t *testing.T) {
	requireUprobes(t)
	library := bpftest.NewLibrary(t).Path
	check(t, os.Chmod(library, 0o755))
	other := &bpftest.Child{Role: "wait"}
	other.Start(t)
	defer other.End(t)
	as := func(library string, pid int) string {
		c := &bpftest.Child{Role: "process", Args: []string{"process", library, strconv.Itoa(pid)}, Sys: &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
			AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
		}}
		c.Start(t)
		return string(c.End(t))
	}
	// Kernels differ in this. Where it is refused, it is for this capability.
	if got := as(library, 0); got != "<nil>\n" && !strings.Contains(got, "uprobes take CAP_SYS_ADMIN") {
		t.Errorf("error %q", got)
	}
	got := as("", other.PID())
	if !strings.Contains(got, "takes CAP_SYS_PTRACE, or to be") || strings.Contains(got, "there is no bash in") {
		t.Errorf("error %q", got)
	}
}

// TestFirstHook: what works first is taken, and what was tried before is told.
func TestFirstHook(t *testing.T) {
	bpftest.Require(t)
	onFunction := tracetest.Without(tcpaccept.Tracer, tracer.Tracepoint)
	s, err := attach.Open([]*tracer.Tracer{onFunction, exec.Tracer}, attach.Options{RingSize: ringSize})
	if noHook(err) {
		t.Skip(err)
	}
	check(t, err)
	defer s.Close()
	type taken struct {
		hook  tracer.HookKind
		first string
	}
	want := []taken{{tracer.Fentry, "fexit/inet_csk_accept"}, {tracer.Tracepoint, "raw_tp/sched_process_exec"}}
	if v, err := kernel.ParseVersion(kernel.Release()); err == nil && !v.Less(kernel.Version{Major: 7}) {
		want = []taken{{tracer.KprobeMulti, "kprobe.multi/inet_csk_accept"}, {tracer.KprobeMulti, "kprobe.multi/__traceiter_sched_process_exec"}}
	}
	for i, l := range s.Tracers {
		tried := slices.DeleteFunc(slices.Clone(l.Attempts), func(a attach.Attempt) bool { return a.Programs == nil })
		if got := (taken{l.Hook, tried[0].Programs[0]}); got != want[i] || len(tried) != 1 {
			t.Errorf("hook %v, want %v: %+v", got, want[i], l.Attempts)
		}
	}
}

// ids are the ids of BPF objects.
type ids map[string][]uint32

// held returns the ids of the programs, maps, links and types that this process
// has by file descriptors.
func held() (ids, error) {
	all := ids{}
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		info, err := os.ReadFile(file)
		if err != nil {
			continue // the one that Glob had open
		}
		for line := range strings.Lines(string(info)) {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "prog_id", "map_id", "link_id", "btf_id":
				id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
				if err != nil {
					return nil, err
				}
				all[key] = append(all[key], uint32(id))
			}
		}
	}
	for _, id := range all["prog_id"] {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return nil, err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return nil, err
		}
		if id, ok := info.BTFID(); ok {
			all["btf_id"] = append(all["btf_id"], uint32(id))
		}
	}
	return all, nil
}

// gone waits until none of the objects is there: the kernel frees them after
// their last descriptors, in its own time.
func (all ids) gone(t *testing.T) {
	t.Helper()
	if len(all["prog_id"]) == 0 || len(all["map_id"]) == 0 {
		t.Fatalf("nothing was held: %v", all)
	}
	closer := map[string]func(id uint32) (interface{ Close() error }, error){
		"prog_id": func(id uint32) (interface{ Close() error }, error) { return ebpf.NewProgramFromID(ebpf.ProgramID(id)) },
		"map_id":  func(id uint32) (interface{ Close() error }, error) { return ebpf.NewMapFromID(ebpf.MapID(id)) },
		"link_id": func(id uint32) (interface{ Close() error }, error) { return link.NewFromID(link.ID(id)) },
		"btf_id":  func(id uint32) (interface{ Close() error }, error) { return btf.NewHandleFromID(btf.ID(id)) },
	}
	deadline := time.Now().Add(time.Minute)
	for kind, list := range all {
		for _, id := range list {
			for {
				o, err := closer[kind](id)
				if errors.Is(err, fs.ErrNotExist) {
					break
				}
				if err == nil {
					o.Close()
				}
				if time.Now().After(deadline) {
					t.Errorf("%s %d is still there (%v)", kind, id, err)
					break
				}
				runtime.GC() // which unmaps the variables of a collection that is closed
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

func descriptors(t *testing.T) map[string]string {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	open := make(map[string]string)
	for _, f := range files {
		open[f.Name()], _ = os.Readlink("/proc/self/fd/" + f.Name()) // that of ReadDir is gone
	}
	return open
}

// TestNothingLeft: a session that is closed leaves nothing in the kernel and no
// descriptor in the process, whether it was opened or failed to.
func TestNothingLeft(t *testing.T) {
	bpftest.Require(t)
	library := bpftest.NewLibrary(t).Path
	batches := oneOfEach(library)
	if os.Getenv(bpftest.KernelEnv) == "" { // the others are emulated
		batches = everything(library)
	}
	open := func(t *testing.T, b *batch) (ids ids) {
		s, _, err := b.open(b.opts)
		check(t, err)
		if s == nil {
			return nil
		}
		defer s.Close()
		ids, err = held()
		check(t, err)
		return ids
	}
	for _, b := range oneOfEach(library) {
		open(t, b) // what is made once per process is made
	}
	nothing := func(name string, f func(t *testing.T) ids) {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			ids := f(t)
			if after := descriptors(t); len(after) != len(before) {
				t.Errorf("descriptors %v, want %v", after, before)
			}
			if ids != nil {
				ids.gone(t)
			}
		})
	}
	for i, b := range batches {
		nothing(fmt.Sprint(i), func(t *testing.T) ids { return open(t, b) })
	}
	nothing("failed", func(t *testing.T) ids {
		opts := attach.Options{RingSize: ringSize, Hook: tracer.Tracepoint}
		s, err := attach.Open([]*tracer.Tracer{exec.Tracer, readline.Tracer}, opts) // the second one has none
		if err == nil {
			s.Close()
			t.Error("no error")
		}
		return nil
	})
}

// TestKilled: nor does a process that is killed.
func TestKilled(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "hold", Args: []string{"hold", bpftest.NewLibrary(t).Path}}
	c.Start(t)
	var ids ids
	check(t, json.Unmarshal([]byte(c.ReadLine(t)), &ids))
	c.Kill(t)
	ids.gone(t)
}
