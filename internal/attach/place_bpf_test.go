// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"io/fs"
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
	const missing = "syscalls/sys_exit_rbtrace_test"
	with := func(change func(*tracer.Program)) (*attach.Session, error) {
		tr, hook := *open.Tracer, open.Tracer.Hooks[0]
		hook.Programs = slices.Clone(hook.Programs)
		change(&hook.Programs[0])
		tr.Hooks = []tracer.Hook{hook}
		return attach.Open([]*tracer.Tracer{&tr}, attach.Options{RingSize: ringSize})
	}
	s, err := with(func(p *tracer.Program) { p.AlsoIf = []string{missing, "syscalls/sys_exit_openat2"} })
	check(t, err)
	defer s.Close()
	want := []string{"tracepoint/syscalls/sys_exit_openat", "tracepoint/syscalls/sys_exit_openat2"}
	if got := s.Tracers[0].Attempts[0].Programs; !slices.Equal(got, want) {
		t.Errorf("attached to %q, want %q", got, want)
	}
	s, err = with(func(p *tracer.Program) { p.Also = []string{missing} })
	if err == nil {
		s.Close()
		t.Fatal("no error where a place is missing")
	}
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("the error is %q", err)
	}
}
