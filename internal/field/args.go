package field

import "bytes"

// Args is the argument vector of a process, or as much of it as was captured.
//
// Each argument is complete when its NUL is there. Where fewer than Argc are complete, Args is
// truncated: the last one may be cut anywhere, even inside a character, and others may be missing.
// What Raw holds beyond Argc strings is not an argument (padding of the record) and not printed.
type Args struct {
	// Raw holds the arguments in the form of /proc/PID/cmdline: each followed by a NUL. It is often
	// a view of ring memory, and then valid only until the record is committed back to the ring.
	Raw []byte
	// Argc is how many arguments the process got (linux_binprm.argc), empty ones among them.
	Argc uint32
}

// Truncated tells whether not all of the arguments were captured whole.
func (a *Args) Truncated() bool {
	return uint64(bytes.Count(a.Raw, []byte{0})) < uint64(a.Argc)
}

// next splits the first argument off raw, which is not empty. It reports whether its NUL was there.
func next(raw []byte) (arg, rest []byte, whole bool) {
	return bytes.Cut(raw, []byte{0})
}

// AppendText implements Value: the arguments with one space between. An argument that is empty, or
// has a space, a quote, a backslash, an ellipsis or anything to be escaped in it, stands in double
// quotes with the escapes of AppendTextEscaped and \" so that one sees where each begins and ends.
// Where Args is truncated, … follows at once on an argument that was cut, or after a space when
// whole ones are missing.
func (a *Args) AppendText(b []byte) []byte {
	n, whole := uint32(0), true
	for raw := a.Raw; n < a.Argc && len(raw) > 0; n++ {
		if n > 0 {
			b = append(b, ' ')
		}
		var arg []byte
		arg, raw, whole = next(raw)
		b = appendArg(b, arg)
	}
	switch {
	case !whole, n == 0 && a.Argc > 0:
		b = append(b, "…"...)
	case n < a.Argc:
		b = append(b, " …"...)
	}
	return b
}

// AppendJSON implements Value: an array of strings, one for each argument that is there, the cut
// one among them. Truncated says whether it is all.
func (a *Args) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	n := uint32(0)
	for raw := a.Raw; n < a.Argc && len(raw) > 0; n++ {
		if n > 0 {
			b = append(b, ',')
		}
		var arg []byte
		arg, raw, _ = next(raw)
		b = AppendJSONString(b, arg)
	}
	return append(b, ']')
}

// appendArg appends one argument, in quotes if it needs them.
func appendArg(b, arg []byte) []byte {
	if len(arg) > 0 && plain(arg) == len(arg) && !spaceOrQuote(arg) {
		return append(b, arg...)
	}
	// What is not ASCII may do without quotes too, if it was not escaped; an escape makes it longer.
	start := len(b)
	b = append(b, '"')
	b = appendEscaped(b, arg, true)
	body := b[start+1:]
	if len(arg) > 0 && len(body) == len(arg) && !spaceOrQuote(body) && !bytes.Contains(body, []byte("…")) {
		copy(b[start:], body)
		return b[:len(b)-1]
	}
	return append(b, '"')
}

// spaceOrQuote tells whether s, in which nothing needs an escape, has a space or a single quote.
func spaceOrQuote(s []byte) bool {
	return bytes.IndexByte(s, ' ') >= 0 || bytes.IndexByte(s, '\'') >= 0
}
