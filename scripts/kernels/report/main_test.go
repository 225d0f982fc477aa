package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// logs of machines, as init writes them. In the output of a test, \x16 is how package testing marks its own lines.
const (
	started = "#kernel 6.1.0 2.50\n#begin example.org/p\n"
	ended   = "#end example.org/p 0 1.50\n#done 1\n"
	passes  = "|\x16=== RUN   TestA\n|\x16--- PASS: TestA (0.25s)\n|\x16=== NAME  \n|\x16PASS\n"
)

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name     string
		manifest string // the arguments of the test binary
		tests    string
		console  string
		status   string
		want     tally
		says     string
	}{
		{
			name:  "passing",
			tests: started + passes + ended,
			want:  tally{passed: 1},
			says:  "PASS  p TestA (0.25s)\n-- 6.1: 1 passed, 0 failed, 0 skipped\n\n  seconds  6.1\n        p    2\n      all    2\n\n1 passed, 0 failed, 0 skipped\n",
		},
		{
			name: "skipped",
			tests: started + "|\x16=== RUN   TestA\n|    a_test.go:7: a remark\n|    a_test.go:9: needs Linux 6.19,\n" +
				"|        a newer one\n|\x16--- SKIP: TestA (0.00s)\n|\x16=== NAME  \n|\x16PASS\n" + ended,
			want: tally{skipped: 1},
			says: "SKIP  p TestA: needs Linux 6.19, a newer one\n",
		},
		{
			name: "failing subtest",
			tests: started + "|\x16=== RUN   TestA\n|\x16=== RUN   TestA/x\n|    a_test.go:7: broken\n" +
				"|\x16--- FAIL: TestA/x (0.10s)\n|\x16=== RUN   TestA/y\n|\x16--- PASS: TestA/y (0.10s)\n" +
				"|\x16--- FAIL: TestA (0.20s)\n|\x16=== NAME  \n|\x16FAIL\n#end example.org/p 1 1.50\n#done 1\n",
			want: tally{passed: 1, failed: 1},
			says: "FAIL  p TestA/x (0.10s)\n          a_test.go:7: broken\nPASS  p TestA/y (0.10s)\n",
		},
		{
			name: "output that looks like a record",
			tests: started + "|\x16=== RUN   TestA\n|#end example.org/p 0 1.50\n|#done 1\n" +
				"|\x16--- FAIL: TestA (0.00s)\n|\x16=== NAME  \n|\x16FAIL\n#end example.org/p 1 1.50\n#done 1\n",
			want: tally{failed: 1},
			says: "FAIL  p TestA",
		},
		{
			name:    "kernel panic",
			tests:   started + "|\x16=== RUN   TestA\n",
			console: "[ 1.0] Kernel panic - not syncing: Fatal exception\r\n",
			want:    tally{failed: 3}, // test, package and machine
			says:    "FAIL  machine: ended before all packages had run; kernel panic\n",
		},
		{
			name:  "kernel panic in the middle of a record",
			tests: started + passes + "#end example.org/p 0",
			want:  tally{passed: 1, failed: 2},
			says:  "FAIL  p: did not end\n",
		},
		{
			name:   "timeout",
			tests:  started + "|\x16=== RUN   TestA\n",
			status: "124",
			want:   tally{failed: 3},
			says:   "FAIL  machine: still running when its time was over",
		},
		{
			name:  "test panic",
			tests: started + "|\x16=== RUN   TestA\n|panic: boom\n|\n#end example.org/p 2 1.50\n#done 1\n",
			want:  tally{failed: 1},
			says:  "FAIL  p TestA (0.00s): did not end\n      panic: boom\n",
		},
		{
			name:  "TestMain objects",
			tests: started + passes + "|leaked\n#end example.org/p 1 1.50\n#done 1\n",
			want:  tally{passed: 1, failed: 1},
			says:  "FAIL  p: exit status 1, though no test failed\n      leaked\n",
		},
		{
			name:  "killed",
			tests: started + passes + "#end example.org/p 137 1.50\n#done 1\n",
			want:  tally{passed: 1, failed: 1},
			says:  "FAIL  p: killed by signal 9\n",
		},
		{
			name:  "exit without running",
			tests: started + ended,
			want:  tally{failed: 1},
			says:  "FAIL  p: exit status 0, but it did not report PASS\n",
		},
		{
			name:  "no tests",
			tests: started + "|testing: warning: no tests to run\n|\x16=== NAME  \n|\x16PASS\n" + ended,
			want:  tally{failed: 1},
			says:  "FAIL  p: no test ran\n",
		},
		{
			name:     "no tests match",
			manifest: "\t-test.run=Nothing",
			tests:    started + "|testing: warning: no tests to run\n|\x16=== NAME  \n|\x16PASS\n" + ended,
			want:     tally{failed: 1},
			says:     "FAIL  no test ran\n",
		},
		{
			name:  "package missing",
			tests: "#kernel 6.1.0 2.50\n#done 0\n",
			want:  tally{failed: 1},
			says:  "FAIL  p: did not run\n",
		},
		{
			name:  "set-up failed",
			tests: "#kernel 6.1.0 2.50\n#error mounting tracefs: no such device\n",
			want:  tally{failed: 2},
			says:  "FAIL  machine: mounting tracefs: no such device; ended before all packages had run\n",
		},
		{
			name:   "QEMU fails",
			status: "1",
			want:   tally{failed: 2},
			says:   "== 6.1: no sign of life\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			status := tt.status
			if status == "" {
				status = "0"
			}
			machine := filepath.Join(dir, "6.1")
			for name, data := range map[string]string{
				"manifest":        "example.org/p\tp\t-test.v=test2json" + tt.manifest + "\n",
				"6.1/tests.log":   tt.tests,
				"6.1/console.log": tt.console,
				"6.1/status":      status + "\n",
			} {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			got, err := report(t.Context(), &out, filepath.Join(dir, "manifest"), []string{machine})
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("counted %v, want %v", got, tt.want)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("the report does not say %q", tt.says)
			}
			if !strings.HasSuffix(out.String(), fmt.Sprintf("\n%v\n", tt.want)) {
				t.Error("the report does not end with the counts")
			}
			if t.Failed() {
				t.Logf("report:\n%s", &out)
			}
		})
	}
}

