package field

import "testing"

func TestCloneFlags(t *testing.T) {
	for _, test := range []struct {
		flags      CloneFlags
		text, json string
	}{
		{0, "-", "[]"},
		{0x4100, "CLONE_VM|CLONE_VFORK", `["CLONE_VM","CLONE_VFORK"]`},
		{0x10000, "CLONE_THREAD", `["CLONE_THREAD"]`},
		{1 << 63, "0x8000000000000000", `["0x8000000000000000"]`},
		{1<<63 | 0x200000000, "CLONE_INTO_CGROUP|0x8000000000000000", `["CLONE_INTO_CGROUP","0x8000000000000000"]`},
	} {
		if got := string(test.flags.AppendText(nil)); got != test.text {
			t.Errorf("%#x is %q, want %q", uint64(test.flags), got, test.text)
		}
		if got := string(test.flags.AppendJSON(nil)); got != test.json {
			t.Errorf("%#x is %s in JSON, want %s", uint64(test.flags), got, test.json)
		}
	}
}
