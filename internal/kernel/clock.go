// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// initialTimeNs is the initial time namespace, as the kernel numbers it for good (PROC_TIME_INIT_INO,
// include/linux/proc_ns.h).
const initialTimeNs = "time:[4026531834]"

// BootOffset is how far this process's boot clock is ahead of the initial time namespace's, in ns. Records, and
// whatever else BPF programs tell, have the initial one's; what this process asks for or reads in /proc has its own
// (time_namespaces(7)).
var BootOffset = sync.OnceValue(func() int64 {
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil || own == initialTimeNs { // before 5.6 there is but one
		return 0
	}
	// A process shows the offsets that its children have, and they may be in another one.
	others, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range append([]string{"/proc/self"}, others...) {
		if ns, err := os.Readlink(dir + "/ns/time_for_children"); err != nil || ns != own {
			continue
		}
		if text, err := os.ReadFile(dir + "/timens_offsets"); err == nil {
			return bootOffset(string(text))
		}
	}
	return 0
})

// bootOffset reads a timens_offsets: a line for each clock, with seconds and nanoseconds.
func bootOffset(text string) int64 {
	for line := range strings.Lines(text) {
		var clock string
		var sec, nsec int64
		if _, err := fmt.Sscan(line, &clock, &sec, &nsec); err == nil && clock == "boottime" {
			return sec*int64(time.Second) + nsec
		}
	}
	return 0
}

// BootTime is now by the clock that records carry, in ns.
func BootTime() uint64 { return uint64(bootTime()) }

func bootTime() int64 { return now(unix.CLOCK_BOOTTIME) - BootOffset() }

func now(clock int32) int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(clock, &ts) // does not fail: both clocks exist since 2.6.39
	return ts.Nano()
}

// Wall is what to add to an instant of the boot clock that records carry to get Unix time, as exactly as two clocks
// can be read at a time: it is between least and most, in ns. It changes when the wall clock is set, and only then:
// whatever slews the one slews the other, and both go on through suspend (offs_real and offs_boot,
// kernel/time/timekeeping.c).
type Wall struct{ least, most int64 }

// ReadWall reads the clocks.
func ReadWall() Wall {
	const enough, tries = int64(time.Microsecond), 16
	var best Wall
	for i := range tries { // this thread may be preempted in between
		before := bootTime()
		wall := now(unix.CLOCK_REALTIME)
		w := Wall{wall - bootTime(), wall - before}
		if i == 0 || w.within() < best.within() {
			best = w
		}
		if best.within() <= enough {
			break
		}
	}
	return best
}

func (w Wall) within() int64 { return w.most - w.least }

// Offset is the best guess.
func (w Wall) Offset() int64 { return w.least + w.within()/2 }

// Follow returns w as long as what was read later may be the same. Else somebody has set the clock, and it is that.
func (w Wall) Follow(later Wall) Wall {
	if later.least <= w.most && w.least <= later.most {
		return w
	}
	return later
}
