#!/usr/bin/env bash
# The report in a real headless browser; screenshots in build/screens/. Installs Debian's chromium where there is none.
# MT_PROFILE=short, as in `make test`, leaves out pages that differ little from others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
scripts/setup.sh --browser
which=browser
[ "${MT_PROFILE:-long}" = long ] || which="browser and not prove"
exec pytest tests/browser -m "$which" "$@"
