package field

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	const sec = nsPerS
	for _, c := range []struct {
		ns   uint64
		text string
	}{
		{0, "0ns"},
		{1, "1ns"},
		{999, "999ns"},
		{1000, "1.00µs"},
		{1234, "1.23µs"},
		{9999, "9.99µs"}, // cut off: 10.0µs has not been reached
		{10_000, "10.0µs"},
		{45_678, "45.6µs"},
		{99_999, "99.9µs"},
		{999_999, "999µs"},
		{1_234_567, "1.23ms"},
		{999_999_999, "999ms"},
		{sec, "1.00s"},
		{60*sec - 1, "59.9s"},
		{60 * sec, "1m00s"},
		{65 * sec, "1m05s"},
		{3600*sec - 1, "59m59s"},
		{3600 * sec, "1h00m"},
		{10_000 * sec, "2h46m"},
		{86_400*sec - 1, "23h59m"},
		{86_400 * sec, "1d00h"},
		{100*86_400*sec - 1, "99d23h"},
		{100 * 86_400 * sec, "100d"},
		{math.MaxUint64, "213503d"},
	} {
		l := Latency(c.ns)
		check(t, &l, c.text, string(Uint64(c.ns).AppendText(nil)))
	}
	for n := uint64(1); n > 0 && n < math.MaxUint64/3*2; n += n/7 + 1 {
		if cell := Latency(n).AppendText(nil); Width(cell) > 7 {
			t.Errorf("%d ns: %q is wider than 7", n, cell)
		}
	}
}

func TestTimeJSON(t *testing.T) {
	for _, c := range []struct {
		wall int64
		want string
	}{
		{0, "1970-01-01T00:00:00.000000000Z"},
		{-1, "1969-12-31T23:59:59.999999999Z"},
		{time.Date(2026, 11, 22, 18, 17, 22, 123456789, time.UTC).UnixNano(), "2026-11-22T18:17:22.123456789Z"},
		{time.Date(2028, 2, 29, 0, 0, 0, 1000, time.UTC).UnixNano(), "2028-02-29T00:00:00.000001000Z"},
		{math.MaxInt64, "2262-04-11T23:47:16.854775807Z"},
		{math.MinInt64, "1677-09-21T00:12:43.145224192Z"},
	} {
		v := Time{Wall: c.wall}
		if got := string(v.AppendJSON(nil)); got != `"`+c.want+`"` {
			t.Errorf("%d: %s, want %s", c.wall, got, c.want)
		}
		if got := time.Unix(0, c.wall).UTC().Format("2006-01-02T15:04:05.000000000Z07:00"); got != c.want {
			t.Errorf("%d: package time says %s, want %s", c.wall, got, c.want)
		}
	}
}

func TestTimeWall(t *testing.T) {
	zone := time.FixedZone("+0545", 5*3600+45*60)
	at := time.Date(2026, 11, 22, 18, 17, 22, 123999999, time.UTC)
	v := Time{Wall: at.UnixNano(), Style: NewTimeStyle(TimeWall, zone)}
	if got := string(v.AppendText(nil)); got != "00:02:22.123" {
		t.Errorf("in +05:45: %s", got)
	}
	for _, style := range []*TimeStyle{nil, {}, NewTimeStyle(TimeWall, nil)} {
		v.Style = style
		if got, want := string(v.AppendText(nil)), at.Local().Format("15:04:05.000"); got != want {
			t.Errorf("in the local zone: %s, want %s", got, want)
		}
	}
	// A zone's change of offset, either way and to the nanosecond.
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no zone database on this host:", err)
	}
	v.Style = NewTimeStyle(TimeWall, berlin)
	for _, change := range []time.Time{
		time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC),
	} {
		for _, at := range []time.Time{change.Add(-1), change} {
			v.Wall = at.UnixNano()
			if got, want := string(v.AppendText(nil)), at.In(berlin).Format("15:04:05.000"); got != want {
				t.Errorf("at %v: %s, want %s", at, got, want)
			}
		}
	}
}

func TestTimeSince(t *testing.T) {
	const us = nsPerUs
	for _, c := range []struct {
		mode TimeMode
		want []string
	}{
		{TimeBoot, []string{"8123.456789", "8123.456790", "8123.456788", "99999999.999999", "99999999.999999"}},
		{TimeRelative, []string{"0.000000", "0.000001", "-0.000001", "99991876.543210", "99991876.543210"}},
		{TimeDelta, []string{"0.000000", "0.000001", "-0.000002", "99991876.543211", "0.000000"}},
		{TimeNone, []string{"", "", "", "", ""}},
	} {
		style := NewTimeStyle(c.mode, nil)
		if style.Mode() != c.mode || style.Width() != c.mode.Width() {
			t.Errorf("style of %v says %v, %d", c.mode, style.Mode(), style.Width())
		}
		for i, boot := range []uint64{
			8123456789 * us, 8123456790 * us, 8123456788 * us, 99999999999999 * us, 99999999999999*us + 999,
		} {
			v := Time{Boot: boot, Style: style}
			for range 2 { // printing twice changes nothing
				if got := string(v.AppendText(nil)); got != c.want[i] {
					t.Errorf("%v, event %d: %q, want %q", c.mode, i, got, c.want[i])
				}
			}
			style.Advance(boot)
		}
	}
	style := NewTimeStyle(TimeDelta, nil)
	style.Advance(1000)
	for boot, want := range map[uint64]string{1: "0.000000", 0: "-0.000001", math.MaxUint64: "18446744073.709550"} {
		v := Time{Boot: boot, Style: style}
		if got := string(v.AppendText(nil)); got != want {
			t.Errorf("%d after 1000: %s, want %s", boot, got, want)
		}
	}
}

func TestTimeWidth(t *testing.T) {
	for mode, times := range map[TimeMode][]uint64{
		TimeWall:     {0, math.MaxInt64},
		TimeBoot:     {0, 3 * 365 * 86400 * nsPerS},
		TimeRelative: {0, 24 * 3600 * nsPerS},
		TimeDelta:    {0, 2 * 3600 * nsPerS},
		TimeNone:     {0, math.MaxUint64},
	} {
		style := NewTimeStyle(mode, nil)
		style.Advance(0)
		for _, boot := range times {
			v := Time{Boot: boot, Wall: int64(boot), Style: style}
			if cell := v.AppendText(nil); len(cell) > mode.Width() {
				t.Errorf("%v: %s is wider than %d", mode, cell, mode.Width())
			}
		}
	}
}

func TestParseTimeMode(t *testing.T) {
	names := TimeModes()
	if got := strings.Join(names, "|"); got != "wall|boot|relative|delta|none" {
		t.Errorf("TimeModes() = %s", got)
	}
	for i, name := range names {
		m, err := ParseTimeMode(name)
		if err != nil || m != TimeMode(i) || m.String() != name {
			t.Errorf("ParseTimeMode(%q) = %v, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "Wall", "utc", "wall "} {
		_, err := ParseTimeMode(name)
		if err == nil || !strings.Contains(err.Error(), "wall, boot, relative, delta, none") {
			t.Errorf("ParseTimeMode(%q): %v", name, err)
		}
	}
	if got := TimeMode(200).String(); got != "TimeMode(200)" {
		t.Error(got)
	}
}
