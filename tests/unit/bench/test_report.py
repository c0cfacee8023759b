"""A result folder with known times: summary, windows, verdict and the table for people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import accept
from sample_lines import sample
from trialbench import schemas
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.measure.summary import plain
from trialbench.report.decide import decide_folder
from trialbench.report.run import read_run
from trialbench.report.summary import Phase, summarize_run, write_summary
from trialbench.report.table import folder_table
from trialbench.report.windows import StillDown, still_down, still_down_text
from trialbench.show.text import number

BOOT = "b00t"
PLAN = {
    "run": "run-1",
    "host": "panda",
    "candidate": {"label": "gemma-4-E4B-it-Q4_K_M"},
    "baseline": {"label": "gemma-4-E2B"},
    "limits": {"drain_min_s": 5.0},
    "tenants": [
        {"name": "llamacpp", "impact": "blind"},
        {"name": "chatterbox", "impact": "mute"},
        {"name": "nav", "impact": "blind"},
    ],
}


Event = tuple[float, str, str, dict[str, Any]]
# (seconds, by, event, further fields): chatterbox is down from 10 to 50, llamacpp from 15 to 42.
JOURNAL: list[Event] = [
    (8.0, "program", "phase_done", {"phase": "snapshot", "duration_s": 2.5}),
    (9.0, "program", "opened", {}),
    (9.5, "runner", "phase_started", {"phase": "window"}),
    (10.0, "runner", "tenant_stopping", {"tenant": "chatterbox", "impact": "mute"}),
    (11.0, "runner", "tenant_stopped", {"tenant": "chatterbox", "duration_s": 1.0}),
    (15.0, "runner", "tenant_stopping", {"tenant": "llamacpp", "impact": "blind"}),
    (16.0, "runner", "drain_started", {"target_mib": 4600}),
    (17.0, "runner", "drained", {"used_mib": 4608, "duration_s": 1.0}),
    (17.0, "runner", "phase_done", {"phase": "window", "duration_s": 7.5}),
    (17.0, "runner", "phase_started", {"phase": "candidate"}),
    (20.0, "runner", "candidate_healthy", {"duration_s": 3.0}),
    (20.1, "runner", "gate", {"name": "start", "ok": True, "band": "healthy", "footprint_gb": 6.0}),
    (21.0, "runner", "phase_done", {"phase": "candidate", "duration_s": 4.0}),
    (21.0, "runner", "phase_started", {"phase": "measure"}),
    (30.0, "runner", "gate", {"name": "end", "ok": True, "band": "healthy", "footprint_gb": 6.25}),
    (30.0, "runner", "phase_done", {"phase": "measure", "duration_s": 9.0}),
    (31.0, "restorer", "restore_started", {}),
    (31.5, "restorer", "containers_removed", {}),
    (31.5, "restorer", "drain_started", {"target_mib": 4608}),
    (36.5, "restorer", "drained_again", {"used_mib": 4610, "target_mib": 4608, "duration_s": 5.0}),
    (40.0, "restorer", "tenant_starting", {"tenant": "llamacpp"}),
    (42.0, "restorer", "tenant_healthy", {"tenant": "llamacpp", "duration_s": 2.0}),
    (46.0, "restorer", "tenant_starting", {"tenant": "chatterbox"}),
    (50.0, "restorer", "tenant_healthy", {"tenant": "chatterbox", "duration_s": 4.0}),
    (51.0, "restorer", "restored", {"duration_s": 20.0}),
    (51.1, "restorer", "closed", {}),
]

Make = Callable[..., Path]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def journal(events: list[tuple[float, str, str, dict[str, Any]]], boot_id: str = BOOT) -> list[dict[str, Any]]:
    found = []
    for seq, (t_s, by, event, fields) in enumerate(events, 1):
        line = {"seq": seq, "wall": "2026-01-02T03:04:05Z", "t_s": t_s, "boot_id": boot_id, "run": "run-1", "epoch": 1}
        found.append({**line, "by": by, "event": event, **fields})
        assert schemas.validate(found[-1], "journal") == []
    return found


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A whole folder, or one with another journal or other candidate samples."""

    def build(
        events: list[tuple[float, str, str, dict[str, Any]]] | None = None,
        candidate: list[dict[str, Any]] | None = None,
    ) -> Path:
        folder = tmp_path / "run-1"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "samples").mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(PLAN), encoding="utf-8")
        write_lines(folder / "journal.jsonl", journal(JOURNAL if events is None else events))
        readings = [
            (12.0, 13500, "window"),
            (18.0, 11000, "candidate"),
            (25.0, 11008, "measure"),
            (51.0, 13600, "verify"),
        ]
        write_lines(
            folder / "vram.jsonl",
            [{"t_s": t, "used_mib": mib, "total_mib": 16303, "processes": [], "phase": p} for t, mib, p in readings],
        )
        if candidate is None:
            candidate = [sample(at + 1, 22.0 + at * 0.05, 20.0 + at * 0.01) for at in range(100)]
        write_lines(folder / "samples" / "nav-candidate.jsonl", candidate)
        write_lines(folder / "samples" / "nav-candidate-warmup.jsonl", [sample(1, 21.5, 500.0)])
        # A1 is measured while chatterbox is down and llamacpp is not yet.
        write_lines(folder / "samples" / "nav-baseline-a1.jsonl", [sample(1, 12.0, 1000.0), sample(2, 13.0, 1000.0)])
        # Meanwhile, so that no time but A1's is spent on it.
        shown = sample(1, 12.5, 20.0, strategy=None, parsed=None)
        write_lines(folder / "samples" / "describe-baseline.jsonl", [shown])
        checks = [{"id": at, "title": f"check {at}", "expected": "x", "found": "x", "ok": True} for at in range(1, 9)]
        verification = {"run": "run-1", "ok": True, "checks": checks}
        assert schemas.validate(verification, "verification") == []
        (folder / "verification.json").write_text(json.dumps(verification), encoding="utf-8")
        return folder

    return build


