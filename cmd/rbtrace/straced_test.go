// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// sameCalls checks that the calls in rbtrace's JSON are those that strace saw, thread for
// thread, in the same order, with the same arguments and results:
//
//	samecalls DIR FILE... TRACER=N...
//
// DIR has what strace -ff wrote, a file NAME.TID for each thread, FILE what rbtrace did. The
// events of each TRACER, and of no other, are compared; there must be N of them at least.
func sameCalls(ts *testscript.TestScript, neg bool, args []string) {
	least := make(map[string]int)
	for len(args) > 0 && strings.Contains(args[len(args)-1], "=") {
		tracer, n, _ := strings.Cut(args[len(args)-1], "=")
		count, err := strconv.Atoi(n)
		ts.Check(err)
		least[tracer] = count
		args = args[:len(args)-1]
	}
	if neg || len(args) < 2 || len(least) == 0 {
		ts.Fatalf("usage: samecalls DIR FILE... TRACER=N...")
	}
	type seenCall struct {
		boot int64
		text string
	}
	seen := make(map[string][]seenCall) // by rbtrace, by thread
	for _, file := range args[1:] {
		for line := range strings.Lines(ts.ReadFile(file)) {
			e := new(callEvent)
			ts.Check(json.Unmarshal([]byte(line), e))
			if _, wanted := least[e.Type]; !wanted || e.Comm == "strace" && e.Type != "exec" || !e.isCall() {
				continue
			}
			tid := strconv.Itoa(e.TID)
			seen[tid] = append(seen[tid], seenCall{e.Boot, e.text()})
		}
	}
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*"))
	ts.Check(err)
	calls := make(map[string]int)
	for _, file := range files {
		tid := strings.TrimPrefix(filepath.Ext(file), ".")
		straced, err := readStrace(file, least)
		ts.Check(err)
		mine := seen[tid]
		slices.SortStableFunc(mine, func(a, b seenCall) int { return int(a.boot - b.boot) })
		for i := range max(len(straced), len(mine)) {
			was, is := "nothing", "nothing"
			if i < len(straced) {
				was = straced[i]
				calls[strings.Fields(was)[0]]++
			}
			if i < len(mine) {
				is = mine[i].text
			}
			// Of a thread that was killed when it stopped for strace, before the call, strace has no result.
			if call, ok := strings.CutSuffix(was, " ?"); ok && (is == "nothing" || strings.HasPrefix(is, call+" ")) {
				continue
			}
			if was != is {
				ts.Fatalf("thread %s, call %d:\nstrace  %s\nrbtrace %s", tid, i, was, is)
			}
		}
	}
	ts.Logf("%d threads: %v", len(files), calls)
	for tracer, n := range least {
		if calls[tracer] < n {
			ts.Fatalf("strace saw %d calls for %s, want %d at least", calls[tracer], tracer, n)
		}
	}
}

// callEvent is an event of any tracer that is compared.
type callEvent struct {
	Type, Comm, Errno   string
	TID                 int
	Boot                int64 `json:"boot_ns"`
	Ret                 int
	File                string
	Args, Flags         []string
	Call, Syscall       string
	OldFile             string `json:"old_file"`
	NewFile             string `json:"new_file"`
	FD                  int
	FSType              string
	SrcFile             string `json:"src_file"`
	DstFile             string `json:"dst_file"`
	Given               string
	Signal, Code        string
	TPID, TTID          int
	Kernel              bool `json:"from_kernel"`
	Family, Addr, DAddr string
	Port, DPort         int
	Backlog             int
	ChildTID            int `json:"child_tid"`
	ExitCode            int `json:"code_number"`
}

// isCall reports whether it is of a system call: signals are sent by the kernel, too. And one for which
// a thread has stopped for strace the kernel sends anew, as if the thread did so itself, where that is killed
// meanwhile (ptrace_signal(), kernel/signal.c): SIGURG, which Go's runtime sends to other threads alone.
func (e *callEvent) isCall() bool {
	return e.Type != "signal" || !e.Kernel && (e.Signal != "SIGURG" || e.TTID != e.TID)
}

func (e *callEvent) result() string {
	if e.Errno != "" {
		return e.Errno
	}
	return strconv.Itoa(e.Ret)
}

func (e *callEvent) flags() string {
	if len(e.Flags) == 0 {
		return "0"
	}
	return strings.Join(e.Flags, "|")
}

