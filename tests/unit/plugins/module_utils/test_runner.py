# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Phases 2 to 5 in a made-up host: what is done, in which order, what ends it, and that it never restores."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pwd
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fakeworld
import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    gpu,
    journal,
    planfile,
    probes,
    runner,
    sessions,
    tenants,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import A2_LABEL, RUN_LABEL
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import Held
from ansible_collections.edgelab.model_trial.plugins.module_utils.runner import PhaseFailed

if TYPE_CHECKING:
    from fakeworld import World

WorldOf = Callable[[dict[str, Any]], "World"]

MIB_PER_GB = 1024
# Start, size (640 x 480), start of the picture, one byte of it, end.
JPEG = (
    b"\xff\xd8\xff\xc0\x00\x0b\x08\x01\xe0\x02\x80\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00\xff\xd9"
)


def program_journal(world: World) -> journal.Journal:
    """The journal as the program writes it before a trial is open."""
    return journal.Journal(world.state.journal_path(world.plan.run), world.plan.run, 0, "program", required=True)


def prepare(world: World) -> None:
    """Phase 2, first half."""
    runner.prepare(world.plan, world.state, program_journal(world))


def fails(world: World, furthest: str = "measure") -> dict[str, Any]:
    """Run the window, which must fail; returns the facts of the failure, as journaled."""
    trial = world.runner(furthest)
    with pytest.raises(PhaseFailed) as caught:
        trial.run()
    failed = [e for e in world.events() if e["event"] == "phase_failed"]
    assert len(failed) == 1, "every failure is journaled, once"
    assert failed[0]["reason"] == caught.value.facts["reason"]
    restores_nothing(world)
    return failed[0]


def restores_nothing(world: World) -> None:
    """The runner starts no tenant, ends no container and closes nothing: that is the restorer's."""
    assert world.done("start", "docker", "kill") == []
    assert world.state.mark() is not None
    assert all(sampler.stopped for sampler in world.samplers)
    assert not [e for e in world.events() if e["event"] in ("restore_started", "tenant_starting", "restored")]


# Phase 2, first half: prepare.


def test_preparing_touches_no_tenant(world: World) -> None:
    prepare(world)
    assert world.done("start", "stop", "systemctl", "kill") == []
    assert all(world.up(name) for name in world.services)
    assert world.state.mark() is None


def test_all_containers_are_created_and_only_the_live_sample_is_started(world: World) -> None:
    prepare(world)
    assert world.done("container") == [("container", "mt-client-tenants")]
    status = {c["name"]: c["status"] for c in world.docker.all()}
    assert status == {
        "panda-llamacpp-e4b": "created",
        "mt-client-tenants": "exited",
        "mt-client-a1": "created",
        "mt-client-candidate": "created",
        "mt-client-a2": "created",
    }


def test_the_live_model_is_sampled_with_everybody_up(world: World) -> None:
    prepare(world)
    lines = (world.run_dir / "samples" / "nav-baseline-tenants.jsonl").read_text().splitlines()
    assert len(lines) == world.plan.decider.tenants_n


def test_what_earlier_runs_left_is_removed_first(world: World) -> None:
    world.docker.add("mt-client-a1", RUN_LABEL, "an-old-run", status="running")
    world.docker.add("mt-client-a2", A2_LABEL, "an-old-run")
    world.docker.add("tenants-own", "com.example", "x", status="running")
    prepare(world)
    assert {c["labels"].get(RUN_LABEL) for c in world.docker.all()} == {world.plan.run, None}
    assert world.docker.get("tenants-own")


def test_the_inputs_lie_ready(world: World) -> None:
    prepare(world)
    inputs = world.run_dir / "inputs"
    assert (inputs / "prompt.txt").read_text().startswith(f"prompt of {world.plan.contracts.prompt.call}")
    assert (inputs / "camera.jpg").read_bytes() == b"jpeg"
    assert "def build_vlm_prompt" in (inputs / "prompt_source.py").read_text()
    sessions = sorted(p.name for p in inputs.glob("session-*.json"))
    assert sessions == [f"session-{s}.json" for s in ("a1", "a2", "candidate", "tenants")]
    assert planfile.load(world.run_dir / "plan.json") == world.plan


