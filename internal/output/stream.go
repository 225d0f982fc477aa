// SPDX-License-Identifier: Apache-2.0

package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ErrStuck is the error of writing to what nobody reads from: see Stream.GiveUpAfter.
var ErrStuck = errors.New("its reader takes no more")

// Stream is an open file to write to, which may be a pipe, a terminal or a socket whose reader
// takes its time: a write waits for it, also where somebody has made the file non-blocking, as those
// who share it (a shell's other jobs, ssh, node) may do at any time. GiveUpAfter bounds that.
// Writes may come from several goroutines.
type Stream struct {
	*os.File
	way way
	fd  int // what is written to: an open file of this Stream's own, or File's

	mu       sync.Mutex // of writes
	stuck    bool
	patience atomic.Pointer[patience] // nil: it waits as long as it takes
}

// patience is how long to wait, at the longest, from a moment on.
type patience struct {
	from time.Time
	most time.Duration
}

// way is how a write to a file can be kept from blocking.
type way int

const (
	// Files of the disk never make a writer wait for a reader.
	plain way = iota
	// A pipe or terminal that was opened once more does not block, whatever others make of
	// the first one: O_NONBLOCK is a property of the open file (open(2)).
	reopened
	// send(2) takes MSG_DONTWAIT.
	socket
	// What can be neither is written to when poll says that there is room, by no more than is
	// taken at once then: a pipe has room for PIPE_BUF bytes (pipe(7)), unless another
	// writer comes in between.
	shared
)

// pipeBuf is PIPE_BUF, of include/uapi/linux/limits.h.
const pipeBuf = 4096

// look is how often a write that waits looks at how long it may.
const look = 100 * time.Millisecond

// NewStream returns a Stream that writes to f. Close it instead of f.
func NewStream(f *os.File) *Stream {
	s := &Stream{File: f, way: plain, fd: -1}
	raw, err := f.SyscallConn() // Fd would make it blocking, for all who share it
	if err == nil {
		err = raw.Control(func(fd uintptr) { s.fd = int(fd) })
	}
	var st unix.Stat_t
	if err == nil && unix.Fstat(s.fd, &st) == nil { // else the first write tells
		s.find(&st)
	}
	return s
}

// find finds the way to write to a file with that status.
func (s *Stream) find(st *unix.Stat_t) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		s.way = socket
		return
	case unix.S_IFCHR:
		if !term.IsTerminal(s.fd) {
			return // such as /dev/null
		}
		if st.Rdev == unix.Mkdev(5, 2) { // /dev/ptmx, which is another terminal each time
			s.way = shared
			return
		}
	case unix.S_IFIFO:
	default:
		return
	}
	s.way = shared // it may be somebody else's, its reader may have gone, or there is no /proc
	const flags = unix.O_WRONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if own, err := unix.Open("/proc/self/fd/"+strconv.Itoa(s.fd), flags, 0); err == nil {
		s.way, s.fd = reopened, own
	}
}

// Fd returns the descriptor that is written to.
func (s *Stream) Fd() uintptr { return uintptr(s.fd) }

// Close closes the file.
func (s *Stream) Close() error {
	if err := s.File.Close(); err != nil || s.way != reopened {
		return err // closed already, maybe
	}
	return unix.Close(s.fd)
}

// GiveUpAfter makes a write that waits fail with ErrStuck, and each later one at once, when nothing
// has been taken for so long since the write began, or since this call. It is for the end, of which
// one may have to wait for ever.
func (s *Stream) GiveUpAfter(most time.Duration) {
	s.patience.CompareAndSwap(nil, &patience{time.Now(), most})
}

// Write implements io.Writer: it returns when all is written, or nothing more can be.
func (s *Stream) Write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		return 0, s.error(ErrStuck)
	}
	since := time.Time{} // when the last write came to nothing first
	wait := s.way == shared
	for n < len(b) {
		if wait {
			if since.IsZero() {
				since = time.Now()
			}
			if err := s.await(since); err != nil {
				s.stuck = errors.Is(err, ErrStuck)
				return n, s.error(err)
			}
		}
		k, err := s.write(b[n:])
		switch {
		case err == nil && k > 0:
			n += k
			since, wait = time.Time{}, s.way == shared
		case errors.Is(err, unix.EAGAIN):
			wait = true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE):
			// The file's own write fails as well, and of standard output and error it makes that the end of
			// the process by SIGPIPE, but where somebody has asked for that signal.
			k, err := s.File.Write(b[n:])
			return n + k, err
		case err == nil:
			return n, s.error(io.ErrUnexpectedEOF) // a device that takes nothing
		default:
			return n, s.error(err)
		}
	}
	return n, nil
}

func (s *Stream) error(err error) error {
	return &os.PathError{Op: "write", Path: s.Name(), Err: err}
}

// WriteString is Write of a string.
func (s *Stream) WriteString(text string) (int, error) { return s.Write([]byte(text)) }

// ReadFrom implements io.ReaderFrom by Write, in the place of the file's own.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{s}, r) }

// write writes what is taken now.
func (s *Stream) write(b []byte) (int, error) {
	switch s.way {
	case socket:
		return unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_DONTWAIT)
	case shared:
		return unix.Write(s.fd, b[:min(len(b), pipeBuf)])
	default:
		return unix.Write(s.fd, b)
	}
}

// await waits until there is room, of which there has been none since then.
func (s *Stream) await(since time.Time) error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	for {
		wait := look
		if p := s.patience.Load(); p != nil {
			from := since
			if p.from.After(from) {
				from = p.from
			}
			left := time.Until(from.Add(p.most))
			if left <= 0 {
				return ErrStuck
			}
			wait = min(wait, left)
		}
		n, err := unix.Poll(fds, int(wait/time.Millisecond)+1)
		if n > 0 {
			return nil // or an error, which the write tells
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for its reader: %w", err)
		}
	}
}
