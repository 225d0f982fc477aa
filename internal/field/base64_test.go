package field

import "testing"

func TestBase64(t *testing.T) {
	for _, c := range []struct{ bytes, text string }{
		{"", ""},
		{"a", "YQ=="},
		{"\x00\xff\"\\\x1b", "AP8iXBs="},
	} {
		check(t, new(Base64(c.bytes)), c.text, `"`+c.text+`"`)
	}
}
