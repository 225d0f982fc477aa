// SPDX-License-Identifier: Apache-2.0

package ringquery

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	cilium "github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
)

// checkPositions compares what each source says of a ring that stands still with what
// its owner says.
func checkPositions(t *testing.T, id ebpf.MapID, produced, consumed uint64) {
	t.Helper()
	for _, source := range []Source{Mmap, Helper} {
		r, err := open(t, &Options{Source: source}).Ring(id)
		if err != nil {
			t.Fatal(err)
		}
		if r.ProdPos != produced || r.ConsPos != consumed || r.AvailData != produced-consumed {
			t.Errorf("%s: %+v, its owner produced %d and consumed %d bytes", source, r.State, produced, consumed)
		}
	}
}

// A reader of cilium/ebpf.
func TestCiliumOwner(t *testing.T) {
	q := open(t, nil)
	m, id := newRing(t, ebpf.MapSpec{Name: "rbt_cilium", MaxEntries: 64 << 10})
	reader, err := cilium.NewReader(m)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	produce := newProducer(t, m)
	produced, consumed := 0, 0
	for _, step := range []struct{ produce, consume int }{{0, 0}, {101, 0}, {53, 154}, {2039, 1021}, {0, 1018}} {
		if made := produce(step.produce); made != step.produce {
			t.Fatalf("%d records fitted", made)
		}
		produced += step.produce
		for range step.consume {
			if _, err := reader.Read(); err != nil {
				t.Fatal(err)
			}
		}
		consumed += step.consume
		if got := reader.AvailableBytes(); got != (produced-consumed)*record {
			t.Fatalf("its owner has %d bytes to read, want %d", got, (produced-consumed)*record)
		}
		checkPositions(t, id, uint64(produced)*record, uint64(consumed)*record)
	}
	if r := only(t, look(t, q, Selection{Names: []string{"rbt_cilium"}}), id); !slices.ContainsFunc(r.Details.Owners, func(o Owner) bool { return o.PID == os.Getpid() }) {
		t.Errorf("owners %v", r.Details.Owners)
	}
}

// noTools ends a test that needs programs which the machines of scripts/kernels lack.
func noTools(t *testing.T) {
	t.Helper()
	open(t, nil) // or skip
	if label := os.Getenv(bpftest.KernelEnv); label != "" {
		t.Skip("this machine has no programs but the tests")
	}
}

// A program in C on libbpf.
func TestLibbpfOwner(t *testing.T) {
	noTools(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("there is no C compiler: apt-get install gcc libc6-dev")
	}
	if _, err := os.Stat("/usr/include/bpf/libbpf.h"); err != nil {
		t.Skip("there is no libbpf to compile against: apt-get install libbpf-dev")
	}
	program := filepath.Join(t.TempDir(), "owner")
	if out, err := exec.Command(cc, "-O1", "-Wall", "-Werror", "-o", program, "testdata/owner.c", "-lbpf").CombinedOutput(); err != nil {
		t.Fatalf("compiling: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewScanner(out)
	next := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the owner has ended: %v", lines.Err())
		}
		return lines.Text()
	}
	id := mustID(next())
	for _, order := range []string{"produce 0", "produce 101", "consume", "produce 5000", "consume", "produce 7"} {
		fmt.Fprintln(in, order)
		var produced, consumed uint64
		if _, err := fmt.Sscan(next(), &produced, &consumed); err != nil {
			t.Fatal(err)
		}
		checkPositions(t, id, produced, consumed)
		want := Idle
		if order == "produce 5000" {
			want = Full
			if consumed == produced || produced-consumed != 64<<10-32 {
				t.Errorf("its owner produced %d and consumed %d bytes", produced, consumed)
			}
		}
		q := open(t, nil)
		s, err := q.Snapshot(t.Context(), Request{Select: Selection{IDs: []ebpf.MapID{id}}, Look: 20 * time.Millisecond, Details: true})
		if err != nil {
			t.Fatal(err)
		}
		r := only(t, s.Rings, id)
		if r.Verdict != want || r.Name != "c_events" {
			t.Errorf("%s: %+v, want %s", order, r, want)
		}
		typ, ok := q.RecordType(&r)
		if !ok || TypeString(typ) != "struct c_event" {
			t.Fatalf("the records' type is %v", typ)
		}
		records, err := q.Peek(id, 3, 100)
		if err != nil || (len(records) == 0) != (produced == consumed) {
			t.Errorf("%d records, %v", len(records), err)
		}
		for _, rec := range records {
			if got, err := AppendValue(nil, typ, rec.Data); err != nil || string(got) != `{"n":42,"text":"hell"}` {
				t.Errorf("%s, %v", got, err)
			}
		}
		if d := r.Details; !slices.Equal(d.Owners, []Owner{{cmd.Process.Pid, "owner"}}) || len(d.Programs) != 1 || d.Programs[0].Name != "c_produce" {
			t.Errorf("details %+v", d)
		}
	}
}