def test_summary_of_a_whole_trial(make: Make) -> None:
    path = write_summary(make())
    summary = json.loads(path.read_text(encoding="utf-8"))
    accept(summary, "summary")
    assert schemas.validate(summary, "summary") == []
    assert (summary["run"], summary["host"], summary["outcome"], summary["failure"]) == (
        "run-1",
        "panda",
        "completed",
        None,
    )
    assert list(summary["segments"]) == ["nav-baseline-a1", "describe-baseline", "nav-candidate"]
    assert summary["segments"]["nav-candidate"]["warmup"] == {"sent": 1, "failed": 0}
    assert [(phase["phase"], phase["duration_s"]) for phase in summary["phases"]] == [
        ("snapshot", 2.5),
        ("window", 7.5),
        ("candidate", 4.0),
        ("measure", 9.0),
        ("restore", 20.0),
    ]
    assert summary["vram"]["peak_footprint_gb"] == 6.25
    assert summary["vram"]["last_mib"] == 13600
    assert summary["down_s"] == {"chatterbox": 40.0, "llamacpp": 27.0}


def test_windows_are_taken_apart(make: Make) -> None:
    windows = summarize_run(read_run(make())).windows
    # measuring: A1 12.0-14.0, warm-up 21.5-22.0, candidate 22.0-26.97 (the last of 100 starts at 26.95).
    measuring = 2.0 + 0.5 + (26.95 + 0.02099 - 22.0)
    mute = windows["mute"]
    assert mute.tenants == ["chatterbox"]
    assert (mute.total_s, mute.drain_min_s, mute.candidate_start_s) == (40.0, 5.0, 3.0)
    # Both tenants start one after another while it is down.
    assert mute.tenant_starts_s == 6.0
    assert mute.measuring_s == pytest.approx(measuring, abs=0.002)
    assert mute.overhead_s == pytest.approx(40 - 5 - 3 - 6 - measuring, abs=0.002)
    blind = windows["blind"]
    assert (blind.total_s, blind.tenant_starts_s) == (27.0, 2.0)
    # A1 was over before llamacpp went down.
    assert blind.measuring_s == pytest.approx(measuring - 2.0, abs=0.002)


