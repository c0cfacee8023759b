#!/usr/bin/env bash
# The unit tests of what runs on a host, on Python 3.10, the oldest that a host may have: PYTHON_3_10 or python3.10.
# They need pytest and hypothesis for that Python; build/python-3.10 gets both, once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON_3_10:-python3.10}
venv=build/python-3.10
wanted="$("$python" --version) $(grep -E '"(pytest|pytest-xdist|hypothesis)==' pyproject.toml)"
if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
  mapfile -t pins < <(grep -oE '(pytest|pytest-xdist|hypothesis)==[0-9.]+' pyproject.toml)
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${pins[@]}"
  printf '%s\n' "$wanted" >"$venv/.stamp"
fi
exec "$venv/bin/python" -m pytest -q --tb=short --numprocesses auto tests/unit/plugins/module_utils "$@"
