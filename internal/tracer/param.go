// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rbtrace/rbtrace/internal/field"
)

// Param is a flag of one tracer's own: a filter. Its value becomes constants of
// the BPF programs, so it filters in the kernel. The zero value of those constants
// lets everything pass.
type Param struct {
	Name  string // the flag, without dashes
	Short string // one letter, or empty
	Value string // what the help calls the value: PORT
	Usage string
	// Column is the key of the column that replay filters by. Empty: replay does not
	// have the flag.
	Column string
	// Or is the key of another one: replay shows an event where either is as wanted. Empty: there is none.
	Or string
	// Const is the C constant that takes the value: an integer, or an array that has
	// room for a text of Max bytes and a NUL. Empty: Text.Constants are all.
	Const string
	// Max is the largest number (the smallest is 1), or the most bytes of a text (the
	// fewest are 1).
	Max uint64
	// Text says that the value is a text. nil: it is a number.
	Text *Text
	// Enum says that the number is one of those that begin at 0 and have names. It
	// returns the number of a name. Const takes one more, as its 0 lets everything
	// pass.
	Enum func(name string) (n uint64, ok bool)
	// Duration says that the number is a time, in ns, which people write with its unit
	// (10ms). It may be 0, and replay shows events whose Column is no shorter.
	Duration bool
	// Default is the value where the flag is not given. Empty: its constants stay zero.
	Default string
}

// LibraryParam is the Name of the Param that Library returns.
const LibraryParam = "lib"

// Library returns the Param of tracers with a hook of the kind Uprobe: it names the
// file to take instead of those that Program.Files finds. It sets no constants.
func Library() Param {
	return Param{
		Name: LibraryParam, Value: "FILE", Max: 4095, Text: &Text{},
		Usage: "the functions of this `FILE` alone: a path, or a library's name (libssl.so.1.1)",
	}
}

// Text is what a Param needs to know of a text, beside its length.
type Text struct {
	// Check returns an error where the text is no value. nil: any is.
	Check func(text string) error
	// Here returns an error where this machine has nothing of that name, so that nothing
	// would be shown. Replay does not ask. nil: there is nothing to ask.
	Here func(text string) error
	// Constants are more constants that follow from the text. nil: none.
	Constants func(text string) map[string]any
	// Match reports whether replay shows an event with that value in Column.
	Match func(value field.Value, text string) bool
}

// Check returns an error where text is no value for p.
func (p *Param) Check(text string) error {
	_, err := p.Constants(text)
	return err
}

// Constants returns the constants that p sets when its value is text.
func (p *Param) Constants(text string) (map[string]any, error) {
	if p.Enum != nil {
		n, ok := p.number(text)
		if !ok {
			return nil, fmt.Errorf("want a name, or a number up to %d", p.Max)
		}
		return map[string]any{p.Const: n + 1}, nil
	}
	if p.Duration {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || uint64(d) > p.Max {
			return nil, fmt.Errorf("want a time with its unit, such as 10ms or 500us, of at most %v", time.Duration(p.Max))
		}
		return map[string]any{p.Const: uint64(d)}, nil
	}
	if p.Text == nil {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 || n > p.Max {
			return nil, fmt.Errorf("want a number from 1 to %d", p.Max)
		}
		return map[string]any{p.Const: n}, nil
	}
	switch {
	case text == "":
		return nil, fmt.Errorf("want a text that is not empty")
	case uint64(len(text)) > p.Max:
		return nil, fmt.Errorf("want at most %d bytes, not %d", p.Max, len(text))
	case strings.ContainsRune(text, 0):
		return nil, fmt.Errorf("a NUL is in no such text")
	}
	if p.Text.Check != nil {
		if err := p.Text.Check(text); err != nil {
			return nil, err
		}
	}
	constants := make(map[string]any)
	if p.Text.Constants != nil {
		constants = p.Text.Constants(text)
	}
	if p.Const == "" {
		return constants, nil
	}
	constants[p.Const] = append([]byte(text), make([]byte, int(p.Max)+1-len(text))...)
	return constants, nil
}

// number returns the number that text stands for in an enumeration.
func (p *Param) number(text string) (uint64, bool) {
	if n, ok := p.Enum(text); ok {
		return n, true
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil && n <= p.Max
}

// Match reports whether replay shows an event whose Column has that value, when
// the flag's value is text.
func (p *Param) Match(value field.Value, text string) bool {
	switch {
	case p.Text != nil:
		return p.Text.Match(value, text)
	case p.Duration:
		latency, ok := value.(*field.Latency)
		d, err := time.ParseDuration(text)
		return ok && err == nil && time.Duration(*latency) >= d
	}
	if p.Enum != nil {
		want, _ := p.number(text)
		n, ok := p.number(string(value.AppendText(nil)))
		return ok && n == want
	}
	return string(value.AppendText(nil)) == text
}
