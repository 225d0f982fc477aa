// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/clipperhouse/displaywidth"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

// The least that the screen needs.
const (
	leastWidth  = 40
	leastHeight = 8
)

// Lines around the rows: title and two of header above, status and keys below.
const aroundRows = 5

// glyphs draw bars and histories.
type glyphs struct {
	bar         []string // the parts of a cell, from the least to a whole one
	empty, mark string   // of a bar: nothing, and the high-water mark
	levels      []string // of a history: the first is nothing
	more        string   // for what was cut off
}

// chooseGlyphs takes ASCII where the locale is not UTF-8, and on the console, whose font
// has no blocks.
func chooseGlyphs(getenv func(string) string) *glyphs {
	locale := getenv("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = getenv(name)
		}
	}
	locale = strings.ToLower(strings.ReplaceAll(locale, "-", ""))
	if strings.HasSuffix(locale, "utf8") && getenv("TERM") != "linux" {
		return &glyphs{
			bar: strings.Split("▏▎▍▌▋▊▉█", ""), empty: "·", mark: "│",
			levels: strings.Split("▁▂▃▄▅▆▇█", ""), more: "…",
		}
	}
	return &glyphs{bar: []string{"#"}, empty: ".", mark: "|", levels: strings.Split("_.:-=+*#", ""), more: "~"}
}

// Looks of a text, as SGR parameters. bubbletea leaves out colours where there are none or
// NO_COLOR is set. None says what words do not say.
const (
	plain   = ""
	bold    = "1"
	dim     = "2"
	inverse = "7"
	green   = "32"
	yellow  = "33"
	red     = "1;31"
)

// line is a line of the screen, which never becomes wider than that.
type line struct {
	b           strings.Builder
	width, left int
	more        string
	inverse     bool // all of it
}

func (m *screen) line() *line { return &line{width: m.width, left: m.width, more: m.glyphs.more} }

// put adds a text, which must be escaped, in a look.
func (l *line) put(look, text string) {
	if l.left == 0 || text == "" {
		return
	}
	text = fit(text, l.left, l.more)
	l.left -= field.Width([]byte(text))
	if l.inverse {
		look = inverse
	}
	if look == plain {
		l.b.WriteString(text)
		return
	}
	l.b.WriteString("\x1b[" + look + "m" + text + "\x1b[m")
}

// pad adds blanks up to a column.
func (l *line) pad(column int) {
	l.put(plain, strings.Repeat(" ", max(0, min(column-(l.width-l.left), l.left))))
}

func (l *line) String() string { return l.b.String() }

// fit cuts a text down to so many cells, and marks that.
func fit(text string, width int, more string) string {
	if field.Width([]byte(text)) <= width {
		return text
	}
	head, _ := split(text, width-1)
	return head + more
}

// split splits a text after as many characters as so many cells take.
func split(text string, width int) (head, tail string) {
	n := 0
	for g := displaywidth.StringGraphemes(text); g.Next(); {
		if width -= g.Width(); width < 0 {
			break
		}
		n += len(g.Value())
	}
	return text[:n], text[n:]
}

// wrap splits a text into lines of so many cells at the most: behind a blank, where there is
// one that leaves the line half full at least.
func wrap(text string, width int) []string {
	var lines []string
	for field.Width([]byte(text)) > width {
		head, tail := split(text, width)
		if head == "" { // a character that is wider
			break
		}
		if i := strings.LastIndexByte(head, ' '); i >= len(head)/2 && tail[0] != ' ' {
			head, tail = text[:i+1], text[i+1:]
		}
		lines = append(lines, head)
		text = tail
	}
	return append(lines, text)
}

func (m *screen) tooSmall() bool { return m.width < leastWidth || m.height < leastHeight }

// page is how many rows of the list there is room for.
func (m *screen) page() int { return max(1, m.height-aroundRows) }

// View implements tea.Model.
func (m *screen) View() tea.View {
	v := tea.NewView(m.content())
	v.AltScreen = true
	return v
}

func (m *screen) content() string {
	var lines []string
	switch {
	case m.width <= 0 || m.height <= 0:
	case m.tooSmall():
		text := fmt.Sprintf("The terminal is too small: %dx%d, of %dx%d needed. q quits.", m.width, m.height, leastWidth, leastHeight)
		lines = wrap(text, m.width)
	case m.detail && m.selectedRing() != nil:
		lines = m.detailScreen()
	default:
		lines = m.listScreen()
	}
	return strings.Join(lines[:min(len(lines), max(0, m.height))], "\n")
}

