// SPDX-License-Identifier: Apache-2.0

package dns_test

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/dns"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// TestFunctions: whatever name, and whatever comes of it, on any machine.
func TestFunctions(t *testing.T) {
	bpftest.Require(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	long := strings.Repeat("x", 1024)
	hosts := []string{"", "localhost", "example.com", "\x1b]0;x\a\n\xff", "bücher.example", long[1:], long, long + "y"}
	rets := []struct {
		ret  int
		name string
	}{{0, ""}, {-1, "EAI_BADFLAGS"}, {-2, "EAI_NONAME"}, {-3, "EAI_AGAIN"}, {-11, "EAI_SYSTEM"}, {-12, "EAI_OVERFLOW"}, {-100, "EAI_INPROGRESS"}, {-105, "EAI_IDN_ENCODE"}, {-106, "EAI_-106"}, {7, "EAI_7"}}
	for _, failed := range []bool{false, true} {
		library := bpftest.NewLibrary(t)
		opts := attach.Options{
			Failed: failed, Filter: attach.Filter{TID: uint32(unix.Gettid())},
			Params: map[string]string{tracer.LibraryParam: library.Path},
		}
		var want []event
		var longest time.Duration
		events := tracetest.Trace(t, dns.Tracer, opts, func() {
			library.Call("getaddrinfo", -2, 0) // without a name
			call := func(function, host string, result any, ret int, name string) {
				start := time.Now()
				library.Call(function, result, append([]byte(host), 0))
				longest = max(longest, time.Since(start))
				if failed && ret == 0 {
					return
				}
				shown := host[:min(len(host), len(long))]
				want = append(want, event{
					"function": function, "ret": int64(ret), "error": name, "host": tracetest.Text(shown), "truncated": len(host) > len(long),
					"pid": int64(os.Getpid()), tracetest.Raw: map[string]string{"host": shown},
				})
			}
			for _, host := range hosts {
				for _, r := range rets {
					call("getaddrinfo", host, r.ret, r.ret, r.name)
				}
				for _, function := range []string{"gethostbyname", "gethostbyname2"} {
					call(function, host, []byte("anything"), 0, "")
					call(function, host, 0, -1, "FAILED")
				}
			}
		})
		tracetest.Same(t, events, want)
		for _, e := range events {
			if l := time.Duration(e["latency_ns"].(int64)); l <= 0 || l > longest {
				t.Fatalf("a call took %v, the longest %v", l, longest)
			}
		}
	}
}

// TestGetent: a real program with the real library, which says whether there is such a host.
func TestGetent(t *testing.T) {
	bpftest.Require(t)
	getent, err := exec.LookPath("getent")
	if err != nil {
		t.Skip("this machine has no getent")
	}
	for _, test := range []struct{ database, host, function string }{
		{"ahosts", "localhost", "getaddrinfo"},
		{"ahosts", "no-such-host.invalid", "getaddrinfo"},
		{"ahosts", "\x1b[2J\xff", "getaddrinfo"},
		{"hosts", "localhost", "gethostbyname2"},
		{"hosts", "no-such-host.invalid", "gethostbyname2"},
	} {
		cmd := exec.Command(getent, test.database, test.host)
		events := tracetest.Trace(t, dns.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
			_ = cmd.Run() // 2 where there is none
		})
		want := event{
			"pid": int64(cmd.ProcessState.Pid()), "function": test.function,
			tracetest.Raw: map[string]string{"host": test.host},
		}
		if len(events) == 0 || len(events) > 2 || test.database == "ahosts" && len(events) != 1 {
			t.Errorf("%v: %d events", test, len(events)) // hosts asks for IPv6 first, then IPv4
			continue
		}
		for _, e := range events {
			if diff := e.Diff(want); diff != "" {
				t.Errorf("%v: %s", test, diff)
			}
		}
		if found := events[len(events)-1]["ret"] == int64(0); found != (cmd.ProcessState.ExitCode() == 0) {
			t.Errorf("%v: getent ends with %d, the event is %v", test, cmd.ProcessState.ExitCode(), events[len(events)-1])
		}
	}
}

// TestErrors: the number that the caller gets is the one that is shown.
func TestErrors(t *testing.T) {
	bpftest.Require(t)
	python, err := exec.LookPath("/usr/bin/python3")
	if err != nil {
		t.Skip("this machine has no python3")
	}
	const script = `
import socket, sys
for host, flags in ((b"127.0.0.1", 0), (b"no.such", socket.AI_NUMERICHOST), (b"localhost", 1 << 20), (b"x" * 300, 0)):
    try:
        socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM, 0, flags)
        print(0)
    except socket.gaierror as e:
        print(e.errno)
`
	cmd := exec.Command(python, "-S", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	events := tracetest.Trace(t, dns.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	})
	var want []event
	for line := range strings.FieldsSeq(out.String()) {
		n, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, event{"ret": int64(n)})
	}
	if len(want) != 4 {
		t.Fatalf("python says %q", out.String())
	}
	tracetest.Same(t, events, want)
}
