# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that asks for a phase and shows it live: what it asks, what it shows, when it gives up."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.edgelab.model_trial.plugins.action import phase
from ansible_collections.edgelab.model_trial.plugins.module_utils import gpu, program, restorer

RUN = "e4b-20260501-120000"


def event(seq: int, name: str, by: str = "runner", **facts: Any) -> dict[str, Any]:
    """A journal entry."""
    return {"seq": seq, "by": by, "event": name, **facts}


class Host:
    """Answers the verbs; polls are answered from a list, the last one repeatedly."""

    def __init__(self) -> None:
        self.polls: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = {
            "open": {"run": RUN, "since": "then", "controller": "ann"},
            "epoch": 3,
            "last_run": RUN,
            "restored_by": None,
            "attempt_seq": 17,
        }
        self.refuse: dict[str, dict[str, Any]] = {}
        self.standing = "installed"

    def __call__(self, argv: list[str]) -> dict[str, Any]:
        if argv[:2] == ["test", "-x"]:
            return {"rc": 0, "stdout": f"{self.standing}\n"}
        assert argv[0] == "/usr/local/sbin/model-trial"
        verb, options = argv[1], dict(word[2:].split("=", 1) if "=" in word else (word[2:], "") for word in argv[2:])
        self.asked.append((verb, options))
        if verb in self.refuse:
            return self.refuse[verb]
        answers = {
            "open": {"run": RUN, "epoch": 3},
            "advance": {"furthest": options.get("phase")},
            "status": self.status,
            "restore": {},
        }
        answer = self.polls.pop(0) if verb == "poll" else answers[verb]
        return {"rc": 0, "stdout": f"noise\n{json.dumps(answer)}\n" if verb != "status" else json.dumps(answer)}

    def verbs(self) -> list[str]:
        """What was asked, in order."""
        return [verb for verb, _options in self.asked]

    def say(self, *events: dict[str, Any], is_open: bool = True, samples: list[Any] | None = None) -> Host:
        """Add an answer to a poll."""
        self.polls.append(
            {
                "run": RUN,
                "open": is_open,
                "phase": "window",
                "events": list(events),
                "samples": samples or [],
                "window_s": 12.3,
                "remaining_s": 1487.7,
            }
        )
        return self


@pytest.fixture
def host(stage: Any) -> Host:
    """The scripted host."""
    stage.answer = Host()
    return stage.answer


# Arguments.


def test_an_option_nobody_knows(stage: Any, plan_data: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail, match="unknown option color: expected one of name, plan, epoch"):
        stage.play(phase, name="window", plan=plan_data, color="red")


@pytest.mark.parametrize("name", [None, "verify", ""])
def test_a_phase_nobody_knows(stage: Any, name: str | None) -> None:
    with pytest.raises(AnsibleActionFail, match="name: expected snapshot, window, candidate, measure or restore"):
        stage.play(phase, name=name)


