#!/usr/bin/env bash
# Measures rbtrace, beside other tracers where they are installed: docs/performance.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$(id -u)" -ne 0 ]; then
	echo 'bench: run it as root: sudo make bench' >&2
	exit 1
fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin" ./scripts/startup ./scripts/storm

# Others need tracefs; the mount is gone with this command.
with_tracefs() {
	# shellcheck disable=SC2016 # the inner shell expands
	unshare --mount sh -c 'mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"' sh "$@"
}

# Is a program to compare with there? If not, says which package has it.
have() {
	command -v "$1" >/dev/null && return
	echo "$1 (apt install $2) is not installed: without it"
	return 1
}

echo '== From start to first event, and memory =='
tracers=('./rbtrace exec')
have execsnoop libbpf-tools && tracers+=(execsnoop)
with_tracefs "$bin/startup" -rounds 21 "${tracers[@]}"

echo
echo '== Draining a prefilled ring of 64 MiB: ns per record, medians =='
echo 'goals: rbtrace/libbpf at most 1, cilium/rbtrace at least 2.5'
go test -run '^$' -bench BenchmarkDrain -benchtime 31x ./internal/ringbuf | awk '
	/^Benchmark/ { split($1, name, "[/-]"); printf "%-16s", name[2]
	               for (i = 3; i < NF; i += 2) printf "  %s %.2f", $(i + 1), $i
	               print ""; next }
	/libbpf|FAIL|SKIP|_test\.go:/'

echo
echo '== From a prefilled ring to a file, on one core =='
echo 'goals: open/json at least 1.5 Mevents/s; 0 allocs/op for all'
go test -run '^$' -bench BenchmarkRingToFile -benchtime 2000000x -count 3 -cpu 1 ./internal/probes | grep -v '^[a-z]*: '

echo
echo '== 500,000 files opened at full speed =='
tracers=('./rbtrace open -o json' './rbtrace open')
have opensnoop libbpf-tools && tracers+=(opensnoop)
have bpftrace bpftrace && tracers+=('bpftrace /usr/sbin/opensnoop.bt')
with_tracefs "$bin/storm" -rounds 7 -same 2 "${tracers[@]}"
