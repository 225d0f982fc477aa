package field

import "testing"

func TestTCP(t *testing.T) {
	for _, test := range []struct {
		value      Value
		text, json string
	}{
		{TCPState(0), "-", `""`},
		{TCPState(1), "ESTAB", `"ESTAB"`},
		{TCPState(5), "FIN-WAIT-2", `"FIN-WAIT-2"`},
		{TCPState(7), "CLOSE", `"CLOSE"`},
		{TCPState(11), "CLOSING", `"CLOSING"`},
		{TCPState(12), "SYN-RECV", `"SYN-RECV"`},
		{TCPState(99), "99", `"99"`},
		{TCPFlags(0), "-", `[]`},
		{TCPFlags(0x12), "SYN|ACK", `["SYN","ACK"]`},
		{TCPFlags(0x104), "RST|0x100", `["RST","0x100"]`},
	} {
		if got := string(test.value.AppendText([]byte("x"))); got != "x"+test.text {
			t.Errorf("%#v: text %q, want %q", test.value, got, test.text)
		}
		if got := string(test.value.AppendJSON([]byte("x"))); got != "x"+test.json {
			t.Errorf("%#v: JSON %s, want %s", test.value, got, test.json)
		}
	}
}
