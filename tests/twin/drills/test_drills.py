"""Each case of the table, and what holds for all of them: whatever struck, the host is as it was before."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cases import CAN_NOT_BE_RESTORED, CASES, SHORT, CanNotBeRestored, Case
from world import STATE, Broken, Drill, merged, says, wait_until

pytestmark = pytest.mark.drill

# Beyond the drain's minimum and the tenants' own starts: programs, requests, at the pace of PACE_S. A machine that is
# slower during the restore, or busy with the case beside, is given as many times more as it is measured to be slower.
OVERHEAD_S = 3.0
# `make test` wants the order of magnitude only, so that it may run on a machine that is not idle.
SLACK = float(os.environ.get("MT_SLACK", "1"))
# The host's next try comes after at most 16 s in a drill, 32 s on a slow machine; the play has been told after its
# second failure.
NEXT_TRY_S = 90.0
# restore.yml has asked within this time, also on a slow machine and while another worker plays a case beside it.
PAUSE_S = 16.0
# A unit or a container may end a moment after the last word of the journal.
SETTLE_S = 5.0


def name_of(case: Case) -> str:
    """The case's name on a terminal and in a file name."""
    return f"{case.phase}-{case.name}"


def chosen() -> list[Any]:
    """The table as parameters."""
    return [pytest.param(case, id=name_of(case)) for case in CASES]


