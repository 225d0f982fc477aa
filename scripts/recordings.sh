#!/usr/bin/env bash
# Makes the recordings that the golden tests replay, but those of module, anew (as root):
#
#	scripts/recordings.sh && go test ./internal/probes -run Golden -update
#
# What this machine's kernel has no hook for, one in a virtual machine has:
#
#	scripts/kernels/exec.sh 6.12 'hostname golden; cd /; env -i PATH=/usr/bin:/bin /rbtrace/rbtrace \
#		NAME -w - -- COMMAND | /rbtrace/neutral' >internal/probes/NAME/testdata/NAME.rbt
#
# Nothing in them tells of the machine: a host name and a kernel of their own, / as the working directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=$PWD/internal/probes
bin=$(mktemp -d /tmp/rbtrace.XXXXXX)
trap 'rm -rf "$bin" /tmp/golden' EXIT
CGO_ENABLED=0 go build -trimpath -o "$bin" ./cmd/rbtrace ./scripts/neutral ./scripts/sockets
for probe in "$dir"/*/; do mkdir -p "$probe/testdata"; done

# Everything that runs is in /tmp/golden, which must not be there.
mkdir /tmp/golden
cp /bin/true $'/tmp/golden/a \e]0;b\a\n\xff' # a title for the terminal, a newline, no UTF-8
cp /bin/sleep $'/tmp/golden/z\e]0;b\a\n\xff'
printf '#!/bin/sh\n' >/tmp/golden/script
printf 'no program\n' >/tmp/golden/data
chmod 755 /tmp/golden/script

record() {
	# shellcheck disable=SC2016 # the inner shell expands
	unshare --uts sh -c 'hostname golden && cd / && exec env -i PATH=/usr/bin:/bin "$@"' record \
		"$bin/rbtrace" "$@" | "$bin/neutral"
}

# shellcheck disable=SC2016
record exec -w - -- sh -c '
	/bin/true
	/bin/true "" "a b" "\"\\" "$(printf "\033[31m\n\377")" "$(printf "\342\200\256abc \357\273\277")"
	/bin/true "$(head -c 40000 /dev/zero | tr "\0" x)" behind # in two parts
	x=$(head -c 66000 /dev/zero | tr "\0" x) && /bin/true "$x" "$x" # cut at 128 KiB
	/tmp/golden/script 1 2
	/tmp/golden/a*
	cd /tmp/golden && ./script
	setpriv --reuid=65534 --regid=65534 --clear-groups id >&2
' >"$dir/exec/testdata/exec.rbt"
# shellcheck disable=SC2016
record exec --failed -w - -- sh -c '
	/nothing 1 2 2>&-
	/tmp/golden/data 2>&-
	/tmp 2>&-
	"$(printf "/tmp/\033]0;b\007\n\377")" "$(printf "\033[31m")" 2>&-
	cd /tmp/golden && ./data/x 2>&-
	:
' >"$dir/exec/testdata/failed.rbt"

# shellcheck disable=SC2016
record exit -w - -- sh -c '
	/bin/true
	/bin/false
	sh -c "kill -KILL \$\$" 2>&-
	sh -c "kill -40 \$\$" 2>&-
	(exit 255)
	sleep 0.1
' >"$dir/exit/testdata/exit.rbt"

# shellcheck disable=SC2016
record fork -w - -- sh -c '
	(exit 1)
	/bin/true
	unshare --uts --ipc /bin/true
' >"$dir/fork/testdata/fork.rbt"

# shellcheck disable=SC2016
record signal -w - -- sh -c '
	sleep 100 &
	kill -WINCH $!
	kill -TERM $!
	wait
	sh -c "kill -SEGV \$\$" 2>&-
' >"$dir/signal/testdata/signal.rbt"
# shellcheck disable=SC2016
record signal --failed -w - -- sh -c '
	kill -9 4194303 2>&-
	kill -40 4194303 2>&-
	:
' >"$dir/signal/testdata/failed.rbt"

# A map and what is done with it, a program that is none, a pin, a tracepoint, and two perf events.
bpfs() {
	# shellcheck disable=SC2016
	record bpf "$@" -w - -- perl -e '
		$0 = "\033]0;b\a\n\377";
		sub bpf { my ($cmd, $attr) = @_; return syscall(321, $cmd, $attr, length $attr) }
		my $hostile = "/a \033]0;b\a\n\377";
		my $address = unpack("Q", pack("p", $hostile));
		my $map = bpf(0, pack("L7a16", 1, 4, 4, 8, 0, 0, 0, "golden"));
		my ($key, $value) = ("\0" x 4, "\0" x 4);
		my $elem = pack("LLppQ", $map, 0, $key, $value, 0);
		bpf(2, $elem);
		bpf(1, $elem);
		bpf(3, $elem);
		bpf(1, $elem);
		bpf(0, pack("L7a16", 1, 4, 4, 8, 0, 0, 0, $hostile));
		bpf(5, pack("LLQQL4L2a16", 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, $hostile));
		bpf(6, pack("QLL", $address, $map, 0));
		bpf(17, pack("QL", $address, 0));
		my $event = pack("LLQx88", 1, 112, 9); # PERF_COUNT_SW_DUMMY
		syscall(298, $event, 0, -1, -1, 0);
		my $broken = pack("LLQx88", 99, 112, 0);
		syscall(298, $broken, 0, -1, -1, 0);
	'
}
bpfs >"$dir/bpf/testdata/bpf.rbt"
bpfs --failed >"$dir/bpf/testdata/failed.rbt"

# From where it has another name; before, perl asks for as much memory as the machine's libraries take.
capables() {
	# shellcheck disable=SC2016
	record capable --comm $'\e]0;b\a\n\xff' "$@" -w - -- perl -e '
		$0 = "\033]0;b\a\n\377";
		my $root = "/";
		syscall(161, $root);            # chroot
		syscall(169, 0, 0, 0);          # reboot, with wrong magic numbers
		syscall(117, 1000, 1000, 1000); # setresuid
		syscall(161, $root);
		syscall(169, 0, 0, 0);
		syscall(116, 0, 0);             # setgroups
	'
}
capables >"$dir/capable/testdata/capable.rbt"
capables --failed >"$dir/capable/testdata/failed.rbt"

# A program that takes more than its cgroup has.
group=/sys/fs/cgroup/golden limit=memory.max
if [ -d /sys/fs/cgroup/memory ]; then
	group=/sys/fs/cgroup/memory/golden limit=memory.limit_in_bytes
fi
mkdir "$group"
echo 32M >"$group/$limit"
# shellcheck disable=SC2016
record oomkill -w - -- sh -c '
	echo $$ >"$0/cgroup.procs"
	perl -e "\$0 = qq(\\033]0;b\\a\\n\\377); \$size = 1e8; \$memory = q(x) x \$size" 2>&-
	:
' "$group" >"$dir/oomkill/testdata/oomkill.rbt"
rmdir "$group"

# Attach, wait for the stop, set an option, look where nothing is, and let it go with SIGTERM; the rest fails.
ptraces() {
	# shellcheck disable=SC2016
	record ptrace "$@" -w - -- sh -c '
		/tmp/golden/z* 100 &
		sleep 0.1
		perl -e "
			my \$tid = 0 + shift; # a text would be passed by its address
			syscall(101, 16, \$tid, 0, 0);
			waitpid(\$tid, 0x40000000);
			syscall(101, 0x4200, \$tid, 0, 0x100000);
			syscall(101, 2, \$tid, 16, 0);
			syscall(101, 17, \$tid, 0, 15);
			syscall(101, 17, \$tid, 0, 15);
			syscall(101, 0x4206, 4194303, 0, 0);
			syscall(101, 0x3fff, -1, -1, -1);
			syscall(101, 0, 0, 0, 0);
		" $!
		wait
		:
	'
}
ptraces >"$dir/ptrace/testdata/ptrace.rbt"
ptraces --failed >"$dir/ptrace/testdata/failed.rbt"

# Root gives up some rights and then all, and does not get them back.
setuids() {
	# shellcheck disable=SC2016
	record setuid "$@" -w - -- perl -e '
		$0 = "\033]0;b\a\n\377";
		my @groups = map { pack("L*", @$_) } [4, 24], [1 .. 20];
		syscall(116, 2, $groups[0]);  # setgroups
		syscall(116, 20, $groups[1]);
		syscall(123, 13);             # setfsgid
		syscall(119, 100, -1, 102);   # setresgid
		syscall(113, 1000, -1);       # setreuid
		syscall(117, -1, 1000, 1001); # setresuid
		syscall(105, 0);              # setuid
		syscall(106, 0);              # setgid
		syscall(116, 0, 0);
	'
}
setuids >"$dir/setuid/testdata/setuid.rbt"
setuids --failed >"$dir/setuid/testdata/failed.rbt"

# What the shell opens for its redirections, and rm for the directories that it goes through. All else
# that opens files would tell where this machine has its libraries.
mkdir -p /tmp/golden/dir/below /tmp/golden/gone
opens() {
	# shellcheck disable=SC2016
	record open --path-prefix /tmp/golden "$@" -w - -- sh -c '
		: </tmp/golden/data
		cd /tmp/golden
		: >new
		: >>new
		: <>./dir/../new
		cd dir/below
		: <../../script
		( : <missing ) 2>&-
		( : </tmp/golden/missing ) 2>&-
		( : <../../data/x ) 2>&-
		( : >.. ) 2>&-
		( : <"$(printf "\033]0;b\007\n\377")" ) 2>&-
		cd ../../gone
		rmdir ../gone
		( : <x ) 2>&-
		cd /
		rm -r /tmp/golden/dir
	'
	mkdir -p /tmp/golden/dir/below /tmp/golden/gone
}
opens >"$dir/open/testdata/open.rbt"
opens --failed >"$dir/open/testdata/failed.rbt"

# shellcheck disable=SC2016
unlinks() {
	record unlink "$@" -w - -- sh -c '
		cd /tmp/golden
		mkdir -p dir/below full/x
		: >file; : >dir/below/file; : >dir/link; : >"$(printf "\033]0;b\007\n\377")"
		unlink file
		unlink missing 2>&-
		unlink full 2>&-
		unlink data/x 2>&-
		unlink "$(printf "\033]0;b\007\n\377")"
		unlink "$(printf "\033[2J\342\200\256")" 2>&-
		rmdir full 2>&-
		rmdir /tmp/golden/full/x
		rmdir full
		rm -r dir
		mkdir gone && cd gone && rmdir ../gone
		unlink x 2>&-
		:
	'
}
unlinks >"$dir/unlink/testdata/unlink.rbt"
unlinks --failed >"$dir/unlink/testdata/failed.rbt"

# shellcheck disable=SC2016
renames() {
	record rename "$@" -w - -- sh -c '
		cd /tmp/golden
		mkdir -p dir/below full/x other/full/x
		: >file; : >dir/below/file
		mv file "$(printf "\033]0;b\007\n\377")"
		mv -n "$(printf "\033]0;b\007\n\377")" file
		mv -T /tmp/golden/file dir/below/file
		mv dir moved
		mv -T full other/full 2>&-
		mv -T full full/x/y 2>&-
		mkdir gone && cd gone && rmdir ../gone
		mv x y 2>&- # asks for x only
		mv ../moved z 2>&-
		cd .. && rm -r moved full other
	'
}
renames >"$dir/rename/testdata/rename.rbt"
renames --failed >"$dir/rename/testdata/failed.rbt"

# shellcheck disable=SC2016
links() {
	record link "$@" -w - -- sh -c '
		cd /tmp/golden
		mkdir links && : >links/file
		link data links/hard
		ln -s "$(printf "../\033[31m\n\377")" links/soft
		ln -s target "$(printf "links/\033]0;b\007\n\377")"
		link missing x 2>&-
		link links x 2>&-
		link data links/hard 2>&-
		cd links
		ln ../data .
		ln -s /tmp/golden/data file 2>&-
		cd .. && rm -r links
	'
}
links >"$dir/link/testdata/link.rbt"
links --failed >"$dir/link/testdata/failed.rbt"

# By another name, which sh has when its libraries are loaded: they would tell of the machine.
stats() {
	# shellcheck disable=SC2016
	record stat -n golden "$@" -w - -- sh -c '
		cd /tmp/golden
		mkdir -p gone
		printf golden >/proc/$$/comm
		[ -e /tmp/golden/data ]
		[ -e data ]
		[ -L script ]
		[ -e ./../golden/data/x ]
		[ -e "$(printf "\033]0;b\007\n\377")" ]
		[ -e / ]
		[ -e "" ]
		cd gone
		rmdir ../gone
		[ -e x ]
		cd /
		[ -e tmp/golden ]
		:
	'
}
stats >"$dir/stat/testdata/stat.rbt"
stats --failed >"$dir/stat/testdata/failed.rbt"

# shellcheck disable=SC2016
syncs() {
	record sync "$@" -w - -- sh -c '
		cd /tmp/golden
		: >"$(printf "\033]0;b\007\n\377")"
		sync data
		sync -d /tmp/golden/data "$(printf "\033]0;b\007\n\377")"
		sync -f .
		sync -d /proc/sys/kernel/hostname 2>&-
		sync /dev/null 2>&-
		dd if=/dev/zero of=new bs=4096 count=1 conv=fsync 2>&-
		rm new "$(printf "\033]0;b\007\n\377")"
	'
}
syncs >"$dir/sync/testdata/sync.rbt"
syncs --failed >"$dir/sync/testdata/failed.rbt"

# In a mount namespace of its own.
mounts() {
	# shellcheck disable=SC2016
	record mount "$@" -w - -- unshare --mount sh -c '
		cd /tmp/golden
		mkdir -p a b
		x=$(printf "\033]0;b\007\n\377")
		mkdir -p "$x"
		mount -t tmpfs -o nosuid,nodev,size=1m source a
		mount --bind a b
		mount -o remount,ro,bind b
		mount --make-slave b
		mount --move b "$x" 2>&-
		mount -t tmpfs "$x" "$x"
		umount "$x"
		mount -i -t tmpfs -o size=x none a 2>&-
		umount missing 2>&-
		umount -l a
		:
	'
}
mounts >"$dir/mount/testdata/mount.rbt"
mounts --failed >"$dir/mount/testdata/failed.rbt"
# Sockets in a network namespace of their own.
record bind -n sockets -w - -- "$bin/sockets" bind >"$dir/bind/testdata/bind.rbt"
record bind -n sockets --failed -w - -- "$bin/sockets" bind >"$dir/bind/testdata/failed.rbt"
record listen -n sockets -w - -- "$bin/sockets" bind >"$dir/listen/testdata/listen.rbt"
record listen -n sockets --failed -w - -- "$bin/sockets" bind >"$dir/listen/testdata/failed.rbt"
record tcpaccept -w - -- "$bin/sockets" accept >"$dir/tcpaccept/testdata/tcpaccept.rbt"
record tcpstates -n sockets -w - -- "$bin/sockets" tcp >"$dir/tcpstates/testdata/tcpstates.rbt"
record tcplife -n sockets -w - -- "$bin/sockets" tcp >"$dir/tcplife/testdata/tcplife.rbt"
record tcplife -n sockets --failed -w - -- "$bin/sockets" tcp >"$dir/tcplife/testdata/failed.rbt"
record tcpconnect -n sockets -w - -- "$bin/sockets" tcp >"$dir/tcpconnect/testdata/tcpconnect.rbt"
record tcpconnect -n sockets --failed -w - -- "$bin/sockets" tcp >"$dir/tcpconnect/testdata/failed.rbt"
record tcpretrans -n sockets -w - -- "$bin/sockets" deaf >"$dir/tcpretrans/testdata/tcpretrans.rbt"
record tcpreset -n sockets -w - -- "$bin/sockets" tcp >"$dir/tcpreset/testdata/tcpreset.rbt"
record tcpdrop -n sockets -w - -- "$bin/sockets" deaf >"$dir/tcpdrop/testdata/tcpdrop.rbt"
calls() {
	record slowsys "$@" -w - -- sh -c '
		sleep 0.1
		/tmp/golden/a* &
		kill -0 4194303 2>&-
		wait
		sh -c "sleep 100 & kill -9 \$!; wait"
		(exit 3)
	'
}
calls --min 300us >"$dir/slowsys/testdata/slowsys.rbt"
calls --failed --min 0 --syscall kill >"$dir/slowsys/testdata/failed.rbt"

# What is no character is a byte, where the terminal has them: the locale is C.
printf 'echo "a b"\n\n: \\\"\303\251 \377\302\233\nexit\n' |
	LC_ALL=C record readline -w - -- bash --norc --noprofile -i >"$dir/readline/testdata/readline.rbt" 2>/dev/null

# A server that answers with what could harm a terminal. It is no part of the recording.
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=golden -keyout "$bin/key" -out "$bin/cert" 2>/dev/null
printf 'HTTP/1.0 200 OK\r\n\r\n\033]0;b\007\n\377' >/tmp/golden/answer
(cd /tmp/golden && exec openssl s_server -key "$bin/key" -cert "$bin/cert" -accept 127.0.0.1:44300 -HTTP -quiet) &
server=$!
sleep 1
# shellcheck disable=SC2016
record tls --max-data 40 -w - -- sh -c 'printf "GET /answer HTTP/1.0\r\n\r\n" |
	openssl s_client -quiet -connect 127.0.0.1:44300 >/dev/null 2>&1' >"$dir/tls/testdata/tls.rbt"
# shellcheck disable=SC2016
record tls --failed -w - -- sh -c 'printf "GET /answer HTTP/1.0\r\n\r\n" |
	openssl s_client -quiet -connect 127.0.0.1:44300 >/dev/null 2>&1' >"$dir/tls/testdata/failed.rbt"
kill "$server"

names() {
	local file=$1
	shift
	# shellcheck disable=SC2016
	record dns "$@" -w - -- sh -c '
		getent ahosts localhost
		getent hosts localhost
		getent ahosts no-such-host.invalid
		getent ahosts "$(printf "\033]0;b\007\n\377")"
		getent hosts "$(printf "b\303\274cher.invalid")"
		:
	' >"$dir/dns/testdata/$file.rbt"
}
names dns
names failed --failed

# Others that had the CPU before would tell of this machine: look at the names.
cp /bin/sleep $'/tmp/golden/z \e]0;b\a\n\xff'
# shellcheck disable=SC2016
record runq --min 0 -n $'z \e]0;b\a\n\xff' -w - -- sh -c '
	/tmp/golden/z* 0.01
	/tmp/golden/z* 0.01
	/tmp/golden/z* 0.01
' >"$dir/runq/testdata/runq.rbt"

# A disk of its own, the half of which is lost then.
truncate -s 1M /tmp/golden/disk
loop=$(losetup --find --show /tmp/golden/disk)
# shellcheck disable=SC2016
record bio --disk "${loop#/dev/}" -w - -- sh -c "
	dd if=/dev/zero of=$loop bs=8k count=2 oflag=direct 2>&-
	dd if=$loop of=/dev/null bs=4k count=3 skip=5 iflag=direct 2>&-
	dd if=/dev/zero of=$loop bs=512 count=1 seek=2047 oflag=direct conv=fsync 2>&-
" >"$dir/bio/testdata/bio.rbt"
truncate -s 512K /tmp/golden/disk
record bio --failed --disk "${loop#/dev/}" -w - -- sh -c "
	dd if=$loop of=/dev/null bs=4k count=1 iflag=direct 2>&-
	dd if=$loop of=/dev/null bs=4k count=1 skip=200 iflag=direct 2>&-
	:
" >"$dir/bio/testdata/failed.rbt"
losetup --detach "$loop"
