// SPDX-License-Identifier: Apache-2.0

package ringmetrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/rbtrace/rbtrace/internal/ringquery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files")

// asked is a Snapshotter that is a function.
type asked func(context.Context, ringquery.Request) (*ringquery.Snapshot, error)

func (f asked) Snapshot(ctx context.Context, r ringquery.Request) (*ringquery.Snapshot, error) {
	return f(ctx, r)
}

func always(s *ringquery.Snapshot) asked {
	return func(context.Context, ringquery.Request) (*ringquery.Snapshot, error) { return s, nil }
}

func newExporter(t *testing.T, rings Snapshotter, opts Options) *Exporter {
	t.Helper()
	if opts.Limit == 0 {
		opts.Limit = time.Minute
	}
	e := New(rings, opts)
	t.Cleanup(e.Close)
	return e
}

// serve serves the exporter, and returns what gets a path of it.
func serve(t *testing.T, e *Exporter) func(path string) (status int, body string) {
	t.Helper()
	server := httptest.NewServer(e.Handler())
	t.Cleanup(server.Close)
	return func(path string) (int, string) {
		t.Helper()
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
}

func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return families
}

// value returns the value of a metric that has one series.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string) float64 {
	t.Helper()
	f := families[name]
	if f == nil || len(f.Metric) != 1 {
		t.Fatalf("%s: %v", name, f)
	}
	if f.Metric[0].Counter != nil {
		return f.Metric[0].Counter.GetValue()
	}
	return f.Metric[0].Gauge.GetValue()
}

// someRings has what rings can have: a busy one with all details, a user ring without a
// name, and one that overwrites and is stuck at positions beyond what is usual.
func someRings() *ringquery.Snapshot {
	return &ringquery.Snapshot{Rings: []ringquery.Ring{
		{
			ID: 7, Name: "events", Type: ebpf.RingBuf, Memory: 278528, Source: ringquery.Mmap,
			State: ringquery.State{AvailData: 65536, RingSize: 262144, ConsPos: 7340032, ProdPos: 7405568},
			Motion: ringquery.Motion{
				Verdict: ringquery.Behind, Interval: 250 * time.Millisecond, Produced: 5, Consumed: 7, ProducedRecords: 44,
				ConsumedRecords: 28, HighWater: 131072, TimeToFull: time.Second, HeadBusy: true, HeadAge: 1500 * time.Microsecond,
			},
			Details: &ringquery.Details{
				Owners: []ringquery.Owner{{PID: 5}, {PID: 31337, Comm: "agent"}},
				Programs: []ringquery.Program{
					{ID: 3, Name: "p", Type: "kprobe", AttachedTo: []string{"kprobe do_exit", "uprobe /bin/a:0x10"}},
					{ID: 4, Type: "xdp"},
				},
				Pins:  []string{"/sys/fs/bpf/a b", "/sys/fs/bpf/c"},
				Outer: []ringquery.Outer{{ID: 9, Name: "outer"}},
			},
		},
		{
			ID: 12, Type: ebpf.UserRingbuf, Source: ringquery.Mmap, State: ringquery.State{RingSize: 1 << 31},
			Motion: ringquery.Motion{Verdict: ringquery.Unknown, TimeToFull: -1}, Details: &ringquery.Details{},
		},
		{
			ID: math.MaxUint32, Name: "last", Type: ebpf.RingBuf, Overwrites: true, Source: ringquery.Helper, Memory: 1 << 32,
			State: ringquery.State{AvailData: 1 << 31, RingSize: 1 << 31, ConsPos: 1 << 62, ProdPos: 1<<62 + 1<<31, OverwritePos: 1 << 61},
			Motion: ringquery.Motion{
				Verdict: ringquery.Stuck, Interval: time.Second, ProducedRecords: 1.0 / 3, Estimated: true,
				HeadBusy: true, HeadAge: 2 * time.Hour, TimeToFull: -1, HighWater: 1 << 31,
			},
		},
	}}
}

