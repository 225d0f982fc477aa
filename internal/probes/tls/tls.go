// SPDX-License-Identifier: Apache-2.0

// Package tls traces what programs send and receive through TLS libraries.
package tls

import (
	"errors"
	"strings"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type tls_event -target amd64,arm64 bpf ../../../bpf/tls.bpf.c -- -I../../../bpf/include

// Event is one call, when it returns.
type Event struct {
	tracer.Common
	Function  Function      `json:"function" col:"FUNC,w=18" doc:"the function: SSL_read, SSL_write, SSL_read_ex, SSL_write_ex, SSL_do_handshake, gnutls_record_recv, gnutls_record_recv_seq, gnutls_record_send (also for gnutls_record_send2) or gnutls_handshake"`
	Direction Direction     `json:"direction" col:"DIR,w=9" doc:"read (decrypted), write (to be encrypted) or handshake"`
	Session   field.Hex     `json:"session" col:"SESSION,w=14" doc:"address of the connection in its process: SSL * or gnutls_session_t"`
	Latency   field.Latency `json:"latency_ns" col:"LAT,w=7,right" doc:"how long the call took; one that reads waits for the other side"`
	Ret       field.Int32   `json:"ret" col:"RET,w=5,right" doc:"what the function returned"`
	Len       field.Uint64  `json:"len" col:"LEN,w=6,right" doc:"bytes that were read or written"`
	Cut       field.Bool    `json:"truncated" col:"CUT,w=3" doc:"whether data has fewer bytes than that"`
	Base64    field.Base64  `json:"data_base64" col:"BASE64,w=24" doc:"the same as data, byte by byte: in JSON, what is no UTF-8 is lost in data"`
	Data      field.Text    `json:"data" col:"DATA" doc:"the data, as much as --max-data takes"`
}

// Function is one of those that are traced: enum tls_function of bpf/tls.bpf.c.
type Function uint32

var functions = [...]string{
	"SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex", "gnutls_record_recv", "gnutls_record_send",
	"gnutls_record_recv_seq", "SSL_do_handshake", "gnutls_handshake",
}

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

// Direction says what a function does.
type Direction uint8

const (
	read Direction = iota
	write
	handshake
)

func (d Direction) name() string { return [...]string{"read", "write", "handshake"}[d] }

// direction of a function: those that are not known read.
func (f Function) direction() Direction {
	switch name := f.name(); {
	case strings.HasSuffix(name, "handshake"):
		return handshake
	case strings.Contains(name, "write") || strings.Contains(name, "send"):
		return write
	}
	return read
}

// AppendText implements field.Value.
func (d Direction) AppendText(b []byte) []byte { return append(b, d.name()...) }

// AppendJSON implements field.Value.
func (d Direction) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), d.name()...), '"')
}

