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
go build -o "$bin" ./scripts/startup ./scripts/storm ./scripts/overhead

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
echo '== Draining a prefilled ring: ns per record, medians =='
go test -run '^$' -bench BenchmarkDrain -benchtime 31x ./internal/ringbuf | awk '
	function outcome(met) { return met ? "met" : "MISSED" }
	/^Benchmark/ {
		split($1, name, "[/-]")
		for (i = 3; i < NF; i += 2)
			is[$(i + 1)] = $i
		printf "%-12s %-13s rbtrace %5.2f  cilium %5.2f  libbpf %5s", name[2], name[3], is["rbtrace-ns"],
		       is["cilium-ns"], "libbpf-ns" in is ? sprintf("%.2f", is["libbpf-ns"]) : "-"
		if (name[2] == "ring=65536K") { # the goals are for what no cache holds
			printf "  cilium/rbtrace %.2f, goal at least 2.5: %s", is["cilium/rbtrace"], outcome(is["cilium/rbtrace"] >= 2.5)
			if ("libbpf-ns" in is)
				printf "; rbtrace/libbpf %.2f, goal at most 1: %s", is["rbtrace/libbpf"], outcome(is["rbtrace/libbpf"] <= 1)
		}
		print ""
		next
	}
	/libbpf|FAIL|SKIP|_test\.go:/'

echo
echo '== From a prefilled ring to a file, on one core: medians =='
go test -run '^$' -bench '^BenchmarkRingToFile$/^(exec|exit|fork|open|tcpaccept)$' -benchtime 2000000x -count 5 -cpu 1 ./internal/probes >"$bin/to-file" || {
	cat "$bin/to-file"
	exit 1
}
# A line for each: the name, what it took of the wall clock and of the CPU, the rest.
awk '/^Benchmark/ {
	for (i = 3; i < NF; i += 2)
		is[$(i + 1)] = $i
	sub("BenchmarkRingToFile/", "")
	print $1, is["ns/op"], is["cpu-ns/op"], is["Mevents/cpu-s"], is["B/event"], is["allocs/op"]
}' "$bin/to-file" | sort -k1,1 -k3,3n | awk '
	function outcome(met) { return met ? "met" : "MISSED" }
	++n[$1] == 3 { # of 5
		printf "%-16s %4d ns of CPU an event of %3d bytes (%4d ns in all): %.2f million a second of CPU", $1, $3, $5, $2, $4
		if ($1 == "open/json")
			printf ", goal at least 1.5: %s", outcome($4 >= 1.5)
		printf "; %d allocations an event, goal 0: %s\n", $6, outcome($6 == 0)
	}'

echo
echo '== 500,000 files opened at full speed =='
tracers=('./rbtrace open -o json' './rbtrace open')
have opensnoop libbpf-tools && tracers+=(opensnoop)
have bpftrace bpftrace && tracers+=('bpftrace /usr/sbin/opensnoop.bt')
with_tracefs "$bin/storm" -rounds 7 -same 2 "${tracers[@]}"

echo
echo '== What each tracer costs: docs/overhead.md =='
"$bin/overhead" -rounds 5 ./rbtrace
