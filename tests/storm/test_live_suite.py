"""The live suite itself, against the stand-in: it must hold whatever the model has to say, and however quick it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("does", [{}, {"garbage": True}, {"text": ""}], ids=["words", "no text", "nothing"])
def test_the_live_suite_against_the_stand_in(does: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "weights.sbs"
    weights.write_text(json.dumps(does), encoding="utf-8")
    binary = ROOT / "tests" / "fixtures" / "engines" / "gemma"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/live/test_gemma_cpp.py", "-m", "live", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "GEMMA_CPP_BINARY": str(binary), "GEMMA_CPP_WEIGHTS": str(weights)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
