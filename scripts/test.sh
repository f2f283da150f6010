#!/bin/bash
# Everything that must hold, on this machine, with servers of its own: installs what is missing, checks
# formatting and lints, and runs all tests. Ends with a line of counts, and status 0 only if nothing failed.
#
#   scripts/test.sh [ARGUMENT...]    the arguments go to the test runner: names of tests, --no-capture, ...
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0 failed=0 skipped=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT

gate() { # NAME COMMAND...: one check that passes or fails as a whole
    local name=$1 begun=$SECONDS
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok      $name ($((SECONDS - begun)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name ($((SECONDS - begun)) s): $*"
    fi
}

# Hosts of the lab need root. Programs are built before, so that what is built stays its owner's.
as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif sudo -n true 2>/dev/null || [[ -t 0 ]]; then
        sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME "$@"
        local status=$?
        sudo chown -R --reference=. target .lab
        return "$status"
    else
        echo "neither root nor sudo: tests that need hosts will fail" >&2
        "$@"
    fi
}

# Adds up the numbers before a word in the lines that the test runner ends with.
sum() { # WORD LINES
    grep -oE "[0-9]+ $1" <<<"$2" | awk '{ total += $1 } END { print total + 0 }'
}

run_tests() {
    local runner=(cargo test --workspace --no-fail-fast) end='^test result:'
    if cargo nextest --version >/dev/null 2>&1; then
        runner=(cargo nextest run --workspace --no-fail-fast)
        end='^ *Summary '
    fi
    as_root target/debug/whimbrel-lab servers run -- "${runner[@]}" "$@" 2>&1 | tee "$output"
    local status=${PIPESTATUS[0]} lines
    lines=$(sed 's/\x1b\[[0-9;]*m//g' "$output" | grep -E "$end")
    passed=$((passed + $(sum passed "$lines")))
    skipped=$((skipped + $(sum '(skipped|ignored)' "$lines")))
    local bad=$(($(sum '(failed|exec failed|timed out)' "$lines")))
    # A runner that ended badly without naming a test has failed as a whole.
    ((bad > 0 || status == 0)) || bad=1
    failed=$((failed + bad))
}

close() {
    local line="$passed passed, $failed failed"
    ((skipped == 0)) || line="$line, $skipped skipped"
    echo "$line"
    exit $((failed > 0))
}

gate setup scripts/setup.sh
((failed == 0)) || close
gate format cargo fmt --all --check
gate build cargo build --quiet --workspace --all-targets
((failed == 0)) || [[ -x target/debug/whimbrel-lab ]] || close
gate clippy cargo clippy --quiet --workspace --all-targets -- -D warnings
gate documentation env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
run_tests "$@"
close
