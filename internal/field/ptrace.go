package field

import "strconv"

// PtraceRequest is a request of ptrace(2).
type PtraceRequest struct {
	Number int64
	// ARM64 tells the architecture, of which low numbers depend.
	ARM64 bool
}

// include/uapi/linux/ptrace.h and arch/x86/include/uapi/asm/ptrace-abi.h, less PTRACE_.
var ptraceRequests = [...]string{
	0: "TRACEME", 1: "PEEKTEXT", 2: "PEEKDATA", 3: "PEEKUSR", 4: "POKETEXT", 5: "POKEDATA", 6: "POKEUSR", 7: "CONT",
	8: "KILL", 9: "SINGLESTEP", 12: "GETREGS", 13: "SETREGS", 14: "GETFPREGS", 15: "SETFPREGS", 16: "ATTACH",
	17: "DETACH", 18: "GETFPXREGS", 19: "SETFPXREGS", 21: "OLDSETOPTIONS", 24: "SYSCALL", 25: "GET_THREAD_AREA",
	26: "SET_THREAD_AREA", 30: "ARCH_PRCTL", 31: "SYSEMU", 32: "SYSEMU_SINGLESTEP", 33: "SINGLEBLOCK",
}

// arch/arm64/include/uapi/asm/ptrace.h: what its programs of 64 bits have, from
// firstOfArch on.
var ptraceRequestsARM64 = [...]string{
	16: "ATTACH", 17: "DETACH", 24: "SYSCALL", 31: "SYSEMU", 32: "SYSEMU_SINGLESTEP", 33: "PEEKMTETAGS", 34: "POKEMTETAGS",
}

const (
	firstOfArch = 12
	// The later ones, of all architectures.
	firstLate = 0x4200
)

var ptraceLateRequests = [...]string{
	"SETOPTIONS", "GETEVENTMSG", "GETSIGINFO", "SETSIGINFO", "GETREGSET", "SETREGSET", "SEIZE", "INTERRUPT", "LISTEN",
	"PEEKSIGINFO", "GETSIGMASK", "SETSIGMASK", "SECCOMP_GET_FILTER", "SECCOMP_GET_METADATA", "GET_SYSCALL_INFO",
	"GET_RSEQ_CONFIGURATION", "SET_SYSCALL_USER_DISPATCH_CONFIG", "GET_SYSCALL_USER_DISPATCH_CONFIG", "SET_SYSCALL_INFO",
}

func (r PtraceRequest) name() string {
	if r.Number >= firstLate {
		return nameOf(ptraceLateRequests[:], r.Number-firstLate)
	}
	if r.ARM64 && r.Number >= firstOfArch {
		return nameOf(ptraceRequestsARM64[:], r.Number)
	}
	return nameOf(ptraceRequests[:], r.Number)
}

// AppendText implements Value: the request's name as the kernel spells it, the number for one that
// has none.
func (r PtraceRequest) AppendText(b []byte) []byte {
	if name := r.name(); name != "" {
		return append(append(b, "PTRACE_"...), name...)
	}
	return strconv.AppendInt(b, r.Number, 10)
}

// AppendJSON implements Value: a string with the same.
func (r PtraceRequest) AppendJSON(b []byte) []byte {
	return append(r.AppendText(append(b, '"')), '"')
}

// ParsePtraceRequest returns the number of the request of that name, which may be without PTRACE_
// and in lower case.
func ParsePtraceRequest(name string) (uint64, bool) {
	for _, t := range [...]struct {
		names []string
		first uint64
	}{{ptraceRequests[:], 0}, {ptraceRequestsARM64[:], 0}, {ptraceLateRequests[:], firstLate}} {
		if n, ok := numberOf(t.names, "PTRACE_", name); ok {
			return t.first + n, true
		}
	}
	return 0, false
}
