// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"testing"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// TestWatchEnds: a watch for cgroups that cannot go on says so.
func TestWatchEnds(t *testing.T) {
	ring, w := bpftest.NewRing(t, os.Getpagesize())
	c := &cgroupRings{changes: bpftest.Must1(ringbuf.Open(ring))}
	c.poller = bpftest.Must1(ringbuf.NewPoller(c.changes))
	defer c.close()
	c.watch(nil, nil)
	w.Write(t, []byte("short"), 0)
	<-c.ended
	if n, err := c.ringless(); err == nil {
		t.Errorf("%d cgroups have no ring, and no error", n)
	}
}
