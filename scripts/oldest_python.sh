#!/usr/bin/env bash
# Everything that runs on a host can be imported by Python 3.10, the oldest that a host may have, and the program says
# what it can do. PYTHON_3_10 names that Python (default: python3.10). The unit tests need newer packages than it takes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON_3_10:-python3.10}" -B - <<'PY'
import importlib
import pathlib
import sys

sys.path.insert(0, "plugins")
names = sorted(path.stem for path in pathlib.Path("plugins/module_utils").glob("*.py") if path.stem != "__init__")
for name in names:
    importlib.import_module(f"module_utils.{name}")
try:
    importlib.import_module("module_utils.program").main(["--help"])
except SystemExit as end:
    assert not end.code, end.code
print(f"Python {sys.version.split()[0]}: {len(names)} modules imported, the program answers")
PY
