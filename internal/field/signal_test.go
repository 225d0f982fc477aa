package field

import "testing"

func TestSignal(t *testing.T) {
	for _, test := range []struct {
		signal Signal
		want   string
	}{
		{0, ""},
		{1, "SIGHUP"},
		{9, "SIGKILL"},
		{11, "SIGSEGV"},
		{31, "SIGSYS"},
		{32, "SIGRTMIN"},
		{34, "SIGRTMIN+2"},
		{64, "SIGRTMIN+32"},
		{65, "65"},
		{-1, "-1"},
	} {
		if got := string(test.signal.AppendText(nil)); got != test.want {
			t.Errorf("signal %d is %q, want %q", test.signal, got, test.want)
		}
		if got := string(test.signal.AppendJSON(nil)); got != `"`+test.want+`"` {
			t.Errorf("signal %d is %s in JSON", test.signal, got)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]uint64{
		"SIGKILL": 9, "KILL": 9, "sigterm": 15, "winch": 28, "RTMIN": 32, "SIGRTMIN+2": 34, "rtmin+32": 64,
	} {
		if got, ok := ParseSignal(name); got != want || !ok {
			t.Errorf("%s is signal %d, %v", name, got, ok)
		}
	}
	for _, name := range []string{"", "SIG", "9", "SIGRTMIN+33", "KILLS"} {
		if got, ok := ParseSignal(name); ok {
			t.Errorf("%q is signal %d", name, got)
		}
	}
}