func (e *callEvent) text() string {
	switch e.Type {
	case "exec":
		return fmt.Sprintf("exec %q %q %s", e.File, e.Args, e.result())
	case "open":
		return fmt.Sprintf("open %q %s", e.File, e.result())
	case "unlink":
		return fmt.Sprintf("unlink %s %q %s %s", e.Call, e.File, e.flags(), e.result())
	case "rename", "link":
		return fmt.Sprintf("%s %s %q %q %s %s", e.Type, e.Call, e.OldFile, e.NewFile, e.flags(), e.result())
	case "stat":
		return fmt.Sprintf("stat %s %q %s %s", e.Syscall, e.File, e.flags(), e.result())
	case "sync":
		return fmt.Sprintf("sync %s %d %s", e.Call, e.FD, e.result())
	case "mount":
		return fmt.Sprintf("mount %s %q %q %q %s", e.Call, e.SrcFile, e.DstFile, e.FSType, e.result())
	case "setuid":
		return fmt.Sprintf("setuid %s %s %s", e.Call, e.Given, e.result())
	case "signal":
		return fmt.Sprintf("signal %s %d %d %s", e.Signal, e.TPID, e.TTID, e.result())
	case "bind":
		return fmt.Sprintf("bind %s %d %s", e.Addr, e.Port, e.result())
	case "listen":
		return fmt.Sprintf("listen %d %s", e.Backlog, e.result())
	case "tcpconnect":
		return fmt.Sprintf("tcpconnect %s %d %s", e.DAddr, e.DPort, e.result())
	case "fork":
		return fmt.Sprintf("fork %d", e.ChildTID)
	}
	panic("events of " + e.Type + " are not compared")
}

// straced is a system call as strace writes it.
type straced struct {
	args   []string
	result string
}

// text returns a string that it was given.
func (c *straced) text(i int) string {
	if c.args[i] == "NULL" {
		return ""
	}
	return unquote(c.args[i])
}

// straceForms are the calls, as callEvent.text writes them; empty where no tracer is to show it.
var straceForms = map[string]func(c *straced) string{
	"execve": func(c *straced) string {
		args := []string{}
		for _, arg := range splitArgs(strings.Trim(c.args[1], "[]")) {
			args = append(args, unquote(arg))
		}
		return fmt.Sprintf("exec %q %q %s", c.text(0), args, c.result)
	},
	"open":    func(c *straced) string { return fmt.Sprintf("open %q %s", c.text(0), c.result) },
	"creat":   func(c *straced) string { return fmt.Sprintf("open %q %s", c.text(0), c.result) },
	"openat":  func(c *straced) string { return fmt.Sprintf("open %q %s", c.text(1), c.result) },
	"openat2": func(c *straced) string { return fmt.Sprintf("open %q %s", c.text(1), c.result) },
	"unlink":  func(c *straced) string { return fmt.Sprintf("unlink unlink %q 0 %s", c.text(0), c.result) },
	"rmdir":   func(c *straced) string { return fmt.Sprintf("unlink rmdir %q 0 %s", c.text(0), c.result) },
	"unlinkat": func(c *straced) string {
		return fmt.Sprintf("unlink unlinkat %q %s %s", c.text(1), c.args[2], c.result)
	},
	"rename":     names("rename", "rename", 0, 1, -1),
	"renameat":   names("rename", "renameat", 1, 3, -1),
	"renameat2":  names("rename", "renameat2", 1, 3, 4),
	"link":       names("link", "link", 0, 1, -1),
	"linkat":     names("link", "linkat", 1, 3, 4),
	"symlink":    names("link", "symlink", 0, 1, -1),
	"symlinkat":  names("link", "symlinkat", 0, 2, -1),
	"stat":       asks("stat", 0, -1),
	"lstat":      asks("lstat", 0, -1),
	"statfs":     asks("statfs", 0, -1),
	"newfstatat": asks("newfstatat", 1, 3),
	"statx":      asks("statx", 1, 2),
	"sync":       func(c *straced) string { return "sync sync -1 " + c.result },
	"fsync":      syncs("fsync"),
	"fdatasync":  syncs("fdatasync"),
	"syncfs":     syncs("syncfs"),
	"mount": func(c *straced) string {
		return fmt.Sprintf("mount mount %q %q %q %s", c.text(0), c.text(1), c.text(2), c.result)
	},
	"umount2":   func(c *straced) string { return fmt.Sprintf("mount umount %q %q %q %s", "", c.text(0), "", c.result) },
	"setuid":    ids("setuid", 1),
	"setgid":    ids("setgid", 1),
	"setreuid":  ids("setreuid", 2),
	"setregid":  ids("setregid", 2),
	"setresuid": ids("setresuid", 3),
	"setresgid": ids("setresgid", 3),
	"setgroups": ids("setgroups", 1),
	"kill": func(c *straced) string {
		if c.result != "0" { // no thread of it got the signal
			return signals(c.args[0], "0", c.args[1], c.result)
		}
		return signals(c.args[0], c.args[0], c.args[1], c.result)
	},
	"tgkill": func(c *straced) string { return signals(c.args[0], c.args[1], c.args[2], c.result) },
	"bind": func(c *straced) string {
		addr, port := address(c.args[1])
		return fmt.Sprintf("bind %s %d %s", addr, port, c.result)
	},
	"listen": func(c *straced) string { return fmt.Sprintf("listen %s %s", c.args[1], c.result) },
	"connect": func(c *straced) string {
		addr, port := address(c.args[1])
		if port == 0 {
			return ""
		}
		return fmt.Sprintf("tcpconnect %s %d %s", addr, port, c.result)
	},
	"clone":  forks,
	"clone3": forks,
	"fork":   forks,
	"vfork":  forks,
}

