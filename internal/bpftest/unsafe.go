// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"debug/elf"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pointers returns the addresses of strs with a NUL behind each, and NULL. It
// writes every byte, so that all are in memory.
func pointers(strs []string) []*byte {
	var block []byte
	for _, s := range strs {
		block = append(append(block, s...), 0)
	}
	p := make([]*byte, 0, len(strs)+1)
	for _, s := range strs {
		p, block = append(p, &block[0]), block[len(s)+1:]
	}
	return append(p, nil)
}

// execveat makes the system call. Its pointers need only live until it returns,
// which the conversions in the call's own arguments ensure.
func execveat(dirfd int, path *byte, argv, envv []*byte, flags int) error {
	a, e := unsafe.SliceData(argv), unsafe.SliceData(envv)
	var errno unix.Errno
	if dirfd == unix.AT_FDCWD && flags == 0 {
		_, _, errno = unix.Syscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(e)))
	} else {
		_, _, errno = unix.Syscall6(unix.SYS_EXECVEAT, uintptr(dirfd), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(e)), uintptr(flags), 0)
	}
	return errno
}

// ExecveNull gives execve nothing but NULL pointers.
func ExecveNull() error { return execveat(unix.AT_FDCWD, nil, nil, nil, 0) }

// ExecveBadArgv gives execve an argv that is not mapped.
func ExecveBadArgv(path string) error {
	p := pointers([]string{path})[0]
	_, _, errno := unix.Syscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p)), 8, 0)
	return errno
}

// PathCall makes a system call whose argument in the place at is a path, and args
// are the others. It returns what the call does: the negative error number of one
// that fails.
func PathCall(nr uintptr, at int, path string, args ...uintptr) int {
	p := pointers([]string{path})[0]
	var a [5]uintptr
	copy(a[:], args)
	var ret uintptr
	var errno unix.Errno
	if at == 0 {
		ret, _, errno = unix.Syscall6(nr, uintptr(unsafe.Pointer(p)), a[0], a[1], a[2], a[3], a[4])
	} else {
		ret, _, errno = unix.Syscall6(nr, a[0], uintptr(unsafe.Pointer(p)), a[1], a[2], a[3], a[4])
	}
	if errno != 0 {
		return -int(errno)
	}
	return int(ret)
}

// Arg is a signed argument of a system call: an int of which the kernel looks at
// the lower half.
func Arg(n int) uintptr { return uintptr(n) }

// Openat2 is the system call with any size, right or wrong. It returns what
// PathCall does.
func Openat2(dirfd int, path string, how [4]uint64, size uintptr) int {
	h := new([4]uint64)
	*h = how
	ret := PathCall(unix.SYS_OPENAT2, 1, path, uintptr(dirfd), uintptr(unsafe.Pointer(h)), size)
	runtime.KeepAlive(h)
	return ret
}

// quickCode is exit(0).
func quickCode() (elf.Machine, []byte) {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64, []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, #0
			0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93
			0x01, 0x00, 0x00, 0xd4, // svc #0
		}
	}
	return elf.EM_X86_64, []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 0x3c, 0, 0, 0, // mov eax, 60
		0x0f, 0x05, // syscall
	}
}
