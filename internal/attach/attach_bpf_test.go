// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
			library := os.Args[1]
			var sessions []*attach.Session
			for _, e := range oneOfEach(everything(library)) {
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, e.Options)
				if err != nil && !e.lacks(err) {
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

// lacking are the hooks, by session.name, that kernels of scripts/kernels do not have, and what
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

// session is the one tracer of a session, with one of its hooks, and its options.
type session struct {
	name   string
	tracer *tracer.Tracer
	attach.Options
}

// everything is each hook of each tracer. Uprobes are in library.
func everything(library string) (all []session) {
	for _, tr := range probes.All() {
		for i := range tr.Hooks {
			hook := &tr.Hooks[i]
			one := *tr
			one.Hooks = []tracer.Hook{*hook}
			var params map[string]string
			if hook.Kind == tracer.Uprobe {
				params = map[string]string{tracer.LibraryParam: library}
			}
			name := fmt.Sprintf("%s/%s/failed=%v", tr.Name, hook.Kind, hook.Failed)
			if variant := tr.Variant(hook); variant != "" {
				name += "/" + variant
			}
			all = append(all, session{
				name, &one,
				attach.Options{RingSize: ringSize, Failed: hook.Failed, Filter: attach.Filter{Follow: true}, Params: params},
			})
		}
	}
	return all
}

// oneOfEach returns one session of each kind of hook, on which depends what holds a program in
// the kernel.
func oneOfEach(all []session) (some []session) {
	type kind struct {
		hook   tracer.HookKind
		failed bool
	}
	seen := make(map[kind]bool)
	for _, e := range all {
		if k := (kind{e.tracer.Hooks[0].Kind, e.Failed}); !seen[k] && lacking[e.name].kernels == "" {
			seen[k] = true
			some = append(some, e)
		}
	}
	return some
}

// noHook reports whether an error is that of a kernel that lacks a hook, which
// those of scripts/kernels do not.
func noHook(err error) bool {
	var noHook *attach.NoHookError
	return errors.As(err, &noHook) && os.Getenv(bpftest.KernelEnv) == ""
}

// lacked reports whether this kernel is one that is known not to have the hook of e.
func (e session) lacked() bool {
	return slices.Contains(strings.Fields(lacking[e.name].kernels), os.Getenv(bpftest.KernelEnv))
}

// lacks reports whether the error is that of a kernel that does not have the hook of e: one of
// scripts/kernels of which that is known, or another one.
func (e session) lacks(err error) bool {
	var none *attach.NoHookError
	return errors.As(err, &none) && (noHook(err) || e.lacked() && strings.Contains(none.Reasons(), lacking[e.name].reason))
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
	wakeups := []attach.Wakeup{{}, {Policy: attach.WakeupBytes, Bytes: 512}, {Policy: attach.WakeupEvery}, {Policy: attach.WakeupNever}}
	library := bpftest.NewLibrary(t).Path
	var closing sync.WaitGroup // the kernel takes its time to detach
	t.Cleanup(closing.Wait)
	for _, e := range everything(library) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			filters := []attach.Filter{
				{PID: 1, PPID: 1, UID: &uid, Comm: "rbtrace-test", Cgroup: cgroup, Follow: true},
				{},
			}
			if os.Getenv(bpftest.KernelEnv) != "" {
				filters = filters[:1] // without them programs are a part of what they are with all
			}
			if e.tracer.Name == exec.Tracer.Name { // the largest program; the filters are shared
				filters = append(filters, []attach.Filter{
					{PID: 1}, {PPID: 1}, {UID: &uid}, {Comm: "rbtrace-test"}, {Cgroup: cgroup}, {Follow: true},
				}...)
			}
			for i, f := range filters {
				opts := e.Options
				opts.Filter, opts.Wakeup = f, wakeups[i%len(wakeups)]
				opts.Params = make(map[string]string)
				for _, p := range e.tracer.Params {
					switch {
					case p.Name == tracer.LibraryParam:
						opts.Params[p.Name] = library
					case i%2 == 1:
					case p.Name == tracer.StackParam:
						opts.Params[p.Name] = "kernel"
					case p.Text != nil && p.Text.Check != nil && p.Check("1") == nil:
						opts.Params[p.Name] = "1"
					case p.Text != nil:
						opts.Params[p.Name] = strings.Repeat("/", int(p.Max)) // a path, where one is wanted
					case p.Duration:
						opts.Params[p.Name] = "1ms"
					default:
						opts.Params[p.Name] = strconv.FormatUint(p.Max, 10)
					}
				}
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, opts)
				if e.lacks(err) {
					t.Skip(err)
				}
				check(t, err)
				closing.Go(s.Close)
				if e.lacked() {
					t.Error("this kernel has the hook, and should not")
				}
			}
		})
	}
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
	s, err := attach.Open([]*tracer.Tracer{tcpaccept.Tracer, exec.Tracer}, attach.Options{RingSize: ringSize})
	if noHook(err) {
		t.Skip(err)
	}
	check(t, err)
	defer s.Close()
	if a, e := s.Tracers[0], s.Tracers[1]; a.Hook != tracer.Fentry || e.Hook != tracer.Tracepoint ||
		len(a.Attempts) != 1 || a.Attempts[0].Programs[0] != "fexit/inet_csk_accept" {
		t.Errorf("hooks %s (%+v) and %s", a.Hook, a.Attempts, e.Hook)
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
	warm := make(map[tracer.HookKind]bool)
	all := everything(library)
	if os.Getenv(bpftest.KernelEnv) != "" { // which is emulated
		all = oneOfEach(all)
	}
	for _, e := range all {
		t.Run(e.name, func(t *testing.T) {
			open := func() ids {
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, e.Options)
				if e.lacks(err) {
					return nil
				}
				check(t, err)
				defer s.Close()
				ids, err := held()
				check(t, err)
				return ids
			}
			if kind := e.tracer.Hooks[0].Kind; !warm[kind] {
				open() // what is made once per process is made
				warm[kind] = true
			}
			before := descriptors(t)
			ids := open()
			if after := descriptors(t); len(after) != len(before) {
				t.Errorf("descriptors %v, want %v", after, before)
			}
			if ids != nil {
				ids.gone(t)
			}
		})
	}
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
