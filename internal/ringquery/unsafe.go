// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// fdQuery is what BPF_TASK_FD_QUERY tells of a perf event.
type fdQuery struct {
	prog   uint32
	typ    uint32 // enum bpf_task_fd_type
	name   string // of a tracepoint or function, or the path of a file
	offset uint64
	addr   uint64
}

// queryFD asks which program is attached to a perf event, which process pid has as its
// descriptor fd. It needs CAP_SYS_ADMIN.
//
// This is the package's one use of unsafe: the libraries have no BPF_TASK_FD_QUERY. The
// name lives until the call returns, as attr, which the call keeps, points to it.
func queryFD(pid, fd int) (fdQuery, error) {
	var name [256]byte // KSYM_NAME_LEN is 128 or 512; what is longer is cut (ENOSPC)
	attr := struct {
		pid, fd, flags, bufLen uint32
		buf                    unsafe.Pointer
		prog, typ              uint32
		offset, addr           uint64
	}{pid: uint32(pid), fd: uint32(fd), bufLen: uint32(len(name)), buf: unsafe.Pointer(&name)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_TASK_FD_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 && errno != unix.ENOSPC {
		return fdQuery{}, errno
	}
	return fdQuery{attr.prog, attr.typ, unix.ByteSliceToString(name[:]), attr.offset, attr.addr}, nil
}
