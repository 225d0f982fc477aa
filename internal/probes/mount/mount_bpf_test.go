// SPDX-License-Identifier: Apache-2.0

package mount_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/bpftest"
	"github.com/rbtrace/rbtrace/internal/bpftest/tracetest"
	"github.com/rbtrace/rbtrace/internal/probes/mount"
)

type event = tracetest.Event

func TestMain(m *testing.M) { bpftest.Main(m, nil) }

const cwd = unix.AT_FDCWD

// inPrivate runs f on a thread whose mounts are its own, and go with it.
func inPrivate(t *testing.T, dir string, f func()) {
	bpftest.OnThread(t, "mounts", func() {
		bpftest.Must(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Chdir(dir))
		f()
		bpftest.Must(unix.Chdir("/"))
	})
}

// TestPaths gives each of the calls paths of every kind.
func TestPaths(t *testing.T) {
	bpftest.Require(t)
	var want tracetest.Named
	none := event{"dst_file": "", "dst": "", "dst_source": "unresolved"}
	fixed := tracetest.Given{Name: "fixed", Dirfd: cwd, File: "/nowhere/fixed", Path: "/nowhere/fixed", Source: "absolute"}
	events := tracetest.Trace(t, mount.Tracer, tracetest.Paths(), func() {
		tracetest.EachPath(t, func(g tracetest.Given) {
			one := func(call string, want1 event, nr uintptr, args ...any) {
				w := tracetest.Returned(tracetest.As(func() int { return bpftest.Call(nr, args...) }))
				want.Add(call+" "+g.Name, tracetest.Merge(w, want1, event{"call": call}))
			}
			src, dst := g.Want("src_file", "src", "src_source"), g.Want("dst_file", "dst", "dst_source")
			if g.Dirfd == cwd {
				text := event{"src_file": "none", "src": "none", "src_source": "text", "fstype": "tmpfs", "data": "size=1m"}
				one("mount", tracetest.Merge(text, dst), unix.SYS_MOUNT, "none", g.File, "tmpfs", unix.MS_NOSUID, "size=1m")
				one("mount", tracetest.Merge(src, fixed.Want("dst_file", "dst", "dst_source")), unix.SYS_MOUNT, g.File, "/nowhere/fixed", nil, unix.MS_BIND|unix.MS_REC, nil)
				one("mount", tracetest.Merge(src, dst), unix.SYS_MOUNT, g.File, g.File, nil, unix.MS_MOVE, nil)
				one("umount", tracetest.Merge(dst, event{"src": "", "flags": []string{"MNT_DETACH", "UMOUNT_NOFOLLOW"}}), unix.SYS_UMOUNT2, g.File, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
			one("open_tree", tracetest.Merge(src, none, event{"flags": []string{"OPEN_TREE_CLONE", "AT_SYMLINK_NOFOLLOW", "OPEN_TREE_CLOEXEC"}}),
				unix.SYS_OPEN_TREE, g.Dirfd, g.File, unix.OPEN_TREE_CLONE|unix.AT_SYMLINK_NOFOLLOW|unix.OPEN_TREE_CLOEXEC)
			one("move_mount", tracetest.Merge(src, fixed.Want("dst_file", "dst", "dst_source")), unix.SYS_MOVE_MOUNT, g.Dirfd, g.File, cwd, "/nowhere/fixed", 0)
			one("move_mount", tracetest.Merge(fixed.Want("src_file", "src", "src_source"), dst), unix.SYS_MOVE_MOUNT, cwd, "/nowhere/fixed", g.Dirfd, g.File, 0)
			one("fsconfig", tracetest.Merge(src, none, event{"cmd": "FSCONFIG_SET_PATH", "fd": int64(-1), "data": "upperdir"}),
				unix.SYS_FSCONFIG, -1, unix.FSCONFIG_SET_PATH, "upperdir", g.File, g.Dirfd)
		})
	})
	want.Same(t, events)
}

// mounts are the mount points that this thread sees below dir.
func mounts(dir string) (points []string) {
	b := bpftest.Must1(os.ReadFile("/proc/thread-self/mountinfo"))
	for line := range strings.Lines(string(b)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points
}

// mountOptions are those that this thread sees of what is mounted there.
func mountOptions(point string) (options string) {
	for line := range strings.Lines(string(bpftest.Must1(os.ReadFile("/proc/thread-self/mountinfo")))) {
		if f := strings.Fields(line); f[4] == point {
			options = f[5]
		}
	}
	return options
}

// TestMounts mounts, moves and unmounts, with each of the calls, and fails to.
func TestMounts(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	var want, failed tracetest.Named
	var took []time.Duration
	workload := func() {
		want, failed, took = tracetest.Named{}, tracetest.Named{}, nil
		inPrivate(t, dir, func() {
			for _, name := range []string{"a", "b", "c", tracetest.HostileName} {
				bpftest.Must(os.MkdirAll(name, 0o755))
			}
			// call makes a call that returns no error or that one.
			call := func(wanted unix.Errno, w event, nr uintptr, args ...any) (ret int) {
				ret = tracetest.As(func() int {
					begin := time.Now()
					ret := bpftest.Call(nr, args...)
					took = append(took, time.Since(begin))
					return ret
				})
				if ret == -int(unix.ENOSYS) && wanted == 0 && (w["call"] == "mount_setattr" || w["call"] == "open_tree_attr") {
					took = took[:len(took)-1]
					return ret // of newer kernels, and no event of this one
				}
				if ret < 0 != (wanted != 0) || ret < 0 && unix.Errno(-ret) != wanted {
					panic(fmt.Sprintf("%v %q returned %d, %v", w, args, ret, unix.Errno(-ret)))
				}
				var ns unix.Stat_t
				bpftest.Must(unix.Stat("/proc/thread-self/ns/mnt", &ns))
				w = tracetest.Merge(w, tracetest.Returned(ret), event{
					"type": "mount", "comm": tracetest.PathComm, "pid": int64(os.Getpid()), "tid": int64(unix.Gettid()), "mnt_ns": int64(ns.Ino),
				})
				want.Add(fmt.Sprintf("%v %q", w["call"], args), w)
				if ret < 0 {
					failed.Add(fmt.Sprintf("%v %q", w["call"], args), w)
				}
				return ret
			}
			// there fails where a mount point is there and should not be, or the other way round.
			there := func(points ...string) {
				if got := mounts(dir); fmt.Sprint(got) != fmt.Sprint(points) {
					panic(fmt.Sprintf("mounted on %q, want %q", got, points))
				}
			}
			a, b, c := dir+"/a", dir+"/b", dir+"/c"

			call(0, event{
				"call": "mount", "src": "source", "src_source": "text", "dst": a, "dst_file": "a", "dst_source": "cwd", "fstype": "tmpfs",
				"flags": []string{"MS_NOSUID", "MS_NODEV", "MS_RELATIME"}, "data": "size=1m,mode=0700", "attrs": []string{}, "cmd": "", "fd": int64(-1),
			}, unix.SYS_MOUNT, "source", "a", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RELATIME, "size=1m,mode=0700")
			there(a)
			call(0, event{"src": "none", "src_source": "text", "dst": a, "fstype": "", "flags": []string{"MS_RDONLY", "MS_REMOUNT", "MS_BIND"}, "data": ""},
				unix.SYS_MOUNT, "none", a, nil, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, nil)
			call(0, event{"src": "", "src_source": "text", "dst": a, "flags": []string{"MS_REC", "MS_SLAVE"}}, unix.SYS_MOUNT, nil, a, nil, unix.MS_REC|unix.MS_SLAVE, nil)
			// With the magic number of old.
			call(0, event{"src": dir + "/./a", "src_file": "./a", "src_source": "cwd", "dst": b, "dst_source": "absolute", "flags": []string{"MS_BIND"}},
				unix.SYS_MOUNT, "./a", b, "ignored", 0xc0ed0000|unix.MS_BIND, nil)
			there(a, b)
			call(0, event{"src": b, "src_source": "cwd", "dst": c, "flags": []string{"MS_MOVE"}}, unix.SYS_MOUNT, "b", "c", nil, unix.MS_MOVE, nil)
			there(a, c)
			call(0, event{"src": c, "src_source": "cwd", "dst": b, "flags": []string{"MS_MOVE"}}, unix.SYS_MOUNT, "c", "b", nil, 0xc0ed0000|unix.MS_MOVE, nil)
			there(a, b)
			call(0, event{"src": b, "dst": c}, unix.SYS_MOUNT, "b", "c", nil, unix.MS_MOVE, nil)
			call(0, event{"call": "umount", "dst": c, "src": "", "fstype": "", "flags": []string{}}, unix.SYS_UMOUNT2, "c", 0)
			call(0, event{"call": "umount", "dst": a, "flags": []string{"MNT_DETACH"}}, unix.SYS_UMOUNT2, a, unix.MNT_DETACH)
			there()
			hostile := tracetest.HostileName
			call(0, event{
				"src": tracetest.Text(hostile), "dst": dir + "/" + tracetest.Text(hostile), "fstype": "ramfs", "data": tracetest.Text(hostile),
				tracetest.Raw: map[string]string{"src": hostile, "dst": dir + "/" + hostile, "data": hostile},
			}, unix.SYS_MOUNT, hostile, hostile, "ramfs", 0, hostile)
			call(0, event{"dst": dir + "/" + tracetest.Text(hostile)}, unix.SYS_UMOUNT2, hostile, 0)
			there()

			// Step by step.
			fs := call(0, event{"call": "fsopen", "fstype": "tmpfs", "flags": []string{"FSOPEN_CLOEXEC"}, "src": "", "dst": "", "fd": int64(-1)}, unix.SYS_FSOPEN, "tmpfs", unix.FSOPEN_CLOEXEC)
			config := event{"call": "fsconfig", "fd": int64(fs), "dst": "", "fstype": "", "flags": []string{}}
			call(0, tracetest.Merge(config, event{"cmd": "FSCONFIG_SET_STRING", "data": "source=of it", "src": "of it", "src_source": "text"}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, "source", "of it", 0)
			call(0, tracetest.Merge(config, event{"cmd": "FSCONFIG_SET_STRING", "data": "size=1m", "src": ""}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, "size", "1m", 0)
			call(0, tracetest.Merge(config, event{"cmd": "FSCONFIG_SET_FLAG", "data": "ro", "aux": int64(0)}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_FLAG, "ro", nil, 0)
			file := bpftest.Must1(unix.Open(dir, unix.O_PATH, 0))
			call(unix.EINVAL, tracetest.Merge(config, event{"cmd": "FSCONFIG_SET_FD", "data": "fd", "src": dir, "src_source": "dirfd", "aux": int64(file)}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_FD, "fd", "", file)
			call(unix.EINVAL, tracetest.Merge(config, event{"cmd": "FSCONFIG_SET_BINARY", "data": "blob", "src": "", "aux": int64(2)}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_BINARY, "blob", []byte("\x00\x01"), 2)
			call(unix.EOPNOTSUPP, tracetest.Merge(config, event{"cmd": "", "data": "key"}), unix.SYS_FSCONFIG, fs, 77, "key", nil, 0)
			call(0, tracetest.Merge(config, event{"cmd": "FSCONFIG_CMD_CREATE", "data": ""}), unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, nil, nil, 0)
			mnt := call(0, event{"call": "fsmount", "fd": int64(fs), "flags": []string{"FSMOUNT_CLOEXEC"}, "attrs": []string{"MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOATIME"}, "src": "", "dst": ""},
				unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
			call(0, event{
				"call": "move_mount", "fd": int64(mnt), "flags": []string{"MOVE_MOUNT_F_EMPTY_PATH"},
				"src": a, "src_file": "", "src_source": "dirfd", "dst": a, "dst_file": "a", "dst_source": "dirfd",
			}, unix.SYS_MOVE_MOUNT, mnt, "", file, "a", unix.MOVE_MOUNT_F_EMPTY_PATH)
			there(a)
			bpftest.Must(unix.Close(fs), unix.Close(mnt))

			// What is there is changed.
			attr := func(set, clear, propagation uint64) []byte {
				b := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, set), clear)
				return append(binary.NativeEndian.AppendUint64(b, propagation), make([]byte, 8)...)
			}
			const sysOpenTreeAttr = 467
			if ret := call(0, event{
				"call": "mount_setattr", "dst": a, "dst_source": "cwd", "src": "", "flags": []string{"AT_RECURSIVE"}, "fd": int64(-1),
				"attrs": []string{"MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID"}, "attrs_clear": []string{"MOUNT_ATTR_NODEV"}, "propagation": []string{"MS_SHARED"},
			}, unix.SYS_MOUNT_SETATTR, cwd, "a", unix.AT_RECURSIVE, attr(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MS_SHARED), 32); ret == 0 {
				if options := mountOptions(a); options != "ro,nosuid,noatime" {
					panic("the mount has the options " + options)
				}
				call(0, event{"dst": a, "dst_source": "dirfd", "attrs": []string{}, "attrs_clear": []string{"MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID"}, "propagation": []string{"MS_PRIVATE"}, "flags": []string{"AT_SYMLINK_NOFOLLOW", "AT_NO_AUTOMOUNT"}},
					unix.SYS_MOUNT_SETATTR, file, "a", unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, attr(0, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID, unix.MS_PRIVATE), 32)
				call(unix.EINVAL, event{"call": "mount_setattr", "dst": a, "attrs": []string{}, "propagation": []string{}}, unix.SYS_MOUNT_SETATTR, cwd, "a", 0, attr(1, 1, 0), 24)
				in := bpftest.Must1(unix.Open("a", unix.O_PATH, 0))
				call(0, event{"dst": a, "dst_file": "", "dst_source": "dirfd", "attrs": []string{"MOUNT_ATTR_NOEXEC"}}, unix.SYS_MOUNT_SETATTR, in, "", unix.AT_EMPTY_PATH, attr(unix.MOUNT_ATTR_NOEXEC, 0, 0), 32)
				bpftest.Must(unix.Close(in))
			}
			if fd := call(0, event{
				"call": "open_tree_attr", "src": a, "src_source": "cwd", "dst": "", "flags": []string{"OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC"},
				"attrs": []string{"MOUNT_ATTR_RDONLY"}, "attrs_clear": []string{}, "propagation": []string{},
			}, sysOpenTreeAttr, cwd, "a", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, attr(unix.MOUNT_ATTR_RDONLY, 0, 0), 32); fd >= 0 {
				bpftest.Must(unix.Close(fd))
			}
			fd := call(0, event{"call": "fspick", "dst": a, "dst_source": "cwd", "src": "", "flags": []string{"FSPICK_CLOEXEC", "FSPICK_NO_AUTOMOUNT"}}, unix.SYS_FSPICK, cwd, "a", unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT)
			call(0, event{"cmd": "FSCONFIG_CMD_RECONFIGURE", "fd": int64(fd)}, unix.SYS_FSCONFIG, fd, unix.FSCONFIG_CMD_RECONFIGURE, nil, nil, 0)
			bpftest.Must(unix.Close(fd))
			in := bpftest.Must1(unix.Open("a", unix.O_PATH, 0))
			fd = call(0, event{"dst": a, "dst_file": "", "dst_source": "dirfd", "flags": []string{"FSPICK_EMPTY_PATH"}}, unix.SYS_FSPICK, in, "", unix.FSPICK_EMPTY_PATH)
			bpftest.Must(unix.Close(fd), unix.Close(in))

			tree := call(0, event{"call": "open_tree", "src": a, "src_source": "cwd", "flags": []string{"OPEN_TREE_CLONE", "AT_RECURSIVE", "OPEN_TREE_CLOEXEC"}, "dst": ""},
				unix.SYS_OPEN_TREE, cwd, "a", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
			to := bpftest.Must1(unix.Open("b", unix.O_PATH, 0))
			call(0, event{"call": "move_mount", "fd": int64(tree), "dst": b, "dst_file": "", "dst_source": "dirfd", "flags": []string{"MOVE_MOUNT_F_EMPTY_PATH", "MOVE_MOUNT_T_EMPTY_PATH"}},
				unix.SYS_MOVE_MOUNT, tree, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
			there(a, b)
			bpftest.Must(unix.Close(tree), unix.Close(to))
			same := call(0, event{"call": "open_tree", "src": dir, "src_file": "", "src_source": "dirfd", "flags": []string{"AT_EMPTY_PATH"}}, unix.SYS_OPEN_TREE, file, "", unix.AT_EMPTY_PATH)
			bpftest.Must(unix.Close(same), unix.Close(file))
			call(0, event{"dst": b}, unix.SYS_UMOUNT2, "b", 0)

			// Failures.
			in = bpftest.Must1(unix.Open("a", unix.O_RDONLY, 0))
			call(unix.EBUSY, event{"call": "umount", "dst": a}, unix.SYS_UMOUNT2, "a", 0)
			bpftest.Must(unix.Close(in))
			call(0, event{"dst": a}, unix.SYS_UMOUNT2, "a", 0)
			call(unix.EINVAL, event{"dst": a, "flags": []string{"0x40"}}, unix.SYS_UMOUNT2, "a", 0x40)
			call(unix.EINVAL, event{"dst": a}, unix.SYS_UMOUNT2, "a", 0)
			call(unix.ENODEV, event{"fstype": "no such fs", "src": "x", "dst": a}, unix.SYS_MOUNT, "x", "a", "no such fs", 0, nil)
			call(unix.ENODEV, event{"fstype": "no such fs"}, unix.SYS_FSOPEN, "no such fs", 0)
			call(unix.EINVAL, event{"src": "x", "dst": a, "data": "size=none"}, unix.SYS_MOUNT, "x", "a", "tmpfs", 0, "size=none")
			call(unix.EFAULT, event{"src": "x", "fstype": ""}, unix.SYS_MOUNT, "x", "a", 8, 0, nil)
			call(unix.EBADF, event{"call": "fsmount", "fd": int64(-1), "attrs": []string{}}, unix.SYS_FSMOUNT, -1, 0, 0)
			there()
		})
	}
	events := tracetest.Trace(t, mount.Tracer, tracetest.Paths(), workload)
	if want.Same(t, events) {
		missed := tracetest.Misses(t)
		least := time.Hour
		for i, e := range events {
			lat := time.Duration(e["latency_ns"].(int64))
			if lat == 0 && missed > 0 {
				missed-- // its entry
				continue
			}
			if lat <= 0 || lat > took[i] {
				t.Errorf("%s took %v, and for the test %v", want.Names[i], lat, took[i])
			}
			least = min(least, took[i]-lat)
		}
		// The clock of the test saw each call take longer, but at the best not much.
		if least > 5*time.Millisecond {
			t.Errorf("all calls took at least %v less than for the test", least)
		}
	}
	opts := tracetest.Paths()
	opts.Failed = true
	failedEvents := tracetest.Trace(t, mount.Tracer, opts, workload)
	failed.Same(t, failedEvents)
}

// TestPivotRoot: the paths are those that they are when the call returns.
func TestPivotRoot(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	var want tracetest.Named
	events := tracetest.Trace(t, mount.Tracer, tracetest.Paths(), func() {
		inPrivate(t, dir, func() {
			bpftest.Must(unix.Mkdir("new", 0o755), unix.Mount("root", "new", "tmpfs", 0, ""), unix.Mkdir("new/old", 0o755))
			pivot := func(src, dst string) (ret int) {
				ret = tracetest.As(func() int { return bpftest.Call(unix.SYS_PIVOT_ROOT, src, dst) })
				b := make([]byte, unix.PathMax)
				cwd := string(b[:bpftest.MustCall(unix.SYS_GETCWD, b, len(b))-1])
				want.Add("pivot_root", tracetest.Merge(tracetest.Returned(ret), event{
					"call": "pivot_root", "src": cwd + "/" + src, "src_file": src, "src_source": "cwd",
					"dst": cwd + "/" + dst, "dst_file": dst, "dst_source": "cwd", "flags": []string{}, "fd": int64(-1),
				}))
				return ret
			}
			pivot("new/old", "new")
			if pivot("new", "new/old") == 0 { // not where the root is that of the initramfs
				bpftest.Must(unix.Access("/old"+dir+"/new", unix.F_OK))
			}
		})
	})
	want.Same(t, events)
}

// TestSeccomp: what a filter answers is shown, too, although the kernel does not enter the call.
func TestSeccomp(t *testing.T) {
	bpftest.Require(t)
	const n = 11
	var want tracetest.Named
	events := tracetest.Trace(t, mount.Tracer, tracetest.Paths(), func() {
		bpftest.OnThread(t, "paths", func() {
			bpftest.Must(bpftest.Refuse(unix.EACCES, unix.SYS_MOUNT))
			for range n {
				ret := tracetest.As(func() int { return bpftest.Call(unix.SYS_MOUNT, "x", "/nowhere/x", "tmpfs", 0, nil) })
				want.Add("answered", tracetest.Merge(tracetest.Returned(ret), event{
					"call": "mount", "errno": "EACCES", "latency_ns": int64(0), "src": "x", "dst": "/nowhere/x", "fstype": "tmpfs",
				}))
			}
		})
	})
	want.Same(t, events)
}

// TestMany counts.
func TestMany(t *testing.T) {
	bpftest.Require(t)
	dir := bpftest.Dir(t)
	const n = 307
	var want tracetest.Named
	events := tracetest.Trace(t, mount.Tracer, tracetest.Paths(), func() {
		inPrivate(t, dir, func() {
			bpftest.Must(unix.Mkdir("m", 0o755))
			for i := range n {
				tracetest.As(func() int {
					return bpftest.MustCall(unix.SYS_MOUNT, fmt.Sprint("source ", i), "m", "tmpfs", 0, nil)
				})
				want.Add("mount", event{"call": "mount", "src": fmt.Sprint("source ", i), "dst": dir + "/m"})
				tracetest.As(func() int { return bpftest.MustCall(unix.SYS_UMOUNT2, "m", 0) })
				want.Add("umount", event{"call": "umount", "dst": dir + "/m"})
			}
		})
	})
	want.Same(t, events)
}
