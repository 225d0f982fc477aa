// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// symbolsPath lists the kernel's symbols and their addresses, as the running kernel has them.
const symbolsPath = "/proc/kallsyms"

// Symbols are the kernel's functions, those of its modules and of BPF programs among them, as
// they were when ReadSymbols read them.
type Symbols struct {
	text       []byte // the list as it was read
	symbols    []symbol
	begin, end uint64 // of the kernel itself
}

// symbol is a function: where it begins, and where its name does in the text.
type symbol struct {
	address uint64
	name    uint32
}

// ReadSymbols reads them. It takes as long as to read some MiB, and needs CAP_SYSLOG where
// kernel.kptr_restrict is 1. The error says so where addresses are hidden.
func ReadSymbols() (*Symbols, error) {
	text, err := os.ReadFile(symbolsPath)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's symbols: %w", err)
	}
	s := parseSymbols(text)
	if len(s.symbols) == 0 {
		return nil, errors.New("the kernel hides the addresses of its functions in " + symbolsPath + ": it needs CAP_SYSLOG, and kernel.kptr_restrict below 2")
	}
	return s, nil
}

// parseSymbols takes the functions from lines "ADDRESS TYPE NAME", and behind that of a module
// "\t[MODULE]". Hidden addresses are 0.
func parseSymbols(text []byte) *Symbols {
	s := &Symbols{text: text, symbols: make([]symbol, 0, bytes.Count(text, []byte{'\n'}))}
	for at := 0; at < len(text); {
		line := text[at:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		const digits, name = 16, 19 // where the address ends, and the name begins
		if len(line) > name && bytes.IndexByte([]byte("tTwW"), line[name-2]) >= 0 {
			address, err := strconv.ParseUint(string(line[:digits]), 16, 64)
			if err == nil && address != 0 {
				s.symbols = append(s.symbols, symbol{address, uint32(at + name)})
				switch string(line[name:]) {
				case "_stext":
					s.begin = address
				case "_etext":
					s.end = address
				}
			}
		}
		at += len(line) + 1
	}
	// Of several names of one address the first one is shown, as the kernel does.
	slices.SortStableFunc(s.symbols, func(a, b symbol) int { return cmp.Compare(a.address, b.address) })
	return s
}

// Find returns the function that the code at an address is of, how far behind its beginning it
// is, and of which module, nil for none. The names alias s. An address behind the last function
// of a module is taken for a part of that. It reports false where there is no function below.
func (s *Symbols) Find(address uint64) (name []byte, offset uint64, module []byte, ok bool) {
	i, found := slices.BinarySearchFunc(s.symbols, address, func(f symbol, address uint64) int {
		return cmp.Compare(f.address, address)
	})
	if !found {
		if i--; i < 0 {
			return nil, 0, nil, false
		}
	}
	for i > 0 && s.symbols[i-1].address == s.symbols[i].address {
		i--
	}
	line, _, _ := bytes.Cut(s.text[s.symbols[i].name:], []byte{'\n'})
	name, module, _ = bytes.Cut(line, []byte{'\t'})
	if len(module) > 2 {
		module = module[1 : len(module)-1]
	}
	return name, address - s.symbols[i].address, module, true
}

// Core returns from where to where the code of the kernel itself is, that of modules apart: zeros
// where that is not known.
func (s *Symbols) Core() (begin, end uint64) { return s.begin, s.end }
