package field

import "testing"

func TestBPF(t *testing.T) {
	for _, test := range []struct {
		value  Value
		text   string
		inJSON string
	}{
		{new(BPFCommand), "MAP_CREATE", `"MAP_CREATE"`},
		{new(BPFCommand(28)), "LINK_CREATE", `"LINK_CREATE"`},
		{new(BPFCommand(1000)), "1000", `"1000"`},
		{new(PerfEventOpen), "perf_event_open", `"perf_event_open"`},
		{new(BPFCommand(1<<32 - 1)), "4294967295", `"4294967295"`},
		{&BPFType{}, "-", `""`},
		{&BPFType{NoBPFType, 5}, "-", `""`},
		{&BPFType{BPFMapType, 27}, "ringbuf", `"ringbuf"`},
		{&BPFType{BPFProgType, 2}, "kprobe", `"kprobe"`},
		{&BPFType{BPFProgType, 1000}, "1000", `"1000"`},
		{&BPFType{BPFAttachType, 24}, "trace_fentry", `"trace_fentry"`},
		{&BPFType{PerfType, 1}, "software", `"software"`},
		{&BPFType{PerfType, 6}, "6", `"6"`},
	} {
		if got := string(test.value.AppendText(nil)); got != test.text {
			t.Errorf("%+v is %q, want %q", test.value, got, test.text)
		}
		if got := string(test.value.AppendJSON(nil)); got != test.inJSON {
			t.Errorf("%+v is %s in JSON, want %s", test.value, got, test.inJSON)
		}
	}
	for name, want := range map[string]uint64{"MAP_CREATE": 0, "bpf_prog_load": 5, "perf_event_open": 0xffff} {
		if n, ok := ParseBPFCommand(name); !ok || n != want {
			t.Errorf("%q: %d, %v; want %d", name, n, ok, want)
		}
	}
	if n, ok := ParseBPFCommand("BPF_"); ok {
		t.Errorf("BPF_ is taken for %d", n)
	}
}
