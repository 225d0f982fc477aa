package field

import "bytes"

// Stack is a stack of calls: what to print of each frame, the innermost first, each with a NUL
// behind it. Names of functions and files in it are as hostile as a Text.
type Stack []byte

// AppendText implements Value: FRAME<FRAME<…, with an escape for each "<" that is in a name.
func (v Stack) AppendText(b []byte) []byte {
	for first := true; len(v) > 0; first = false {
		var frame []byte
		frame, v, _ = bytes.Cut(v, []byte{0})
		if !first {
			b = append(b, '<')
		}
		b = appendBetween(b, frame, '<')
	}
	return b
}

// AppendJSON implements Value: an array of strings.
func (v Stack) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	for first := true; len(v) > 0; first = false {
		var frame []byte
		frame, v, _ = bytes.Cut(v, []byte{0})
		if !first {
			b = append(b, ',')
		}
		b = AppendJSONString(b, frame)
	}
	return append(b, ']')
}
