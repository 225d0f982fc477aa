// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// file is an ELF file that uprobes may be attached in.
type file struct {
	name    string // what people know it by; as hostile as any path
	open    *os.File
	stat    unix.Stat_t
	symbols map[string]uint64 // those of the wanted functions that are defined there: where in the file
}

// path is one by which the kernel finds the file, wherever name leads.
func (f *file) path() string { return fmt.Sprintf("/proc/self/fd/%d", f.open.Fd()) }

// place is where a uprobe is attached.
type place struct {
	program, symbol string
	file            *file
}

// ErrNoFile says that no file has the functions of a tracer.
var ErrNoFile = errors.New("no file has the functions to trace")

// Bounds for what a process may have made to harm who looks for its files.
const (
	maxCache   = 16 << 20 // bytes of an ld.so.cache; those of whole distributions have 1
	maxFiles   = 64       // of one name, in one process or below one root
	maxEntries = 1 << 16  // of one directory
)

// root is a directory below which files are looked for: that of a process, or this one's.
type root struct {
	pids []uint32 // whose it is, of those that are traced; none: any process
}

// path is one by which the root can be opened.
func (r *root) path() string {
	if len(r.pids) == 0 {
		return "/"
	}
	return fmt.Sprintf("/proc/%d/root", r.pids[0])
}

// finder looks for the files of a session's uprobes: below the roots of the processes
// that are traced, or below this one's.
type finder struct {
	roots   []*root
	several bool                // the processes are those of a cgroup or a tree: more may come
	wanted  map[string]bool     // the functions
	files   map[[2]uint64]*file // those that are open, by device and inode
	dir     *os.File            // of the root that is looked at; nil: not needed yet
	notes   []string            // what was looked at, and why it does not do
	err     error               // what keeps this process from looking at more
}

// newFinder returns one for the processes that the filter lets pass, as far as they are
// known: pids are those of this pid namespace.
func newFinder(filter Filter, wanted map[string]bool) (*finder, error) {
	f := &finder{wanted: wanted, files: make(map[[2]uint64]*file)}
	var pids []uint32
	var err error
	switch pid := cmp.Or(filter.PID, filter.TID); {
	case pid != 0:
		pids = []uint32{pid}
	case filter.Tree != 0:
		f.several = true
		pids, err = descendants(filter.Tree)
	case filter.Cgroup != "":
		f.several = true
		pids, err = processesOf(filter.Cgroup)
	}
	if err != nil {
		return nil, err
	}
	f.addRoots(pids)
	if len(f.roots) == 0 { // those processes are still to come
		f.roots = []*root{{}}
	}
	return f, nil
}

// addRoots adds the roots of processes, each once.
func (f *finder) addRoots(pids []uint32) {
	// A root is a directory in a mount. Copies of a mount in other namespaces are others.
	type id struct{ mount, ino uint64 }
	have := make(map[id]*root)
	for _, pid := range pids {
		r := &root{pids: []uint32{pid}}
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, r.path(), 0, unix.STATX_INO|unix.STATX_MNT_ID, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
			continue // it has ended
		case err != nil:
			// What is known of a process without that: whose maps can be read, whose root can.
			f.roots = append(f.roots, r)
			continue
		}
		at := id{st.Mnt_id, st.Ino}
		if have[at] != nil {
			have[at].pids = append(have[at].pids, pid)
			continue
		}
		have[at] = r
		f.roots = append(f.roots, r)
	}
}

// processesOf returns the processes in a cgroup and those below it.
func processesOf(dir string) (pids []uint32, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // it has gone
			}
			return err
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil // it has gone, or has threads only, whose processes are told further up
		}
		for text := range strings.FieldsSeq(string(list)) {
			// 0: it is not in this pid namespace
			if pid, err := strconv.ParseUint(text, 10, 32); err == nil && pid != 0 {
				pids = append(pids, uint32(pid))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the processes of the cgroup: %w", err)
	}
	return pids, nil
}

func (f *finder) close() {
	if f == nil {
		return
	}
	for _, file := range f.files {
		file.open.Close()
	}
}

