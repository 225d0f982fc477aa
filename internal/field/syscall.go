package field

import "strconv"

//go:generate go run ../../scripts/syscalls syscalls.go

// ABI is a way to call the kernel, which says what a system call's number means.
type ABI uint8

// The ABIs of amd64 and arm64 kernels; those behind the first are of 32-bit
// programs.
const (
	X86 ABI = iota
	I386
	X32 // has the numbers of X86, and a few of its own
	ARM64
	ARM
)

// Syscall is a system call.
type Syscall struct {
	Number uint32
	ABI    ABI
}

func (a ABI) name() string {
	names := [...]string{"x86_64", "i386", "x32", "arm64", "arm"}
	if int(a) < len(names) {
		return names[a]
	}
	return "unknown"
}

func (a ABI) syscalls() []string {
	switch a {
	case X86, X32:
		return syscallsX86[:]
	case I386:
		return syscallsI386[:]
	case ARM64:
		return syscallsARM64[:]
	case ARM:
		return syscallsARM[:]
	}
	return nil
}

// AppendText implements Value.
func (a ABI) AppendText(b []byte) []byte { return append(b, a.name()...) }

// AppendJSON implements Value: a string.
func (a ABI) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), a.name()...), '"')
}

// AppendText implements Value: the name, without sys_ in front, or the number where
// it has none that this program knows.
func (s Syscall) AppendText(b []byte) []byte {
	if names := s.ABI.syscalls(); uint64(s.Number) < uint64(len(names)) && names[s.Number] != "" {
		return append(b, names[s.Number]...)
	}
	return strconv.AppendUint(b, uint64(s.Number), 10)
}

// AppendJSON implements Value: a string with the same.
func (s Syscall) AppendJSON(b []byte) []byte {
	return append(s.AppendText(append(b, '"')), '"')
}

// FindSyscall returns the number of the system call of that name, or with that
// number as its name.
func FindSyscall(name string, abi ABI) (uint32, bool) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true
	}
	for n, s := range abi.syscalls() {
		if s == name && name != "" {
			return uint32(n), true
		}
	}
	return 0, false
}
