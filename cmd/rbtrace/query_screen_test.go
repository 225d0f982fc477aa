// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

// screenOf is a screen of this size, in a locale with UTF-8.
func screenOf(width, height int, snapshots ...*ringquery.Snapshot) *screen {
	m := newScreen(time.Second, nil, func(name string) string { return map[string]string{"LANG": "C.UTF-8"}[name] })
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	for _, s := range snapshots {
		m.Update(snapshotMsg{snapshot: s})
	}
	return m
}

// press presses keys, and returns what the last one asks for.
func press(t *testing.T, m *screen, keys ...string) tea.Cmd {
	t.Helper()
	var cmd tea.Cmd
	for _, key := range keys {
		k := tea.Key{Text: key}
		switch key {
		case "up":
			k = tea.Key{Code: tea.KeyUp}
		case "down":
			k = tea.Key{Code: tea.KeyDown}
		case "pgdown":
			k = tea.Key{Code: tea.KeyPgDown}
		case "end":
			k = tea.Key{Code: tea.KeyEnd}
		case "home":
			k = tea.Key{Code: tea.KeyHome}
		case "enter":
			k = tea.Key{Code: tea.KeyEnter}
		case "esc":
			k = tea.Key{Code: tea.KeyEscape}
		case "backspace":
			k = tea.Key{Code: tea.KeyBackspace}
		case "ctrl+c":
			k = tea.Key{Code: 'c', Mod: tea.ModCtrl}
		case "ctrl+z":
			k = tea.Key{Code: 'z', Mod: tea.ModCtrl}
		default:
			k.Code = []rune(key)[0]
		}
		if got := tea.KeyPressMsg(k).String(); got != key {
			t.Fatalf("the key %q is called %q", key, got)
		}
		_, cmd = m.Update(tea.KeyPressMsg(k))
	}
	return cmd
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// text is what is on the screen, without looks. It must fit, and hold nothing that a
// terminal would obey.
func text(t *testing.T, m *screen) string {
	t.Helper()
	v := m.View()
	if !v.AltScreen {
		t.Error("not on the alternate screen")
	}
	s := sgr.ReplaceAllString(v.Content, "")
	lines := strings.Split(s, "\n")
	if len(lines) > m.height {
		t.Errorf("%d lines on a terminal of %d", len(lines), m.height)
	}
	for _, l := range lines {
		if w := field.Width([]byte(l)); w > m.width {
			t.Errorf("%d cells of %d: %q", w, m.width, l)
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' }) {
			t.Errorf("control characters: %q", l)
		}
	}
	return s
}

// trimmed is the text without blanks at the ends of lines.
func trimmed(t *testing.T, m *screen) string {
	t.Helper()
	var b strings.Builder
	for l := range strings.Lines(text(t, m)) {
		b.WriteString(strings.TrimRight(l, " \n") + "\n")
	}
	return b.String()
}

// busyRings are rings as they are met, one of each verdict.
func busyRings() *ringquery.Snapshot {
	s := &ringquery.Snapshot{Time: time.Date(2026, 11, 22, 19, 17, 22, 0, time.Local)}
	for i, r := range []ringquery.Ring{
		{Name: "idle_ring", Motion: ringquery.Motion{Verdict: ringquery.Idle, TimeToFull: -1}},
		{Name: "events", State: ringquery.State{AvailData: 26214}, Motion: ringquery.Motion{Verdict: ringquery.Draining, Produced: 1.2e6, Consumed: 1.2e6, ProducedRecords: 12345, ConsumedRecords: 12340, HighWater: 104857, TimeToFull: -1}},
		{Name: "behind", State: ringquery.State{AvailData: 131072}, Motion: ringquery.Motion{Verdict: ringquery.Behind, Produced: 999.7, Consumed: 9.96, ProducedRecords: 0.5, ConsumedRecords: 0.01, Estimated: true, HighWater: 131072, TimeToFull: 725 * time.Second}},
		{Name: "stalled", State: ringquery.State{AvailData: 200000}, Motion: ringquery.Motion{Verdict: ringquery.Stalled, Produced: 4e9, ProducedRecords: 123456, HighWater: 200000, TimeToFull: 15600 * time.Nanosecond}},
		{Name: "full_of_events_x", State: ringquery.State{AvailData: 262136}, Motion: ringquery.Motion{Verdict: ringquery.Full, HighWater: 262136, TimeToFull: 23*time.Hour + 46*time.Minute}},
		{Name: "stuck", State: ringquery.State{AvailData: 262144}, Motion: ringquery.Motion{Verdict: ringquery.Stuck, HeadBusy: true, HeadAge: 1230 * time.Millisecond, HighWater: 262144, TimeToFull: -1}},
	} {
		r.ID, r.Type, r.RingSize, r.Source = ebpf.MapID(101+i), ebpf.RingBuf, 262144, ringquery.Mmap
		r.Details = &ringquery.Details{Owners: []ringquery.Owner{{PID: 500 + i, Comm: fmt.Sprintf("Agent%d", i)}}}
		s.Rings = append(s.Rings, r)
	}
	return s
}

// manyRings are so many rings with ids from 1 on.
func manyRings(n int) *ringquery.Snapshot {
	s := &ringquery.Snapshot{}
	for i := range n {
		s.Rings = append(s.Rings, ringquery.Ring{ID: ebpf.MapID(1 + i), Name: fmt.Sprintf("ring%d", 1+i), Type: ebpf.RingBuf, State: ringquery.State{RingSize: 4096}, Motion: ringquery.Motion{Verdict: ringquery.Idle, TimeToFull: -1}})
	}
	return s
}

// without is the snapshot without some rings.
func without(s *ringquery.Snapshot, ids ...ebpf.MapID) *ringquery.Snapshot {
	return &ringquery.Snapshot{Time: s.Time, Rings: slices.DeleteFunc(slices.Clone(s.Rings), func(r ringquery.Ring) bool { return slices.Contains(ids, r.ID) })}
}

// order are the ids of the rows.
func order(m *screen) []ebpf.MapID {
	var ids []ebpf.MapID
	for _, r := range m.rows {
		ids = append(ids, r.ID)
	}
	return ids
}

func TestScreen80x24(t *testing.T) {
	m := screenOf(80, 24, busyRings(), busyRings())
	want := `6 ring buffers, 1 stuck, 1 full, 1 stalled, 1 behind  by id   every 1s  19:17:22
                              HIGH PROD CONS  PROD  CONS  FULL
  ID NAME        FILL      % WATER  B/S  B/S REC/S REC/S    IN VERDICT   HISTORY
>101 idle_ring   ······   0%    0%    0    0     0     0     - idle           ▁▁
 102 events      ▌·│···  10%   40% 1.2M 1.2M   12k   12k     - draining       ▂▂
 103 behind      ███│··  50%   50% 1.0k   10  ~0.5 ~<0.1   12m behind         ▅▅
 104 stalled     ████▌·  76%   76% 4.0G    0  123k     0  15µs stalled        ▇▇
 105 full_of_ev… █████▉ >99%  >99%    0    0     0     0   23h full           ██
 106 stuck       ██████ 100%  100%    0    0     0     0     - stuck          ██
` + strings.Repeat("\n", 14) + `q quit  enter details  / filter  s sort  r reverse  up/down select
`
	if diff := cmp.Diff(want, trimmed(t, m)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestScreenSizes(t *testing.T) {
	hostile := someRings()
	for _, size := range [][2]int{{80, 24}, {40, 8}, {200, 50}, {41, 9}, {300, 8}, {20, 5}, {1, 1}, {39, 24}, {80, 7}} {
		for _, keys := range [][]string{{}, {"/", "e"}, {"enter"}, {"end", "enter", "end"}} {
			for _, s := range []*ringquery.Snapshot{hostile, busyRings(), manyRings(200), {}} {
				// Made small after, and at the beginning.
				m := screenOf(80, 24, s)
				press(t, m, keys...)
				m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
				got := text(t, m)
				small := size[0] < 40 || size[1] < 8
				if told := strings.HasPrefix(strings.ReplaceAll(got, "\n", ""), "The terminal is too small"[:min(25, size[0]*size[1])]); told != small {
					t.Errorf("%v, %q: too small is %t, told %t:\n%s", size, keys, small, told, got)
				}
				m = screenOf(size[0], size[1], s, s)
				press(t, m, keys...)
				text(t, m)
			}
		}
	}
	// All of it is there on a large one, what matters most on a small one.
	wide, narrow := text(t, screenOf(200, 50, busyRings())), text(t, screenOf(40, 8, busyRings()))
	for _, part := range []string{"stalled consumer", "stuck head (1.23s)", "HISTORY", "full_of_events_x", "Agent5[505]", "~0.5"} {
		if !strings.Contains(wide, part) {
			t.Errorf("no %q in\n%s", part, wide)
		}
	}
	for _, part := range []string{"101 idle_ring", "50%", "VERDICT", "1-3 of 6"} {
		if !strings.Contains(narrow, part) {
			t.Errorf("no %q in\n%s", part, narrow)
		}
	}
	if got := screenOf(0, 0, hostile).View().Content; got != "" {
		t.Errorf("without a size: %q", got)
	}
}

func TestScreenScrolls(t *testing.T) {
	m := screenOf(80, 24, manyRings(200))
	shows := func(first, last int) {
		t.Helper()
		got := text(t, m)
		for i, want := range map[int]bool{first - 1: false, first: true, last: true, last + 1: false} {
			if strings.Contains(got, fmt.Sprintf(" ring%d ", i)) != want {
				t.Errorf("ring %d on the screen is %t:\n%s", i, !want, got)
			}
		}
		if want := fmt.Sprintf("%d-%d of 200", first, last); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	shows(1, 19)
	press(t, m, "pgdown")
	shows(2, 20)
	press(t, m, "end")
	shows(182, 200)
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 44})
	shows(162, 200)
	if !strings.Contains(text(t, m), ">200 ring200") {
		t.Errorf("the cursor is lost:\n%s", text(t, m))
	}
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 8})
	shows(198, 200)
	press(t, m, "home")
	shows(1, 3)
	m.Update(snapshotMsg{snapshot: manyRings(2)})
	if got := text(t, m); !strings.Contains(got, " ring2 ") || strings.Contains(got, " of ") {
		t.Errorf("with two rings left:\n%s", got)
	}
}