// toolScript runs a tool with tracefs in place, which no other process sees.
const toolScript = `mount --make-rprivate / && mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"`

// Tools of Debian's libbpf-tools and bpftrace, of which it depends on the version
// whether they use ring buffers. mountsnoop does, of 0.26 on.
func TestDebianOwners(t *testing.T) {
	noTools(t)
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("there is no unshare: apt-get install util-linux")
	}
	work := func() { // what the tools tell of
		cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt && umount /mnt")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, tool := range [][]string{
		{"mountsnoop"},
		{"exitsnoop"},
		{"opensnoop"},
		{"sigsnoop"},
		{"execsnoop"},
		{"tcpstates"},
		{"bpftrace", "-e", "tracepoint:sched:sched_process_exec { printf(\"%d\\n\", pid); }"},
	} {
		t.Run(tool[0], func(t *testing.T) {
			if _, err := exec.LookPath(tool[0]); err != nil {
				t.Skipf("there is no %s: apt-get install libbpf-tools bpftrace", tool[0])
			}
			var stderr bytes.Buffer
			cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", toolScript, "sh"}, tool...)...)
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			var endErr error
			go func() {
				endErr = cmd.Wait()
				close(ended)
			}()
			defer func() {
				_ = cmd.Process.Kill() // it may have ended
				<-ended
			}()
			// It is ready when its events map is there, of whichever type.
			q := open(t, nil)
			var rings []Ring
			for deadline := time.Now().Add(10 * time.Second); len(rings) == 0; time.Sleep(20 * time.Millisecond) {
				select {
				case <-ended:
					t.Skipf("it does not run on this kernel: %v: %s", endErr, firstLine(stderr.String()))
				default:
				}
				s, err := q.Snapshot(t.Context(), Request{Select: Selection{PIDs: []int{cmd.Process.Pid}}, Details: true})
				if err != nil {
					continue // it has ended
				}
				rings = s.Rings
				for i := range rings {
					if len(rings[i].Details.Programs) == 0 || len(rings[i].Details.Programs[0].AttachedTo) == 0 {
						rings = nil // not attached yet
						break
					}
				}
				if hasPerfArray(t, cmd.Process.Pid) {
					t.Skip("of this version, it uses a perf event array")
				}
				if time.Now().After(deadline) {
					t.Fatalf("it has no ring buffer: %s", stderr.String())
				}
			}
			for range 23 {
				work()
			}
			// Its reader is through when the positions meet.
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				r, err := q.Ring(rings[0].ID)
				if err != nil {
					t.Fatal(err)
				}
				if r.ProdPos > 0 && r.AvailData == 0 {
					checkPositions(t, r.ID, r.ProdPos, r.ProdPos)
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%+v", r)
				}
			}
			if o := rings[0].Details.Owners; len(o) != 1 || o[0] != (Owner{cmd.Process.Pid, tool[0]}) {
				t.Errorf("owners %v, want %s[%d]", o, tool[0], cmd.Process.Pid)
			}
			t.Logf("%+v, %+v", rings[0].State, rings[0].Details.Programs)
		})
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// hasPerfArray reports whether a process has a perf event array.
func hasPerfArray(t *testing.T, pid int) bool {
	t.Helper()
	ids, err := mapsOfProcess(pid, nil)
	if err != nil {
		return false // it has ended
	}
	return slices.ContainsFunc(ids, func(id ebpf.MapID) bool {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false
		}
		defer m.Close()
		return m.Type() == ebpf.PerfEventArray
	})
}

// loadEnv is how long an owner is asked under load.
const loadEnv = "RBTRACE_TEST_LOAD"