def test_the_users_own_workload_lies_with_the_inputs(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["workloads"][0]["text"] = "messages: []\n"
    world = world_of(plan_data)
    prepare(world)
    assert (world.run_dir / "inputs" / "nav.yml").read_text() == "messages: []\n"


def test_productions_own_parser_lies_with_the_inputs(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    world = world_of(plan_data)
    prompt = world.plan.contracts.prompt
    plan_data["contracts"]["parser"] = {"file": prompt.file, "function": prompt.function}
    world.plan = planfile.parse(
        {**plan_data, "contracts": {**plan_data["contracts"], "prompt": dataclasses.asdict(prompt)}}
    )
    prepare(world)
    assert "def build_vlm_prompt" in (world.run_dir / "inputs" / "parser_source.py").read_text()


def test_a_home_folder_is_the_login_users_and_not_roots(
    world_of: WorldOf, plan_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phase 0 looks as the login user, the program prepares as root by sudo: both must mean the same files."""
    world = world_of(plan_data)
    own = world.plan.contracts
    contracts = dataclasses.replace(
        own, camera="~/car-view.jpg", prompt=dataclasses.replace(own.prompt, file="~/server.py")
    )
    world.plan = dataclasses.replace(world.plan, contracts=contracts)
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("SUDO_USER", "ann")
    monkeypatch.setattr(
        pwd, "getpwnam", lambda name: SimpleNamespace(pw_dir=f"{world.folder}" if name == "ann" else "/")
    )
    prepare(world)
    assert (world.run_dir / "inputs" / "camera.jpg").read_bytes() == b"jpeg"
    assert "def build_vlm_prompt" in (world.run_dir / "inputs" / "prompt_source.py").read_text()


def scenes_of(plan_data: dict[str, Any], folder: Path, table: str) -> None:
    folder.mkdir()
    for name, last in (("ball", b"\1"), ("cup", b"\2")):
        (folder / f"{name}.jpg").write_bytes(JPEG[:-3] + last + JPEG[-2:])
    (folder / "labels.csv").write_text(table)
    plan_data["scenes"] = {"folder": str(folder), "labels": "labels.csv"}


def test_scenes_lie_with_the_inputs_each_with_its_own_prompt(
    world_of: WorldOf, plan_data: dict[str, Any], tmp_path: Path
) -> None:
    table = "image,id,goal,expected\nball.jpg,ball,a ball,left large\nball.jpg,thing,,\ncup.jpg,cup,a cup,\n"
    scenes_of(plan_data, tmp_path / "views", table)
    world = world_of(plan_data)
    prepare(world)
    inputs = world.run_dir / "inputs"
    asked = {entry.pop("id"): entry for entry in json.loads((inputs / "scenes.json").read_text())}
    call = "prompt of build_vlm_prompt"
    assert asked == {
        "ball": {
            "image": "scenes/ball.jpg",
            "expected": "left large",
            "variables": {"prompt": f"{call}(goal='a ball')"},
        },
        "thing": {"image": "scenes/ball.jpg", "variables": {"prompt": f"prompt of {world.plan.contracts.prompt.call}"}},
        "cup": {"image": "scenes/cup.jpg", "variables": {"prompt": f"{call}(goal='a cup')"}},
    }
    # What is only shown has one prompt of its own, so one picture is one question.
    shown = json.loads((inputs / "pictures.json").read_text())
    assert sorted(entry["image"] for entry in shown) == ["scenes/ball.jpg", "scenes/cup.jpg"]
    assert (inputs / "scenes" / "ball.jpg").read_bytes() == JPEG[:-3] + b"\1" + JPEG[-2:]
    assert (inputs / "scenes").stat().st_mode & 0o777 == 0o755
    session = json.loads((inputs / "session-candidate.json").read_text())
    assert {one["id"]: one["scenes"] for one in session["segments"]} == {
        "smoke-candidate": "/in/scenes.json",
        "nav-candidate": "/in/scenes.json",
        "nav-candidate-cached": "/in/scenes.json",
        "describe-candidate": "/in/pictures.json",
    }


@pytest.mark.parametrize(
    "name", ["front view (1).jpg", ".hidden.jpg", "b\u00e4r.jpg", f"{'x' * 240}.jpg", "-.jpg", "a\n.jpg"]
)
def test_a_picture_with_an_odd_name_comes_home_too(
    world_of: WorldOf, plan_data: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """A harvest takes plain names alone; what was asked must be among the results."""
    scenes_of(plan_data, tmp_path / "views", "image\n")
    (tmp_path / "views" / name).write_bytes(JPEG[:-3] + b"\3" + JPEG[-2:])
    world = world_of(plan_data)
    prepare(world)
    inputs = world.run_dir / "inputs"
    rows = json.loads((inputs / "scenes.json").read_text())
    assert {row["image"] for row in rows} > {"scenes/ball.jpg", "scenes/cup.jpg"}
    for row in rows:
        assert re.fullmatch(r"scenes/[A-Za-z0-9][A-Za-z0-9._-]{0,199}", row["image"])
        assert (inputs / row["image"]).is_file()


def test_one_prompt_for_all_scenes_is_that_of_the_workload(
    world_of: WorldOf, plan_data: dict[str, Any], tmp_path: Path
) -> None:
    scenes_of(plan_data, tmp_path / "views", "image,expected\nball.jpg,left large\n")
    world = world_of(plan_data)
    prepare(world)
    asked = json.loads((world.run_dir / "inputs" / "scenes.json").read_text())
    assert [set(entry) - {"expected"} for entry in asked] == [{"id", "image"}] * 2


def test_one_prompt_for_all_scenes_may_be_another_than_that_of_the_workload(
    world_of: WorldOf, plan_data: dict[str, Any], tmp_path: Path
) -> None:
    scenes_of(plan_data, tmp_path / "views", "image,goal\nball.jpg,a way out\ncup.jpg,a way out\n")
    world = world_of(plan_data)
    prepare(world)
    asked = json.loads((world.run_dir / "inputs" / "scenes.json").read_text())
    prompts = {entry["variables"]["prompt"] for entry in asked}
    assert prompts == {"prompt of build_vlm_prompt(goal='a way out')"}


def test_scenes_that_are_gone_end_the_trial_early(world_of: WorldOf, plan_data: dict[str, Any], tmp_path: Path) -> None:
    scenes_of(plan_data, tmp_path / "views", "image\nball.jpg\n")
    world = world_of(plan_data)
    (tmp_path / "views" / "cup.jpg").write_bytes(JPEG[:-2])
    with pytest.raises(PhaseFailed, match=r"could not be prepared: .*cup\.jpg: the JPEG has no end"):
        prepare(world)
    assert world.done("start", "stop") == []


def test_a_session_that_was_told_to_stop_is_not_through(world: World) -> None:
    """docker's own stop sends its containers SIGTERM: the client then writes what it has, and that it was stopped."""
    from fakeworld import Client

    summarize = Client._summarize

    def stopped(client: Any, name: str, code: int, why: str | None) -> int:
        return summarize(client, name, 3, "signal" if client.name == "candidate" else why)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_summarize", stopped)
        with pytest.raises(PhaseFailed, match="measuring stopped early"):
            world.runner().run()


def test_clients_may_read_inputs_and_write_samples_only(world: World) -> None:
    prepare(world)
    inputs, control, samples = (world.run_dir / name for name in ("inputs", "control", "samples"))
    assert world.chowned == [(inputs, 0, 10001), (control, 0, 10001), (samples, 10001, 10001)]
    for folder in (world.state.root, world.state.root / "runs", world.run_dir, world.run_dir / "logs", samples):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    for folder in (inputs, control):
        assert folder.stat().st_mode & 0o777 == 0o750, folder
    for path in (world.run_dir / "inputs").iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path
    for name in ("plan.json", "journal.jsonl"):
        assert (world.run_dir / name).stat().st_mode & 0o077 == 0, name


def test_preparing_is_journaled_with_prompt_and_hash(world: World) -> None:
    prepare(world)
    assert world.named() == ["phase_started snapshot", "prompt", "segment_done", "phase_done snapshot"]
    prompt = world.events()[1]
    assert prompt["prompt"] == (world.run_dir / "inputs" / "prompt.txt").read_text()
    assert len(prompt["function_sha256"]) == 64


def break_docker(world: World) -> None:
    (world.docker.folder / "down").write_text("")


def break_prompt(world: World) -> None:
    Path(world.plan.contracts.prompt.file).write_text("def other():\n    pass\n")


def break_prompt_run(world: World) -> None:
    Path(world.plan.contracts.prompt.file).write_text("def build_vlm_prompt(goal):\n    raise ValueError\n")


def break_camera(world: World) -> None:
    Path(world.plan.contracts.camera).unlink()


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (break_docker, "Cannot connect to the Docker daemon"),
        (break_prompt, "build_vlm_prompt"),
        (break_prompt_run, "no prompt today"),
        (break_camera, "car-view.jpg"),
    ],
    ids=["docker", "prompt", "prompt run", "camera"],
)
def test_what_can_not_be_had_is_said_before_anything_is_touched(
    world: World, trouble: Callable[[World], None], words: str
) -> None:
    trouble(world)
    with pytest.raises(PhaseFailed, match="could not be prepared") as caught:
        prepare(world)
    assert words in caught.value.facts["reason"]
    assert "nothing was touched" in caught.value.facts["todo"]
    assert world.done("start", "stop") == []


def test_a_live_model_that_can_not_be_sampled_ends_the_trial_early(world: World) -> None:
    world.client_codes["tenants"] = 4
    with pytest.raises(PhaseFailed, match="could not be sampled") as caught:
        prepare(world)
    assert "http://127.0.0.1:11435" in caught.value.facts["expected"]
    assert "code 4: tenants ended with 4" in caught.value.facts["found"]
    assert "llamacpp" in caught.value.facts["todo"]


def test_a_live_model_with_some_bad_replies_is_good_enough(world: World) -> None:
    world.client_codes["tenants"] = 3
    prepare(world)
    assert world.named()[-1] == "phase_done snapshot"


@pytest.mark.parametrize(
    ("replies", "found"),
    [([fakeworld.BAD] * 2, "2 failed, the first one by http_401: 'a key, please'"), ([], "no reply at all")],
    ids=["errors", "nothing"],
)
def test_a_live_model_without_a_good_reply_is_nothing_to_compare_with(
    world: World, replies: list[dict[str, Any]], found: str
) -> None:
    """Before the window, while everybody is up; a wrong URL, key or model name looks like this."""
    world.client_codes["tenants"], world.replies["tenants"] = 3, replies
    with pytest.raises(PhaseFailed, match="no good reply") as caught:
        prepare(world)
    assert "http://127.0.0.1:11435 to the workload nav" in caught.value.facts["expected"]
    assert caught.value.facts["found"] == found
    assert "llamacpp" in caught.value.facts["todo"]
    assert world.done("start", "stop") == []


def test_a_second_try_begins_with_empty_folders(world: World) -> None:
    """What a first try left (signs, summaries, samples) would be taken for the second one's."""
    world.client_codes["tenants"] = 4
    with pytest.raises(PhaseFailed):
        prepare(world)
    (world.run_dir / "control" / "start-a1").write_text("{}")
    (world.run_dir / "samples" / "summary-nav-baseline-a1.json").write_text('{"exit_code": 0}')
    world.client_codes.clear()
    prepare(world)
    assert list((world.run_dir / "control").iterdir()) == []
    names = sorted(p.name for p in (world.run_dir / "samples").iterdir())
    assert names == ["nav-baseline-tenants.jsonl", "summary-nav-baseline-tenants.json"]


# Phase 2, second half: snapshot and open.


def test_the_journals_space_is_set_aside_before_anything_is_marked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, int, bool]] = []
    monkeypatch.setattr(
        runner, "reserve", lambda path: seen.append((path, world.state.epoch(), world.state.mark() is not None))
    )
    world.open()
    assert seen == [(world.state.journal_path(world.plan.run), 0, False)]


