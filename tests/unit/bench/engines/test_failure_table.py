"""docs/engines.md shows the table of failures as it is."""

from __future__ import annotations

from pathlib import Path

from trialbench.engines.failures import FAILURES

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "engines.md"


def test_the_documented_table_is_the_real_one() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## The failures", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{row.name}` | {row.code} | {row.kind} | {row.meaning} | {row.advice} |" for row in FAILURES]
