"""Atomic writes, and JSON lines as a killed writer leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest
from trialbench.errors import UsageError
from trialbench.files import read_json, read_json_lines, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert read_json(path) == {"x": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_unreadable_json_says_where(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"x\.json: is not JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_lines_are_split_at_line_feeds_only_and_bad_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"text": "a\u2028b\u0085c"}\n\n[1]\n{"cut": "of'.encode())
    assert read_json_lines(path) == ([{"text": "a\u2028b\u0085c"}], 2)
    assert read_json_lines(tmp_path / "none.jsonl") == ([], 0)
