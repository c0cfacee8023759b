"""How the host came back: every way a run can end, as summary.json and the table tell it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from acting import acting
from ansible_collections.edgelab.model_trial.plugins.module_utils import rehearsal
from profiles import examples, some
from published import accept
from trialbench import schemas
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.measure.summary import plain
from trialbench.report.decide import decide_folder
from trialbench.report.export import write_exports
from trialbench.report.html.report import write_report
from trialbench.report.restore import second_tries
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.report.table import folder_table

AT_ONCE = "ansible-playbook restore.yml -i INVENTORY, or on the host: sudo model-trial restore"
PLAN = {
    "run": "run-1",
    "host": "panda",
    "attended": True,
    "candidate": {"label": "E4B"},
    "baseline": {"label": "E2B"},
    "limits": {"drain_min_s": 5.0},
    "tenants": [{"name": "llamacpp", "impact": "blind"}, {"name": "chatterbox", "impact": "mute"}],
}
SAMPLE = {
    "wall": "2026-01-02T03:04:05Z",
    "ok": True,
    "error_class": None,
    "latency_ms": 14.0,
    "ttft_ms": None,
    "server_ms": 12.0,
    "prompt_n": 9,
    "cache_n": 0,
    "completion_tokens": 3,
    "finish_reason": "stop",
    "strategy": 1,
    "parsed": ["left", "large"],
    "content": "left large",
    "flags": [],
}
# (seconds, event, further fields)
Event = tuple[float, str, dict[str, Any]]

OPENED: list[Event] = [
    (1.0, "phase_started", {"phase": "snapshot"}),
    (3.0, "phase_done", {"phase": "snapshot", "duration_s": 2.0}),
    (3.1, "opened", {"controller": "somebody"}),
]
STOPPED: list[Event] = [
    (4.0, "phase_started", {"phase": "window"}),
    (10.0, "tenant_stopping", {"tenant": "chatterbox", "impact": "mute"}),
    (10.5, "tenant_stopped", {"tenant": "chatterbox", "duration_s": 0.5}),
    (11.0, "tenant_stopping", {"tenant": "llamacpp", "impact": "blind"}),
    (11.1, "tenant_stopped", {"tenant": "llamacpp", "duration_s": 0.1}),
    (12.0, "drained", {"used_mib": 4608, "duration_s": 0.7}),
    (12.0, "phase_done", {"phase": "window", "duration_s": 8.0}),
]
CANDIDATE: list[Event] = [
    (12.0, "phase_started", {"phase": "candidate"}),
    (14.0, "candidate_healthy", {"duration_s": 2.0}),
    (14.1, "gate", {"name": "start", "ok": True, "band": "healthy", "footprint_gb": 6.0}),
    (15.0, "phase_done", {"phase": "candidate", "duration_s": 3.0}),
    (15.0, "phase_started", {"phase": "measure"}),
]
MEASURED: list[Event] = [(20.0, "phase_done", {"phase": "measure", "duration_s": 5.0})]
DIED: list[Event] = [
    (
        18.0,
        "phase_failed",
        {
            "phase": "measure",
            "reason": "the candidate died",
            "expected": "a running server",
            "found": "it ran out of memory",
            "todo": "try a smaller quantization",
        },
    )
]
TIMES = {"stop_s": {"chatterbox": 0.5, "llamacpp": 0.1}, "start_s": {"llamacpp": 2.0}, "drain_s": {"restore": 5.0}}


def back(by: str = "host", at: float = 21.0) -> list[Event]:
    down = {"chatterbox": at + 11 - 10, "llamacpp": at + 8 - 11}
    return [
        (at, "restore_started", {"restored_by": by}),
        (at + 0.2, "containers_removed", {"count": 4}),
        (at + 0.3, "drain_started", {"target_mib": 4608}),
        (at + 5.3, "drained_again", {"used_mib": 4610, "target_mib": 4608, "duration_s": 5.0}),
        (at + 6.0, "tenant_starting", {"tenant": "llamacpp"}),
        (at + 8.0, "tenant_healthy", {"tenant": "llamacpp", "duration_s": 2.0}),
        (at + 8.0, "tenant_starting", {"tenant": "chatterbox"}),
        (at + 11.0, "tenant_healthy", {"tenant": "chatterbox", "duration_s": 3.0}),
        (at + 11.1, "checks", {"ok": True, "checks": []}),
        (at + 11.2, "restored", {"restored_by": by, "duration_s": 11.2, "down": down, "times": TIMES}),
        (at + 11.3, "closed", {}),
    ]


LAST_WORDS = (
    "chatterbox: not healthy after 180 s (found: no answer); last log lines:\nCUDA error: out of memory\n"
    "to start it by hand: sudo -u panda sh -c 'cd /srv/voice && ./start.sh'"
)
CHECKS = [
    {"id": 1, "title": "the server is healthy", "expected": "ok", "found": "ok", "ok": True},
    {"id": 5, "title": "the voice is healthy", "expected": "model_loaded = true", "found": "no answer", "ok": False},
]
NOT_BACK: list[Event] = [
    (21.0, "restore_started", {"restored_by": "host"}),
    (21.2, "containers_removed", {"count": 4}),
    (28.0, "tenant_starting", {"tenant": "llamacpp"}),
    (30.0, "tenant_healthy", {"tenant": "llamacpp", "duration_s": 2.0}),
    (30.0, "tenant_starting", {"tenant": "chatterbox"}),
    (30.5, "tenant_retry", {"tenant": "chatterbox", "attempt": 1, "wait_s": 0.5, "reason": "ended with 1\nlast words"}),
    (40.0, "tenant_failed", {"tenant": "chatterbox", "reason": LAST_WORDS}),
    (41.0, "checks", {"ok": False, "checks": CHECKS}),
    (41.1, "restore_failed", {"restored_by": "host", "reason": LAST_WORDS, "next_try_s": 1.0}),
]


def lines_of(events: list[Event], boots: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Journal lines; from a position on, another boot may have begun."""
    found, boot = [], "boot-a"
    for at, (t_s, event, facts) in enumerate(events):
        boot = (boots or {}).get(at, boot)
        minute, second = divmod(t_s, 60)
        found.append(
            {
                "seq": at + 1,
                "wall": f"2026-01-02T22:{int(minute):02}:{second:06.3f}Z",
                "t_s": t_s if boot == "boot-a" else t_s - 20,
                "boot_id": boot,
                "run": "run-1",
                "epoch": 1,
                "by": "runner",
                "event": event,
                **facts,
            }
        )
        assert schemas.validate(found[-1], "journal") == []
    return found