def test_without_room_for_the_journal_nothing_is_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(world)

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "reserve", full)
    with pytest.raises(PhaseFailed, match="no room for the journal") as caught:
        runner.open_trial(world.plan, world.state, world.card, "ann")
    assert caught.value.facts["expected"] == f"{journal.RESERVED_BYTES} bytes"
    assert "No space left" in caught.value.facts["found"]
    assert caught.value.facts["todo"] == "nothing was touched"
    assert (world.state.mark(), world.state.epoch()) == (None, 0)
    assert not (world.run_dir / "snapshot.json").exists()
    assert world.done("stop", "start") == []


def test_opening_leaves_snapshot_mark_lease_and_a_line(world: World) -> None:
    assert world.open("ann@laptop") == 1
    mark = world.state.mark()
    assert mark
    assert (mark.run, mark.epoch, mark.controller) == (world.plan.run, 1, "ann@laptop")
    assert mark.boot_id == journal.boot_id()
    snapshot = journal.read_json(world.run_dir / "snapshot.json")
    assert (snapshot["run"], snapshot["epoch"], snapshot["boot_id"]) == (world.plan.run, 1, mark.boot_id)
    assert set(snapshot["tenants"]) == set(world.services)
    assert world.state.lease_age_s() < 0.001
    assert world.state.guard(world.plan.run, 1) == mark
    opened = world.events()[-1]
    assert (opened["event"], opened["epoch"]) == ("opened", 1)
    assert opened["stop_order"] == ["chatterbox", "llamacpp"]
    assert world.log == []


