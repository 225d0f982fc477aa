// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
)

// patience is how long to wait for what is to happen soon. Emulated machines are slow.
const patience = 30 * time.Second

// process is an rbtrace that runs in the background.
type process struct {
	*exec.Cmd
	errors lines // its standard error
}

// lines is a text that is written and read at the same time.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a program, and kills it with the test.
func start(t *testing.T, stdout io.Writer, argv ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(argv[0], argv[1:]...)}
	p.Stdout, p.Stderr = stdout, &p.errors
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // it has ended, where all went well
		_ = p.Wait()
	})
	return p
}

// end sends a signal and returns the exit status.
func (p *process) end(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // the status tells
	return p.ProcessState.ExitCode()
}

// awaitThat waits until something is so.
func awaitThat(t *testing.T, what string, so func() bool) {
	t.Helper()
	for begin := time.Now(); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// startOwner starts an rbtrace that traces what this test starts, and has a ring.
func startOwner(t *testing.T) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	owner := start(t, w, "rbtrace", "exec", "--buffer-size", "128K", "--ppid", strconv.Itoa(os.Getpid()))
	header := make(chan error, 1)
	go func() { // reads on, or the owner would not
		defer r.Close()
		out := bufio.NewReader(r)
		_, err := out.ReadString('\n')
		header <- err
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case err := <-header:
		if err != nil {
			t.Fatalf("%v: %s", err, owner.errors.String())
		}
	case <-time.After(patience):
		t.Fatalf("no header: %s", owner.errors.String())
	}
	return owner
}

// startExporter starts rbtrace query --listen on a port that is free, and returns where.
func startExporter(t *testing.T, args ...string) (p *process, address string) {
	t.Helper()
	return listening(t, append([]string{"rbtrace", "query", "--listen", "127.0.0.1:0"}, args...)...)
}

// listening starts what says that it listens, and returns where.
func listening(t *testing.T, argv ...string) (p *process, address string) {
	t.Helper()
	p = start(t, nil, argv...)
	said := regexp.MustCompile(`listening on http://(127\.0\.0\.1:[1-9][0-9]*)/metrics\n`)
	awaitThat(t, "the line that says where it listens", func() bool {
		if m := said.FindStringSubmatch(p.errors.String()); m != nil {
			address = m[1]
		}
		return address != ""
	})
	return p, address
}

func scrape(t *testing.T, address string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response.StatusCode, string(body)
}