func TestScreenSorts(t *testing.T) {
	m := screenOf(80, 24, busyRings())
	want := map[string][]ebpf.MapID{
		"id":         {101, 102, 103, 104, 105, 106},
		"name":       {103, 102, 105, 101, 104, 106},
		"fill":       {106, 105, 104, 103, 102, 101},
		"high water": {106, 105, 104, 103, 102, 101},
		"produced":   {104, 102, 103, 101, 105, 106},
		"consumed":   {102, 103, 101, 104, 105, 106},
		"full in":    {104, 103, 105, 101, 102, 106},
		"verdict":    {106, 105, 104, 103, 102, 101},
	}
	for range sorts {
		name := sorts[m.sort].name
		if diff := cmp.Diff(want[name], order(m)); diff != "" {
			t.Errorf("by %s: -want +got:\n%s", name, diff)
		}
		if !regexp.MustCompile(`(?m)  by ` + name + `( .*)?$`).MatchString(text(t, m)) {
			t.Errorf("not told that it is by %s:\n%s", name, text(t, m))
		}
		press(t, m, "s")
	}
	if m.sort != 0 {
		t.Errorf("the orders do not come round: %d", m.sort)
	}
	press(t, m, "r")
	if got := order(m); !slices.Equal(got, []ebpf.MapID{106, 105, 104, 103, 102, 101}) || !strings.Contains(text(t, m), "by id, reversed") {
		t.Errorf("reversed: %v\n%s", got, text(t, m))
	}
	press(t, m, "S")
	if name := sorts[m.sort].name; name != "verdict" || m.reverse {
		t.Errorf("the order before id is %s, reversed %t", name, m.reverse)
	}

	// The cursor stays at the top until it is moved, then with its ring.
	if m.rows[m.cursor].ID != 106 {
		t.Errorf("the cursor followed ring %d", m.rows[m.cursor].ID)
	}
	press(t, m, "down", "s", "s")
	if got := m.rows[m.cursor].ID; got != 105 {
		t.Errorf("the cursor is at ring %d, not 105", got)
	}
}

