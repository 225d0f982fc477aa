// SPDX-License-Identifier: Apache-2.0

// Package dns traces host names that programs look up.
package dns

import (
	"errors"
	"strconv"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type dns_event -target amd64,arm64 bpf ../../../bpf/dns.bpf.c -- -I../../../bpf/include

// Event is one call, when it returns.
type Event struct {
	tracer.Common
	Function Function      `json:"function" col:"FUNC,w=14" doc:"getaddrinfo, gethostbyname or gethostbyname2"`
	Latency  field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"how long it took"`
	Ret      field.Int32   `json:"ret" col:"RET,w=4,right" doc:"what getaddrinfo returned; of the others 0, or -1 where they found nothing"`
	Error    Error         `json:"error" col:"ERR,w=14" doc:"the error's name: EAI_NONAME and others; of gethostbyname FAILED, for it does not tell; empty when there was none"`
	Cut      field.Bool    `json:"truncated" col:"CUT,w=3" doc:"whether the name was longer than any can be (1024 bytes), and its end is missing"`
	Host     field.Text    `json:"host" col:"HOST" doc:"the name, as the program gave it"`
}

// Function is one of those that are traced: enum dns_function of bpf/dns.bpf.c.
type Function uint32

const getaddrinfo Function = 0

var functions = [...]string{"getaddrinfo", "gethostbyname", "gethostbyname2"}

func (f Function) name() string {
	if int(f) < len(functions) {
		return functions[f]
	}
	return "unknown"
}

// AppendText implements field.Value.
func (f Function) AppendText(b []byte) []byte { return append(b, f.name()...) }

// AppendJSON implements field.Value.
func (f Function) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), f.name()...), '"')
}

// Error says why nothing was found.
type Error struct {
	Ret     int32
	Unknown bool // Ret is no number of getaddrinfo
}

// append writes the names that glibc's netdb.h has; musl's are among them.
func (e Error) append(b []byte) []byte {
	names := [...]string{
		"", "EAI_BADFLAGS", "EAI_NONAME", "EAI_AGAIN", "EAI_FAIL", "EAI_NODATA", "EAI_FAMILY", "EAI_SOCKTYPE", "EAI_SERVICE",
		"EAI_ADDRFAMILY", "EAI_MEMORY", "EAI_SYSTEM", "EAI_OVERFLOW",
	}
	more := [...]string{"EAI_INPROGRESS", "EAI_CANCELED", "EAI_NOTCANCELED", "EAI_ALLDONE", "EAI_INTR", "EAI_IDN_ENCODE"}
	const first = -100 // of those
	switch {
	case e.Ret == 0:
		return b
	case e.Unknown:
		return append(b, "FAILED"...)
	case e.Ret <= first && e.Ret > first-int32(len(more)):
		return append(b, more[first-e.Ret]...)
	case e.Ret < 0 && e.Ret > -int32(len(names)):
		return append(b, names[-e.Ret]...)
	}
	return strconv.AppendInt(append(b, "EAI_"...), int64(e.Ret), 10)
}

// AppendText implements field.Value: 0 where there was none.
func (e Error) AppendText(b []byte) []byte {
	if e.Ret == 0 {
		return append(b, '0')
	}
	return e.append(b)
}

// AppendJSON implements field.Value.
func (e Error) AppendJSON(b []byte) []byte { return append(e.append(append(b, '"')), '"') }

// Tracer is rbtrace dns.
var Tracer = tracer.New(tracer.Def[bpfDnsEvent, Event]{
	Name:  "dns",
	Short: "Host names that programs look up, and how long it takes",
	Long: `Shows the calls of getaddrinfo, gethostbyname and gethostbyname2 of the C library, when
they return: the name that a program looks up, and how long it waits for that, whether the
answer comes from /etc/hosts, a cache or a DNS server.

It looks for libc.so, or musl's. Programs that do not ask the C library are not seen: those
linked statically, most of those in Go, and programs that speak DNS themselves, as dig and
most servers do; nor is gethostbyname_r, which gethostbyname is made of.`,
	Examples: []tracer.Example{
		{Args: "dns", What: "every name that is looked up"},
		{Args: "dns -x", What: "names that are not found"},
		{Args: "dns --filter 'latency_ns > 100000000'", What: "what takes more than 0.1 s"},
		{Args: "dns -- curl -s https://example.com", What: "of one command"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Uprobe, Programs: programs},
		{Kind: tracer.Uprobe, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "latency_ns", "error", "host"},
	Params:  []tracer.Param{tracer.Library()},
	Decode:  decode,
})

var libc = []string{"libc.so", "ld-musl-x86_64.so", "ld-musl-aarch64.so"}

var programs = []tracer.Program{
	{Name: bpfProgRbDnsEnter, Files: libc, Also: []string{"gethostbyname", "gethostbyname2"}},
	{Name: bpfProgRbDnsGetaddrinfo, Files: libc},
	{Name: bpfProgRbDnsGethostbyname, Files: libc},
	{Name: bpfProgRbDnsGethostbyname2, Files: libc},
	{Name: bpfProgRbUserEnd, Prepares: true},
}

var errLength = errors.New("the record is shorter than its name")

// cut is the flag of the record's head.
const cut = 1

func decode(w *bpfDnsEvent, tail []byte, e *Event) error {
	if uint64(w.Len) > uint64(len(tail)) {
		return errLength
	}
	e.Function, e.Latency, e.Ret = Function(w.Function), field.Latency(w.Latency), field.Int32(w.Ret)
	e.Error = Error{Ret: w.Ret, Unknown: e.Function != getaddrinfo}
	e.Host, e.Cut = tail[:w.Len:w.Len], w.Head.Flags&cut != 0
	return nil
}
