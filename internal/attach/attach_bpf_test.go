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
	"strconv"
	"strings"
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
	"github.com/rbtrace/rbtrace/internal/probes/tcpaccept"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

func TestMain(m *testing.M) {
	bpftest.Main(m, map[string]func() error{
		// hold holds all that sessions make until it is killed.
		"hold": func() error {
			var sessions []*attach.Session
			for _, e := range everything() {
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, e.Options)
				if err != nil && !noHook(err) {
					return err
				}
				sessions = append(sessions, s)
			}
			ids, err := held()
			if err != nil {
				return err
			}
			err = json.NewEncoder(os.NewFile(bpftest.ReportFD, "report")).Encode(ids)
			err = errors.Join(err, bpftest.AwaitEOF())
			runtime.KeepAlive(sessions) // or the descriptors go with the garbage
			return err
		},
		// open tells the error of a session without privileges.
		"open": func() error {
			_, err := attach.Open(probes.All(), attach.Options{RingSize: ringSize})
			fmt.Fprintln(os.NewFile(bpftest.ReportFD, "report"), err)
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

// session is the one tracer of a session, and its options.
type session struct {
	name   string
	tracer *tracer.Tracer
	attach.Options
}

// everything is each hook of each tracer.
func everything() (all []session) {
	for _, tr := range probes.All() {
		for _, hook := range tr.Hooks {
			all = append(all, session{
				fmt.Sprintf("%s/%s/failed=%v", tr.Name, hook.Kind, hook.Failed), tr,
				attach.Options{RingSize: ringSize, Hook: hook.Kind, Failed: hook.Failed, Filter: attach.Filter{Follow: true}},
			})
		}
	}
	return all
}

// noHook reports whether an error is that of a kernel that lacks a hook, which
// those of scripts/kernels do not.
func noHook(err error) bool {
	var noHook *attach.NoHookError
	return errors.As(err, &noHook) && os.Getenv(bpftest.KernelEnv) == ""
}

// TestLoad loads and attaches all programs, with each filter and with all of them,
// since the verifier sees other programs then.
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
	wakeups := []attach.Wakeup{{}, {Policy: attach.WakeupEvery}, {Policy: attach.WakeupBytes, Bytes: 512}, {Policy: attach.WakeupNever}}
	for _, e := range everything() {
		t.Run(e.name, func(t *testing.T) {
			for i, f := range []attach.Filter{
				{},
				{PID: 1},
				{PPID: 1},
				{UID: &uid},
				{Comm: "rbtrace-test"},
				{Cgroup: cgroup},
				{Follow: true},
				{PID: 1, PPID: 1, UID: &uid, Comm: "rbtrace-test", Cgroup: cgroup, Follow: true},
			} {
				opts := e.Options
				opts.Filter, opts.Wakeup = f, wakeups[i%len(wakeups)]
				opts.Params = make(map[string]string)
				for _, p := range e.tracer.Params {
					switch {
					case i%2 == 0:
					case p.Text != nil:
						opts.Params[p.Name] = strings.Repeat("x", int(p.Max))
					default:
						opts.Params[p.Name] = strconv.FormatUint(p.Max, 10)
					}
				}
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, opts)
				if noHook(err) {
					t.Skip(err)
				}
				check(t, err)
				if l := s.Tracers[0]; l.Hook != e.Hook || l.Attempts[len(l.Attempts)-1].Err != nil {
					t.Errorf("filter %d: the hook is %s after %+v, want %s", i, l.Hook, l.Attempts, e.Hook)
				}
				s.Close()
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
	for _, e := range everything() {
		t.Run(e.name, func(t *testing.T) {
			open := func() ids {
				s, err := attach.Open([]*tracer.Tracer{e.tracer}, e.Options)
				if noHook(err) {
					return nil
				}
				check(t, err)
				defer s.Close()
				ids, err := held()
				check(t, err)
				return ids
			}
			open() // what is made once per process is made
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
	c := &bpftest.Child{Role: "hold"}
	c.Start(t)
	var ids ids
	check(t, json.Unmarshal([]byte(c.ReadLine(t)), &ids))
	c.Kill(t)
	ids.gone(t)
}
