// Package field holds the typed values that events are made of. A value knows how to print itself
// as a table cell and as JSON, and nothing else: which columns there are, how wide, in which order
// is for others to say.
//
// Every method appends to the caller's buffer and allocates nothing when that buffer has room.
// What a traced process chose (names, paths, arguments) is hostile by assumption: whatever the
// bytes are, a cell neither moves the cursor nor hides or reorders a character, two different
// texts never give the same cell, and JSON is valid JSON and valid UTF-8.
package field

import "strconv"

// Value is one cell of an event. A tracer binds Values once, by pointer to the fields of the one
// event struct that it fills again for each record; hence every type T of this package has a *T
// that is a Value. A Value may be printed any number of times, and printing does not change it.
type Value interface {
	// AppendText appends the value as a table cell: one line, safe for a terminal, not padded.
	AppendText(b []byte) []byte
	// AppendJSON appends exactly one JSON value, in valid UTF-8. Its type (string, number, array)
	// depends on the Go type only.
	AppendJSON(b []byte) []byte
}

// Uint16 is a number, printed in decimal.
type Uint16 uint16

// Uint32 is a number, printed in decimal.
type Uint32 uint32

// Uint64 is a number, printed in decimal, in JSON too. A reader that keeps numbers as float64 (jq
// before 1.7, JavaScript) rounds those above 2^53; a value that is an identity rather than a
// quantity is better a Hex.
type Uint64 uint64

// Int32 is a signed number, printed in decimal.
type Int32 int32

// Int64 is a signed number, printed in decimal. See Uint64 about large ones.
type Int64 int64

// Bool is true or false in JSON, yes or no in a table.
type Bool bool

// Hex is a number that is an identity, not a quantity (a kernel address, a socket cookie): printed
// in hexadecimal with 0x, in JSON as a string, for a JSON number above 2^53 does not survive every
// reader.
type Hex uint64

// AppendText implements Value.
func (v Uint16) AppendText(b []byte) []byte { return strconv.AppendUint(b, uint64(v), 10) }

// AppendJSON implements Value: a number.
func (v Uint16) AppendJSON(b []byte) []byte { return v.AppendText(b) }

// AppendText implements Value.
func (v Uint32) AppendText(b []byte) []byte { return strconv.AppendUint(b, uint64(v), 10) }

// AppendJSON implements Value: a number.
func (v Uint32) AppendJSON(b []byte) []byte { return v.AppendText(b) }

// AppendText implements Value.
func (v Uint64) AppendText(b []byte) []byte { return strconv.AppendUint(b, uint64(v), 10) }

// AppendJSON implements Value: a number.
func (v Uint64) AppendJSON(b []byte) []byte { return v.AppendText(b) }

// AppendText implements Value.
func (v Int32) AppendText(b []byte) []byte { return strconv.AppendInt(b, int64(v), 10) }

// AppendJSON implements Value: a number.
func (v Int32) AppendJSON(b []byte) []byte { return v.AppendText(b) }

// AppendText implements Value.
func (v Int64) AppendText(b []byte) []byte { return strconv.AppendInt(b, int64(v), 10) }

// AppendJSON implements Value: a number.
func (v Int64) AppendJSON(b []byte) []byte { return v.AppendText(b) }

// AppendText implements Value.
func (v Bool) AppendText(b []byte) []byte {
	if v {
		return append(b, "yes"...)
	}
	return append(b, "no"...)
}

// AppendJSON implements Value: true or false.
func (v Bool) AppendJSON(b []byte) []byte { return strconv.AppendBool(b, bool(v)) }

// AppendText implements Value.
func (v Hex) AppendText(b []byte) []byte {
	return strconv.AppendUint(append(b, "0x"...), uint64(v), 16)
}

// AppendJSON implements Value: a string.
func (v Hex) AppendJSON(b []byte) []byte {
	return append(v.AppendText(append(b, '"')), '"')
}
