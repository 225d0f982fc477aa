// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"strings"
	"testing"
)

func TestCheckTopology(t *testing.T) {
	for _, test := range []struct {
		topology Topology
		release  string
		ok       bool
	}{
		{Shared, "5.8.0-1-amd64", true},
		{PerCPU, "5.9.16", false},
		{Hash, "5.9.16", false},
		{PerCgroup, "5.8.0", false},
		{PerCgroup, "5.10.0-32-cloud-amd64", true},
		{PerCPU, "7.2.13+deb14-amd64", true},
		{PerCPU, "of no version", true}, // the kernel will say
	} {
		err := checkTopology(test.topology, test.release)
		if (err == nil) != test.ok {
			t.Errorf("topology %d on %s: %v", test.topology, test.release, err)
		}
		if err != nil && !strings.Contains(err.Error(), "need Linux 5.10 (this is "+test.release+")") {
			t.Error(err)
		}
	}
}
