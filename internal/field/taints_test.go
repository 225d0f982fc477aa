package field

import "testing"

func TestTaints(t *testing.T) {
	for taints, want := range map[Taints][2]string{
		0: {"-", `""`}, 1: {"P", `"P"`}, 1<<12 | 1<<13: {"OE", `"OE"`}, 1 << 18: {"N", `"N"`},
		1<<63 | 1: {"P0x8000000000000000", `"P0x8000000000000000"`},
	} {
		if got := string(taints.AppendText(nil)); got != want[0] {
			t.Errorf("%#x is %q, want %q", uint64(taints), got, want[0])
		}
		if got := string(taints.AppendJSON(nil)); got != want[1] {
			t.Errorf("%#x is %s in JSON", uint64(taints), got)
		}
	}
}
