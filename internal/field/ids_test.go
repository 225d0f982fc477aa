package field

import "testing"

func TestIDs(t *testing.T) {
	for _, test := range []struct {
		value Value
		want  string
	}{
		{&IDs{}, "0"},
		{&IDs{1000, 1000, 1000, 1000}, "1000"},
		{&IDs{1000, 0, 0, 0}, "1000/0/0"},
		{&IDs{0, 0, 1000, 0}, "0/0/1000"},
		{&IDs{0, 0, 0, 33}, "0/0/0/33"},
		{&IDs{1<<32 - 1, 1, 2, 3}, "4294967295/1/2/3"},
		{&Groups{}, "-"},
		{&Groups{[]uint32{4}, 1}, "4"},
		{&Groups{[]uint32{0, 4, 1<<32 - 2}, 3}, "0,4,4294967294"},
		{&Groups{[]uint32{0, 4}, 1<<32 - 1}, "0,4,…"},
	} {
		if got := string(test.value.AppendText(nil)); got != test.want {
			t.Errorf("%+v is %q, want %q", test.value, got, test.want)
		}
		if got := string(test.value.AppendJSON(nil)); got != `"`+test.want+`"` {
			t.Errorf("%+v is %s in JSON", test.value, got)
		}
	}
}