def test_the_snapshot_is_durable_before_the_mark(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(world)
    seen: list[Any] = []
    write = journal.write_atomic

    def spy(path: Path, text: str, mode: int = 0o600) -> None:
        if path.name == "open":
            seen.append((world.state.epoch(), (world.run_dir / "snapshot.json").exists()))
        write(path, text, mode)

    monkeypatch.setattr(journal, "write_atomic", spy)
    runner.open_trial(world.plan, world.state, world.card, "ann")
    assert seen == [(1, True)]


def test_a_second_trial_is_refused_with_the_holders_name(world: World) -> None:
    world.open("ann@laptop")
    mark = world.state.mark()
    assert mark
    with pytest.raises(Held) as caught:
        runner.open_trial(world.plan, world.state, world.card, "bob")
    assert str(caught.value) == f"this host is held by run {world.plan.run} since {mark.since} (from ann@laptop)"
    assert world.state.epoch() == 1


def test_a_host_that_is_not_well_is_not_opened(world: World) -> None:
    prepare(world)
    world.stop("phone")
    with pytest.raises(PhaseFailed, match="not healthy") as caught:
        runner.open_trial(world.plan, world.state, world.card, "ann")
    assert caught.value.facts["found"] == "phone: not running"
    assert world.state.mark() is None
    assert world.state.epoch() == 0


# The window as a whole.

WHOLE = [
    "phase_started window",
    "tenant_stopping chatterbox",
    "tenant_stopped chatterbox",
    "segment_done",
    "tenant_stopping llamacpp",
    "tenant_stopped llamacpp",
    "drain_started",
    "drained",
    "phase_done window",
    "phase_started candidate",
    "candidate_starting",
    "candidate_started",
    "candidate_healthy",
    "gate",
    "smoke",
    "phase_done candidate",
    "phase_started measure",
    "gate",
    "extension",
    "segment_done",
    "gate",
    "phase_done measure",
]


def test_a_whole_window_in_order(world: World) -> None:
    world.runner().run()
    names = world.named()
    assert names[names.index("opened") + 1 :] == WHOLE
    assert [entry for entry in world.log if entry[0] != "systemctl"] == [
        ("container", "mt-client-a1"),
        ("stop", "chatterbox"),
        ("measured", "a1"),
        ("stop", "llamacpp"),
        ("container", "panda-llamacpp-e4b"),
        ("container", "mt-client-candidate"),
        ("measured", "candidate"),
        ("hold", "measure", 1),
        ("hold", "extend", 100),
    ]
    restores_nothing(world)


def test_every_entry_of_the_runner_carries_run_and_epoch(world: World) -> None:
    world.runner().run()
    mine = [e for e in world.events() if e["by"] == "runner"]
    assert len(mine) == len(WHOLE)
    assert {(e["run"], e["epoch"], e["boot_id"]) for e in mine} == {(world.plan.run, 1, journal.boot_id())}
    durations = [e["duration_s"] for e in mine if "duration_s" in e]
    assert len(durations) == 7
    assert all(d >= 0 for d in durations)


def test_the_untouched_stay_untouched(world: World) -> None:
    before = {name: world.services[name].pid for name in ("nav", "phone")}
    world.runner().run()
    assert {name: world.services[name].pid for name in ("nav", "phone")} == before
    assert not world.up("chatterbox")
    assert not world.up("llamacpp")


def test_the_vram_series_has_a_segment_for_every_phase(world: World) -> None:
    world.runner().run()
    early, sampler = world.samplers
    # With everybody up the live model is sampled in phase 2, before there is a runner.
    assert early.segments == ["snapshot"]
    assert sampler.segments == ["snapshot", "window", "candidate", "measure"]
    assert early.path == sampler.path == world.run_dir / "vram.jsonl"
    assert early.stopped


def test_a_card_that_can_not_be_opened_costs_the_preparation_its_series_and_nothing_else(world: World) -> None:
    world.card.opens = False
    prepare(world)
    assert world.samplers == []
    assert world.events()[-1]["event"] == "phase_done"


def test_a_series_of_an_attempt_that_could_not_be_opened_is_not_this_ones(world: World) -> None:
    (world.run_dir).mkdir(parents=True, exist_ok=True)
    (world.run_dir / "vram.jsonl").write_text("old\n")
    prepare(world)
    assert not (world.run_dir / "vram.jsonl").exists()


def test_all_samples_are_there(world: World) -> None:
    world.runner().run()
    counts = {p.stem: len(p.read_text().splitlines()) for p in (world.run_dir / "samples").glob("*.jsonl")}
    assert counts == {
        "nav-baseline-tenants": 20,
        "nav-baseline-a1": 100,
        "describe-baseline": 5,
        "smoke-candidate": 1,
        "nav-candidate": 100,
        "nav-candidate-cached": 20,
        "describe-candidate": 5,
    }


# Who says how far.


def test_no_phase_begins_before_it_is_allowed(world: World) -> None:
    """The controller lets the run go on at 5, 15 and 25 s; until then nothing of the next phase happens."""
    trial = world.runner("snapshot")
    began = world.clock.now
    for seconds, phase in ((5, "window"), (15, "candidate"), (25, "measure")):
        world.clock.after(seconds, lambda phase=phase: world.state.advance(phase))
    trial.run()
    started = {e["phase"]: e["t_s"] - began for e in world.events() if e["event"] == "phase_started"}
    assert 5 <= started["window"] < 5.2
    assert 15 <= started["candidate"] < 15.2
    assert 25 <= started["measure"] < 25.2
    stopped = [service.stops[0] - began for service in world.services.values() if service.stops]
    assert min(stopped) >= 5


@pytest.mark.parametrize(
    ("furthest", "events"),
    [("snapshot", []), ("window", WHOLE[:9]), ("candidate", WHOLE[:16])],
    ids=["snapshot", "window", "candidate"],
)
def test_a_run_waits_where_its_leave_ends(world: World, furthest: str, events: list[str]) -> None:
    world.clock.after(15, lambda: world.state.ask("abort", "ann"))
    failed = fails(world, furthest)
    names = world.named()
    assert names[names.index("opened") + 1 : -1] == events
    # It waits for leave at the door of the next phase, and says so when it is ended there.
    assert failed["phase"] == journal.PHASES[journal.PHASES.index(furthest) + 1]
    assert failed["reason"] == "aborted by ann"


# The fence.


def goes_on() -> None:
    """What must not happen: a run that nobody ends never ends in a fake world."""
    raise AssertionError("the run goes on")


def test_a_lapsed_lease_ends_the_run(world: World) -> None:
    world.open()
    trial_began = world.clock.now
    world.controller = lambda: None
    world.clock.after(120, goes_on)
    failed = fails(world, "window")
    assert failed["reason"] == "the lease lapsed"
    assert "60 s" in failed["expected"]
    assert "harvest.yml" in failed["todo"]
    assert 60 < world.clock.now - trial_began < 63


def test_a_lease_counts_from_its_last_renewal(world: World) -> None:
    trial_began = world.clock.now
    world.clock.after(20, lambda: setattr(world, "controller", lambda: None))
    world.clock.after(120, goes_on)
    assert fails(world, "window")["reason"] == "the lease lapsed"
    assert 75 < world.clock.now - trial_began < 81


def test_without_a_lease_the_run_goes_on_alone(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["attended"] = False
    world = world_of(plan_data)
    world.controller = lambda: None
    world.candidate_load_s = 70
    world.runner().run()
    assert world.named()[-1] == "phase_done measure"


@pytest.mark.parametrize("after", range(len(WHOLE) - 1), ids=WHOLE[:-1])
def test_an_abort_ends_the_run_wherever_it_is(world: World, after: int) -> None:
    world.open()
    seen: list[str] = []

    def count(event: str, _facts: dict[str, Any]) -> None:
        seen.append(event)
        if len(seen) == after + 1:
            world.state.ask("abort", "ann")

    world.on_entry = count
    assert fails(world)["reason"] == "aborted by ann"
    # Nobody is stopped after the word, and nothing is begun but what was already under way.
    assert len(seen) <= after + 5


def test_a_raised_epoch_ends_the_run(world: World) -> None:
    world.open()
    world.at("candidate_started", world.state.raise_epoch)
    failed = fails(world)
    assert failed["reason"] == "this run is stale"
    assert (failed["expected"], failed["found"]) == ("epoch 1", "epoch 2")


@pytest.mark.parametrize("word", ["abort", "epoch", "lease"])
def test_who_is_already_ended_stops_nobody(world: World, word: str) -> None:
    """Allowed to go all the way, but ended before the first step: the fence comes before every stop."""
    trial = world.runner()
    if word == "abort":
        world.state.ask("abort", "ann")
    elif word == "epoch":
        world.state.raise_epoch()
    else:
        world.controller = lambda: None
        world.clock.sleep(61)
    with pytest.raises(PhaseFailed):
        trial.run()
    assert world.done("stop") == []
    assert world.named()[-1].startswith("phase_failed")


def test_the_last_look_is_right_before_the_stop(world: World) -> None:
    trial = world.runner()
    world.state.ask("abort", "ann")
    with pytest.raises(PhaseFailed, match="aborted"):
        trial.stop(world.plan.tenant("chatterbox"))
    assert world.done("stop") == []
    assert "tenant_stopping chatterbox" not in world.named()
    trial.sampler.stop()


def test_an_abort_while_the_baseline_is_measured_spares_it(world: World) -> None:
    world.open()
    stop = world.stop

    def stop_and_abort(name: str, by: str = "us") -> None:
        stop(name, by)
        world.state.ask("abort", "ann")

    world.stop = stop_and_abort
    assert fails(world)["reason"] == "aborted by ann"
    assert [entry[1] for entry in world.done("stop")] == ["chatterbox"]
    assert world.up("llamacpp")


def test_a_candidate_above_the_limit_ends_the_run(world: World) -> None:
    world.candidate_mib = int(8.1 * MIB_PER_GB) + 200
    failed = fails(world)
    assert failed["reason"] == "the candidate takes too much VRAM"
    assert failed["expected"].startswith("at most 8.0 GB")
    assert failed["found"].endswith(" GB")
    assert failed["phase"] == "candidate"


def test_a_peak_above_the_limit_while_measuring_ends_the_run(world: World) -> None:
    world.open()
    world.never_ready.add("candidate")
    world.clock.after(12, lambda: setattr(world, "candidate_mib", 9_000))
    assert fails(world)["reason"] == "the candidate takes too much VRAM"


def test_a_driver_that_falls_silent_ends_the_run(world: World) -> None:
    world.open()
    world.never_ready.add("candidate")
    world.clock.after(12, lambda: setattr(world.card, "error", "the driver hangs"))
    failed = fails(world)
    assert failed["reason"] == "VRAM can no longer be read"
    assert "the driver hangs" in failed["found"]


@pytest.mark.parametrize(("oom", "words"), [(False, "ended with code 137"), (True, "ran out of memory")])
def test_a_candidate_that_dies_ends_the_run(world: World, oom: bool, words: str) -> None:
    world.open()
    world.at("candidate_started", lambda: world.candidate_dies(137, oom=oom))
    failed = fails(world)
    assert failed["reason"] == "the candidate died"
    assert words in failed["found"]
    assert "out of luck" in failed["found"]


def test_a_candidate_that_dies_between_phases_is_noticed(world: World) -> None:
    world.open()
    world.at("phase_done candidate", world.candidate_dies)
    failed = fails(world, "candidate")
    assert (failed["reason"], failed["phase"]) == ("the candidate died", "measure")


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("chatterbox", "tenant_stopped chatterbox"),
        ("chatterbox", "candidate_started"),
        ("llamacpp", "candidate_started"),
        ("chatterbox", "phase_done candidate"),
    ],
)
def test_a_revived_tenant_ends_the_run_by_name(world: World, name: str, event: str) -> None:
    world.open()
    world.at(event, lambda: world.start(name, by="cron"))
    failed = fails(world, "candidate")
    assert failed["reason"] == "a stopped tenant was started again by another party"
    assert f"{name} runs again (PID {world.services[name].pid}" in failed["found"]
    assert "watchdog" in failed["todo"]