def make(path: Path, lines: list[dict[str, Any]], samples: dict[str, int] | None = None, **plan: Any) -> Path:
    folder = path / "run-1"
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps({**PLAN, **plan}), encoding="utf-8")
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, count in (samples or {}).items():
        rows = [{"seq": at, "t_start_s": 15.0 + at / 100, **SAMPLE} for at in range(1, count + 1)]
        assert [problem for row in rows for problem in schemas.validate(row, "sample")] == []
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "samples" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def restore(folder: Path) -> dict[str, Any]:
    summary = plain(summarize_run(read_run(folder)))
    accept(summary, "summary")
    assert schemas.validate(summary, "summary") == []
    found = summary["restore"]
    assert isinstance(found, dict)
    return found


def host(folder: Path) -> str:
    """The section of the table that tells how the host came back, its lines joined."""
    shown = folder_table(folder)
    assert max(map(len, shown.splitlines())) <= 100
    section = next(one for one in shown.split("\n\n") if one.startswith("Host\n"))
    return " ".join(section.split())


def test_stops_that_were_under_way_and_tenants_that_did_not_settle_are_read(tmp_path: Path) -> None:
    """What the host says of them has no table of its own; down times last to the last start."""
    begun: list[Event] = [
        (21.0, "restore_started", {"restored_by": "host"}),
        (21.2, "containers_removed", {"count": 4}),
        (21.3, "tenant_in_flight", {"tenant": "chatterbox", "found": "its unit is deactivating"}),
        (25.0, "tenant_not_stopped", {"tenant": "llamacpp", "reason": "its stop does not end", "begun": True}),
        (25.3, "tenant_stopping", {"tenant": "chatterbox", "impact": "mute"}),
        (26.0, "tenant_stopped", {"tenant": "chatterbox", "duration_s": 0.7}),
        (26.1, "tenant_starting", {"tenant": "chatterbox"}),
        (26.2, "tenant_started", {"tenant": "chatterbox"}),
        (29.0, "tenant_healthy", {"tenant": "chatterbox", "duration_s": 3.0}),
        (36.0, "not_settled", {"tenant": "chatterbox", "reason": "PID 7 has ended", "duration_s": 7.0}),
        (36.1, "checks", {"ok": False, "checks": CHECKS}),
        (36.2, "restore_failed", {"restored_by": "host", "reason": "chatterbox did not stay up", "next_try_s": 1.0}),
    ]
    again = back(at=40.0)
    again.insert(-3, (51.05, "settled", {"duration_s": 10.0}))
    found = restore(make(tmp_path, lines_of([*OPENED, *STOPPED, *DIED, *begun, *again])))
    assert (found["restored"], found["attempts"], found["failures"]) == (True, 2, ["chatterbox did not stay up"])
    assert found["times"] == TIMES


