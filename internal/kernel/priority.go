// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// preferred is the nice value that Prefer gives: 9 times the weight of the usual one.
const preferred = -10

// Prefer gives the calling thread more of a busy CPU than others get, until restore is called. The caller keeps the
// thread (runtime.LockOSThread); what the thread starts has the usual priority. One that has another than that keeps
// it: somebody chose it. Without CAP_SYS_NICE, or a limit RLIMIT_NICE that allows it, the error is unix.EPERM, and nothing
// has changed (sched_setattr(2)).
func Prefer() (restore func(), err error) {
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return nil, fmt.Errorf("asking for the thread's priority: %w", err)
	}
	if was.Policy != unix.SCHED_NORMAL || was.Nice != 0 {
		return func() {}, nil
	}
	raised := unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: preferred, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, &raised, 0); err != nil {
		return nil, fmt.Errorf("raising the thread's priority: %w", err)
	}
	return func() {
		// Without CAP_SYS_NICE the flag may not be taken back, and has nothing to do any more.
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_NORMAL, Flags: was.Flags | unix.SCHED_FLAG_RESET_ON_FORK}, 0)
	}, nil
}
