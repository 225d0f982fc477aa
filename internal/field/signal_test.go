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
		{32, "32"},
		{33, "33"},
		{34, "SIGRTMIN"},
		{35, "SIGRTMIN+1"},
		{64, "SIGRTMIN+30"},
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
		"SIGKILL": 9, "KILL": 9, "sigterm": 15, "winch": 28, "RTMIN": 34, "SIGRTMIN+2": 36, "rtmin+30": 64,
		"RTMAX": 64, "SIGRTMAX-14": 50, "rtmax-30": 34,
	} {
		if got, ok := ParseSignal(name); got != want || !ok {
			t.Errorf("%s is signal %d, %v", name, got, ok)
		}
	}
	for _, name := range []string{"", "SIG", "9", "SIGRTMIN+31", "RTMAX-31", "RTMAX+1", "14", "KILLS"} {
		if got, ok := ParseSignal(name); ok {
			t.Errorf("%q is signal %d", name, got)
		}
	}
}
