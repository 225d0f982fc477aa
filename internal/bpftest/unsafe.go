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

// Refuse has the kernel answer the calls of those numbers with an error on this thread, and on
// those that it makes, and not make them (seccomp). It cannot be taken back.
func Refuse(errno unix.Errno, nrs ...uint32) error {
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // of struct seccomp_data: nr
	for _, nr := range nrs {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: nr},
			ret(unix.SECCOMP_RET_ERRNO|uint32(errno)))
	}
	filter = append(filter, ret(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
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

// Call makes a system call. A string is given as the address of its bytes with a NUL
// behind them, bytes as the address of the first one, nil as NULL; the others are
// int or uintptr. It returns what PathCall does.
func Call(nr uintptr, args ...any) int {
	var a [6]uintptr
	var keep runtime.Pinner
	defer keep.Unpin()
	for i, arg := range args {
		switch arg := arg.(type) {
		case int:
			a[i] = uintptr(arg)
		case uintptr:
			a[i] = arg
		case string:
			p := pointers([]string{arg})[0]
			keep.Pin(p)
			a[i] = uintptr(unsafe.Pointer(p))
		case []byte:
			keep.Pin(&arg[0])
			a[i] = uintptr(unsafe.Pointer(&arg[0]))
		case nil:
		default:
			panic(arg)
		}
	}
	ret, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
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
	var keep runtime.Pinner // else it may be on a stack that moves
	defer keep.Unpin()
	keep.Pin(&how)
	return PathCall(unix.SYS_OPENAT2, 1, path, uintptr(dirfd), uintptr(unsafe.Pointer(&how)), size)
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

// crashCode writes to address 0.
func crashCode() []byte {
	if runtime.GOARCH == "arm64" {
		return []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, #0
			0x00, 0x00, 0x00, 0xb9, // str w0, [x0]
		}
	}
	return []byte{
		0x31, 0xc0, // xor eax, eax
		0x89, 0x00, // mov [rax], eax
	}
}

// threadsCode makes a thread; the first one ends with the status 7, that one with 3, at the same
// time, by exit.
func threadsCode() []byte {
	if runtime.GOARCH == "arm64" {
		return []byte{
			0x00, 0xe0, 0x81, 0xd2, // mov x0, #0xf00: CLONE_VM, _FS, _FILES, _SIGHAND
			0x20, 0x00, 0xa0, 0xf2, // movk x0, #1, lsl #16: and CLONE_THREAD
			0xe1, 0x07, 0x40, 0xd1, // sub x1, sp, #1, lsl #12
			0x02, 0x00, 0x80, 0xd2, // mov x2, #0
			0x03, 0x00, 0x80, 0xd2, // mov x3, #0
			0x04, 0x00, 0x80, 0xd2, // mov x4, #0
			0x88, 0x1b, 0x80, 0xd2, // mov x8, #220
			0x01, 0x00, 0x00, 0xd4, // svc #0
			0x60, 0x00, 0x00, 0xb4, // cbz x0, +12
			0xe0, 0x00, 0x80, 0xd2, // mov x0, #7
			0x02, 0x00, 0x00, 0x14, // b +8
			0x60, 0x00, 0x80, 0xd2, // mov x0, #3
			0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93
			0x01, 0x00, 0x00, 0xd4, // svc #0
		}
	}
	return []byte{
		0xb8, 56, 0, 0, 0, // mov eax, 56
		0xbf, 0, 0x0f, 0x01, 0, // mov edi, CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD
		0x48, 0x8d, 0xb4, 0x24, 0x00, 0xf0, 0xff, 0xff, // lea rsi, [rsp-4096]
		0x31, 0xd2, // xor edx, edx
		0x45, 0x31, 0xd2, // xor r10d, r10d
		0x45, 0x31, 0xc0, // xor r8d, r8d
		0x0f, 0x05, // syscall
		0x85, 0xc0, // test eax, eax
		0xbf, 7, 0, 0, 0, // mov edi, 7
		0x75, 0x05, // jne +5
		0xbf, 3, 0, 0, 0, // mov edi, 3
		0xb8, 60, 0, 0, 0, // mov eax, 60
		0x0f, 0x05, // syscall
	}
}

// word returns an argument as a register has it.
func word(v any) uintptr {
	switch v := v.(type) {
	case int:
		return uintptr(v)
	case []byte:
		return uintptr(unsafe.Pointer(unsafe.SliceData(v)))
	case *uint64:
		return uintptr(unsafe.Pointer(v))
	}
	panic("an argument is neither int nor []byte nor *uint64")
}

// address is where a function is in memory.
func (l *Library) address(function int) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(l.code))) + 64 + 56 + functionSize*uintptr(function)
}

// call calls a function. What is pointed to is on the heap, where nothing moves, and
// stays there until it returns.
func (l *Library) call(function int, result any, inner, innerResult uintptr, args []any) {
	var words [4]uintptr
	for i, arg := range args {
		words[i] = word(arg)
	}
	callC(l.address(function), &words, word(result), inner, innerResult)
	runtime.KeepAlive(args)
	runtime.KeepAlive(result)
}

// Ioctl is the system call with a pointer to two numbers.
func Ioctl(fd int, request uintptr, arg *[2]uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
