// SPDX-License-Identifier: Apache-2.0

package module_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/module"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dummy is a module of this kernel that may be loaded, and its path.
func dummy(t *testing.T) (image []byte, path string) {
	t.Helper()
	path = os.Getenv("RBTRACE_TEST_MODULE")
	if path == "" {
		bpftest.Lacks(t, "RBTRACE_TEST_MODULE names no module to load")
	}
	image, err := os.ReadFile(path)
	check(t, err)
	return image, path
}

// TestModules: each module that comes and goes, with the taints that /sys tells.
func TestModules(t *testing.T) {
	bpftest.Require(t)
	image, path := dummy(t)
	const n = 5
	var want []event
	events := tracetest.Trace(t, module.Tracer, tracetest.ThisThread(t), func() {
		for i := range n {
			if i%2 == 0 {
				f, err := os.Open(path)
				check(t, err)
				check(t, unix.FinitModule(int(f.Fd()), "numdummies=1", 0))
				f.Close()
			} else {
				check(t, unix.InitModule(image, ""))
			}
			taints, err := os.ReadFile("/sys/module/dummy/taint")
			check(t, err)
			check(t, unix.DeleteModule("dummy", unix.O_NONBLOCK))
			for _, op := range []string{"load", "unload"} {
				want = append(want, event{
					"type": "module", "op": op, "name": "dummy", "taints": strings.TrimSpace(string(taints)), "call": "", "ret": int64(0),
					"errno": "", "file": "", "params": "", "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()),
				})
			}
		}
		// One that is there already comes and goes no more than one that is none.
		check(t, unix.InitModule(image, ""))
		want = append(want, event{"op": "load"})
		if err := unix.InitModule(image, ""); !errors.Is(err, unix.EEXIST) {
			t.Error(err)
		}
		check(t, unix.DeleteModule("dummy", 0))
		want = append(want, event{"op": "unload"})
	})
	tracetest.Same(t, events, want)
}

const hostile = "a \"b\"\n\x1b[31m\xff\xc3ü\u202e"

// TestFailed: the calls that fail, with what they were given.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	const n = 3
	dir := bpftest.Dir(t)
	check(t, os.WriteFile(filepath.Join(dir, hostile), []byte("no module"), 0o600))
	f, err := os.Open(filepath.Join(dir, hostile))
	check(t, err)
	defer f.Close()
	gone, err := os.Create(filepath.Join(dir, "gone"))
	check(t, err)
	defer gone.Close()
	check(t, os.Remove(gone.Name()))
	memory, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	check(t, err)
	defer unix.Close(memory)
	long := strings.Repeat("p", 1024)

	path := func(fd int) string {
		p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		check(t, err)
		return p
	}
	opts := tracetest.ThisThread(t)
	opts.Failed = true
	var want []event
	add := func(err error, e event, raw map[string]string) {
		t.Helper()
		var errno unix.Errno
		if !errors.As(err, &errno) {
			t.Fatalf("%v: %v", e, err)
		}
		w := event{
			"type": "module", "op": "load", "name": "", "taints": "", "params": "", "params_truncated": false, "flags": []string{}, "file": "",
			"ret": -int64(errno), "errno": unix.ErrnoName(errno), tracetest.Raw: raw,
		}
		maps.Copy(w, e)
		want = append(want, w)
	}
	events := tracetest.Trace(t, module.Tracer, opts, func() {
		for range n {
			add(unix.FinitModule(int(f.Fd()), "a=1 "+hostile, 1),
				event{"call": "finit_module", "flags": []string{"MODULE_INIT_IGNORE_MODVERSIONS"}, "file": tracetest.Text(path(int(f.Fd()))), "params": tracetest.Text("a=1 " + hostile)},
				map[string]string{"file": dir + "/" + hostile, "params": "a=1 " + hostile})
			add(unix.FinitModule(int(gone.Fd()), "", 0), event{"call": "finit_module", "file": path(int(gone.Fd()))}, nil)
			add(unix.FinitModule(memory, long[1:], 0), event{"call": "finit_module", "file": path(memory), "params": long[1:]}, nil)
			add(unix.FinitModule(1<<20, long, 0x100), event{"call": "finit_module", "flags": []string{"0x100"}, "params": long[1:], "params_truncated": true}, nil)
			_, _, errno := unix.RawSyscall(unix.SYS_FINIT_MODULE, f.Fd(), 1, 0)
			add(errno, event{"call": "finit_module", "file": tracetest.Text(path(int(f.Fd()))), "params_truncated": true}, nil)
			add(unix.InitModule([]byte("no module"), "x=y"), event{"call": "init_module", "params": "x=y"}, nil)
			add(unix.DeleteModule(hostile, unix.O_NONBLOCK|unix.O_TRUNC),
				event{"call": "delete_module", "op": "unload", "name": tracetest.Text(hostile), "flags": []string{"O_TRUNC", "O_NONBLOCK"}}, map[string]string{"name": hostile})
			name := append([]byte(long), 0)
			_, _, errno = unix.RawSyscall(unix.SYS_DELETE_MODULE, uintptr(unsafe.Pointer(&name[0])), 0, 0)
			add(errno, event{"call": "delete_module", "op": "unload", "name": long[:63]}, nil)
		}
	})
	tracetest.Same(t, events, want)
}
