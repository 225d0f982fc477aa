package field_test

import (
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

func TestOpenFlags(t *testing.T) {
	for _, test := range []struct {
		flags      field.OpenFlags
		text, json string
	}{
		{0, "O_RDONLY", `["O_RDONLY"]`},
		{1, "O_WRONLY", `["O_WRONLY"]`},
		{2, "O_RDWR", `["O_RDWR"]`},
		{3, "O_ACCMODE", `["O_ACCMODE"]`},
		{0x80000, "O_RDONLY|O_CLOEXEC", `["O_RDONLY","O_CLOEXEC"]`},
		{0x241, "O_WRONLY|O_CREAT|O_TRUNC", `["O_WRONLY","O_CREAT","O_TRUNC"]`},
		{0x90800, "O_RDONLY|O_NONBLOCK|O_DIRECTORY|O_CLOEXEC", `["O_RDONLY","O_NONBLOCK","O_DIRECTORY","O_CLOEXEC"]`},
		// Those of several bits, and the bits alone.
		{0x410002, "O_RDWR|O_TMPFILE", `["O_RDWR","O_TMPFILE"]`},
		{0x400002, "O_RDWR|__O_TMPFILE", `["O_RDWR","__O_TMPFILE"]`},
		{0x101001, "O_WRONLY|O_SYNC", `["O_WRONLY","O_SYNC"]`},
		{0x001001, "O_WRONLY|O_DSYNC", `["O_WRONLY","O_DSYNC"]`},
		{0x100001, "O_WRONLY|__O_SYNC", `["O_WRONLY","__O_SYNC"]`},
		{0x80000000_00000024, "O_RDONLY|0x8000000000000024", `["O_RDONLY","0x8000000000000024"]`},
		{
			0x7fffc1,
			"O_WRONLY|O_CREAT|O_EXCL|O_NOCTTY|O_TRUNC|O_APPEND|O_NONBLOCK|O_SYNC|O_ASYNC|O_DIRECT|O_LARGEFILE|O_TMPFILE|O_NOFOLLOW|O_NOATIME|O_CLOEXEC|O_PATH",
			`["O_WRONLY","O_CREAT","O_EXCL","O_NOCTTY","O_TRUNC","O_APPEND","O_NONBLOCK","O_SYNC","O_ASYNC","O_DIRECT","O_LARGEFILE","O_TMPFILE","O_NOFOLLOW","O_NOATIME","O_CLOEXEC","O_PATH"]`,
		},
	} {
		if got := string(test.flags.AppendText([]byte("x"))); got != "x"+test.text {
			t.Errorf("%#x as text is %s", uint64(test.flags), got)
		}
		if got := string(test.flags.AppendJSON([]byte("x"))); got != "x"+test.json {
			t.Errorf("%#x as JSON is %s", uint64(test.flags), got)
		}
	}
}

func TestResolveFlags(t *testing.T) {
	for _, test := range []struct {
		flags      field.ResolveFlags
		text, json string
	}{
		{0, "-", `[]`},
		{0x8, "RESOLVE_BENEATH", `["RESOLVE_BENEATH"]`},
		{0x40, "0x40", `["0x40"]`},
		{
			0x137, "RESOLVE_NO_XDEV|RESOLVE_NO_MAGICLINKS|RESOLVE_NO_SYMLINKS|RESOLVE_IN_ROOT|RESOLVE_CACHED|0x100",
			`["RESOLVE_NO_XDEV","RESOLVE_NO_MAGICLINKS","RESOLVE_NO_SYMLINKS","RESOLVE_IN_ROOT","RESOLVE_CACHED","0x100"]`,
		},
	} {
		if got := string(test.flags.AppendText([]byte("x"))); got != "x"+test.text {
			t.Errorf("%#x as text is %s", uint32(test.flags), got)
		}
		if got := string(test.flags.AppendJSON([]byte("x"))); got != "x"+test.json {
			t.Errorf("%#x as JSON is %s", uint32(test.flags), got)
		}
	}
}

func TestMode(t *testing.T) {
	for _, test := range []struct {
		mode       field.Mode
		text, json string
	}{
		{field.Mode{}, "-", `""`},
		{field.Mode{Bits: 0o644}, "-", `""`},
		{field.Mode{Given: true}, "0000", `"0000"`},
		{field.Mode{Bits: 0o7, Given: true}, "0007", `"0007"`},
		{field.Mode{Bits: 0o70, Given: true}, "0070", `"0070"`},
		{field.Mode{Bits: 0o644, Given: true}, "0644", `"0644"`},
		{field.Mode{Bits: 0o4755, Given: true}, "04755", `"04755"`},
		{field.Mode{Bits: 1<<32 - 1, Given: true}, "037777777777", `"037777777777"`},
	} {
		if got := string(test.mode.AppendText([]byte("x"))); got != "x"+test.text {
			t.Errorf("%+v as text is %s", test.mode, got)
		}
		if got := string(test.mode.AppendJSON([]byte("x"))); got != "x"+test.json {
			t.Errorf("%+v as JSON is %s", test.mode, got)
		}
	}
}
