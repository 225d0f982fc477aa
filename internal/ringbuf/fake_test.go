package ringbuf

import (
	"encoding/binary"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a ring in ordinary memory and the kernel's part in it, after
// kernel/bpf/ringbuf.c. One goroutine may produce while another reads.
type fake struct {
	cons, prod *uint64
	data       []byte // twice, like the pages of a mapped ring
	size       uint64
	bell       int // eventfd that stands for the map's descriptor; -1: none
}

// newFake returns a drained ring of size bytes with both positions at pos.
func newFake(size int, pos uint64) *fake {
	return &fake{cons: &pos, prod: new(pos), data: make([]byte, 2*size), size: uint64(size), bell: -1}
}

func (f *fake) open() *Ring { return newRing(f.cons, f.prod, f.data) }

// openPollable returns a Ring that a Poller accepts.
func (f *fake) openPollable(tb testing.TB) *Ring {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		tb.Fatal(err)
	}
	r := f.open()
	f.bell, r.fd = fd, fd
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// length sets the length word of the record at pos in both copies of the data.
func (f *fake) length(pos uint64, hdr uint32) {
	off := pos & (f.size - 1)
	atomic.StoreUint32(recordsIn(f.data).length(off), hdr)
	atomic.StoreUint32(recordsIn(f.data).length(off+f.size), hdr)
}

// reserve makes a busy record and returns its position, as
// __bpf_ringbuf_reserve does.
func (f *fake) reserve(payload []byte) (pos uint64, ok bool) {
	pos = atomic.LoadUint64(f.prod)
	end := pos + recordSize(uint32(len(payload)))
	if end-atomic.LoadUint64(f.cons) > f.size-1 {
		return 0, false
	}
	f.length(pos, uint32(len(payload))|busyBit)
	for i, b := range payload {
		off := (pos + headerSize + uint64(i)) & (f.size - 1)
		f.data[off], f.data[off+f.size] = b, b
	}
	atomic.StoreUint64(f.prod, end)
	return pos, true
}

// commit ends a record, as bpf_ringbuf_commit does.
func (f *fake) commit(pos uint64, discard bool, flags int) {
	off := pos & (f.size - 1)
	hdr := recordsIn(f.data).header(off) &^ busyBit
	if discard {
		hdr |= discardBit
	}
	f.length(pos, hdr)
	caughtUp := atomic.LoadUint64(f.cons)&(f.size-1) == off
	if f.bell >= 0 && (flags&forceWakeup != 0 || caughtUp && flags&noWakeup == 0) {
		_, _ = unix.Write(f.bell, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// submit makes a whole record, and waits while the ring is full.
func (f *fake) submit(payload []byte, flags int) {
	for {
		if pos, ok := f.reserve(payload); ok {
			f.commit(pos, false, flags)
			return
		}
		runtime.Gosched()
	}
}

func (f *fake) discard(tb testing.TB, payload []byte) {
	tb.Helper()
	pos, ok := f.reserve(payload)
	if !ok {
		tb.Fatal("the ring is full")
	}
	f.commit(pos, true, noWakeup)
}

// Flags of the submit, discard and output helpers (include/uapi/linux/bpf.h).
const (
	noWakeup    = 1 // BPF_RB_NO_WAKEUP
	forceWakeup = 2 // BPF_RB_FORCE_WAKEUP
)

// numbered is a payload of size bytes, at least 8, that begins with n and goes
// on as in pattern.
func numbered(n uint64, size int) []byte {
	b := pattern(size)
	binary.NativeEndian.PutUint64(b, n)
	return b
}

// number is what numbered began with.
func number(sample []byte) uint64 { return binary.NativeEndian.Uint64(sample) }

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// openDescriptors counts what this process has open.
func openDescriptors(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}
