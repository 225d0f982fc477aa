package field

import (
	"bytes"
	"unicode"
)

// Text is a string that a traced process chose: a file name, a path, a host name. It is often a
// view of ring memory and then valid only until its record is committed back to the ring; whoever
// keeps it longer copies it. It need not be UTF-8.
type Text []byte

// AppendText implements Value: the text as AppendTextEscaped writes it, nothing when it is empty.
func (t Text) AppendText(b []byte) []byte { return AppendTextEscaped(b, t) }

// AppendJSON implements Value: a string, as AppendJSONString writes it.
func (t Text) AppendJSON(b []byte) []byte { return AppendJSONString(b, t) }

// Comm is a task's name as the kernel holds it (task_struct.comm, TASK_COMM_LEN bytes): it ends at
// the first NUL, and what follows that is ignored. A task names itself as it likes
// (prctl PR_SET_NAME, /proc/PID/comm), so a Comm is as hostile as a Text.
type Comm [16]byte

// Bytes returns the name without its NUL. It aliases c.
func (c *Comm) Bytes() []byte {
	if i := bytes.IndexByte(c[:], 0); i >= 0 {
		return c[:i]
	}
	return c[:]
}

// AppendText implements Value; see Text.
func (c *Comm) AppendText(b []byte) []byte { return AppendTextEscaped(b, c.Bytes()) }

// AppendJSON implements Value; see Text.
func (c *Comm) AppendJSON(b []byte) []byte { return AppendJSONString(b, c.Bytes()) }

// AppendTextEscaped appends s so that a terminal shows all of it and obeys none of it. What is
// visible stands for itself, all else is escaped as in a Go string: \n, \r and \t, \x1b for an
// ASCII control character, \xff for a byte that is not part of valid UTF-8, \u202e or \U000e0041
// for a character that has no look of its own (C1 controls, bidi controls, zero-width and other
// ignorable characters, spaces other than U+0020, unassigned and private ones). A combining mark
// with nothing before it to combine with, or piled on too many others, is escaped as well: it
// would change a neighbouring cell. A backslash is doubled; so two different texts never give the
// same cell, and strconv.UnquoteChar, called until the cell is used up, gives s back.
//
// Not prevented: letters that look alike, and terminals that lay out right-to-left letters by
// their own bidi algorithm.
func AppendTextEscaped(b, s []byte) []byte { return appendEscaped(b, s, false) }

// AppendLinesEscaped appends text that is the program's own, but may have names in it that
// others chose, as in errors: newlines and backslashes stand for themselves, all else is as
// AppendTextEscaped writes it.
func AppendLinesEscaped(b, s []byte) []byte {
	for len(s) > 0 {
		n := bytes.IndexAny(s, "\n\\")
		if n < 0 {
			n = len(s)
		}
		b = AppendTextEscaped(b, s[:n])
		end := min(n+1, len(s))
		b, s = append(b, s[n:end]...), s[end:]
	}
	return b
}

// AppendJSONString appends s as a JSON string, quotes included: always valid UTF-8, each byte of s
// that is not part of valid UTF-8 becoming U+FFFD. `"`, `\` and whatever AppendTextEscaped takes
// for invisible (control characters, U+2028, U+2029, bidi controls …) are escaped, so JSON lines
// are as safe to look at as tables are; `<`, `>` and `&` stand for themselves.
func AppendJSONString(b, s []byte) []byte {
	b = append(b, '"')
	for len(s) > 0 {
		if n := plain(s); n > 0 {
			b, s = append(b, s[:n]...), s[n:]
			continue
		}
		if c := s[0]; c < utf8Self {
			b, s = appendJSONByte(b, c), s[1:]
			continue
		}
		r, n := decode(s)
		switch {
		case r < 0:
			b = append(b, "\uFFFD"...)
		case visible(r):
			b = append(b, s[:n]...)
		case r > 0xffff:
			r -= 0x10000
			b = appendHex(append(b, `\u`...), 0xd800+uint32(r>>10), 4)
			b = appendHex(append(b, `\u`...), 0xdc00+uint32(r&0x3ff), 4)
		default:
			b = appendHex(append(b, `\u`...), uint32(r), 4)
		}
		s = s[n:]
	}
	return append(b, '"')
}

// appendJSONByte appends an ASCII byte that plain stopped at.
func appendJSONByte(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return appendHex(append(b, `\u`...), uint32(c), 4)
}

// maxMarks is how many combining marks may follow one character. Real scripts need four or five; a
// pile of hundreds paints over the rows above and below.
const maxMarks = 8

// appendEscaped is AppendTextEscaped, and its variant for text between double quotes, where `"` is
// escaped too.
func appendEscaped(b, s []byte, quoted bool) []byte {
	marks := 0 // how many marks may come next
	for len(s) > 0 {
		if n := plain(s); n > 0 {
			b, s = append(b, s[:n]...), s[n:]
			marks = maxMarks
			continue
		}
		if c := s[0]; c < utf8Self {
			s = s[1:]
			if c == '"' && !quoted {
				b = append(b, c)
				marks = maxMarks
				continue
			}
			b = appendTextByte(b, c)
			marks = 0 // a mark would change the look of the escape's last digit
			continue
		}
		r, n := decode(s)
		switch {
		case r < 0:
			b = appendHex(append(b, `\x`...), uint32(s[0]), 2)
			marks = 0
		case visible(r) && !isMark(r):
			b = append(b, s[:n]...)
			marks = maxMarks
		case visible(r) && marks > 0:
			b = append(b, s[:n]...)
			marks--
		case r > 0xffff:
			b = appendHex(append(b, `\U`...), uint32(r), 8)
			marks = 0
		default:
			b = appendHex(append(b, `\u`...), uint32(r), 4)
			marks = 0
		}
		s = s[n:]
	}
	return b
}

// appendTextByte appends an ASCII byte that plain stopped at.
func appendTextByte(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return appendHex(append(b, `\x`...), uint32(c), 2)
}

// isMark tells whether r is drawn on the character before it.
func isMark(r rune) bool { return r >= 0x300 && unicode.Is(unicode.M, r) }
