package field_test

import (
	"math"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

func TestSyscall(t *testing.T) {
	for _, test := range []struct {
		abi    field.ABI
		number uint32
		name   string
		known  bool
	}{
		// arch/x86/entry/syscalls/syscall_{64,32}.tbl, scripts/syscall.tbl, arch/arm/tools/syscall.tbl
		{field.X86, 0, "read", true},
		{field.X86, 262, "newfstatat", true},
		{field.X86, 435, "clone3", true},
		{field.X32, 1, "write", true},
		{field.X32, 520, "520", true},
		{field.I386, 3, "read", true},
		{field.I386, 102, "socketcall", true},
		{field.ARM64, 63, "read", true},
		{field.ARM64, 79, "newfstatat", true},
		{field.ARM64, 250, "250", true}, // a gap
		{field.ARM, 3, "read", true},
		{field.ARM, 0, "restart_syscall", true},
		{field.X86, math.MaxUint32, "4294967295", true},
		{99, 7, "7", true},
	} {
		s := field.Syscall{Number: test.number, ABI: test.abi}
		if got := string(s.AppendText(nil)); got != test.name {
			t.Errorf("%d of %s is %s, want %s", test.number, test.abi.AppendText(nil), got, test.name)
		}
		if got := string(s.AppendJSON(nil)); got != `"`+test.name+`"` {
			t.Errorf("as JSON it is %s", got)
		}
		if n, ok := field.FindSyscall(test.name, test.abi); !ok || n != test.number {
			t.Errorf("%s is %d, %v", test.name, n, ok)
		}
	}
	for _, name := range []string{"", "socketcall", "sys_read", "-1", "4294967296"} {
		if n, ok := field.FindSyscall(name, field.X86); ok {
			t.Errorf("%q is %d", name, n)
		}
	}
	if got := string(field.ABI(99).AppendJSON(nil)); got != `"unknown"` {
		t.Errorf("an unknown ABI is %s", got)
	}
}
