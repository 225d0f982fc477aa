// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// cacheOf makes an ld.so.cache of paths.
func cacheOf(old bool, paths ...string) []byte {
	var b []byte
	if old {
		b = append(b, "ld.so-1.7.0\x00"...)
		b = append(b, 0, 0, 0, 0)
	}
	n := binary.NativeEndian
	head := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	n.PutUint32(head[20:], uint32(len(paths)))
	at := uint32(len(head) + 24*len(paths))
	var entries, text []byte
	for _, p := range paths {
		e := make([]byte, 24)
		n.PutUint32(e[8:], at+uint32(len(text)))
		entries = append(entries, e...)
		text = append(append(text, p...), 0)
	}
	return slices.Concat(b, head, entries, text)
}

func TestParseCache(t *testing.T) {
	want := []string{"/lib/x86_64-linux-gnu/libssl.so.3", "/lib/libssl.so.1.1", "/usr/lib/libc.so.6"}
	for _, old := range []bool{false, true} {
		if got := slices.Collect(parseCache(cacheOf(old, want...))); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// Nothing of what is cut is read.
	whole := cacheOf(false, want...)
	for n := range whole {
		for p := range parseCache(whole[:n]) {
			if !slices.Contains(want, p) {
				t.Errorf("of %d bytes: %q", n, p)
			}
		}
	}
	if cache, err := os.ReadFile("/etc/ld.so.cache"); err == nil && len(slices.Collect(parseCache(cache))) == 0 {
		t.Error("this machine's cache has no library")
	}
}

func FuzzParseCache(f *testing.F) {
	f.Add(cacheOf(false, "/lib/libc.so.6"))
	f.Add(cacheOf(true, "/lib/libc.so.6"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for p := range parseCache(b) {
			if p == "" || p[0] != '/' {
				t.Errorf("%q is no path", p)
			}
		}
	})
}

func TestIsNamed(t *testing.T) {
	for _, test := range []struct {
		base, name string
		want       bool
	}{
		{"libssl.so", "libssl.so", true},
		{"libssl.so.1.1", "libssl.so", true},
		{"libssl.so.1.1", "libssl.so.1.1", true},
		{"libssl.so.1.1", "libssl.so.3", false},
		{"libssl3.so", "libssl.so", false},
		{"libssl.sound", "libssl.so", false},
		{"bash", "bash", true},
		{"bash.bak", "bash", false},
	} {
		if got := isNamed(test.base, test.name); got != test.want {
			t.Errorf("%s as %s: %v", test.base, test.name, got)
		}
	}
}

// library is one that this machine has, or this program: what debug/elf reads of it is right.
func library(tb testing.TB) string {
	list, _ := filepath.Glob("/lib/*/libc.so.6")
	return append(list, "/proc/self/exe")[0]
}

// truth returns where the functions of an ELF file are, by debug/elf.
func truth(tb testing.TB, path string) map[string]uint64 {
	tb.Helper()
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	found := make(map[string]uint64)
	for _, read := range []func() ([]elf.Symbol, error){f.DynamicSymbols, f.Symbols} {
		list, err := read()
		if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
			tb.Fatal(err)
		}
		for _, s := range list {
			if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF || s.Value == 0 {
				continue
			}
			for _, p := range f.Progs {
				if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
					found[s.Name] = s.Value - p.Vaddr + p.Off
				}
			}
		}
	}
	return found
}

func TestFunctions(t *testing.T) {
	for _, path := range []string{library(t), "/proc/self/exe"} {
		want := truth(t, path)
		if len(want) == 0 {
			continue // it is stripped
		}
		wanted := map[string]bool{"no such function": true}
		for name := range want {
			wanted[name] = true
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := functions(bytes.NewReader(b), int64(len(b)), wanted)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %d functions, want %d", path, len(got), len(want))
		}
	}
}

func FuzzFunctions(f *testing.F) {
	path := filepath.Join(f.TempDir(), "library")
	if err := bpftest.WriteLibrary(path); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		found, _ := functions(bytes.NewReader(b), int64(len(b)), map[string]bool{"readline": true})
		for name, at := range found {
			if name != "readline" || at >= uint64(len(b)) {
				t.Errorf("%s at %d of %d", name, at, len(b))
			}
		}
	})
}