def test_a_plan_that_can_not_be_used(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    del plan_data["baseline"]
    with pytest.raises(AnsibleActionFail, match="the plan cannot be used: baseline: expected a value"):
        stage.play(phase, name="window", plan=plan_data)
    assert host.asked == []


@pytest.mark.parametrize("name", ["snapshot", "window", "candidate", "measure"])
def test_check_mode_asks_nothing_of_the_host(stage: Any, host: Host, plan_data: dict[str, Any], name: str) -> None:
    result = stage.play(phase, check_mode=True, name=name, plan=plan_data)
    assert result["changed"] is True
    assert host.asked == []
    if name == "snapshot":
        assert result["ansible_facts"] == {"trial_epoch": 0}


@pytest.mark.parametrize("held", [True, False])
def test_check_mode_tells_whether_there_is_something_to_restore(stage: Any, host: Host, held: bool) -> None:
    if not held:
        host.status = {**host.status, "open": None}
    assert stage.play(phase, check_mode=True, name="restore")["changed"] is held
    assert host.verbs() == ["status"]


# Phases.


def test_the_snapshot_opens_the_trial_and_keeps_its_epoch(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    result = stage.play(phase, name="snapshot", plan=plan_data, controller="ann@laptop")
    assert host.asked == [("open", {"run": RUN, "controller": "ann@laptop"})]
    assert result["changed"] is True
    assert result["ansible_facts"] == {"trial_epoch": 3}
    assert stage.shown == [f"  panda | run {RUN} open, epoch 3"]


def test_a_host_that_is_held_is_told_in_its_own_words(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    words = "this host is held by run other since then (from bob)"
    host.refuse["open"] = {"rc": 3, "stdout": "", "stderr": words + "\n"}
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="snapshot", plan=plan_data)
    assert words in str(caught.value)
    assert caught.value.result["rc"] == 3


@pytest.mark.parametrize("code", [1, 2, 3, 130, 137, 143])
def test_an_opening_that_was_killed_is_taken_back(stage: Any, host: Host, plan_data: dict[str, Any], code: int) -> None:
    """It may have left containers, or a mark without a runner."""
    host.refuse["open"] = {"rc": code, "stdout": "", "stderr": "Killed\n"}
    with pytest.raises(AnsibleActionFail, match="model-trial open: Killed"):
        stage.play(phase, name="snapshot", plan=plan_data)
    assert host.verbs() == (["open"] if code < 4 else ["open", "restore"])
    if code > 3:
        assert host.asked[1][1] == {"by": "playbook", "no-wait": ""}
        assert f"the opening was cut off (exit code {code})" in stage.shown[0]


def test_a_phase_is_advanced_and_watched_until_it_is_done(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.say(event(5, "phase_started", phase="window"), event(6, "tenant_stopping", tenant="chatterbox"))
    host.say(samples=[{"name": "nav-baseline-a1", "n": 7, "ok": 7, "p50_ms": 20.5}])
    host.say(
        event(7, "tenant_stopped", tenant="chatterbox", duration_s=0.44),
        event(8, "phase_done", phase="window", duration_s=9.5),
        samples=[{"name": "nav-baseline-a1", "n": 7, "ok": 7, "p50_ms": 20.5}],
    )
    result = stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert host.asked == [
        ("advance", {"run": RUN, "epoch": "3", "phase": "window"}),
        ("poll", {"run": RUN, "epoch": "3", "since": "0", "wait": "5.0"}),
        ("poll", {"run": RUN, "epoch": "3", "since": "6", "wait": "5.0"}),
        ("poll", {"run": RUN, "epoch": "3", "since": "6", "wait": "5.0"}),
    ]
    assert result["changed"] is True
    assert result["duration_s"] == 9.5
    assert stage.shown == [
        "  panda | runner: stopping chatterbox",
        "  panda | window, 12.3 s since the first stop, 1488 s left; nav-baseline-a1: 7 replies, p50 20.5 ms",
        "  panda | runner: chatterbox stopped in 0.4 s",
    ]


def test_a_phase_may_allow_more_than_itself(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.say(event(5, "phase_done", phase="window", duration_s=1.0))
    stage.play(phase, name="window", plan=plan_data, epoch=3, advance="measure")
    assert host.asked[0] == ("advance", {"run": RUN, "epoch": "3", "phase": "measure"})


def test_every_event_belongs_to_one_task(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    """The host is a phase ahead: what belongs to the earlier task is not shown again."""
    host.say(
        event(5, "phase_started", phase="window"),
        event(6, "tenant_stopping", tenant="chatterbox"),
        event(7, "phase_done", phase="window", duration_s=9.0),
        event(8, "phase_started", phase="candidate"),
        event(9, "candidate_healthy", duration_s=21.0),
        event(10, "phase_done", phase="candidate", duration_s=22.0),
    )
    assert stage.play(phase, name="candidate", plan=plan_data, epoch=3)["duration_s"] == 22.0
    assert stage.shown == ["  panda | runner: candidate healthy after 21.0 s"]


def test_a_failed_phase_fails_the_task_with_everything_known(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    failed = event(9, "phase_failed", phase="window", reason="not quiet", expected="idle", found="a call", todo="wait")
    host.say(event(5, "phase_started", phase="window"), failed)
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="candidate", plan=plan_data, epoch=3)
    assert "phase window FAILED: not quiet; expected idle; found a call; wait" in str(caught.value)
    assert caught.value.result["event"] == failed


def test_a_restore_by_another_party_fails_the_task(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.say(event(5, "phase_started", phase="window"))
    host.say(event(6, "restore_started", by="restorer", restored_by="ann by hand"))
    with pytest.raises(AnsibleActionFail, match=r"phase window did not end: .*restored by ann by hand"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)


def test_a_run_that_is_no_longer_open_fails_the_task(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.say(is_open=False)
    with pytest.raises(AnsibleActionFail, match=f"run {RUN} is no longer open"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)


def test_a_run_that_is_over_is_told_with_what_ended_it(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.refuse["advance"] = {"rc": 3, "stdout": "", "stderr": "epoch 3 is over: restored by host at 12:00"}
    words = {"phase": "window", "reason": "port taken", "expected": "", "found": "", "todo": ""}
    host.say(event(5, "phase_failed", **words), is_open=False)
    with pytest.raises(AnsibleActionFail, match="port taken"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)


def test_a_stale_epoch_is_explained_by_what_ended_the_run(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.refuse["advance"] = {"rc": 3, "stdout": "", "stderr": "epoch 3 is over: restored by host at 12:00"}
    host.say(
        event(7, "phase_failed", phase="window", reason="the lease lapsed", expected="a sign", found="none", todo="-"),
        event(8, "restore_started", by="restorer", restored_by="host"),
    )
    with pytest.raises(AnsibleActionFail, match="phase window FAILED: the lease lapsed"):
        stage.play(phase, name="candidate", plan=plan_data, epoch=3)


def test_a_cut_network_is_waited_out(
    stage: Any, host: Host, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase.time, "sleep", lambda _s: None)
    host.say(event(1, "phase_started", phase="window"), event(2, "phase_done", phase="window", duration_s=3.0))
    cuts = [AnsibleConnectionFailure("no route"), AnsibleConnectionFailure("no route")]

    def answer(argv: list[str]) -> dict[str, Any]:
        if argv[1] == "poll" and cuts:
            raise cuts.pop()
        return host(argv)

    stage.answer = answer
    assert stage.play(phase, name="window", plan=plan_data, epoch=3)["duration_s"] == 3.0
    assert stage.shown.count("reset") == 2
    assert sum("cannot be reached" in line for line in stage.shown) == 2


@pytest.mark.parametrize("name", ["snapshot", "window"])
def test_a_host_that_stays_away_is_a_failure_with_a_way_on(
    stage: Any, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not "unreachable": the play must still get to the proof and the harvest. And nothing is opened twice."""
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(phase.time, "sleep", lambda _s: None)
    monkeypatch.setattr(phase.time, "monotonic", lambda: next(clock))
    asked = []

    def answer(argv: list[str]) -> dict[str, Any]:
        asked.append(argv[1])
        raise AnsibleConnectionFailure("no route")

    stage.answer = answer
    with pytest.raises(AnsibleActionFail, match=r"no route.*restores itself.*harvest\.yml"):
        stage.play(phase, name=name, plan=plan_data, epoch=3)
    assert asked == ["open"] if name == "snapshot" else len(asked) > 2


def test_a_play_that_died_before_the_first_poll_renews_no_lease(
    stage: Any, host: Host, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the phase was being asked for: by then the worker has another parent already."""
    monkeypatch.setattr(phase.os, "getppid", lambda: 1)
    monkeypatch.setattr(phase.multiprocessing, "parent_process", lambda: SimpleNamespace(pid=100))
    with pytest.raises(AnsibleActionFail, match="the lease will lapse"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert host.verbs() == ["advance"]


def test_a_phase_that_was_done_while_the_network_was_cut_is_done(
    stage: Any, host: Host, plan_data: dict[str, Any]
) -> None:
    host.refuse["advance"] = {"rc": 3, "stdout": "", "stderr": "run r, epoch 3 is over: restored by host at noon\n"}
    host.say(
        event(5, "phase_done", phase="measure", duration_s=4.0),
        event(6, "restore_started", by="restorer", restored_by="host"),
        is_open=False,
    )
    assert stage.play(phase, name="measure", plan=plan_data, epoch=3)["duration_s"] == 4.0


@pytest.mark.parametrize("told", [True, False])
def test_a_failure_is_told_once(stage: Any, host: Host, plan_data: dict[str, Any], told: bool) -> None:
    """Ansible tells each cause of a failure; one that is its own cause it tells until it gives up."""
    host.refuse["advance"] = {"rc": 3, "stdout": "", "stderr": "run r, epoch 3 is over: restored by host at noon\n"}
    if told:
        host.say(event(5, "phase_failed", phase="window", reason="no voice", expected="", found="", todo=""))
    else:
        host.say(is_open=False)
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="window", plan=plan_data, epoch=3)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert not any(error is one for one in chain), "a failure is its own cause"
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    texts = [str(one) for one in chain]
    assert len(texts) == len(set(texts))
    assert ("no voice" if told else "restored by host at noon") in texts[0]


@pytest.mark.parametrize("stdout", ["", "welcome to panda", "[]", '{"torn": '])
def test_an_answer_that_is_none_is_shown(stage: Any, host: Host, plan_data: dict[str, Any], stdout: str) -> None:
    host.refuse["advance"] = {"rc": 0, "stdout": stdout, "stderr": ""}
    with pytest.raises(AnsibleActionFail, match="model-trial advance: expected an object of JSON, found ") as caught:
        stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert stdout.strip() in str(caught.value)


def test_replies_none_of_which_was_good(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    done = event(8, "phase_done", phase="window", duration_s=9.5)
    host.say(done, samples=[{"name": "nav-candidate", "n": 7, "ok": 0, "p50_ms": None}])
    stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert stage.shown[-1].endswith("; nav-candidate: 7 replies, none good")


def test_a_silent_failure_has_its_code(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    host.refuse["advance"] = {"rc": 126, "stdout": "", "stderr": ""}
    with pytest.raises(AnsibleActionFail, match="126"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)


def test_a_poller_whose_play_is_gone_renews_no_lease(
    stage: Any, host: Host, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = [100, 1]
    monkeypatch.setattr(phase.os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(phase.multiprocessing, "parent_process", lambda: SimpleNamespace(pid=100))
    host.say()
    with pytest.raises(AnsibleActionFail, match="the lease will lapse"):
        stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert host.verbs() == ["advance", "poll"]


@pytest.mark.parametrize(("lease_s", "wait"), [(None, "5.0"), (60, "5.0"), (15, "5.0"), (6, "2.0"), (9, "3.0")])
def test_the_host_is_asked_three_times_within_a_lease(
    stage: Any, host: Host, plan_data: dict[str, Any], lease_s: float | None, wait: str
) -> None:
    """Asking renews the lease, and nothing else does."""
    if lease_s:
        plan_data["limits"] = {"lease_s": lease_s}
    host.say()
    host.say(event(1, "phase_started", phase="window"), event(2, "phase_done", phase="window", duration_s=3.0))
    stage.play(phase, name="window", plan=plan_data, epoch=3)
    assert [options["wait"] for verb, options in host.asked if verb == "poll"] == [wait, wait]


def test_what_strangers_say_can_not_act_on_the_terminal(stage: Any, host: Host, plan_data: dict[str, Any]) -> None:
    evil = "\x1b[2J\x07{seq}%s"
    host.say(
        event(1, "phase_started", phase="window"),
        event(2, "smoke", ok=True, strategy=1, content=evil),
        event(3, "tenant_retry", tenant="voice", wait_s=0.5, attempt=1, reason=evil),
        event(4, "drain_timeout", holders=evil),
        event(5, "phase_failed", phase="window", reason=evil, expected=evil, found=evil, todo=evil),
        samples=[{"name": evil, "n": 1, "ok": 1, "p50_ms": 2.0}],
    )
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="window", plan=plan_data, epoch=3)
    text = "\n".join([*stage.shown, str(caught.value)])
    assert "\x1b" not in text
    assert "\x07" not in text
    # Nor is it a format of anything.
    assert text.count("[2J\ufffd{seq}%s") >= 6


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_refusal_can_not_act_on_the_terminal(stage: Any, host: Host, plan_data: dict[str, Any], stream: str) -> None:
    host.refuse["open"] = {"rc": 1, "stdout": "", "stderr": "", stream: "no \x1b[2J room\r\n"}
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="snapshot", plan=plan_data)
    assert str(caught.value) == "model-trial open: no \ufffd[2J room"


# Restore.


def test_nothing_held_nothing_restored(stage: Any, host: Host) -> None:
    host.status = {**host.status, "open": None, "restored_by": "boot"}
    assert stage.play(phase, name="restore") == {"changed": False, "run": RUN, "restored_by": "boot"}
    assert host.verbs() == ["status"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"last_run": RUN, "restored_by": "boot"}, f"run {RUN} was the last one, restored by boot"),
        ({"last_run": RUN, "restored_by": None}, f"run {RUN} was the last one"),
        ({"last_run": None, "restored_by": None}, "no trial was opened here yet"),
    ],
)
def test_that_there_is_nothing_to_restore_is_said(
    stage: Any, host: Host, status: dict[str, str | None], words: str
) -> None:
    host.status = {**host.status, "open": None, **status}
    stage.play(phase, name="restore")
    assert stage.shown == [f"  panda | nothing to restore: no trial holds this host; {words}"]


def test_a_held_host_without_its_program_is_no_free_one(stage: Any, host: Host) -> None:
    host.standing = "held"
    with pytest.raises(AnsibleActionFail, match=r"found the open mark of a trial without it .*--tags acquire"):
        stage.play(phase, name="restore")


def test_a_sudo_that_refuses_is_no_free_host(stage: Any) -> None:
    stage.answer = lambda _argv: {"rc": 1, "stdout": "", "stderr": "panda is not in the sudoers file."}
    with pytest.raises(AnsibleActionFail, match="not in the sudoers file"):
        stage.play(phase, name="restore")


def test_a_restore_is_asked_for_once_and_watched(stage: Any, host: Host) -> None:
    host.say(event(18, "restore_started", by="restorer", restored_by="ann"))
    host.say(
        event(19, "containers_removed", by="restorer", count=4),
        event(20, "restored", by="restorer", restored_by="ann", duration_s=19.0, impacts={"mute": 50.0}),
        event(21, "closed", by="restorer"),
        is_open=False,
    )
    result = stage.play(phase, name="restore", by="ann")
    assert (result["changed"], result["run"], result["restored_by"]) == (True, RUN, "ann")
    assert result["impacts"] == {"mute": 50.0}
    assert host.verbs() == ["status", "restore", "poll", "poll"]
    assert host.asked[1][1] == {"by": "ann", "no-wait": ""}
    assert host.asked[2][1]["since"] == "17"
    assert stage.shown == [
        "  panda | restorer: restore started by ann",
        "  panda | restorer: 4 containers removed",
        "  panda | restorer: host restored in 19.0 s; down: {'mute': 50.0}",
    ]


def test_a_restore_that_fails_once_may_still_succeed(stage: Any, host: Host) -> None:
    host.say(
        event(18, "restore_started", by="restorer", restored_by="ann"),
        event(19, "restore_failed", by="restorer", reason="no voice", restored_by="ann"),
    )
    host.say(
        event(21, "restore_started", by="restorer", restored_by="ann"),
        event(22, "tenant_retry", by="restorer", tenant="voice", attempt=1, wait_s=0.5, reason="\x1b[2J no db"),
        event(25, "restored", by="restorer", restored_by="ann", duration_s=9.0, impacts={}),
        is_open=False,
    )
    result = stage.play(phase, name="restore")
    assert result["changed"] is True
    # A warning each: it came back, and not as it should.
    assert [line for line in stage.shown if "first try" in line] == [
        "panda did not come back at the first try: restore 1 was not complete: no voice",
        "panda did not come back at the first try: voice: start 1 failed and was tried again: \ufffd[2J no db",
    ]
    assert len(result["second_tries"]) == 2


def test_a_restore_that_fails_twice_is_told_loudly(stage: Any, host: Host) -> None:
    for seq in (18, 28):
        host.say(
            event(seq, "restore_started", by="restorer", restored_by="ann"),
            event(seq + 1, "restore_failed", by="restorer", reason=f"no voice {seq}", restored_by="ann"),
        )
    with pytest.raises(AnsibleActionFail, match=r"could NOT be restored yet; it keeps trying. no voice 28"):
        stage.play(phase, name="restore")


def test_a_restore_without_a_word_is_not_watched_indefinitely(
    stage: Any, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes nothing: it fails again and again, and no entry says so."""
    clock = [0.0]
    monkeypatch.setattr(phase.time, "monotonic", lambda: clock[0])
    host.say(event(18, "restore_started", by="restorer", restored_by="ann"))

    def answer(argv: list[str]) -> dict[str, Any]:
        clock[0] += 100
        assert clock[0] < 10_000, "it is still watched"
        if not host.polls:
            host.say()
        return host(argv)

    stage.answer = answer
    with pytest.raises(AnsibleActionFail, match=r"no event for 30 minutes.*journalctl -u mt-restore"):
        stage.play(phase, name="restore")


def test_a_restore_that_can_not_succeed_can_not_act_on_the_terminal(stage: Any, host: Host) -> None:
    for seq in (18, 28):
        host.say(event(seq, "restore_failed", by="restorer", reason="\x1b[2J", restored_by="ann"))
    with pytest.raises(AnsibleActionFail) as caught:
        stage.play(phase, name="restore")
    assert "\x1b" not in str(caught.value)
    assert str(caught.value).endswith("\ufffd[2J")


def test_a_restore_brings_its_times(stage: Any, host: Host) -> None:
    times = {"stop_s": {"a": 1.0}, "start_s": {"a": 2.0}, "drain_s": {"window": 0.5, "restore": 5.0}}
    host.say(
        event(
            20, "restored", by="restorer", restored_by="host", duration_s=9.0, down={"a": 8.0}, impacts={}, times=times
        ),
        is_open=False,
    )
    result = stage.play(phase, name="restore")
    assert (result["down"], result["impacts"], result["times"]) == ({"a": 8.0}, {}, times)


def test_a_restore_is_polled_at_its_own_pace(stage: Any, host: Host) -> None:
    host.say(is_open=False)
    result = stage.play(phase, name="restore")
    assert next(options for verb, options in host.asked if verb == "poll")["wait"] == "5.0"
    assert (result["down"], result["impacts"], result["times"]) == (None, None, None)


def test_a_host_that_was_closed_meanwhile(stage: Any, host: Host) -> None:
    host.say(is_open=False)
    result = stage.play(phase, name="restore")
    assert (result["changed"], result["restored_by"]) == (True, None)


@pytest.mark.parametrize("restored_by", [None, "ann"])
def test_a_mark_that_is_gone_is_no_proof(stage: Any, host: Host, restored_by: str | None) -> None:
    """Somebody has removed it while tenants are down; on a full disk a restore may have ended without a word."""
    host.say(event(18, "restore_started", by="restorer", restored_by="ann"))
    host.say(is_open=False)
    host.status |= {"restored_by": restored_by, "down": {"chatterbox": "noon"}}
    if restored_by:
        assert stage.play(phase, name="restore")["changed"] is True
        return
    with pytest.raises(AnsibleActionFail, match=r"removed by another party, and down, .* chatterbox since"):
        stage.play(phase, name="restore")


def test_a_host_without_the_program(stage: Any, host: Host) -> None:
    host.refuse["status"] = {"rc": 127, "stdout": "", "stderr": "model-trial: not found"}
    with pytest.raises(AnsibleActionFail, match=r"model-trial status --json: .*not found"):
        stage.play(phase, name="restore")


# What is shown.


def test_an_event_with_a_part_missing_is_shown_by_its_name(stage: Any) -> None:
    action = stage.action(phase, name="window")
    action.host = "panda"
    action.tell(event(1, "tenant_stopped", tenant="x"))
    action.tell(event(2, "tenant_stopped", tenant="x", duration_s="soon"))
    action.tell(event(3, "tenant_stopped", tenant="x", duration_s=None))
    action.tell(event(4, "prompt", prompt="secret"))
    assert stage.shown == ["  panda | runner: tenant_stopped"] * 3


def test_the_journal_of_a_real_trial_can_be_shown(stage: Any, world: Any) -> None:
    """Every line people are shown has its facts in the journal: none falls back to the bare name."""
    world.runner().run()
    world.services["chatterbox"].broken = "no voice"
    with pytest.raises(restorer.RestoreFailed):
        restorer.Restorer(world.plan, world.state, gpu.Opening(0), "ann").restore()
    world.services["chatterbox"].broken = ""
    restorer.Restorer(world.plan, world.state, gpu.Opening(0), "ann").restore()
    action = stage.action(phase, name="window")
    action.host = "panda"
    told = set()
    for entry in world.events():
        before = len(stage.shown)
        action.tell(entry)
        if len(stage.shown) > before:
            told.add(entry["event"])
            assert not stage.shown[-1].endswith(f": {entry['event']}"), entry
    assert {"tenant_stopped", "drained", "gate", "smoke", "extension", "tenant_failed", "restored"} <= told


def test_the_hosts_answers_are_those_the_action_reads(
    stage: Any, world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The action against the real verbs: snapshot, then a restore that has nothing to wait for."""

    def real(argv: list[str]) -> dict[str, Any]:
        capsys.readouterr()
        if argv[0] == "test":
            return {"rc": 0, "stdout": "installed\n"}
        rc = program.main(["--root", str(world.state.root), *argv[1:]])
        if argv[1] == "restore":
            assert program.main(["--root", str(world.state.root), "restore-now"]) == 0
        out, err = capsys.readouterr()
        return {"rc": rc, "stdout": out, "stderr": err}

    stage.answer = real
    data = json.loads((world.run_dir / "plan.json").read_text())
    result = stage.play(phase, name="snapshot", plan=data, controller="ann")
    assert result["epoch"] == world.state.epoch() == 1
    result = stage.play(phase, name="restore", by="ann")
    assert (result["changed"], result["run"], result["restored_by"]) == (True, world.plan.run, "ann")
    assert stage.play(phase, name="restore")["changed"] is False


def test_a_host_without_the_program_has_nothing_to_restore(stage: Any, host: Host) -> None:
    host.standing = "free"
    result = stage.play(phase, name="restore")
    assert result["changed"] is False
    assert host.asked == []
