// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrNoCgroup2 says that no unified cgroup hierarchy is mounted.
var ErrNoCgroup2 = errors.New("the unified (v2) cgroup hierarchy is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")

// CgroupMount returns where the unified cgroup hierarchy is mounted.
func CgroupMount() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("looking for the cgroup mount: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, ok := strings.Cut(line, " - ")
		if ok && strings.HasPrefix(after, "cgroup2 ") {
			if fields := strings.Fields(before); len(fields) > 4 {
				return fields[4], nil
			}
		}
	}
	return "", ErrNoCgroup2
}
