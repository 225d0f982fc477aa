package field

// Flags are flags of a call, with the names that they have there.
type Flags struct {
	Bits  uint64
	Names FlagNames
}

// FlagNames are the names of a call's flags. One of several bits comes before those of its bits.
type FlagNames []flagName

// The flags of calls that take paths (include/uapi/linux/fcntl.h). UnlinkFlags are those of unlinkat,
// one of whose bits means another thing elsewhere.
var (
	UnlinkFlags = FlagNames{{0x200, "AT_REMOVEDIR"}}
	AtFlags     = FlagNames{
		{0x100, "AT_SYMLINK_NOFOLLOW"},
		{0x400, "AT_SYMLINK_FOLLOW"},
		{0x800, "AT_NO_AUTOMOUNT"},
		{0x1000, "AT_EMPTY_PATH"},
		{0x2000, "AT_STATX_FORCE_SYNC"},
		{0x4000, "AT_STATX_DONT_SYNC"},
	}
	// MsyncFlags are those of msync (include/uapi/asm-generic/mman-common.h), SyncRangeFlags those of
	// sync_file_range (include/uapi/linux/fs.h).
	MsyncFlags     = FlagNames{{1, "MS_ASYNC"}, {2, "MS_INVALIDATE"}, {4, "MS_SYNC"}}
	SyncRangeFlags = FlagNames{
		{1, "SYNC_FILE_RANGE_WAIT_BEFORE"},
		{2, "SYNC_FILE_RANGE_WRITE"},
		{4, "SYNC_FILE_RANGE_WAIT_AFTER"},
	}
	// FinitModuleFlags are those of finit_module (include/uapi/linux/module.h), DeleteModuleFlags those of delete_module.
	FinitModuleFlags = FlagNames{
		{1, "MODULE_INIT_IGNORE_MODVERSIONS"},
		{2, "MODULE_INIT_IGNORE_VERMAGIC"},
		{4, "MODULE_INIT_COMPRESSED_FILE"},
	}
	DeleteModuleFlags = FlagNames{{0x200, "O_TRUNC"}, {0x800, "O_NONBLOCK"}}
	// RenameFlags are those of renameat2 (include/uapi/linux/fs.h).
	RenameFlags = FlagNames{{1, "RENAME_NOREPLACE"}, {2, "RENAME_EXCHANGE"}, {4, "RENAME_WHITEOUT"}}
)

// AppendText implements Value: the names with | between, what has no name in hexadecimal, and -
// where there are none.
func (f Flags) AppendText(b []byte) []byte {
	if f.Bits == 0 {
		return append(b, '-')
	}
	return appendFlags(b, f.Bits, f.Names, "|", "", true)
}

// AppendJSON implements Value: an array of the same as strings.
func (f Flags) AppendJSON(b []byte) []byte {
	return append(appendFlags(append(b, '['), f.Bits, f.Names, ",", `"`, true), ']')
}
