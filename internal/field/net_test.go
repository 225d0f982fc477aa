package field

import (
	"net/netip"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, c := range []struct {
		addr netip.Addr
		text string
	}{
		{netip.MustParseAddr("192.0.2.1"), "192.0.2.1"},
		{netip.MustParseAddr("0.0.0.0"), "0.0.0.0"},
		{netip.MustParseAddr("::"), "::"},
		{netip.MustParseAddr("2001:db8::1"), "2001:db8::1"},
		{netip.MustParseAddr("::ffff:192.0.2.1"), "::ffff:192.0.2.1"},
		{netip.MustParseAddr("fe80::1%eth0"), "fe80::1%eth0"},
		{netip.MustParseAddr("fe80::1").WithZone("\x1b[2J\"\\é\xffz"), "fe80::1%?[2J?????z"},
	} {
		check(t, new(Addr(c.addr)), c.text, `"`+c.text+`"`)
	}
	check(t, &Addr{}, "-", `""`)
}