def test_several_tenants_with_one_impact_make_one_window(make: Make) -> None:
    extra: list[tuple[float, str, str, dict[str, Any]]] = [
        (14.0, "runner", "tenant_stopping", {"tenant": "nav", "impact": "blind"}),
        (44.0, "restorer", "tenant_healthy", {"tenant": "nav", "duration_s": 1.0}),
    ]
    blind = summarize_run(read_run(make(sorted([*JOURNAL, *extra], key=lambda event: event[0])))).windows["blind"]
    assert (sorted(blind.tenants), blind.total_s) == (["llamacpp", "nav"], 30.0)


def test_impact_comes_from_the_journal_or_the_tenant_itself_without_a_plan(make: Make) -> None:
    folder = make()
    (folder / "plan.json").unlink()
    assert set(summarize_run(read_run(folder)).windows) == {"mute", "blind"}
    events = [(t, by, event, {k: v for k, v in f.items() if k != "impact"}) for t, by, event, f in JOURNAL]
    write_lines(folder / "journal.jsonl", journal(events))
    summary = summarize_run(read_run(folder))
    assert set(summary.windows) == {"chatterbox", "llamacpp"}
    assert (summary.run, summary.model_label) == ("run-1", None)


def test_overlapping_measurements_count_once(make: Make) -> None:
    folder = make(candidate=[sample(1, 12.5, 1000.0)])
    assert summarize_run(read_run(folder)).windows["mute"].measuring_s == 2.5


def test_tenant_that_was_never_stopped_or_never_came_back_has_no_window(make: Make) -> None:
    summary = summarize_run(read_run(make(JOURNAL[:12])))
    assert (summary.windows, summary.down_s, summary.outcome) == ({}, {}, "open")


def test_restore_without_drain_has_no_minimum(make: Make) -> None:
    events = [event for event in JOURNAL if not (event[1] == "restorer" and event[2].startswith("drain"))]
    assert summarize_run(read_run(make(events))).windows["mute"].drain_min_s == 0.0


FAILED = (
    24.0,
    "runner",
    "phase_failed",
    {
        "phase": "measure",
        "reason": "VRAM over its limit",
        "expected": "at most 8 GB",
        "found": "8.4 GB",
        "todo": "look",
    },
)


def rolled_back() -> list[tuple[float, str, str, dict[str, Any]]]:
    done = [event for event in JOURNAL if not (event[2] == "phase_done" and event[3]["phase"] == "measure")]
    return sorted([*done, FAILED], key=lambda event: event[0])


def test_a_rolled_back_trial_says_why(make: Make) -> None:
    folder = make(rolled_back(), candidate=[sample(1, 22.0)])
    summary = summarize_run(read_run(folder))
    assert schemas.validate(plain(summary), "summary") == []
    assert summary.outcome == "rolled_back"
    assert summary.failure is not None
    assert summary.failure.found == "8.4 GB"
    # Failed phases have no duration of their own: from their start.
    assert Phase("measure", False, 3.0) in summary.phases
    shown = folder_table(folder)
    assert "measure failed: VRAM over its limit" in shown
    assert "expected: at most 8 GB" in shown
    decision = decide_folder(folder)
    assert decision["verdict"] == "INCONCLUSIVE"
    assert decision["reasons"][0] == "the trial was not completed: measure: VRAM over its limit"


def test_an_untouched_host(make: Make) -> None:
    events = [(8.0, "program", "phase_failed", {"phase": "snapshot", "reason": "not quiet"})]
    assert summarize_run(read_run(make(events))).outcome == "untouched"


