package field

import "strconv"

// Load is the load averages of one, five and fifteen minutes, as the kernel keeps them.
type Load struct {
	Known    bool
	Averages [3]uint64 // in 1/2048 (include/linux/sched/loadavg.h)
}

const loadOne = 1 << 11 // FIXED_1

// AppendText implements Value: as in /proc/loadavg, - where they are not known.
func (l Load) AppendText(b []byte) []byte {
	if !l.Known {
		return append(b, '-')
	}
	for i, n := range l.Averages {
		if i > 0 {
			b = append(b, ' ')
		}
		n += loadOne / 200 // rounded as there (get_avenrun(), fs/proc/loadavg.c)
		b = append(strconv.AppendUint(b, n/loadOne, 10), '.')
		b = appendDigits(b, n%loadOne*100/loadOne, 2)
	}
	return b
}

// AppendJSON implements Value: a string with the same, empty where they are not known.
func (l Load) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if l.Known {
		b = l.AppendText(b)
	}
	return append(b, '"')
}