def test_a_completed_run(tmp_path: Path) -> None:
    kept = {"nav-candidate": 100, "nav-baseline-a1": 100, "describe-candidate": 5, "smoke-candidate": 1}
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *MEASURED, *back()]), kept)
    (folder / "logs" / "chatterbox.log").write_text("x", encoding="utf-8")
    (folder / "logs" / "panda-llamacpp-e4b.log").write_text("x", encoding="utf-8")
    found = restore(folder)
    assert (found["restored"], found["by"], found["why"]) == (True, "host", "completed")
    assert (found["at"], found["after"], found["after_s"]) == ("2026-01-02T22:00:32.200Z", "measure ended", 12.2)
    assert (found["attempts"], found["failures"], found["retries"]) == (1, [], [])
    assert found["kept"] == kept
    assert found["files"] == ["journal.jsonl", "logs/chatterbox.log", "logs/panda-llamacpp-e4b.log"]
    assert found["times"] == TIMES
    assert "trialbench verdict DIR --judge describe=better" in found["next"][-1]
    shown = host(folder)
    for words in (
        "Host restored by host at 22:00:32Z, 12.2 s after measure ended down:",
        "down: chatterbox 22.0 s, llamacpp 18.0 s",
        "stopping took: chatterbox 0.5 s, llamacpp 0.1 s",
        "starting took: llamacpp 2.0 s",
        "draining took: restore 5.0 s",
        "100 nav-candidate",
        "journal.jsonl, 2 logs",
        "or read samples/describe-candidate.jsonl beside samples/describe-baseline.jsonl",
    ):
        assert words in shown
    # Once it is judged there is nothing left to do, and summary.json on the disk says so, too.
    assert main(["verdict", str(folder), "--judge", "describe=same"]) == 0
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["restore"]["next"] == []
    assert "next:" not in host(folder)


def test_a_completed_run_without_describe_replies_needs_no_judgment(tmp_path: Path) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *MEASURED, *back()]), {"nav-candidate": 100})
    assert restore(folder)["next"] == []


@pytest.mark.parametrize("by", ["playbook", "host", "boot", "hand"])
def test_a_run_that_failed_and_was_restored(tmp_path: Path, by: str) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *DIED, *back(by)]), {"nav-candidate": 57})
    found = restore(folder)
    assert (found["restored"], found["by"], found["why"]) == (True, by, "measure: the candidate died")
    assert (found["after"], found["after_s"], found["kept"]) == ("measure failed", 14.2, {"nav-candidate": 57})
    assert found["next"] == [
        "fix: try a smaller quantization",
        "then again: ansible-playbook benchmark-e4b.yml -i INVENTORY",
    ]
    assert f"restored by {by} at 22:00:32Z, 14.2 s after measure failed" in host(folder)


