#!/usr/bin/env bash
# Runs rbtrace's tracers and the tools of others on one workload at the same time, as root, and puts what they
# show one above the other: docs/peers.md explains the differences.
#
#	scripts/peers.sh [TRACER...]
#
# It fails where rbtrace does not show exactly what the workload did; what the others show is their affair.
# Tools that need kprobes show nothing on a kernel without: scripts/kernels/exec.sh runs this on one that has them.
# apt install libbpf-tools bpftrace
# shellcheck disable=SC2317 # workloads are called by their names
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

if [ "${1-}" != --mounted ]; then
	CGO_ENABLED=0 go build -trimpath -o . ./cmd/rbtrace ./scripts/sockets || exit 1
	# The others need tracefs and debugfs; the mounts are gone with this command.
	# shellcheck disable=SC2016 # the inner shell expands
	exec unshare --mount sh -c '
		mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
		mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
		exec "$@"' sh scripts/peers.sh --mounted "$@"
fi
shift
only=" $* "
dir=$(mktemp -d /tmp/peers.XXXXXX)
trap 'rm -rf "$dir"' EXIT
failures=0

# show FILE PATTERN: the header, if there is one, and two of the events that match.
show() {
	grep -E '^[A-Z][A-Z0-9_/()-]*( +|$)' "$1" | head -n 1
	grep -aE "$2" "$1" | head -n 2
}

# await PID FILE PATTERN: until the tool has written its header, for a minute at most, and a second more.
await() {
	for ((i = 0; i < 600; i++)); do
		if ! kill -0 "$1" 2>/dev/null || grep -qE "$3" "$2"; then
			break
		fi
		sleep 0.1
	done
	sleep 1
}

# compare N PATTERN TRACER 'RBTRACE ARGS' 'PEER' WORKLOAD...: both see the workload, which makes N events in
# whose lines PATTERN is.
compare() {
	local n=$1 pattern=$2 tracer=$3 args=$4 peer=$5 mine theirs
	shift 5
	[[ $only == '  ' || $only == *" $tracer "* ]] || return
	printf '\n== %s: %s, beside %s\n' "$tracer" "$*" "$peer"
	if ! command -v "${peer%% *}" >/dev/null; then
		echo "${peer%% *} is not installed"
		return
	fi
	# shellcheck disable=SC2086 # words
	./rbtrace $tracer $args >"$dir/mine" 2>"$dir/mine.err" &
	local a=$!
	# shellcheck disable=SC2086
	stdbuf -oL $peer >"$dir/theirs" 2>"$dir/theirs.err" &
	local b=$!
	await "$a" "$dir/mine" 'TIME'
	await "$b" "$dir/theirs" '^(Tracing|[A-Z]+[( ])' # bpftrace writes "Attaching" when it begins to
	"$@" >/dev/null 2>&1
	sleep 2
	kill -TERM "$a" 2>/dev/null # a background job ignores SIGINT
	kill -INT "$b" 2>/dev/null
	for ((i = 0; i < 100; i++)); do
		kill -0 "$b" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$b" 2>/dev/null
	wait "$a" "$b" 2>/dev/null
	mine=$(grep -acE "$pattern" "$dir/mine")
	theirs=$(grep -acE "$pattern" "$dir/theirs")
	echo "-- rbtrace: $mine of $n"
	show "$dir/mine" "$pattern"
	if [ "$mine" -ne "$n" ]; then
		echo "WRONG: rbtrace shows $mine events, the workload made $n"
		tail -n 2 "$dir/mine.err"
		failures=$((failures + 1))
	fi
	echo "-- ${peer##*/}: $theirs of $n"
	if [ "$theirs" -eq 0 ]; then
		tail -n 1 "$dir/theirs.err"
	fi
	show "$dir/theirs" "$pattern"
}

# times N COMMAND...: runs it so often.
times() {
	local n=$1
	shift
	for ((i = 0; i < n; i++)); do "$@"; done
}

