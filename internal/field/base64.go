package field

import "encoding/base64"

// Base64 is a string of bytes that are no text, or may be none: printed in the standard encoding
// of RFC 4648. It is often a view of ring memory: see Text.
type Base64 []byte

// AppendText implements Value.
func (v Base64) AppendText(b []byte) []byte { return base64.StdEncoding.AppendEncode(b, v) }

// AppendJSON implements Value: a string.
func (v Base64) AppendJSON(b []byte) []byte {
	return append(v.AppendText(append(b, '"')), '"')
}
