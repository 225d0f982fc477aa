// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/probes/bpf"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call is bpf(2), with attributes that a library would not give.
func call(cmd uintptr, attr unsafe.Pointer, size uintptr) int64 {
	ret, _, errno := unix.RawSyscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return -int64(errno)
	}
	return int64(ret)
}

// result are the values that follow from what a call returned.
func result(cmd string, ret int64) event {
	e := event{"type": "bpf", "cmd": cmd, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "ret": ret, "errno": ""}
	if ret < 0 {
		e["errno"] = unix.ErrnoName(unix.Errno(-ret))
	}
	return e
}

func with(e event, keys ...any) event {
	for i := 0; i < len(keys); i += 2 {
		e[keys[i].(string)] = keys[i+1]
	}
	return e
}

const hostile = "a \"b\"\n\x1b[31m\xff\xc3ü\u202e"

// text is a C string.
func text(s string) *byte { return unsafe.SliceData(append([]byte(s), 0)) }

// TestMaps: a map's life, by its name and id.
func TestMaps(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	opts := tracetest.ThisThread(t)
	var want []event
	var id ebpf.MapID
	var fd int64
	events := tracetest.Trace(t, bpf.Tracer, opts, func() {
		create := struct {
			typ, key, value, entries, flags, inner, node uint32
			name                                         [16]byte
		}{typ: uint32(ebpf.Hash), key: 4, value: 4, entries: n}
		copy(create.name[:], "rbtrace_map")
		fd = call(unix.BPF_MAP_CREATE, unsafe.Pointer(&create), unsafe.Sizeof(create))
		if fd < 0 {
			t.Fatal(unix.Errno(-fd))
		}
		want = append(want, with(result("MAP_CREATE", fd), "type_name", "hash", "name", "rbtrace_map", "fd", fd))
		// The kernel is given their addresses as numbers, which nothing corrects where a stack moves.
		var pinner runtime.Pinner
		defer pinner.Unpin()
		var key, value uint32
		pinner.Pin(&key)
		pinner.Pin(&value)
		elem := struct {
			fd, _             uint32
			key, value, flags uint64
		}{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&value)))}
		for i := range n {
			key = uint32(i)
			ret := call(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&elem), unsafe.Sizeof(elem))
			want = append(want, with(result("MAP_UPDATE_ELEM", ret), "type_name", "", "name", "rbtrace_map", "fd", fd))
		}
		key = n
		// What failed may be no map at all, so nothing is looked up.
		ret := call(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&elem), unsafe.Sizeof(elem))
		want = append(want, with(result("MAP_LOOKUP_ELEM", ret), "name", "", "fd", fd, "id", int64(0)))
		freeze := uint32(fd)
		ret = call(unix.BPF_MAP_FREEZE, unsafe.Pointer(&freeze), 4)
		want = append(want, with(result("MAP_FREEZE", ret), "name", "rbtrace_map", "fd", fd))
		create.name[0] = '/'
		ret = call(unix.BPF_MAP_CREATE, unsafe.Pointer(&create), unsafe.Sizeof(create))
		want = append(want, with(result("MAP_CREATE", ret), "name", "/btrace_map", "fd", int64(-1), "id", int64(0), "errno", "EINVAL"))
		create.typ = 9999
		copy(create.name[:], "\x1b]0;\xff\n")
		ret = call(unix.BPF_MAP_CREATE, unsafe.Pointer(&create), 44)
		want = append(want, with(result("MAP_CREATE", ret), "type_name", "9999", "name", tracetest.Text("\x1b]0;\xff\ne_map")))
		ret = call(unix.BPF_MAP_CREATE, nil, 0)
		want = append(want, result("MAP_CREATE", ret))
	})
	m, err := ebpf.NewMapFromFD(int(fd))
	check(t, err)
	defer m.Close()
	info, err := m.Info()
	check(t, err)
	id, _ = info.ID()
	for _, w := range want {
		if w["name"] == "rbtrace_map" {
			w["id"] = int64(id)
		}
	}
	tracetest.Same(t, events, want)
	if len(want) != n+6 || id == 0 {
		t.Errorf("%d events, id %d", len(want), id)
	}
}

