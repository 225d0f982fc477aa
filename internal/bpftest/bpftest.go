// Package bpftest holds what tests that need BPF share: the honest skip, and
// workloads that the test binary itself performs.
package bpftest

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// RequireEnv names the environment variable that, set to 1, turns every skip
// for a missing privilege into a failure, so that CI cannot pass by skipping.
const RequireEnv = "RBTRACE_REQUIRE_BPF"

// Require skips the test where this process may not create BPF maps, and says
// why; with RBTRACE_REQUIRE_BPF=1 it fails instead.
func Require(tb testing.TB) {
	tb.Helper()
	// Only kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK; elsewhere
	// this does nothing.
	if err := rlimit.RemoveMemlock(); err != nil {
		Skipf(tb, "removing the memlock limit: %v", err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		Skipf(tb, "creating a BPF ring buffer: %v", err)
	}
	m.Close()
}

// Skipf skips with a reason, or fails with it where RBTRACE_REQUIRE_BPF=1.
func Skipf(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv(RequireEnv) == "1" {
		tb.Fatalf(RequireEnv+"=1, but "+format, args...)
	}
	tb.Skipf(format, args...)
}
