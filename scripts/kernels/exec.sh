#!/usr/bin/env bash
# Runs a command in a virtual machine with a kernel of fetch.sh: what this machine's own kernel does not take.
#
#	scripts/kernels/exec.sh LABEL COMMAND [ARG...]
#
# The command is run by a shell in /rbtrace, where rbtrace, sockets (of scripts/sockets) and the scripts are. The rest of
# the machine is made of what this one has: a handful of programs, libbpf-tools and bpftrace where they are installed, and
# the libraries of all. Standard output is the command's, and so is the exit status; standard error has that of the
# command, and what the kernel says. So the tracers can be put beside tools that need kprobes,
#
#	scripts/kernels/exec.sh 6.1 scripts/peers.sh --mounted
#
# (the tools of a Debian release go with its kernel: those of bookworm with 6.1), and be recorded:
#
#	scripts/kernels/exec.sh 6.12 './rbtrace tcpaccept -w - -- ./sockets tcp' >tcpaccept.rbt
#
# apt install qemu-system-x86 cpio, and for the first also libbpf-tools bpftrace libc6-dev
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${RBTRACE_KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rbtrace/kernels}

(($# > 1)) || {
	echo 'usage: exec.sh LABEL COMMAND [ARG...]' >&2
	exit 2
}
label=$1
shift
"$here/fetch.sh" "$label" >&2

work=$(mktemp -d "${TMPDIR:-/tmp}/rbtrace-exec.XXXXXX")
trap 'rm -rf "$work"' EXIT
fs=$work/root
mkdir -p "$fs"/{dev,etc,proc,root,run,sys,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64,rbtrace}
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$fs/$dir"; done

# add FILE...: each at the path that it has here, and the libraries that it needs.
add() {
	local file lib
	for file in "$@"; do
		mkdir -p "$fs/$(dirname "$file")"
		cp -L "$file" "$fs/$file"
		{ ldd "$file" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r lib; do
			[[ -e $fs/$lib ]] || { mkdir -p "$fs/$(dirname "$lib")" && cp -L "$lib" "$fs/$lib"; }
		done
	done
}

programs=(
	bash sh cat chroot chrt cp dd dirname env false getent grep head hostname insmod ip kill ln mkdir mktemp mount mountpoint openssl
	poweroff printf rm rmdir rmmod script seq setpriv sleep stdbuf stty sync tail taskset timeout touch true truncate umount unshare
)
for program in "${programs[@]}"; do
	path=$(type -P "$program") || continue # then only what needs it fails
	add "$path"
done
# What stdbuf preloads, what getent looks names up with, and where bash's readline knows terminals from.
libraries=/lib/$(uname -m)-linux-gnu
add /usr/libexec/coreutils/libstdbuf.so "$libraries/libnss_files.so.2" /lib/terminfo/d/dumb
mapfile -t tools < <(dpkg-query --listfiles libbpf-tools bpftrace 2>/dev/null | grep -E '^/usr/s?bin/')
add "${tools[@]}"
# Scripts of bpftrace include what is in the C library's.
for headers in "/usr/include/$(uname -m)-linux-gnu"/{asm,bits,gnu,sys} /usr/include/{linux,asm-generic,*.h}; do
	[[ ! -e $headers ]] || cp -R --parents "$headers" "$fs"
done
[[ ! -e /usr/lib/ssl/openssl.cnf ]] || add /usr/lib/ssl/openssl.cnf
cp -L /etc/nsswitch.conf /etc/ld.so.cache "$fs/etc/"
echo 'root:x:0:0:root:/root:/bin/sh' >"$fs/etc/passwd"
printf 'root:x:0:\n' >"$fs/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$fs/etc/hosts"

cd "$root"
for command in cmd/rbtrace scripts/sockets scripts/neutral scripts/storm; do
	CGO_ENABLED=0 go build -trimpath -o "$fs/rbtrace/" "./$command"
done
cp -R scripts "$fs/rbtrace/"
cp "$cache/$label/dummy.ko" "$fs/rbtrace/"
printf '%s\n' "$*" >"$fs/command"

cat >"$fs/init" <<'INIT'
#!/bin/bash
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb RBTRACE_PEERS_DISK=/dev/nvme0n1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs tracing /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
ln -s /proc/self/fd /dev/fd
ip link set lo up
stty -F /dev/ttyS1 raw -echo
cd /rbtrace
bash /command </dev/null >/dev/ttyS1 2>/dev/console
echo "exit status $?" >/dev/ttyS2
for port in /dev/ttyS1 /dev/ttyS2; do stty -F "$port" -echo; done # waits until all is sent
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod 755 "$fs/init"
(cd "$fs" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0 >"$work/initramfs")

# See run.sh about this machine.
mkfifo "$work/out" "$work/console"
cat "$work/out" &
cat "$work/console" >&2 &
timeout --kill-after=10 "${RBTRACE_KERNEL_TIMEOUT:-1800}" qemu-system-x86_64 \
	-accel "${RBTRACE_KERNEL_ACCEL:-tcg,thread=single}" -cpu max,cx16=off -smp 2 -m 4G -nodefaults -display none -no-reboot \
	-serial "file:$work/console" -serial "file:$work/out" -serial "file:$work/status" \
	-drive 'if=none,id=disk,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on' \
	-device 'nvme,serial=rbtrace,drive=disk' \
	-kernel "$cache/$label/vmlinuz" -initrd "$work/initramfs" \
	-append 'console=ttyS0 loglevel=4 panic=-1 quiet' </dev/null >&2 || true
wait
status=$(grep -oE '[0-9]+' "$work/status") || {
	echo "exec.sh: the machine ended before the command did" >&2
	exit 1
}
exit "$status"
