#!/usr/bin/env bash
# Other people's readers of what a run exports: promtool, and the schema that Jenkins' xUnit plugin has for JUnit.
# What this machine lacks is fetched into build/readers: promtool from Debian's package prometheus, without its service;
# the schema from the source package of pytest, whose own tests use it, and xmlschema to read it.
#
#   scripts/readers.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
to=build/readers
mkdir -p "$to"

if ! command -v promtool >/dev/null && [ ! -x "$to/promtool" ]; then
  echo "readers: fetching promtool (Debian's package prometheus)"
  (cd "$to" && apt-get -qq download prometheus)
  dpkg-deb --fsys-tarfile "$to"/prometheus_*.deb | tar -x -C "$to" --strip-components=3 ./usr/bin/promtool
  rm "$to"/prometheus_*.deb
fi
if [ ! -f "$to/junit-10.xsd" ]; then
  echo "readers: fetching the JUnit schema (source of pytest) and xmlschema"
  pip download -q --no-deps --no-binary pytest --dest "$to" pytest==9.2.0
  pip install -q --target "$to/site" -r tests/readers/requirements.txt
  tar -xz -C "$to" --strip-components=3 --wildcards -f "$to"/pytest-*.tar.gz '*/example_scripts/junit-10.xsd'
  rm "$to"/pytest-*.tar.gz
fi
exec pytest -q tests/readers "$@"