def test_a_run_that_ended_without_a_word(tmp_path: Path) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *back("hand")]))
    found = restore(folder)
    assert found["why"] == "it ended early, and the journal does not say why"
    assert "journalctl -u mt-run" in found["next"][0]
    assert (found["after"], found["after_s"]) == ("candidate ended", 17.2)


def test_a_host_that_is_not_back_names_what_is_missing_and_the_commands(tmp_path: Path) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *DIED, *NOT_BACK]))
    found = restore(folder)
    assert (found["restored"], found["by"], found["at"], found["after_s"]) == (False, "host", None, None)
    assert found["retries"] == [
        {"tenant": "chatterbox", "attempt": 1, "wait_s": 0.5, "reason": "ended with 1\nlast words"}
    ]
    assert found["next"] == [
        "chatterbox does not start; by hand: sudo -u panda sh -c 'cd /srv/voice && ./start.sh'",
        "check 5, the voice is healthy: expected model_loaded = true, found no answer",
        f"the host keeps retrying; once fixed, restore at once with: {AT_ONCE}",
    ]
    shown = host(folder)
    assert "NOT known to be restored; last asked for by host" in shown
    assert "chatterbox was restarted (attempt 1 failed: ended with 1)" in shown
    # The log's lines stay lines of their own in the head.
    assert "\n    CUDA error" not in shown
    assert "CUDA error: out of memory\n" in folder_table(folder)


def test_a_restore_that_failed_for_another_reason(tmp_path: Path) -> None:
    broken: list[Event] = [
        (21.0, "restore_started", {"restored_by": "host"}),
        (22.0, "restore_failed", {"restored_by": "host", "reason": "docker: no answer"}),
    ]
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *broken]))
    assert restore(folder)["next"][:2] == [
        "chatterbox is down, and was not started yet",
        "llamacpp is down, and was not started yet",
    ]
    folder = make(tmp_path, lines_of([*OPENED, *broken]))
    assert restore(folder)["next"][0] == "fix: docker: no answer"


def test_several_attempts(tmp_path: Path) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *DIED, *NOT_BACK, *back("hand", 50.0)]))
    found = restore(folder)
    assert (found["restored"], found["by"], found["attempts"], found["failures"]) == (True, "hand", 2, [LAST_WORDS])
    shown = host(folder)
    assert "restored by hand at 22:01:01Z, 43.2 s after measure failed (2 attempts)" in shown
    assert "a restore before was not complete: chatterbox: not healthy after 180 s" in shown
    # What an earlier attempt could not do is not asked for again while the next one is under way.
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *DIED, *NOT_BACK, *back("hand", 50.0)[:2]]))
    assert "by hand: sudo -u" not in " ".join(restore(folder)["next"])


def test_a_reboot_is_bridged_by_the_wall_clock(tmp_path: Path) -> None:
    events = [*OPENED, *STOPPED, *CANDIDATE, *back("boot", 40.0)]
    boots = {len(events) - len(back()): "boot-b"}
    folder = make(tmp_path, lines_of(events, boots))
    found = restore(folder)
    assert (found["by"], found["after_s"]) == ("boot", 36.2)
    summary = plain(summarize_run(read_run(folder)))
    assert summary["down_s"] == {"chatterbox": 41.0, "llamacpp": 37.0}
    # Without the host's own count, from the events.
    lines = [{name: v for name, v in line.items() if name != "down"} for line in lines_of(events, boots)]
    assert plain(summarize_run(read_run(make(tmp_path, lines))))["down_s"] == {"chatterbox": 41.0, "llamacpp": 37.0}
    # A clock that can't be read gives no time, and no error.
    for line in lines:
        line["wall"] = "?"
    folder = make(tmp_path, lines)
    assert (restore(folder)["after_s"], plain(summarize_run(read_run(folder)))["down_s"]) == (None, {})
    assert "restored by boot at ? down" not in host(folder)