// series are those of one ring, by the name of the metric without its prefix.
func series(t *testing.T, text, id string) map[string][]*dto.Metric {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	all := make(map[string][]*dto.Metric)
	for name, f := range families {
		for _, m := range f.Metric {
			if labelOf(m, "id") == id {
				short := strings.TrimPrefix(name, "rbtrace_ringbuf_")
				all[short] = append(all[short], m)
			}
		}
	}
	return all
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// queryJSON returns what rbtrace query -o json says of the one ring of a process.
func queryJSON(t *testing.T, pid int) (ring struct {
	ID        uint32 `json:"id"`
	Name      string
	Type      string
	AvailData uint64 `json:"avail_data"`
	RingSize  uint64 `json:"ring_size"`
	ConsPos   uint64 `json:"cons_pos"`
	ProdPos   uint64 `json:"prod_pos"`
	Memory    uint64
	Fill      float64 `json:"fill_percent"`
	Owners    []struct {
		PID  int
		Comm string
	}
	Programs []struct {
		ID         int
		Name, Type string
		AttachedTo []string `json:"attached_to"`
	}
},
) {
	t.Helper()
	out, err := exec.Command("rbtrace", "query", "-o", "json", "--pid", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &ring); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return ring
}

func requireQuery(t *testing.T) {
	t.Helper()
	bpftest.Require(t)
	if err := kernel.CheckCapabilities(); err != nil {
		bpftest.Skipf(t, "%v", err)
	}
	if !kernel.HasSysAdmin() {
		bpftest.Skipf(t, "missing CAP_SYS_ADMIN, which opening the maps of others needs")
	}
}

// The metrics are what rbtrace query prints, go with the ring, and cost nobody anything
// when they end.
func TestListen(t *testing.T) {
	requireQuery(t)
	owner := startOwner(t)
	exporter, address := startExporter(t)
	// Its own start is the last event that the owner sees.
	want := queryJSON(t, owner.Process.Pid)
	awaitThat(t, "the owner to read all", func() bool {
		want = queryJSON(t, owner.Process.Pid)
		return want.ProdPos == want.ConsPos
	})
	if want.RingSize != 128<<10 || want.ProdPos == 0 {
		t.Fatalf("not the ring that was made: %+v", want)
	}
	id := strconv.FormatUint(uint64(want.ID), 10)

	status, text := scrape(t, address)
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, text)
	}
	got := series(t, text, id)
	for name, value := range map[string]float64{
		"size_bytes": float64(want.RingSize), "available_bytes": float64(want.AvailData), "memory_bytes": float64(want.Memory),
		"consumed_bytes_total": float64(want.ConsPos), "produced_bytes_total": float64(want.ProdPos), "fill_ratio": want.Fill / 100,
		"info": 1, "head_busy": 0,
	} {
		if m := got[name]; len(m) != 1 || m[0].GetGauge().GetValue()+m[0].GetCounter().GetValue() != value {
			t.Errorf("%s: %v, want %v", name, m, value)
		} else if labelOf(m[0], "name") != want.Name || labelOf(m[0], "type") != want.Type {
			t.Errorf("%s: %v, want name %q and type %q", name, m, want.Name, want.Type)
		}
	}
	if got["overwritten_bytes_total"] != nil {
		t.Error("a ring that does not overwrite has an overwrite position")
	}
	holds := ""
	for _, m := range got["verdict"] {
		if m.Gauge.GetValue() == 1 {
			holds += labelOf(m, "verdict")
		}
	}
	if holds != "idle" {
		t.Errorf("verdict %q", holds)
	}
	var wantSeries, gotSeries []string
	for _, o := range want.Owners {
		wantSeries = append(wantSeries, fmt.Sprint("owner ", o.PID, o.Comm))
	}
	for _, p := range want.Programs {
		wantSeries = append(wantSeries, fmt.Sprint("program ", p.ID, p.Name, p.Type, strings.Join(p.AttachedTo, " + ")))
	}
	for _, m := range got["owner_info"] {
		gotSeries = append(gotSeries, fmt.Sprint("owner ", labelOf(m, "pid"), labelOf(m, "comm")))
	}
	for _, m := range got["program_info"] {
		gotSeries = append(gotSeries, fmt.Sprint("program ", labelOf(m, "program_id"), labelOf(m, "program_name"), labelOf(m, "program_type"), labelOf(m, "attached_to")))
	}
	if !sameElements(gotSeries, wantSeries) || len(want.Owners) != 1 || len(want.Programs) == 0 {
		t.Errorf("owners and programs: got %q, want %q", gotSeries, wantSeries)
	}

	// Two scrapers do not disturb each other.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if status, text := scrape(t, address); status != http.StatusOK || !strings.Contains(text, `_size_bytes{id="`+id+`"`) {
				t.Errorf("status %d: %s", status, text)
			}
		})
	}
	wg.Wait()

	// The port is taken, which is found before anything else is done.
	out, err := exec.Command("rbtrace", "query", "--listen", address).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitError || string(out) != "rbtrace: listening on "+address+": another program does already: end it, or choose another port\n" {
		t.Errorf("a port in use: %v: %s", err, out)
	}

	// The exporter does not keep the ring of an owner that has ended.
	if status := owner.end(t, syscall.SIGTERM); status != exitComplete {
		t.Errorf("the owner lost something: status %d: %s", status, owner.errors.String())
	}
	awaitThat(t, "the end of the ring's series", func() bool {
		status, text := scrape(t, address)
		if status != http.StatusOK {
			t.Fatalf("status %d: %s", status, text)
		}
		return len(series(t, text, id)) == 0
	})
	// The client has kept its connections, as Prometheus does: they are not waited for.
	if status := exporter.end(t, syscall.SIGTERM); status != exitComplete || strings.Count(exporter.errors.String(), "\n") != 1 {
		t.Errorf("status %d: %s", status, exporter.errors.String())
	}
}

