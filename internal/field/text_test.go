package field

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

var textCases = []struct{ name, in, text, json string }{
	{"empty", "", ``, `""`},
	{"plain", "/usr/bin/env", `/usr/bin/env`, `"/usr/bin/env"`},
	{"all of plain ASCII", ` !#$%&'()*+,-./09:;<=>?@AZ[]^_` + "`az{|}~", ` !#$%&'()*+,-./09:;<=>?@AZ[]^_` + "`az{|}~", `" !#$%&'()*+,-./09:;<=>?@AZ[]^_` + "`az{|}~\""},
	{"quotes and backslash", `a"b\c`, `a"b\\c`, `"a\"b\\c"`},
	{"escape look-alike", `\x1b`, `\\x1b`, `"\\x1b"`},
	{"no HTML escaping", "<a&b>", `<a&b>`, `"<a&b>"`},
	{"NUL and friends", "\x00\x01\b\f\x1f\x7f", `\x00\x01\x08\x0c\x1f\x7f`, `"\u0000\u0001\u0008\u000c\u001f\u007f"`},
	{"line breaks", "a\nb\rc\td\x0b", `a\nb\rc\td\x0b`, `"a\nb\rc\td\u000b"`},
	{"window title", "\x1b]0;pwned\x07", `\x1b]0;pwned\x07`, `"\u001b]0;pwned\u0007"`},
	{"clear screen", "\x1b[2J\x1b[H", `\x1b[2J\x1b[H`, `"\u001b[2J\u001b[H"`},
	{"C1 in UTF-8", "\u009b31m\u0085\u0080\u009f", `\u009b31m\u0085\u0080\u009f`, `"\u009b31m\u0085\u0080\u009f"`},
	{"C1 as a bare byte", "\x9b31m", `\x9b31m`, `"` + "\uFFFD" + `31m"`},
	{"not UTF-8", "a\xff\xfeb\xc3", `a\xff\xfeb\xc3`, `"a` + "\uFFFD\uFFFD" + `b` + "\uFFFD" + `"`},
	{"U+FFFD itself", "\uFFFD", "\uFFFD", "\"\uFFFD\""},
	{"surrogate", "\xed\xa0\x80", `\xed\xa0\x80`, `"` + strings.Repeat("\uFFFD", 3) + `"`},
	{"overlong slash", "\xc0\xaf", `\xc0\xaf`, `"` + strings.Repeat("\uFFFD", 2) + `"`},
	{"overlong ESC", "\xe0\x80\x9b", `\xe0\x80\x9b`, `"` + strings.Repeat("\uFFFD", 3) + `"`},
	{"above U+10FFFF", "\xf4\x90\x80\x80", `\xf4\x90\x80\x80`, `"` + strings.Repeat("\uFFFD", 4) + `"`},
	{"right-to-left override", "cod\u202etxt.exe", `cod\u202etxt.exe`, `"cod\u202etxt.exe"`},
	{"bidi isolates", "\u2066\u2069\u200f", `\u2066\u2069\u200f`, `"\u2066\u2069\u200f"`},
	{"separators", "\u2028\u2029", `\u2028\u2029`, `"\u2028\u2029"`},
	{"zero width", "a\u200bb\ufeff\u00ad\u2060", `a\u200bb\ufeff\u00ad\u2060`, `"a\u200bb\ufeff\u00ad\u2060"`},
	{"spaces that are not U+0020", "\u00a0\u3000\u2003", `\u00a0\u3000\u2003`, `"\u00a0\u3000\u2003"`},
	{"letters drawn as nothing", "\u3164\u115f\u2800\ufe0f\u034f", `\u3164\u115f\u2800\ufe0f\u034f`, `"\u3164\u115f\u2800\ufe0f\u034f"`},
	{"tags", "\U000e0041\U000e0100", `\U000e0041\U000e0100`, `"\udb40\udc41\udb40\udd00"`},
	{"last code point", "\U0010ffff", `\U0010ffff`, `"\udbff\udfff"`},
	{"private use", "\ue000", `\ue000`, `"\ue000"`},
	{"scripts", "naïve/Привет/日本語/한글/ไทย", "naïve/Привет/日本語/한글/ไทย", "\"naïve/Привет/日本語/한글/ไทย\""},
	{"emoji", "🚀", "🚀", "\"🚀\""},
	{"emoji joined", "👩\u200d🚀", `👩\u200d🚀`, `"👩\u200d🚀"`},
	{"mark on a letter", "e\u0301", "e\u0301", "\"e\u0301\""},
	{"mark on nothing", "\u0301e", `\u0301e`, "\"\u0301e\""},
	{"mark on an escape", "\n\u0301\\\u0301\xff\u0301\u200b\u0301", `\n\u0301\\\u0301\xff\u0301\u200b\u0301`, `"\n` + "\u0301" + `\\` + "\u0301\uFFFD\u0301" + `\u200b` + "\u0301\""},
	{"mark on a quote", "\"\u0301", "\"\u0301", `"\"` + "\u0301\""},
	{"pile of marks", "a" + strings.Repeat("\u0301", 10) + "b", "a" + strings.Repeat("\u0301", 8) + `\u0301\u0301b`, "\"a" + strings.Repeat("\u0301", 10) + "b\""},
}

