package field

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/displaywidth"
)

const utf8Self = utf8.RuneSelf

const (
	ones  = 0x0101010101010101 // a byte, times ones, is that byte in all eight places
	highs = 0x80 * ones
)

// plain returns how many bytes at the start of s stand for themselves in a table and in JSON
// alike: ASCII from space to tilde, without `"` and `\`. Nearly all text is nothing but these, so
// it looks at eight bytes at a time.
func plain(s []byte) int {
	i := 0
	for ; len(s)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(s[i:])
		// The top bit of each byte of m says that the byte needs a look. A subtraction borrows from
		// the next byte only below a byte that is flagged itself, so the lowest flag is right.
		m := w // 0x80 and above
		m |= (w - ' '*ones) &^ w
		m |= zeroBytes(w ^ 0x7f*ones)
		m |= zeroBytes(w ^ '"'*ones)
		m |= zeroBytes(w ^ '\\'*ones)
		if m &= highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// zeroBytes sets the top bit of each byte of x that is zero (and perhaps of some above the lowest).
func zeroBytes(x uint64) uint64 { return (x - ones) &^ x }

// decode returns the first character of s, which is not empty, and its length; or -1 and 1 when s
// does not begin with valid UTF-8 (surrogates and overlong forms are not).
func decode(s []byte) (rune, int) {
	r, n := utf8.DecodeRune(s)
	if r == utf8.RuneError && n == 1 {
		return -1, 1
	}
	return r, n
}

// visible tells whether a reader can see that r, not ASCII, is there: a printing character of
// Unicode, without those that are classed as letters, marks or symbols yet drawn as nothing
// (Hangul fillers, variation selectors, the empty Braille pattern).
func visible(r rune) bool {
	switch {
	case r < 0x300: // Latin
		return r > 0xa0 && r != 0xad
	case 0x4e00 <= r && r <= 0x9fff, 0xac00 <= r && r <= 0xd7a3: // Han, Hangul: large, and all visible
		return true
	case r == 0x2800:
		return false
	}
	return strconv.IsPrint(r) &&
		!unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) &&
		!unicode.Is(unicode.Variation_Selector, r)
}

// appendHex appends n, in lower case, with that many digits.
func appendHex(b []byte, n uint32, digits int) []byte {
	for digits--; digits >= 0; digits-- {
		b = append(b, "0123456789abcdef"[n>>(4*digits)&0xf])
	}
	return b
}

// Width returns how many terminal cells b takes: East Asian wide characters and emoji two,
// combining marks none, others one. Each code point counts by itself, as terminals and wcwidth(3) have it: what
// reads as one character (Thai, Devanagari, an emoji with a skin) may take several cells. It is meant for a cell
// that AppendText wrote; a control character, which such a cell does not have, counts as whatever
// displaywidth makes of it, or as one in pure ASCII. It allocates nothing.
func Width(b []byte) int {
	i := 0
	for ; len(b)-i >= 8; i += 8 {
		if binary.LittleEndian.Uint64(b[i:])&highs != 0 {
			return widthOfRunes(b)
		}
	}
	for ; i < len(b); i++ {
		if b[i] >= utf8Self {
			return widthOfRunes(b)
		}
	}
	return len(b)
}

func widthOfRunes(b []byte) (width int) {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		if 0x1160 <= r && r <= 0x11ff || 0xd7b0 <= r && r <= 0xd7ff { // vowels and finals of Hangul: drawn into the consonant before
			continue
		}
		width += displaywidth.Rune(r)
	}
	return width
}