func TestScreenFilters(t *testing.T) {
	m := screenOf(80, 24, busyRings())
	if cmd := press(t, m, "/", "S", "T", "q", "backspace"); cmd != nil {
		t.Error("q in a filter ended the program")
	}
	if got := order(m); !slices.Equal(got, []ebpf.MapID{104, 106}) {
		t.Errorf("ST: %v", got)
	}
	if got := text(t, m); !strings.Contains(got, "filter by name or owner: ST") {
		t.Errorf("not told:\n%s", got)
	}
	press(t, m, "enter")
	if got := text(t, m); !strings.Contains(got, "  /ST ") || strings.Contains(got, "filter by") {
		t.Errorf("not told:\n%s", got)
	}
	press(t, m, "esc", "/")
	m.Update(tea.PasteMsg{Content: "agent2[502]\nrm -rf /"})
	if got := order(m); !slices.Equal(got, []ebpf.MapID{103}) {
		t.Errorf("an owner: %v", got)
	}
	press(t, m, "x")
	if got := text(t, m); len(m.rows) != 0 || !strings.Contains(got, "No ring buffer passes the filter") {
		t.Errorf("nothing left:\n%s", got)
	}
	press(t, m, "enter", "enter", "down", "up")
	if m.detail {
		t.Error("details of nothing")
	}
	press(t, m, "esc")
	if len(m.rows) != 6 {
		t.Errorf("Esc left %v", order(m))
	}
	press(t, m, "/")
	for range 100 {
		m.Update(tea.PasteMsg{Content: "\x1b[2J日本"})
	}
	text(t, m)
	if m.Update(tea.WindowSizeMsg{Width: 40, Height: 8}); len(m.filter) > 64 {
		t.Errorf("a filter of %d bytes", len(m.filter))
	}
	text(t, m)
	press(t, m, "esc")
	m.Update(tea.PasteMsg{Content: "q"})
	if m.filter != "" {
		t.Error("pasted text is keys")
	}
}

