# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hook: what it is told, when, by whom, and that its trouble is nobody else's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    gpu,
    hook,
    journal,
    plan,
    planfile,
    program,
    restorer,
)

if TYPE_CHECKING:
    from fakecommands import Commands
    from fakeworld import World

WorldOf = Callable[[dict[str, Any]], "World"]

HOOK = {"command": ["/usr/local/bin/notify", "--to", "ann"], "user": "robot"}
STARTER = "systemd-run --quiet --collect --no-block"


@pytest.fixture
def trial(plan_data: dict[str, Any]) -> plan.Plan:
    """A plan with a hook."""
    return planfile.parse({**plan_data, "hook": HOOK})


@pytest.fixture
def written(tmp_path: Path) -> journal.Journal:
    """A journal that a restore writes."""
    return journal.Journal(tmp_path / "journal.jsonl", "r", 2, "restorer", required=False)


@pytest.fixture
def hooked(world_of: WorldOf, plan_data: dict[str, Any]) -> World:
    """A host whose plan has a hook."""
    return world_of({**plan_data, "hook": HOOK})


@pytest.fixture
def verb(hooked: World, capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Runs a verb on that host."""

    def run(*words: str) -> int:
        code = program.main(["--root", str(hooked.state.root), *words])
        capsys.readouterr()
        return code

    return run


def told(world: World) -> list[dict[str, str]]:
    """What the hook was told so far, call by call."""
    return [dict(word.split("=", 1) for word in entry[1:]) for entry in world.done("hook")]


def only_call(commands: Commands) -> tuple[list[str], dict[str, str], list[str]]:
    """The one call of systemd-run: its options, the hook's environment, the hook's argv."""
    (argv,) = commands.calls("systemd-run")
    split = argv.index("--")
    env = [word.removeprefix("--setenv=") for word in argv[:split] if word.startswith("--setenv=")]
    options = [word for word in argv[:split] if not word.startswith("--setenv=")]
    return options, dict(word.split("=", 1) for word in env), argv[split + 1 :]


# How it is called.


def test_without_a_hook_nobody_is_called(
    commands: Commands, plan_data: dict[str, Any], written: journal.Journal
) -> None:
    hook.call(planfile.parse(plan_data), written, hook.OPENED)
    assert commands.calls("systemd-run") == []
    assert journal.read(written.path) == []


def test_it_runs_as_its_user_in_a_unit_of_its_own(
    commands: Commands, trial: plan.Plan, written: journal.Journal
) -> None:
    commands.answer(STARTER)
    hook.call(trial, written, hook.CLOSED, "restored by host")
    options, env, argv = only_call(commands)
    assert argv == HOOK["command"]
    assert env == {
        "MODEL_TRIAL_EVENT": "closed",
        "MODEL_TRIAL_RUN": trial.run,
        "MODEL_TRIAL_HOST": trial.host,
        "MODEL_TRIAL_REASON": "restored by host",
    }
    assert "--uid=robot" in options
    assert f"--property=RuntimeMaxSec={hook.LIMIT_S}" in options
    assert f"--property=TimeoutStopSec={hook.END_S}" in options
    assert journal.read(written.path) == []


def test_nobody_waits_for_its_end(commands: Commands, trial: plan.Plan, written: journal.Journal) -> None:
    commands.answer(STARTER)
    hook.call(trial, written, hook.OPENED)
    options, _env, _argv = only_call(commands)
    assert {"--no-block", "--collect"} <= set(options)
    assert not {"--wait", "--pipe", "--scope", "--pty"} & set(options)


def test_two_calls_are_two_units(commands: Commands, trial: plan.Plan, written: journal.Journal) -> None:
    commands.answer(STARTER)
    for _unused in range(2):
        hook.call(trial, written, hook.RESTORE_FAILED)
    units = {word for argv in commands.calls("systemd-run") for word in argv if word.startswith("--unit=mt-hook-")}
    assert len(units) == 2


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("", ""),
        ("first\nsecond\nthird", "first"),
        ("\nsecond", ""),
        ("x" * 5_000, "x" * 200),
        (
            "\x1b[31mred\x07 \x00\r",
            "\N{REPLACEMENT CHARACTER}[31mred" + "\N{REPLACEMENT CHARACTER}".join(["", " ", "", ""]),
        ),
        ("right to \u202eleft", "right to \N{REPLACEMENT CHARACTER}left"),
        ("no text: \udcff", "no text: \N{REPLACEMENT CHARACTER}"),
        ("schöne Grüße", "schöne Grüße"),
    ],
    ids=["none", "first line", "empty first line", "long", "controls", "direction", "surrogate", "letters"],
)
def test_the_reason_is_one_short_printable_line(
    commands: Commands, trial: plan.Plan, written: journal.Journal, reason: str, line: str
) -> None:
    commands.answer(STARTER)
    hook.call(trial, written, hook.RESTORE_FAILED, reason)
    assert only_call(commands)[1]["MODEL_TRIAL_REASON"] == line


def test_systemd_expands_nothing_in_its_words(
    commands: Commands, plan_data: dict[str, Any], written: journal.Journal
) -> None:
    """What a tenant said would stand in the middle of a shell's line: systemd reads a doubled dollar as one."""
    line = 'notify "$MODEL_TRIAL_REASON" "${MODEL_TRIAL_RUN}" 5$'
    commands.answer(STARTER)
    hook.call(planfile.parse({**plan_data, "hook": {"command": ["sh", "-c", line]}}), written, hook.CLOSED)
    options, _env, argv = only_call(commands)
    assert argv == ["sh", "-c", line.replace("$", "$$")]
    assert "--uid=nobody" in options


# Its trouble.


def test_a_hook_that_can_not_be_started_is_journaled(
    commands: Commands, trial: plan.Plan, written: journal.Journal
) -> None:
    commands.answer(STARTER, rc=1, err="Failed to start transient service unit: no such user\n")
    hook.call(trial, written, hook.OPENED)
    (entry,) = journal.read(written.path)
    assert (entry["event"], entry["hook_event"]) == ("hook_failed", "opened")
    assert entry["reason"] == "Failed to start transient service unit: no such user"


def test_a_host_without_systemd_run_costs_the_word_only(
    trial: plan.Plan, written: journal.Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    hook.call(trial, written, hook.OPENED)
    (entry,) = journal.read(written.path)
    assert entry["event"] == "hook_failed"
    assert "systemd-run" in entry["reason"]


def test_a_systemd_that_hangs_is_given_up(
    commands: Commands, trial: plan.Plan, written: journal.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "_START_S", 0.3)
    commands.answer(STARTER, sleep_s=20)
    began = time.monotonic()
    hook.call(trial, written, hook.CLOSED)
    assert time.monotonic() - began < 15
    (entry,) = journal.read(written.path)
    assert (entry["event"], entry["hook_event"]) == ("hook_failed", "closed")
    assert "timed out" in entry["reason"]


def test_a_full_disk_does_not_make_a_failed_hook_worse(commands: Commands, trial: plan.Plan, tmp_path: Path) -> None:
    commands.answer(STARTER, rc=1, err="no\n")
    nowhere = journal.Journal(tmp_path / "gone" / "journal.jsonl", "r", 2, "restorer", required=False)
    hook.call(trial, nowhere, hook.CLOSED)
    assert len(commands.calls("systemd-run")) == 1


# When it is called.


def test_it_is_told_when_a_trial_opens_and_when_it_closes(
    hooked: World, verb: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str]] = []
    command = hooked.command

    def spy(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        if "--no-block" in argv and argv[0] == "systemd-run":
            seen.append((hooked.state.mark() is not None, hooked.named()[-1]))
        return command(argv, cwd)

    monkeypatch.setattr(hooked, "command", spy)
    assert verb("open", f"--run={hooked.plan.run}", "--controller=ann") == 0
    hooked.runner().run()
    assert verb("restore", "--by=hand") == 0
    assert verb("restore-now") == 0
    assert told(hooked) == [
        {"EVENT": "opened", "RUN": hooked.plan.run, "HOST": "panda", "REASON": "by ann"},
        {"EVENT": "closed", "RUN": hooked.plan.run, "HOST": "panda", "REASON": "restored by hand"},
    ]
    # What it tells is so by then: opened with the mark, closed when the host is free.
    assert seen == [(True, "opened"), (False, "closed")]


SENTENCE = "ADOPT: fits: 6.2 of 5.5-7.5 GB; " + "; ".join(
    [*["obeys in 60 of 60 scenes"] * 30, "describe judged better"]
)


def test_it_is_told_what_was_decided(hooked: World, verb: Callable[..., int]) -> None:
    assert verb("open", f"--run={hooked.plan.run}") == 0
    hooked.runner().run()
    assert verb("restore-now") == 0
    before = len(hooked.events())
    assert verb("decided", f"--run={hooked.plan.run}", f"{SENTENCE}\nand more") == 0
    assert told(hooked)[-1] == {
        "EVENT": "decided",
        "RUN": hooked.plan.run,
        "HOST": "panda",
        # Longer than a reason may be, so that no fact is missing; one line, because it stands in a process list.
        "REASON": SENTENCE,
    }
    assert len(hooked.events()) == before
    assert 800 < len(SENTENCE) < 1000


def test_without_a_hook_a_verdict_is_told_to_nobody(
    world_of: WorldOf, plan_data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world = world_of(plan_data)
    assert program.main(["--root", str(world.state.root), "open", f"--run={world.plan.run}"]) == 0
    assert program.main(["--root", str(world.state.root), "decided", f"--run={world.plan.run}", SENTENCE]) == 0
    assert told(world) == []
    capsys.readouterr()


@pytest.mark.parametrize("run", ["gone", "../../etc", ""])
def test_a_verdict_about_a_run_that_is_not_there_is_refused(
    hooked: World, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--root", str(hooked.state.root), "decided", f"--run={run}", "ADOPT"]) == 1
    assert capsys.readouterr().err.startswith("decided: ")
    assert told(hooked) == []


def test_a_trial_that_does_not_open_tells_nobody(hooked: World, verb: Callable[..., int]) -> None:
    hooked.stop("phone", by="somebody")
    assert verb("open", f"--run={hooked.plan.run}") == 1
    assert told(hooked) == []


def test_failures_are_told_ever_more_rarely(hooked: World, verb: Callable[..., int]) -> None:
    """A message every minute is soon ignored."""
    verb("open", f"--run={hooked.plan.run}")
    hooked.runner().run()
    hooked.services["chatterbox"].broken = "no voice"
    heard = []
    for attempt in range(1, 10):
        assert verb("restore-now") == 1
        heard += [attempt] * (len(told(hooked)) - 1 - len(heard))
    assert heard == [1, 2, 4, 8]
    assert {call["EVENT"] for call in told(hooked)[1:]} == {"restore_failed"}
    assert told(hooked)[-1]["REASON"].startswith("chatterbox: './start.sh' ended with 1")
    hooked.services["chatterbox"].broken = ""
    assert verb("restore-now") == 0
    assert told(hooked)[-1]["EVENT"] == "closed"


def test_a_failing_hook_changes_nothing_but_the_journal(hooked: World, verb: Callable[..., int]) -> None:
    hooked.hook_rc = 1
    assert verb("open", f"--run={hooked.plan.run}") == 0
    hooked.runner().run()
    assert verb("restore-now") == 0
    assert all(hooked.up(name) for name in hooked.services)
    assert hooked.state.mark() is None
    failed = [(e["hook_event"], e["reason"]) for e in hooked.events() if e["event"] == "hook_failed"]
    assert failed == [("opened", "no such user"), ("closed", "no such user")]


def test_a_hook_that_hangs_keeps_nobody_down(hooked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked.runner().run()
    command = hooked.command

    def hang(argv: list[str], cwd: str = "") -> tuple[int, str, str]:
        if argv[0] == "systemd-run" and "--no-block" in argv:
            assert all(hooked.up(name) for name in hooked.services)
            raise TimeoutError("systemd-run timed out")
        return command(argv, cwd)

    monkeypatch.setattr(hooked, "command", hang)
    restorer.Restorer(hooked.plan, hooked.state, gpu.Opening(0), "host").restore()
    assert hooked.state.mark() is None
    assert hooked.named()[-2:] == ["closed", "hook_failed"]
