// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

func TestMayPreempt(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-30-amd64": false, "6.19.4": false, "7.0.0-rc1": true, "7.2.13+deb14-cloud-amd64": true, "10.1": true, "unknown": false,
	} {
		if got := mayPreempt(release); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}

func TestSection(t *testing.T) {
	prefix := map[string]string{"amd64": "__x64_sys_", "arm64": "__arm64_sys_"}[runtime.GOARCH]
	atomic := tracer.Program{Atomic: true}
	for _, test := range []struct {
		kind             tracer.HookKind
		program          tracer.Program
		elf, place, want string
	}{
		{tracer.Tracepoint, tracer.Program{}, "tracepoint/syscalls/sys_exit_openat", "syscalls/sys_exit_open", "tracepoint/syscalls/sys_exit_open"},
		{tracer.KprobeMulti, tracer.Program{}, "tracepoint/syscalls/sys_exit_openat", "syscalls/sys_exit_open", "kretprobe.multi/" + prefix + "open"},
		{tracer.KprobeMulti, tracer.Program{}, "tracepoint/syscalls/sys_enter_fsync", "syscalls/sys_enter_fsync", "kprobe.multi/" + prefix + "fsync"},
		{tracer.KprobeMulti, tracer.Program{}, "raw_tp/task_newtask", "task_newtask", "kprobe.multi/__traceiter_task_newtask"},
		{tracer.KprobeMulti, atomic, "raw_tp/signal_generate", "signal_generate", "raw_tp/signal_generate"},
		{tracer.KprobeMulti, tracer.Program{}, "kretprobe/inet_csk_accept", "inet_csk_accept", "kretprobe.multi/inet_csk_accept"},
		{tracer.KprobeMulti, tracer.Program{}, "iter/task_file", "task_file", "iter/task_file"},
		{tracer.Kprobe, tracer.Program{}, "kprobe/inet_csk_accept", "inet_csk_accept", "kprobe/inet_csk_accept"},
		{tracer.Uprobe, tracer.Program{}, "uprobe/getaddrinfo", "getaddrinfo", "uprobe/getaddrinfo"},
	} {
		if got := section(test.kind, &test.program, test.elf, test.place); got != test.want {
			t.Errorf("%s: %s, %s: %s, want %s", test.kind, test.elf, test.place, got, test.want)
		}
	}
}

func TestCallNumber(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers are those of amd64")
	}
	for name, want := range map[string]uint16{"openat": 257, "newstat": 4, "newlstat": 6, "newfstatat": 262, "umount": 166} {
		if got, ok := callNumber(name); got != want || !ok {
			t.Errorf("%s: %d, %v, want %d", name, got, ok, want)
		}
	}
	if got, ok := callNumber("nothing"); ok {
		t.Errorf("a call that there is not: %d", got)
	}
}

// TestToFunctions: the objects of all tracers have what it takes, and the calls that they are for have numbers.
func TestToFunctions(t *testing.T) {
	hooks := 0
	for _, tr := range probes.All() {
		for _, hook := range tr.Hooks {
			if hook.Kind != tracer.KprobeMulti {
				continue
			}
			hooks++
			spec, err := tr.Load()
			if err != nil {
				t.Fatal(err)
			}
			calls := 0
			for _, p := range hook.Programs {
				for _, place := range slices.Concat([]string{spec.Programs[p.Name].AttachTo}, p.Also, p.AlsoIf) {
					if strings.HasPrefix(place, exits) {
						calls++
					}
				}
			}
			if err := toFunctions(spec, hook.Programs); err != nil {
				t.Errorf("%s: %v", tr.Name, err)
				continue
			}
			if calls == 0 {
				continue
			}
			var n uint32
			if err := spec.Variables[ownCallCountConstant].Get(&n); err != nil {
				t.Fatal(err)
			}
			if runtime.GOARCH == "amd64" && int(n) != calls {
				t.Errorf("%s: the numbers of %d of %d calls are known", tr.Name, n, calls)
			}
			if spec, err = tr.Load(); err != nil {
				t.Fatal(err)
			}
			if err := toAllCalls(spec, hook.Programs); err != nil {
				t.Errorf("%s: %v", tr.Name, err)
				continue
			}
			for _, p := range hook.Programs {
				at := spec.Programs[p.Name]
				if places := placesOf(&p, at); at.Type == ebpf.TracePoint && !slices.Equal(places, []string{allExits}) && !slices.Equal(places, []string{allEntries}) {
					t.Errorf("%s is at %v", p.Name, places)
				}
			}
		}
	}
	if hooks < len(probes.All()) {
		t.Errorf("%d hooks", hooks)
	}
}
