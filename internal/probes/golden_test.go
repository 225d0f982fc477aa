// SPDX-License-Identifier: Apache-2.0

package probes_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rbtrace/rbtrace/internal/capture"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

var update = flag.Bool("update", false, "write what the recordings show now to the golden files")

// Each tracer has recordings, testdata/*.rbt, which are shown as they always were:
// testdata/NAME.table and NAME.json. docs/recording.md says how they are made.
func TestGolden(t *testing.T) {
	for _, tr := range probes.All() {
		files, err := filepath.Glob(filepath.Join(tr.Name, "testdata", "*.rbt"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			t.Errorf("%s has no recording", tr.Name)
		}
		for _, file := range files {
			t.Run(file, func(t *testing.T) {
				style := field.NewTimeStyle(field.TimeWall, time.UTC)
				var table, json bytes.Buffer
				notice := func(l output.Loss) { t.Errorf("%d events are lost", l.Lost) }
				replay(t, tr, file, style, output.NewTable(&table, style, true, notice))
				replay(t, tr, file, style, output.NewJSON(&json))
				golden(t, file, "table", table.Bytes())
				golden(t, file, "json", json.Bytes())
			})
		}
	}
}

// replay shows a recording of tr, which must be whole.
func replay(t *testing.T, tr *tracer.Tracer, file string, style *field.TimeStyle, sink output.Sink) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Meta.Tracers) != 1 || r.Meta.Tracers[0].Name != tr.Name {
		t.Fatalf("this is a recording of %v", r.Meta.Tracers)
	}
	if err := r.Meta.Tracers[0].Check(tr); err != nil {
		t.Fatalf("%v: make a new recording", err)
	}
	if r.Meta.Host != "golden" {
		t.Errorf("recorded on %q: give the machine the name golden", r.Meta.Host)
	}
	columns := tr.Columns
	if r.Meta.Tracers[0].Failed {
		columns = tr.FailedColumns
	}
	selected, err := tr.Schema().Select(columns, "")
	if err != nil {
		t.Fatal(err)
	}
	c := consumer.NewReplay([]*tracer.Tracer{tr}, [][]int{selected}, style, r.Meta.CPUs, consumer.Options{})
	if table, ok := sink.(*output.Table); ok {
		if err := table.Header(c.Source(0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Replay(t.Context(), r, sink); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) || r.End() == nil {
		t.Errorf("the recording is not whole: %v", err)
	}
	if n := c.Counts(0); n.Printed == 0 || n.Printed != n.Consumed {
		t.Errorf("counts %+v", n)
	}
}

func golden(t *testing.T, recording, kind string, got []byte) {
	t.Helper()
	file := strings.TrimSuffix(recording, "rbt") + kind
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the recording shows (-want +got); run go test ./internal/probes -run Golden -update if it should be:\n%s", file, diff)
	}
}

// Records of one architecture are read on the other: the types that bpf2go makes
// of the C structs are the same.
func TestSameLayout(t *testing.T) {
	folders := []string{"../wire/follow"}
	for _, tr := range probes.All() {
		folders = append(folders, tr.Name+"/bpf")
	}
	for _, prefix := range folders {
		var types [2]string
		for i, arch := range []string{"x86", "arm64"} {
			b, err := os.ReadFile(prefix + "_" + arch + "_bpfel.go")
			if err != nil {
				t.Fatal(err)
			}
			_, after, _ := strings.Cut(string(b), "package ")
			types[i] = strings.ReplaceAll(after, arch+"_bpfel", "ARCH")
		}
		if diff := cmp.Diff(types[0], types[1]); diff != "" {
			t.Errorf("%s differs (-x86 +arm64):\n%s", prefix, diff)
		}
	}
}