func TestScreenQuits(t *testing.T) {
	for _, width := range []int{80, 10} {
		for _, keys := range [][]string{{"q"}, {"ctrl+c"}, {"enter", "q"}, {"/", "ctrl+c"}} {
			m := screenOf(width, 24, busyRings())
			if width == 10 && keys[0] == "/" {
				continue // no filter is begun unseen
			}
			cmd := press(t, m, keys...)
			if cmd == nil {
				t.Fatalf("%q does not quit", keys)
			}
			if _, ok := cmd().(tea.QuitMsg); !ok {
				t.Errorf("%q does not quit", keys)
			}
		}
	}
	if _, ok := press(t, screenOf(80, 24), "ctrl+z")().(tea.SuspendMsg); !ok {
		t.Error("Ctrl-Z does not suspend")
	}
}

func TestScreenDetails(t *testing.T) {
	s := someRings()
	m := screenOf(80, 24, s)
	press(t, m, "enter")
	got := trimmed(t, m)
	for _, part := range []string{
		"ring buffer 7 events\n", "verdict     falling behind\n", "            <1%: 32 of 262144 bytes\n", "high water  <1%: 96 bytes\n",
		"full in     1.00s\n", "produced    333M bytes/s, ~2.5 records/s\n", "head        reserved and not committed, for 1.00ms or more\n",
		"positions   consumer 7340064, producer 7340096\n            from mmap\n", "memory      8192 bytes\n",
		"owners      [5]\n            evil\\x1b[2J\\n[31337]\n", "programs    p[3], kprobe\n              at kprobe do_exit\n              at uprobe /tmp/\\x1b[1m\n            [4], xdp\n",
	} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in\n%s", part, got)
		}
	}
	// What does not fit is reached.
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 12})
	if got = trimmed(t, m); !strings.Contains(got, "1-9 of 21\n") {
		t.Errorf("it is not told that there is more:\n%s", got)
	}
	if strings.Contains(got, "outer[9]") {
		t.Fatalf("all fits:\n%s", got)
	}
	press(t, m, "end")
	if got := trimmed(t, m); !strings.Contains(got, "pinned at   /sys/fs/bpf/a b\nouter maps  outer[9]\n") {
		t.Errorf("the end:\n%s", got)
	}
	m.Update(tea.WindowSizeMsg{Width: 200, Height: 50})
	if got := trimmed(t, m); !strings.HasPrefix(got, "ring buffer 7") || !strings.Contains(got, "outer[9]") {
		t.Errorf("resized:\n%s", got)
	}

	// Long names are wrapped, not cut.
	s.Rings[0].Details.Pins = []string{"/sys/fs/bpf/" + strings.Repeat("日本", 60)}
	m = screenOf(41, 60, s)
	press(t, m, "enter")
	if got := strings.Count(text(t, m), "日本"); got < 50 {
		t.Errorf("%d of 60 parts of the pin:\n%s", got, text(t, m))
	}

	// A ring that overwrites, and one that user space writes.
	press(t, m, "esc", "end", "enter")
	if got := trimmed(t, m); !strings.Contains(got, "head        reserved and not committed,\n            for 1.23s or more\n") {
		t.Errorf("not wrapped between words:\n%s", got)
	}
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	if got := trimmed(t, m); !strings.Contains(got, "overwritten up to") || !strings.Contains(got, "overwrites its oldest") || !strings.Contains(got, "stuck head (1.23s)") {
		t.Errorf("a ring that overwrites:\n%s", got)
	}
	press(t, m, "esc", "up", "enter")
	if got := trimmed(t, m); !strings.HasPrefix(got, "ring buffer 12 - (user)\n") || !strings.Contains(got, "head        none: nothing is unread\n") {
		t.Errorf("a user ring:\n%s", got)
	}
}

