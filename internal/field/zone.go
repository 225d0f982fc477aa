// SPDX-License-Identifier: Apache-2.0

package field

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Zone returns the time zone that the variable TZ means, as the C library reads it: time.Local, where Go has read it
// already, from a file of the machine's zones, or a rule such as JST-9 and CET-1CEST,M3.5.0,M10.5.0/3 (tzset(3)). What
// is neither is an error.
func Zone(tz string) (*time.Location, error) {
	name := strings.TrimPrefix(tz, ":")
	if name == "" || filepath.IsAbs(name) {
		return time.Local, nil
	}
	if _, err := time.LoadLocation(name); err == nil {
		return time.Local, nil
	}
	// Go knows these rules from the end of each zone's file, where they say what comes after the last transition (RFC
	// 9636). This is a file with one that is older than everything, after which is no zone but by the rule.
	const before, none = -1 << 59, "-00\x00"
	head := func(transitions, zones, letters uint32) []byte {
		b := append([]byte("TZif2"), make([]byte, 15+12)...) // no UTC, standard-time and leap-second records
		for _, n := range []uint32{transitions, zones, letters} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	file := append(head(0, 0, 0), head(1, 1, uint32(len(none)))...)
	at := int64(before)
	file = binary.BigEndian.AppendUint64(file, uint64(at))
	file = append(file, 0)                // the zone after it
	file = append(file, 0, 0, 0, 0, 0, 0) // whose offset, saving, and name that is
	file = append(file, none...)
	zone, err := time.LoadLocationFromTZData(name, append(file, "\n"+name+"\n"...))
	if err != nil {
		return nil, fmt.Errorf("TZ: %q: %w", tz, err)
	}
	if abbreviation, _ := time.Unix(0, 0).In(zone).Zone(); abbreviation == none[:3] {
		return nil, fmt.Errorf("TZ: there is no time zone %q", tz)
	}
	return zone, nil
}
