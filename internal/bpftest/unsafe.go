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
