// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// twins tells files that are the same one to the kernel. Each overlay mount of a container
// image gives a file of that a device number of its own, but its uprobes are in the inode
// below (create_local_trace_uprobe, kernel/trace/trace_uprobe.c, takes d_real_inode()): those
// of two such files would be one too many. Nothing tells that inode on all kernels, so it is
// tried: where a uprobe in one file puts its breakpoint into the other one, they are the same.
type twins struct {
	files  []*file // in the order in which they are attached to
	judged map[[2]*file]bool
	same   map[*file]bool // as one before
}

func newTwins(places []place) *twins {
	t := &twins{judged: make(map[[2]*file]bool), same: make(map[*file]bool)}
	for _, p := range places {
		if n := len(t.files); n == 0 || t.files[n-1] != p.file {
			t.files = append(t.files, p.file)
		}
	}
	return t
}

// has reports whether a file is the same as one before.
func (t *twins) has(f *file) bool {
	for _, before := range t.files {
		if before == f || t.same[f] {
			break
		}
		// Somebody else's uprobes were there already. What an overlay shows of a file is its own.
		if !t.same[before] && !t.judged[[2]*file{before, f}] && alike(before, f) {
			t.same[f] = true
		}
	}
	return t.same[f]
}

// unpatched returns the files behind that of p that may be the same, and have no
// breakpoint where it is to be attached. An overlay may have an owner and a mode of its own for
// a file, with the data of the one below (metacopy), but not another time of the data.
func (t *twins) unpatched(p place) (list []*file) {
	behind := false
	for _, f := range t.files {
		alike := f.stat.Size == p.file.stat.Size && f.stat.Mtim == p.file.stat.Mtim && f.symbols[p.symbol] == p.file.symbols[p.symbol]
		if behind && alike && !t.same[f] && !f.patched(p.symbol) {
			list = append(list, f)
		}
		behind = behind || f == p.file
	}
	return list
}

// compare looks at the files that unpatched returned, now that p is attached.
func (t *twins) compare(p place, unpatched []*file) {
	for _, f := range unpatched {
		t.judged[[2]*file{p.file, f}] = true
		if f.patched(p.symbol) {
			t.same[f] = true
		}
	}
}

// alike reports whether two files have in common what two names of one have.
func alike(a, b *file) bool {
	return a.stat.Ino == b.stat.Ino && a.stat.Size == b.stat.Size && a.stat.Mtim == b.stat.Mtim && a.stat.Ctim == b.stat.Ctim
}

// patched reports whether the code of a function, where it is mapped, is not that in the file:
// the kernel puts the breakpoints of uprobes into a mapping when it is made. Nothing runs there.
func (f *file) patched(symbol string) bool {
	at := int64(f.symbols[symbol])
	from := at &^ int64(os.Getpagesize()-1)
	code, err := unix.Mmap(int(f.open.Fd()), from, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(code) }() // it is there
	code = code[at-from:]
	code = code[:min(4, len(code))] // a breakpoint has 1 byte on amd64, 4 on arm64
	// Where the file has been cut in the meantime, a look into the mapping would end this
	// process. The kernel's look is an error.
	r, w, err := os.Pipe()
	if err != nil {
		return false
	}
	defer r.Close()
	defer w.Close()
	mapped, inFile := make([]byte, len(code)), make([]byte, len(code))
	if _, err := w.Write(code); err != nil {
		return false
	}
	if _, err := r.Read(mapped); err != nil {
		return false
	}
	if _, err := f.open.ReadAt(inFile, at); err != nil {
		return false
	}
	return !bytes.Equal(mapped, inFile)
}
