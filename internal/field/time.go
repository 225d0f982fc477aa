package field

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	nsPerUs = 1000
	nsPerMs = 1000 * nsPerUs
	nsPerS  = 1000 * nsPerMs
)

// Latency is a span of time in nanoseconds.
type Latency uint64

// AppendText implements Value: below a minute three digits of the unit that fits (950ns, 45.6µs,
// 1.23ms, 59.9s), above it two units (1m05s, 2h46m, 3d07h), above a hundred days whole days. What
// follows is cut off, not rounded, so a value never looks to have reached a threshold that it did
// not. At most seven cells wide.
func (l Latency) AppendText(b []byte) []byte {
	n := uint64(l)
	switch {
	case n < nsPerUs:
		return append(strconv.AppendUint(b, n, 10), "ns"...)
	case n < nsPerMs:
		return append(appendThree(b, n, nsPerUs), "µs"...)
	case n < nsPerS:
		return append(appendThree(b, n, nsPerMs), "ms"...)
	case n < 60*nsPerS:
		return append(appendThree(b, n, nsPerS), 's')
	}
	s := n / nsPerS
	switch {
	case s < 60*60:
		return appendTwo(b, s, 60, 1, 'm', 's')
	case s < 24*60*60:
		return appendTwo(b, s, 60*60, 60, 'h', 'm')
	case s < 100*24*60*60:
		return appendTwo(b, s, 24*60*60, 60*60, 'd', 'h')
	}
	return append(strconv.AppendUint(b, s/(24*60*60), 10), 'd')
}

// AppendJSON implements Value: a number, of nanoseconds.
func (l Latency) AppendJSON(b []byte) []byte { return strconv.AppendUint(b, uint64(l), 10) }

// appendThree appends n in units, 1 <= n/unit < 1000, with three digits.
func appendThree(b []byte, n, unit uint64) []byte {
	whole := n / unit
	b = strconv.AppendUint(b, whole, 10)
	switch frac := n % unit; {
	case whole < 10:
		b = appendDigits(append(b, '.'), frac/(unit/100), 2)
	case whole < 100:
		b = appendDigits(append(b, '.'), frac/(unit/10), 1)
	}
	return b
}

// appendTwo appends s seconds as a number of large and a number of small units, of so many seconds.
func appendTwo(b []byte, s, large, small uint64, largeName, smallName byte) []byte {
	b = append(strconv.AppendUint(b, s/large, 10), largeName)
	return append(appendDigits(b, s%large/small, 2), smallName)
}

// appendDigits appends the last so many decimal digits of n, at most 9.
func appendDigits(b []byte, n uint64, digits int) []byte {
	var d [9]byte
	putDigits(d[:digits], n)
	return append(b, d[:digits]...)
}

// putDigits makes d the last decimal digits of n.
func putDigits(d []byte, n uint64) {
	for ; len(d) >= 2; n /= 100 {
		two := n % 100 * 2
		d[len(d)-2], d[len(d)-1] = allDigits[two], allDigits[two+1]
		d = d[:len(d)-2]
	}
	if len(d) == 1 {
		d[0] = '0' + byte(n%10)
	}
}

// allDigits are the numbers from 00 to 99.
const allDigits = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

// TimeMode is how a table shows the instant of an event.
type TimeMode uint8

// The modes, in the order of TimeModes.
const (
	TimeWall     TimeMode = iota // time of day: 18:17:22.123
	TimeBoot                     // seconds since boot, suspend included (CLOCK_BOOTTIME): 8123.456789
	TimeRelative                 // seconds since the first event
	TimeDelta                    // seconds since the event before
	TimeNone                     // nothing
	timeModes                    // their number
)

// TimeModes returns the names of all modes, the default first.
func TimeModes() []string {
	names := make([]string, timeModes)
	for m := range timeModes {
		names[m] = m.String()
	}
	return names
}

// String returns the name of the mode, which ParseTimeMode takes.
func (m TimeMode) String() string {
	switch m {
	case TimeWall:
		return "wall"
	case TimeBoot:
		return "boot"
	case TimeRelative:
		return "relative"
	case TimeDelta:
		return "delta"
	case TimeNone:
		return "none"
	}
	return "TimeMode(" + strconv.Itoa(int(m)) + ")"
}

// ParseTimeMode returns the mode of that name. The error lists the names there are.
func ParseTimeMode(name string) (TimeMode, error) {
	for m := range timeModes {
		if m.String() == name {
			return m, nil
		}
	}
	return TimeWall, fmt.Errorf("unknown time mode %q: want one of %s", name, strings.Join(TimeModes(), ", "))
}

