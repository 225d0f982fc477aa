package field

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Signal is the number of a signal; 0 is none. What a call is given may be any number.
type Signal int32

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
		return strconv.AppendInt(append(b, "SIGRTMIN+"...), int64(s-sigRTMin), 10)
	}
	return strconv.AppendInt(b, int64(s), 10)
}

// AppendJSON implements Value: a string, as in AppendText.
func (s Signal) AppendJSON(b []byte) []byte {
	return append(s.AppendText(append(b, '"')), '"')
}

// ParseSignal returns the number of the signal of that name, as AppendText has it or less SIG, in
// upper or lower case.
func ParseSignal(name string) (uint64, bool) {
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for s := Signal(1); s <= sigRTMax; s++ {
		if string(s.AppendText(nil)) == "SIG"+name {
			return uint64(s), true
		}
	}
	return 0, false
}
