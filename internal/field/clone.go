package field

// CloneFlags are those of clone(2), without the signal in the lowest byte
// (include/uapi/linux/sched.h).
type CloneFlags uint64

var cloneFlags = []flagName{
	{0x80, "CLONE_NEWTIME"}, // of unshare and clone3, in what is the signal's byte for others
	{0x100, "CLONE_VM"},
	{0x200, "CLONE_FS"},
	{0x400, "CLONE_FILES"},
	{0x800, "CLONE_SIGHAND"},
	{0x1000, "CLONE_PIDFD"},
	{0x2000, "CLONE_PTRACE"},
	{0x4000, "CLONE_VFORK"},
	{0x8000, "CLONE_PARENT"},
	{0x10000, "CLONE_THREAD"},
	{0x20000, "CLONE_NEWNS"},
	{0x40000, "CLONE_SYSVSEM"},
	{0x80000, "CLONE_SETTLS"},
	{0x100000, "CLONE_PARENT_SETTID"},
	{0x200000, "CLONE_CHILD_CLEARTID"},
	{0x400000, "CLONE_DETACHED"},
	{0x800000, "CLONE_UNTRACED"},
	{0x1000000, "CLONE_CHILD_SETTID"},
	{0x2000000, "CLONE_NEWCGROUP"},
	{0x4000000, "CLONE_NEWUTS"},
	{0x8000000, "CLONE_NEWIPC"},
	{0x10000000, "CLONE_NEWUSER"},
	{0x20000000, "CLONE_NEWPID"},
	{0x40000000, "CLONE_NEWNET"},
	{0x80000000, "CLONE_IO"},
	{0x100000000, "CLONE_CLEAR_SIGHAND"},
	{0x200000000, "CLONE_INTO_CGROUP"},
}

// AppendText implements Value: the names with | between, what has no name in
// hexadecimal, and - where there are none.
func (f CloneFlags) AppendText(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	return appendFlags(b, uint64(f), cloneFlags, "|", "", true)
}

// AppendJSON implements Value: an array of the same as strings.
func (f CloneFlags) AppendJSON(b []byte) []byte {
	return append(appendFlags(append(b, '['), uint64(f), cloneFlags, ",", `"`, true), ']')
}