// Width returns how many cells a column in this mode needs: 12 for wall, which is exact; 15 for
// boot (three years), 12 for relative (a day) and 11 for delta (two hours); 0 for none. A longer time is
// printed in full and takes more.
func (m TimeMode) Width() int {
	switch m {
	case TimeBoot:
		return 15
	case TimeDelta:
		return 11
	case TimeNone:
		return 0
	}
	return 12
}

// TimeStyle says how Times are printed in a table; all Times of one stream share it. It remembers
// the events that relative and delta count from. The zero TimeStyle shows wall times in the local
// zone. While one goroutine calls Advance, no other may use the style.
type TimeStyle struct {
	mode        TimeMode
	loc         *time.Location
	first, last uint64 // boot-clock ns
	started     bool
}

// NewTimeStyle returns a style for mode. Wall times are shown in loc; nil is the local zone.
func NewTimeStyle(mode TimeMode, loc *time.Location) *TimeStyle {
	return &TimeStyle{mode: mode, loc: loc}
}

// Mode returns the style's mode.
func (s *TimeStyle) Mode() TimeMode { return s.mode }

// Width returns the width of a column; see TimeMode.Width.
func (s *TimeStyle) Width() int { return s.mode.Width() }

// Advance tells the style that the event of that instant, in boot-clock ns, has been printed: once
// for each event, after its row is written. It is a call of its own, not a side effect of printing,
// for an event that a filter drops or that two sinks print must not count, or count twice.
func (s *TimeStyle) Advance(boot uint64) {
	if !s.started {
		s.started, s.first = true, boot
	}
	s.last = boot
}

// Time is the instant of an event.
type Time struct {
	Boot  uint64     // CLOCK_BOOTTIME, ns: what the kernel stamped
	Wall  int64      // the same instant as Unix time, ns
	Style *TimeStyle // how a table shows it; nil is the wall mode in the local zone
}

// AppendText implements Value: the instant as Style says; nothing in mode none. Relative and delta
// are zero for an event before the first call of Advance, and negative for one that comes out of
// order. Digits beyond the last are cut off, not rounded.
func (t *Time) AppendText(b []byte) []byte {
	mode, loc := TimeWall, time.Local
	if t.Style != nil {
		mode = t.Style.mode
		if t.Style.loc != nil {
			loc = t.Style.loc
		}
	}
	switch mode {
	case TimeBoot:
		return appendSeconds(b, t.Boot)
	case TimeRelative:
		return t.Style.appendSince(b, t.Boot, t.Style.first)
	case TimeDelta:
		return t.Style.appendSince(b, t.Boot, t.Style.last)
	case TimeNone:
		return b
	}
	w := time.Unix(0, t.Wall).In(loc)
	hour, minute, sec := w.Clock()
	b = appendDigits(b, uint64(hour), 2)
	b = appendDigits(append(b, ':'), uint64(minute), 2)
	b = appendDigits(append(b, ':'), uint64(sec), 2)
	return appendDigits(append(b, '.'), uint64(w.Nanosecond())/nsPerMs, 3)
}

// AppendJSON implements Value: a string, RFC 3339 in UTC, always with nine digits of the second
// ("2026-11-22T18:17:22.123456789Z"), so that times sort as strings. Boot is a key of its own, made
// by binding (*Uint64)(&t.Boot).
func (t *Time) AppendJSON(b []byte) []byte {
	// An int64 of nanoseconds lies between the years 1677 and 2262: four digits do.
	w := time.Unix(0, t.Wall).UTC()
	year, month, day := w.Date()
	hour, minute, sec := w.Clock()
	// In place, as this is a sixth of the work of an event's JSON otherwise.
	d := [32]byte([]byte(`"2006-01-02T15:04:05.000000000Z"`))
	putDigits(d[1:5], uint64(year))
	putDigits(d[6:8], uint64(month))
	putDigits(d[9:11], uint64(day))
	putDigits(d[12:14], uint64(hour))
	putDigits(d[15:17], uint64(minute))
	putDigits(d[18:20], uint64(sec))
	putDigits(d[21:30], uint64(w.Nanosecond()))
	return append(b, d[:]...)
}

// appendSince appends the seconds from one instant of the boot clock to another.
func (s *TimeStyle) appendSince(b []byte, to, from uint64) []byte {
	switch {
	case !s.started:
		return appendSeconds(b, 0)
	case to >= from:
		return appendSeconds(b, to-from)
	case from-to < nsPerUs: // -0.000000 would be silly
		return appendSeconds(b, 0)
	}
	return appendSeconds(append(b, '-'), from-to)
}

// appendSeconds appends ns as seconds with six digits after the point.
func appendSeconds(b []byte, ns uint64) []byte {
	b = append(strconv.AppendUint(b, ns/nsPerS, 10), '.')
	return appendDigits(b, ns%nsPerS/nsPerUs, 6)
}
