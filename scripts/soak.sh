#!/bin/bash
# Faults for as long as told: a third of the time the simulated control plane, the rest real processes. Ends with one line of
# counts of both, and status 1 if anything did not hold.
#
#   scripts/soak.sh MINUTES
set -uo pipefail
cd "$(dirname "$0")/.."

seconds=$((${1:-10} * 60))
output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0 line=''

part() { # COMMAND...: shows what it says and keeps the last line
    "$@" | tee "$output"
    ((PIPESTATUS[0] == 0)) || status=1
    line+="${line:+; }$(tail -n 1 "$output")"
}

cargo build --quiet --workspace --bins || exit 1
part target/debug/whimbrel-sim soak --seconds $((seconds / 3))
part target/debug/whimbrel-lab soak --seconds $((seconds * 2 / 3))
echo "$line"
exit "$status"
