#!/usr/bin/env bash
# The report in a real headless browser; screenshots in build/screens/. Installs Debian's chromium where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
scripts/setup.sh --browser
exec pytest tests/browser -m browser "$@"
