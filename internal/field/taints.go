package field

import "strconv"

// Taints are what a module taints the kernel with: bits of struct module.
type Taints uint64

// The letters of the bits, as /proc/modules has them (kernel/panic.c, taint_flags).
const taintLetters = "PFSRMBUDAWCIOELKXTNJ"

// AppendText implements Value: the letters, what has none in hexadecimal, - where there are none.
func (t Taints) AppendText(b []byte) []byte {
	if t == 0 {
		return append(b, '-')
	}
	return t.append(b)
}

// AppendJSON implements Value: a string with the same, empty where there are none.
func (t Taints) AppendJSON(b []byte) []byte { return append(t.append(append(b, '"')), '"') }

func (t Taints) append(b []byte) []byte {
	for i := range len(taintLetters) {
		if t&(1<<i) != 0 {
			b = append(b, taintLetters[i])
			t &^= 1 << i
		}
	}
	if t != 0 {
		b = strconv.AppendUint(append(b, "0x"...), uint64(t), 16)
	}
	return b
}
