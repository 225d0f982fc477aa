// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// pidsOpens is how often tellPids fails to open a file.
const pidsOpens = 31

// tellPids traces itself, by ids that mean another process in the initial pid
// namespace, and tells how many events it sees.
func tellPids() error {
	runtime.LockOSThread()
	for _, filter := range []attach.Filter{{PID: uint32(os.Getpid())}, {TID: uint32(unix.Gettid())}, {Follow: true}} {
		s, err := attach.Open([]*tracer.Tracer{open.Tracer}, attach.Options{RingSize: 1 << 20, Failed: true, Filter: filter})
		if err != nil {
			return err
		}
		if filter.Follow {
			if err := s.Follow(os.Getpid()); err != nil {
				return err
			}
		}
		if err := s.Enable(); err != nil {
			return err
		}
		for range pidsOpens {
			if _, err := unix.Open("/nothing", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		if err := s.Disable(); err != nil {
			return err
		}
		books, err := s.Tracers[0].Books()
		if err != nil {
			return err
		}
		var submitted uint64
		for _, b := range books.CPU {
			submitted += b.Submitted
		}
		s.Close()
		fmt.Fprintln(bpftest.ReportTo, submitted)
	}
	const nobody = 1 << 22
	_, err := attach.Open([]*tracer.Tracer{open.Tracer}, attach.Options{RingSize: 1 << 20, Filter: attach.Filter{PID: nobody}})
	fmt.Fprintln(bpftest.ReportTo, errors.Is(err, fs.ErrNotExist))
	return nil
}

// TestOwnPids: ids in filters are those of the pid namespace of who gives them.
func TestOwnPids(t *testing.T) {
	bpftest.Require(t)
	c := &bpftest.Child{Role: "pids", Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}}
	c.Start(t)
	want := strings.Repeat(fmt.Sprintln(pidsOpens), 3) + "true\n"
	if got := string(c.End(t)); got != want {
		t.Errorf("a process in a pid namespace of its own sees %q, want %q", got, want)
	}
}
