package field

import "strconv"

// OpenFlags are the flags of open(2), with the values that x86 and asm-generic
// give them (include/uapi/asm-generic/fcntl.h).
type OpenFlags uint64

// ResolveFlags are those of openat2(2), struct open_how.
type ResolveFlags uint32

type flagName struct {
	bits uint64
	name string
}

// The access mode is no flag: these are its values.
var accessModes = [...]string{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"}

// A flag of several bits comes before the flags of its bits.
var openFlags = []flagName{
	{0x40, "O_CREAT"},
	{0x80, "O_EXCL"},
	{0x100, "O_NOCTTY"},
	{0x200, "O_TRUNC"},
	{0x400, "O_APPEND"},
	{0x800, "O_NONBLOCK"},
	{0x101000, "O_SYNC"},
	{0x1000, "O_DSYNC"},
	{0x2000, "O_ASYNC"},
	{0x4000, "O_DIRECT"},
	{0x8000, "O_LARGEFILE"},
	{0x410000, "O_TMPFILE"},
	{0x10000, "O_DIRECTORY"},
	{0x20000, "O_NOFOLLOW"},
	{0x40000, "O_NOATIME"},
	{0x80000, "O_CLOEXEC"},
	{0x100000, "__O_SYNC"},
	{0x200000, "O_PATH"},
	{0x400000, "__O_TMPFILE"},
}

var resolveFlags = []flagName{
	{0x1, "RESOLVE_NO_XDEV"},
	{0x2, "RESOLVE_NO_MAGICLINKS"},
	{0x4, "RESOLVE_NO_SYMLINKS"},
	{0x8, "RESOLVE_BENEATH"},
	{0x10, "RESOLVE_IN_ROOT"},
	{0x20, "RESOLVE_CACHED"},
}

// HasMode reports whether the call makes a file, so that its mode means something.
func (f OpenFlags) HasMode() bool { return f&(0x40|0x400000) != 0 }

// AppendText implements Value: the names with | between, O_RDONLY among them, and
// what has no name in hexadecimal.
func (f OpenFlags) AppendText(b []byte) []byte {
	b = append(b, accessModes[f&3]...)
	return appendFlags(b, uint64(f)&^3, openFlags, "|", "", false)
}

// AppendJSON implements Value: an array of the same as strings.
func (f OpenFlags) AppendJSON(b []byte) []byte {
	b = append(b, '[', '"')
	b = append(b, accessModes[f&3]...)
	b = append(b, '"')
	return append(appendFlags(b, uint64(f)&^3, openFlags, ",", `"`, false), ']')
}

// AppendText implements Value: the names with | between, what has no name in
// hexadecimal, and - where there are none.
func (f ResolveFlags) AppendText(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	return appendFlags(b, uint64(f), resolveFlags, "|", "", true)
}

// AppendJSON implements Value: an array of the same as strings.
func (f ResolveFlags) AppendJSON(b []byte) []byte {
	return append(appendFlags(append(b, '['), uint64(f), resolveFlags, ",", `"`, true), ']')
}

// appendFlags appends the names of flags, and what is left as a number, each
// between quotes and with a separator in front of it, but for the first one where
// nothing is there yet.
func appendFlags(b []byte, flags uint64, names []flagName, separator, quote string, first bool) []byte {
	start := func() {
		if !first {
			b = append(b, separator...)
		}
		first = false
		b = append(b, quote...)
	}
	for _, f := range names {
		if flags&f.bits == f.bits {
			flags &^= f.bits
			start()
			b = append(append(b, f.name...), quote...)
		}
	}
	if flags != 0 {
		start()
		b = append(strconv.AppendUint(append(b, "0x"...), flags, 16), quote...)
	}
	return b
}

// Mode is the mode that a call gives a file it may make. The zero Mode is none.
type Mode struct {
	Bits  uint32
	Given bool
}

// AppendText implements Value: in octal (0644), or - where there is none.
func (m Mode) AppendText(b []byte) []byte {
	if !m.Given {
		return append(b, '-')
	}
	return m.appendOctal(b)
}

// AppendJSON implements Value: a string with the same, empty where there is none.
func (m Mode) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if m.Given {
		b = m.appendOctal(b)
	}
	return append(b, '"')
}

func (m Mode) appendOctal(b []byte) []byte {
	for limit := uint32(0o100); limit > 1 && m.Bits < limit; limit >>= 3 {
		b = append(b, '0')
	}
	return strconv.AppendUint(append(b, '0'), uint64(m.Bits), 8)
}
