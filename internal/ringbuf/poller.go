package ringbuf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How long Wait lets pass before it looks at a busy head again: the commit of
// one does wake, unless it is done with BPF_RB_NO_WAKEUP. Doubled each time.
const (
	minBackoff = 50 * time.Microsecond
	maxBackoff = 10 * time.Millisecond
)

// Wake is why a wait of a [Poller] ended.
type Wake uint8

// The reasons, by falling precedence after an error.
const (
	Interrupted Wake = iota + 1 // Interrupt was called
	Data                        // at least one ring has a record for Next
	Timeout                     // the time is up
)

// String returns the reason in lower case.
func (w Wake) String() string {
	switch w {
	case Interrupted:
		return "interrupted"
	case Data:
		return "data"
	case Timeout:
		return "timeout"
	}
	return fmt.Sprintf("Wake(%d)", uint8(w))
}

// Poller waits for data in any of its rings, by one epoll instance. A ring is in
// one Poller at most. All methods but [Poller.Interrupt] belong to the goroutine
// that reads the rings.
type Poller struct {
	// Pace is how long Wait lets discarded records gather, after it was woken by such
	// alone: a reader that has passed them at once is woken by the next one, and
	// programs that discard most of what they reserve would wake it without pause. 0:
	// not at all.
	Pace time.Duration

	rings  []*Ring
	epoll  int
	events [16]unix.EpollEvent
	blocks uint64 // calls of block, for tests

	interrupted atomic.Bool // what Interrupt means; the eventfd is only its bell
	mu          sync.Mutex  // keeps Interrupt from writing to a bell that Close closed
	bell        int         // eventfd; -1: closed
}

// NewPoller returns a Poller for rings, to which [Poller.Add] and
// [Poller.Remove] may add and remove. Close it; the rings remain the caller's.
func NewPoller(rings ...*Ring) (*Poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating an epoll instance: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("creating an eventfd: %w", err)
	}
	p := &Poller{epoll: epoll, bell: bell}
	if err := p.register(bell, unix.EPOLLIN); err != nil {
		return nil, errors.Join(fmt.Errorf("adding the eventfd to epoll: %w", err), p.Close())
	}
	for _, r := range rings {
		if err := p.Add(r); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

func (p *Poller) register(fd int, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// Add makes Wait look at r as well. Data that r already has is found by the
// next Wait.
func (p *Poller) Add(r *Ring) error {
	if r.poller != nil {
		return errors.New("adding a ring to a poller: it is in one already")
	}
	// Edge-triggered: Wait looks at the positions itself, and a level-triggered
	// ring would report a busy head without pause, as its poll callback only
	// compares the positions (ringbuf_map_poll_kern).
	if err := p.register(r.fd, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return fmt.Errorf("adding a ring to epoll: %w", err)
	}
	r.poller = p
	p.rings = append(p.rings, r)
	return nil
}

// Remove makes Wait forget r, which remains open. It does nothing where r is not
// in p. [Ring.Close] does it by itself.
func (p *Poller) Remove(r *Ring) error {
	i := slices.Index(p.rings, r)
	if i < 0 {
		return nil
	}
	p.rings = slices.Delete(p.rings, i, i+1)
	r.poller = nil
	// Closing the descriptor would not do: the registration lives as long as
	// any duplicate of it, and the map's owner has one (epoll(7)).
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, r.fd, nil); err != nil {
		return fmt.Errorf("removing a ring from epoll: %w", err)
	}
	return nil
}

// Wait commits every ring and returns as soon as one of them has a record that
// [Ring.Next] would return, when it is interrupted, or after timeout: at once
// where that is 0, never where it is negative. The samples handed out before are
// no longer valid: the commit is what makes the kernel send a wakeup, which it
// does only if the reader has caught up.
//
// It looks at the rings before it blocks and once more at the timeout, because
// epoll does not report what was committed with BPF_RB_NO_WAKEUP. A ring whose
// programs use that flag therefore needs a timeout, also for records with other
// flags behind such a one: only BPF_RB_FORCE_WAKEUP wakes a reader that has not
// caught up. An uncommitted record at the head does not count as data; while
// there is one, Wait looks again after 50 µs, then after twice that, up to
// every 10 ms. Idle and without a timeout, it is one blocked epoll_wait.
//
// The error is that of a corrupt ring (see [Ring.Err]), which stays until the
// ring is removed, or of a system call. Signals are not errors.
func (p *Poller) Wait(timeout time.Duration) (Wake, error) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	for backoff := time.Duration(0); ; {
		if p.interrupted.CompareAndSwap(true, false) {
			return Interrupted, nil
		}
		s, err := p.look()
		if err != nil {
			return 0, err
		}
		if s == ready {
			return Data, nil
		}
		left := timeout
		if timeout > 0 {
			left = max(0, time.Until(deadline))
		}
		if left == 0 {
			return Timeout, nil
		}
		if s != busy {
			backoff = 0
		} else {
			backoff = min(max(minBackoff, 2*backoff), maxBackoff)
			if left < 0 || left > backoff {
				left = backoff
			}
		}
		discarded := p.discarded()
		if err := p.block(left); err != nil {
			return 0, err
		}
		if p.Pace == 0 {
			continue
		}
		if s, err = p.look(); err != nil {
			return 0, err
		}
		if s == drained && p.discarded() != discarded {
			if wake, err := p.Pause(p.Pace); err != nil || wake == Interrupted {
				return wake, err
			}
		}
	}
}

