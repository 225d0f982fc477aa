package field

import "strconv"

// Capability is the number of a capability.
type Capability uint32

// include/uapi/linux/capability.h, less CAP_.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// AppendText implements Value: the name as the kernel spells it, the number for one that has none.
func (c Capability) AppendText(b []byte) []byte {
	if name := nameOf(capabilities[:], int64(c)); name != "" {
		return append(append(b, "CAP_"...), name...)
	}
	return strconv.AppendUint(b, uint64(c), 10)
}

// AppendJSON implements Value: a string with the same.
func (c Capability) AppendJSON(b []byte) []byte {
	return append(c.AppendText(append(b, '"')), '"')
}

// ParseCapability returns the number of the capability of that name, which may be without CAP_ and
// in lower case.
func ParseCapability(name string) (uint64, bool) { return numberOf(capabilities[:], "CAP_", name) }
