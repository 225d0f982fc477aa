// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Report is all that one Run gave.
type Report struct {
	Machine Machine
	Options Options
	Suites  []SuiteResult
}

// Subtitle says what was measured where, in one line.
func (r *Report) Subtitle() string {
	o := r.Options.withDefaults()
	return fmt.Sprintf("%s; %s of %v", r.Machine, count(o.Rounds, "round"), o.Duration)
}

// FormatFigure writes a figure with three digits, or more where it has more before the
// point.
func FormatFigure(v float64) string {
	switch {
	case v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// FormatShare writes a share, 0 to 1, in percent: 0 for none at all, and never for
// some.
func FormatShare(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.001:
		return "<0.1%"
	}
	return strconv.FormatFloat(100*v, 'f', 1, 64) + "%"
}

// blocks are bars of 1 to 8 eighths of a cell.
var blocks = [...]rune{'▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'}

// AppendBars appends a bar for the rate of each case, in lines of at most width
// columns.
func AppendBars(b []byte, result *SuiteResult, width int) []byte {
	label, value, most := 0, 0, 0.0
	for i := range result.Results {
		r := &result.Results[i]
		rate := r.Over((*Round).Rate).Median / 1e6
		label = max(label, utf8.RuneCountInString(r.Case.Name))
		value = max(value, len(FormatFigure(rate)))
		most = max(most, rate)
	}
	room := max(8, width-label-value-len("    M/s"))
	for i := range result.Results {
		r := &result.Results[i]
		rate := r.Over((*Round).Rate).Median / 1e6
		bar := bar(ratio(rate, most), room)
		b = fmt.Appendf(b, "%-*s  %s %s M/s\n", label, r.Case.Name, bar, FormatFigure(rate))
	}
	return b
}

// bar is a share of width cells, to an eighth of one.
func bar(share float64, width int) string {
	eighths := int(math.Round(share * float64(8*width)))
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string(blocks[rest-1])
	}
	return s
}

// The plot's measures, in its own units: about a pixel.
const (
	plotWidth   = 960
	plotMargin  = 24
	plotLabels  = 190 // width of the cases' names
	plotGap     = 36  // between the two panels
	plotValues  = 74  // room for a value behind the longest bar
	plotBar     = 13
	plotRow     = 22
	plotHead    = 92 // title and legend
	plotSection = 60 // suite title and axis title above the rows
	plotFoot    = 30 // axis below the rows
	plotNote    = 16 // a line of notes
	plotBetween = 10 // after a suite
)

// plotStyle has the colours of both modes. Text has the contrast that WCAG asks for on
// either ground.
const plotStyle = `
.ground{fill:#fff}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328}
.title{font-size:19px;font-weight:600}
.suite{font-size:14px;font-weight:600}
.quiet{fill:#59636e}
.tick{font-size:11px;fill:#59636e}
.value{font-size:11px}
.grid{stroke:#d1d9e0;stroke-width:1}
.axis{stroke:#59636e;stroke-width:1}
.rate{fill:#2f6fdb}
.cost{fill:#c4691c}
.spread{stroke:#1f2328;stroke-width:1.2;fill:none}
@media (prefers-color-scheme:dark){
.ground{fill:#0d1117}
text{fill:#e6edf3}
.quiet,.tick{fill:#9198a1}
.grid{stroke:#30363d}
.axis{stroke:#9198a1}
.rate{fill:#4c8dff}
.cost{fill:#d97f35}
.spread{stroke:#e6edf3}
}
`