func (m *screen) listScreen() []string {
	lines := []string{m.title()}
	columns, widths := m.layout()
	upper, lower := m.line(), m.line()
	upper.put(plain, " ")
	lower.put(plain, " ")
	for i, c := range columns {
		look := bold
		if c.sort == sorts[m.sort].name {
			look = "1;4"
		}
		upper.cell(look, c.upper, widths[i], c.right, i < len(columns)-1)
		lower.cell(look, c.header, widths[i], c.right, i < len(columns)-1)
	}
	lines = append(lines, upper.String(), lower.String())
	last := min(len(m.rows), m.top+m.page())
	for i := m.top; i < last; i++ {
		lines = append(lines, m.row(columns, widths, i))
	}
	if len(m.rows) == 0 {
		l := m.line()
		switch {
		case m.snapshot == nil:
			l.put(plain, " Looking at the ring buffers ...")
		case len(m.snapshot.Rings) > 0:
			l.put(plain, " No ring buffer passes the filter; Esc clears it.")
		default:
			l.put(plain, " There is no ring buffer to show.")
		}
		lines = append(lines, l.String())
	}
	for len(lines) < m.height-2 {
		lines = append(lines, "")
	}
	where := ""
	if m.top > 0 || last < len(m.rows) {
		where = fmt.Sprintf("%d-%d of %d", m.top+1, last, len(m.rows))
	}
	return append(lines, m.status(where), m.keys("q quit  enter details  / filter  s sort  r reverse  up/down select"))
}

// title says what the screen is about.
func (m *screen) title() string {
	l := m.line()
	if n := m.rings(); n == 1 {
		l.put(bold, "1 ring buffer")
	} else {
		l.put(bold, fmt.Sprintf("%d ring buffers", n))
	}
	for _, v := range []ringquery.Verdict{ringquery.Stuck, ringquery.Full, ringquery.Stalled, ringquery.Behind} {
		n := 0
		for i := range m.rings() {
			if m.snapshot.Rings[i].Verdict == v {
				n++
			}
		}
		if n > 0 {
			l.put(plain, ", ")
			l.put(verdictLook(v), fmt.Sprintf("%d %s", n, v.Short()))
		}
	}
	l.put(plain, "  by "+sorts[m.sort].name)
	if m.reverse {
		l.put(plain, ", reversed")
	}
	if m.filter != "" && !m.typing {
		l.put(plain, "  /"+escaped(m.filter))
	}
	if m.snapshot != nil {
		at := m.snapshot.Time.Local().Format(time.TimeOnly)
		for _, right := range []string{"every " + m.interval.String() + "  " + at, at} {
			if len(right)+2 <= l.left {
				l.pad(m.width - len(right))
				l.put(plain, right)
				break
			}
		}
	}
	return l.String()
}

func (m *screen) rings() int {
	if m.snapshot == nil {
		return 0
	}
	return len(m.snapshot.Rings)
}

// status says what else there is to say.
func (m *screen) status(where string) string {
	l := m.line()
	if where != "" {
		l.left -= len(where) + 2
	}
	switch {
	case m.typing:
		l.put(plain, "filter by name or owner: ")
		text := escaped(m.filter)
		for field.Width([]byte(text)) > l.left-1 { // its end is being written
			_, tail := split(text, 1)
			if len(tail) == len(text) { // a wide one
				_, tail = split(text, 2)
			}
			text = tail
		}
		l.put(plain, text)
		l.put(inverse, " ")
	case m.err != nil:
		l.put(red, "error: "+escaped(strings.ReplaceAll(m.err.Error(), "\n", "; ")))
	case m.notice != "":
		l.put(plain, m.notice)
	case m.limit != nil:
		l.put(plain, "only pinned rings: "+escaped(m.limit.Error()))
	}
	if where != "" {
		l.left += len(where) + 2
		l.pad(m.width - len(where))
		l.put(plain, where)
	}
	return l.String()
}

func (m *screen) keys(text string) string {
	if m.typing {
		text = "enter done  esc clear"
	}
	l := m.line()
	l.put(dim, text)
	return l.String()
}

// cell adds a text in so many cells, and a blank unless it is the last.
func (l *line) cell(look, text string, width int, right, blank bool) {
	text = fit(text, width, l.more)
	gap := strings.Repeat(" ", max(0, width-field.Width([]byte(text))))
	if right {
		l.put(plain, gap)
	}
	l.put(look, text)
	if !right {
		l.put(plain, gap)
	}
	if blank {
		l.put(plain, " ")
	}
}

