#!/usr/bin/env bash
# All static checks; nothing is downloaded. Runs every check even when one fails, and names the failed ones at the end.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH
export RUFF_OUTPUT_FORMAT=concise
[ -t 1 ] || export NO_COLOR=1
failed=()

check() {
  local name=$1
  shift
  printf -- '-- %s\n' "$name"
  "$@" </dev/null || failed+=("$name")
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
# Two codebases, two oldest Pythons: the bench runs on 3.11, the acting side on the host's 3.10.
check "mypy bench" mypy --python-version 3.11 bench/trialbench
check "mypy plugins/module_utils" mypy --python-version 3.10 plugins/module_utils
check "import borders" env PYTHONPATH=bench:. lint-imports --no-cache --no-logo
check "yamllint" yamllint --strict .
check "ansible-lint" ansible-lint --offline
check "banned turns of phrase" python scripts/language.py
check "spelling" bash -o pipefail -c 'git ls-files -z | xargs -0 codespell -D - -D .config/us-spelling.txt'
check "changelog fragments" antsibull-changelog lint

if [ "${#failed[@]}" -gt 0 ]; then
  printf 'lint: failed: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2
  exit 1
fi
echo "lint: all clean"
