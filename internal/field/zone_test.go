// SPDX-License-Identifier: Apache-2.0

package field

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestZone: what TZ means is what it means to date(1).
func TestZone(t *testing.T) {
	if _, err := exec.LookPath("date"); err != nil {
		t.Skip(err)
	}
	var instants []string
	for day := range 366 * 2 {
		instants = append(instants, "@"+strconv.Itoa(1767225600+day*86400+day*977)) // at all times of the day
	}
	for _, tz := range []string{
		"JST-9", "CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT,M3.2.0,M11.1.0", "<+0330>-3:30", "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1",
		"XXX3", "NZST-12NZDT,M9.5.0,M4.1.0/3", "ABC-1:20:30DEF,J60/2,J300/3", "ABC1DEF,59/2,300/3",
		"IST-1GMT0,M10.5.0,M3.5.0/1", "UTC0", "AAA3BBB",
	} {
		cmd := exec.Command("date", "-f", "-", "+%FT%T %Z")
		cmd.Env = append(os.Environ(), "TZ="+tz)
		cmd.Stdin = strings.NewReader(strings.Join(instants, "\n"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		zone, err := Zone(tz)
		if err != nil || zone == time.Local {
			t.Errorf("%v, %v", zone, err)
			continue
		}
		for i, want := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			sec, err := strconv.ParseInt(instants[i][1:], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Unix(sec, 0).In(zone).Format("2006-01-02T15:04:05 MST"); got != want {
				t.Errorf("%s: %s is %s, want %s", tz, instants[i], got, want)
				break
			}
		}
	}
	for _, known := range []string{"", "UTC", ":UTC", "/etc/localtime", ":/etc/localtime"} {
		if zone, err := Zone(known); zone != time.Local || err != nil {
			t.Errorf("%q: %v, %v", known, zone, err)
		}
	}
	for _, wrong := range []string{"Nowhere/Land", "JST", "JST-9\n", "CET-1CEST,M13.5.0,M10.5.0", "\x00", "A1", "-00"} {
		if zone, err := Zone(wrong); err == nil {
			t.Errorf("%q: %v", wrong, zone)
		}
	}
}