// TestPrograms: programs, with the ids that the kernel gave them.
func TestPrograms(t *testing.T) {
	bpftest.Require(t)
	const n = 7
	opts := tracetest.ThisThread(t)
	opts.Params = map[string]string{"cmd": "prog_load"}
	var want []event
	events := tracetest.Trace(t, bpf.Tracer, opts, func() {
		for i, typ := range []ebpf.ProgramType{ebpf.SocketFilter, ebpf.Kprobe, ebpf.TracePoint, ebpf.XDP, ebpf.PerfEvent, ebpf.RawTracepoint, ebpf.CGroupSKB} {
			name := fmt.Sprintf("rbtrace_prog_%d", i)
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: name, Type: typ, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
				KernelVersion: 1,
			})
			check(t, err)
			info, err := p.Info()
			check(t, err)
			id, _ := info.ID()
			kinds := []string{"socket_filter", "kprobe", "tracepoint", "xdp", "perf_event", "raw_tracepoint", "cgroup_skb"}
			want = append(want, event{
				"cmd": "PROG_LOAD", "type_name": kinds[i], "name": name, "id": int64(id), "ret": int64(p.FD()), "fd": int64(p.FD()), "errno": "",
			})
			p.Close()
		}
	})
	// The library asks what the kernel can do by programs of its own.
	var mine []event
	for _, e := range events {
		if name, _ := e["name"].(string); strings.HasPrefix(name, "rbtrace_") {
			mine = append(mine, e)
		}
	}
	tracetest.Same(t, mine, want)
	if len(want) != n {
		t.Errorf("%d programs", len(want))
	}
}

// TestBind: a map that is bound to a program, which is told by the latter.
func TestBind(t *testing.T) {
	bpftest.Require(t)
	opts := tracetest.ThisThread(t)
	opts.Params = map[string]string{"cmd": "prog_bind_map"}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	check(t, err)
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "rbtrace_bound", Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	check(t, err)
	defer p.Close()
	info, err := p.Info()
	check(t, err)
	id, _ := info.ID()
	events := tracetest.Trace(t, bpf.Tracer, opts, func() {
		attr := [3]uint32{uint32(p.FD()), uint32(m.FD())}
		if ret := call(unix.BPF_PROG_BIND_MAP, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); ret != 0 {
			t.Error(unix.Errno(-ret))
		}
	})
	tracetest.Same(t, events, []event{with(result("PROG_BIND_MAP", 0), "fd", int64(p.FD()), "id", int64(id), "name", "rbtrace_bound")})
}

