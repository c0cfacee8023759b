"""Fail where any single file has less than a given share of its lines covered.

A total hides the one file nobody tests. Usage::

    python scripts/coverage_per_file.py build/coverage/coverage.json --minimum 95

Reads the JSON report of ``coverage json``. Exit 1 names every file below the minimum with its missing lines, and every
file of the measured folders that the report does not know at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

MEASURED = [Path("bench/trialbench"), Path("plugins/module_utils")]


def ranges(lines: list[int]) -> str:
    """Write line numbers as people do: ``3-5, 9``."""
    spans: list[list[int]] = []
    for line in lines:
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def main() -> int:
    """Compare each file of the report with the minimum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("--minimum", type=float, default=95.0, help="percentage of each file's lines")
    parser.add_argument("folders", nargs="*", type=Path, default=MEASURED)
    args = parser.parse_args()

    files = json.loads(args.report.read_text(encoding="utf-8"))["files"]
    below = 0
    for name, data in sorted(files.items(), key=lambda item: item[1]["summary"]["percent_covered"]):
        percent = data["summary"]["percent_covered"]
        if percent < args.minimum:
            below += 1
            print(f"{percent:6.1f} %  {name}  not run: {ranges(data['missing_lines'])}")
    unknown = [
        str(path)
        for folder in args.folders
        for path in sorted(folder.rglob("*.py"))
        if str(path) not in files and path.stat().st_size
    ]
    for name in unknown:
        print(f"   0.0 %  {name}  never imported by a test")
    if below or unknown:
        print(
            f"{below + len(unknown)} of {len(files) + len(unknown)} files are below {args.minimum:g} % of their lines"
        )
        return 1
    print(f"each of {len(files)} files has {args.minimum:g} % of its lines covered or more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
