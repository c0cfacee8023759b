#!/usr/bin/env bash
# The unit tests, as the steps of `make test` and `make prove` run them.
#
#   scripts/unit.sh [all] [ARGS...]       all of them
#   scripts/unit.sh promises [ARGS...]    those that docs/promises.md names: seconds, and the first to fail
#   scripts/unit.sh rest [ARGS...]        the others, without those that the mark `prove` leaves to `make prove`
#   scripts/unit.sh coverage [ARGS...]    all of them, measured: every file at 95 % of its lines or more
#   scripts/unit.sh long [ARGS...]        property tests and exhaustive tests, in their long profile
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
which=${1:-all}
[ "$#" -eq 0 ] || shift
workers=(--numprocesses auto)
# One node id a line.
named() {
  local found
  found=$(python scripts/promises.py --unit) && [ -n "$found" ] || {
    echo "unit.sh: expected the unit tests of docs/promises.md from scripts/promises.py --unit, found none" >&2
    exit 1
  }
  printf '%s\n' "$found"
}
tests() { pytest -q --tb=short "${workers[@]}" "$@"; }

case "$which" in
  all) tests tests/unit "$@" ;;
  promises)
    list=$(named)
    mapfile -t quick <<<"$list"
    tests "${quick[@]}" "$@"
    ;;
  rest)
    list=$(named)
    mapfile -t without < <(sed 's/^/--deselect=/' <<<"$list")
    tests tests/unit -m "not prove" "${without[@]}" "$@"
    ;;
  long) MT_PROFILE=long tests tests/unit -m "hypothesis or profiled" "$@" ;;
  coverage)
    mkdir -p build/coverage
    rm -f build/coverage/data*
    coverage run -m pytest -q --tb=short tests/unit "${workers[@]}" "$@"
    coverage combine --quiet
    coverage json --quiet
    python scripts/coverage_per_file.py build/coverage/coverage.json --minimum 95
    ;;
  *)
    echo "usage: scripts/unit.sh [all|promises|rest|coverage|long] [pytest's arguments]" >&2
    exit 2
    ;;
esac