// discarded is how many discarded records were passed in all rings.
func (p *Poller) discarded() (n uint64) {
	for _, r := range p.rings {
		n += r.discarded
	}
	return n
}

// WaitWakeup commits every ring and waits for a wakeup, an interruption, or the
// timeout, which must be more than 0, even if there are records to read: it is for
// programs that decide themselves when their reader is wanted, with
// BPF_RB_NO_WAKEUP and BPF_RB_FORCE_WAKEUP. The timeout is what bounds the time
// that a record waits which none of them thought worth a wakeup. A wakeup that came
// since the last wait counts, also one for records that have been read already.
func (p *Poller) WaitWakeup(timeout time.Duration) (Wake, error) {
	if p.interrupted.CompareAndSwap(true, false) {
		return Interrupted, nil
	}
	if _, err := p.look(); err != nil {
		return 0, err
	}
	if err := p.block(max(timeout, 0)); err != nil {
		return 0, err
	}
	if p.interrupted.CompareAndSwap(true, false) {
		return Interrupted, nil
	}
	s, err := p.look()
	switch {
	case err != nil:
		return 0, err
	case s == ready:
		return Data, nil
	}
	return Timeout, nil
}

// look publishes the position of every ring, discarded records at the head
// included, and returns ready if one has a record, else busy if one has a busy
// head, else drained.
func (p *Poller) look() (state, error) {
	s := drained
	for _, r := range p.rings {
		// Commit, then look: this order is what excludes a lost wakeup. Where
		// the look skipped discarded records, there is more to commit, and a
		// look has to follow that as well.
		for {
			r.Commit()
			_, head := r.head()
			if head == corrupt {
				return s, r.err
			}
			if head == ready {
				s = ready
			} else if head == busy && s == drained {
				s = busy
			}
			// Nor does it end while discarded records come as fast as they are passed: who
			// interrupts wants to be heard.
			if r.Held() == 0 || head == ready || p.interrupted.Load() {
				break
			}
		}
	}
	return s, nil
}

// block sleeps until an edge or the bell, for d at the most, forever if d < 0.
func (p *Poller) block(d time.Duration) error {
	p.blocks++
	msec := -1
	if d >= 0 {
		// epoll_wait counts in milliseconds, and epoll_pwait2 is Linux 5.11.
		if err := pollFor(p.epoll, d); err != nil {
			return fmt.Errorf("polling the epoll instance: %w", err)
		}
		msec = 0
	}
	n, err := unix.EpollWait(p.epoll, p.events[:], msec)
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("waiting for rings: %w", err)
	}
	for _, ev := range p.events[:max(n, 0)] {
		if ev.Fd == int32(p.bell) {
			return p.silence()
		}
	}
	return nil
}

// Pause waits for d, or until it is interrupted, whatever the rings do. Nothing
// is committed, so samples stay valid. It is for pacing: producers queue no
// wakeups for a reader that is behind, which makes a reader that lets a
// millisecond pass before it drains much cheaper for the traced programs.
func (p *Poller) Pause(d time.Duration) (Wake, error) {
	for deadline := time.Now().Add(d); ; {
		if p.interrupted.CompareAndSwap(true, false) {
			return Interrupted, nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return Timeout, nil
		}
		if err := pollFor(p.bell, left); err != nil {
			return 0, fmt.Errorf("polling the eventfd: %w", err)
		}
		if err := p.silence(); err != nil {
			return 0, err
		}
	}
}

// pollFor waits until fd can be read, for d at the most. A signal ends it early.
func pollFor(fd int, d time.Duration) error {
	ts := unix.NsecToTimespec(int64(d))
	_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &ts, nil)
	if err == unix.EINTR {
		return nil
	}
	return err
}

// silence makes the bell unreadable until it rings again. A bell that rang for
// an interrupt already reported ends one block too early, and nothing more.
func (p *Poller) silence() error {
	var buf [8]byte
	_, err := unix.Read(p.bell, buf[:])
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		return fmt.Errorf("reading the eventfd: %w", err)
	}
	return nil
}

// Interrupt makes the Wait or Pause in progress, or else the next one, return
// [Interrupted]. It may be called from any goroutine, never blocks, and does
// nothing after Close. It is sticky until one such return, and several calls
// before that are one: whoever is woken looks for everything it may have been
// interrupted for, and sees what was written before each of those calls.
func (p *Poller) Interrupt() {
	if p.interrupted.Swap(true) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bell >= 0 {
		// It cannot fail: the counter is reset before it could overflow.
		_, _ = unix.Write(p.bell, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// Close releases the epoll instance and the eventfd, and leaves the rings open,
// free to be added to another Poller. It must not be called while another
// goroutine is in Wait or Pause: interrupt that one, and let it finish.
func (p *Poller) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bell < 0 {
		return nil
	}
	for _, r := range p.rings {
		r.poller = nil
	}
	p.rings = nil
	err := errors.Join(unix.Close(p.epoll), unix.Close(p.bell))
	p.epoll, p.bell = -1, -1
	if err != nil {
		return fmt.Errorf("closing the poller: %w", err)
	}
	return nil
}