@pytest.mark.parametrize(
    ("events", "plan", "why", "first"),
    [
        ([*OPENED, *STOPPED], {}, "it has not ended", "look at it on the host: sudo model-trial status"),
        ([*OPENED, *STOPPED], {"attended": False}, "it has not ended", "it runs unattended; after it ends:"),
        ([*OPENED, *STOPPED, *back()[:4]], {}, "it ended early", "look at it on the host: sudo model-trial status"),
        ([*OPENED, *STOPPED, *DIED], {}, "measure: the candidate died", "look at it on the host:"),
    ],
    ids=["attended", "unattended", "being restored", "failed just now"],
)
def test_a_run_that_is_still_open(
    tmp_path: Path, events: list[Event], plan: dict[str, Any], why: str, first: str
) -> None:
    folder = make(tmp_path, lines_of(events), **plan)
    found = restore(folder)
    assert found["restored"] is False
    assert found["why"].startswith(why)
    assert found["next"][0].startswith(first)
    assert "harvest.yml" in " ".join(found["next"])
    assert "NOT known to be restored" in host(folder)


@pytest.mark.parametrize("events", [OPENED[:1], OPENED[:2], [(1.0, "phase_failed", {"phase": "snapshot"})]])
def test_a_run_that_never_held_the_host(tmp_path: Path, events: list[Event]) -> None:
    folder = make(tmp_path, lines_of(events))
    found = restore(folder)
    assert (found["restored"], found["by"], found["attempts"]) == (None, None, 0)
    assert "nothing was stopped on it" in host(folder)
    assert "ansible-playbook benchmark-e4b.yml" in found["next"][-1]


REHEARSED = [*OPENED, *STOPPED, *back("playbook", 13.0)]


def test_a_rehearsal_has_times_and_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, lines_of(REHEARSED), rehearsal=True)
    found = restore(folder)
    assert (found["restored"], found["why"], found["kept"]) == (True, "rehearsed", {})
    assert found["next"] == ["the trial itself: ansible-playbook benchmark-e4b.yml -i INVENTORY"]
    assert main(["summarize", str(folder)]) == 0
    assert main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "run-1: rehearsal on panda, rehearsed" in shown
    assert "restored by playbook at 22:00:24Z, 12.2 s after window ended" in shown
    for words in ("mute 14.0 s", "blind 10.0 s", "starting took: llamacpp 2.0 s", "drained to 4.50 GB"):
        assert words in shown
    for words in ("Verdict", "not decided", "Samples", "None"):
        assert words not in shown
    assert main(["verdict", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "is a rehearsal: no candidate was tried, so there is nothing to decide" in said
    assert not (folder / "verdict.json").exists()
    with pytest.raises(UsageError, match="rehearsal"):
        decide_folder(folder)


def test_a_rehearsal_that_failed_or_is_open(tmp_path: Path) -> None:
    failed: list[Event] = [(11.5, "phase_failed", {"phase": "window", "reason": "VRAM did not drain", "todo": "look"})]
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED[:5], *failed, *back("host", 13.0)]), rehearsal=True)
    assert "run-1: rehearsal on panda, rolled back" in folder_table(folder)
    assert restore(folder)["next"][-1] == "then again: ansible-playbook rehearse.yml -i INVENTORY"
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED]), rehearsal=True)
    assert "run-1: rehearsal on panda, open" in folder_table(folder)


WHOLE = [*OPENED, *STOPPED, *CANDIDATE, *DIED, *NOT_BACK, *back("hand", 50.0)]


@pytest.mark.parametrize("rehearsal", [False, True])
def test_every_beginning_of_a_journal_is_shown(tmp_path: Path, rehearsal: bool) -> None:
    lines = lines_of(WHOLE)
    # The third opens the trial.
    for end in some(range(1, len(lines) + 1), 16, always=(2, 3, len(lines) - 1)):
        folder = make(tmp_path, lines[:end], {"nav-candidate": 3}, rehearsal=rehearsal)
        found = restore(folder)
        assert found["restored"] is (None if end < 3 else end == len(lines)), end
        assert "None" not in host(folder)


