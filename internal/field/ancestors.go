package field

import (
	"bytes"
	"fmt"
	"strconv"
)

// Ancestor is a process that another one descends from.
type Ancestor struct {
	Proc ProcID
	Comm Comm
}

// Ancestors are those of a process, its parent first.
type Ancestors []Ancestor

// AppendText implements Value: NAME(PID)<NAME(PID)<…, with an escape for each "<" that is in a name.
func (v Ancestors) AppendText(b []byte) []byte {
	for i := range v {
		if i > 0 {
			b = append(b, '<')
		}
		b = appendBetween(b, v[i].Comm.Bytes(), '<')
		b = append(b, '(')
		b = strconv.AppendUint(b, uint64(v[i].Proc.PID), 10)
		b = append(b, ')')
	}
	return b
}

// appendBetween appends s as AppendTextEscaped does, with an escape for each separator in it, too.
func appendBetween(b, s []byte, separator byte) []byte {
	for {
		i := bytes.IndexByte(s, separator)
		if i < 0 {
			return AppendTextEscaped(b, s)
		}
		b = AppendTextEscaped(b, s[:i])
		b = fmt.Appendf(b, `\x%02x`, separator)
		s = s[i+1:]
	}
}

// AppendJSON implements Value: an array of objects {"pid":…,"comm":…,"proc_id":…}.
func (v Ancestors) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	for i := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(append(b, `{"pid":`...), uint64(v[i].Proc.PID), 10)
		b = v[i].Comm.AppendJSON(append(b, `,"comm":`...))
		b = v[i].Proc.AppendJSON(append(b, `,"proc_id":`...))
		b = append(b, '}')
	}
	return append(b, ']')
}
