package field

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestCapability(t *testing.T) {
	for _, test := range []struct {
		capability Capability
		want       string
	}{
		{unix.CAP_CHOWN, "CAP_CHOWN"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
		{unix.CAP_SYSLOG, "CAP_SYSLOG"},
		{unix.CAP_LAST_CAP, "CAP_CHECKPOINT_RESTORE"},
		{unix.CAP_LAST_CAP + 1, "41"},
		{1<<32 - 1, "4294967295"},
	} {
		if got := string(test.capability.AppendText(nil)); got != test.want {
			t.Errorf("capability %d is %q, want %q", test.capability, got, test.want)
		}
		if got := string(test.capability.AppendJSON(nil)); got != `"`+test.want+`"` {
			t.Errorf("capability %d is %s in JSON", test.capability, got)
		}
	}
	for name, want := range map[string]uint64{"CAP_CHOWN": 0, "sys_admin": unix.CAP_SYS_ADMIN, "Cap_Bpf": unix.CAP_BPF} {
		if n, ok := ParseCapability(name); !ok || n != want {
			t.Errorf("%q: %d, %v; want %d", name, n, ok, want)
		}
	}
	for _, name := range []string{"", "CAP_", "cap", "21"} {
		if n, ok := ParseCapability(name); ok {
			t.Errorf("%q is taken for %d", name, n)
		}
	}
}

func TestMaybe(t *testing.T) {
	for m, want := range map[Maybe][2]string{
		{}: {"-", `""`}, {Known: true}: {"no", `"no"`}, {Known: true, Yes: true}: {"yes", `"yes"`}, {Yes: true}: {"-", `""`},
	} {
		if got := string(m.AppendText(nil)); got != want[0] {
			t.Errorf("%v is %q", m, got)
		}
		if got := string(m.AppendJSON(nil)); got != want[1] {
			t.Errorf("%v is %s in JSON", m, got)
		}
	}
}
