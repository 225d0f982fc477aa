package ringbuf

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	cilium "github.com/cilium/ebpf/ringbuf"
)

// BenchmarkDrain reads a ring of 64 MiB that was filled before, the filling off
// the clock; an op is one whole ring. Both readers look at each record's number,
// as a program that does not look at its events has no use for a reader.
//
//	go test -run '^$' -bench Drain -benchtime 20x ./internal/ringbuf
func BenchmarkDrain(b *testing.B) {
	const size = 64 << 20
	for _, payload := range []int{8, 64, 256, 1024} {
		b.Run(fmt.Sprintf("reader=rbtrace/payload=%d", payload), func(b *testing.B) {
			benchmarkDrain(b, size, payload, func(m *ebpf.Map) func(*testing.B, int) uint64 {
				r := openRing(b, m)
				return func(*testing.B, int) (sum uint64) {
					for {
						sample, ok := r.Next()
						if !ok {
							break
						}
						sum += number(sample)
						if r.Held() >= size/8 {
							r.Commit()
						}
					}
					r.Commit()
					return sum
				}
			})
		})
		b.Run(fmt.Sprintf("reader=cilium/payload=%d", payload), func(b *testing.B) {
			benchmarkDrain(b, size, payload, func(m *ebpf.Map) func(*testing.B, int) uint64 {
				r, err := cilium.NewReader(m)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { r.Close() })
				rec := cilium.Record{RawSample: make([]byte, 0, payload)}
				return func(b *testing.B, n int) (sum uint64) {
					for range n { // it would block at the end
						if err := r.ReadInto(&rec); err != nil {
							b.Fatal(err)
						}
						sum += number(rec.RawSample)
					}
					return sum
				}
			})
		})
	}
}

func benchmarkDrain(b *testing.B, size, payload int, open func(*ebpf.Map) func(*testing.B, int) uint64) {
	m := newMap(b, size)
	p := newReserver(b, m, payload)
	drain := open(m)
	total := 0
	b.SetBytes(int64(size))
	for b.Loop() {
		b.StopTimer()
		first := p.next
		n := p.run(b, size, 0, false, 0) // as many as fit
		total += n
		want := (first + p.next - 1) * uint64(n) / 2
		b.StartTimer()
		if sum := drain(b, n); sum != want {
			b.Fatalf("the numbers of the records add up to %d, want %d", sum, want)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(total), "ns/record")
}