// An owner under full load, asked at least 10,000 times a second, by both sources, and
// peeked into, loses nothing, and its stream is what it would be.
func TestLoad(t *testing.T) {
	seconds := 1
	if text := os.Getenv(loadEnv); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 1 {
			t.Fatalf("%s=%s", loadEnv, text)
		}
	}
	queries := 10000 * seconds
	if os.Getenv(bpftest.KernelEnv) != "" {
		queries, seconds = 3001, 0 // in software emulation
	}
	q, helper := open(t, nil), open(t, &Options{Source: Helper})
	m, id := newRing(t, ebpf.MapSpec{MaxEntries: 256 << 10})
	r, err := ringbuf.Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	produce := newProducer(t, m)
	done := make(chan struct{})
	var owner sync.WaitGroup
	var made uint64
	owner.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			// The producer waits where the ring is full: what is lost, is lost by asking.
			made += uint64(produce(101))
			if t.Failed() {
				return
			}
			runtime.Gosched()
		}
	})
	var got uint64
	owner.Go(func() {
		for {
			finishing := false
			select {
			case <-done:
				finishing = true
			default:
			}
			for {
				sample, ok := r.Next()
				if !ok {
					break
				}
				if n := binary.NativeEndian.Uint64(sample); n != got || len(sample) != payload {
					t.Errorf("record %d of %d bytes, want %d", n, len(sample), got)
					return
				}
				got++
			}
			r.Commit()
			if r.Err() != nil {
				t.Error(r.Err())
				return
			}
			if finishing {
				return
			}
			runtime.Gosched()
		}
	})
	begin := time.Now()
	var last State
	fresh, asked := 0, 0
	for i := 0; i < queries || time.Since(begin) < time.Duration(seconds)*time.Second; i++ {
		asked++
		asks := q
		if i%50 == 0 {
			asks = helper
		}
		ring, err := asks.Ring(id)
		if err != nil {
			t.Error(err)
			break
		}
		s := ring.State
		if s.ConsPos > s.ProdPos || s.AvailData > s.ProdPos-s.ConsPos || s.AvailData > s.RingSize || s.ConsPos < last.ConsPos || s.ProdPos < last.ProdPos {
			t.Errorf("%+v after %+v", s, last)
			break
		}
		last = s
		if i%10 != 0 {
			continue
		}
		records, err := q.Peek(id, 7, payload)
		if err != nil {
			t.Error(err)
			break
		}
		for _, rec := range records {
			if rec.Stale || rec.Busy {
				continue
			}
			fresh++
			if rec.Pos%record != 0 || len(rec.Data) != payload || binary.NativeEndian.Uint64(rec.Data) != rec.Pos/record {
				t.Errorf("record at %d: %v", rec.Pos, rec.Data)
			}
		}
	}
	took := time.Since(begin)
	close(done)
	owner.Wait()
	// What was produced after the reader's last look.
	for {
		sample, ok := r.Next()
		if !ok {
			break
		}
		if n := binary.NativeEndian.Uint64(sample); n != got {
			t.Errorf("record %d, want %d", n, got)
		}
		got++
	}
	r.Commit()
	if got != made || made == 0 {
		t.Errorf("%d records of %d", got, made)
	}
	if fresh == 0 {
		t.Error("no unread record was ever seen")
	}
	checkPositions(t, id, made*record, made*record)
	if info, err := m.Info(); err != nil || info.Frozen() {
		t.Errorf("the ring is frozen, or %v", err)
	}
	t.Logf("%d queries in %v (%.0f/s), %d records passed (%.0f/s), %d peeked at", asked, took, float64(asked)/took.Seconds(), made, float64(made)/took.Seconds(), fresh)
}