// places returns where the uprobes of a hook are attached: in the file that library
// names, or where it is empty in those of Program.Files. blind says of which processes
// none was found, where it was of others.
func (f *finder) places(spec map[string]*ebpf.ProgramSpec, programs []tracer.Program, library string) (list []place, blind []string, err error) {
	f.notes = nil
	roots := f.roots
	if strings.Contains(library, "/") { // from here, whoever is traced
		roots = []*root{{}}
	}
	for _, r := range roots {
		notes := len(f.notes)
		more := f.placesBelow(r, spec, programs, library)
		if len(more) == 0 && len(r.pids) > 0 {
			blind = append(blind, fmt.Sprintf("process %d: %s", r.pids[0], strings.Join(f.notes[notes:], "; ")))
		}
		for _, p := range more {
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	if f.err != nil {
		return nil, nil, fmt.Errorf("looking for the files to trace: %w", f.err)
	}
	if len(list) > 0 {
		return list, blind, nil
	}
	hint := "name the file with --lib PATH, or a process that uses it with --pid"
	if len(f.files) > 0 {
		hint = "a program that is stripped does not tell where its own functions are, and one that is linked dynamically has them in a library"
	}
	return nil, nil, fmt.Errorf("%w: %s (%s)", ErrNoFile, strings.Join(f.notes, "; "), hint)
}

// placesBelow is places for one root.
func (f *finder) placesBelow(r *root, spec map[string]*ebpf.ProgramSpec, programs []tracer.Program, library string) (list []place) {
	defer func() {
		if f.dir != nil {
			f.dir.Close()
			f.dir = nil
		}
	}()
	for i, p := range programs {
		if len(p.Files) == 0 || slices.ContainsFunc(programs[:i], func(o tracer.Program) bool { return slices.Equal(o.Files, p.Files) }) {
			continue // no uprobe, or one that was looked for with another
		}
		names := p.Files
		if library != "" {
			names = []string{library}
		}
		var files []*file
		for _, name := range names {
			for _, file := range f.find(r, name) {
				if !slices.Contains(files, file) {
					files = append(files, file)
				}
			}
		}
		for _, file := range files {
			more, missing := placesIn(file, spec, programs, p.Files)
			if missing == "" {
				list = append(list, more...)
			} else {
				f.note("%s has no function %s", file.name, missing)
			}
		}
	}
	return list
}

// shown is text in which paths may be that a process chose, as it can be printed.
func shown(text string) string { return string(field.AppendTextEscaped(nil, []byte(text))) }

// remember keeps an error that says nothing of the file.
func (f *finder) remember(err error) {
	if f.err == nil && exhausted(err) {
		f.err = err
	}
}

func (f *finder) note(format string, args ...any) {
	if note := shown(fmt.Sprintf(format, args...)); !slices.Contains(f.notes, note) {
		f.notes = append(f.notes, note)
	}
}

// placesIn returns the places in one file of the programs with those Files; or the name
// of a function that it should have and has not.
func placesIn(file *file, spec map[string]*ebpf.ProgramSpec, programs []tracer.Program, files []string) (list []place, missing string) {
	for _, p := range programs {
		if !slices.Equal(p.Files, files) {
			continue
		}
		for i, symbol := range slices.Concat([]string{spec[p.Name].AttachTo}, p.Also, p.AlsoIf) {
			switch {
			case file.symbols[symbol] != 0:
				list = append(list, place{p.Name, symbol, file})
			case !p.Optional && i <= len(p.Also):
				return nil, symbol
			}
		}
	}
	return list, ""
}

// find returns the files of that name: a path, a library's name with or without its
// version, or a program's.
func (f *finder) find(r *root, name string) (list []*file) {
	add := func(name string, open func() (int, error)) error {
		file, err := f.add(name, open)
		if err == nil && !slices.Contains(list, file) {
			list = append(list, file)
		}
		return err
	}
	if strings.Contains(name, "/") {
		if err := add(name, func() (int, error) { return openPath(name) }); err != nil {
			f.note("%v", err)
		}
		return list
	}
	for _, pid := range r.pids {
		maps, err := mapped(pid, name)
		f.remember(err)
		if errors.Is(err, fs.ErrPermission) {
			f.note("what process %d has mapped cannot be read: this takes CAP_SYS_PTRACE, or to be its user", pid)
			continue
		}
		for _, m := range maps {
			// Its own link leads to it also where it has been replaced, or the process has another
			// root, but it takes CAP_SYS_ADMIN (fs/proc/base.c, proc_map_files_get_link).
			if err := add(m.path, func() (int, error) { return openPath(m.link) }); err != nil {
				err = add(m.path, func() (int, error) { return f.below(r, m.path) })
				if err != nil {
					f.note("%v", err)
				}
			}
		}
		if !f.several && len(list) > 0 {
			return list
		}
		if !f.several && err == nil && len(maps) == 0 {
			f.note("process %d has not mapped %s", pid, name)
		}
	}
	if err := f.enter(r); err != nil {
		f.note("%v", err)
		return list
	}
	where := "$PATH"
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if len(r.pids) > 0 {
		where = "the usual directories"
		dirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	}
	var paths []string
	if strings.Contains(name, ".so") {
		where = "/etc/ld.so.cache and " + strings.Join(libraryDirs(), ", ")
		cache, err := f.read(r, "/etc/ld.so.cache")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.note("%v", err)
		}
		for p := range parseCache(cache) {
			if isNamed(path.Base(p), name) && len(paths) < maxFiles {
				paths = append(paths, p)
			}
		}
		dirs = libraryDirs()
	}
	for _, dir := range dirs {
		for _, entry := range f.entries(r, dir) {
			if isNamed(entry, name) && len(paths) < 2*maxFiles {
				paths = append(paths, path.Join(dir, entry))
			}
		}
	}
	for _, p := range paths {
		// One of another architecture, or a directory of that name, is not what is meant.
		_ = add(p, func() (int, error) { return f.below(r, p) })
	}
	if len(list) == 0 {
		if len(r.pids) > 0 {
			where += " of its root, " + r.path()
		}
		hint := ""
		if !strings.Contains(name, ".so") {
			hint = ": libraries are named as libssl.so is"
		}
		f.note("there is no %s in %s%s", name, where, hint)
	}
	return list
}

// isNamed reports whether a file's name is that of a library, with any version where
// that has none, or of a program.
func isNamed(base, name string) bool {
	return base == name || strings.Contains(name, ".so") && strings.HasPrefix(base, name+".")
}

// libraryDirs are where ld.so looks by itself, and where libraries are that are in no
// cache: there is none with musl.
func libraryDirs() []string {
	triplet := "x86_64-linux-gnu"
	if runtime.GOARCH == "arm64" {
		triplet = "aarch64-linux-gnu"
	}
	return []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}
}