ENDED: Event = (
    30.5,
    "restorer",
    "phase_failed",
    {
        "phase": "measure",
        "reason": "the runner was ended from outside (its time limit was reached)",
        "todo": "journalctl",
    },
)
# llamacpp is healthy again at 42, chatterbox was stopped at 10 and never came back.
HALF = [event for event in JOURNAL[:22] if event[3].get("phase") != "measure" or event[2] == "phase_started"]
CHECKS = [
    {"id": 1, "title": "server", "expected": "up", "found": "up", "ok": True},
    {"id": 2, "title": "voice", "expected": "a voice", "found": "silence", "ok": False},
]
TROUBLE: list[Event] = [
    (52.0, "restorer", "checks", {"ok": False, "checks": CHECKS}),
    (52.1, "program", "restore_failed", {"reason": "check 2 voice: expected a voice, found silence"}),
]


def test_a_run_that_is_still_open_says_what_is_still_down(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make([*HALF, *TROUBLE])
    (folder / "verification.json").unlink()
    summary = summarize_run(read_run(folder))
    assert schemas.validate(plain(summary), "summary") == []
    assert summary.outcome == "open"
    assert summary.still_down == [StillDown("mute", "2026-01-02T03:04:05Z", ["chatterbox"])]
    assert list(summary.windows) == ["blind"]
    shown = folder_table(folder)
    for words in (
        "mute since 03:04:05Z (chatterbox still down)",
        "restore failed: check 2 voice",
        "by the host, 03:04:05Z",
        "ok     1 server",
        "FAILED 2 voice",
        "expected a voice, found silence",
    ):
        assert words in shown
    assert "not made" not in shown
    for verb in ("summarize", "verdict"):
        assert main([verb, str(folder)]) == 0
        assert "mute since 03:04:05Z (chatterbox still down)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (HALF, "the run is still open"),
        (
            [*HALF, *TROUBLE],
            "restore: check 2 voice: expected a voice, found silence (the run is still open)",
        ),
        (
            [*HALF, FAILED, ENDED, *TROUBLE],
            "measure: the runner was ended from outside (its time limit was reached) (the run is still open)",
        ),
        ([*HALF, (53.0, "program", "closed", {})], "it ended before measuring was complete"),
        ([JOURNAL[0]], "it ended before anything was stopped"),
    ],
    ids=["nothing known", "restore failed", "newest phase", "closed", "untouched"],
)
def test_verdict_names_why_a_trial_was_not_completed(make: Make, events: list[Event], reason: str) -> None:
    found = decide_folder(make(events))["facts"]["rolled_back"]
    assert found.startswith(reason)


def test_an_impact_is_down_from_the_first_stop_until_all_are_back(make: Make) -> None:
    nav: list[Event] = [(16.5, "runner", "tenant_stopping", {"tenant": "nav", "impact": "blind"})]
    lines = journal([*HALF[:6], *nav, *HALF[6:]])
    lines[5]["wall"] = "2026-01-02T22:41:07.123Z"  # llamacpp's stop, the first of the two
    folder = make()
    write_lines(folder / "journal.jsonl", [*lines, lines[6]])
    found = {entry.impact: entry for entry in still_down(read_run(folder))}
    assert still_down_text(found["blind"]) == "blind since 22:41:07Z (nav still down)"
    assert summarize_run(read_run(folder)).windows == {}
    assert still_down_text(StillDown("mute", "?", ["x"])) == "mute since ? (x still down)"


