// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openAndClose opens and closes a file n times. The system calls are raw: neither
// Go's scheduler nor an allocation is part of what they take. The one use of unsafe
// here is the conversion in the call's own arguments, which keeps the path alive.
func openAndClose(path string, n int) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	for range n {
		dir := unix.AT_FDCWD
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(p)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("opening %s: %w", path, errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0); errno != 0 {
			return fmt.Errorf("closing %s: %w", path, errno)
		}
	}
	return nil
}