// openPath finds a path without opening what is there, which might wait (a FIFO) or do
// something (a device).
func openPath(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// enter opens the root, unless it is.
func (f *finder) enter(r *root) (err error) {
	if f.dir != nil {
		return nil
	}
	f.dir, err = os.Open(r.path())
	f.remember(err)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: this takes CAP_SYS_PTRACE, or to be the process's user", err)
	}
	return err
}

// below is openPath for a path below the root, by whose rules absolute symbolic links are
// followed, too.
func (f *finder) below(r *root, name string) (int, error) {
	if err := f.enter(r); err != nil {
		return -1, err
	}
	fd, err := unix.Openat2(int(f.dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// openFound opens for reading what open found, if it is of that type.
func openFound(name string, kind uint32, open func() (int, error)) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := open()
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != kind {
		return nil, st, fmt.Errorf("%s is no regular file", name)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, st, &fs.PathError{Op: "open", Path: name, Err: errors.Unwrap(err)}
	}
	return file, st, nil
}

func (f *finder) read(r *root, name string) ([]byte, error) {
	file, _, err := openFound(name, unix.S_IFREG, func() (int, error) { return f.below(r, name) })
	f.remember(err)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxCache+1))
	if err == nil && len(b) > maxCache {
		return nil, fmt.Errorf("%s has more than %d MiB, and is not read", name, maxCache>>20)
	}
	return b, err
}

func (f *finder) entries(r *root, dir string) []string {
	file, _, err := openFound(dir, unix.S_IFDIR, func() (int, error) { return f.below(r, dir) })
	f.remember(err)
	if err != nil {
		return nil
	}
	defer file.Close()
	names, _ := file.Readdirnames(maxEntries) // what can be read is all that there is
	slices.Sort(names)
	return names
}

// add reads which functions a file has, unless another name led there before.
func (f *finder) add(name string, open func() (int, error)) (*file, error) {
	o, st, err := openFound(name, unix.S_IFREG, open)
	f.remember(err)
	if err != nil {
		return nil, err
	}
	id := [2]uint64{st.Dev, st.Ino}
	if have := f.files[id]; have != nil {
		o.Close()
		return have, nil
	}
	symbols, err := functions(o, st.Size, f.wanted)
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.files[id] = &file{name: name, open: o, stat: st, symbols: symbols}
	return f.files[id], nil
}

// mapping is a file that a process has mapped.
type mapping struct {
	path string // as the process sees it
	link string // the file itself, also when it is there no more
}

// mapped returns the files of that name whose code a process has mapped.
func mapped(pid uint32, name string) (list []mapping, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan() && len(list) < maxFiles; {
		// 7f0000000000-7f0000001000 r-xp 00000000 08:01 1234    /usr/lib/libssl.so.3
		line := lines.Text()
		fields := strings.Fields(line)
		slash := strings.IndexByte(line, '/')
		if len(fields) < 6 || slash < 0 || !strings.Contains(fields[1], "x") {
			continue
		}
		p := strings.TrimSuffix(line[slash:], " (deleted)")
		if isNamed(path.Base(p), name) {
			list = append(list, mapping{p, fmt.Sprintf("/proc/%d/map_files/%s", pid, fields[0])})
		}
	}
	return list, nil
}

// parseCache returns the paths in an /etc/ld.so.cache, in its order: newest versions
// first. What is not the format of glibc 2.2 and later, alone or behind the older one,
// has none (sysdeps/generic/dl-cache.h of glibc).
func parseCache(b []byte) iter.Seq[string] {
	const magic, header, entry = "glibc-ld.so.cache1.1", 48, 24
	return func(yield func(string) bool) {
		at := bytes.Index(b, []byte(magic))
		if at < 0 || len(b)-at < header {
			return
		}
		b := b[at:] // what offsets count from
		n := uint64(binary.NativeEndian.Uint32(b[len(magic):]))
		for i := range n {
			end := header + (i+1)*entry
			if end > uint64(len(b)) {
				return
			}
			value := uint64(binary.NativeEndian.Uint32(b[end-entry+8:]))
			if value >= uint64(len(b)) {
				continue
			}
			// No path is longer. Each entry might have the whole of a large cache.
			text, _, ok := bytes.Cut(b[value:min(value+unix.PathMax, uint64(len(b)))], []byte{0})
			if ok && len(text) > 0 && text[0] == '/' && !yield(string(text)) {
				return
			}
		}
	}
}
