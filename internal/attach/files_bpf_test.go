// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/probes/readline"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// openReadline opens a session of that tracer, and returns where it is attached.
func openReadline(t *testing.T, pid int, library string) (string, error) {
	t.Helper()
	opts := attach.Options{RingSize: ringSize, Filter: attach.Filter{PID: uint32(pid)}, Params: map[string]string{}}
	if library != "" {
		opts.Params[tracer.LibraryParam] = library
	}
	s, err := attach.Open([]*tracer.Tracer{readline.Tracer}, opts)
	if err != nil {
		return "", err
	}
	defer s.Close()
	return strings.Join(s.Tracers[0].Attempts[0].Programs, ", "), nil
}

// TestLibrary: where uprobes go, and what people read where they cannot.
func TestLibrary(t *testing.T) {
	bpftest.Require(t)
	if _, err := os.Stat("/sys/bus/event_source/devices/uprobe"); err != nil {
		t.Skip("this kernel has no uprobes")
	}
	dir := bpftest.Dir(t)
	library := bpftest.NewLibrary(t).Path
	text := filepath.Join(dir, "text")
	check(t, os.WriteFile(text, []byte("no ELF\n"), 0o644))
	quick := bpftest.LinkQuick(t, filepath.Join(dir, "quick"))
	const symbol = "uretprobe/readline of "
	for _, test := range []struct{ name, library, want, err string }{
		{"path", library, symbol + library, ""},
		{"missing", dir + "/missing", "", "no such file"},
		{"directory", dir, "", "is no regular file"},
		{"text", text, "", "text: it is no ELF file"},
		{"no function", quick, "", quick + " has no function readline"},
		{"no library", "libnothing.so", "", "there is no libnothing.so in /etc/ld.so.cache and /lib"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := openReadline(t, 0, test.library)
			if test.err == "" {
				check(t, err)
			}
			if got != test.want || test.err != "" && (!errors.Is(err, attach.ErrNoFile) || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}

	// Those of processes that have a root of their own: what they have mapped, also when it
	// is there no more, or else what is there, by a link that is absolute in that root.
	root := filepath.Join(dir, "root")
	check(t, os.MkdirAll(root+"/elsewhere", 0o755))
	check(t, os.Mkdir(root+"/lib", 0o755))
	bpftest.Link(t, root+"/self")
	check(t, bpftest.WriteLibrary(root+"/libreadline.so.5"))
	check(t, bpftest.WriteLibrary(root+"/elsewhere/real.so"))
	check(t, os.Symlink("/elsewhere/real.so", root+"/lib/libreadline.so.8"))
	start := func(role string, args ...string) int {
		c := &bpftest.Child{Role: role, Path: "/self", Args: append([]string{role}, args...), Sys: &syscall.SysProcAttr{Chroot: root}}
		c.Start(t)
		t.Cleanup(func() { c.End(t) })
		if role == "map" {
			c.ReadLine(t)
		}
		return c.PID()
	}
	is := func(pid int, want string) {
		t.Helper()
		if got, err := openReadline(t, pid, ""); err != nil || got != symbol+want {
			t.Errorf("%q, %v, want %s", got, err, want)
		}
	}
	mapping := start("map", "/libreadline.so.5")
	hostile := "/\x1b]0;x\a"
	check(t, os.Mkdir(root+hostile, 0o755))
	check(t, bpftest.WriteLibrary(root+hostile+"/libreadline.so.5"))
	is(start("map", hostile+"/libreadline.so.5"), root+`/\x1b]0;x\x07/libreadline.so.5`)
	is(start("wait"), "/lib/libreadline.so.8")
	is(mapping, root+"/libreadline.so.5") // as it is seen from here
	check(t, os.Remove(root+"/libreadline.so.5"))
	is(mapping, root+"/libreadline.so.5") // as it is seen from here
	check(t, os.RemoveAll(root+"/lib"))
	_, err := openReadline(t, start("wait"), "")
	if !errors.Is(err, attach.ErrNoFile) || !strings.Contains(err.Error(), "has not mapped libreadline.so") {
		t.Errorf("error %v", err)
	}
}