func (m *screen) row(columns []*screenColumn, widths []int, i int) string {
	l := m.line()
	if i == m.cursor {
		l.inverse = true
		l.put(plain, ">")
	} else {
		l.put(plain, " ")
	}
	for n, c := range columns {
		look := plain
		if c.look != nil {
			look = c.look(m.rows[i])
		}
		l.cell(look, c.text(m, m.rows[i], widths[n]), widths[n], c.right, n < len(columns)-1)
	}
	if l.inverse {
		l.pad(m.width)
	}
	return l.String()
}

// screenColumn is a column of the list.
type screenColumn struct {
	upper, header string
	sort          string // the order that goes by it
	least         int    // its width
	keep          int    // columns with less go first where there is no room for all
	right         bool
	text          func(m *screen, r *ringquery.Ring, width int) string
	look          func(r *ringquery.Ring) string // nil: plain
}

// Where columns that can grow are in screenColumns.
const (
	idColumn = iota
	nameColumn
	barColumn
)

// screenColumns are the columns of the list, from left to right.
var screenColumns = []screenColumn{
	idColumn: {header: "ID", sort: "id", keep: 100, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string {
		return strconv.FormatUint(uint64(r.ID), 10)
	}},
	nameColumn: {header: "NAME", sort: "name", keep: 90, text: func(_ *screen, r *ringquery.Ring, _ int) string { return ringName(r) }},
	barColumn:  {header: "FILL", sort: "fill", least: 6, keep: 60, text: (*screen).bar, look: fillLook},
	{header: "%", least: 4, keep: 92, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return percent(r.Fill()) }},
	{upper: "HIGH", header: "WATER", sort: "high water", least: 5, keep: 50, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return percent(highWater(r)) }},
	{upper: "PROD", header: "B/S", sort: "produced", least: 4, keep: 70, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return short(r.Produced) }},
	{upper: "CONS", header: "B/S", sort: "consumed", least: 4, keep: 65, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return short(r.Consumed) }},
	{upper: "PROD", header: "REC/S", least: 5, keep: 40, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return records(r, r.ProducedRecords) }},
	{upper: "CONS", header: "REC/S", least: 5, keep: 35, right: true, text: func(_ *screen, r *ringquery.Ring, _ int) string { return records(r, r.ConsumedRecords) }},
	{upper: "FULL", header: "IN", sort: "full in", least: 5, keep: 55, right: true, text: func(_ *screen, r *ringquery.Ring, width int) string { return fullIn(r, width) }},
	{header: "VERDICT", sort: "verdict", least: 8, keep: 95, text: func(_ *screen, r *ringquery.Ring, width int) string { return verdict(r, width) }, look: func(r *ringquery.Ring) string { return verdictLook(r.Verdict) }},
	{header: "HISTORY", least: 7, keep: 30, right: true, text: func(m *screen, r *ringquery.Ring, width int) string { return m.history(r, width) }},
	{header: "OWNERS", least: 10, keep: 10, text: func(_ *screen, r *ringquery.Ring, _ int) string { return owners(r) }},
}

// layout chooses the columns that there is room for, and their widths.
func (m *screen) layout() (columns []*screenColumn, widths []int) {
	id, name := 2, 4
	for _, r := range m.rows {
		id = max(id, len(strconv.FormatUint(uint64(r.ID), 10)))
		name = max(name, min(22, field.Width([]byte(ringName(r)))))
	}
	least := func(c *screenColumn) int {
		switch c {
		case &screenColumns[idColumn]:
			return id
		case &screenColumns[nameColumn]:
			return min(name, 8)
		}
		return c.least
	}
	left := m.width
	for i := range screenColumns {
		columns = append(columns, &screenColumns[i])
		left -= 1 + least(&screenColumns[i]) // each has a blank or the cursor before it
	}
	for left < 0 {
		worst := 0
		for i, c := range columns {
			if c.keep < columns[worst].keep {
				worst = i
			}
		}
		left += 1 + least(columns[worst])
		columns = append(columns[:worst], columns[worst+1:]...)
	}
	widths = make([]int, len(columns))
	for i, c := range columns {
		widths[i] = least(c)
	}
	// What is left goes to those that have the most to say with it.
	for _, step := range []struct {
		header string
		width  int
	}{
		{"NAME", min(name, 11)},
		{"HISTORY", 10},
		{"FILL", 8},
		{"VERDICT", len("stuck head (1.23s)")},
		{"NAME", name},
		{"FILL", 16},
		{"HISTORY", 24},
		{"OWNERS", 32},
		{"HISTORY", historyMost},
	} {
		for i, c := range columns {
			if c.header == step.header {
				more := max(0, min(step.width-widths[i], left))
				widths[i] += more
				left -= more
			}
		}
	}
	return columns, widths
}

