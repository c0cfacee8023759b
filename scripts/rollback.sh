#!/usr/bin/env bash
# The eight checks as an independent suite against the twin that MT_TWIN names; JUnit in build/rollback-twin.xml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
exec pytest tests/rollback --hosts=ansible://all --ansible-inventory=playbooks/twin \
  --junitxml=build/rollback-twin.xml "$@"
