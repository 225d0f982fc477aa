// SPDX-License-Identifier: Apache-2.0

// Package kernel answers what the running kernel is and allows: its release, the
// caller's capabilities, its clocks and its tracefs.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// BTFPath is where a kernel with CONFIG_DEBUG_INFO_BTF shows its types.
const BTFPath = "/sys/kernel/btf/vmlinux"

// Release returns the running kernel's release, such as "6.1.0-18-amd64".
func Release() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil { // EFAULT alone, which cannot be
		return "unknown"
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// Version is the number in front of a kernel release.
type Version struct{ Major, Minor int }

// ParseVersion reads the version at the start of a kernel release.
func ParseVersion(release string) (Version, error) {
	major, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	a, err := strconv.Atoi(major)
	if err != nil {
		return Version{}, fmt.Errorf("kernel release %q does not begin with a version", release)
	}
	b, err := strconv.Atoi(rest[:end])
	if err != nil {
		return Version{}, fmt.Errorf("kernel release %q does not begin with a version", release)
	}
	return Version{a, b}, nil
}

// Less reports whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Oldest is the first kernel with BPF ring buffers.
var Oldest = Version{5, 8}

// CheckVersion returns an error where release is that of a kernel without ring
// buffers. A release that cannot be read is let pass: the kernel itself will
// refuse what it lacks.
func CheckVersion(release string) error {
	v, err := ParseVersion(release)
	if err == nil && v.Less(Oldest) {
		return fmt.Errorf("this kernel is %s, and BPF ring buffers came with %s: boot a newer kernel", release, Oldest)
	}
	return nil
}

// CheckCapabilities returns an error that names the capabilities which tracing
// needs and this process lacks: CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, which
// includes both (include/linux/capability.h, bpf_capable and perfmon_capable).
func CheckCapabilities() error {
	caps, err := capability.NewPid2(0)
	if err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	if err := caps.Load(); err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	return missing(func(c capability.Cap) bool { return caps.Get(capability.EFFECTIVE, c) })
}

func missing(has func(capability.Cap) bool) error {
	if has(capability.CAP_SYS_ADMIN) {
		return nil
	}
	var lacking []string
	for _, c := range []capability.Cap{capability.CAP_BPF, capability.CAP_PERFMON} {
		if !has(c) {
			lacking = append(lacking, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return fmt.Errorf("missing %s: run it as root (sudo rbtrace …), or give the program what it needs once: sudo setcap cap_bpf,cap_perfmon+ep %s",
		strings.Join(lacking, " and "), executable())
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "rbtrace"
	}
	return path
}

// HasSysAdmin reports whether this process has CAP_SYS_ADMIN, which getting at
// the maps of others by id needs (kernel/bpf/syscall.c, bpf_map_get_fd_by_id).
func HasSysAdmin() bool { return Has(capability.CAP_SYS_ADMIN) }

// Has reports whether this process has a capability, in effect.
func Has(c capability.Cap) bool {
	caps, err := capability.NewPid2(0)
	return err == nil && caps.Load() == nil && caps.Get(capability.EFFECTIVE, c)
}

// MemAvailable is how much memory the machine could give without swapping, in
// bytes, as /proc/meminfo estimates it.
func MemAvailable() (uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("looking for the available memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 54)
			if err != nil {
				return 0, fmt.Errorf("looking for the available memory: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo does not tell the available memory")
}

// OnlineCPUs returns the numbers of the CPUs that are online, in order.
func OnlineCPUs() ([]int, error) {
	const file = "/sys/devices/system/cpu/online"
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("counting the CPUs: %w", err)
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("counting the CPUs: %s has %q: %w", file, text, err)
	}
	return cpus, nil
}

// parseCPUs reads a list such as "0-3,5".
func parseCPUs(list string) (cpus []int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			return nil, err
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			return nil, err
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// Settle waits until every BPF program that was under way when it was called has
// ended, as far as the kernel offers a way: after it, what a detached program
// wrote can be relied on to be there.
func Settle() {
	// CMD_GLOBAL is synchronize_rcu() (kernel/sched/membarrier.c), and tracing
	// programs run inside RCU read sections. With nohz_full it is EINVAL; the
	// ledger, which the caller compares, then tells when all is in.
	const cmdGlobal = 1 // enum membarrier_cmd, include/uapi/linux/membarrier.h
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, cmdGlobal, 0, 0)
}

// ErrNoTracefs says that the tracepoints' ids cannot be read.
var ErrNoTracefs = errors.New("tracefs is not mounted")

// Tracefs opens the directory that holds the events of tracefs. Where tracefs is
// not mounted, it makes a mount of its own that nobody else sees and that goes
// away with the returned file.
func Tracefs() (*os.File, error) {
	var denied error
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		f, err := os.Open(dir + "/events")
		if err == nil {
			return f, nil
		}
		if errors.Is(err, os.ErrPermission) {
			denied = err
		}
	}
	if denied != nil && !HasSysAdmin() {
		return nil, fmt.Errorf("opening tracefs: %w: run as root, or let everybody read it: sudo mount -o remount,mode=755 /sys/kernel/tracing", denied)
	}
	f, err := mountTracefs()
	if err != nil {
		return nil, fmt.Errorf("%w, and mounting it is refused (%w): run sudo mount -t tracefs tracefs /sys/kernel/tracing", ErrNoTracefs, err)
	}
	defer f.Close()
	fd, err := unix.Openat(int(f.Fd()), "events", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the events of tracefs: %w", err)
	}
	return os.NewFile(uintptr(fd), "tracefs/events"), nil
}

// mountTracefs mounts tracefs without attaching it to the tree.
func mountTracefs() (*os.File, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(mnt), "tracefs"), nil
}

// TracepointID reads the id that perf_event_open takes for a tracepoint, from an
// events directory as Tracefs opens it. name is "group/event".
func TracepointID(events *os.File, name string) (uint64, error) {
	fd, err := unix.Openat(int(events.Fd()), name+"/id", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("looking up tracepoint %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var buf [32]byte
	n, err := f.Read(buf[:])
	if err != nil {
		return 0, fmt.Errorf("reading the id of tracepoint %s: %w", name, err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(buf[:n])), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the id of tracepoint %s: %w", name, err)
	}
	return id, nil
}