execs() { times 11 /usr/bin/printf peers-marker; }
ends() { times 11 sh -c 'exit 7'; }
opens() { times 11 cat /tmp/peers-marker; }
files() { times 11 sh -c 'echo >/tmp/peers-marker; sleep 0.1; rm /tmp/peers-marker'; }
stats() { times 11 sh -c 'test -e /tmp/peers-marker'; }
kills() { times 11 sh -c 'kill -WINCH $$'; }
ids() { times 11 setpriv --reuid=65534 --clear-groups true; }
syncs() { times 11 sync --data "$dir/mine"; }
mounts() {
	mkdir "$dir/mounted"
	times 11 sh -c "mount -t tmpfs peers-marker $dir/mounted && umount $dir/mounted"
	rmdir "$dir/mounted"
}
lines() { printf 'echo peers-marker\n%.0s' 1 2 3 4 5 6 7 8 9 10 11 | script -qec 'bash --norc -i' /dev/null; }
lookups() { times 11 getent ahosts localhost; }
reads() {
	local from=${RBTRACE_PEERS_DISK-} # a disk, where no file is on one
	if [ -z "$from" ]; then
		from=$dir/file
		dd if=/dev/urandom of="$from" bs=20480 count=1 oflag=direct
	fi
	times 11 dd if="$from" of=/dev/null bs=20480 count=1 iflag=direct
}
binds() { times 11 ./sockets bind; }
# Over three families each: data and three copies of it that a filter drops, and so it does a RST; and one RST for nobody.
retransmits() { times 11 ./sockets deaf; }
roots() { times 11 chroot / true; }
ooms() {
	local group=$dir/group
	mkdir -p "$group" && mount -t cgroup2 cgroup "$group" || return
	mkdir "$group/peers"
	echo +memory >"$group/cgroup.subtree_control"
	echo 16M >"$group/peers/memory.max"
	# shellcheck disable=SC2016 # the inner shell expands
	times 11 sh -c 'echo $$ >"$0/cgroup.procs"; exec tail /dev/zero' "$group/peers"
	rmdir "$group/peers"
	umount "$group"
}
waits() { # for a CPU that a program of a higher class keeps
	wait_once() {
		taskset -c 1 sleep 0.7 &
		local sleeper=$!
		sleep 0.2
		timeout 1.2 chrt --fifo 50 taskset -c 1 sh -c 'while :; do :; done'
		wait "$sleeper"
	}
	times 11 wait_once
}
requests() { # of 18 bytes, over TLS
	openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=peers -keyout "$dir/key" -out "$dir/cert"
	openssl s_server -key "$dir/key" -cert "$dir/cert" -accept 127.0.0.1:44300 -HTTP -quiet &
	local server=$!
	until grep -q ' 0100007F:AD0C 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done
	times 11 sh -c 'printf "GET / HTTP/1.0\r\n\r\n" | openssl s_client -quiet -connect 127.0.0.1:44300'
	kill "$server"
	wait "$server"
}
connections() { # to something that answers
	./rbtrace query --listen 127.0.0.1:9435 &
	local server=$!
	until grep -q ' 0100007F:24DB 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done
	times 11 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9435 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3'
	kill "$server"
	wait "$server"
}

bt() { echo "bpftrace /usr/sbin/$1.bt"; }

functions= # what only the hooks of functions tell
if [ -e /sys/kernel/tracing/kprobe_events ]; then
	functions='--hook kprobe'
fi

compare 11 'peers-marker *$' exec '' execsnoop execs
compare 11 'peers-marker *$' exec '' "$(bt execsnoop)" execs
compare 11 '(^| )sh .* 7( |$)' exit '' exitsnoop ends
compare 11 /tmp/peers-marker open '' opensnoop opens
compare 11 /tmp/peers-marker open '' "$(bt opensnoop)" opens
compare 11 'rm .*peers-marker' unlink "$functions -C time,pid,comm,age_ns,path" filelife files
compare 11 /tmp/peers-marker stat '' statsnoop stats
compare 11 /tmp/peers-marker stat '' "$(bt statsnoop)" stats
compare 11 fdatasync sync '-n sync' "$(bt syncsnoop)" syncs
compare 22 mounted mount '' mountsnoop mounts
compare 11 ' sh .*(WINCH|28 )' signal '' sigsnoop kills
compare 11 ' sh .*(WINCH|28 )' signal '' "$(bt killsnoop)" kills
compare 11 'setpriv .*65534' setuid '-n setpriv' "$(bt setuids)" ids
compare 11 ' 9435 +[0-9]+(\.[0-9]+)?[KMB]* ' tcplife '' tcplife connections
compare 55 ' 9435 +[A-Z]' tcpstates '' tcpstates connections
compare 11 ' 9435( |$)' tcpconnect '' tcpconnect connections
compare 11 ' 9435 ' tcpconnect '' tcpconnlat connections
compare 11 ' 9435 ' tcpconnect '' "$(bt tcpconnect)" connections
compare 11 ' 9435( |$)' tcpaccept '' "$(bt tcpaccept)" connections
compare 11 ' 9435 +[0-9]+(\.[0-9]+)?[KMB]* ' tcplife '' "$(bt tcplife)" connections
compare 99 '[ :]808[012] ' tcpretrans '' "$(bt tcpretrans)" retransmits
compare 198 '[ :]808[012] ' tcpdrop '' "$(bt tcpdrop)" retransmits
compare 11 ' 8081 ' bind '' bindsnoop binds
compare 11 ' 8081 ' listen '' solisten binds
compare 11 ' chroot .*SYS_CHROOT' capable '' capable roots
compare 11 ' chroot .*SYS_CHROOT' capable '' "$(bt capable)" roots
compare 11 'tail' oomkill "$functions -C time,pid,comm,vpid,vcomm,limit_kb,load" oomkill ooms
compare 11 'tail' oomkill '' "$(bt oomkill)" ooms
compare 11 ' sleep ' runq '--min 300ms' 'runqslower 300000' waits
compare 11 'dd .* (read .* 20480|R )' bio '-n dd' biosnoop reads
compare 11 'dd .* (read .* 20480|R )' bio '-n dd' "$(bt biosnoop)" reads
compare 11 'getent .*localhost' dns '' gethostlatency lookups
compare 11 'getent .*localhost' dns '' "$(bt gethostlatency)" lookups
compare 11 '(SSL_write +18 | 18 SSL_write)' tls '' "$(bt sslsnoop)" requests
compare 11 'echo peers-marker' readline '' bashreadline lines
compare 11 'echo peers-marker' readline '' "$(bt bashreadline)" lines

exit $((failures > 0))
