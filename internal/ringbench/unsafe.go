// SPDX-License-Identifier: Apache-2.0

package ringbench

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file is the package's only use of package unsafe: the system call by which a
// program is run, and the positions in the first page of a perf buffer.

// runAttr is the part of union bpf_attr for BPF_PROG_RUN (include/uapi/linux/bpf.h), as
// far as Linux 5.10 knows it.
type runAttr struct {
	progFD     uint32
	retval     uint32
	dataInLen  uint32
	dataOutLen uint32
	dataIn     uint64
	dataOut    uint64
	repeat     uint32
	duration   uint32
	ctxInLen   uint32
	ctxOutLen  uint32
	ctxIn      uint64
	ctxOut     uint64
	flags      uint32
	cpu        uint32
}

// producer runs the program for one thread. Unlike ebpf.Program.Run it makes nothing
// anew for each run, which would be a part of what is measured.
type producer struct {
	attr *runAttr
	args *[1]uint64 // the program's context: which producer this is
	l    *loaded    // keeps the program's descriptor open
}

func (l *loaded) newProducer(id int) *producer {
	args := &[1]uint64{uint64(id)}
	return &producer{
		l: l, args: args,
		attr: &runAttr{
			progFD:   uint32(l.prog.FD()),
			ctxInLen: uint32(unsafe.Sizeof(*args)),
			// A heap object, which the garbage collector does not move, and which args
			// keeps alive. run says so where the address is used.
			ctxIn: uint64(uintptr(unsafe.Pointer(args))),
		},
	}
}

// run makes one batch of records.
func (p *producer) run() error {
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(p.attr)), unsafe.Sizeof(*p.attr))
	runtime.KeepAlive(p)
	if errno != 0 {
		return fmt.Errorf("running the program: %w", errno)
	}
	if p.attr.retval != 0 {
		return fmt.Errorf("running the program: it does not know producer %d", p.args[0])
	}
	return nil
}

// metaPage is the first page of a perf buffer's mapping. It is page-aligned and longer
// than the struct, and lives until the mapping is gone; see perfBuffer.close.
func metaPage(mem []byte) *unix.PerfEventMmapPage {
	return (*unix.PerfEventMmapPage)(unsafe.Pointer(unsafe.SliceData(mem)))
}
