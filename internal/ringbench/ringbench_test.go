// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   Summary
	}{
		{nil, Summary{}},
		{[]float64{7}, Summary{7, 7, 7}},
		{[]float64{5, 1}, Summary{3, 1, 5}},
		{[]float64{9, 1, 2}, Summary{2, 1, 9}},
		{[]float64{4, 3, 2, 1}, Summary{2.5, 1, 4}},
	} {
		if got := Summarize(test.values); got != test.want {
			t.Errorf("%v: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestFigures(t *testing.T) {
	r := Round{Elapsed: 2 * time.Second, Attempts: 1000, Consumed: 800, Dropped: 200, Busy: time.Second, Wakeups: 10, ConsumerCPU: 8 * time.Microsecond}
	got := []float64{r.Rate(), r.Cost(), r.WakeupRate(), r.ConsumerCost()}
	if diff := cmp.Diff([]float64{400, 1e6, 5, 10}, got); diff != "" {
		t.Error(diff)
	}
	var none Round
	for _, f := range []func(*Round) float64{(*Round).Rate, (*Round).Cost, (*Round).WakeupRate, (*Round).ConsumerCost} {
		if v := f(&none); v != 0 {
			t.Errorf("%v of nothing", v)
		}
	}
	// Of all rounds, and not the mean of their shares.
	res := Result{Rounds: []Round{r, {Attempts: 3000}}}
	if got := res.DropRatio(); got != 0.05 {
		t.Errorf("drop ratio %v", got)
	}
	if got := (&Result{}).DropRatio(); got != 0 {
		t.Errorf("drop ratio %v of nothing", got)
	}
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.126: "0.13", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 7187.4: "7187"} {
		if got := FormatFigure(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0", 1e-9: "<0.1%", 0.0012: "0.1%", 0.5: "50.0%", 1: "100.0%"} {
		if got := FormatShare(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// What holds for every case of every suite, on machines of any size and with any
// options.
func TestSuites(t *testing.T) {
	options := []Options{{}, {RecordSize: MaxRecordSize}, {RingSize: 4096}, {RingSize: 64 << 10, RecordSize: 1024}}
	suites := make(map[string]bool)
	for _, s := range Suites() {
		if suites[s.Name] {
			t.Errorf("two suites %s", s.Name)
		}
		suites[s.Name] = true
		for _, o := range options {
			o = o.withDefaults()
			for _, cpus := range []int{1, 2, 3, 4, 8, 144} {
				cases, notes := s.cases(&o, cpus)
				names := make(map[string]bool)
				for i := range cases {
					checkCase(t, &cases[i], cpus)
					if names[cases[i].Name] {
						t.Errorf("%s: two cases %s", s.Name, cases[i].Name)
					}
					names[cases[i].Name] = true
				}
				if cpus == 1 && len(notes) == 0 {
					t.Errorf("%s: nothing said about the only CPU", s.Name)
				}
			}
		}
	}
}

func checkCase(t *testing.T, c *Case, cpus int) {
	t.Helper()
	if n := utf8.RuneCountInString(c.Name); n == 0 || n > 28 {
		t.Errorf("case %q: its name has %d characters", c.Name, n)
	}
	if c.Producers < 1 || c.RecordSize%8 != 0 || c.RecordSize > MaxRecordSize || c.RingSize&(c.RingSize-1) != 0 {
		t.Errorf("%+v", c)
	}
	if (c.Wakeup == Sampled) != (c.Every > 0) || c.Every*c.space() > c.RingSize/2 {
		t.Errorf("%s: notify 1 in %d of a ring of %d", c.Name, c.Every, c.RingSize)
	}
	if n := c.batch(); n < 1 || n > 500 || c.Mode == BackToBack && n*c.space() > c.RingSize/2 {
		t.Errorf("%s: batches of %d", c.Name, n)
	}
	all := make([]int, cpus)
	for i := range all {
		all[i] = i + 3
	}
	places := producerCPUs(c, all)
	if len(places) != c.Producers {
		t.Errorf("%s: %d places for %d producers", c.Name, len(places), c.Producers)
	}
	for i, cpu := range places {
		alone := cpus > 1 && c.Mode == Parallel && (!c.Crowded || i != cpus-1)
		if alone && cpu == all[0] {
			t.Errorf("%s: producer %d is on the consumer's CPU", c.Name, i)
		}
	}
}

// report is of made-up figures: with drops and none, one round and several, of one
// magnitude and of several, and a name to escape.
func report() *Report {
	round := func(consumed, dropped uint64, busy time.Duration) Round {
		return Round{Elapsed: time.Second, Attempts: consumed + dropped, Consumed: consumed, Dropped: dropped, Busy: busy, Wakeups: 1009}
	}
	return &Report{
		Machine: Machine{Kernel: "6.18.0", CPU: "A <CPU>", CPUs: 2},
		Options: Options{Rounds: 3},
		Suites: []SuiteResult{{
			Suite: Suite{Name: "submit", Short: "one & the other"},
			Results: []Result{
				{Case: Case{Name: "reserve"}, Rounds: []Round{round(20e6, 0, 800e6), round(22e6, 0, 800e6), round(18e6, 0, 800e6)}},
				{Case: Case{Name: "output"}, Rounds: []Round{round(10e6, 10e6, 900e6), round(11e6, 9e6, 950e6), round(9e6, 11e6, 1000e6)}},
			},
			Notes: []string{"something to know"},
		}, {
			Suite: Suite{Name: "wakeup", Short: "policies"},
			Results: []Result{
				{Case: Case{Name: "auto"}, Rounds: []Round{round(20e6, 0, 800e6)}},
				{Case: Case{Name: "force"}, Rounds: []Round{round(130e3, 0, 950e6)}},
			},
		}},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: -golden +got, go test -update writes it anew:\n%s", name, diff)
	}
}

func TestSVG(t *testing.T) {
	svg := report().AppendSVG(nil)
	golden(t, "report.svg", svg)
	counts := make(map[string]int)
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		counts[element.Name.Local]++
		for _, a := range element.Attr {
			if a.Name.Local == "href" || strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("<%s %s=%q>", element.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	// The ground and 6 bars; the costs of the second suite are points.
	if counts["svg"] != 1 || counts["g"] != 2 || counts["rect"] != 7 || counts["circle"] != 2 || counts["path"] != 4 {
		t.Errorf("elements: %v", counts)
	}
}

func TestHTML(t *testing.T) {
	page := string(report().AppendHTML(nil))
	for _, part := range []string{"<!DOCTYPE html>", "<svg ", "A &lt;CPU&gt;", "<caption>submit: one &amp; the other</caption>", "<td>output</td><td>10.0</td><td>9.00</td><td>11.0</td>", "</html>\n"} {
		if !strings.Contains(page, part) {
			t.Errorf("no %q", part)
		}
	}
	if strings.Contains(page, "src=") || strings.Contains(page, "href=") {
		t.Error("the page needs other files")
	}
}

// A picture of nothing, and of zeros, is one as well.
func TestPlotNothing(t *testing.T) {
	empty := &Report{Suites: []SuiteResult{{Suite: Suite{Name: "none"}}, {Results: []Result{{Rounds: []Round{{}}}, {}}}}}
	if svg := string(empty.AppendSVG(nil)); strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error(svg)
	}
	for i := range empty.Suites {
		AppendBars(nil, &empty.Suites[i], 80)
	}
}

func TestBars(t *testing.T) {
	r := report()
	golden(t, "bars.txt", append(AppendBars(nil, &r.Suites[0], 80), AppendBars(nil, &r.Suites[1], 80)...))
	for _, width := range []int{40, 80, 200} {
		for line := range strings.Lines(string(AppendBars(nil, &r.Suites[0], width))) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%d columns, want %d at the most: %s", n, width, line)
			}
		}
	}
	for share, want := range map[float64]string{0: "", 1: "████████", 0.5: "████", 1.0 / 64: "▏", 15.0 / 64: "█▉"} {
		if got := bar(share, 8); got != want {
			t.Errorf("%v: %q, want %q", share, got, want)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, math.Inf(1): 1, 4: 1, 4.1: 2, 15: 5, 27.8: 10, 0.15: 0.05, 7397: 2000} {
		if got := niceStep(most, 4); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: %v, want %v", most, got, want)
		}
	}
}

func TestPerfRecordWraps(t *testing.T) {
	b := &perfBuffer{data: []byte("89abcdef\x00\x00\x00\x00\x00\x00\x18\x00" + "01234567"), tail: 8}
	b.data = append(b.data, make([]byte, 8)...) // 32 bytes: a power of two
	copy(b.data[24:], "\x09\x00\x00\x00\x00\x00\x18\x00")
	b.tail = 24
	got, err := b.record(24 + 24)
	if want := "\x09\x00\x00\x00\x00\x00\x18\x0089abcdef\x00\x00\x00\x00\x00\x00\x18\x00"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.record(24 + 16); err == nil {
		t.Error("a record behind the head was taken")
	}
}
