package field

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Signal is the number of a signal; 0 is none. What a call is given may be any number.
type Signal int32

// The real-time signals, as programs number them: of the kernel's, which begin at 32, the GNU C library keeps the first
// two for itself (signal(7)). So do kill -l and systemd.
const sigRTMin, sigRTMax = 34, 64

// AppendText implements Value: the signal's name as kill -l has it with SIG in front, SIGRTMIN+1 and
// so on for the real-time signals, the number for what has no name, nothing for none.
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

// ParseSignal returns the number of the signal of that name, as AppendText has it, less SIG, or counted from
// SIGRTMAX, as kill -l does for some; in upper or lower case.
func ParseSignal(name string) (uint64, bool) {
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	for s := Signal(1); s <= sigRTMax; s++ {
		if string(s.AppendText(nil)) == "SIG"+name {
			return uint64(s), true
		}
	}
	if name == "RTMAX" {
		return sigRTMax, true
	}
	less, err := strconv.ParseUint(strings.TrimPrefix(name, "RTMAX-"), 10, 8)
	if err != nil || !strings.HasPrefix(name, "RTMAX-") || less > sigRTMax-sigRTMin {
		return 0, false
	}
	return sigRTMax - less, true
}