// TestSummary: of a kernel that ran the tests three times, how often each failed, and how long a package took at the most.
func TestSummary(t *testing.T) {
	const fails = "|\x16=== RUN   TestA\n|\x16--- FAIL: TestA (0.25s)\n|\x16=== NAME  \n|\x16FAIL\n"
	dir := t.TempDir()
	manifest := filepath.Join(dir, "manifest")
	write := func(name, data string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("manifest", "example.org/p\tp\n")
	var dirs []string
	for label, log := range map[string]string{
		"6.1+1":    started + fails + "#end example.org/p 1 7.40\n#done 1\n",
		"6.1+2":    started + passes + "#end example.org/p 0 61.40\n#done 1\n",
		"6.1+3":    started + fails + "#end example.org/p 1 2.00\n#done 1\n",
		"newest+1": started + passes + "#end example.org/p 0 3.00\n#done 1\n",
	} {
		write(label+"/tests.log", log)
		write(label+"/status", "0\n")
		dirs = append(dirs, filepath.Join(dir, label))
	}
	slices.Sort(dirs)
	write("newest+1/again", "")
	var out strings.Builder
	if _, err := report(t.Context(), &out, manifest, dirs); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"      booted once more: the first time it ended before any test began",
		`FAILED  p TestA: 2 of 3 on 6.1
  seconds  6.1  newest
        p  !61       3
      all   61       3
WARNING: p took 61 s on 6.1, its budget is 60 s

2 passed, 2 failed, 0 skipped
`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
}
