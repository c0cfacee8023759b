#!/usr/bin/env bash
# `make test`: everything, cheapest first, stopping at the first failure; the times are printed whatever happens.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
started=$SECONDS
report=()

finish() {
  printf '\n'
  printf '  %s\n' "${report[@]}"
  printf '  %-12s %4d s\n' total "$((SECONDS - started))"
}
trap finish EXIT

step() {
  local before=$SECONDS outcome=ok
  printf '\n==== make %s\n' "$*"
  make "$@" </dev/null || outcome=FAILED
  report+=("$(printf '%-12s %4d s  %s' "$1" "$((SECONDS - before))" "$outcome")")
  [ "$outcome" = ok ] || exit 1
}

step setup
step lint
step coverage
step browser
step sanity
step image
step live
# The oracles in the fixtures: torch is a download of its own. `make ground-truth` makes them anew and compares.
step ground-truth ARGS=--shipped
# Their times are bounds for an idle machine; here they only have to be of that order.
MT_SLACK=3 step storm
step rollback
step twin-tests
MT_SLACK=3 step drills-short
step molecule
