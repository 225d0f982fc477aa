package field

import (
	"math"
	"testing"
)

func TestBlock(t *testing.T) {
	for op, name := range map[BlockOp]string{0: "read", 1: "write", 2: "flush", 3: "discard", 9: "write_zeroes", 13: "13", 35: "drv_out", 255: "255"} {
		check(t, &op, name, `"`+name+`"`)
	}
	for _, c := range []struct {
		flags      BlockFlags
		text, json string
	}{
		{0, "-", "[]"},
		{1, "sync", `["sync"]`},
		{0x3f, "sync|meta|prio|fua|preflush|ahead", `["sync","meta","prio","fua","preflush","ahead"]`},
		{0x41, "sync|0x40", `["sync","0x40"]`},
	} {
		check(t, &c.flags, c.text, c.json)
	}
	for status, name := range map[int32]string{
		0: "", 1: "EOPNOTSUPP", 2: "ETIMEDOUT", 7: "ENODATA", 10: "EIO", 17: "EIO", 255: "EIO",
		-5: "EIO", -61: "ENODATA", math.MinInt32: "EIO",
	} {
		if got := string(BlockStatus(status).AppendJSON(nil)); got != `"`+name+`"` {
			t.Errorf("status %d is %s, want %s", status, got, name)
		}
	}
}