def test_what_the_restorer_may_write_besides(make: Make) -> None:
    at = next(index for index, event in enumerate(JOURNAL) if event[2] == "restore_started")
    before = [event for event in JOURNAL[:at] if not (event[2] == "phase_done" and event[3]["phase"] == "measure")]
    after = [event for event in JOURNAL[at:] if not event[2].startswith("drain")]
    extra: list[Event] = [
        (31.2, "restorer", "candidate_killed", {"pid": 7}),
        (31.5, "restorer", "drain_timeout", {"holders": "the GPU can not be read", "duration_s": 5.0}),
        (42.5, "restorer", "a2_skipped", {"reason": "not finished after 20 s"}),
    ]
    folder = make([*before, ENDED, *sorted([*after, *extra], key=lambda event: event[0])])
    summary = summarize_run(read_run(folder))
    assert schemas.validate(plain(summary), "summary") == []
    assert summary.outcome == "rolled_back"
    assert Phase("measure", False, 9.5) in summary.phases
    assert (summary.a2_skipped, summary.still_down) == ("not finished after 20 s", [])
    assert summary.windows["mute"].drain_min_s == 5.0
    shown = folder_table(folder)
    assert "measure failed: the runner was ended from outside (its time limit was reached)" in shown
    assert "(A2 skipped): not finished after 20 s" in shown


def test_a_phase_that_a_reboot_ended_has_no_duration(make: Make) -> None:
    folder = make()
    write_lines(folder / "journal.jsonl", [*journal(HALF[:14]), *journal([(2.0, *ENDED[1:])], boot_id="0ther")])
    assert summarize_run(read_run(folder)).phases[-1] == Phase("measure", False, None)
    assert ["measure", "-", "failed"] in [line.split() for line in folder_table(folder).splitlines()]


def test_vram_lines_without_a_reading_are_passed_over(make: Make) -> None:
    folder = make()
    with (folder / "vram.jsonl").open("a", encoding="utf-8") as stream:
        for line in ({"t_s": 27.0, "used_mib": None, "phase": "measure"}, {"t_s": 52.0, "phase": "blind"}):
            stream.write(json.dumps(line) + "\n")
    vram = summarize_run(read_run(folder)).vram
    assert (vram.readings, vram.last_mib, vram.peak_footprint_gb) == (4, 13600, 6.25)


def test_verdict_waits_for_a_person_and_remembers_the_judgment(make: Make) -> None:
    folder = make()
    first = decide_folder(folder)
    assert schemas.validate(first, "verdict") == []
    accept(json.loads((folder / "verdict.json").read_text(encoding="utf-8")), "verdict")
    assert first["verdict"] == "PENDING_REVIEW"
    assert decide_folder(folder, judged={"describe": "better"})["verdict"] == "ADOPT"
    again = decide_folder(folder)
    assert (again["verdict"], again["facts"]["describe"]) == ("ADOPT", "better")
    assert decide_folder(folder, judged={"describe": "same"})["verdict"] == "REJECT"


def test_rules_come_from_the_plan_and_stay_as_decided(make: Make) -> None:
    folder = make(candidate=[sample(at, 22.0 + at, strategy=1 if at <= 38 else 3) for at in range(1, 41)])
    plan = PLAN | {"workloads": {"nav_extended": 40}, "bands": {"low_below_gb": 5.0, "healthy_to_gb": 6.5}}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert decide_folder(folder, judged={"describe": "better"})["verdict"] == "ADOPT"
    proved = decide_folder(folder, adherence_rule="proved")
    assert (proved["verdict"], proved["facts"]["adherence_rule"]) == ("INCONCLUSIVE", "proved")
    assert decide_folder(folder)["facts"]["adherence_rule"] == "proved"
    assert decide_folder(folder, adherence_rule="share", ground_truth="missing")["verdict"] == "INCONCLUSIVE"
    assert decide_folder(folder)["facts"]["ground_truth"] == "missing"