// AppendSVG appends a picture of the report: for each suite the rate on the left and
// what a record costs its producer on the right. It needs no other file.
func (r *Report) AppendSVG(b []byte) []byte {
	var body bytes.Buffer
	y := plotHead
	for i := range r.Suites {
		y = drawSuite(&body, &r.Suites[i], y)
	}
	height := y + plotMargin/2
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc">`+"\n",
		plotWidth, height, plotWidth, height)
	fmt.Fprintf(&w, "<title id=\"title\">BPF ring buffers: rbtrace bench</title>\n<desc id=\"desc\">%s</desc>\n", html.EscapeString(r.Subtitle()))
	fmt.Fprintf(&w, "<style>%s</style>\n", plotStyle)
	fmt.Fprintf(&w, "<rect class=\"ground\" width=\"%d\" height=\"%d\"/>\n", plotWidth, height)
	writeText(&w, plotMargin, 38, "title", "start", "BPF ring buffers: rbtrace bench")
	writeText(&w, plotMargin, 60, "quiet", "start", r.Subtitle())
	writeText(&w, plotMargin, 80, "quiet", "start", "bars and points: median of the rounds; lines: lowest to highest; %: records that found no room")
	w.Write(body.Bytes())
	w.WriteString("</svg>\n")
	return append(b, w.Bytes()...)
}

// panel is one of the two figures of a suite.
type panel struct {
	x, width int
	class    string
	title    string
	figure   func(*Round) float64
	scale    float64
	mayLog   bool
	drops    bool // show them
}

// drawSuite draws a suite below y and returns where it ends.
func drawSuite(w *bytes.Buffer, s *SuiteResult, y int) int {
	left := plotMargin + plotLabels
	width := (plotWidth - plotMargin - left - plotGap) / 2
	panels := []panel{
		{left, width - plotValues, "rate", "million records/s (more is better)", (*Round).Rate, 1e-6, false, true},
		{left + width + plotGap, width - plotValues, "cost", "ns a record, for its producer (less is better)", (*Round).Cost, 1, true, false},
	}
	top := y + plotSection
	bottom := top + plotRow*len(s.Results)
	fmt.Fprintf(w, "<g>\n")
	writeText(w, plotMargin, y+26, "suite", "start", s.Suite.Name+": "+s.Suite.Short)
	for i := range s.Results {
		writeText(w, left-10, top+i*plotRow+plotRow/2+4, "", "end", s.Results[i].Case.Name)
	}
	for i := range panels {
		drawPanel(w, s, &panels[i], top, bottom)
	}
	y = bottom + plotFoot
	for _, note := range s.Notes {
		writeText(w, left, y+6, "quiet", "start", "Note: "+note+".")
		y += plotNote
	}
	fmt.Fprintf(w, "</g>\n")
	return y + plotBetween
}

// An axis turns a value into a place, and has ticks.
type axis struct {
	x, width float64
	low, end float64 // logarithms where log is set
	log      bool
	ticks    []float64
}

func (a *axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(v)
	}
	return a.x + a.width*(v-a.low)/(a.end-a.low)
}

// wide is from which ratio on a linear axis would show the low values as nothing.
const wide = 30

// newAxis returns an axis for what a panel shows: from 0 on, unless values differ by
// more than wide and may be shown otherwise.
func newAxis(s *SuiteResult, p *panel) axis {
	least, most := math.Inf(1), 0.0
	for i := range s.Results {
		v := s.Results[i].Over(p.figure)
		least, most = min(least, v.Min*p.scale), max(most, v.Max*p.scale)
	}
	a := axis{x: float64(p.x), width: float64(p.width)}
	if p.mayLog && least > 0 && most > wide*least {
		a.log, a.low, a.end = true, math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
		for e := a.low; e <= a.end; e++ {
			a.ticks = append(a.ticks, math.Pow(10, e))
		}
		return a
	}
	step := niceStep(most, 4)
	n := max(1, math.Ceil(most/step))
	a.end = n * step
	for i := 0.0; i <= n; i++ {
		a.ticks = append(a.ticks, i*step)
	}
	return a
}

