// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pointer is an address as struct perf_event_attr holds it. The caller keeps p alive.
func pointer(p *byte) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// userfault returns the address of a page that keeps whoever reads it waiting until
// release is called.
func userfault(t *testing.T) (addr uint64, release func()) {
	t.Helper()
	// include/uapi/linux/userfaultfd.h
	const (
		api      = 0xaa
		ioAPI    = 0xc018aa3f
		register = 0xc020aa00
		zeropage = 0xc020aa04
		missing  = 1
	)
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("userfaultfd: %v", errno)
	}
	addr = pointer(&page[0])
	call := func(request uintptr, arg *[4]uint64) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatalf("ioctl %#x: %v", request, errno)
		}
	}
	size := uint64(len(page))
	call(ioAPI, &[4]uint64{api})
	call(register, &[4]uint64{addr, size, missing})
	return addr, func() {
		call(zeropage, &[4]uint64{addr, size})
		unix.Close(int(fd))
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	}
}
