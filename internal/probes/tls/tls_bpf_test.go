// SPDX-License-Identifier: Apache-2.0

package tls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	gotls "crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/tls"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

// byMe are the calls of this thread of a library's functions.
func byMe(t *testing.T, failed bool, params map[string]string, workload func(*bpftest.Library)) []event {
	t.Helper()
	bpftest.Require(t)
	library := bpftest.NewLibrary(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	opts := attach.Options{
		Failed: failed, Filter: attach.Filter{TID: uint32(unix.Gettid())},
		Params: map[string]string{tracer.LibraryParam: library.Path},
	}
	maps.Copy(opts.Params, params)
	return tracetest.Trace(t, tls.Tracer, opts, func() { workload(library) })
}

// session stands for a connection.
const session = 0x123456789a

// of is the event of n bytes in a call that shows the first most.
func of(function, direction string, ret, n int, data []byte, most int) event {
	shown := data[:min(n, most)]
	return event{
		"function": function, "direction": direction, "ret": int64(ret), "len": int64(n), "session": "0x123456789a",
		"truncated": n > most, "data": tracetest.Text(shown), "data_base64": base64.StdEncoding.EncodeToString(shown),
		tracetest.Raw: map[string]string{"data": string(shown)},
	}
}

// random are bytes of all values.
func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFunctions: what each of them returns, and the data, whatever it is.
func TestFunctions(t *testing.T) {
	sizes := []int{1, 2, 511, 512, 513, 4095, 4096, 4097, 16383, 16384}
	for _, most := range bpftest.Thin([]int{0, 513, 16384}, 3) {
		params := map[string]string{"max-data": fmt.Sprint(most)}
		if most == 0 { // the default
			params, most = nil, 4096
		}
		var want []event
		events := byMe(t, false, params, func(library *bpftest.Library) {
			for _, n := range sizes {
				data := random(t, n)
				for _, f := range []struct{ name, direction string }{
					{"SSL_read", "read"},
					{"SSL_write", "write"},
					{"gnutls_record_recv", "read"},
					{"gnutls_record_recv_seq", "read"},
					{"gnutls_record_send", "write"},
					{"gnutls_record_send2", "write"},
				} {
					library.Call(f.name, n, session, data, len(data))
					want = append(want, of(strings.TrimSuffix(f.name, "2"), f.direction, n, n, data, most))
					library.Call(f.name, -1, session, data, len(data)) // which is not shown
				}
				for _, f := range []struct{ name, direction string }{{"SSL_read_ex", "read"}, {"SSL_write_ex", "write"}} {
					moved := uint64(n)
					library.Call(f.name, 1, session, data, len(data), &moved)
					want = append(want, of(f.name, f.direction, 1, n, data, most))
					library.Call(f.name, 0, session, data, len(data), &moved)
				}
			}
		})
		tracetest.Same(t, events, want)
	}
}

// TestFailed: calls that move nothing.
func TestFailed(t *testing.T) {
	var want []event
	events := byMe(t, true, nil, func(library *bpftest.Library) {
		data, moved := []byte("secret"), uint64(6)
		for _, ret := range []int{6, 0, -1, -54} {
			for _, name := range []string{"SSL_read", "SSL_write", "gnutls_record_recv", "gnutls_record_send"} {
				library.Call(name, ret, session, data, len(data))
				if ret <= 0 {
					want = append(want, event{"function": name, "ret": int64(ret), "len": int64(0), "data": "", "truncated": false})
				}
			}
		}
		library.Call("SSL_read_ex", 1, session, data, len(data), &moved)
		library.Call("SSL_read_ex", 0, session, data, len(data), &moved)
		want = append(want, event{"function": "SSL_read_ex", "ret": int64(0), "len": int64(0)})
	})
	tracetest.Same(t, events, want)
}

// TestHandshakes: those that succeed, and with --failed the others; 0 is not the same to both libraries.
func TestHandshakes(t *testing.T) {
	for _, failed := range []bool{false, true} {
		var want []event
		events := byMe(t, failed, nil, func(library *bpftest.Library) {
			for _, c := range []struct {
				name string
				ret  int
				ok   bool
			}{
				{"SSL_do_handshake", 1, true},
				{"SSL_do_handshake", 0, false},
				{"SSL_do_handshake", -1, false},
				{"gnutls_handshake", 0, true},
				{"gnutls_handshake", -28, false},
				{"gnutls_handshake", 1, false},
			} {
				library.Call(c.name, c.ret, session, []byte("no data of it"), 13)
				if c.ok != failed {
					want = append(want, of(c.name, "handshake", c.ret, 0, nil, 0))
				}
			}
		})
		tracetest.Same(t, events, want)
	}
}

// TestSend2: what gnutls_record_send calls is not another call.
func TestSend2(t *testing.T) {
	const n = 11
	data, other := random(t, n), random(t, n)
	nested := true
	var want []event
	events := byMe(t, false, nil, func(library *bpftest.Library) {
		for range 7 {
			nested = nested && library.CallNested("gnutls_record_send", n, "gnutls_record_send2", n, session, data, n)
			library.Call("gnutls_record_send2", n, session, other, n)
			want = append(want, of("gnutls_record_send", "write", n, n, data, 4096), of("gnutls_record_send", "write", n, n, other, 4096))
		}
	})
	if nested {
		tracetest.Same(t, events, want)
	}
}

// TestOdd: data that cannot be read, a hostile text, and calls within others.
func TestOdd(t *testing.T) {
	hostile := []byte("\x1b[2J\x1b]0;x\a\r\n\xff\u202e\"\\")
	events := byMe(t, false, nil, func(library *bpftest.Library) {
		library.Call("SSL_write", 5, session, 8, 5)
		library.Call("SSL_write", len(hostile), session, hostile, len(hostile))
	})
	unread := of("SSL_write", "write", 5, 5, []byte("....."), 0)
	tracetest.Same(t, events, []event{unread, of("SSL_write", "write", len(hostile), len(hostile), hostile, 4096)})

	const n = 53
	nested := true
	data := random(t, 11)
	var want []event
	events = byMe(t, false, nil, func(library *bpftest.Library) {
		for range n {
			nested = nested && library.CallNested("SSL_read", 7, "SSL_read", 11, session, data, len(data))
			want = append(want, of("SSL_read", "read", 11, 11, data, 4096), of("SSL_read", "read", 7, 7, data, 4096))
		}
	})
	if nested {
		tracetest.Same(t, events, want)
	}
}

// pause is how long the server lets a client wait for its side of the handshake.
const pause = 200 * time.Millisecond

// server answers each line of a TLS client with it in upper case, and tells what it heard.
func server(t *testing.T) (addr string, heard func() string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := gotls.Listen("tcp", "127.0.0.1:0", &gotls.Config{
		Certificates: []gotls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		GetConfigForClient: func(*gotls.ClientHelloInfo) (*gotls.Config, error) {
			time.Sleep(pause)
			return nil, nil // the one that there is
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		defer l.Close()
		var all bytes.Buffer
		defer func() { got <- all.String() }()
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			all.Write(b[:n])
			if err != nil || strings.HasSuffix(all.String(), "\r\n\r\n") {
				_, _ = io.WriteString(c, answer)
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), func() string { return <-got }
}

const answer = "HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n\x1b\xffhello"

// TestPrograms: real programs with the real libraries, as far as they are here. The other side,
// which has neither, knows what was sent.
func TestPrograms(t *testing.T) {
	bpftest.Require(t)
	for _, test := range []struct {
		name, stdin, function string
		args                  []string
	}{
		{"openssl", "GET / HTTP/1.0\r\n\r\n", "SSL_", []string{"s_client", "-quiet", "-connect"}},
		{"wget", "", "gnutls_record_", []string{"--no-check-certificate", "-q", "-O", "-"}},
		{"curl", "", "SSL_", []string{"--insecure", "--silent", "--http1.0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			program, err := exec.LookPath(test.name)
			if err != nil {
				t.Skipf("this machine has no %s", test.name)
			}
			addr, heard := server(t)
			if test.name != "openssl" {
				addr = "https://" + addr + "/"
			}
			cmd := exec.Command(program, append(test.args, addr)...)
			cmd.Env = []string{"HOME=/nonexistent", "NO_PROXY=*", "no_proxy=*"}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			var sent string
			events := tracetest.Trace(t, tls.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(stdin, test.stdin)
				sent = heard()
				stdin.Close()
				_ = cmd.Wait() // its view of how the connection ended is its own
			})
			data := make(map[string]string)
			for _, e := range events {
				if e["direction"] == "handshake" {
					continue
				}
				raw := e[tracetest.Raw].(map[string]string)["data"]
				if len(raw) != int(e["len"].(int64)) || !strings.HasPrefix(e["function"].(string), test.function) {
					t.Errorf("event %v", e)
				}
				data[e["direction"].(string)] += raw
			}
			if sent == "" || data["write"] != sent || data["read"] != answer {
				t.Errorf("%d events:\n%q was written, %q arrived;\n%q was read, %q sent", len(events), data["write"], sent, data["read"], answer)
			}
		})
	}
}

// TestNoRoom: calls that there is no room to remember are lost, and told of.
func TestNoRoom(t *testing.T) {
	bpftest.Require(t)
	const n = 53
	library := bpftest.NewLibrary(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := tracetest.Open(t, attach.Options{
		Filter: attach.Filter{TID: uint32(unix.Gettid())}, Params: map[string]string{tracer.LibraryParam: library.Path},
	}, tracetest.WithMap(tls.Tracer, "rb_user_calls", 1))
	s.Start()
	nested := true
	for range n {
		nested = nested && library.CallNested("SSL_read", 7, "SSL_read", 11, session, make([]byte, 11), 11)
	}
	r := s.Finish(t)
	if !nested {
		t.Skip("this machine does not nest calls")
	}
	if lost := r.Ledger[0].Total().Lost; len(r.Events) != n || lost != n {
		t.Errorf("%d events and %d lost, want %d of each: %s", len(r.Events), lost, n, r.Ledger[0])
	}
}

// TestKilled: a call that its thread does not outlive is not kept. And how long a handshake takes.
func TestKilled(t *testing.T) {
	bpftest.Require(t)
	python, err := exec.LookPath("/usr/bin/python3")
	if err != nil {
		t.Skip("this machine has no python3")
	}
	addr, heard := server(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	const script = `
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
c = context.wrap_socket(socket.create_connection((sys.argv[1], int(sys.argv[2]))))
c.sendall(b"hello")
print("sent", flush=True)
c.recv(1)
`
	cmd := exec.Command(python, "-S", "-c", script, host, port)
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	events := tracetest.Trace(t, tls.Tracer, attach.Options{Filter: attach.Filter{PPID: uint32(os.Getpid())}}, func() {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); tracetest.MapEntries(t, "rb_user_calls") == 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatal("it does not read")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // says that it was killed
		_ = heard()
		if n := tracetest.MapEntries(t, "rb_user_calls"); n != 0 {
			t.Errorf("%d calls of threads that have ended are remembered", n)
		}
	})
	tracetest.Same(t, events, []event{
		{"direction": "handshake", "function": "SSL_do_handshake", "ret": int64(1), "data": ""},
		{"direction": "write", "data": "hello"},
	})
	// The server waits before it answers, within the handshake.
	if took := time.Duration(events[0]["latency_ns"].(int64)); took < pause || took > time.Since(start) {
		t.Errorf("the handshake took %v, the server waits for %v", took, pause)
	}
}