func TestText(t *testing.T) {
	for _, c := range textCases {
		t.Run(c.name, func(t *testing.T) {
			check(t, new(Text(c.in)), c.text, c.json)
			checkText(t, []byte(c.in))
			// Where in a word of eight bytes something stands must not matter.
			for n := range 17 {
				pad := strings.Repeat("x", n) + "/"
				checkText(t, []byte(pad+c.in+pad))
			}
		})
	}
	long := strings.Repeat("a\x1b\"é\xff", 1<<16)
	checkText(t, []byte(long))
}

// Each byte and each pair of bytes, at each place of a word.
func TestTextBytes(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			s := bytes.Repeat([]byte{'x'}, 20)
			s[at] = byte(c)
			checkText(t, s)
			want := at
			if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
				want = len(s)
			}
			if got := plain(s); got != want {
				t.Fatalf("plain(%q) = %d, want %d", s, got, want)
			}
		}
	}
	s := []byte("xxxxxxxx")
	for c := range 1 << 16 {
		s[3], s[4] = byte(c), byte(c>>8)
		got, want := plain(s), 0
		for want < len(s) && s[want] >= ' ' && s[want] < 0x7f && s[want] != '"' && s[want] != '\\' {
			want++
		}
		if got != want {
			t.Fatalf("plain(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestComm(t *testing.T) {
	check(t, &Comm{}, "", `""`)
	check(t, &Comm{'b', 'a', 's', 'h'}, "bash", `"bash"`)
	check(t, &Comm{'b', 'a', 's', 'h', 0, 0x1b, 'x'}, "bash", `"bash"`)
	check(t, &Comm{0x1b, '[', '2', 'J'}, `\x1b[2J`, `"\u001b[2J"`)
	full := Comm([]byte("0123456789abcdef"))
	check(t, &full, "0123456789abcdef", `"0123456789abcdef"`)
	if got := string(full.Bytes()); got != "0123456789abcdef" {
		t.Errorf("Bytes() = %q", got)
	}
}

// visible has short cuts; they must agree with its definition for every character.
func TestVisible(t *testing.T) {
	for r := rune(0x80); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		want := unicode.IsPrint(r) && r != 0x2800 &&
			!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
		if got := visible(r); got != want {
			t.Errorf("visible(%U) = %v, want %v", r, got, want)
		}
		if isMark(r) != unicode.IsMark(r) {
			t.Errorf("isMark(%U) = %v", r, isMark(r))
		}
	}
}

func TestWidth(t *testing.T) {
	for s, want := range map[string]int{
		"":                           0,
		"bash":                       4,
		"/usr/bin/python3.11":        19,
		"é":                          1,
		"e\u0301":                    1,
		"日本語":                        6,
		"/tmp/日本語.txt":               15,
		"한글":                         4,
		"🚀":                          2,
		"1.23µs":                     6,
		"a …":                        3,
		"น้ำ":                        2,
		"क्षि":                       3,
		"👩🏽":                         4,
		"각":                          2,
		"Привет":                     6,
		strings.Repeat("x", 1<<12):   1 << 12,
		"xxxxxxxxxxxxxxxx日":          18,
		"x" + strings.Repeat("語", 9): 19,
	} {
		if got := Width([]byte(s)); got != want {
			t.Errorf("Width(%q) = %d, want %d", s, got, want)
		}
	}
}

// TestWidthOfScripts: text is as wide as the C library says that terminals draw it.
func TestWidthOfScripts(t *testing.T) {
	texts := []string{
		"ภาษาไทย น้ำใจ ก็ดี", "हिन्दी क्षत्रिय में", "தமிழ் மொழி", "বাংলা ভাষা", "ລາວ", "မြန်မာ", "ខ្មែរ", "اَلْعَرَبِيَّةُ", "עִבְרִית",
		"Việt Nam", "한국어", "한글", "日本語のﾃｽﾄ", "中文", "🚀👍🏽❤", "ʀ̈ɛ̃", "①②③", "½ ± µ",
	}
	for _, text := range texts {
		cell := Text(text).AppendText(nil)
		cmd := exec.Command("wc", "-L")
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		cmd.Stdin = bytes.NewReader(cell)
		out, err := cmd.Output()
		if err != nil {
			t.Skip(err)
		}
		if got, want := strconv.Itoa(Width(cell)), strings.TrimSpace(string(out)); got != want {
			t.Errorf("%s takes %s cells, want %s", cell, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, c := range textCases {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, s []byte) { checkText(t, s) })
}

// checkText asserts of s what Text promises for any s.
func checkText(t *testing.T, s []byte) {
	t.Helper()
	before := bytes.Clone(s)

	cell := AppendTextEscaped(nil, s)
	checkCell(t, cell)
	if back := unescape(t, string(cell), 0); back != string(s) {
		t.Fatalf("cell %q of %q reads back as %q", cell, s, back)
	}

	out := AppendJSONString(nil, s)
	checkJSON(t, out)
	var got string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("JSON %q of %q: %v", out, s, err)
	}
	if want := string([]rune(string(s))); got != want { // a rune conversion makes each bad byte U+FFFD
		t.Fatalf("JSON %q of %q reads back as %q, want %q", out, s, got, want)
	}

	if !bytes.Equal(s, before) {
		t.Fatalf("printing %q changed it to %q", before, s)
	}
}

// checkCell asserts that a cell is safe for a terminal.
func checkCell(t *testing.T, cell []byte) {
	t.Helper()
	checkVisible(t, cell)
	if w := Width(cell); w < 0 || w > 2*utf8.RuneCount(cell) {
		t.Fatalf("cell %q has width %d", cell, w)
	}
	if r, _ := utf8.DecodeRune(cell); unicode.IsMark(r) {
		t.Fatalf("cell %q begins with a mark, which its neighbour would get", cell)
	}
}

// checkJSON asserts that out is one line of valid JSON, as safe to look at as a cell.
func checkJSON(t *testing.T, out []byte) {
	t.Helper()
	if !json.Valid(out) {
		t.Fatalf("not JSON: %q", out)
	}
	checkVisible(t, out)
}

func checkVisible(t *testing.T, out []byte) {
	t.Helper()
	if !utf8.Valid(out) {
		t.Fatalf("not UTF-8: %q", out)
	}
	for _, r := range string(out) {
		if !unicode.IsPrint(r) || r > 0x7f && !visible(r) {
			t.Fatalf("%U in %q", r, out)
		}
	}
}

// unescape reads a cell back, by Go's own rules for an escaped string that stands in such quotes, or in none.
func unescape(t *testing.T, cell string, quote byte) string {
	t.Helper()
	var b []byte
	for cell != "" {
		c, multibyte, rest, err := strconv.UnquoteChar(cell, quote)
		if err != nil {
			t.Fatalf("unescaping %q: %v", cell, err)
		}
		if multibyte {
			b = utf8.AppendRune(b, c)
		} else {
			b = append(b, byte(c))
		}
		cell = rest
	}
	return string(b)
}

func TestAppendLinesEscaped(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "",
		"one\n  two\n":                     "one\n  two\n",
		`"a\x1b" is escaped`:               `"a\x1b" is escaped`,
		"a\x1b[31m\nb\u202e\xff\\\r":       "a\\x1b[31m\nb\\u202e\\xff\\\\r",
		"no \u0301\n\u0301 mark on a line": "no \u0301\n\\u0301 mark on a line",
	} {
		if got := string(AppendLinesEscaped(nil, []byte(text))); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
