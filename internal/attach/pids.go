// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/wire"
)

// initialPidNs is the initial pid namespace, as the kernel numbers it for good
// (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const initialPidNs = 4026531836

// ownPidNs returns the number of this process's pid namespace, 0 where that is not known.
func ownPidNs() uint32 {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0
	}
	return uint32(st.Ino)
}

// initialPid returns what a process or thread of this process's pid namespace is called
// in the initial one, whose ids are those that programs see. The error wraps
// fs.ErrNotExist where there is none.
func (s *Session) initialPid(pid uint32) (uint32, error) {
	if ownPidNs() == initialPidNs || pid == 0 {
		return pid, nil
	}
	o, err := s.loadOwn(wire.LoadPids)
	if err != nil {
		return 0, fmt.Errorf("preparing to list the pids of this pid namespace: %w", advise(err))
	}
	defer o.close()
	r, err := o.links[0].(*link.Iter).Open()
	if err != nil {
		return 0, fmt.Errorf("listing the pids of this pid namespace: %w", err)
	}
	defer r.Close()
	for {
		var id wire.Pid
		switch err := binary.Read(r, binary.NativeEndian, &id); {
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("there is no process %d in this pid namespace: %w", pid, fs.ErrNotExist)
		case err != nil:
			return 0, fmt.Errorf("listing the pids of this pid namespace: %w", err)
		case id.Own == pid:
			return id.Initial, nil
		}
	}
}

// initialPids puts the ids of the initial pid namespace in place of those of the
// filter.
func (s *Session) initialPids() (err error) {
	f := &s.opts.Filter
	for _, pid := range []*uint32{&f.PID, &f.TID, &f.PPID} {
		if *pid, err = s.initialPid(*pid); err != nil {
			return err
		}
	}
	return nil
}
