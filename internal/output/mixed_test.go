// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strconv"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

// Whatever is in the values, where each of them begins and ends can be told.
func TestDetails(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{"/a", "/b", `old=/a new=/b`},
		{"", "/b", `new=/b`},
		{"/a", "", `old=/a`},
		{"/a b", "/c d", `old="/a b" new=/c d`},
		{`/a"b`, `/c"d`, `old="/a\"b" new=/c"d`},
		{`/a" new="/b`, "/c", `old="/a\" new=\"/b" new=/c`},
		{`/a\`, "/c", `old=/a\\ new=/c`},
		{`/a b\`, "/c", `old="/a b\\" new=/c`},
		{`/a\"b`, "/c", `old="/a\\\"b" new=/c`},
		{"/a", "/b old=/c", `old=/a new="/b old=/c"`},
		{"/a", "/b\told=/c", `old=/a new=/b\told=/c`},
	} {
		older, newer := field.Text(test.old), field.Text(test.new)
		d := details{names: []string{"old", "new"}, values: []field.Value{&older, &newer}, voids: []string{"", ""}}
		if got := string(d.AppendText(nil)); got != test.want {
			t.Errorf("%q, %q: %s, want %s", test.old, test.new, got, test.want)
		}
	}
}

// TestDetailsVoid: what says nothing is left out, and nothing else.
func TestDetailsVoid(t *testing.T) {
	fd, errno, core, flags := field.Int32(-1), field.Errno(0), field.Bool(false), field.Text("-")
	d := details{
		names: []string{"fd", "err", "core", "flags"}, values: []field.Value{&fd, &errno, &core, &flags}, voids: []string{"-1", "0", "no", ""},
	}
	if got := string(d.AppendText(nil)); got != "flags=-" {
		t.Errorf("all of them void: %s", got)
	}
	fd, errno, core = 0, -2, true
	if got := string(d.AppendText(nil)); got != "fd=0 err=ENOENT core=yes flags=-" {
		t.Errorf("none of them void: %s", got)
	}
}

// What stands in quotes reads as the text does where it stands without, as Go reads strings.
func TestAppendQuoted(t *testing.T) {
	for _, text := range []string{"", `"`, `\"`, `\\"`, `\\\"`, "a b", "\x1b[31m \xff\t", `sh -c "a \"b\" c" \`} {
		quoted := appendQuoted(nil, field.AppendTextEscaped(nil, []byte(text)))
		if got, err := strconv.Unquote(string(quoted)); err != nil || got != text {
			t.Errorf("%q becomes %s, which reads as %q (%v)", text, quoted, got, err)
		}
	}
}