// What is selected is what is exported. Where that is no more, scrapes fail.
func TestListenSelection(t *testing.T) {
	requireQuery(t)
	owner, other := startOwner(t), startOwner(t)
	exporter, address := startExporter(t, "--pid", strconv.Itoa(owner.Process.Pid), "--look", "0")
	status, text := scrape(t, address)
	if status != http.StatusOK || !strings.Contains(text, "rbtrace_ringbufs 1\n") || !strings.Contains(text, fmt.Sprintf("pid=%q", strconv.Itoa(owner.Process.Pid))) ||
		strings.Contains(text, fmt.Sprintf("pid=%q", strconv.Itoa(other.Process.Pid))) {
		t.Errorf("status %d: %s", status, text)
	}
	owner.end(t, syscall.SIGTERM)
	reason := fmt.Sprintf("there is no process %d\n", owner.Process.Pid)
	for range 2 {
		if status, text := scrape(t, address); status != http.StatusInternalServerError || !strings.Contains(text, reason) {
			t.Errorf("status %d: %s", status, text)
		}
	}
	if status := exporter.end(t, syscall.SIGINT); status != exitComplete {
		t.Errorf("status %d", status)
	}
	if said := exporter.errors.String(); strings.Count(said, reason) != 1 || strings.Count(said, "\n") != 2 {
		t.Errorf("standard error: %s", said)
	}
}

// Rings that may not be seen are not passed over: all would look well.
func TestListenWithoutPrivileges(t *testing.T) {
	requireQuery(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv (util-linux) is missing")
	}
	exporter, address := listening(t, "setpriv", "--bounding-set=-all", "--inh-caps=-all", "rbtrace", "query", "--listen", "0")
	if status, text := scrape(t, address); status != http.StatusInternalServerError || !strings.Contains(text, "missing CAP_SYS_ADMIN") {
		t.Errorf("status %d: %s", status, text)
	}
	if status := exporter.end(t, syscall.SIGHUP); status != exitComplete {
		t.Errorf("status %d: %s", status, exporter.errors.String())
	}
}

// Nothing remains in the kernel of an exporter that was killed.
func TestListenKilled(t *testing.T) {
	requireQuery(t)
	owner := startOwner(t)
	ring := ebpf.MapID(queryJSON(t, owner.Process.Pid).ID)
	exporter, address := startExporter(t, "--source", "helper")
	if status, text := scrape(t, address); status != http.StatusOK || !strings.Contains(text, `source="helper"`) {
		t.Fatalf("status %d: %s", status, text)
	}
	maps, programs := held(t, exporter.Process.Pid)
	if len(maps) == 0 {
		t.Error("the exporter holds nothing while it asks by the helper: this test sees too little")
	}
	exporter.end(t, syscall.SIGKILL)
	owner.end(t, syscall.SIGTERM)
	for _, id := range append(maps, ring) {
		awaitThat(t, fmt.Sprintf("the end of map %d", id), func() bool {
			m, err := ebpf.NewMapFromID(id)
			_ = m.Close()
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	for _, id := range programs {
		awaitThat(t, fmt.Sprintf("the end of program %d", id), func() bool {
			p, err := ebpf.NewProgramFromID(id)
			_ = p.Close()
			return errors.Is(err, fs.ErrNotExist)
		})
	}
}

// held returns the maps and programs that a process holds descriptors of.
func held(t *testing.T, pid int) (maps []ebpf.MapID, programs []ebpf.ProgramID) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("the descriptors of %d: %v", pid, err)
	}
	for _, file := range files {
		info, _ := os.ReadFile(file) // closed meanwhile
		for line := range strings.Lines(string(info)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			switch {
			case err != nil:
			case key == "map_id":
				maps = append(maps, ebpf.MapID(n))
			case key == "prog_id":
				programs = append(programs, ebpf.ProgramID(n))
			}
		}
	}
	return maps, programs
}

func sameElements(a, b []string) bool {
	count := make(map[string]int)
	for _, s := range a {
		count[s]++
	}
	for _, s := range b {
		count[s]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