@pytest.mark.parametrize("case", chosen())
def test_the_host_comes_back(
    case: Case,
    drill: Callable[[str, dict[str, Any]], Drill],
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    variables = merged(SHORT, case.play)
    if case.faulty_server:
        variables["trial_image_file"] = request.getfixturevalue("faulty_image")
    trial = Trial(case, drill(name_of(case), variables))
    try:
        trial.run()
    finally:
        record_property("restored_by", trial.restored_by)
        record_property("seconds", round(trial.seconds, 1))
        record_property("at_most_s", trial.at_most_s)
        record_property("slowness", round(trial.slowness, 2))
        trial.keep_evidence()


class Trial:
    """One case being played: the fault, the end, the proof."""

    def __init__(self, case: Case, drill: Drill) -> None:
        self.case, self.drill = case, drill
        self.found: dict[str, Any] = {}
        # The bound of the case's time; null without one (no tenant was down, or a person has to act first).
        self.at_most_s: float | None = None

    @property
    def restored_by(self) -> str:
        """Who brought the host back; "-" where no trial was opened."""
        done = self.drill.entries("restored")
        return str(done[-1]["restored_by"]) if done else "-"

    @property
    def healthy(self) -> list[dict[str, Any]]:
        """The tenants that came back after the fault."""
        return [e for e in self.drill.entries("tenant_healthy") if e["t_s"] > self.drill.struck_s]

    @property
    def seconds(self) -> float:
        """From the fault to the last healthy tenant; 0 where none was down."""
        return max((e["t_s"] - self.drill.struck_s for e in self.healthy), default=0.0)

    @property
    def slowness(self) -> float:
        """How slow the host was while it restored itself."""
        struck_s = self.drill.struck_s
        began = [e["t_s"] for e in self.drill.entries("restore_started") if e["t_s"] > struck_s]
        return self.drill.slowness(min(began, default=struck_s), struck_s + self.seconds)

    def run(self) -> None:
        """Strike, wait for the end, prove that all is well."""
        case, drill = self.case, self.drill
        before = drill.check()
        assert not before["checks"], before
        if case.before:
            case.before(drill)
        drill.start_trial(case.acquire or case.faulty_server)
        case.at(drill)
        case.fault(drill)
        assert drill.play is not None
        code = drill.play.wait()
        self.assert_exit(code)
        if case.stuck:
            self.assert_stuck(CAN_NOT_BE_RESTORED[case.stuck])
        elif case.by != "-":
            drill.event("closed")
        wait_until(lambda: not drill.is_open(), "the open mark to go", 10)
        after = self.settled()
        self.assert_harvested()
        self.assert_told()
        self.assert_host_is_back(before, after)
        self.assert_in_time()
        self.assert_stays_back(after)

    def settled(self) -> dict[str, Any]:
        """The host once everything that was ending has ended; whatever is still there is left over."""
        found: dict[str, Any] = {}

        def clean() -> bool:
            found.update(self.drill.check())
            return not found["checks"] and not found["left"]

        with contextlib.suppress(Broken):
            wait_until(clean, "a clean host", SETTLE_S, 0.2)
        return found

    def assert_exit(self, code: int) -> None:
        """The play ended as the case says."""
        expected = {"completed": code == 0, "failed": code > 0, "gone": code != 0}[self.case.ends]
        assert expected, f"expected a play that is {self.case.ends}, found exit code {code}"

    def assert_stuck(self, stuck: CanNotBeRestored) -> None:
        """The failure is reported precisely, the mark is kept, and both end with the fault."""
        drill = self.drill
        failed = drill.event("restore_failed")
        for pattern in stuck.says:
            assert says(failed["reason"], pattern), f"expected {pattern!r} in: {failed['reason']}"
        assert drill.is_open(), "the mark was taken away although the host is not as it was"
        assert not drill.entries("restored")
        if stuck.by == "restore.yml":
            # Between two tries, or the host's own would get there first.
            wait_until(self.in_pause, "a pause between two tries")
            stuck.mend(drill)
            played = drill.start("restore.yml")
            assert played.wait() == 0, played.text
        else:
            stuck.mend(drill)
        drill.event("closed", NEXT_TRY_S)

    def in_pause(self) -> bool:
        """Whether the host has just begun to wait for its next attempt, so that a person can be faster."""
        last = self.drill.follower.entries[-1]
        return last["event"] == "restore_failed" and float(last["next_try_s"]) >= PAUSE_S

    def assert_harvested(self) -> None:
        """Every sample that was on the host when the fault struck is on the controller."""
        case, drill = self.case, self.drill
        if case.mended:
            case.mended(drill)
        if case.ends == "gone" or case.lease or case.mended or case.reboots:
            untouched = self.fingerprint()
            played = drill.start("harvest.yml")
            code = played.wait()
            assert (code == 0) == (case.by != "-"), played.text
            assert self.fingerprint() == untouched, "harvest.yml changed something on the host"
        files = drill.results.glob(f"{drill.run}/samples/*.jsonl")
        kept = {path.stem: path.read_bytes().count(b"\n") for path in files}
        lost = {name: (n, kept.get(name, 0)) for name, n in drill.counted.items() if kept.get(name, 0) < n}
        assert not lost, f"samples on the host when the fault struck, and harvested: {lost}"

    def fingerprint(self) -> str:
        """Everything below the trial's folder with its times, and the tenants' processes."""
        listed = self.drill.sh(f"find {STATE} ! -name lock -printf '%p %s %T@ %m\\n' | sort")
        return listed + json.dumps(self.drill.check()["tenants"])

    def assert_told(self) -> None:
        """The output that a person reads names the fault as the case expects."""
        drill = self.drill
        played = drill.plays[-1].text if self.case.ends == "gone" else drill.plays[0].text
        told = "\n".join([played, *drill.notes])
        for pattern in self.case.says:
            assert says(told, pattern), f"expected {pattern!r} in the output"

    def assert_host_is_back(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """The eight checks pass, nothing is left over, and untouched tenants are the same processes."""
        case, drill = self.case, self.drill
        assert not after["checks"], after["checks"]
        assert not after["left"], after["left"]
        assert not after["mark"]
        expected = CAN_NOT_BE_RESTORED[case.stuck].restored_by if case.stuck else case.by
        assert re.fullmatch(expected, self.restored_by), f"restored by {self.restored_by}, expected {expected}"
        stopped = {e["tenant"] for e in drill.entries("tenant_stopping")} | set(case.killed)
        if not case.reboots:
            changed = [n for n, who in after["tenants"].items() if n not in stopped and who != before["tenants"][n]]
            assert not changed, f"untouched tenants with a new process: {changed}"
        workers = [line for play in drill.plays if play.ended for line in play.workers()]
        assert not workers, f"still running on the controller: {workers}"

    def assert_in_time(self) -> None:
        """Mute and blind windows stay within the cap; fault to healthy stays within the bound."""
        case, drill = self.case, self.drill
        limits = drill.variables["trial_limits"]
        for event in drill.entries("restored"):
            assert all(s <= limits["cap_s"] for s in event["impacts"].values()), event["impacts"]
        goes_on = case.ends == "completed" and case.phase in ("snapshot", "window", "candidate", "measure")
        if goes_on or (case.stuck and not CAN_NOT_BE_RESTORED[case.stuck].tenants_up):
            return
        starts = sum(e["duration_s"] for e in self.healthy)
        bound = limits["drain_min_s"] + starts + self.a2_s + OVERHEAD_S * self.slowness * SLACK + case.extra_s
        # A lease runs while the window goes on: it is not added to what happens meanwhile.
        bound += limits["lease_s"] if case.lease else self.unnoticed_s
        self.at_most_s = round(bound, 1)
        assert self.seconds <= bound, f"back after {self.seconds:.1f} s, expected at most {bound:.1f} s"

    @property
    def unnoticed_s(self) -> float:
        """The window's own drain and the candidate's start, as far as they came after the fault.

        A taken port shows when the candidate wants it, and a candidate that thinks when it has been loaded.
        """
        drill, minimum = self.drill, self.drill.variables["trial_limits"]["drain_min_s"]
        drains = [(e, min(e["duration_s"], minimum)) for e in drill.entries("drained")]
        loads = [(e, e["duration_s"]) for e in drill.entries("candidate_healthy")]
        return sum(max(0.0, min(taken, e["t_s"] - drill.struck_s)) for e, taken in drains + loads)

    @property
    def a2_s(self) -> float:
        """What the second baseline took after the fault; its place is between two starts."""
        done = [e["t_s"] for e in self.drill.entries("segment_done", session="a2") if e["t_s"] > self.drill.struck_s]
        began = [e["t_s"] for e in self.drill.entries("tenant_healthy", tenant="panda-llamacpp")]
        return done[-1] - max(self.drill.struck_s, began[0]) if done else 0.0

    def assert_stays_back(self, after: dict[str, Any]) -> None:
        """A stop or start that was under way when the fault struck has not undone the restore."""
        if not self.case.later_s:
            return
        due_s = self.drill.struck_s + self.case.later_s
        wait_until(lambda: time.monotonic() > due_s, "a later look", self.case.later_s + 1)
        later = self.drill.check()
        assert not later["checks"], f"restored, and then: {later['checks']}"
        assert later["tenants"] == after["tenants"], "a tenant has a new process after the restore"

    def keep_evidence(self) -> None:
        """What a person needs to analyze a failed case."""
        for number, play in enumerate(self.drill.plays):
            (self.drill.folder / f"play-{number}.log").write_text(play.text, encoding="utf-8")
        lines = [json.dumps(entry) for entry in self.drill.follower.entries]
        (self.drill.folder / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        notes = [f"struck at {self.drill.struck_s:.3f}, counted {self.drill.counted}", *self.drill.notes]
        (self.drill.folder / "notes.txt").write_text("\n".join(notes) + "\n", encoding="utf-8")


def test_the_table_is_complete() -> None:
    """Every phase loses its controller once, names are names, and what can't be restored happens at least once."""
    phases = {"preflight", "acquire", "snapshot", "window", "candidate", "measure", "restore", "verify", "verdict"}
    assert {case.phase for case in CASES if case.mechanism == "controller kill -9"} == phases
    names = [name_of(case) for case in CASES]
    assert len(set(names)) == len(names) >= 50
    assert {case.stuck for case in CASES if case.stuck} == set(CAN_NOT_BE_RESTORED)
    assert {stuck.by for stuck in CAN_NOT_BE_RESTORED.values()} == {"restore.yml", "next try"}
    assert all(case.why for case in CASES if case.extra_s)
