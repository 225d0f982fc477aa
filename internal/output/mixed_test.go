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
		d := details{names: []string{"old", "new"}, values: []field.Value{&older, &newer}}
		if got := string(d.AppendText(nil)); got != test.want {
			t.Errorf("%q, %q: %s, want %s", test.old, test.new, got, test.want)
		}
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
