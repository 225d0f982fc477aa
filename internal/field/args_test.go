package field

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var argsCases = []struct {
	raw        string
	argc       uint32
	text, json string
	truncated  bool
}{
	{"", 0, ``, `[]`, false},
	{"\x00", 1, `""`, `[""]`, false},
	{"\x00\x00", 2, `"" ""`, `["",""]`, false},
	{"a\x00\x00b\x00", 3, `a "" b`, `["a","","b"]`, false},
	{"ls\x00-l\x00", 2, `ls -l`, `["ls","-l"]`, false},

	// Truncated: inside an argument, between two, before the first.
	{"ls\x00-", 2, `ls -…`, `["ls","-"]`, true},
	{"ls\x00-l", 2, `ls -l…`, `["ls","-l"]`, true}, // all there perhaps, but who knows
	{"ls\x00-l", 9, `ls -l…`, `["ls","-l"]`, true},
	{"ls\x00-l\x00", 3, `ls -l …`, `["ls","-l"]`, true},
	{"ls\x00\x00", 3, `ls "" …`, `["ls",""]`, true},
	{"", 1, `…`, `[]`, true},
	{"l", 1, `l…`, `["l"]`, true},
	{"sh\x00a b", 2, `sh "a b"…`, `["sh","a b"]`, true},
	{"é\x00\xc3", 2, `é "\xc3"…`, `["é","` + "\uFFFD" + `"]`, true},
	{"x\x00", 1<<32 - 1, `x …`, `["x"]`, true},

	// More in Raw than there are arguments: a record's padding.
	{"a\x00\x00\x00\x00", 1, `a`, `["a"]`, false},
	{"a\x00b\x00", 1, `a`, `["a"]`, false},
	{"a\x00", 0, ``, `[]`, false},
	{"a\x00b", 1, `a`, `["a"]`, false},

	// Boundaries must show.
	{"a b\x00c\x00", 2, `"a b" c`, `["a b","c"]`, false},
	{"a\x00b c\x00", 2, `a "b c"`, `["a","b c"]`, false},
	{"a'b\x00" + `c"d` + "\x00" + `e\f` + "\x00", 3, `"a'b" "c\"d" "e\\f"`, `["a'b","c\"d","e\\f"]`, false},
	{`""` + "\x00", 1, `"\"\""`, `["\"\""]`, false},
	{"a\tb\nc\x00", 1, `"a\tb\nc"`, `["a\tb\nc"]`, false},
	{"\x1b]0;x\x07\x00\u009b\x00\u202e\x00", 3, `"\x1b]0;x\x07" "\u009b" "\u202e"`, `["\u001b]0;x\u0007","\u009b","\u202e"]`, false},
	{"a…\x00…\x00", 2, `"a…" "…"`, `["a…","…"]`, false},
	{"日本\x00日 本\x00日'\x00👩\u200d🚀\x00", 4, `日本 "日 本" "日'" "👩\u200d🚀"`, `["日本","日 本","日'","👩\u200d🚀"]`, false},
	{"e\u0301\x00\u0301\x00", 2, "e\u0301 \"\\u0301\"", "[\"e\u0301\",\"\u0301\"]", false},
	{"$HOME;`x`|&*\x00", 1, "$HOME;`x`|&*", "[\"$HOME;`x`|&*\"]", false},
}

func TestArgs(t *testing.T) {
	for _, c := range argsCases {
		a := Args{Raw: []byte(c.raw), Argc: c.argc}
		check(t, &a, c.text, c.json)
		if got := a.Truncated(); got != c.truncated {
			t.Errorf("Truncated of %q, %d: %v", c.raw, c.argc, got)
		}
		checkArgs(t, []byte(c.raw), c.argc)
	}
	checkArgs(t, bytes.Repeat([]byte("long \xff\x00x\x00\x00"), 1<<14), 3<<14)
}

func FuzzArgs(f *testing.F) {
	for _, c := range argsCases {
		f.Add([]byte(c.raw), c.argc)
	}
	for _, c := range textCases {
		f.Add([]byte(c.in+"\x00"+c.in), uint32(2))
	}
	f.Fuzz(checkArgs)
}

// checkArgs asserts of raw and argc what Args promises for any of them.
func checkArgs(t *testing.T, raw []byte, argc uint32) {
	t.Helper()
	before := bytes.Clone(raw)
	a := Args{Raw: raw, Argc: argc}

	// What is to come out, by the plainest means.
	want := strings.SplitAfter(string(raw), "\x00")
	if want[len(want)-1] == "" {
		want = want[:len(want)-1]
	}
	if uint64(len(want)) > uint64(argc) {
		want = want[:argc]
	}
	missing, cut := uint64(len(want)) < uint64(argc), false
	for i, arg := range want {
		var whole bool
		want[i], whole = strings.CutSuffix(arg, "\x00")
		cut = cut || !whole
	}
	if a.Truncated() != (missing || cut) {
		t.Fatalf("Truncated of %q, %d: %v", raw, argc, a.Truncated())
	}

	cell := a.AppendText(nil)
	checkCell(t, cell)
	got, mark := parseArgs(t, string(cell))
	if !slices.Equal(got, want) {
		t.Fatalf("cell %q of %q, %d reads back as %q, want %q", cell, raw, argc, got, want)
	}
	wantMark := ""
	switch {
	case cut:
		wantMark = "cut"
	case missing:
		wantMark = "missing"
	}
	if mark != wantMark {
		t.Fatalf("cell %q of %q, %d is marked %q, want %q", cell, raw, argc, mark, wantMark)
	}

	out := a.AppendJSON(nil)
	checkJSON(t, out)
	var list []string
	if err := json.Unmarshal(out, &list); err != nil || list == nil {
		t.Fatalf("JSON %q of %q, %d: %v", out, raw, argc, err)
	}
	for i := range want {
		want[i] = string([]rune(want[i]))
	}
	if !slices.Equal(list, want) {
		t.Fatalf("JSON %q of %q, %d reads back as %q, want %q", out, raw, argc, list, want)
	}

	if !bytes.Equal(raw, before) {
		t.Fatalf("printing %q changed it to %q", before, raw)
	}
}

// parseArgs reads a cell back as a person would.
func parseArgs(t *testing.T, cell string) (args []string, mark string) {
	t.Helper()
	if cell == "" {
		return nil, ""
	}
	for {
		if cell == "…" {
			return args, "missing"
		}
		var arg string
		if strings.HasPrefix(cell, `"`) {
			quoted, err := strconv.QuotedPrefix(cell)
			if err != nil {
				t.Fatalf("quotes in %q: %v", cell, err)
			}
			arg, cell = unescape(t, quoted[1:len(quoted)-1], '"'), cell[len(quoted):]
		} else {
			n := strings.IndexAny(cell, " …")
			if n < 0 {
				n = len(cell)
			}
			arg, cell = cell[:n], cell[n:]
			if arg == "" || strings.ContainsAny(arg, `"'\`) {
				t.Fatalf("argument %q stands without quotes", arg)
			}
		}
		args = append(args, arg)
		switch {
		case cell == "":
			return args, ""
		case cell == "…":
			return args, "cut"
		case cell[0] != ' ':
			t.Fatalf("%q where a space should be", cell)
		}
		cell = cell[1:]
	}
}