// bar draws the fill, with a mark where it was at its highest.
func (m *screen) bar(r *ringquery.Ring, width int) string {
	g := m.glyphs
	parts := len(g.bar)
	// Only what is full fills it, and what is not empty shows.
	eighths := int(r.Fill() * float64(width*parts))
	if eighths == 0 && r.AvailData > 0 {
		eighths = 1
	}
	mark := min(int(highWater(r)*float64(width)), width-1)
	var b strings.Builder
	for cell := range width {
		switch in := eighths - cell*parts; {
		case in >= parts:
			b.WriteString(g.bar[parts-1])
		case in > 0:
			b.WriteString(g.bar[in-1])
		case cell == mark && r.HighWater > 0:
			b.WriteString(g.mark)
		default:
			b.WriteString(g.empty)
		}
	}
	return b.String()
}

// history draws the last fills, the newest at the right.
func (m *screen) history(r *ringquery.Ring, width int) string {
	h := m.fills[r.ID]
	h = h[max(0, len(h)-width):]
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(h)))
	for _, fill := range h {
		levels := len(m.glyphs.levels) - 1
		level := 0
		if fill > 0 {
			level = min(1+int(fill*float64(levels)), levels)
		}
		b.WriteString(m.glyphs.levels[level])
	}
	return b.String()
}

