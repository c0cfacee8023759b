"""The ten decisions that must not be reverted, each held by one test against the real artifacts.

Somebody who changes one of them on purpose changes this file too, and says why in the same commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    checks,
    containers,
    gpu,
    journal,
    planfile,
    probes,
    restorer,
    runner,
    telemetry,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    plan as plans,
)
from inventories import PLAYBOOKS, ROOT, plan_of
from trialbench.measure.client import ChatClient, Reply
from trialbench.measure.sample import judge, wall_clock
from trialbench.measure.segments import Runner as BenchRunner
from trialbench.measure.segments import Segment
from trialbench.workloads import load_workload


@pytest.fixture(scope="module", params=["panda", "twin"])
def plan(request: pytest.FixtureRequest) -> plans.Plan:
    """Give the plan of the real host, then of its twin: a decision holds for both."""
    return plan_of(request.param)


class Card:
    """A GPU whose used memory is what the test says."""

    index = 0

    def __init__(self) -> None:
        self.used_mib = 13500

    def read(self, _timeout_s: float = 3.0) -> gpu.Vram:
        return gpu.Vram(time.monotonic(), self.used_mib, 16303)

    def vitals(self) -> telemetry.Background:
        return telemetry.Background(telemetry.Reading)

    def close(self) -> None:
        return


@pytest.fixture
def state(tmp_path: Path) -> journal.State:
    """Give the state folder of a host on which the run `decisions` is open, all tenants well before it."""
    found = journal.State(tmp_path / "host")
    folder = found.run_dir("decisions")
    for name in ("samples", "control", "logs"):
        (folder / name).mkdir(parents=True)
    facts = {"running": True, "healthy": True, "pid": 0, "start_ticks": 0, "vram_mib": 4400, "vram_pids": []}
    tenants = {tenant.name: facts for tenant in plan_of("panda").tenants}
    snapshot = {"tenants": tenants, "used_mib": 13500, "total_mib": 16303}
    (folder / "snapshot.json").write_text(json.dumps(snapshot), encoding="utf-8")
    return found


@pytest.fixture
def make_runner(state: journal.State) -> Iterator[Callable[[plans.Plan], tuple[runner.Runner, Card]]]:
    """Give a maker of runners that act on nothing yet, each with its card."""
    made: list[runner.Runner] = []

    def make(plan: plans.Plan) -> tuple[runner.Runner, Card]:
        card = Card()
        found = runner.Runner(plan, state, state.epoch(), card)  # type: ignore[arg-type]  # a card that needs no driver
        made.append(found)
        return found, card

    yield make
    for found in made:
        found.sampler.stop()


def test_decision_1_the_candidate_listens_on_11437(plan: plans.Plan) -> None:
    assert plan.candidate.port == 11437
    command = containers.server_command(plan)
    assert command[command.index("--port") + 1] == "11437"
    # 11436 is panda-nav's.
    assert 11437 not in {tenant.port for tenant in plan.tenants}


def test_decision_2_jinja_and_no_thinking_in_every_request(plan: plans.Plan, tmp_path: Path) -> None:
    assert "--jinja" in containers.server_command(plan)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("What do you see?", encoding="utf-8")
    camera = ROOT / "tests" / "fixtures" / "models" / "camera" / "car-view.jpg"
    client = ChatClient("http://127.0.0.1:1")
    for name in ("nav", "describe"):
        workload = load_workload(name, image=camera, prompt_file=prompt)
        body = json.loads(client.encode(workload, cache_prompt=False))
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert body["cache_prompt"] is False
    client.close()


def test_decision_3_the_candidate_listens_on_loopback_alone(plan: plans.Plan) -> None:
    command = containers.server_command(plan)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command.count("--host") == 1
    for override in (["--host", "0.0.0.0"], ["--host=0.0.0.0"], ["--port", "80"], ["--no-jinja"]):
        data = json.loads(planfile.to_json(plan))
        data["candidate"]["server_args"] = override
        with pytest.raises(planfile.PlanError, match="server_args"):
            planfile.parse(data)


def test_decision_4_files_are_fetched_by_include_patterns(plan: plans.Plan) -> None:
    assert plan.candidate.include
    assert any("*" in pattern for pattern in plan.candidate.include)
    tasks = (ROOT / "roles/acquire/vars/main.yml").read_text(encoding="utf-8")
    assert "'--include'" in tasks
    assert "candidate.include" in tasks
    # The name a command had before; it is gone from current huggingface-hub.
    for path in [*(ROOT / "bench").rglob("*.py"), *(ROOT / "roles").rglob("*.yml"), *(ROOT / "plugins").rglob("*.py")]:
        assert "huggingface-cli" not in path.read_text(encoding="utf-8"), path


def test_decision_5_the_vram_bands(plan: plans.Plan) -> None:
    bands = plan.bands
    gb = plans.MIB_PER_GB
    names = [bands.name(x * gb) for x in (5.49, 5.5, 7.5, 7.51, 8.0, 8.01)]
    assert names == ["low", "healthy", "healthy", "warning", "warning", "abort"]


def test_decision_5_over_the_limit_the_trial_ends(
    plan: plans.Plan, make_runner: Callable[[plans.Plan], tuple[runner.Runner, Card]], state: journal.State
) -> None:
    watching, card = make_runner(plan)
    state.open(journal.Mark(plan.run, watching.epoch, "boot", "now", "ann"))
    watching.server, watching.trying = probes.identify(os.getpid()), True
    watching.drained_mib = 4000
    state.renew()
    for footprint_gb, ends in ((7.9, False), (8.1, True)):
        card.used_mib = 4000 + int(footprint_gb * plans.MIB_PER_GB)
        watching.sampler.segment("measure")
        if ends:
            with pytest.raises(runner.PhaseFailed, match="VRAM"):
                watching.check()
        else:
            watching.check()


def test_decision_6_mute_not_crashed_and_speech_is_proved(plan: plans.Plan) -> None:
    # The clause that turns a missing voice into silence is a contract ...
    [clause] = plan.contracts.clauses
    assert clause.lines == [159, 161]
    assert clause.catches == ["httpx.TimeoutException", "httpx.HTTPError"]
    assert "TTSStoppedFrame" in clause.yields
    # ... and no trial is closed before the voice has spoken.
    spoken = [check for check in checks.derive(plan) if check.kind == "speech"]
    assert [check.tenant for check in spoken] == ["chatterbox"]
    assert plan.tenant("chatterbox").speech is not None
    assert "chatterbox" in plan.stop_order


def opening() -> Any:
    """A card that answers at once."""
    return SimpleNamespace(card=lambda _wait_s: Card())


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list in which everything that a restore does to a host is noted instead of done; nothing runs yet."""
    done: list[str] = []

    def remove(labels: Iterable[str], _run: str, **_before: Any) -> int:
        if containers.RUN_LABEL in labels:
            done.append("remove containers")
        return 1

    def drain(_card: Any, *, min_s: float, **_options: Any) -> Any:
        # What has passed since the removal counts; the rest is asked for here.
        done.append(f"drain for {round(min_s)} s or more")
        return SimpleNamespace(ok=True, used_mib=4700, duration_s=5.0, holders=[], error="")

    stopped = SimpleNamespace(healthy=False, running=False)
    well = [checks.CheckResult(1, "all", "well", "well", ok=True)]
    monkeypatch.setattr(restorer.containers, "remove", remove)
    monkeypatch.setattr(restorer.containers, "start_in_background", lambda _name: None)
    monkeypatch.setattr(restorer.gpu, "drain", drain)
    monkeypatch.setattr(restorer.tenants, "look", lambda _tenant: stopped)
    monkeypatch.setattr(restorer.tenants, "start", lambda tenant, *_how: done.append(f"start {tenant.name}"))
    monkeypatch.setattr(
        restorer.tenants, "wait_healthy", lambda tenant, *_how, **_sure: done.append(f"{tenant.name} healthy")
    )
    monkeypatch.setattr(restorer.Restorer, "measure_again", lambda _self: done.append("A2") is None)
    monkeypatch.setattr(restorer.Restorer, "end_stops", lambda _self: done.append("end what was begun"))
    monkeypatch.setattr(restorer.Restorer, "settle", lambda _self, _started: done.append("everybody stays up"))
    monkeypatch.setattr(restorer.checks, "run", lambda *_args, **_options: done.append("checks") or well)
    return done