// TestFailed: --failed, with names that nobody should trip over.
func TestFailed(t *testing.T) {
	bpftest.Require(t)
	const n = 5
	opts := tracetest.ThisThread(t)
	opts.Failed = true
	long := "/" + strings.Repeat("p", 4094)
	var want []event
	events := tracetest.Trace(t, bpf.Tracer, opts, func() {
		for range n {
			for _, path := range []string{"/nothing/" + hostile, long} {
				p := text(path)
				attr := struct {
					path      uint64
					fd, flags uint32
				}{path: uint64(uintptr(unsafe.Pointer(p))), fd: 1 << 20}
				ret := call(unix.BPF_OBJ_PIN, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
				want = append(want, with(result("OBJ_PIN", ret), "name", tracetest.Text(path), "fd", int64(1<<20),
					tracetest.Raw, map[string]string{"name": path}))
				attr.fd = 0
				ret = call(unix.BPF_OBJ_GET, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
				want = append(want, with(result("OBJ_GET", ret), "name", tracetest.Text(path), "fd", int64(-1)))
				attr.fd = 1 << 20
				ret = call(unix.BPF_RAW_TRACEPOINT_OPEN, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
				want = append(want, with(result("RAW_TRACEPOINT_OPEN", ret), "name", tracetest.Text(path), "fd", int64(-1)))
				runtime.KeepAlive(p)
			}
			id := [3]uint32{1<<32 - 2}
			ret := call(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&id), 12)
			want = append(want, with(result("PROG_GET_FD_BY_ID", ret), "id", int64(1<<32-2), "errno", "ENOENT"))
			ret = call(1000, unsafe.Pointer(&id), 12)
			want = append(want, with(result("1000", ret), "errno", "EINVAL", "type_name", "", "name", ""))
			attach := [4]uint32{1 << 20, 1 << 20, 24, 0}
			ret = call(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), 16)
			want = append(want, with(result("PROG_ATTACH", ret), "type_name", "trace_fentry"))
			ret = call(unix.BPF_PROG_DETACH, unsafe.Pointer(&attach), 16)
			want = append(want, with(result("PROG_DETACH", ret), "type_name", "trace_fentry", "fd", int64(1<<20)))
			// The places of descriptors in commands that old kernels do not know.
			fds := [6]uint32{1 << 20, 1<<20 + 1, 1<<20 + 2, 1<<20 + 3, 1<<20 + 4}
			for cmd, name := range []string{"PROG_BIND_MAP", "TOKEN_CREATE", "PROG_STREAM_READ_BY_FD", "PROG_ASSOC_STRUCT_OPS"} {
				ret = call(unix.BPF_PROG_BIND_MAP+uintptr(cmd), unsafe.Pointer(&fds), 24)
				fd := []int64{1 << 20, -1, 1<<20 + 4, 1<<20 + 1}[cmd]
				want = append(want, with(result(name, ret), "fd", fd, "id", int64(0), "name", ""))
			}
		}
	})
	tracetest.Same(t, events, want)
	for _, w := range want {
		if w["ret"].(int64) >= 0 {
			t.Errorf("it succeeded: %v", w)
		}
	}
}

// TestPerf: perf events, with whom they count.
func TestPerf(t *testing.T) {
	bpftest.Require(t)
	const n = 11
	opts := tracetest.ThisThread(t)
	opts.Params = map[string]string{"cmd": "perf_event_open"}
	var want []event
	events := tracetest.Trace(t, bpf.Tracer, opts, func() {
		for i := range n {
			attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER5, Config: unix.PERF_COUNT_SW_TASK_CLOCK}
			kind, pid, cpu := "software", 0, -1
			switch i % 3 {
			case 1:
				attr.Config, pid, cpu = unix.PERF_COUNT_SW_DUMMY, -1, 0
			case 2:
				attr.Type, attr.Config, kind, pid = 1<<31-1, 1<<63, "2147483647", 1<<22+1
			}
			fd, err := unix.PerfEventOpen(&attr, pid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
			ret := int64(fd)
			if errno, ok := errors.AsType[unix.Errno](err); ok {
				ret = -int64(errno)
			} else {
				unix.Close(fd)
			}
			want = append(want, with(result("perf_event_open", ret), "type_name", kind, "config", fmt.Sprintf("%#x", attr.Config),
				"target_pid", int64(pid), "target_cpu", int64(cpu), "fd", max(ret, -1), "name", "", "id", int64(0)))
		}
	})
	tracetest.Same(t, events, want)
	if want[0]["errno"] != "" || want[2]["errno"] == "" {
		t.Errorf("%v, %v", want[0], want[2])
	}
}

// TestNames: the names are those that the running kernel has.
func TestNames(t *testing.T) {
	bpftest.Require(t)
	kernel, err := btf.LoadKernelSpec()
	check(t, err)
	for enum, of := range map[string]struct {
		prefix string
		show   func(uint32) string
	}{
		"bpf_cmd":         {"BPF_", func(n uint32) string { return string(field.BPFCommand(n).AppendText(nil)) }},
		"bpf_map_type":    {"BPF_MAP_TYPE_", types(field.BPFMapType)},
		"bpf_prog_type":   {"BPF_PROG_TYPE_", types(field.BPFProgType)},
		"bpf_attach_type": {"BPF_", types(field.BPFAttachType)},
		"perf_type_id":    {"PERF_TYPE_", types(field.PerfType)},
	} {
		var e *btf.Enum
		check(t, kernel.TypeByName(enum, &e))
		names := make(map[uint32][]string)
		for _, v := range e.Values {
			if name, ok := strings.CutPrefix(v.Name, of.prefix); ok && v.Value < 1<<16 {
				names[uint32(v.Value)] = append(names[uint32(v.Value)], strings.ToLower(name))
			}
		}
		for n, names := range names {
			found := false
			for _, name := range names {
				found = found || name == strings.ToLower(of.show(n)) || enum == "perf_type_id" && name == "max"
			}
			if !found {
				t.Errorf("%s %d is %s, and not %s", enum, n, names, of.show(n))
			}
		}
	}
}

func types(of field.BPFTypes) func(uint32) string {
	return func(n uint32) string { return string(field.BPFType{Of: of, Number: n}.AppendText(nil)) }
}
