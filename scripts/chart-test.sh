#!/bin/bash
# Checks charts/whimbrel with the real helm (tests/chart/test_chart.py). Arguments go to the test runner.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup-deploy.sh chart
export WHIMBREL_DEPLOY_TOOLS=$PWD/.lab/cache/deploy
# With the services built, they check their configuration, too.
if [[ -z ${WHIMBREL_PROGRAMS:-} ]]; then
    cargo build --quiet -p whimbrel-api -p whimbrel-conductor -p whimbrel-scheduler -p whimbrel-compute --bins
    WHIMBREL_PROGRAMS=${CARGO_TARGET_DIR:-$PWD/target}/debug
fi
export WHIMBREL_PROGRAMS PYTHONDONTWRITEBYTECODE=1
exec "$WHIMBREL_DEPLOY_TOOLS/python/bin/python" tests/chart/test_chart.py "$@"