// short writes a number that is not negative in four cells, with k, M, G … for powers of
// 1000.
func short(n float64) string {
	const units = "kMGTPE"
	switch {
	case n == 0:
		return "0"
	case n < 0.05:
		return "<0.1"
	case n < 9.95:
		return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0")
	case n < 999.5:
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	for i := range units {
		n /= 1000
		switch {
		case n < 9.95:
			return strconv.FormatFloat(n, 'f', 1, 64) + units[i:i+1]
		case n < 999.5:
			return strconv.FormatFloat(n, 'f', 0, 64) + units[i:i+1]
		}
	}
	return "much"
}

// records writes a rate of records, with ~ where it is reckoned.
func records(r *ringquery.Ring, rate float64) string {
	if r.Estimated && rate > 0 {
		return "~" + short(rate)
	}
	return short(rate)
}

func latency(d time.Duration) string { return string(field.Latency(max(d, 0)).AppendText(nil)) }

// fullIn writes the time until a ring is full: of two units the larger one, where there is
// no room for both.
func fullIn(r *ringquery.Ring, width int) string {
	if r.TimeToFull < 0 {
		return "-"
	}
	text := latency(r.TimeToFull)
	if width < 6 && r.TimeToFull >= 1000*24*time.Hour {
		return ">999d"
	}
	if field.Width([]byte(text)) > width {
		if i := strings.IndexAny(text, ".mhd"); i > 0 && text[i] == '.' {
			unit := strings.TrimLeft(text, "0123456789.")
			return text[:i] + unit
		} else if i > 0 {
			return text[:i+1]
		}
	}
	return text
}

// verdict writes the verdict as fully as there is room.
func verdict(r *ringquery.Ring, width int) string {
	texts := []string{string(r.Verdict), r.Verdict.Short()}
	if r.Verdict == ringquery.Stuck {
		age := latency(r.HeadAge)
		texts = []string{string(r.Verdict) + " (" + age + ")", "stuck " + age, "stuck"}
	}
	for _, text := range texts {
		if field.Width([]byte(text)) <= width {
			return text
		}
	}
	return texts[len(texts)-1]
}

func verdictLook(v ringquery.Verdict) string {
	switch v {
	case ringquery.Stuck, ringquery.Full:
		return red
	case ringquery.Stalled, ringquery.Behind:
		return yellow
	}
	return plain
}

func fillLook(r *ringquery.Ring) string {
	switch fill := r.Fill(); {
	case fill >= 0.8:
		return red
	case fill >= 0.5:
		return yellow
	}
	return green
}

// owners names the processes that hold the ring.
func owners(r *ringquery.Ring) string {
	if r.Details == nil || len(r.Details.Owners) == 0 {
		return "-"
	}
	texts := make([]string, len(r.Details.Owners))
	for i, o := range r.Details.Owners {
		texts[i] = ownerText(o)
	}
	return strings.Join(texts, ", ")
}

func ownerText(o ringquery.Owner) string { return fmt.Sprintf("%s[%d]", escaped(o.Comm), o.PID) }

// detailPage is how many lines about one ring there is room for: title, status and keys
// take the others.
func (m *screen) detailPage() int { return max(1, m.height-3) }

func (m *screen) detailScreen() []string {
	r := m.selectedRing()
	l := m.line()
	l.put(bold, fmt.Sprintf("ring buffer %d ", r.ID))
	l.put(bold, ringName(r))
	lines := []string{l.String()}
	all := m.detailLines()
	last := min(len(all), m.scroll+m.detailPage())
	lines = append(lines, all[m.scroll:last]...)
	for len(lines) < m.height-2 {
		lines = append(lines, "")
	}
	where := ""
	if m.scroll > 0 || last < len(all) {
		where = fmt.Sprintf("%d-%d of %d", m.scroll+1, last, len(all))
	}
	return append(lines, m.status(where), m.keys("q quit  esc back  up/down scroll"))
}

// detailLines are all lines about the selected ring.
func (m *screen) detailLines() []string {
	r := m.selectedRing()
	if r == nil || m.tooSmall() {
		return nil
	}
	const keyWidth = 12
	width := m.width - keyWidth
	var lines []string
	add := func(key, look string, values ...string) {
		if len(values) == 0 {
			values = []string{"-"}
		}
		for _, value := range values {
			for _, part := range wrap(value, width) {
				l := m.line()
				l.put(bold, key)
				l.pad(keyWidth)
				l.put(look, part)
				lines = append(lines, l.String())
				key = ""
			}
		}
	}
	add("verdict", verdictLook(r.Verdict), verdict(r, width))
	add("fill", fillLook(r), m.bar(r, min(width, 40)))
	add("", plain, fmt.Sprintf("%s: %d of %d bytes", percent(r.Fill()), r.AvailData, r.RingSize))
	add("high water", plain, fmt.Sprintf("%s: %d bytes", percent(highWater(r)), r.HighWater))
	add("full in", plain, fullIn(r, math.MaxInt))
	add("history", plain, m.history(r, width))
	add("produced", plain, fmt.Sprintf("%s bytes/s, %s records/s", short(r.Produced), records(r, r.ProducedRecords)))
	add("consumed", plain, fmt.Sprintf("%s bytes/s, %s records/s", short(r.Consumed), records(r, r.ConsumedRecords)))
	head := "committed"
	switch {
	case r.HeadBusy:
		head = "reserved and not committed, for " + latency(r.HeadAge) + " or more"
	case r.AvailData == 0:
		head = "none: nothing is unread"
	}
	add("head", plain, head)
	positions := []string{fmt.Sprintf("consumer %d, producer %d", r.ConsPos, r.ProdPos)}
	if r.Overwrites {
		positions = append(positions, fmt.Sprintf("overwritten up to %d", r.OverwritePos))
	}
	add("positions", plain, append(positions, "from "+string(r.Source))...)
	kind := ringType(r)
	if r.Overwrites {
		kind += ", overwrites its oldest records"
	}
	add("type", plain, kind)
	add("memory", plain, fmt.Sprintf("%d bytes", r.Memory))
	d := r.Details
	if d == nil {
		return lines
	}
	var texts []string
	for _, o := range d.Owners {
		texts = append(texts, ownerText(o))
	}
	add("owners", plain, texts...)
	texts = nil
	for _, p := range d.Programs {
		texts = append(texts, fmt.Sprintf("%s[%d], %s", escaped(p.Name), p.ID, escaped(p.Type)))
		for _, place := range p.AttachedTo {
			texts = append(texts, "  at "+escaped(place))
		}
	}
	add("programs", plain, texts...)
	texts = nil
	for _, file := range d.Pins {
		texts = append(texts, escaped(file))
	}
	add("pinned at", plain, texts...)
	texts = nil
	for _, o := range d.Outer {
		texts = append(texts, fmt.Sprintf("%s[%d]", escaped(o.Name), o.ID))
	}
	add("outer maps", plain, texts...)
	return lines
}
