package field

import (
	"encoding/json"
	"math"
	"net/netip"
	"testing"
	"time"
	"unicode/utf8"
)

// The runtime binds pointers; each must be a Value.
var (
	_ Value = (*Uint16)(nil)
	_ Value = (*Uint32)(nil)
	_ Value = (*Uint64)(nil)
	_ Value = (*Int32)(nil)
	_ Value = (*Int64)(nil)
	_ Value = (*Bool)(nil)
	_ Value = (*Hex)(nil)
	_ Value = (*ProcID)(nil)
	_ Value = (*Ancestors)(nil)
	_ Value = (*Text)(nil)
	_ Value = (*Comm)(nil)
	_ Value = (*Args)(nil)
	_ Value = (*Errno)(nil)
	_ Value = (*Addr)(nil)
	_ Value = (*Port)(nil)
	_ Value = (*Latency)(nil)
	_ Value = (*Time)(nil)
)

// check asserts both forms of v, and that they are appended to what is there.
func check(t *testing.T, v Value, text, jsonText string) {
	t.Helper()
	if got := string(v.AppendText([]byte("<"))); got != "<"+text {
		t.Errorf("text of %T %v:\n got %q\nwant %q", v, v, got[1:], text)
	}
	got := v.AppendJSON([]byte("<"))
	if string(got) != "<"+jsonText {
		t.Errorf("JSON of %T %v:\n got %q\nwant %q", v, v, got[1:], jsonText)
	}
	if !json.Valid(got[1:]) || !utf8.Valid(got) {
		t.Errorf("JSON of %T %v is not valid: %q", v, v, got[1:])
	}
}

func TestScalars(t *testing.T) {
	check(t, new(Uint16(math.MaxUint16)), "65535", "65535")
	check(t, new(Uint32(math.MaxUint32)), "4294967295", "4294967295")
	check(t, new(Uint64(0)), "0", "0")
	check(t, new(Uint64(math.MaxUint64)), "18446744073709551615", "18446744073709551615")
	check(t, new(Int32(math.MinInt32)), "-2147483648", "-2147483648")
	check(t, new(Int64(math.MinInt64)), "-9223372036854775808", "-9223372036854775808")
	check(t, new(Bool(true)), "yes", "true")
	check(t, new(Bool(false)), "no", "false")
	check(t, new(Hex(0)), "0x0", `"0x0"`)
	check(t, new(Hex(math.MaxUint64)), "0xffffffffffffffff", `"0xffffffffffffffff"`)
	check(t, &ProcID{}, "", `""`)
	check(t, &Ancestors{}, "", "[]")
	check(t, &Ancestors{
		{Proc: ProcID{Start: 5, PID: 7}, Comm: Comm{'a', '<', '<', '\n', '"'}}, {Proc: ProcID{PID: 1}},
	}, `a\x3c\x3c\n"(7)<(1)`, `[{"pid":7,"comm":"a<<\n\"","proc_id":"5-7"},{"pid":1,"comm":"","proc_id":"0-1"}]`)
	check(t, &Stack{}, "", "[]")
	check(t, &Stack{'a', '<', '\n', '+', '0', 0, 0, 0xff, '"', 0}, `a\x3c\n+0<<\xff"`, `["a<\n+0","","`+"\ufffd"+`\""]`)
	check(t, &ProcID{Start: math.MaxUint64, PID: math.MaxUint32}, "18446744073709551615-4294967295", `"18446744073709551615-4294967295"`)
}

// sample is an event as a tracer would have it, with what each append path needs to be taken.
type sample struct {
	pid   Uint32
	ret   Int32
	ino   Uint64
	off   Int64
	mode  Uint16
	ok    Bool
	sock  Hex
	comm  Comm
	path  Text
	evil  Text
	wide  Text
	args  Args
	evils Args
	err   Errno
	odd   Errno
	addr  Addr
	port  Port
	lat   Latency
	time  Time
	boot  Time
	delta Time
}

