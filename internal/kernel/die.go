// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DieBy ends this process by a signal, as who waits for it sees, without leaving a core. It returns where the signal
// does not kill: process 1 of a pid namespace, and signals that kill nobody.
func DieBy(sig syscall.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	// By the system call: os/signal gives what it resets back to Go's runtime, which makes an exit status of some.
	byDefault := struct{ handler, flags, restorer, mask uint64 }{} // struct sigaction of the kernel: SIG_DFL is 0
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&byDefault)), 0, unsafe.Sizeof(byDefault.mask), 0, 0)
	var set unix.Sigset_t
	set.Val[(sig-1)/64] = 1 << ((sig - 1) % 64)
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), sig) // which this thread gets before it goes on
}
