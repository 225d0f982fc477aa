package field

import "testing"

func TestLoad(t *testing.T) {
	for _, test := range []struct {
		load       Load
		text, json string
	}{
		{Load{}, "-", `""`},
		{Load{Known: true}, "0.00 0.00 0.00", `"0.00 0.00 0.00"`},
		// As /proc/loadavg shows these, which adds 10.
		{Load{Known: true, Averages: [3]uint64{2048, 2037, 11}}, "1.00 0.99 0.01", `"1.00 0.99 0.01"`},
		{Load{Known: true, Averages: [3]uint64{2038, 1<<11 + 1024, 123 << 11}}, "1.00 1.50 123.00", `"1.00 1.50 123.00"`},
	} {
		if got := string(test.load.AppendText(nil)); got != test.text {
			t.Errorf("%v: %s, want %s", test.load, got, test.text)
		}
		if got := string(test.load.AppendJSON(nil)); got != test.json {
			t.Errorf("%v: %s, want %s", test.load, got, test.json)
		}
	}
}
