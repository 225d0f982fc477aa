package field

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestPtraceRequest(t *testing.T) {
	for _, test := range []struct {
		number int64
		arm64  bool
		want   string
	}{
		{unix.PTRACE_TRACEME, false, "PTRACE_TRACEME"},
		{unix.PTRACE_PEEKUSR, false, "PTRACE_PEEKUSR"},
		{10, false, "10"},
		{12, false, "PTRACE_GETREGS"},
		{12, true, "12"},
		{unix.PTRACE_ATTACH, true, "PTRACE_ATTACH"},
		{unix.PTRACE_SYSCALL, false, "PTRACE_SYSCALL"},
		{33, false, "PTRACE_SINGLEBLOCK"},
		{33, true, "PTRACE_PEEKMTETAGS"},
		{34, false, "34"},
		{35, true, "35"},
		{unix.PTRACE_SETOPTIONS, true, "PTRACE_SETOPTIONS"},
		{unix.PTRACE_SEIZE, false, "PTRACE_SEIZE"},
		{unix.PTRACE_GET_SYSCALL_INFO, false, "PTRACE_GET_SYSCALL_INFO"},
		{0x4212, false, "PTRACE_SET_SYSCALL_INFO"},
		{0x4213, false, "16915"},
		{0x41ff, false, "16895"},
		{-1, false, "-1"},
		{-1 << 63, true, "-9223372036854775808"},
		{1<<63 - 1, true, "9223372036854775807"},
	} {
		r := PtraceRequest{Number: test.number, ARM64: test.arm64}
		if got := string(r.AppendText(nil)); got != test.want {
			t.Errorf("request %d is %q, want %q", test.number, got, test.want)
		}
		if got := string(r.AppendJSON(nil)); got != `"`+test.want+`"` {
			t.Errorf("request %d is %s in JSON", test.number, got)
		}
	}
}

func TestParsePtraceRequest(t *testing.T) {
	for name, want := range map[string]uint64{
		"attach": 16, "PTRACE_ATTACH": 16, "Ptrace_TraceMe": 0, "SEIZE": 0x4206, "pokemtetags": 34,
	} {
		if n, ok := ParsePtraceRequest(name); !ok || n != want {
			t.Errorf("%q: %d, %v; want %d", name, n, ok, want)
		}
	}
	for _, name := range []string{"", "PTRACE_", "ptrace", "attach ", "10"} {
		if n, ok := ParsePtraceRequest(name); ok {
			t.Errorf("%q is taken for %d", name, n)
		}
	}
}
