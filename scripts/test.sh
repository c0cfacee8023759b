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

for step in setup lint coverage browser sanity image rollback twin-tests drills-short molecule; do
  printf '\n==== make %s\n' "$step"
  before=$SECONDS
  if make "$step" </dev/null; then
    report+=("$(printf '%-12s %4d s  ok' "$step" "$((SECONDS - before))")")
  else
    report+=("$(printf '%-12s %4d s  FAILED' "$step" "$((SECONDS - before))")")
    exit 1
  fi
done
