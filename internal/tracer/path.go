// SPDX-License-Identifier: Apache-2.0

package tracer

import "bytes"

// PathFlags is enum rb_path_flags of bpf/include/rbtrace/path.h.
type PathFlags uint32

// What a walk of rb_path_names may say of its path.
const (
	PathCut     PathFlags = 1 << iota // the beginning is missing
	PathDeleted                       // unlinked, or never in a directory

	PathUnreachable PathFlags = 1 << 6 // it does not begin at the root of a mount namespace
	PathMask                  = PathCut | PathDeleted | PathUnreachable
)

// AppendPath appends the path whose names rb_path_names stored, from the leaf
// up to the root and each with its NUL. As in /proc/PID/cwd a path that is no
// longer there ends in " (deleted)". As getcwd has it, one that no root leads to
// begins with "(unreachable)". One that was too deep to be walked to its root
// begins with "…".
func AppendPath(b, names []byte, flags PathFlags) []byte {
	if flags&PathCut != 0 {
		b = append(b, "…"...)
	} else if flags&PathUnreachable != 0 {
		b = append(b, "(unreachable)"...)
	}
	if len(names) == 0 && flags&PathCut == 0 {
		b = append(b, '/')
	}
	for len(names) > 0 {
		names = names[:len(names)-1] // the NUL
		i := bytes.LastIndexByte(names, 0) + 1
		b = append(b, '/')
		b = append(b, names[i:]...)
		names = names[:i]
	}
	if flags&PathDeleted != 0 {
		b = append(b, " (deleted)"...)
	}
	return b
}
