package field

import "strconv"

// ProcID names a process for good: pids are used again, but no two processes that begin in the same
// nanosecond have the same one. The zero value stands for a process that nobody knows.
type ProcID struct {
	Start uint64 // when it was made, CLOCK_BOOTTIME, ns
	PID   uint32
}

// AppendText implements Value: START-PID, or nothing for the zero value.
func (v ProcID) AppendText(b []byte) []byte {
	if v == (ProcID{}) {
		return b
	}
	b = append(strconv.AppendUint(b, v.Start, 10), '-')
	return strconv.AppendUint(b, uint64(v.PID), 10)
}

// AppendJSON implements Value: a string.
func (v ProcID) AppendJSON(b []byte) []byte {
	return append(v.AppendText(append(b, '"')), '"')
}