def test_an_earlier_verdict_does_not_call_one_question_a_proof(make: Make) -> None:
    """What it decided is kept; its adherence is told without the proof that older clients saw in it."""
    folder = make()
    now = decide_folder(folder)
    earlier = {**now, "facts": {name: fact for name, fact in now["facts"].items() if name != "questions"}}
    said = [
        "adherence 100/100 (at least 95 %: proved, one-sided 95 % bounds 97.4-100.0 %)",
        "adherence 96/100 (at least 95 %: not proved, one-sided 95 % bounds 91-98 %; 300 at this share would decide)",
        "at least 2 reviewers (proved readers)",
    ]
    read = []
    for document in (earlier, now):
        (folder / "verdict.json").write_text(json.dumps({**document, "reasons": said}), encoding="utf-8")
        verdict = read_run(folder).verdict
        assert verdict is not None
        read.append(list(verdict.reasons))
    assert read == [["adherence 100/100", "adherence 96/100", said[2]], said]


def test_peak_between_gates_counts_as_a_gate(make: Make) -> None:
    folder = make()
    with (folder / "vram.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"t_s": 27.0, "used_mib": 4608 + 7800, "total_mib": 16303, "phase": "measure"}) + "\n")
    decision = decide_folder(folder, judged={"describe": "better"})
    assert (decision["verdict"], "at its peak" in decision["reasons"][0]) == ("REJECT", True)


def test_gate_that_was_not_measured_is_left_out(make: Make) -> None:
    events = [
        (t, by, event, fields | ({"footprint_gb": None} if event == "gate" else {})) for t, by, event, fields in JOURNAL
    ]
    assert (
        decide_folder(make(events), judged={"describe": "better"})["reasons"][0] == "VRAM was not measured at any gate"
    )


def test_taints(make: Make) -> None:
    cached = [sample(at, 22.0 + at, cache_n=98, flags=["cached", "cache_not_as_asked"]) for at in range(1, 101)]
    folder = make(candidate=cached)
    decision = decide_folder(folder, judged={"describe": "better"})
    assert decision["verdict"] == "INCONCLUSIVE"
    assert "nav-candidate: 100 replies came from the prompt cache" in decision["reasons"][0]
    shutil.copy(folder / "samples" / "nav-candidate.jsonl", folder / "samples" / "nav-candidate-cached.jsonl")
    (folder / "samples" / "nav-candidate.jsonl").unlink()
    summary = summarize_run(read_run(folder))
    assert summary.taints == []
    assert summary.segments["nav-candidate-cached"].cache.as_asked is True
    write_lines(folder / "journal.jsonl", [*journal(JOURNAL[:5]), *journal(JOURNAL[5:], boot_id="0ther")])
    assert summarize_run(read_run(folder)).taints == ["rebooted: the host was rebooted during the run"]


def test_thinking_in_the_smoke_test_counts(make: Make) -> None:
    folder = make()
    thought = sample(1, 21.1, ok=False, error_class="thinking", flags=["thinking"], strategy=None, parsed=None)
    write_lines(folder / "samples" / "smoke-candidate.jsonl", [thought])
    assert "thinking in 1 reply" in decide_folder(folder)["reasons"][0]


def test_what_a_session_asked_for_is_taken_from_its_summary(make: Make) -> None:
    folder = make(candidate=[sample(1, 22.0)])
    found = plain(summarize_run(read_run(folder)).segments["nav-candidate"])
    asked = found | {"requested": 100, "stopped": "server", "cache": found["cache"] | {"asked": True}}
    (folder / "samples" / "summary-nav-candidate.json").write_text(
        json.dumps(
            {"format": 1, "trialbench": "0", "created": "x", "model_label": None, "segments": {"nav-candidate": asked}}
        ),
        encoding="utf-8",
    )
    segment = summarize_run(read_run(folder)).segments["nav-candidate"]
    assert (segment.requested, segment.stopped, segment.cache.asked) == (100, "server", True)


def test_a_folder_cut_short_is_shown_as_far_as_it_goes(make: Make) -> None:
    folder = make()
    for name in ("plan.json", "vram.jsonl", "verification.json"):
        (folder / name).unlink()
    text = (folder / "samples" / "nav-candidate.jsonl").read_text(encoding="utf-8")
    (folder / "samples" / "nav-candidate.jsonl").write_text(text[:-40], encoding="utf-8")
    (folder / "samples" / "describe-candidate.jsonl").write_text("", encoding="utf-8")
    shown = folder_table(folder)
    assert "99/99" in shown
    assert "1 line of its files could not be read" in shown
    assert "not made" in shown
    assert "not decided" in shown
    (folder / "journal.jsonl").unlink()
    assert "no plan found, untouched" in folder_table(folder)


def test_folders_that_are_none(tmp_path: Path, make: Make) -> None:
    with pytest.raises(UsageError, match="found nothing there"):
        read_run(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found neither"):
        read_run(tmp_path / "empty")


def test_documents_that_can_not_be_used_are_named_and_the_rest_is_shown(make: Make) -> None:
    folder = make()
    (folder / "verification.json").write_text("[]", encoding="utf-8")
    (folder / "plan.json").write_text('{"run": "run-1", "tenants": [', encoding="utf-8")
    (folder / "verdict.json").write_text('{"verdict": "MAYBE"}', encoding="utf-8")
    (folder / "samples" / "summary-nav-candidate.json").write_text("[" * 200_000, encoding="utf-8")
    shown = " ".join(folder_table(folder).split())
    for words in (
        "could not be used: plan.json: is not JSON",
        "could not be used: verification.json: the document: expected object, found []",
        "could not be used: verdict.json: ",
        "could not be used: samples/summary-nav-candidate.json: is not JSON",
        "run-1: no plan found, completed",
        "not decided",
    ):
        assert words in shown
    # Without the plan its own limits are not known: nothing may be decided by the defaults.
    assert decide_folder(folder)["reasons"][0].startswith("tainted: plan_unreadable: plan.json: is not JSON")


def test_table_for_people(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make()
    verification = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    verification["checks"][7] |= {"ok": False, "expected": "a process", "found": "none"}
    (folder / "verification.json").write_text(json.dumps(verification), encoding="utf-8")
    assert main(["summarize", str(folder)]) == 0
    assert main(["verdict", str(folder), "--require", "adopt"]) == 1
    assert main(["verdict", str(folder), "--judge", "describe=better", "--require", "adopt"]) == 0
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "run-1: gemma-4-E4B-it-Q4_K_M on panda, completed",
        "measure        9.0 s",
        "100/100",
        "gate end    6.25 GB  healthy",
        "mute 40.0 s (chatterbox down)",
        "blind 27.0 s (llamacpp down)",
        "overhead",
        "FAILED 8 check 8",
        "expected a process, found none",
        "ADOPT",
    ):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_table_stays_narrow_and_names_what_is_odd(make: Make) -> None:
    slow = [sample(at, 22.0 + at * 9, 8000.0 + 10 * (at % 7) + (900 if at > 50 else 0)) for at in range(1, 100)]
    slow.append(sample(100, 950.0, 90000.0))
    slow.append(sample(101, 990.0, None, ok=False, error_class="cut_off", strategy=None))
    slow.append(sample(102, 991.0, None, ok=False, error_class="http_500", strategy=None))
    shown = folder_table(make(candidate=slow))
    assert "1 http_500, 1 cut off" in shown
    assert "drift: p50 80" in shown
    assert "outlier (kept)" in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (9.04, "9.0"),
        (99.9, "99.9"),
        (100.4, "100"),
        (12345.6, "12346"),
        (380000.4, "380000"),
        # Two digits count below 1, down to microseconds.
        (0.9499, "0.95"),
        (0.95, "0.9"),
        (0.5, "0.50"),
        (0.0999, "0.10"),
        (0.0042, "0.0042"),
        (0.000004, "0.0000040"),
        (-0.5, "-0.50"),
        (0.0, "0.0"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text
