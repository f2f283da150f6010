#!/bin/bash
# Makes the virtual environment with the OpenStack clients that tests drive. Idempotent: with nothing missing it
# takes no time. Prints the environment's folder.
#
#   tests/clients/set-up.sh [FOLDER]     the folder is .lab/cache/clients of the repository unless given
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${WHIMBREL_CLIENTS:-$here/../../.lab/cache/clients}}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
wanted=$here/requirements.txt

# Tests run in parallel; one of them makes it.
exec 9>"$folder/lock"
flock 9
if ! cmp -s "$wanted" "$folder/installed.txt"; then
    rm -f "$folder/installed.txt"
    python3 -m venv --clear "$folder/venv" >&2
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted" >&2
    cp "$wanted" "$folder/installed.txt"
fi
printf '%s\n' "$folder/venv"