// allocates returns how many bytes a function allocates.
func allocates(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHostile: what is below a root can be made to harm who reads it. None of it takes
// much memory, or makes the reader wait.
func TestHostile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte, size int64) string {
		t.Helper()
		err := os.WriteFile(path(name), b, 0o644)
		if err == nil {
			err = os.Truncate(path(name), max(size, int64(len(b))))
		}
		if err != nil {
			t.Fatal(err)
		}
		return path(name)
	}
	// The sections of a library, of which the second are symbols and the third their names.
	if err := bpftest.WriteLibrary(path("library")); err != nil {
		t.Fatal(err)
	}
	library, err := os.ReadFile(path("library"))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	with := func(change func(b, symbols, names []byte)) []byte {
		b := bytes.Clone(library)
		sections := b[le.Uint64(b[40:]):]
		change(b, sections[2*64:3*64], sections[3*64:4*64])
		return b
	}
	const huge = 48 << 30
	sized := func(section []byte, n uint64) { le.PutUint64(section[32:], n) }
	sparse := func(change func(b, symbols, names []byte)) func(string) string {
		return func(name string) string { return write(name, with(change), huge+1<<20) }
	}
	fifo := func(name string) string {
		if err := unix.Mkfifo(path(name), 0o644); err != nil {
			t.Fatal(err)
		}
		return path(name)
	}
	for name, test := range map[string]struct {
		make func(name string) string
		want string
	}{
		"symbols": {sparse(func(_, symbols, _ []byte) { sized(symbols, huge) }), "take more than 256 MiB"},
		"names":   {sparse(func(_, _, names []byte) { sized(names, huge) }), "take more than 256 MiB"},
		"beyond":  {func(name string) string { return write(name, with(func(_, s, _ []byte) { sized(s, 1<<20) }), 0) }, "beyond its end"},
		"far":     {func(name string) string { return write(name, with(func(_, s, _ []byte) { sized(s, 1<<63) }), 0) }, "beyond its end"},
		"link": {func(name string) string {
			return write(name, with(func(_, s, _ []byte) { le.PutUint32(s[40:], 99) }), 0)
		}, "have no names"},
		"sections": {func(name string) string {
			return write(name, with(func(b, _, _ []byte) { le.PutUint64(b[40:], 1<<62) }), 0)
		}, "no ELF file that can be read"},
		"sections beyond": {func(name string) string {
			return write(name, with(func(b, _, _ []byte) { le.PutUint16(b[60:], 0xffff) }), 0)
		}, "reading its sections"},
		"fifo":   {fifo, "is no regular file"},
		"device": {func(string) string { return "/dev/zero" }, "is no regular file"},
		"socket": {func(string) string { return "/proc/self/fd" }, "is no regular file"},
		"text":   {func(name string) string { return write(name, []byte("text"), 0) }, "it is no ELF file"},
	} {
		t.Run(name, func(t *testing.T) {
			p := test.make(name)
			f := &finder{wanted: map[string]bool{"readline": true}, files: map[[2]uint64]*file{}}
			defer f.close()
			var err error
			used := allocates(func() { _, err = f.add(p, func() (int, error) { return openPath(p) }) })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if used > 16<<20 {
				t.Errorf("it took %d bytes", used)
			}
		})
	}

	// Many symbols have one name, and that is long.
	const many, long = 100_000, 1 << 20
	b := with(func(b, symbols, names []byte) {
		at := uint64(len(b))
		le.PutUint64(symbols[24:], at)
		sized(symbols, many*elf.Sym64Size)
		le.PutUint64(names[24:], at+many*elf.Sym64Size)
		sized(names, long)
	})
	symbol := make([]byte, elf.Sym64Size)
	symbol[0], symbol[4], symbol[6], symbol[8] = 1, byte(elf.STT_FUNC), 1, 1
	b = slices.Concat(b, bytes.Repeat(symbol, many), bytes.Repeat([]byte("x"), long))
	used := allocates(func() {
		if found, err := functions(bytes.NewReader(b), int64(len(b)), map[string]bool{"readline": true}); err != nil || len(found) > 0 {
			t.Errorf("%v, %v", found, err)
		}
	})
	if used > 4*long {
		t.Errorf("long names took %d bytes", used)
	}
}

// TestHostileCache: an ld.so.cache is a file, and of a size that one has.
func TestHostileCache(t *testing.T) {
	for name, test := range map[string]struct {
		make func(name string) error
		want string
	}{
		"fifo":   {func(name string) error { return unix.Mkfifo(name, 0o644) }, "is no regular file"},
		"device": {func(name string) error { return unix.Mknod(name, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) }, "is no regular file"},
		"sparse": {func(name string) error { return errors.Join(os.WriteFile(name, nil, 0o644), os.Truncate(name, 1<<40)) }, "more than 16 MiB"},
		"link":   {func(name string) error { return os.Symlink("/proc/self/exe", name) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(dir+"/etc", 0o755), test.make(dir+"/etc/ld.so.cache")); err != nil {
				t.Skip(err) // who may not make a device
			}
			d, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			f := &finder{dir: d}
			used := allocates(func() { _, err = f.read(new(root), "/etc/ld.so.cache") })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if used > 8*maxCache {
				t.Errorf("it took %d bytes", used)
			}
		})
	}
}

// TestShown: what a process called its files is printed so that a terminal does not obey it.
func TestShown(t *testing.T) {
	f := new(finder)
	f.note("%s has no function", "/tmp/\x1b]0;x\a/libssl.so.3")
	if want := `/tmp/\x1b]0;x\x07/libssl.so.3 has no function`; f.notes[0] != want {
		t.Errorf("%q, want %q", f.notes[0], want)
	}
}
