package ringbuf

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	cilium "github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// A drainer reads the n records of a full ring. It returns how long that took and
// the sum of their numbers, as a program that does not look at its events has no
// use for a reader.
type drainer func(b *testing.B, n int) (took time.Duration, sum uint64)

// BenchmarkDrain reads rings that were filled before, each by another reader, in
// turn: rbtrace's own, cilium/ebpf's Reader.ReadInto, and libbpf's
// ring_buffer__consume, where cc and libbpf are there to build testdata/drain.c. The
// small ring fits a CPU's cache, the large one none. An op is a round of all readers;
// what is reported are medians and their ratios.
//
//	go test -run '^$' -bench Drain -benchtime 31x ./internal/ringbuf
func BenchmarkDrain(b *testing.B) {
	for _, size := range []int{64 << 20, 256 << 10} {
		for _, payload := range []int{8, 64, 256, 1024} {
			b.Run(fmt.Sprintf("ring=%dK/payload=%d", size>>10, payload), func(b *testing.B) { benchmarkDrain(b, size, payload) })
		}
	}
}

func benchmarkDrain(b *testing.B, size, payload int) {
	// On one CPU, so that what filled the ring is in the same cache for all; the C
	// program inherits that.
	onOneCPU(b)
	readers := []struct {
		name  string
		open  func(*testing.B, *ebpf.Map) drainer
		drain drainer
		fill  *producer
		took  []float64 // ns a record, of each round
	}{
		{name: "rbtrace", open: openOwn},
		{name: "cilium", open: openCilium},
		{name: "libbpf", open: openLibbpf},
	}
	for i := range readers {
		r := &readers[i]
		m := newMap(b, size)
		r.fill, r.drain = newReserver(b, m, payload), r.open(b, m)
	}
	for b.Loop() {
		for i := range readers {
			r := &readers[i]
			if r.drain == nil {
				continue
			}
			first := r.fill.next
			n := r.fill.run(b, size, 0, false, 0) // as many as fit
			took, sum := r.drain(b, n)
			if want := (first + r.fill.next - 1) * uint64(n) / 2; sum != want {
				b.Fatalf("%s: the numbers of the records add up to %d, want %d", r.name, sum, want)
			}
			r.took = append(r.took, float64(took.Nanoseconds())/float64(n))
		}
	}
	median := make(map[string]float64)
	for _, r := range readers {
		if len(r.took) > 0 {
			slices.Sort(r.took)
			median[r.name] = r.took[len(r.took)/2]
			b.ReportMetric(median[r.name], r.name+"-ns")
		}
	}
	b.ReportMetric(0, "ns/op") // not shown: filling is most of it
	b.ReportMetric(median["cilium"]/median["rbtrace"], "cilium/rbtrace")
	if median["libbpf"] > 0 {
		b.ReportMetric(median["rbtrace"]/median["libbpf"], "rbtrace/libbpf")
	}
}

func openOwn(b *testing.B, m *ebpf.Map) drainer {
	r := openRing(b, m)
	return func(*testing.B, int) (took time.Duration, sum uint64) {
		begin := time.Now()
		for {
			sample, ok := r.Next()
			if !ok {
				break
			}
			sum += number(sample)
			if r.Held() >= uint64(r.Size())/8 {
				r.Commit()
			}
		}
		r.Commit()
		return time.Since(begin), sum
	}
}

func openCilium(b *testing.B, m *ebpf.Map) drainer {
	r, err := cilium.NewReader(m)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	var rec cilium.Record
	return func(b *testing.B, n int) (took time.Duration, sum uint64) {
		begin := time.Now()
		for range n { // it would block at the end
			if err := r.ReadInto(&rec); err != nil {
				b.Fatal(err)
			}
			sum += number(rec.RawSample)
		}
		return time.Since(begin), sum
	}
}

// openLibbpf starts the C program on the ring, or returns nil where it cannot be
// built.
func openLibbpf(b *testing.B, m *ebpf.Map) drainer {
	program := filepath.Join(b.TempDir(), "drain")
	out, err := exec.Command("cc", "-O2", "-o", program, "testdata/drain.c", "-lbpf").CombinedOutput()
	if err != nil {
		b.Logf("without libbpf (apt install gcc libbpf-dev): building testdata/drain.c: %v\n%s", err, out)
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	ring := os.NewFile(uintptr(fd), "ring")
	defer ring.Close()
	cmd := exec.Command(program)
	cmd.ExtraFiles = []*os.File{ring}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	return func(b *testing.B, n int) (took time.Duration, sum uint64) {
		if _, err := io.WriteString(in, "\n"); err != nil {
			b.Fatal(err)
		}
		var read int
		if _, err := fmt.Fscanln(answers, &took, &read, &sum); err != nil {
			b.Fatalf("reading the answer of drain: %v", err)
		}
		if read != n {
			b.Fatalf("drain read %d records, want %d", read, n)
		}
		return took, sum
	}
}

// onOneCPU keeps the benchmark, and what it starts, on the last CPU: the first one
// has more interrupts.
func onOneCPU(b *testing.B) {
	runtime.LockOSThread()
	b.Cleanup(runtime.UnlockOSThread)
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Fatal(err)
	}
	cpu := 0
	for n := range 8 * len(before) * 8 {
		if before.IsSet(n) {
			cpu = n
		}
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			b.Error(err)
		}
	})
}
