// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// self is this process.
func self(t *testing.T) *wire.Who {
	t.Helper()
	id, ok := identify(uint32(os.Getpid()))
	if !ok {
		t.Fatal("this process has no id")
	}
	// Of the initial pid namespace only where this process is in that.
	return &wire.Who{Start: id[0] * clockTick, Pid: uint32(os.Getpid()), NsPid: uint32(os.Getpid()), PidNs: ownPidNs()}
}

// mappedAt returns where this process has mapped a file.
func mappedAt(t *testing.T, name string) uint64 {
	t.Helper()
	list, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		var at uint64
		if _, err := fmt.Sscanf(line, "%x-", &at); err == nil && strings.HasSuffix(line, "/"+name+"\n") {
			return at
		}
	}
	t.Fatalf("%s is not mapped", name)
	return 0
}

func user(s *Stacks, who *wire.Who, addresses ...uint64) []string {
	text := string(s.Append(nil, tracer.UserStack, who, addresses))
	return strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
}

// TestUserStack: addresses in a library that this process has loaded, whatever its name is.
func TestUserStack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a [b] \x1b\n.so")
	if err := bpftest.WriteLibrary(path); err != nil {
		t.Fatal(err)
	}
	if _, err := bpftest.MapCode(path); err != nil {
		t.Fatal(err)
	}
	const name = "a [b] \x1b\\012.so" // the kernel's list of mappings escapes the newline
	at := truth(t, path)["readline"]
	readline := mappedAt(t, name) + at
	s, err := NewStacks(tracer.UserStack)
	if err != nil {
		t.Fatal(err)
	}
	compare := func(who *wire.Who, addresses []uint64, want ...string) {
		t.Helper()
		if got := user(s, who, addresses...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// The innermost is where the program is, all others are where it returns to.
	compare(self(t), []uint64{readline, readline + 4, 0x1000}, "readline+0x0 ["+name+"]", "readline+0x4 ["+name+"]", "0x1000")
	// Another process, another program in the same process, or one that is gone.
	other := *self(t)
	other.Start += clockTick
	compare(&other, []uint64{readline}, fmt.Sprintf("%#x", readline))
	gone := *self(t)
	gone.Pid, gone.NsPid = 0, 0
	compare(&gone, []uint64{readline}, fmt.Sprintf("%#x", readline))

	// A library that is loaded later, and removed.
	late := filepath.Join(dir, "late.so")
	if err := bpftest.WriteLibrary(late); err != nil {
		t.Fatal(err)
	}
	if _, err := bpftest.MapCode(late); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(late); err != nil {
		t.Fatal(err)
	}
	readline = mappedAt(t, "late.so (deleted)") + at
	time.Sleep(lookAgain)
	compare(self(t), []uint64{readline + 1}, "readline+0x1 [late.so]")
}

// TestKernelStack: the kernel's own list of functions is what their names are compared with.
func TestKernelStack(t *testing.T) {
	s, err := NewStacks(tracer.KernelStack)
	if err != nil {
		if os.Getuid() != 0 {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	begin, end := s.symbols.Core()
	if begin == 0 || end <= begin {
		t.Fatalf("the kernel is from %#x to %#x", begin, end)
	}
	list, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for line := range strings.Lines(string(list)) {
		var address uint64
		var kind, name string
		if !strings.HasSuffix(line, " do_exit\n") && !strings.HasSuffix(line, " wake_up_process\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x %s %s", &address, &kind, &name); err != nil {
			t.Fatal(err)
		}
		checked++
		text := string(s.Append(nil, tracer.KernelStack, nil, []uint64{address, address + 5}))
		if want := fmt.Sprintf("%s+0x0\x00%[1]s+0x5\x00", name); text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
	if checked != 2 {
		t.Errorf("%d of 2 functions", checked)
	}
	if text := string(s.Append(nil, tracer.KernelStack, nil, []uint64{1})); text != "0x1\x00" {
		t.Errorf("no function: %q", text)
	}
	if _, _, _, ok := (&kernel.Symbols{}).Find(1); ok {
		t.Error("there is a function where there are none")
	}
}
