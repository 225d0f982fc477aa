#!/usr/bin/env bash
# Makes the recordings that the golden tests replay, but that of tcpaccept, anew (as root):
#
#	scripts/recordings.sh && go test ./internal/probes -run Golden -update
#
# Nothing in them tells of the machine: a host name and a kernel of their own, / as the working directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=$PWD/internal/probes
bin=$(mktemp -d /tmp/rbtrace.XXXXXX)
trap 'rm -rf "$bin" /tmp/golden' EXIT
CGO_ENABLED=0 go build -trimpath -o "$bin" ./cmd/rbtrace ./scripts/neutral
mkdir -p "$dir"/{exec,exit,fork,open,signal}/testdata

# Everything that runs is in /tmp/golden, which must not be there.
mkdir /tmp/golden
cp /bin/true $'/tmp/golden/a \e]0;b\a\n\xff' # a title for the terminal, a newline, no UTF-8
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