// Tracer is rbtrace tls.
var Tracer = tracer.New(tracer.Def[bpfTlsEvent, Event]{
	Name:  "tls",
	Short: "Data that programs send and receive by OpenSSL and GnuTLS",
	Long: `Shows what goes through the reading and writing functions of OpenSSL and GnuTLS, as the
programs see it: not encrypted; and their handshakes, with the time that these take. With --failed it
shows the calls that moved no data, and handshakes that did not succeed, instead: errors, the end
of a connection, and those of programs that do not wait for the other side.

data has the first 4096 bytes of each call, or as many as --max-data says; "len" tells how
many there were. It is a secret of those who sent it, as are recordings of it.

It looks for libssl.so and libgnutls.so, of all versions, and takes what is there. --lib names a
library, or a program that has one built in and is not stripped (/usr/bin/node). Go, Java,
rustls and NSS (Firefox, Chromium) have their own TLS, which is not seen.

The functions are SSL_read, SSL_write, these two with _ex (which SSL_read_early_data and
SSL_write_early_data call), SSL_do_handshake (which SSL_connect and SSL_accept call),
gnutls_record_recv, gnutls_record_recv_seq, gnutls_record_send, gnutls_record_send2 and
gnutls_handshake. A handshake that a program leaves to its first read or write is part of that
call. Not seen are SSL_peek, SSL_sendfile, SSL_write_ex2 where a program calls it itself, what a
program passes through a BIO, and GnuTLS's functions for packets, files and early data.

Each call costs its process some microseconds.`,
	Examples: []tracer.Example{
		{Args: "tls -n curl", What: "what every curl says and hears"},
		{Args: "tls -p 4711 --max-data 16384 -o json | jq -r .data_base64", What: "all that a process sends and receives"},
		{Args: `tls --filter 'direction == "write" && data startsWith "GET "'`, What: "HTTP requests"},
		{Args: `tls --filter 'direction == "handshake"' -C +latency_ns,-len,-data`, What: "how long handshakes take"},
		{Args: "tls --container web", What: "all processes of a container"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Uprobe, Programs: programs},
		{Kind: tracer.Uprobe, Failed: true, Programs: programs},
	},
	Columns: []string{"time", "pid", "comm", "function", "len", "data"},
	// What failed has no data.
	FailedColumns: []string{"time", "pid", "comm", "function", "latency_ns", "ret"},
	Params: []tracer.Param{
		{
			Name: "max-data", Value: "BYTES", Usage: "at most so many `BYTES` of each call's data, up to 16384",
			Const: bpfVarMaxData, Max: 16384, Default: "4096",
		},
		tracer.Library(),
	},
	Decode: decode,
})

var (
	openSSL = []string{"libssl.so"}
	gnuTLS  = []string{"libgnutls.so"}
)

var programs = []tracer.Program{
	{
		Name: bpfProgRbTlsSslEnter, Files: openSSL, Also: []string{"SSL_write"},
		// Those with _ex are there since 1.1.1. A program that has the library built in may do without the others.
		AlsoIf: []string{"SSL_read_ex", "SSL_write_ex", "SSL_do_handshake"},
	},
	{Name: bpfProgRbTlsSslHandshake, Files: openSSL, Optional: true},
	{Name: bpfProgRbTlsSslRead, Files: openSSL},
	{Name: bpfProgRbTlsSslWrite, Files: openSSL},
	{Name: bpfProgRbTlsSslReadEx, Files: openSSL, Optional: true},
	{Name: bpfProgRbTlsSslWriteEx, Files: openSSL, Optional: true},
	{
		Name: bpfProgRbTlsGnutlsEnter, Files: gnuTLS, Also: []string{"gnutls_record_send"},
		AlsoIf: []string{"gnutls_record_recv_seq", "gnutls_handshake"},
	},
	{Name: bpfProgRbTlsGnutlsSend2Enter, Files: gnuTLS, Optional: true},
	{Name: bpfProgRbTlsGnutlsSend2, Files: gnuTLS, Optional: true},
	{Name: bpfProgRbTlsGnutlsRecvSeq, Files: gnuTLS, Optional: true},
	{Name: bpfProgRbTlsGnutlsHandshake, Files: gnuTLS, Optional: true},
	{Name: bpfProgRbTlsGnutlsRecv, Files: gnuTLS},
	{Name: bpfProgRbTlsGnutlsSend, Files: gnuTLS},
	{Name: bpfProgRbUserEnd, Prepares: true},
}

var errLength = errors.New("the record is shorter than its data")

func decode(w *bpfTlsEvent, tail []byte, e *Event) error {
	if uint64(w.DataLen) > uint64(len(tail)) {
		return errLength
	}
	e.Function = Function(w.Function)
	e.Direction = e.Function.direction()
	e.Session, e.Latency = field.Hex(w.Session), field.Latency(w.Latency)
	e.Ret, e.Len = field.Int32(w.Ret), field.Uint64(w.Len)
	e.Data = tail[:w.DataLen:w.DataLen]
	e.Base64 = field.Base64(e.Data)
	e.Cut = uint64(w.DataLen) < w.Len
	return nil
}
