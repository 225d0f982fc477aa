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
		{1<<32 - 1, "4294967295"},
	} {
		if got := string(test.signal.AppendText(nil)); got != test.want {
			t.Errorf("signal %d is %q, want %q", test.signal, got, test.want)
		}
		if got := string(test.signal.AppendJSON(nil)); got != `"`+test.want+`"` {
			t.Errorf("signal %d is %s in JSON", test.signal, got)
		}
	}
}