def test_a_journal_torn_at_any_byte_is_shown(tmp_path: Path) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED[:2]]), {"nav-candidate": 1})
    raw = (folder / "journal.jsonl").read_bytes()
    borders = [at + shift for at, byte in enumerate(raw) if byte == ord("\n") for shift in (0, 1)]
    for end in some(range(len(raw) + 1), 30, always=borders):
        (folder / "journal.jsonl").write_bytes(raw[:end])
        restore(folder)
        folder_table(folder)


STRANGE = [None, True, -1, 10**400, 1e308, "", "x" * 300, "\x1b[2J\ud800", [], {}, [{}], {"a": []}, float("nan")]


def test_nonsense_in_any_field_keeps_nothing_else_from_being_shown(tmp_path: Path) -> None:
    """A host that was taken over, or a disk that was full: whatever stands in the files, they are shown."""
    chance = random.Random(4)
    samples = [{"seq": at, "t_start_s": 15.0 + at / 100, **SAMPLE} for at in range(1, 4)]
    for _ in range(examples(200)):
        lines = json.loads(json.dumps(lines_of(WHOLE)))
        rows = json.loads(json.dumps(samples))
        readings = [{"t_s": 13.0, "used_mib": 9000, "total_mib": 16000, "phase": "candidate", "processes": []}]
        for line in chance.sample([*lines, *rows, *readings], 4):
            line[chance.choice(list(line))] = chance.choice(STRANGE)
        folder = make(tmp_path, lines)
        (folder / "samples" / "nav-candidate.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "vram.jsonl").write_text("".join(json.dumps(row) + "\n" for row in readings))
        restore(folder)
        shown = folder_table(folder)
        assert acting(shown) == []
        decide_folder(folder)
        (folder / "verdict.json").unlink()


def test_what_else_is_gone_is_named(tmp_path: Path) -> None:
    """Of the newest attempt: what was back by then is not gone."""
    text = "unit web.service was active (running) and is now failed (failed)"
    gone: Event = (60.9, "gone", {"gone": [text], "found": text})
    earlier: Event = (35.9, "gone", {"gone": ["container db is no longer running"], "found": "db"})
    again = [*back("hand", 50.0)[:-3], gone, *back("hand", 50.0)[-3:]]
    folder = make(
        tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *DIED, *NOT_BACK[:-1], earlier, NOT_BACK[-1], *again])
    )
    assert restore(folder)["gone"] == [text]
    assert f"no longer there, and not because of the trial: {text}" in host(folder)


def test_what_a_journal_quotes_does_not_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e{0.__class__}%n<script>"
    lines = lines_of(WHOLE)
    for line in lines:
        for name in ("tenant", "reason", "todo", "found", "expected", "phase", "restored_by", "band"):
            if name in line:
                line[name] = evil
    checks = [{"id": 1, "title": evil, "expected": evil, "found": evil, "ok": False}]
    lines.append({**lines[-1], "seq": 99, "event": "checks", "checks": checks})
    lines.append({**lines[-1], "seq": 100, "event": "gone", "gone": [evil]})
    folder = make(tmp_path, lines, {evil.replace("/", ""): 2}, host=evil, candidate={"label": evil})
    (folder / "logs" / evil).write_text("x", encoding="utf-8")
    for verb in ("summarize", "verdict", "show"):
        assert main([verb, str(folder)]) == 0
    said = capsys.readouterr()
    assert acting(said.out + said.err) == []
    assert "\\x1b]0;owned" in said.out
    assert "<script>" in said.out


# Not at the first try.

RETRIED: Event = (28.5, "tenant_retry", {"tenant": "llamacpp", "attempt": 1, "wait_s": 0.5, "reason": "no db\nlog"})
FAILED: Event = (29.0, "restore_failed", {"restored_by": "host", "reason": "llamacpp: no db\nlog", "next_try_s": 1.0})
CUT_OFF: list[Event] = [(21.0, "restore_started", {"restored_by": "host"})]
WAITED: list[Event] = [*CUT_OFF, (22.0, "restore_waits", {"restored_by": "host", "reason": "EAGAIN"})]


def retried() -> list[Event]:
    found = back()
    found.insert(5, RETRIED)
    return found


