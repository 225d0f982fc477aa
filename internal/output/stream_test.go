// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open returns a Stream, and where what is written to it is read.
type open func(t *testing.T) (*Stream, *os.File)

func streamTo(t *testing.T, w, r *os.File, want way) (*Stream, *os.File) {
	t.Helper()
	s := NewStream(w)
	if s.way != want {
		t.Fatalf("it is written to by way %d, want %d", s.way, want)
	}
	t.Cleanup(func() { s.Close(); r.Close() })
	return s, r
}

func toPipe(t *testing.T) (*Stream, *os.File) {
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil { // os.Pipe's do not block
		t.Fatal(err)
	}
	return streamTo(t, os.NewFile(uintptr(fds[1]), "pipe"), os.NewFile(uintptr(fds[0]), "pipe"), reopened)
}

// toShared is a pipe that cannot be opened once more.
func toShared(t *testing.T) (*Stream, *os.File) {
	s, r := toPipe(t)
	if err := unix.Close(s.fd); err != nil {
		t.Fatal(err)
	}
	s.way, s.fd = shared, int(s.File.Fd())
	return s, r
}

func toSocket(t *testing.T) (*Stream, *os.File) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	return streamTo(t, os.NewFile(uintptr(fds[1]), "socket"), os.NewFile(uintptr(fds[0]), "socket"), socket)
}

func toTerminal(t *testing.T) (*Stream, *os.File) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, pty.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	modes, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	modes.Oflag &^= unix.OPOST // newlines stay what they are
	if err := unix.IoctlSetTermios(int(fd), unix.TCSETS, modes); err != nil {
		t.Fatal(err)
	}
	return streamTo(t, os.NewFile(fd, "tty"), pty, reopened)
}

var ways = map[string]open{"pipe": toPipe, "shared": toShared, "socket": toSocket, "terminal": toTerminal}

// TestStream: all is written, however slowly it is read, and whatever is made of the file meanwhile.
func TestStream(t *testing.T) {
	for name, open := range ways {
		t.Run(name, func(t *testing.T) {
			s, r := open(t)
			text := bytes.Repeat([]byte("0123456789\n"), 100_003)
			stop, stopped := make(chan bool), make(chan bool)
			go func() { // somebody has a say in it, too
				defer close(stopped)
				for block := true; ; block = !block {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						_ = unix.SetNonblock(int(s.File.Fd()), block)
					}
				}
			}()
			read := make(chan []byte)
			go func() {
				time.Sleep(50 * time.Millisecond)
				b := make([]byte, len(text))
				n, err := io.ReadFull(r, b)
				if err != nil {
					t.Error(err)
				}
				read <- b[:n]
			}()
			n, err := s.Write(text)
			if n != len(text) || err != nil {
				t.Errorf("%d of %d bytes, %v", n, len(text), err)
			}
			if got := <-read; !bytes.Equal(got, text) {
				t.Errorf("%d bytes came, which are not the %d written", len(got), len(text))
			}
			close(stop)
			<-stopped
		})
	}
}

// TestStreamStuck: a write to what nobody reads ends when it is told to, and says how much was taken.
func TestStreamStuck(t *testing.T) {
	for name, open := range ways {
		for _, when := range []string{"before", "meanwhile"} {
			t.Run(name+"/"+when, func(t *testing.T) {
				s, r := open(t)
				const most = 50 * time.Millisecond
				began := time.Now()
				if when == "before" {
					s.GiveUpAfter(most)
				} else {
					time.AfterFunc(2*look, func() { s.GiveUpAfter(most) })
				}
				text := bytes.Repeat([]byte("0123456789\n"), 100_003)
				n, err := s.Write(text)
				if n == 0 || n >= len(text) || !errors.Is(err, ErrStuck) {
					t.Fatalf("%d of %d bytes, %v", n, len(text), err)
				}
				if took := time.Since(began); took < most {
					t.Errorf("it has waited for %v only", took)
				}
				b := make([]byte, n)
				if _, err := io.ReadFull(r, b); err != nil || !bytes.Equal(b, text[:n]) {
					t.Errorf("what came is not what was written: %v", err)
				}
				// Now there is room, but something is missing before it.
				for what, write := range map[string]func() (int64, error){
					"Write":       func() (int64, error) { n, err := s.Write([]byte("x")); return int64(n), err },
					"WriteString": func() (int64, error) { n, err := s.WriteString("x"); return int64(n), err },
					"ReadFrom":    func() (int64, error) { return io.Copy(s, strings.NewReader("x")) },
				} {
					if n, err := write(); n != 0 || !errors.Is(err, ErrStuck) {
						t.Errorf("%s after it: %d bytes, %v", what, n, err)
					}
				}
			})
		}
	}
}

// TestStreamSlow: a reader that is slow, but reads, is no reason to give up.
func TestStreamSlow(t *testing.T) {
	for name, open := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := open(t)
			const most = 2 * time.Second
			s.GiveUpAfter(most)
			began := time.Now()
			text := bytes.Repeat([]byte{'x'}, 4<<20)
			go func() {
				b := make([]byte, 64<<10)
				for n := 0; n < len(text); {
					if time.Since(began) < most+most/4 {
						time.Sleep(most / 20)
					}
					k, err := r.Read(b)
					if err != nil {
						return
					}
					n += k
				}
			}()
			if n, err := s.Write(text); n != len(text) || err != nil {
				t.Errorf("%d of %d bytes, %v after %v", n, len(text), err, time.Since(began))
			}
			if took := time.Since(began); took < most {
				t.Errorf("it was read within %v", took)
			}
		})
	}
}

// TestStreamGone: who has closed the other end is an error, as ever.
func TestStreamGone(t *testing.T) {
	for _, name := range []string{"pipe", "shared", "socket"} {
		t.Run(name, func(t *testing.T) {
			s, r := ways[name](t)
			r.Close()
			if n, err := s.Write([]byte("x")); n != 0 || !errors.Is(err, unix.EPIPE) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}

// TestStreamFile: files of the disk are written as they are, and what cannot be is told.
func TestStreamFile(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	s := NewStream(f)
	if _, err := s.WriteString("one\n"); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(s, strings.NewReader("two\n")); n != 4 || err != nil {
		t.Error(n, err)
	}
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "one\ntwo\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing it twice: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if n, err := NewStream(full).Write([]byte("x")); n != 0 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestStreamPtmx: opening a terminal's other end once more would make another terminal.
func TestStreamPtmx(t *testing.T) {
	_, pty := toTerminal(t)
	s := NewStream(pty)
	if s.way != shared || s.fd != int(pty.Fd()) {
		t.Errorf("it is written to by way %d", s.way)
	}
}