// names returns the names of all metrics, with those of their labels.
func names() map[string]string {
	descs := make(chan *prometheus.Desc)
	go func() { newMetrics("").Describe(descs); close(descs) }()
	desc := regexp.MustCompile(`^Desc\{fqName: "(\w+)",.* variableLabels: \{([\w,]*)\}\}$`)
	all := make(map[string]string)
	for d := range descs {
		m := desc.FindStringSubmatch(d.String())
		all[m[1]] = m[2]
	}
	return all
}

// The whole text, but for what is of this moment and this build.
func TestExposition(t *testing.T) {
	e := newExporter(t, always(someRings()), Options{Version: "1.2.3"})
	var compared []string
	for name := range names() {
		if name != "rbtrace_scrape_duration_seconds" && name != "rbtrace_build_info" {
			compared = append(compared, name)
		}
	}
	const golden = "testdata/metrics.prom"
	if *update {
		families, err := newExporter(t, always(someRings()), Options{}).Gather()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for _, f := range families {
			if f.GetName() == "rbtrace_scrape_duration_seconds" || f.GetName() == "rbtrace_build_info" {
				continue
			}
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	if err := testutil.GatherAndCompare(e, want, compared...); err != nil {
		t.Error(err)
	}
	_, text := serve(t, e)("/metrics")
	if !regexp.MustCompile(`(?m)^rbtrace_build_info\{goarch="\w+",goversion="go[^"]+",version="1.2.3"\} 1$`).MatchString(text) {
		t.Errorf("no build info in:\n%s", text)
	}
	if took := value(t, parse(t, text), "rbtrace_scrape_duration_seconds"); took <= 0 || took > 60 {
		t.Errorf("the scrape took %v s", took)
	}
}

// The metrics are named as Prometheus's are, explain themselves, and keep to what
// they are described as.
func TestLint(t *testing.T) {
	e := newExporter(t, always(someRings()), Options{})
	problems, err := testutil.GatherAndLint(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	strict := prometheus.NewPedanticRegistry()
	if err := strict.Register(e.metrics); err != nil {
		t.Fatal(err)
	}
	families, err := strict.Gather()
	if err != nil {
		t.Error(err)
	}
	// someRings has all of them, so that none escapes these checks.
	if len(families) != len(names()) {
		t.Errorf("%d metrics of %d were checked", len(families), len(names()))
	}
}

// A process may call itself anything, and files in a BPF file system may have any name.
func TestHostileTexts(t *testing.T) {
	snapshot := someRings()
	evil := []string{"\x1b[2J\n", "\xff", "\xfe", "\ufffd", `\xff`, `"} 1`, "a\u202eb", "\r# HELP", "{}", " ", "\u00a0"}
	snapshot.Rings = snapshot.Rings[:1]
	r := &snapshot.Rings[0]
	r.Details = &ringquery.Details{}
	r.Name = evil[0]
	for i, text := range evil {
		r.Details.Owners = append(r.Details.Owners, ringquery.Owner{PID: i + 1, Comm: text})
		r.Details.Programs = append(r.Details.Programs, ringquery.Program{ID: ebpf.ProgramID(i), Name: text, Type: "kprobe", AttachedTo: []string{text, text}})
		r.Details.Outer = append(r.Details.Outer, ringquery.Outer{ID: ebpf.MapID(i), Name: text})
		// Nothing but the path tells these from each other.
		r.Details.Pins = append(r.Details.Pins, text)
	}
	status, text := serve(t, newExporter(t, always(snapshot), Options{}))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, text)
	}
	if !utf8.ValidString(text) {
		t.Error("the text is not valid UTF-8")
	}
	for _, c := range text {
		if c < ' ' && c != '\n' || c == '\u202e' {
			t.Errorf("%q is in the text", c)
		}
	}
	families := parse(t, text)
	for _, name := range []string{"owner_info", "program_info", "pin_info", "outer_map_info"} {
		if got := len(families["rbtrace_ringbuf_"+name].GetMetric()); got != len(evil) {
			t.Errorf("%s: %d series of %d", name, got, len(evil))
		}
	}
	if want := `rbtrace_ringbuf_size_bytes{id="7",name="\\x1b[2J\\n",type="ringbuf"} 262144`; !strings.Contains(text, want+"\n") {
		t.Errorf("no %s in:\n%s", want, text)
	}
}

func TestRingsThatComeAndGo(t *testing.T) {
	all := someRings()
	snapshot := &ringquery.Snapshot{}
	get := serve(t, newExporter(t, asked(func(context.Context, ringquery.Request) (*ringquery.Snapshot, error) { return snapshot, nil }), Options{}))
	for _, step := range []struct {
		rings   []ringquery.Ring
		records string // produced, of ring 7
	}{
		{nil, ""},
		{all.Rings, "11"},
		{all.Rings, "22"},
		{all.Rings[1:], ""},
		{all.Rings[:1], "11"}, // as one that was never seen
	} {
		snapshot.Rings = step.rings
		status, text := get("/metrics")
		if status != http.StatusOK {
			t.Fatalf("status %d: %s", status, text)
		}
		families := parse(t, text)
		if got := value(t, families, "rbtrace_ringbufs"); got != float64(len(step.rings)) {
			t.Errorf("%v rings, want %d", got, len(step.rings))
		}
		if got := len(families["rbtrace_ringbuf_size_bytes"].GetMetric()); got != len(step.rings) {
			t.Errorf("%d sizes, want %d", got, len(step.rings))
		}
		if has := strings.Contains(text, `{id="7",`); has != (step.records != "") {
			t.Errorf("ring 7 has series: %t", has)
		}
		want := `rbtrace_ringbuf_produced_records_total{id="7",name="events",type="ringbuf"} ` + step.records + "\n"
		if step.records != "" && !strings.Contains(text, want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
}

// Any number of scrapers at once: the rings are looked at by one at a time, and those
// who come meanwhile share what it sees.
func TestConcurrentScrapes(t *testing.T) {
	var looking, looks atomic.Int32
	get := serve(t, newExporter(t, asked(func(context.Context, ringquery.Request) (*ringquery.Snapshot, error) {
		if looking.Add(1) != 1 {
			t.Error("two look at once")
		}
		looks.Add(1)
		time.Sleep(20 * time.Millisecond)
		looking.Add(-1)
		return someRings(), nil
	}), Options{}))
	const scrapers, times = inFlight / 2, 5
	var wg sync.WaitGroup
	for range scrapers {
		wg.Go(func() {
			for range times {
				if status, text := get("/metrics"); status != http.StatusOK || !strings.Contains(text, "rbtrace_ringbufs 3\n") {
					t.Errorf("status %d: %s", status, text)
				}
			}
		})
	}
	wg.Wait()
	if n := looks.Load(); n >= scrapers*times/2 {
		t.Errorf("%d looks for %d scrapes", n, scrapers*times)
	}
}

// Where there is nothing to show, for a reason, a scrape fails; where something is
// missing, the metrics say so.
func TestFailures(t *testing.T) {
	var snapshot *ringquery.Snapshot
	var fails error
	var told []string
	get := serve(t, newExporter(t, asked(func(context.Context, ringquery.Request) (*ringquery.Snapshot, error) { return snapshot, fails }),
		Options{Failed: func(err error) { told = append(told, err.Error()) }}))
	gone, denied := errors.New("ring buffer 7 has gone"), errors.New("not allowed")
	for i, step := range []struct {
		snapshot *ringquery.Snapshot
		err      error
		status   int
		success  float64
		errors   float64
		told     int
	}{
		{someRings(), nil, 200, 1, 0, 0},
		{nil, denied, 500, 0, 0, 1},
		{nil, denied, 500, 0, 0, 1},
		{someRings(), gone, 200, 0, 3, 2},
		{someRings(), gone, 200, 0, 4, 2},
		{someRings(), nil, 200, 1, 4, 2},
		{&ringquery.Snapshot{}, gone, 500, 0, 0, 3}, // the only one that was asked for
		{&ringquery.Snapshot{}, nil, 200, 1, 5, 3},  // a machine without rings
	} {
		snapshot, fails = step.snapshot, step.err
		status, text := get("/metrics")
		if status != step.status || len(told) != step.told {
			t.Fatalf("%d: status %d, want %d; told %q, want %d: %s", i, status, step.status, told, step.told, text)
		}
		if status != http.StatusOK {
			if !strings.Contains(text, step.err.Error()) || strings.Contains(text, "rbtrace_") {
				t.Errorf("%d: %s", i, text)
			}
			continue
		}
		families := parse(t, text)
		if s, n := value(t, families, "rbtrace_scrape_success"), value(t, families, "rbtrace_scrape_errors_total"); s != step.success || n != step.errors {
			t.Errorf("%d: success %v, want %v; errors %v, want %v", i, s, step.success, n, step.errors)
		}
	}
}

func TestTimeLimit(t *testing.T) {
	t.Run("look", func(t *testing.T) {
		get := serve(t, newExporter(t, asked(func(ctx context.Context, _ ringquery.Request) (*ringquery.Snapshot, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}), Options{Limit: 50 * time.Millisecond}))
		if status, text := get("/metrics"); status != http.StatusInternalServerError || !strings.Contains(text, "took longer than 50ms") {
			t.Errorf("status %d: %s", status, text)
		}
	})
	// One that hears of its end late holds up nobody's answer, and works once it is there.
	t.Run("deaf", func(t *testing.T) {
		let := make(chan struct{})
		e := newExporter(t, asked(func(context.Context, ringquery.Request) (*ringquery.Snapshot, error) {
			<-let
			return someRings(), nil
		}), Options{Limit: 50 * time.Millisecond})
		get := serve(t, e)
		for range 2 {
			if status, text := get("/metrics"); status != http.StatusServiceUnavailable {
				t.Errorf("status %d: %s", status, text)
			}
		}
		close(let)
		if status, text := get("/metrics"); status != http.StatusOK {
			t.Errorf("status %d: %s", status, text)
		}
	})
	// Close ends the look that is under way, and waits for it.
	t.Run("close", func(t *testing.T) {
		began := make(chan struct{})
		var ended atomic.Bool
		e := newExporter(t, asked(func(ctx context.Context, _ ringquery.Request) (*ringquery.Snapshot, error) {
			close(began)
			<-ctx.Done()
			time.Sleep(10 * time.Millisecond)
			ended.Store(true)
			return nil, ctx.Err()
		}), Options{Failed: func(err error) { t.Errorf("told of its own end: %v", err) }})
		scraped := make(chan error, 1)
		go func() { _, err := e.Gather(); scraped <- err }()
		<-began
		e.Close()
		if !ended.Load() {
			t.Error("closed while it looked")
		}
		if err := <-scraped; !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// The request is that of each snapshot.
func TestRequest(t *testing.T) {
	want := ringquery.Request{Select: ringquery.Selection{IDs: []ebpf.MapID{7}}, Look: time.Millisecond, Details: true, DetailsAge: time.Second}
	var got ringquery.Request
	e := newExporter(t, asked(func(_ context.Context, r ringquery.Request) (*ringquery.Snapshot, error) {
		got = r
		return someRings(), nil
	}), Options{Request: want})
	if _, err := e.Gather(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// /metrics, a page that points there, and nothing else.
func TestPages(t *testing.T) {
	e := newExporter(t, always(someRings()), Options{})
	get := serve(t, e)
	if status, text := get("/"); status != http.StatusOK || !strings.Contains(text, `<a href="/metrics">`) {
		t.Errorf("status %d: %s", status, text)
	}
	for _, path := range []string{"/debug/pprof/", "/metrics/", "/-/reload", "/index.html", "/debug/vars"} {
		if status, _ := get(path); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader("x 1\n")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
}

// The guide has a row for each metric, with its type and labels, and speaks of no others.
func TestDocs(t *testing.T) {
	guide, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := names()
	for name, labels := range all {
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		cell := strings.TrimPrefix(strings.TrimPrefix(labels, strings.Join(ringLabels[:], ",")), ",")
		if cell != "" {
			cell = "`" + strings.ReplaceAll(cell, ",", "`, `") + "` "
		}
		row := fmt.Sprintf("| `%s` | %s | %s|", name, kind, cell)
		if !strings.Contains(string(guide), row) {
			t.Errorf("docs/metrics.md has no row %s", row)
		}
	}
	for _, name := range regexp.MustCompile(`rbtrace_\w+`).FindAllString(string(guide), -1) {
		if _, ok := all[name]; !ok {
			t.Errorf("docs/metrics.md speaks of %s, which does not exist", name)
		}
	}
}
