#!/usr/bin/env bash
# Measures rbtrace, beside other tracers where they are installed (Debian: libbpf-tools).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$(id -u)" -ne 0 ]; then
	echo 'bench: run it as root: sudo make bench' >&2
	exit 1
fi

echo '== From start to first event, and memory =='
tracers=('./rbtrace exec')
if command -v execsnoop >/dev/null; then
	tracers+=(execsnoop)
else
	echo 'execsnoop (apt install libbpf-tools) is not installed: rbtrace alone'
fi
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/startup" ./scripts/startup
# execsnoop needs tracefs; the mount is gone with this command.
# shellcheck disable=SC2016 # the inner shell expands
unshare --mount sh -c 'mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"' \
	sh "$bin/startup" -rounds 21 "${tracers[@]}"

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