func newSample() *sample {
	style := NewTimeStyle(TimeDelta, nil)
	style.Advance(1)
	return &sample{
		pid: 4242, ret: -1, ino: math.MaxUint64, off: math.MinInt64, mode: 0o644, ok: true,
		sock: 0xffff888012345678,
		comm: Comm{'k', 'w', 'o', 'r', 'k', 'e', 'r', '/', '0', ':', '1'},
		path: Text("/usr/lib/x86_64-linux-gnu/libc.so.6"),
		evil: Text("a\x1b]0;x\x07\x9b\u009b\u202e\U000e0041\"\\\xff"),
		wide: Text("日本語/e\u0301é/👩\u200d🚀"),
		args: Args{Raw: []byte("/usr/bin/gcc\x00-O2\x00-Wall\x00-c\x00main.c\x00-o\x00main.o\x00"), Argc: 7},
		evils: Args{
			Raw:  []byte("sh\x00-c\x00echo \"$1\" > '/tmp/x'\x00é\x00\x00\x1b[2J\x00…\x00日本"),
			Argc: 12,
		},
		err: -2, odd: -1234,
		addr:  Addr(netip.MustParseAddr("fe80::1%eth0")),
		port:  443,
		lat:   1234567,
		time:  Time{Boot: 1, Wall: 1795371442123456789},
		boot:  Time{Boot: 8123456789000, Style: NewTimeStyle(TimeBoot, time.UTC)},
		delta: Time{Boot: 8123456789000, Style: style},
	}
}

func (s *sample) values() []Value {
	return []Value{
		&s.pid, &s.ret, &s.ino, &s.off, &s.mode, &s.ok, &s.sock, &s.comm, &s.path, &s.evil, &s.wide,
		&s.args, &s.evils, &s.err, &s.odd, &s.addr, &s.port, &s.lat, &s.time, &s.boot, &s.delta,
	}
}

func TestNoAllocation(t *testing.T) {
	buf := make([]byte, 0, 4096)
	for _, v := range newSample().values() {
		if n := testing.AllocsPerRun(100, func() { buf = v.AppendText(buf[:0]) }); n != 0 {
			t.Errorf("%T.AppendText allocates %v times", v, n)
		}
		if n := testing.AllocsPerRun(100, func() { Width(buf) }); n != 0 {
			t.Errorf("Width of %q allocates %v times", buf, n)
		}
		if n := testing.AllocsPerRun(100, func() { buf = v.AppendJSON(buf[:0]) }); n != 0 {
			t.Errorf("%T.AppendJSON allocates %v times", v, n)
		}
	}
	s := newSample()
	if n := testing.AllocsPerRun(100, func() {
		s.args.Truncated()
		s.comm.Bytes()
		s.delta.Style.Advance(7)
	}); n != 0 {
		t.Errorf("helpers allocate %v times", n)
	}
}

// Every value of every type prints on a full buffer, one it has to grow, too.
func TestGrow(t *testing.T) {
	for _, v := range newSample().values() {
		text, jsonText := string(v.AppendText(nil)), string(v.AppendJSON(nil))
		for room := range 64 {
			full := make([]byte, 3, 3+room)
			copy(full, "abc")
			if got := string(v.AppendText(full)); got != "abc"+text {
				t.Fatalf("%T with room for %d: %q, want %q", v, room, got, "abc"+text)
			}
			if got := string(v.AppendJSON(full)); got != "abc"+jsonText {
				t.Fatalf("%T with room for %d: %q, want %q", v, room, got, "abc"+jsonText)
			}
		}
	}
}

func Benchmark(b *testing.B) {
	s := newSample()
	for _, c := range []struct {
		name string
		v    Value
	}{
		{"Uint32", &s.pid},
		{"Hex", &s.sock},
		{"Comm", &s.comm},
		{"Path", &s.path},
		{"Hostile", &s.evil},
		{"Wide", &s.wide},
		{"Args", &s.args},
		{"ArgsQuoted", &s.evils},
		{"Errno", &s.err},
		{"Latency", &s.lat},
		{"Time", &s.time},
		{"TimeDelta", &s.delta},
	} {
		buf := make([]byte, 0, 4096)
		b.Run(c.name+"/text", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = c.v.AppendText(buf[:0])
			}
		})
		b.Run(c.name+"/json", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = c.v.AppendJSON(buf[:0])
			}
		})
	}
	for _, c := range []struct {
		name string
		cell []byte
	}{{"WidthASCII", s.path}, {"WidthUnicode", s.wide.AppendText(nil)}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Width(c.cell)
			}
		})
	}
}