SECOND_TRIES: list[tuple[list[Event], list[str]]] = [
    (back(), []),
    (retried(), ["llamacpp: start 1 failed and was tried again: no db"]),
    ([*CUT_OFF, FAILED, *back(at=31.0)], ["restore 1 was not complete: llamacpp: no db"]),
    ([*CUT_OFF, *back(at=31.0)], ["restore 1 was cut off and begun again"]),
    # The host had no processes to give: nobody has failed at anything.
    ([*WAITED, *back(at=31.0)], []),
    (
        [*CUT_OFF, RETRIED, FAILED, *back(at=31.0)],
        ["llamacpp: start 1 failed and was tried again: no db", "restore 1 was not complete: llamacpp: no db"],
    ),
]


@pytest.mark.parametrize(("events", "again"), SECOND_TRIES)
def test_a_rehearsal_that_came_back_at_a_second_try_has_failed(
    tmp_path: Path, events: list[Event], again: list[str]
) -> None:
    """The host is back, and yet the way back is what a rehearsal is about. The acting side says the same of it."""
    lines = lines_of([*OPENED, *STOPPED, *events])
    folder = make(tmp_path, lines, rehearsal=True)
    assert second_tries(read_run(folder)) == again == rehearsal.second_tries(lines)
    assert bool(rehearsal.passed(lines)) == bool(again)
    summary = summarize_run(read_run(folder))
    assert summary.outcome == ("rolled_back" if again else "rehearsed")
    assert summary.restore.restored
    cases = junit(folder)
    shown = " ".join(folder_table(folder).split())
    if not again:
        assert not [name for name, case in cases.items() if case.find("failure") is not None]
        assert "NOT BACK AT THE FIRST TRY" not in shown
        return
    assert summary.restore.why == f"the host did not come back at the first try: {again[-1]}"
    assert [name for name, case in cases.items() if case.find("failure") is not None] == [
        "ended as planned", "host is back at the first try",
    ]  # fmt: skip
    failure = cases["host is back at the first try"].find("failure")
    assert failure is not None
    assert failure.text == "\n".join(again)
    assert [step for step in summary.restore.next if step.startswith("fix: ")] == [f"fix: {words}" for words in again]
    assert all(f"NOT BACK AT THE FIRST TRY {words}" in shown for words in again)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "REHEARSAL FAILED" in page
    assert again[-1] in page


@pytest.mark.parametrize(("events", "again"), SECOND_TRIES)
def test_a_trial_that_came_back_at_a_second_try_says_so_loudly(
    tmp_path: Path, events: list[Event], again: list[str]
) -> None:
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *CANDIDATE, *MEASURED, *events]))
    assert summarize_run(read_run(folder)).outcome == "completed"
    case = junit(folder).get("host is back at the first try")
    assert (case is not None) == bool(again)
    shown, page = " ".join(folder_table(folder).split()), write_report(folder).read_text(encoding="utf-8")
    for words in again:
        skipped = case.find("skipped") if case is not None else None
        assert skipped is not None
        assert words in str(skipped.get("message"))
        assert f"NOT BACK AT THE FIRST TRY {words}" in shown
        assert f"the host did NOT come back at the first try: {words}" in page
    if not again:
        assert "FIRST TRY" not in shown
        assert "first try" not in page


def test_a_host_that_is_not_back_says_why_in_every_case(tmp_path: Path) -> None:
    """Also where no phase has failed: the window ended well, and the restore did not."""
    folder = make(tmp_path, lines_of([*OPENED, *STOPPED, *NOT_BACK]), rehearsal=True)
    cases = junit(folder)
    for name in ("ended as planned", "host is back", "restore"):
        failure = cases[name].find("failure")
        assert failure is not None, name
        assert "chatterbox: not healthy after 180 s" in str(failure.get("message")), name
    assert "does not say why" not in ElementTree.tostring(cases["ended as planned"], encoding="unicode")


def junit(folder: Path) -> dict[str, ElementTree.Element]:
    """The test cases by name."""
    write_exports(folder, ["junit"])
    root = ElementTree.parse(folder / "exports" / "junit.xml").getroot()
    return {str(case.get("name")): case for case in root.iter("testcase")}
