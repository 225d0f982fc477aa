// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// TestPlaces: a place that this kernel does not have is passed over where the tracer
// says so, and told of as not taken; elsewhere it is an error.
func TestPlaces(t *testing.T) {
	bpftest.Require(t)
	const call = "rbtrace_test" // there is none such
	const missing = "syscalls/sys_exit_" + call
	kind := attach.First(open.Tracer, false)
	with := func(change func(*tracer.Program)) (*attach.Session, error) {
		tr, hook := *open.Tracer, open.Tracer.Hooks[slices.IndexFunc(open.Tracer.Hooks, func(h tracer.Hook) bool { return h.Kind == kind })]
		hook.Programs = slices.Clone(hook.Programs)
		change(&hook.Programs[0])
		tr.Hooks = []tracer.Hook{hook}
		return attach.Open([]*tracer.Tracer{&tr}, attach.Options{RingSize: ringSize})
	}
	s, err := with(func(p *tracer.Program) { p.AlsoIf = []string{missing, "syscalls/sys_exit_openat2"} })
	check(t, err)
	defer s.Close()
	want := []string{"tracepoint/syscalls/sys_exit_openat", "tracepoint/syscalls/sys_exit_openat2"}
	if kind == tracer.KprobeMulti {
		arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
		want = []string{"kretprobe.multi/__" + arch + "_sys_openat", "kretprobe.multi/__" + arch + "_sys_openat2"}
	}
	if got := s.Tracers[0].Attempts[0].Programs; !slices.Equal(got, want) {
		t.Errorf("attached to %q, want %q", got, want)
	}
	s, err = with(func(p *tracer.Program) { p.Also = []string{missing} })
	if err == nil {
		s.Close()
		t.Fatal("no error where a place is missing")
	}
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), call) {
		t.Errorf("the error is %q", err)
	}
}
