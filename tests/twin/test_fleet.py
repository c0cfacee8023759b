"""Two hosts in one play: neither waits for the other, neither endangers the other, results side by side."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from attachments import events_of

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
CALL = "curl -sf -X POST -H 'Content-Type: application/json' -d '{\"active\": %s}' http://127.0.0.1:8770/call"
# Memory that lingers longer than the window's drain may take, and shorter than two drains; with room on either side.
LINGER_S, DRAIN_LIMIT_S = 20, 13
LIMITS = {
    "cap_s": 800,
    "drain_min_s": 1,
    "drain_limit_s": DRAIN_LIMIT_S,
    "a2_s": 5,
    "measure_s": 120,
    "lease_s": 60,
    "request_timeout_s": 10,
}


@dataclass
class Fleet:
    """Two twins, `one` and `two` of the inventory, and where their results go."""

    one: Any
    two: Any
    results: Path

    def play(self, playbook: str, *args: str, one: str | None = None) -> tuple[int, str]:
        """Run a playbook on both; `one` names another connection file for the first host."""
        words = [shutil.which("ansible-playbook") or "ansible-playbook", playbook, "-i", "../tests/twin/fleet"]
        done = subprocess.run(
            [*words, "-e", f"verdict_results_dir={self.results}", *args],
            cwd=ROOT / "playbooks",
            env={**os.environ, "MT_TWIN": one or self.one.name, "MT_TWIN_SECOND": self.two.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.one.PLAY_TIMEOUT_S,
        )
        return done.returncode, done.stdout + done.stderr

    def run(self, name: str, since: set[Path] = frozenset()) -> Path:
        """The folder of the newest run of a host."""
        (found,) = [path for path in self.results.glob(f"*-{name}-*") if path not in since]
        return found

    def runs(self) -> set[Path]:
        """All folders of runs."""
        return {path for path in self.results.iterdir() if path.is_dir() and not path.is_symlink()}


@pytest.fixture
def fleet(host: Any, own_twin: Any, tmp_path: Path) -> Iterator[Fleet]:
    """Both twins; whatever was broken on the second is mended afterwards."""
    yield Fleet(host, own_twin, tmp_path)
    own_twin.program("gpu-fault", "--off")
    for twin in (host, own_twin):
        twin.run(CALL % "false")


def rows(text: str) -> dict[str, list[str]]:
    """The last table of results: its cells by host."""
    lines = text.splitlines()
    head = max(i for i, line in enumerate(lines) if re.match(r"host +outcome +verdict", line))
    found = (re.split(r" {2,}", line.strip()) for line in lines[head : head + 3])
    return {cells[0]: cells for cells in found}


def assert_untouched(twin: Any, before: dict[str, Any]) -> None:
    assert twin.fingerprint() == before


def test_a_host_that_fails_in_its_window_leaves_the_other_to_complete(fleet: Fleet) -> None:
    phones = [twin.phone_pid() for twin in (fleet.one, fleet.two)]
    assert fleet.two.program("gpu-fault", json.dumps({"linger_s": LINGER_S})).returncode == 0
    code, text = fleet.play("benchmark-e4b.yml", "-e", "trial_serial=2", "-e", json.dumps({"trial_limits": LIMITS}))
    assert code != 0
    good, bad = fleet.run("one"), fleet.run("two")
    assert good.name != bad.name
    for twin, phone in zip((fleet.one, fleet.two), phones, strict=True):
        twin.assert_back(phone)
    for folder in (good, bad):
        assert json.loads((folder / "verification.json").read_text(encoding="utf-8"))["ok"] is True, folder
    assert len((good / "samples" / "nav-candidate.jsonl").read_text(encoding="utf-8").splitlines()) == 100
    (failed,) = events_of(bad, "phase_failed")
    assert "VRAM did not drain" in failed["reason"]
    # It went on with its own work while the other one still waited for its drain: both clocks are this machine's.
    (began,) = events_of(good, "candidate_started")
    assert began["t_s"] < failed["t_s"]
    found = rows(text)
    assert found["host"][:3] == ["host", "outcome", "verdict"]
    assert found["one"][1:3] == ["completed", "PENDING REVIEW"]
    assert float(found["one"][3]) > float(found["one"][4]) > 0
    assert found["two"][1] == "rolled back"
    assert "two: window: VRAM did not drain" in text
    assert (fleet.results / "latest").resolve() in (good, bad)


def test_a_broken_contract_on_one_host_leaves_the_other_to_go_on(fleet: Fleet) -> None:
    fleet.one.run(CALL % "true")
    before, phone = fleet.one.fingerprint(), fleet.two.phone_pid()
    code, text = fleet.play("rehearse.yml", "-e", "trial_serial=100%")
    assert code != 0
    assert "Contract 12" in text
    assert_untouched(fleet.one, before)
    fleet.two.assert_back(phone)
    # The one that was refused has its record, too, and says so in JUnit.
    assert sorted(path.name.split("-")[2] for path in fleet.runs()) == ["one", "two"]
    refused = (fleet.run("one") / "exports" / "junit.xml").read_text(encoding="utf-8")
    assert "untouched: preflight: " in refused
    assert "Contract 12" in refused
    found = rows(text)
    assert found["two"][1] == "rehearsed"
    assert found["one"][1] == "no results"
    assert "one: failed before anything was stopped" in text


def test_by_default_the_next_host_is_not_begun_when_one_has_failed(fleet: Fleet) -> None:
    fleet.one.run(CALL % "true")
    before = [twin.fingerprint() for twin in (fleet.one, fleet.two)]
    code, text = fleet.play("rehearse.yml")
    assert code != 0
    assert "ok: [two]" not in text
    for twin, was in zip((fleet.one, fleet.two), before, strict=True):
        assert_untouched(twin, was)
    assert rows(text)["two"][1] == "no results"
    assert "two: not begun" in text


def test_a_host_that_can_not_be_reached_is_a_failure_like_others(fleet: Fleet) -> None:
    reach = json.loads(fleet.one.connection_file.read_text(encoding="utf-8"))
    away = fleet.one.connection_file.with_name(f"{fleet.one.name}-away.json")
    away.write_text(json.dumps({**reach, "port": 1}), encoding="utf-8")
    before = fleet.two.fingerprint()
    try:
        code, text = fleet.play("rehearse.yml", one=away.stem)
    finally:
        away.unlink()
    assert code != 0
    assert "Expected one to answer over SSH" in text
    assert "two: not begun" in text
    assert_untouched(fleet.two, before)


def test_by_default_one_host_after_the_other(fleet: Fleet) -> None:
    phones = [twin.phone_pid() for twin in (fleet.one, fleet.two)]
    code, text = fleet.play("rehearse.yml")
    assert code == 0, text
    for twin, phone in zip((fleet.one, fleet.two), phones, strict=True):
        twin.assert_back(phone)
    # Two containers of one machine share its clock.
    (closed,), opened = events_of(fleet.run("one"), "closed"), events_of(fleet.run("two"), "opened")
    assert closed["t_s"] < opened[0]["t_s"]
    assert [cells[1] for host, cells in rows(text).items() if host != "host"] == ["rehearsed", "rehearsed"]


def test_one_name_for_both_runs_is_refused(fleet: Fleet) -> None:
    before = [twin.fingerprint() for twin in (fleet.one, fleet.two)]
    code, text = fleet.play("rehearse.yml", "-e", "trial_run=mine")
    assert code != 0
    assert "every run gets a name of its own" in text
    for twin, was in zip((fleet.one, fleet.two), before, strict=True):
        assert_untouched(twin, was)
