// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"strconv"
	"strings"

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
	// Const is the C constant that takes the value: an integer, or an array that has
	// room for a text of Max bytes and a NUL. Empty: Text.Constants are all.
	Const string
	// Max is the largest number (the smallest is 1), or the most bytes of a text (the
	// fewest are 1).
	Max uint64
	// Text says that the value is a text. nil: it is a number.
	Text *Text
}

// Text is what a Param needs to know of a text, beside its length.
type Text struct {
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

// Match reports whether replay shows an event whose Column has that value, when
// the flag's value is text.
func (p *Param) Match(value field.Value, text string) bool {
	if p.Text != nil {
		return p.Text.Match(value, text)
	}
	return string(value.AppendText(nil)) == text
}