def test_decision_6_silence_keeps_the_trial_open(
    plan: plans.Plan, state: journal.State, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state.open(journal.Mark(plan.run, state.raise_epoch(), "boot", "now", "a test"))
    mute = checks.CheckResult(7, "the voice speaks", "a WAV", "silence", ok=False)
    monkeypatch.setattr(restorer.checks, "run", lambda *_args, **_options: [mute])
    with pytest.raises(restorer.RestoreFailed, match="the voice speaks"):
        restorer.Restorer(plan, state, opening(), "a test").restore()  # type: ignore[arg-type]  # needs no driver
    assert state.mark() is not None
    assert "closed" not in [entry["event"] for entry in journal.read(state.journal_path(plan.run))]


def test_decision_7_the_order_of_restoration(plan: plans.Plan, state: journal.State, order: list[str]) -> None:
    epoch = state.raise_epoch()
    state.open(journal.Mark(plan.run, epoch, "boot", "now", "a test"))
    before = journal.Journal(state.journal_path(plan.run), plan.run, epoch, "runner", required=True)
    for name in plan.stop_order:
        before.write("tenant_stopping", tenant=name)
    before.write("drained", used_mib=4700, duration_s=1.0)
    before.write("phase_done", phase="measure", duration_s=1.0)
    restorer.Restorer(plan, state, opening(), "a test").restore()  # type: ignore[arg-type]  # needs no driver
    assert order == [
        "remove containers",
        "end what was begun",
        "drain for 5 s or more",
        "start panda-llamacpp",
        "panda-llamacpp healthy",
        "A2",
        "start chatterbox",
        "chatterbox healthy",
        "everybody stays up",
        "checks",
    ]
    assert plan.limits.drain_min_s == 5
    # Among the checks: the phone daemon is alive, the voice is heard.
    assert {"speech", "process"} <= {check.kind for check in checks.derive(plan)}
    assert state.mark() is None


@pytest.mark.parametrize(
    ("footprint_gb", "thinking", "extended"),
    [(6.2, 0, True), (7.5, 0, True), (5.5, 0, True), (7.6, 0, False), (5.4, 0, False), (6.2, 1, False)],
)
def test_decision_8_extension_by_vram_and_thinking_alone(
    footprint_gb: float,
    thinking: int,
    extended: bool,
    make_runner: Callable[[plans.Plan], tuple[runner.Runner, Card]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("panda")
    for latency_ms in (1.0, 60_000.0):  # however slow the candidate is: latency has no say
        measuring, card = make_runner(plan)
        card.used_mib = round(footprint_gb * plans.MIB_PER_GB)
        measuring.sampler.segment("measure")
        monkeypatch.setattr(measuring, "check", lambda: None)
        monkeypatch.setattr(measuring, "client", lambda _session: contextlib.nullcontext())
        monkeypatch.setattr(measuring, "wait_client", lambda _session, _client: 0)
        question = {"ok": 20, "thinking": thinking, "p50_ms": latency_ms, "p95_ms": latency_ms}
        (measuring.run_dir / "samples" / "at-extend").write_text(json.dumps(question), encoding="utf-8")
        measuring.measure()
        answer = json.loads((measuring.run_dir / "control" / "extend").read_text(encoding="utf-8"))
        assert answer["extend"] is extended
    assert (plan.decider.first_n, plan.decider.n) == (20, 100)


def test_decision_9_productions_own_prompt_and_its_twenty_tokens(plan: plans.Plan, tmp_path: Path) -> None:
    assert plan.contracts.prompt.function == "build_vlm_prompt"
    assert plan.contracts.prompt.call == 'build_vlm_prompt(goal="something interesting")'
    # Verbatim: whatever the text holds, it is sent as it is.
    text = 'Line one {{ not a template }}\n  "quotes" and \u2028 odd spaces  '
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(text, encoding="utf-8")
    camera = ROOT / "tests" / "fixtures" / "models" / "camera" / "car-view.jpg"
    nav = load_workload("nav", image=camera, prompt_file=prompt)
    assert nav.limits.max_tokens == 20
    parts = nav.messages[0]["content"]
    assert [part["text"] for part in parts if part["type"] == "text"] == [text]


@pytest.mark.parametrize(
    ("content", "strategy", "passes"),
    [
        ("left large", 1, True),
        ("Left, large.", 2, True),
        ("it is large\nso turn left", 3, False),
        ("no idea", None, False),
    ],
)
def test_decision_9_the_smoke_test_wants_strategy_1_or_2(
    content: str, strategy: int | None, passes: bool, tmp_path: Path
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Where to?", encoding="utf-8")
    camera = ROOT / "tests" / "fixtures" / "models" / "camera" / "car-view.jpg"
    nav = load_workload("nav", image=camera, prompt_file=prompt)
    reply = Reply(0.0, latency_ms=10.0, content=content, finish_reason="stop")
    sample = judge(reply, 1, nav, cache_prompt=False, wall=wall_clock())
    assert sample.strategy == strategy
    client = ChatClient("http://127.0.0.1:1")
    smoke = Segment(id="smoke-candidate", workload=nav, n=1, path=None, smoke=True)
    bench = BenchRunner(client, [smoke], SimpleNamespace())  # type: ignore[arg-type]  # nobody watches
    reason = bench._reason_to_stop(smoke, sample, warmup=False, extending=False)
    client.close()
    assert reason == (None if passes else "smoke")


def test_decision_10_phase_0_comes_before_anything_is_touched() -> None:
    tags, before, play = yaml.safe_load((PLAYBOOKS / "benchmark_e4b.yml").read_text(encoding="utf-8"))
    # What comes before the trial looks at the tags and the inventory; an assertion asks no host.
    for first in (tags, before):
        [asked] = yaml.safe_load((PLAYBOOKS / first["ansible.builtin.import_playbook"]).read_text(encoding="utf-8"))
        assert set(asked) - {"vars"} <= {"name", "hosts", "gather_facts", "tasks"}
        assert asked["gather_facts"] is False
        assert all("ansible.builtin.assert" in task for task in asked.get("tasks", []))
        # A play without tasks refuses by its hosts, which no tag skips.
        assert asked.get("tasks") or "mandatory" in asked["hosts"]
    assert play["gather_facts"] is False
    assert not {"pre_tasks", "roles", "handlers", "ignore_errors", "force_handlers"} & set(play)

    def role(task: dict[str, Any]) -> str:
        found = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role") or {}
        return str(found.get("name", "")).removeprefix("edgelab.model_trial.")

    turn, one_host = play["tasks"]
    assert role(turn) == "trial"
    assert set(one_host) == {"name", "block", "rescue", "always"}
    tasks = one_host["block"]
    # Contracts first, and outside of any block whose `always` would act on a host that was never touched.
    assert [role(task) for task in tasks[:3]] == ["ground_truth", "trial", "preflight"]
    assert all(set(task) <= {"name", "tags", "ansible.builtin.import_role"} for task in tasks[:3])
    # What ground truth says goes into the plan, so it is asked before: on the controller, and only looked up.
    assert tasks[0]["ansible.builtin.import_role"]["tasks_from"] == "attest"
    [asking] = yaml.safe_load((ROOT / "roles" / "ground_truth" / "tasks" / "attest.yml").read_text(encoding="utf-8"))
    assert set(asking) == {"name", "when", "register", "edgelab.model_trial.trialbench"}
    assert "['attest']" in asking["edgelab.model_trial.trialbench"]["argv"]
    # What failed is put on record, on the controller alone, and stays a failure.
    record, fails = one_host["rescue"]
    assert record["ansible.builtin.import_role"]["tasks_from"] == "refused"
    assert set(fails) == {"name", "tags", "ansible.builtin.fail"}
    [side_by_side] = one_host["always"]
    assert side_by_side["ansible.builtin.include_role"]["tasks_from"] == "fleet"

    # What these roles do: facts and a table on the controller, an outlook, the contracts. None of it changes a host.
    harmless = {
        "ansible.builtin.set_fact",
        "ansible.builtin.assert",
        "ansible.builtin.debug",
        "ansible.builtin.meta",
        "ansible.builtin.ping",
        "edgelab.model_trial.outlook",
        "edgelab.model_trial.contracts",
        # Sends bytes there and back, and keeps nothing.
        "edgelab.model_trial.channel",
        # Built on the controller; only its hash is used here.
        "edgelab.model_trial.program",
        # On the controller alone; which of its commands, see below.
        "edgelab.model_trial.trialbench",
    }
    words = {
        "name",
        "when",
        "tags",
        "register",
        "check_mode",
        "become",
        "vars",
        "loop",
        "loop_control",
        "ignore_unreachable",
    }
    [table] = yaml.safe_load((ROOT / "roles" / "verdict" / "tasks" / "fleet.yml").read_text(encoding="utf-8"))
    assert set(table) == {"name", "edgelab.model_trial.trialbench"}
    for name in ("trial", "preflight"):
        for task in yaml.safe_load((ROOT / "roles" / name / "tasks" / "main.yml").read_text(encoding="utf-8")):
            assert set(task) - words <= harmless, task
            assert task.get("edgelab.model_trial.trialbench", {"argv": ["workloads", "-"]})["argv"] == [
                "workloads",
                "-",
            ]
    # And a broken contract ends the play: nothing swallows it.
    preflight = (ROOT / "roles" / "preflight" / "tasks" / "main.yml").read_text(encoding="utf-8")
    assert not [word for word in ("ignore_errors", "failed_when", "rescue") if word in preflight]