func drawPanel(w *bytes.Buffer, s *SuiteResult, p *panel, top, bottom int) {
	a := newAxis(s, p)
	title := p.title
	if a.log {
		title += ", logarithmic"
	}
	writeText(w, p.x, top-10, "quiet", "start", title)
	for i, v := range a.ticks {
		class := "grid"
		if i == 0 {
			class = "axis"
		}
		fmt.Fprintf(w, "<line class=\"%s\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n", class, a.at(v), top, a.at(v), bottom)
		writeText(w, int(math.Round(a.at(v))), bottom+15, "tick", "middle", strconv.FormatFloat(v, 'g', 6, 64))
	}
	for i := range s.Results {
		r := &s.Results[i]
		v := r.Over(p.figure)
		v = Summary{v.Median * p.scale, v.Min * p.scale, v.Max * p.scale}
		middle := float64(top+i*plotRow) + plotRow/2.0
		what := fmt.Sprintf("%s: %s (%s to %s)", r.Case.Name, FormatFigure(v.Median), FormatFigure(v.Min), FormatFigure(v.Max))
		if a.log { // the length of a bar would mean nothing
			fmt.Fprintf(w, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\">", p.class, a.at(v.Median), middle)
			writeTitle(w, what, "circle")
		} else {
			fmt.Fprintf(w, "<rect class=\"%s\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"2\">",
				p.class, p.x, middle-plotBar/2.0, a.at(v.Median)-a.x, plotBar)
			writeTitle(w, what, "rect")
		}
		if len(r.Rounds) > 1 {
			fmt.Fprintf(w, "<path class=\"spread\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>\n",
				a.at(v.Min), middle, a.at(v.Max), a.at(v.Min), middle-3, a.at(v.Max), middle-3)
		}
		value := FormatFigure(v.Median)
		if drops := r.DropRatio(); drops > 0 && p.drops {
			value += " (" + FormatShare(drops) + ")"
		}
		writeText(w, int(math.Round(a.at(v.Max)))+8, int(middle)+4, "value", "start", value)
	}
}

// writeTitle writes what a mark shows when pointed at, and ends the mark.
func writeTitle(w *bytes.Buffer, text, element string) {
	fmt.Fprintf(w, "<title>%s</title></%s>\n", html.EscapeString(text), element)
}

// niceStep is a step of 1, 2 or 5 times a power of ten, of which most has at most n.
func niceStep(most float64, n int) float64 {
	if most <= 0 || math.IsInf(most, 0) || math.IsNaN(most) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, f := range []float64{1, 2, 5} {
		if most/(f*power) <= float64(n) {
			return f * power
		}
	}
	return 10 * power
}

func writeText(w *bytes.Buffer, x, y int, class, anchor, text string) {
	fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\"", x, y)
	if class != "" {
		fmt.Fprintf(w, " class=\"%s\"", class)
	}
	if anchor != "start" {
		fmt.Fprintf(w, " text-anchor=\"%s\"", anchor)
	}
	fmt.Fprintf(w, ">%s</text>\n", html.EscapeString(text))
}

const htmlHead = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>BPF ring buffers: rbtrace bench</title>
<style>
body{margin:0 auto;padding:8px;max-width:960px;font:14px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;background:#fff;color:#1f2328}
svg{width:100%;height:auto}
table{border-collapse:collapse;margin:8px 0 24px}
caption{text-align:left;font-weight:600;padding:4px 0}
th,td{padding:2px 12px 2px 0;text-align:right;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}
</style>
</head>
<body>
`

// AppendHTML appends a page with the picture and the figures as tables. It needs no
// other file.
func (r *Report) AppendHTML(b []byte) []byte {
	b = append(b, htmlHead...)
	b = r.AppendSVG(b)
	for i := range r.Suites {
		s := &r.Suites[i]
		b = fmt.Appendf(b, "<table>\n<caption>%s</caption>\n", html.EscapeString(s.Suite.Name+": "+s.Suite.Short))
		b = append(b, "<tr><th>Case</th><th>Million records/s</th><th>lowest</th><th>highest</th><th>ns a record</th><th>Drops</th><th>Wakeups/s</th></tr>\n"...)
		for j := range s.Results {
			res := &s.Results[j]
			rate := res.Over((*Round).Rate)
			b = fmt.Appendf(b, "<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%.0f</td></tr>\n",
				html.EscapeString(res.Case.Name), FormatFigure(rate.Median/1e6), FormatFigure(rate.Min/1e6), FormatFigure(rate.Max/1e6),
				FormatFigure(res.Over((*Round).Cost).Median), html.EscapeString(FormatShare(res.DropRatio())), res.Over((*Round).WakeupRate).Median)
		}
		b = append(b, "</table>\n"...)
	}
	return append(b, "</body>\n</html>\n"...)
}
