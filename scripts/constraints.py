"""Write constraints.txt: every package below those that pyproject.toml pins, at the version pip resolves today.

Usage: ``python3 scripts/constraints.py`` (or ``make constraints``), after a pin in pyproject.toml changed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by scripts/constraints.py: what the pinned packages of pyproject.toml need in turn.\n"


def normalized(name: str) -> str:
    """Return a distribution's name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Resolve in an empty environment, so that nothing installed here decides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [
        *project["dependencies"],
        *(r for group in project["optional-dependencies"].values() for r in group),
    ]
    pinned = {normalized(re.split(r"[=<>~!\[; ]", requirement, maxsplit=1)[0]) for requirement in direct}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), f"{ROOT}[dev,oracle]"], check=True, stdin=subprocess.DEVNULL)
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = {normalized(item["metadata"]["name"]): item["metadata"]["version"] for item in resolved}
    lines = [f"{name}=={version}\n" for name, version in sorted(packages.items()) if name not in pinned]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
