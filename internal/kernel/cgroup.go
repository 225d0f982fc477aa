// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
)

// ErrNoCgroup2 says that no unified cgroup hierarchy is mounted.
var ErrNoCgroup2 = errors.New("the unified (v2) cgroup hierarchy is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")

// CgroupMount returns where the unified cgroup hierarchy is mounted.
func CgroupMount() (string, error) {
	mounts, err := Mounts("cgroup2")
	if err != nil {
		return "", err
	}
	if len(mounts) == 0 {
		return "", ErrNoCgroup2
	}
	return mounts[0], nil
}
