// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// functions are those of a Library, in order.
var functions = []string{
	"SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex", "SSL_do_handshake",
	"gnutls_record_recv", "gnutls_record_recv_seq", "gnutls_record_send", "gnutls_record_send2", "gnutls_handshake",
	"readline", "getaddrinfo", "gethostbyname", "gethostbyname2",
}

// functionSize is the room for each.
const functionSize = 64

// callC calls a function as C does, with result, inner and innerResult in the
// registers that the code of a Library looks at.
func callC(fn uintptr, args *[4]uintptr, result, inner, innerResult uintptr)

// Library is a file with functions of the names that uprobes are attached to, which do
// nothing but return what they are told to. It is there on machines without a C
// library, too. This process has it mapped.
type Library struct {
	Path string

	code []byte
}

// NewLibrary makes a Library that goes away with the test.
func NewLibrary(tb testing.TB) *Library {
	tb.Helper()
	l := &Library{Path: filepath.Join(Dir(tb), "library.so")}
	err := WriteLibrary(l.Path)
	if err == nil {
		l.code, err = MapCode(l.Path)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Munmap(l.code); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// OpenLibrary maps the file of a Library in a process that has no test. It stays mapped.
func OpenLibrary(path string) (*Library, error) {
	code, err := MapCode(path)
	return &Library{Path: path, code: code}, err
}

// MapCode maps a file's code as a loader does.
func MapCode(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
}

// Call calls a function, which returns result. That and the arguments are int, or
// []byte or *uint64, of which the function gets the address (nil: NULL).
func (l *Library) Call(name string, result any, args ...any) {
	l.call(slices.Index(functions, name), result, 0, 0, args)
}

// CallNested calls a function, which returns result, and before that calls inner with the
// same arguments, which returns innerResult. It reports whether this machine can.
func (l *Library) CallNested(name string, result any, inner string, innerResult any, args ...any) bool {
	if runtime.GOARCH != "amd64" {
		return false
	}
	l.call(slices.Index(functions, name), result, l.address(slices.Index(functions, inner)), word(innerResult), args)
	return true
}

// WriteLibrary makes the file of a Library.
func WriteLibrary(path string) error {
	// mov x0, x8; ret
	machine, plain, nests := elf.EM_AARCH64, []byte{0xe0, 0x03, 0x08, 0xaa, 0xc0, 0x03, 0x5f, 0xd6}, []byte(nil)
	if runtime.GOARCH == "amd64" {
		machine, plain = elf.EM_X86_64, []byte{0x4c, 0x89, 0xc0, 0xc3} // mov rax, r8; ret
		nests = []byte{
			0x4d, 0x85, 0xc9, // test r9, r9
			0x74, 0x0f, // jz behind the call
			0x41, 0x50, // push r8
			0x4c, 0x89, 0xc8, // mov rax, r9
			0x45, 0x31, 0xc9, // xor r9d, r9d
			0x4d, 0x89, 0xd0, // mov r8, r10
			0xff, 0xd0, // call rax
			0x41, 0x58, // pop r8
		}
	}
	const header, segment, section, symbol = 64, 56, 64, 24
	code := make([]byte, functionSize*len(functions))
	symbols, names := make([]byte, symbol), []byte{0}
	const at = header + segment // of the code: in the file, and in memory
	for i, name := range functions {
		copy(code[functionSize*i:], slices.Concat(nests, plain))
		// Elf64_Sym: a global function in section 1
		symbols = slices.Concat(symbols, le(4, uint64(len(names))), le(1, 0x12), le(1, 0), le(2, 1),
			le(8, at+functionSize*uint64(i)), le(8, functionSize))
		names = append(append(names, name...), 0)
	}
	sectionNames := []byte("\x00.text\x00.symtab\x00.strtab\x00")
	names = append(names, make([]byte, 8-len(names)%8)...)
	sectionNames = append(sectionNames, make([]byte, 8-len(sectionNames)%8)...)
	symbolsAt := at + uint64(len(code))
	namesAt := symbolsAt + uint64(len(symbols))
	sectionNamesAt := namesAt + uint64(len(names))
	sectionsAt := sectionNamesAt + uint64(len(sectionNames))
	// Elf64_Shdr: name, type, flags, offset, size, link, info, the size of an entry
	sectionOf := func(name, kind, flags, at, size, link, info, each uint64) []byte {
		return slices.Concat(le(4, name), le(4, kind), le(8, flags), le(8, at), le(8, at), le(8, size), le(4, link), le(4, info), le(8, 8), le(8, each))
	}
	return os.WriteFile(path, slices.Concat(
		[]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		// Elf64_Ehdr: a library, with a segment and five sections, of which the last has their names
		le(2, 3), le(2, uint64(machine)), le(4, 1), le(8, 0), le(8, header), le(8, sectionsAt), le(4, 0),
		le(2, header), le(2, segment), le(2, 1), le(2, section), le(2, 5), le(2, 4),
		// Elf64_Phdr: PT_LOAD, readable and executable
		le(4, 1), le(4, 5), le(8, 0), le(8, 0), le(8, 0), le(8, symbolsAt), le(8, symbolsAt), le(8, 0x1000),
		code, symbols, names, sectionNames,
		make([]byte, section),
		sectionOf(1, 1, 6, at, uint64(len(code)), 0, 0, 0),
		sectionOf(7, 2, 0, symbolsAt, uint64(len(symbols)), 3, 1, symbol),
		sectionOf(15, 3, 0, namesAt, uint64(len(names)), 0, 0, 0),
		sectionOf(15, 3, 0, sectionNamesAt, uint64(len(sectionNames)), 0, 0, 0),
	), 0o755)
}
