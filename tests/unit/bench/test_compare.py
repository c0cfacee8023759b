"""Runs of several hosts side by side: good, failed, rehearsed, still open, and not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trialbench.cli import main
from trialbench.report.compare import compare_table, run_row
from trialbench.report.decide import decide_folder
from trialbench.report.html.comparison import write_comparison

TENANTS = [{"name": "llamacpp", "impact": "blind"}, {"name": "chatterbox", "impact": "mute"}]
STOPPED = [
    ("opened", {}),
    ("tenant_stopping", {"tenant": "chatterbox", "impact": "mute"}),
    ("tenant_stopping", {"tenant": "llamacpp", "impact": "blind"}),
]
BACK = [
    ("restore_started", {"restored_by": "host"}),
    ("tenant_healthy", {"tenant": "llamacpp", "duration_s": 0.5}),
    ("tenant_healthy", {"tenant": "chatterbox", "duration_s": 0.5}),
    ("restored", {"restored_by": "host", "duration_s": 3.0}),
    ("closed", {}),
]
MEASURED = [("phase_done", {"phase": "measure", "duration_s": 2.0})]
FAILED = [("phase_failed", {"phase": "candidate", "reason": "the smoke test failed:\x1b[2J reply"})]


def samples(latency_ms: float) -> str:
    line = {"ok": True, "error_class": None, "ttft_ms": None, "server_ms": None, "prompt_n": 9, "cache_n": 0}
    line |= {"completion_tokens": 3, "finish_reason": "stop", "strategy": 1, "flags": [], "content": "left large"}
    line |= {"wall": "2026-01-02T03:04:05Z", "parsed": ["left", "large"]}
    return "".join(
        json.dumps({"seq": at, "t_start_s": 3.1 + at / 1000, "latency_ms": latency_ms, **line}) + "\n"
        for at in range(1, 4)
    )


def make(path: Path, host: str, events: list[tuple[str, dict[str, Any]]], **plan: Any) -> Path:
    """A folder whose events are a second apart."""
    (path / "samples").mkdir(parents=True)
    (path / "plan.json").write_text(json.dumps({"run": path.name, "host": host, "tenants": TENANTS, **plan}))
    common = {"wall": "2026-01-02T03:04:05Z", "boot_id": "b", "run": path.name, "epoch": 1, "by": "runner"}
    lines = [{"seq": i, "t_s": float(i), **common, "event": name, **facts} for i, (name, facts) in enumerate(events, 1)]
    (path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def good(path: Path, host: str) -> Path:
    folder = make(path, host, [*STOPPED, *MEASURED, *BACK])
    (folder / "samples" / "nav-candidate.jsonl").write_text(samples(14.0))
    (folder / "samples" / "nav-baseline-a1.jsonl").write_text(samples(7.5))
    (folder / "verdict.json").write_text(json.dumps(decide_folder(folder) | {"verdict": "PENDING_REVIEW"}))
    return folder


def cells(table: str, host: str) -> list[str]:
    """The row of a host; columns are at least two spaces apart."""
    line = next(line for line in table.splitlines() if line.startswith(f"{host} "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_good_host_beside_one_that_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = good(tmp_path / "run-a", "a")
    two = make(tmp_path / "run-b", "b", [*STOPPED, *FAILED, *BACK])
    assert main(["compare", str(one), str(two)]) == 0
    table = capsys.readouterr().out
    head = ["host", "outcome", "verdict", "p50 ms", "baseline", "mute s", "blind s", "restored by"]
    assert cells(table, "host") == head
    assert cells(table, "a") == ["a", "completed", "PENDING REVIEW", "14.0", "7.5", "5.0", "3.0", "host"]
    assert cells(table, "b") == ["b", "rolled back", "-", "-", "-", "5.0", "3.0", "host"]
    assert "b: candidate: the smoke test failed" in table
    assert "\x1b" not in table
    assert max(map(len, table.splitlines())) <= 100


def test_a_host_without_results_is_a_row_too(tmp_path: Path) -> None:
    torn = tmp_path / "run-c"
    torn.mkdir()
    table = compare_table([good(tmp_path / "run-a", "a"), torn], [("d", "not begun"), ("e", "failed before = opening")])
    assert cells(table, "run-c")[:2] == ["run-c", "no results"]
    assert cells(table, "d")[:2] == ["d", "no results"]
    assert "d: not begun" in table
    assert "e: failed before = opening" in table
    assert "run-c: " in table


def test_a_run_that_is_still_open_says_who_is_still_down(tmp_path: Path) -> None:
    failed = ("restore_failed", {"reason": "llamacpp does not start"})
    row = run_row(make(tmp_path / "run-a", "a", [*STOPPED, *FAILED, *BACK[:1], failed]))
    assert row.outcome == "open"
    assert row.restored_by == "not yet"
    assert row.windows == {"mute": "still", "blind": "still"}
    assert row.remarks[-1] == "restore: llamacpp does not start"


def test_a_rehearsal_has_windows_and_no_numbers(tmp_path: Path) -> None:
    drained = ("phase_done", {"phase": "window", "duration_s": 1.0})
    row = run_row(make(tmp_path / "run-a", "a", [*STOPPED, drained, *BACK], rehearsal=True))
    assert (row.outcome, row.verdict, row.candidate) == ("rehearsed", "-", "-")
    assert row.windows == {"mute": "5.0", "blind": "3.0"}
    assert row.restored_by == "host"
    assert row.remarks == []
    again = ("tenant_retry", {"tenant": "llamacpp", "attempt": 1, "reason": "no db"})
    twice = run_row(make(tmp_path / "run-c", "c", [*STOPPED, drained, BACK[0], again, *BACK[1:]], rehearsal=True))
    assert twice.outcome == "rolled back"
    assert twice.remarks == ["NOT BACK AT THE FIRST TRY: llamacpp: start 1 failed and was tried again: no db"]
    failed = run_row(make(tmp_path / "run-b", "b", [*STOPPED, *FAILED, *BACK], rehearsal=True))
    assert failed.outcome == "rolled back"


NAV, MINE, CHANGED = (
    {"workloads": [{"name": "nav", "role": "decides", **more}]} for more in ({}, {"text": "a"}, {"text": "b"})
)
OTHER = {"workloads": [{"name": "phone-intent", "role": "decides"}]}
SAID = "Different workloads decide:"


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        ([NAV, NAV], None),
        ([NAV, OTHER], "nav in a; phone-intent in b."),
        ([NAV, OTHER, NAV], "nav in a, c; phone-intent in b."),
        ([{}, NAV], None),
        ([MINE, MINE], None),
        ([NAV, MINE], "nav in a; nav (its own file, SHA-256 ca978112ca1b) in b."),
        ([CHANGED, MINE], "SHA-256 3e23e8160039) in a; nav (its own file, SHA-256 ca978112ca1b) in b."),
        ([NAV, {**OTHER, "rehearsal": True}], None),
    ],
)
def test_runs_with_other_deciders_are_not_compared_silently(tmp_path: Path, plans: list[Any], said: str | None) -> None:
    """Text and page say so once; the earlier runs have no list, and nav decides."""
    runs = [make(tmp_path / f"run-{host}", host, BACK, **plan) for host, plan in zip("abc", plans, strict=False)]
    text = " ".join(compare_table(runs).split())
    page = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    for shown in (text, page):
        assert shown.count(SAID) == (said is not None)
        assert said is None or said in shown


def test_nothing_to_compare_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 2
    assert "expected result folders" in capsys.readouterr().err
    assert main(["compare", "--without", "nonsense"]) == 2
    assert "--without: expected HOST=WHY" in capsys.readouterr().err


def test_a_verdict_that_can_not_be_used_is_none(tmp_path: Path) -> None:
    """As in `show` and `report`: a file that does not fit its schema says nothing."""
    run = good(tmp_path / "run-a", "a")
    assert run_row(run).verdict == "PENDING REVIEW"
    (run / "verdict.json").write_text(json.dumps({"verdict": "ADOPT"}))
    assert run_row(run).verdict == "-"