func names(tracer, call string, old, new, flags int) func(*straced) string {
	return func(c *straced) string {
		given := "0"
		if flags >= 0 {
			given = c.args[flags]
		}
		return fmt.Sprintf("%s %s %q %q %s %s", tracer, call, c.text(old), c.text(new), given, c.result)
	}
}

func asks(call string, file, flags int) func(*straced) string {
	return func(c *straced) string {
		given := "0"
		if flags >= 0 {
			given = strings.TrimPrefix(c.args[flags], "AT_STATX_SYNC_AS_STAT|") // which is 0
			given = strings.Replace(given, "AT_STATX_SYNC_AS_STAT", "0", 1)
		}
		return fmt.Sprintf("stat %s %q %s %s", call, c.text(file), given, c.result)
	}
}

func syncs(call string) func(*straced) string {
	return func(c *straced) string { return fmt.Sprintf("sync %s %s %s", call, c.args[0], c.result) }
}

func ids(call string, n int) func(*straced) string {
	return func(c *straced) string {
		return fmt.Sprintf("setuid %s %s %s", call, strings.Join(c.args[:n], ","), c.result)
	}
}

// signals is a call that sends a signal; 0 is none.
func signals(pid, tid, sig, result string) string {
	if sig == "0" {
		return ""
	}
	return fmt.Sprintf("signal %s %s %s %s", sig, pid, tid, result)
}

func forks(c *straced) string {
	if c.result == "?" {
		return "" // interrupted, and made again
	}
	return "fork " + c.result
}

var (
	straceLine = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+|\?)(?: (E\w+))?`)
	stracePort = regexp.MustCompile(`sin6?_port=htons\((\d+)\)`)
	straceAddr = regexp.MustCompile(`inet_(?:addr\(|pton\(AF_INET6, )"([^"]*)"`)
	straceUnix = regexp.MustCompile(`sun_path=(@?)("(?:[^"\\]|\\.)*")`)
)

// address reads a struct sockaddr.
func address(arg string) (addr string, port int) {
	if m := stracePort.FindStringSubmatch(arg); m != nil {
		port, _ = strconv.Atoi(m[1])
	}
	if m := straceAddr.FindStringSubmatch(arg); m != nil {
		if ip, err := netip.ParseAddr(m[1]); err == nil {
			return ip.Unmap().String(), port
		}
	}
	if m := straceUnix.FindStringSubmatch(arg); m != nil {
		return m[1] + unquote(m[2]), 0
	}
	return "", port
}

// readStrace returns the calls in a file of strace -ff, as callEvent.text writes them: those
// that the tracers show.
func readStrace(file string, tracers map[string]int) (calls []string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "???(") { // a call that strace did not see begin, of who was let go
			continue
		}
		m := straceLine.FindStringSubmatch(line)
		if m == nil || straceForms[m[1]] == nil {
			return nil, fmt.Errorf("%s: a line that is no such call: %s", file, line)
		}
		c := straced{args: splitArgs(m[2]), result: m[3]}
		if m[4] != "" {
			c.result = m[4]
		}
		text := straceForms[m[1]](&c)
		if _, wanted := tracers[strings.SplitN(text, " ", 2)[0]]; wanted {
			calls = append(calls, text)
		}
	}
	return calls, nil
}

// splitArgs takes arguments apart at the commas that are in no string and no brackets.
func splitArgs(s string) (args []string) {
	depth, quoted, begin := 0, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		case c == ',' && depth == 0:
			args = append(args, strings.TrimSpace(s[begin:i]))
			begin = i + 1
		}
	}
	if last := strings.TrimSpace(s[begin:]); last != "" {
		args = append(args, last)
	}
	return args
}

// unquote undoes what strace does to a string, between quotation marks, and makes of it what JSON can say: bytes that
// are no character are U+FFFD.
func unquote(s string) string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		if at := strings.IndexByte("abtnvfr", s[i]); at >= 0 {
			b = append(b, byte('\a'+at))
			continue
		}
		digits := 0
		for digits < 3 && i+digits < len(s) && '0' <= s[i+digits] && s[i+digits] <= '7' {
			digits++
		}
		if digits == 0 {
			b = append(b, s[i])
			continue
		}
		n, _ := strconv.ParseUint(s[i:i+digits], 8, 16) // which these are
		b = append(b, byte(n))
		i += digits - 1
	}
	return string([]rune(string(b)))
}
