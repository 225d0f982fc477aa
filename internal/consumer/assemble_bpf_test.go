// SPDX-License-Identifier: Apache-2.0

package consumer_test

import (
	"context"
	"testing"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/consumer"
)

// TestPartsLeft: what is left in the ring is counted in events, not in records.
func TestPartsLeft(t *testing.T) {
	const events, parts = 13, 3
	m, w := bpftest.NewRing(t, 1<<20)
	write(t, w, 0, 1, 0)
	for i := range events {
		a := member{time: i, group: i + 1}
		for range parts {
			w.Write(t, a.part("", 0)[:bpftest.MaxRecord], 0) // a Writer writes no longer ones
		}
		w.Write(t, a.main(""), 0)
	}
	c, s := onRing(t, m, consumer.Options{MaxEvents: 1}), &sink{}
	if err := c.Run(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(s, func() bool { t.Error("asked"); return false }); err != nil {
		t.Fatal(err)
	}
	same(t, c.Counts(0), consumer.Counts{Consumed: 1, Printed: 1, Left: events})
	same(t, c.Unknown(), 0)
}