// A program that sleeps between reserve and submit holds up everything behind it.
func TestStuckHead(t *testing.T) {
	q := open(t, nil)
	if since := (kernel.Version{Major: 5, Minor: 14}); running(t).Less(since) {
		t.Skipf("programs that sleep on request need Linux %s", since)
	}
	m, id := newRing(t, ebpf.MapSpec{})
	sleeper, _ := load(t, &ebpf.ProgramSpec{
		Name: "rbt_sleeper", Type: ebpf.Syscall, Flags: unix.BPF_F_SLEEPABLE, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Imm(asm.R2, payload),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "full"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.Mov.Imm(asm.R2, 8),
			asm.LoadMem(asm.R3, asm.R6, 0, asm.DWord),
			asm.FnCopyFromUser.Call(),
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRingbufSubmit.Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("full"),
			asm.Return(),
		},
	})
	produce := newProducer(t, m)
	addr, release := userfault(t)
	done := make(chan error)
	go func() {
		_, err := sleeper.Run(&ebpf.RunOptions{Context: addr})
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if r, err := q.Ring(id); err != nil || r.ProdPos > 0 {
			break // the program has reserved
		}
		if time.Now().After(deadline) {
			t.Fatal("the program does not begin")
		}
	}
	produce(3)
	check := func(want Verdict, busy bool) Ring {
		t.Helper()
		s, err := q.Snapshot(t.Context(), Request{Select: Selection{IDs: []ebpf.MapID{id}}, Look: 60 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		r := only(t, s.Rings, id)
		if r.Verdict != want || r.HeadBusy != busy {
			t.Errorf("%+v, want %s", r, want)
		}
		return r
	}
	first := check(Stuck, true)
	if r := check(Stuck, true); first.HeadAge < 60*time.Millisecond || r.HeadAge < first.HeadAge+60*time.Millisecond {
		t.Errorf("stuck for %v, then %v", first.HeadAge, r.HeadAge)
	}
	records, err := q.Peek(id, 10, payload)
	if err != nil || len(records) != 4 || !records[0].Busy || records[1].Busy || records[3].Busy {
		t.Errorf("records %+v, %v", records, err)
	}
	produce(1 << 20)
	check(Stuck, true) // which is why it is full
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check(Full, false)
	r, err := ringbuf.Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for ok := true; ok; {
		_, ok = r.Next()
	}
	r.Commit()
	check(Draining, false)
	check(Idle, false)
}

// mapProducer maps what the producer of a user ring writes: the producer page and the
// data, twice.
func mapProducer(t *testing.T, m *ebpf.Map) []byte {
	t.Helper()
	page := os.Getpagesize()
	pages, err := unix.Mmap(m.FD(), int64(page), page+2*int(m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(pages); err != nil {
			t.Error(err)
		}
	})
	return pages
}

// Of a BPF_MAP_TYPE_USER_RINGBUF only the mapping tells.
func TestUserRing(t *testing.T) {
	q := open(t, nil)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "rbt_user", Type: ebpf.UserRingbuf, MaxEntries: uint32(os.Getpagesize())})
	if since := (kernel.Version{Major: 6, Minor: 1}); running(t).Less(since) {
		t.Skipf("user ring buffers need Linux %s", since)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	id := idOf(t, m)
	r := only(t, look(t, q, Selection{Names: []string{"rbt_user"}}), id)
	if r.Type != ebpf.UserRingbuf || r.RingSize != uint64(os.Getpagesize()) || r.AvailData != 0 || r.Source != Mmap {
		t.Errorf("%+v", r)
	}
	if _, err := open(t, &Options{Source: Helper}).Ring(id); err == nil || !strings.Contains(err.Error(), "use the source mmap") {
		t.Errorf("by the helper: %v", err)
	}

	// User space is the producer: a record that it has reserved and not committed, and
	// one that it has.
	pages := mapProducer(t, m)
	page := os.Getpagesize()
	binary.NativeEndian.PutUint32(pages[page:], 16|1<<31)
	binary.NativeEndian.PutUint32(pages[page+24:], 8)
	copy(pages[page+32:], "ringbufs")
	binary.NativeEndian.PutUint64(pages, 40)
	records, err := q.Peek(id, 10, 100)
	if err != nil || len(records) != 2 || !records[0].Busy || records[0].Len != 16 || records[1].Busy || string(records[1].Data) != "ringbufs" {
		t.Errorf("%+v, %v", records, err)
	}
	s, err := q.Snapshot(t.Context(), Request{Select: Selection{IDs: []ebpf.MapID{id}}, Look: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r := only(t, s.Rings, id); r.Verdict != Stuck || !r.HeadBusy || r.HeadAge < 50*time.Millisecond || r.AvailData != 40 {
		t.Errorf("%+v", r)
	}
	// The owner can write whatever it likes: none of it makes the querier read elsewhere.
	for _, prod := range []uint64{1, 7, 4096 + 8, 1 << 63, ^uint64(0), 40} {
		for _, length := range []uint32{0, 1<<30 - 1, ^uint32(0), 4096, 12345} {
			binary.NativeEndian.PutUint64(pages, prod)
			binary.NativeEndian.PutUint32(pages[page:], length)
			if _, err := q.Peek(id, 10, 1<<30); err != nil {
				t.Errorf("producer position %d, length %#x: %v", prod, length, err)
			}
			if _, err := q.Snapshot(t.Context(), Request{Select: Selection{IDs: []ebpf.MapID{id}}, Look: time.Millisecond}); err != nil {
				t.Errorf("producer position %d, length %#x: %v", prod, length, err)
			}
		}
	}
}
