"""A verdict about one file, found by its hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trialbench import schemas
from trialbench.cli import main

HASH = "a" * 64


def verdict(path: Path, *statuses: str, made: str = "2026-11-21T04:00:00+00:00", **more: Any) -> Path:
    rows = [
        {
            "suite": "token", "model": "m", "quant": "f16", "other": "", "prompt": f"p{number}", "status": status,
            "says": "x", "expected": "", "got": "", "cause": "", "proves_nothing": False, "reproduce": "",
            "evidence": {},
        }
        for number, status in enumerate(statuses)
    ]  # fmt: skip
    rows.append({**rows[0], "quant": "f32", "status": "FAIL"})
    rows.append({**rows[0], "status": "FAIL", "proves_nothing": True})
    file = {"model": "m", "quant": "f16", "format": "gguf", "path": "p", "sha256": HASH, "bytes": 1, "parents": [],
            "tokens_per_s": None}  # fmt: skip
    data = {
        "schema_version": 1, "verdict": "FAIL", "made": made, "trialbench": "0", "roster": {"name": "r", "path": "p"},
        "runtime": {"name": "llama.cpp", "version": "1"}, "machine": {"system": "s", "processor": "p", "cores": 1},
        "seconds": 1, "loads": 1,
        "counts": {"declared": 1, "probative": 1, "PASS": 1, "FAIL": 0, "INCONCLUSIVE": 0, "NOT APPLICABLE": 0},
        "files": [file], "claims": [], "results": rows, **more,
    }  # fmt: skip
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("statuses", "code", "says"),
    [
        (("PASS", "PASS", "NOT APPLICABLE"), 0, "m f16: the same model: 2 checks passed"),
        (("PASS", "FAIL"), 1, "NOT PROVED"),
        (("PASS", "INCONCLUSIVE"), 1, "1 could not be decided"),
        (("NOT APPLICABLE",), 1, "0 checks passed"),
    ],
)
def test_rows_about_the_file_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statuses: tuple[str, ...], code: int, says: str
) -> None:
    path = verdict(tmp_path / "v.json", *statuses)
    assert main(["attest", "--sha256", HASH.upper(), "--verdict", str(path)]) == code
    assert says in capsys.readouterr().out


def test_a_claim_that_the_file_breaks_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim = {"name": "c", "statement": "s", "metric": "kl-mean", "direction": "at most", "bound": 1,
             "standing": "locked", "amendments": 0, "status": "FAIL", "found": 2, "says": "x"}  # fmt: skip
    for quant, code in (("f16", 1), ("f32", 0)):
        broken = {**claim, "broken_by": [{"model": "m", "quant": quant}]}
        path = verdict(tmp_path / "v.json", "PASS", claims=[broken])
        assert main(["attest", "--sha256", HASH, "--verdict", str(path)]) == code
        assert f"1 check passed, {code} failed" in capsys.readouterr().out


def test_a_part_of_the_suites_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = verdict(tmp_path / "v.json", "PASS", "PASS")
    path.write_text(path.read_text().replace('"suite": "token"', '"suite": "inspect"'))
    assert main(["attest", "--sha256", HASH, "--verdict", str(path)]) == 1
    assert "2 checks passed, 0 failed, 0 could not be decided; its tokens were not compared" in capsys.readouterr().out


def test_the_newest_verdict_counts(tmp_path: Path) -> None:
    old = verdict(tmp_path / "old.json", "FAIL", made="2026-11-20T04:00:00+00:00")
    new = verdict(tmp_path / "new.json", "PASS")
    assert main(["attest", "--sha256", HASH, "--verdict", str(new), "--verdict", str(old)]) == 0


def test_of_two_that_are_as_new_the_worse_one_counts(tmp_path: Path) -> None:
    good, bad = verdict(tmp_path / "good.json", "PASS"), verdict(tmp_path / "bad.json", "FAIL")
    for first, second in ((good, bad), (bad, good)):
        assert main(["attest", "--sha256", HASH, "--verdict", str(first), "--verdict", str(second)]) == 1


def test_an_unknown_file_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = verdict(tmp_path / "v.json", "PASS")
    asked = ["attest", "--sha256", "b" * 64, "--verdict", str(path)]
    assert main(asked) == 3
    assert "no ground-truth verdict for the file with SHA-256 bbbbbbbbbbbb..." in capsys.readouterr().err
    assert main([*asked, "--optional"]) == 0
    assert "no ground-truth verdict" in capsys.readouterr().out
    assert main(["attest", "--sha256", "b" * 64]) == 3
    assert "looked in no verdict at all" in capsys.readouterr().err
    assert main(["attest", "--sha256", "x"]) == 2
    path.write_text("{}")
    assert main(["attest", "--sha256", HASH, "--verdict", str(path)]) == 2


def test_a_bad_verdict_is_only_told_where_none_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["attest", "--sha256", HASH, "--verdict", str(verdict(tmp_path / "v.json", "FAIL")), "--optional"]
    assert main(asked) == 0
    assert "NOT PROVED the same model: 0 checks passed, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("optional", [False, True])
def test_what_goes_into_the_plan_of_a_trial(tmp_path: Path, optional: bool) -> None:
    path, out = verdict(tmp_path / "v.json", "PASS", "INCONCLUSIVE"), tmp_path / "attestation.json"
    hashes = ["--sha256", HASH, "--sha256", "b" * 64, "--sha256", HASH]
    words = ["attest", *hashes, "--verdict", str(path), "--json", str(out), *(["--optional"] if optional else [])]
    assert main(words) == (0 if optional else 3)
    found = json.loads(out.read_text())
    assert schemas.validate(found, "attestation") == []
    assert found["required"] is not optional
    known, unknown = found["files"]
    assert (known["sha256"], known["status"], known["label"]) == (HASH, "open", "m f16")
    assert (known["passed"], known["failed"], known["open"]) == (1, 0, 1)
    assert (known["runtime"], known["made"]) == ("llama.cpp 1", "2026-11-21T04:00:00+00:00")
    assert (unknown["sha256"], unknown["status"], unknown["label"]) == ("b" * 64, "missing", None)
