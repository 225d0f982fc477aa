// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// maxSymbols bounds the symbols and their names in a file, in bytes: browsers with all of
// theirs stay below it.
const maxSymbols = 256 << 20

// image is what is looked at of an ELF file. A process may have made it to harm who
// reads it: debug/elf believes all sizes that it claims, and copies each name that a symbol
// points to, however long. Here memory is taken for the names alone, which are in the
// file, and no more than maxSymbols.
type image struct {
	r        io.ReaderAt
	size     uint64 // of the file
	segments []elf.Prog64
	sections []elf.Section64
}

// functions returns which of the wanted functions an ELF file for this machine
// defines, and where in the file they begin.
func functions(r io.ReaderAt, size int64, wanted map[string]bool) (map[string]uint64, error) {
	longest := 0
	for name := range wanted {
		longest = max(longest, len(name))
	}
	found := make(map[string]uint64)
	err := eachFunction(r, size, maxSymbols, func(name []byte, offset, _ uint64) {
		name = name[:min(longest+1, len(name))]
		end := bytes.IndexByte(name, 0)
		if end >= 0 && wanted[string(name[:end])] {
			found[string(name[:end])] = offset
		}
	})
	return found, err
}

// eachFunction calls f for each function that an ELF file for this machine defines: with its
// name, which ends at the first NUL, if there is one; where in the file it begins; and its size
// in bytes, 0 where that is not known. The names stay good. limit is how many bytes of symbols
// and names are read at most.
func eachFunction(r io.ReaderAt, size int64, limit uint64, f func(name []byte, offset, size uint64)) error {
	m := &image{r: r, size: uint64(size)}
	if err := m.readHeaders(); err != nil {
		return err
	}
	taken := uint64(0)
	for i := range m.sections {
		s := &m.sections[i]
		if t := elf.SectionType(s.Type); t != elf.SHT_SYMTAB && t != elf.SHT_DYNSYM {
			continue
		}
		if uint64(s.Link) >= uint64(len(m.sections)) {
			return errors.New("its symbols have no names")
		}
		names := &m.sections[s.Link]
		for _, s := range []*elf.Section64{s, names} {
			if s.Off > m.size || s.Size > m.size-s.Off {
				return errors.New("its symbols are beyond its end")
			}
			if taken += s.Size; taken > limit {
				return fmt.Errorf("its symbols take more than %d MiB", limit>>20)
			}
		}
		if err := m.readSymbols(s, names, f); err != nil {
			return fmt.Errorf("reading its symbols: %w", err)
		}
	}
	return nil
}

// section reads values of a fixed size, one after the other.
func (m *image) section(at, size uint64) io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(m.r, int64(at), int64(size)), 1<<16)
}

func (m *image) readHeaders() error {
	var h elf.Header64
	if err := binary.Read(m.section(0, m.size), binary.LittleEndian, &h); err != nil || string(h.Ident[:4]) != elf.ELFMAG {
		return errors.New("it is no ELF file")
	}
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	if elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB || elf.Machine(h.Machine) != machine {
		return fmt.Errorf("it is of another architecture (%s)", elf.Machine(h.Machine))
	}
	if t := elf.Type(h.Type); t != elf.ET_EXEC && t != elf.ET_DYN {
		return fmt.Errorf("it is neither a program nor a library (%s)", t)
	}
	segment, section := uint16(binary.Size(elf.Prog64{})), uint16(binary.Size(elf.Section64{}))
	if h.Phnum > 0 && h.Phentsize != segment || h.Shnum > 0 && h.Shentsize != section || h.Phoff > m.size || h.Shoff > m.size {
		return errors.New("it is no ELF file that can be read")
	}
	// More than 65,279 sections, which no linker makes of a program, are not looked at.
	m.segments, m.sections = make([]elf.Prog64, h.Phnum), make([]elf.Section64, h.Shnum)
	if err := binary.Read(m.section(h.Phoff, m.size-h.Phoff), binary.LittleEndian, m.segments); err != nil {
		return fmt.Errorf("reading its segments: %w", err)
	}
	if err := binary.Read(m.section(h.Shoff, m.size-h.Shoff), binary.LittleEndian, m.sections); err != nil {
		return fmt.Errorf("reading its sections: %w", err)
	}
	return nil
}

// readSymbols calls f for each function in a table of symbols.
func (m *image) readSymbols(table, names *elf.Section64, f func(name []byte, offset, size uint64)) error {
	text := make([]byte, names.Size)
	if _, err := io.ReadFull(io.NewSectionReader(m.r, int64(names.Off), int64(names.Size)), text); err != nil {
		return err
	}
	r := m.section(table.Off, table.Size)
	// Elf64_Sym: name (4 bytes), info (1), other (1), section (2), value (8), size (8)
	b := make([]byte, elf.Sym64Size)
	le := binary.LittleEndian
	for {
		_, err := io.ReadFull(r, b)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at, value := uint64(le.Uint32(b)), le.Uint64(b[8:])
		if elf.ST_TYPE(b[4]) != elf.STT_FUNC || elf.SectionIndex(le.Uint16(b[6:])) == elf.SHN_UNDEF || value == 0 || at >= names.Size {
			continue
		}
		if offset, ok := m.offset(value); ok {
			f(text[at:], offset, le.Uint64(b[16:]))
		}
	}
}

// offset returns where in the file the code at an address in memory is.
func (m *image) offset(address uint64) (uint64, bool) {
	for i := range m.segments {
		s := &m.segments[i]
		if elf.ProgType(s.Type) == elf.PT_LOAD && elf.ProgFlag(s.Flags)&elf.PF_X != 0 && address >= s.Vaddr && address-s.Vaddr < s.Filesz {
			at := address - s.Vaddr + s.Off
			return at, at < m.size
		}
	}
	return 0, false
}
