#!/usr/bin/env bash
# Makes what is generated: BPF objects, their Go types, and tables.
#
# It is done in a copy of the tree whose path is always as long. clang writes declarations of types into an object in
# the order of their addresses, and the length of the paths that it is given decides on those: with the tree's own path
# each clone would have other objects.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

copy=$(mktemp -d /tmp/rbtrace.XXXXXXXXXX)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard --deduplicate |
	while IFS= read -r -d '' file; do
		[ ! -e "$file" ] || printf '%s\0' "$file" # some may be deleted
	done | xargs -0 cp --parents -t "$copy"
(cd "$copy" && go generate ./internal/...)
cd "$copy"
find internal -name '*_bpfel.*' -o -path internal/field/syscalls.go | tar -cf - -T - | tar -xf - -C "$OLDPWD"
