#!/usr/bin/env bash
# Runs each fuzz target for a while (default 30s).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal scripts | sort | while IFS=: read -r file target; do
	# The default time to minimise each new input leaves none for finding more.
	go test -run '^$' -fuzz "^${target#func }\$" -fuzztime "${1:-30s}" -fuzzminimizetime 20x "./${file%/*}" </dev/null
done
