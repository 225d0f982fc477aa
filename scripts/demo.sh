#!/usr/bin/env bash
# Shows rbtrace at work for five seconds: a table and JSON of the programs that this script starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

json=$(mktemp "${TMPDIR:-/tmp}/rbtrace-demo.XXXXXX")
trap 'rm -f "$json"' EXIT

echo '$ rbtrace exec -d 5'
./rbtrace exec -d 5 &
table=$!
./rbtrace exec -d 5 -o json >"$json" 2>/dev/null &
objects=$!

sleep 1
rings=$(./rbtrace query)
uname -a >/dev/null
sleep 1
sh -c 'ls / | wc -l' >/dev/null
sleep 0.5
# Names that a careless terminal would obey, and an empty argument.
env true "$(printf 'red: \033[31m, a new line:\n')" '' 'two words'
wait "$table" "$objects"

echo
echo '$ rbtrace exec -o json | head -2'
head -2 "$json"
echo
echo '$ rbtrace exec -x -- sh -c "PATH=/nowhere:/bin env true"'
./rbtrace exec -x -- sh -c 'PATH=/nowhere:/bin env true'
echo
echo '$ rbtrace query    # while they ran'
echo "$rings"
echo
echo '$ rbtrace list'
./rbtrace list
