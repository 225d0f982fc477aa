#!/usr/bin/env bash
# Runs the tests and sums up: what failed, with its output, and what was skipped, with the reason.
# Arguments go to go test; without any, all packages are tested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp "${TMPDIR:-/tmp}/rbtrace-test.XXXXXX")
trap 'rm -f "$log"' EXIT
if [ $# -eq 0 ]; then
	set -- ./...
fi

status=0
# Two packages of BPF tests at once would disturb each other's exact counts of what the kernel holds. The tests that run side
# by side wait for the kernel to detach probes, most of the time.
go test -p 1 -parallel 4 -count=1 -v "$@" >"$log" 2>&1 || status=$?

# In go test -v, what a test says comes before its result.
awk '
	/^=== (RUN|CONT|NAME)/ { test = $3; next }
	/^=== PAUSE/ { next }
	/^ *--- PASS/ { passed++; next }
	/^ *--- SKIP/ { skipped++; why = said[$3]; sub(/^ +[a-z_]+_?test\.go:[0-9]+: /, "", why)
	                skips = skips "\n  " $3 ": " why; next }
	/^ *--- FAIL/ { failed++; fails = fails "\n" $0 "\n" all[$3]; next }
	/^(ok|\?) / { print; next }
	/^PASS$/ { next }
	/^FAIL\t/ { print; bad = 1; next }
	/^panic:|^fatal error:|build failed|setup failed|^# / { loose = loose "\n" $0 }
	{ said[test] = $0; all[test] = all[test] "\n" $0; tail = tail "\n" $0 }
	END {
		if (fails != "") print "\nFailed:" fails
		if (loose != "") print "\nNot even run:" loose
		if (bad && fails == "") print substr(tail, length(tail) - 4000)
		if (skips != "") print "\nSkipped:" skips
		printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
		if (passed == 0) exit 1
	}' "$log"
exit "$status"