func TestScreenRingVanishes(t *testing.T) {
	m := screenOf(80, 24, busyRings())
	press(t, m, "down", "down", "enter")
	if got := text(t, m); !strings.HasPrefix(got, "ring buffer 103") {
		t.Fatalf("not its details:\n%s", got)
	}
	m.Update(snapshotMsg{snapshot: without(busyRings(), 102)}) // another
	if got := text(t, m); !strings.HasPrefix(got, "ring buffer 103") {
		t.Errorf("another ring vanished:\n%s", got)
	}
	m.Update(snapshotMsg{snapshot: without(busyRings(), 103)})
	if got := text(t, m); !strings.Contains(got, "ring buffer 103 has gone") || !strings.Contains(got, ">102 ") {
		t.Errorf("the list is not back:\n%s", got)
	}
	m.Update(snapshotMsg{snapshot: &ringquery.Snapshot{}})
	if got := text(t, m); !strings.Contains(got, "no ring buffer to show") {
		t.Errorf("none is left:\n%s", got)
	}
	press(t, m, "enter", "down", "up", "end", "home", "s", "r")
	m.Update(snapshotMsg{snapshot: busyRings()})
	if got := text(t, m); strings.Contains(got, "has gone") || !strings.Contains(got, " 106 ") && !strings.Contains(got, ">106 ") {
		t.Errorf("they are back:\n%s", got)
	}
}

func TestScreenErrors(t *testing.T) {
	m := screenOf(80, 24)
	if got := text(t, m); !strings.Contains(got, "Looking at the ring buffers") {
		t.Errorf("before the first snapshot:\n%s", got)
	}
	m.Update(snapshotMsg{busyRings(), errors.New("asking ring buffer 7:\nno\x1b[2J")})
	if got := text(t, m); !strings.Contains(got, "error: asking ring buffer 7:; no\\x1b[2J") || !strings.Contains(got, "events") {
		t.Errorf("with an error:\n%s", got)
	}
	m.Update(snapshotMsg{snapshot: busyRings()})
	if got := text(t, m); strings.Contains(got, "error") {
		t.Errorf("the error is still shown:\n%s", got)
	}
	m.limit = errors.New("missing CAP_SYS_ADMIN")
	if got := text(t, m); !strings.Contains(got, "only pinned rings: missing CAP_SYS_ADMIN") {
		t.Errorf("the limit is not told:\n%s", got)
	}
}

