// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"

	"github.com/moby/sys/mountinfo"
)

// Mounts returns where this process sees file systems of that type ("bpf") mounted, in
// the order of the mounts.
func Mounts(fstype string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(fstype))
	if err != nil {
		return nil, fmt.Errorf("looking for mounts of %s: %w", fstype, err)
	}
	var dirs []string
	for _, m := range mounts {
		dirs = append(dirs, m.Mountpoint)
	}
	return dirs, nil
}