@pytest.mark.parametrize("name", ["chatterbox", "llamacpp"])
def test_a_revived_tenant_is_named_while_it_loads(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its memory fills long before its port or its unit tells of it."""
    world.open()
    down = tenants.Seen(False, False, None, "not running")
    for kind in ("systemd", "script"):
        monkeypatch.setattr(tenants.KINDS[kind], "seen", lambda _tenant: down)
    world.at("phase_done candidate", lambda: world.start(name, by="cron"))
    failed = fails(world, "candidate")
    assert failed["reason"] == "a stopped tenant was started again by another party"
    assert f"{name} runs again (PID {world.services[name].pid}, " in failed["found"]


def test_who_is_not_told_about_is_not_revived_and_asked_again(world: World) -> None:
    """systemd that does not answer has not said that anybody started the tenant."""
    world.open()
    world.at("drained", lambda: setattr(world.services["llamacpp"], "silent", True))
    world.runner().run()
    assert world.named()[-1] == "phase_done measure"


def test_who_speaks_again_is_believed(world: World) -> None:
    world.open()
    model = world.services["llamacpp"]
    world.at("drained", lambda: setattr(model, "silent", True))
    world.clock.ticks.append(lambda: "candidate_started" in world.named() and setattr(model, "silent", False))
    world.clock.ticks.append(
        lambda: "candidate_started" in world.named() and not model.pid and world.start("llamacpp", by="cron")
    )
    failed = fails(world, "candidate")
    assert failed["reason"] == "a stopped tenant was started again by another party"
    assert f"llamacpp runs again (PID {model.pid}" in failed["found"]


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "activating (auto-restart)"),
        (
            {"ActiveState": "active", "SubState": "exited"},
            "active (exited), and its processes, which ran before the trial, have ended",
        ),
    ],
    ids=["waits to be started", "has no process"],
)
def test_a_unit_that_is_up_without_a_process_is_revived(world: World, says: dict[str, Any], found: str) -> None:
    world.open()
    world.at("drained", lambda: world.services["llamacpp"].says.update(says, MainPID=0))
    failed = fails(world, "candidate")
    assert failed["reason"] == "a stopped tenant was started again by another party"
    assert failed["found"] == f"llamacpp runs again (unit panda-llamacpp is {found})"


def test_a_stranger_that_takes_vram_is_named_beside_the_candidate(world: World) -> None:
    world.open()
    read = world.card.read
    stranger = gpu.Holder(4711, 2_500, "python3 train.py")

    def crowded(_timeout_s: float = 3.0) -> gpu.Vram:
        vram = read()
        return dataclasses.replace(vram, used_mib=vram.used_mib + 2_500, holders=(*vram.holders, stranger))

    world.at("phase_done candidate", lambda: setattr(world.card, "read", crowded))
    failed = fails(world, "candidate")
    assert failed["reason"] == "the candidate takes too much VRAM"
    assert failed["found"].endswith("GB, including other processes: PID 4711 python3 train.py 2500 MiB")


def test_an_untouched_tenant_that_restarts_is_not_our_business(world: World) -> None:
    world.open()
    world.at("candidate_started", lambda: world.start("nav", by="systemd"))
    world.runner().run()
    assert world.named()[-1] == "phase_done measure"


def test_a_journal_that_can_not_be_written_stops_the_trial(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = world.runner()

    def full(_fd: int) -> None:
        if "tenant_stopped llamacpp" in world.named():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trial.run()
    restores_nothing(world)
    assert not world.candidate_pid


# The window.


def test_a_host_in_use_is_left_alone(world: World) -> None:
    world.quiet = False
    failed = fails(world)
    assert failed["reason"] == "the host is not quiet"
    assert "nothing was stopped" in failed["todo"]
    assert world.done("stop", "container") == []


def test_nobody_is_stopped_before_the_client_has_loaded(world: World) -> None:
    world.never_ready.add("a1")
    failed = fails(world)
    assert failed["reason"] == "the start of the client took too long"
    assert failed["expected"] == "at most 30 s"
    assert world.done("stop") == []


@pytest.mark.parametrize("code", [4, 2, 137], ids=["unreachable", "misused", "killed"])
def test_a_baseline_that_can_not_be_measured_ends_the_run(world: World, code: int) -> None:
    world.client_codes["a1"] = code
    assert fails(world)["reason"] == "the baseline could not be measured"
    assert world.up("llamacpp")


def test_a_baseline_with_bad_replies_is_still_a_baseline(world: World) -> None:
    world.client_codes["a1"] = 3
    world.runner().run()
    assert world.named()[-1] == "phase_done measure"


def test_a_baseline_without_a_good_reply_ends_the_run(world: World) -> None:
    world.client_codes["a1"], world.replies["a1"] = 3, [fakeworld.BAD]
    failed = fails(world)
    assert failed["reason"] == "the live model gave no good reply, so there is nothing to compare with"
    assert failed["found"] == "1 failed, the first one by http_401: 'a key, please'"
    assert world.up("llamacpp")


@pytest.mark.parametrize(
    ("session", "segment"),
    [("a1", "describe-baseline"), ("candidate", "nav-candidate"), ("candidate", "describe-candidate")],
)
def test_a_client_that_vanishes_without_a_word_ends_the_run(world: World, session: str, segment: str) -> None:
    """Killed for its memory, say: there is no summary, docker alone tells; on the way to the hold point as well."""
    world.without_summary.add(session)
    world.client_ends_in[session] = (segment, 137)
    fails(world)
    done = [e for e in world.events() if e["event"] == "segment_done" and e["session"] == session]
    assert [e["exit_code"] for e in done] == [137]


def test_a_tenant_that_will_not_stop_ends_the_run(world: World) -> None:
    world.services["chatterbox"].broken = "stop.sh: no such thing"
    failed = fails(world)
    assert "chatterbox: './stop.sh' ended with 1" in failed["reason"]
    assert world.up("llamacpp")
    assert "tenant_stopping chatterbox" in world.named()
    assert "tenant_stopped chatterbox" not in world.named()


def test_memory_that_does_not_drain_is_named_with_its_holders(world: World) -> None:
    world.linger_s = 500
    failed = fails(world)
    assert failed["reason"] == "VRAM did not drain"
    assert f"PID {world.services['phone'].pid} phone_call.py" in failed["found"]
    assert "within 30 s" in failed["expected"]
    assert "were not touched" in failed["todo"]
    (timeout,) = [e for e in world.events() if e["event"] == "drain_timeout"]
    assert "phone_call.py" in timeout["holders"]
    assert world.done("container") == [("container", "mt-client-a1")]


def test_the_drain_is_watched_too(world: World) -> None:
    world.linger_s = 20
    world.open()
    world.at("drain_started", lambda: world.state.ask("abort", "ann"))
    assert fails(world)["reason"] == "aborted by ann"


def test_a_driver_that_does_not_tell_is_drained_to_a_still_level(world: World) -> None:
    world.tells = False
    world.runner().run()
    (drained,) = [e for e in world.events() if e["event"] == "drained"]
    assert drained["used_mib"] == 5_200


def test_a_baseline_that_stays_up_is_measured_after_the_stops(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["stop_order"] = plan_data["restore_order"] = ["chatterbox"]
    world = world_of(plan_data)
    world.runner().run()
    assert world.up("llamacpp")
    assert [entry[1] for entry in world.done("stop", "measured")] == ["chatterbox", "a1", "candidate"]


# The candidate.


def test_a_port_that_was_taken_meanwhile_is_named(world: World) -> None:
    port = world.plan.candidate.port
    world.intruders.append(probes.Listener(port, 4711, "nc -l"))
    failed = fails(world)
    assert failed["reason"] == f"port {port} was taken meanwhile"
    assert failed["found"] == f"port {port} is held by PID 4711 (user 666, nc -l)"
    assert ("container", "panda-llamacpp-e4b") not in world.log


def test_a_candidate_that_ends_at_once(world: World) -> None:
    world.candidate_dies_at_once = True
    assert fails(world)["reason"] == "the candidate ended at once"


def test_a_container_that_was_removed_meanwhile(world: World) -> None:
    world.open()
    world.docker.main(["rm", "panda-llamacpp-e4b"])
    assert "No such container" in fails(world)["reason"]


def test_a_candidate_that_never_gets_healthy(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["candidate"]["start_timeout_s"] = 25
    world = world_of(plan_data)
    world.candidate_load_s = 5_000
    failed = fails(world)
    assert failed["reason"] == "the candidate's start took too long"
    assert failed["expected"] == "at most 25 s"


def test_the_gate_waits_until_memory_stands_still(world: World) -> None:
    world.candidate_mib = 1_000
    world.open()

    def grow() -> None:
        if world.candidate_pid and world.candidate_mib < 6_400:
            world.candidate_mib += 50

    world.clock.ticks.append(grow)
    world.candidate_load_s = 1
    world.runner().run()
    gates = {e["name"]: e["footprint_gb"] for e in world.events() if e["event"] == "gate"}
    assert gates["start"] == pytest.approx(6.25, abs=0.05)


def test_memory_that_never_stands_still_is_taken_as_it_is(world: World) -> None:
    world.candidate_mib = 1_000
    world.open()
    world.clock.ticks.append(lambda: setattr(world, "candidate_mib", world.candidate_mib + 30))
    trial = world.runner()
    trial.sampler.segment("x")
    world.candidate_pid = 1
    began = world.clock.now
    assert trial.settle() > 0
    assert runner.SETTLE_LIMIT_S <= world.clock.now - began < runner.SETTLE_LIMIT_S + 0.2


@pytest.mark.parametrize(
    ("mib", "band"), [(5_000, "low"), (6_400, "healthy"), (7_900, "warning")], ids=["low", "healthy", "warning"]
)
def test_gates_journal_the_band(world: World, mib: int, band: str) -> None:
    world.candidate_mib = mib
    world.runner().run()
    gates = [e for e in world.events() if e["event"] == "gate"]
    assert [(g["name"], g["band"], g["ok"]) for g in gates] == [
        (name, band, band == "healthy") for name in ("start", "extend", "end")
    ]
    assert gates[0]["footprint_gb"] == round(mib / MIB_PER_GB, 3)


def test_a_smoke_reply_that_needs_loose_keywords_fails(world: World) -> None:
    world.smoke_reply = {"ok": False, "strategy": 3, "content": "I would go forward, I think", "flags": ["loose"]}
    failed = fails(world)
    assert failed["reason"] == "the smoke test failed"
    assert "strategy 1 or 2" in failed["expected"]
    for words in ("strategy 3", "I would go forward", "loose"):
        assert words in failed["found"]
    (smoke,) = [e for e in world.events() if e["event"] == "smoke"]
    assert (smoke["ok"], smoke["strategy"]) == (False, 3)
    assert not (world.run_dir / "samples" / "nav-candidate.jsonl").exists()


@pytest.mark.parametrize("error_class", ["connect", "dropped"])
def test_a_candidate_that_dies_under_its_first_request_died(world: World, error_class: str) -> None:
    """The broken connection is seen before the end of the process behind it."""
    world.open()
    world.smoke_reply = {"ok": False, "strategy": None, "error_class": error_class, "content": ""}
    world.at("smoke", lambda: world.clock.after(0.4, world.candidate_dies))
    assert fails(world)["reason"] == "the candidate died"


def test_a_connection_that_breaks_before_a_living_candidate_is_a_failed_smoke_test(world: World) -> None:
    world.open()
    world.smoke_reply = {"ok": False, "strategy": None, "error_class": "dropped", "content": ""}
    assert fails(world)["reason"] == "the smoke test failed"


def test_thinking_on_the_smoke_test_fails(world: World) -> None:
    world.smoke_reply = {"ok": False, "strategy": None, "error_class": "thinking", "content": "", "flags": ["thinking"]}
    failed = fails(world)
    assert "thinking" in failed["found"]


def test_a_smoke_test_that_never_answers(world: World) -> None:
    world.client_codes["candidate"] = 4
    failed = fails(world)
    assert failed["reason"] == "the smoke test failed"
    assert "strategy None" in failed["found"]


def test_nothing_is_measured_before_it_is_allowed(world: World) -> None:
    world.open()
    world.clock.after(15, lambda: world.state.ask("abort", "ann"))
    fails(world, "candidate")
    samples = {p.stem for p in (world.run_dir / "samples").glob("*.jsonl")}
    assert "smoke-candidate" in samples
    assert "nav-candidate" not in samples


# Measuring.


def extension(world: World) -> dict[str, Any]:
    """The one decision on the extension."""
    (found,) = [e for e in world.events() if e["event"] == "extension"]
    return found


@pytest.mark.parametrize("latency_ms", [0.1, 20.0, 60_000.0])
def test_latency_never_decides_on_the_extension(world: World, latency_ms: float) -> None:
    world.latency_ms = latency_ms
    world.runner().run()
    assert extension(world)["extend"] is True
    assert ("hold", "extend", 100) in world.log


def test_vram_outside_its_band_stops_at_twenty(world: World) -> None:
    world.candidate_mib = 7_900
    world.runner().run()
    assert extension(world)["extend"] is False
    assert "warning" in extension(world)["reason"]
    assert ("hold", "extend", 20) in world.log
    assert (world.run_dir / "samples" / "describe-candidate.jsonl").exists()


def test_a_thinking_reply_stops_at_twenty_and_the_trial_goes_on(world: World) -> None:
    world.thinking = 2
    world.runner().run()
    assert extension(world)["extend"] is False
    assert "2 thinking" in extension(world)["reason"]
    assert world.named()[-1] == "phase_done measure"


def test_a_session_that_stops_for_thinking_is_measured_to_the_end(world: World) -> None:
    world.client_ends_in["candidate"] = ("nav-candidate", 3)
    world.runner().run()
    assert "extension" not in world.named()
    assert world.named()[-1] == "phase_done measure"


def test_a_candidate_that_stops_answering_ends_the_run(world: World) -> None:
    world.client_ends_in["candidate"] = ("describe-candidate", 4)
    failed = fails(world)
    assert failed["reason"] == "measuring stopped early"
    assert "client exit code 4" in failed["found"]
    assert "kept" in failed["todo"]


def test_a_client_that_hangs_is_given_up(world_of: WorldOf, plan_data: dict[str, Any]) -> None:
    plan_data["limits"] = {"measure_s": 15}
    world = world_of(plan_data)
    world.open()
    trial = world.runner()
    trial.sign("start-a1")
    world.never_ready.add("a1")
    world.docker.main(["start", "mt-client-a1"])
    with trial.client("a1") as client, pytest.raises(PhaseFailed, match="the session a1 took too long"):
        trial.wait_client("a1", client)


def test_a_client_is_looked_after_from_before_its_work_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker that dies a moment later and hangs would take the question and never answer it."""
    order: list[str] = []
    watch, sign = runner.Runner.client, runner.Runner.sign

    def watched(trial: runner.Runner, session: str) -> Any:
        order.append(f"watch {session}")
        return watch(trial, session)

    def signed(trial: runner.Runner, name: str, **facts: Any) -> None:
        order.append(name)
        sign(trial, name, **facts)

    monkeypatch.setattr(runner.Runner, "client", watched)
    monkeypatch.setattr(runner.Runner, "sign", signed)
    world.runner().run()
    assert order.index("watch a1") < order.index("start-a1")
    assert order.index("watch candidate") < order.index("measure")


def test_what_goes_wrong_is_told_in_four_parts() -> None:
    failed = PhaseFailed("it broke", "whole", "pieces", "mend it")
    assert str(failed) == "it broke"
    assert failed.facts == {"reason": "it broke", "expected": "whole", "found": "pieces", "todo": "mend it"}
    assert json.loads(json.dumps(PhaseFailed("bare").facts)) == {
        "reason": "bare",
        "expected": "",
        "found": "",
        "todo": "",
    }


# Who listens where a model is asked, and a candidate that stands still.

STRANGER = 4711


def once(world: World, ready: Callable[[], bool], act: Callable[[], object]) -> None:
    """Do something as soon as it is time for it, once."""
    waiting = [act]

    def look() -> None:
        if waiting and ready():
            waiting.pop()()

    world.clock.ticks.insert(0, look)


def intrude(world: World, port: int) -> Callable[[], None]:
    """A stranger who begins to listen on a port."""
    return lambda: world.intruders.append(probes.Listener(port, STRANGER, "python3 fake.py"))


def named_stranger(world: World, port: int, owner: str) -> None:
    """The journal says who listens there: PID, user, command."""
    (found,) = [e for e in world.events() if e["event"] == "stranger"]
    told = {key: found[key] for key in ("port", "owner", "pid", "user", "command")}
    assert told == {"port": port, "owner": owner, "pid": STRANGER, "user": "666", "command": "python3 fake.py"}


def voided(world: World) -> list[dict[str, Any]]:
    """What the journal says of samples that do not count."""
    return [e for e in world.events() if e["event"] == "samples_void"]


def test_who_takes_the_candidates_port_between_look_and_bind_is_not_the_candidate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He answers at once, while the candidate is still loading: his word is no health."""
    port = world.plan.candidate.port
    world.open()
    world.candidate_listens = False
    monkeypatch.setattr(probes, "ask", lambda _question: probes.ProbeResult(True, "HTTP 200", 200))
    world.at("candidate_starting", intrude(world, port))
    failed = fails(world)
    assert failed["reason"] == "another party listens on the port of the candidate"
    assert failed["expected"] == f"port {port} belongs to the candidate alone"
    assert failed["found"] == f"port {port} is held by PID 4711 (user 666, python3 fake.py)"
    named_stranger(world, port, "the candidate")
    assert "candidate_healthy" not in world.named()
    assert voided(world) == []
    assert not (world.run_dir / "control" / "start-candidate").exists()


def test_health_counts_once_the_candidate_itself_listens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.open()
    world.candidate_listens = False
    monkeypatch.setattr(probes, "ask", lambda _question: probes.ProbeResult(True, "HTTP 200", 200))
    world.clock.after(40, lambda: setattr(world, "candidate_listens", True))
    world.runner().run()
    (healthy,) = [e for e in world.events() if e["event"] == "candidate_healthy"]
    assert healthy["duration_s"] > 20


@pytest.mark.parametrize(
    ("session", "port", "owner", "first"),
    [
        ("a1", 11435, "the tenant llamacpp", "nav-baseline-a1"),
        ("candidate", 0, "the candidate", "smoke-candidate"),
    ],
)
def test_a_stranger_where_a_session_asks_ends_it_and_voids_its_last_samples(
    world: World, session: str, port: int, owner: str, first: str
) -> None:
    world.open()
    port = port or world.plan.candidate.port
    seen: list[float] = []

    def take() -> None:
        seen.append(world.clock.now)
        intrude(world, port)()

    once(world, lambda: ("measured", session) in world.log, take)
    failed = fails(world)
    assert failed["reason"] == f"another party listens on the port of {owner}"
    named_stranger(world, port, owner)
    (void,) = voided(world)
    assert (void["session"], void["segments"][0]) == (session, first)
    assert void["segments"] == [one["id"] for one in sessions.build(world.plan)[session]["segments"]]
    assert void["reason"] == failed["found"]
    assert (world.run_dir / "control" / "halt").exists(), "the client sends nothing more"
    # Since the look before the stranger came, one poll earlier, and no earlier.
    assert 0 < seen[0] - void["since_s"] <= 2 * runner.POLL_S
    # Seen at the next look.
    assert failed["t_s"] - seen[0] <= 2 * runner.POLL_S
    assert world.up("llamacpp") is (session == "a1")


def test_the_last_sample_counts_only_if_its_port_was_in_the_right_hands(world: World) -> None:
    world.open()
    done = world.run_dir / "samples" / f"summary-{sessions.build(world.plan)['a1']['segments'][0]['id']}.json"
    world.clock.ticks.append(lambda: intrude(world, 11435)() if done.exists() and not world.intruders else None)
    assert fails(world)["reason"] == "another party listens on the port of the tenant llamacpp"
    assert [void["session"] for void in voided(world)] == ["a1"]
    assert "segment_done" not in world.named()[world.named().index("opened") :]


def test_a_server_that_was_closed_and_opened_again_ends_its_session(world: World) -> None:
    """It is the tenant's again; but the port was free, and nobody knows who answered meanwhile."""
    world.open()
    once(
        world,
        lambda: ("measured", "a1") in world.log,
        lambda: setattr(world.services["llamacpp"], "pid", world.new_pid()),
    )
    failed = fails(world)
    assert failed["reason"] == "another party listens on the port of the tenant llamacpp"
    assert failed["found"].startswith("it was closed and reopened in between: port 11435")
    assert [void["session"] for void in voided(world)] == ["a1"]


@pytest.mark.parametrize("event", ["drain_started", "candidate_starting", "candidate_started", "extension"])
def test_a_stranger_on_a_stopped_tenants_port_ends_the_run_by_name(world: World, event: str) -> None:
    """Its callers would talk to him, and it could not come back: `docker start` of something else, say."""
    world.open()
    world.at(event, intrude(world, 8772))
    failed = fails(world)
    assert failed["reason"] == "another party listens on the port of the tenant chatterbox"
    named_stranger(world, 8772, "the tenant chatterbox")
    # Nothing was asked there.
    assert voided(world) == []


@pytest.mark.parametrize("port", [8772, 11435, 8770], ids=["stopped", "measured", "asked whether it is quiet"])
def test_a_stranger_beside_a_tenant_is_named_before_anything_is_stopped(world: World, port: int) -> None:
    world.open()
    intrude(world, port)()
    assert "another party listens" in fails(world)["reason"]
    assert world.done("stop", "measured") == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_stranger_beside_the_live_model_is_named_in_phase_2(world: World, when: str) -> None:
    """Its sample, with everybody up, is not worth having."""
    if when == "before":
        intrude(world, 11435)()
    else:
        once(world, lambda: ("measured", "tenants") in world.log, intrude(world, 11435))
    with pytest.raises(PhaseFailed, match="another party listens on the port of the tenant llamacpp") as caught:
        prepare(world)
    assert caught.value.facts["found"] == "port 11435 is held by PID 4711 (user 666, python3 fake.py)"
    assert caught.value.facts["todo"].endswith("nothing was touched")
    assert (("container", "mt-client-tenants") in world.log) is (when == "meanwhile")


def test_what_listened_before_a_stop_may_go_on_after_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in front of it, or its socket unit."""
    world.open()
    intrude(world, 8772)()
    monkeypatch.setattr(tenants, "owns", lambda tenant, item, _host: item.pid == STRANGER or item.pid >= 5_000_000)
    world.runner().run()
    assert world.named()[-1] == "phase_done measure"


def slow_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """docker start does not return."""
    monkeypatch.setattr(runner.containers, "Starting", lambda _name: SimpleNamespace(done=False))


@pytest.mark.parametrize("trouble", ["abort", "lease", "epoch", "port", "vram", "revived"])
def test_a_docker_that_hangs_while_it_starts_the_candidate_is_inside_the_fence(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    world.open()
    slow_docker(monkeypatch)
    world.clock.after(300, goes_on)
    began: list[float] = []
    acts: dict[str, Callable[[], object]] = {
        "abort": lambda: world.state.ask("abort", "ann"),
        "lease": lambda: setattr(world, "controller", lambda: None),
        "epoch": world.state.raise_epoch,
        "port": intrude(world, 8772),
        "vram": lambda: setattr(world, "desktop_mib", 9_500),
        "revived": lambda: world.start("chatterbox", by="cron"),
    }

    def act() -> None:
        began.append(world.clock.now)
        acts[trouble]()

    world.at("candidate_starting", lambda: world.clock.after(3, act))
    failed = fails(world)
    # A lease lapses after a minute, and units are asked once a second; all else is seen at the next look.
    allowed_s = {"lease": 62.0, "revived": 1.2}.get(trouble, 2.5 * runner.POLL_S)
    assert failed["t_s"] - began[0] <= allowed_s
    assert failed["phase"] == "candidate"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"candidate_state": "T"}, "is stopped by a signal (SIGSTOP)"),
        ({"candidate_frozen": True}, "is frozen with its control group (docker pause)"),
    ],
    ids=["SIGSTOP", "docker pause"],
)
@pytest.mark.parametrize("event", ["candidate_started", "smoke", "extension"])
def test_a_candidate_that_stands_still_is_named(world: World, how: dict[str, Any], words: str, event: str) -> None:
    world.open()
    world.never_ready.update({"candidate"} if event == "candidate_started" else ())
    world.candidate_load_s = 30 if event == "candidate_started" else 5
    stopped: list[float] = []

    def stop() -> None:
        stopped.append(world.clock.now)
        for name, value in how.items():
            setattr(world, name, value)
        # It answers nobody.
        world.clients.clear()

    world.at(event, stop)
    failed = fails(world)
    assert failed["reason"] == "the candidate stands still"
    assert words in failed["found"]
    # A card may hold a server still while it loads; then the limit of its start says that it is too long.
    limit_s = world.plan.candidate.start_timeout_s + 1 if event == "candidate_started" else 0.6
    assert failed["t_s"] - stopped[0] < limit_s
    sessions_void = [(void["session"], stopped[0] - void["since_s"] <= 2 * runner.POLL_S) for void in voided(world)]
    assert sessions_void == ([] if event == "candidate_started" else [("candidate", True)])


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("abort", "aborted by ann"),
        ("lease", "the lease lapsed"),
        ("epoch", "this run is stale"),
        ("vram", "the candidate takes too much VRAM"),
        ("revived", "a stopped tenant was started again"),
    ],
)
def test_what_ends_a_load_keeps_its_name_while_the_card_holds_the_server_still(
    world: World, trouble: str, reason: str
) -> None:
    world.open()
    world.candidate_load_s = 5_000
    acts: dict[str, Callable[[], object]] = {
        "abort": lambda: world.state.ask("abort", "ann"),
        "lease": lambda: setattr(world, "controller", lambda: None),
        "epoch": world.state.raise_epoch,
        "vram": lambda: setattr(world, "desktop_mib", 9_500),
        "revived": lambda: world.start("chatterbox", by="cron"),
    }

    def act() -> None:
        world.candidate_state = "T"
        acts[trouble]()

    world.at("candidate_started", act)
    assert reason in fails(world)["reason"]


# A rehearsal: everything but the candidate and the measuring.


@pytest.fixture
def rehearsal(world_of: WorldOf, plan_data: dict[str, Any]) -> World:
    """A host without docker, picture and prompt, where a rehearsal is planned."""
    world = world_of({**plan_data, "rehearsal": True})
    break_docker(world)
    break_prompt(world)
    break_camera(world)
    return world


def test_a_rehearsal_prepares_folders_only(rehearsal: World) -> None:
    prepare(rehearsal)
    assert rehearsal.named() == ["phase_started snapshot", "phase_done snapshot"]
    assert rehearsal.docker.calls() == []
    for name in ("inputs", "control", "samples", "logs"):
        assert list((rehearsal.run_dir / name).iterdir()) == []
    assert planfile.load(rehearsal.run_dir / "plan.json") == rehearsal.plan


def test_a_rehearsal_stops_everybody_drains_and_ends(rehearsal: World) -> None:
    rehearsal.runner().run()
    names = rehearsal.named()
    assert names[names.index("opened") + 1 :] == [
        "phase_started window",
        "tenant_stopping chatterbox",
        "tenant_stopped chatterbox",
        "tenant_stopping llamacpp",
        "tenant_stopped llamacpp",
        "drain_started",
        "drained",
        "phase_done window",
    ]
    assert rehearsal.done("stop") == [("stop", "chatterbox"), ("stop", "llamacpp")]
    # The snapshot looks who runs.
    assert [call[0] for call in rehearsal.docker.calls()] == ["ps"]
    assert all(sampler.stopped for sampler in rehearsal.samplers)


def test_a_rehearsal_waits_for_leave_and_for_quiet(rehearsal: World) -> None:
    rehearsal.quiet = False
    assert fails(rehearsal, "window")["reason"] == "the host is not quiet"
    assert rehearsal.done("stop") == []


def test_a_rehearsal_has_the_fence_of_a_trial(rehearsal: World) -> None:
    rehearsal.open()
    rehearsal.at("tenant_stopped chatterbox", lambda: rehearsal.state.ask("abort", "ann"))
    assert fails(rehearsal)["reason"] == "aborted by ann"
    assert rehearsal.done("stop") == [("stop", "chatterbox")]


def test_a_rehearsal_that_does_not_drain_fails_as_a_trial_does(rehearsal: World) -> None:
    rehearsal.linger_s = 500
    assert fails(rehearsal)["reason"] == "VRAM did not drain"


# What a client leaves in the sign's place.


def at_extend(world: World, act: Callable[[Path], None]) -> None:
    """Put something else where a client says that it is at the hold point."""
    path = world.run_dir / "samples" / "at-extend"

    def swap() -> None:
        if path.exists() and not path.is_symlink() and path.is_file() and "thinking" in path.read_text():
            path.unlink()
            act(path)

    world.clock.ticks.append(swap)


@pytest.mark.parametrize("kind", ["pipe", "link", "list", "text", "deep"])
def test_a_sign_that_is_no_object_does_not_hold_the_runner(world: World, kind: str) -> None:
    """The folder is the container's own: no pipe is waited for, and no link followed."""
    texts = {"list": "[1]", "text": "thinking", "deep": "[" * 100_000}

    timers: list[threading.Timer] = []

    def let_go(path: Path) -> None:
        # A caller that really opens it would block indefinitely: this releases it and fails the test.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def swap(path: Path) -> None:
        if kind == "pipe":
            os.mkfifo(path)
            timers.append(threading.Timer(20, let_go, [path]))
            timers[-1].start()
        elif kind == "link":
            (world.folder / "secret").write_text('{"thinking": 5}')
            path.symlink_to(world.folder / "secret")
        else:
            path.write_text(texts[kind])

    world.open()
    at_extend(world, swap)
    began = time.monotonic()
    try:
        world.runner().run()
    finally:
        for timer in timers:
            timer.cancel()
    assert time.monotonic() - began < 15
    assert world.named()[-1] == "phase_done measure"
    (extension,) = [e for e in world.events() if e["event"] == "extension"]
    assert extension["extend"] is True


def test_on_a_host_without_a_card_a_rehearsal_asks_for_none_and_drains_nothing(
    world_of: WorldOf, plan_data: dict[str, Any]
) -> None:
    world = world_of({**plan_data, "rehearsal": True, "gpu": None})
    trial = world.runner()
    known = json.loads((world.run_dir / "snapshot.json").read_text())
    assert (known["used_mib"], known["total_mib"], known["holders"]) == (None, None, [])
    assert "gpu" not in known
    assert {tenant["vram_mib"] for tenant in known["tenants"].values()} == {None}
    trial.run()
    for ask in (lambda: trial.card, lambda: trial.sampler):
        with pytest.raises(gpu.GpuError, match="names no card"):
            ask()
    names = world.named()
    assert [name for name in names if "drain" in name] == []
    assert "phase_done window" in names
    assert world.samplers == []