func TestScreenHistory(t *testing.T) {
	m := screenOf(80, 24)
	at := func(avail uint64) *ringquery.Snapshot {
		s := manyRings(1)
		s.Rings[0].AvailData = avail
		return s
	}
	for _, avail := range []uint64{0, 1, 2048, 4095, 4096} {
		m.Update(snapshotMsg{snapshot: at(avail)})
	}
	r := m.rows[0]
	if got, want := m.history(r, 7), "  ▁▂▅██"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := m.history(r, 3), "▅██"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range 2 * historyMost {
		m.Update(snapshotMsg{snapshot: at(0)})
	}
	if got := len(m.fills[1]); got != historyMost {
		t.Errorf("%d fills are kept", got)
	}
	m.Update(snapshotMsg{snapshot: &ringquery.Snapshot{}})
	if len(m.fills) != 0 {
		t.Error("the history of a ring that has gone is kept")
	}
}

func TestScreenBar(t *testing.T) {
	for _, test := range []struct {
		avail, high uint64
		want, ascii string
	}{
		{0, 0, "····", "...."},
		{1, 1, "▏···", "#..."},
		{2048, 3000, "██│·", "##|."},
		{2500, 4096, "██▍│", "##.|"},
		{4095, 4095, "███▉", "###|"},
		{4096, 4096, "████", "####"},
		{5000, 6000, "████", "####"}, // by what its owner wrote
	} {
		r := manyRings(1).Rings[0]
		r.AvailData, r.HighWater = test.avail, test.high
		m := screenOf(80, 24)
		if got := m.bar(&r, 4); got != test.want {
			t.Errorf("%d, %d: got %q, want %q", test.avail, test.high, got, test.want)
		}
		m.glyphs = chooseGlyphs(func(string) string { return "" })
		if got := m.bar(&r, 4); got != test.ascii {
			t.Errorf("%d, %d: got %q, want %q", test.avail, test.high, got, test.ascii)
		}
	}
}

func TestScreenGlyphs(t *testing.T) {
	for _, test := range []struct {
		env    map[string]string
		blocks bool
	}{
		{map[string]string{}, false},
		{map[string]string{"LANG": "en_US.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.utf8", "TERM": "xterm"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "TERM": "linux"}, false},
	} {
		m := screenOf(80, 24)
		m.glyphs = chooseGlyphs(func(name string) string { return test.env[name] })
		m.Update(snapshotMsg{snapshot: busyRings()})
		if got := strings.ContainsFunc(text(t, m), func(r rune) bool { return r >= 0x2000 }); got != test.blocks {
			t.Errorf("%v: %t", test.env, got)
		}
	}
}

// No number is wider than its column.
func TestScreenNumbers(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0", 0.01: "<0.1", 0.5: "0.5", 1: "1", 9.94: "9.9", 9.96: "10", 999.4: "999", 999.5: "1.0k", 9949: "9.9k", 9951: "10k",
		999499: "999k", 999501: "1.0M", 1.5e9: "1.5G", 2e18: "2.0E", 1e30: "much",
	} {
		if got := short(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-1: "-", 0: "0ns", 15600: "15µs", 1234: "1µs", 59900 * time.Millisecond: "59.9s", 65 * time.Second: "1m05s", 725 * time.Second: "12m",
		2*time.Hour + 46*time.Minute: "2h46m", 23*time.Hour + 46*time.Minute: "23h", 50 * 24 * time.Hour: "50d", 1 << 62: ">999d",
	} {
		r := ringquery.Ring{Motion: ringquery.Motion{TimeToFull: d}}
		if got := fullIn(&r, 5); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
