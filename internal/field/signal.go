package field

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Signal is the number of a signal; 0 is none.
type Signal uint32

// The real-time signals, as the kernel numbers them (include/uapi/asm-generic/signal.h). A C
// library keeps the first few for itself, and its SIGRTMIN is larger.
const sigRTMin, sigRTMax = 32, 64

// AppendText implements Value: the signal's name as kill -l has it with SIG in front, SIGRTMIN+1 and
// so on for the real-time signals, the number for what is no signal, nothing for none.
func (s Signal) AppendText(b []byte) []byte {
	switch name := unix.SignalName(unix.Signal(s)); {
	case s == 0:
		return b
	case name != "":
		return append(b, name...)
	case s == sigRTMin:
		return append(b, "SIGRTMIN"...)
	case s > sigRTMin && s <= sigRTMax:
		return strconv.AppendUint(append(b, "SIGRTMIN+"...), uint64(s-sigRTMin), 10)
	}
	return strconv.AppendUint(b, uint64(s), 10)
}

// AppendJSON implements Value: a string, as in AppendText.
func (s Signal) AppendJSON(b []byte) []byte {
	return append(s.AppendText(append(b, '"')), '"')
}
