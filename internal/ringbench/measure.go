// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// source is the consumer's side of a case. All methods but interrupt belong to the
// consumer's thread.
type source interface {
	// wait returns when it is time to drain, or when it is interrupted.
	wait() error
	// drain reads until there is nothing left, and returns how many records that were.
	drain() (uint64, error)
	// interrupt makes the wait in progress, or else the next one, return.
	interrupt()
	Close() error
}

// measure produces for d and consumes until nothing is left. When ctx is done it ends
// early, with ctx's error.
func (l *loaded) measure(ctx context.Context, d time.Duration) (Round, error) {
	before, err := l.counts()
	if err != nil {
		return Round{}, err
	}
	var m Round
	if l.c.Mode == BackToBack {
		m, err = l.backToBack(ctx, d)
	} else {
		m, err = l.parallel(ctx, d)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Round{}, err
	}
	after, err := l.counts()
	if err != nil {
		return Round{}, err
	}
	m.Attempts = after.attempts - before.attempts
	m.Dropped = after.dropped - before.dropped
	m.Busy = time.Duration(after.busy - before.busy)
	if m.Attempts != m.Consumed+m.Dropped {
		return Round{}, fmt.Errorf("the account does not add up: %d records attempted, %d consumed, %d dropped: this is a bug, please report it",
			m.Attempts, m.Consumed, m.Dropped)
	}
	return m, nil
}

// onCPU runs f on a thread that is pinned to a CPU, and waits for it. The thread ends
// with f, so that nothing else is pinned.
func onCPU(cpu int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("pinning a thread to CPU %d: %w", cpu, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// backToBack makes a batch, consumes it, and so on, all on one thread.
func (l *loaded) backToBack(ctx context.Context, d time.Duration) (m Round, err error) {
	err = onCPU(l.consumerCPU, func() error {
		p := l.newProducer(0)
		begin := time.Now()
		usage, err := threadUsage()
		if err != nil {
			return err
		}
		for m.Elapsed < d && ctx.Err() == nil {
			if err := p.run(); err != nil {
				return err
			}
			n, err := l.source.drain()
			if err != nil {
				return err
			}
			m.Consumed += n
			m.Elapsed = time.Since(begin)
		}
		return m.account(usage)
	})
	return m, err
}

// parallel lets producers and consumer run at the same time.
func (l *loaded) parallel(ctx context.Context, d time.Duration) (m Round, err error) {
	var (
		ready     sync.WaitGroup
		producing sync.WaitGroup
		start     = make(chan struct{})
		stop      atomic.Bool // producers: end
		finished  atomic.Bool // consumer: nothing comes any more
		errs      = make([]error, len(l.producerCPUs)+1)
		consumed  = make(chan struct{})
	)
	ready.Add(len(errs))
	// A thread that cannot be pinned must not be waited for.
	pinned := func(cpu int, f func() error) error {
		var once sync.Once
		arrived := func() { once.Do(ready.Done) }
		err := onCPU(cpu, func() error {
			arrived()
			<-start
			return f()
		})
		arrived()
		return err
	}
	for id, cpu := range l.producerCPUs {
		p := l.newProducer(id)
		producing.Go(func() {
			errs[id] = pinned(cpu, func() error {
				// Once at the least, or a machine that is busy elsewhere measures nothing.
				for {
					if err := p.run(); err != nil || stop.Load() {
						return err
					}
				}
			})
		})
	}
	go func() {
		defer close(consumed)
		errs[len(errs)-1] = pinned(l.consumerCPU, func() error {
			usage, err := threadUsage()
			if err != nil {
				return err
			}
			for last := false; !last; {
				if err := l.source.wait(); err != nil {
					return err
				}
				// Looked at before the drain: what came before it is in the drain.
				last = finished.Load()
				n, err := l.source.drain()
				if err != nil {
					return err
				}
				m.Consumed += n
			}
			return m.account(usage)
		})
	}()
	ready.Wait()
	begin := time.Now()
	close(start)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-consumed: // by an error only
	}
	stop.Store(true)
	producing.Wait()
	finished.Store(true)
	l.source.interrupt()
	<-consumed
	m.Elapsed = time.Since(begin)
	return m, errors.Join(errs...)
}

// usage is what a thread has cost so far.
type usage struct {
	cpu    time.Duration
	sleeps int64
}

// threadUsage is that of the calling thread (getrusage(2), RUSAGE_THREAD). A thread
// that sleeps gives up its CPU voluntarily, once each time.
func threadUsage() (usage, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &ru); err != nil {
		return usage{}, fmt.Errorf("reading what the consumer's thread used: %w", err)
	}
	return usage{cpu: time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), sleeps: ru.Nvcsw}, nil
}

// account enters what the calling thread has cost since before.
func (r *Round) account(before usage) error {
	now, err := threadUsage()
	if err != nil {
		return err
	}
	r.ConsumerCPU = now.cpu - before.cpu
	r.Wakeups = uint64(now.sleeps - before.sleeps)
	return nil
}

// forgotten is how long records wait that were not worth a wakeup when they came, and
// behind which no other came.
const forgotten = 10 * time.Millisecond

// ringsSource reads rings by internal/ringbuf.
type ringsSource struct {
	c      *Case
	rings  []*ringbuf.Ring
	poller *ringbuf.Poller
	commit uint64 // bytes after which space is given back
	sum    uint64 // so that each record is looked at
}

func newRingsSource(c *Case, rings []*ringbuf.Ring) (source, error) {
	p, err := ringbuf.NewPoller(rings...)
	if err != nil {
		for _, r := range rings {
			err = errors.Join(err, r.Close())
		}
		return nil, err
	}
	return &ringsSource{c: c, rings: rings, poller: p, commit: commitEvery(c)}, nil
}

// commitEvery is after how many bytes a reader gives space back: each time costs a
// shared cache line. Where the programs count what waits to decide on a wakeup, that
// must not be more than a fraction of what they wait for, or they would go on waking a
// reader that is at work.
func commitEvery(c *Case) uint64 {
	n := uint64(c.RingSize / 8)
	if c.Wakeup == Sampled && c.API != Perf {
		n = min(n, uint64(c.Every*c.space()/4))
	}
	return n
}

func (s *ringsSource) wait() error {
	var wake ringbuf.Wake
	var err error
	switch s.c.Wakeup {
	case Sampled:
		_, err = s.poller.WaitWakeup(forgotten)
		return err
	case None:
		_, err = s.poller.Pause(s.c.Pace)
		return err
	}
	if wake, err = s.poller.Wait(-1); err != nil || wake == ringbuf.Interrupted || s.c.Pace == 0 {
		return err
	}
	_, err = s.poller.Pause(s.c.Pace)
	return err
}

func (s *ringsSource) drain() (n uint64, err error) {
	for _, r := range s.rings {
		for {
			sample, ok := r.Next()
			if !ok {
				break
			}
			n++
			s.sum += binary.NativeEndian.Uint64(sample)
			if r.Held() >= s.commit {
				r.Commit()
			}
		}
		r.Commit()
		err = errors.Join(err, r.Err())
	}
	return n, err
}

func (s *ringsSource) interrupt() { s.poller.Interrupt() }

func (s *ringsSource) Close() error {
	err := s.poller.Close()
	for _, r := range s.rings {
		err = errors.Join(err, r.Close())
	}
	return err
}
