# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trial's containers: their fences, and how they are found, ended and removed, on a made-up docker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import (
    containers,
    plan,
    planfile,
    probes,
    run,
    sessions,
)
from ansible_collections.edgelab.model_trial.plugins.module_utils.containers import A2_LABEL, RUN_LABEL, DockerError
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Http

Eventually = Callable[[Callable[[], Any]], None]


@pytest.fixture
def docker(commands: Any) -> Any:
    """The made-up docker, behind a real command line."""
    from fakedocker import FakeDocker

    return FakeDocker(commands.state)


@pytest.fixture
def trial(plan_data: dict[str, Any]) -> plan.Plan:
    """A plan."""
    return planfile.parse(plan_data)


def every_container(docker: Any, trial: plan.Plan, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Create all containers of a trial; returns them by name."""
    containers.create_server(trial)
    for session in sessions.SESSIONS:
        containers.create_client(trial, session, tmp_path / "run")
    return {c["name"]: c for c in docker.all()}


def value(container: dict[str, Any], option: str) -> str:
    """The one value of an option."""
    (found,) = container["options"][option]
    return str(found)


# Decisions that must not be reverted.


def test_the_server_has_its_port_on_loopback_only_and_renders_its_chat_template(docker: Any, trial: plan.Plan) -> None:
    containers.create_server(trial)
    command = docker.get(trial.candidate.container)["command"]
    for option, value in (("--host", "127.0.0.1"), ("--port", "11437")):
        assert command[command.index(option) + 1] == value
        assert command.count(option) == 1
    assert command.count("--jinja") == 1


def test_every_container_is_fenced(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    made = every_container(docker, trial, tmp_path)
    assert set(made) == {
        "panda-llamacpp-e4b",
        "mt-client-tenants",
        "mt-client-a1",
        "mt-client-candidate",
        "mt-client-a2",
    }
    for container in made.values():
        assert value(container, "--network") == "host"
        assert value(container, "--restart") == "no"
        assert value(container, "--cap-drop") == "ALL"
        assert value(container, "--security-opt") == "no-new-privileges"
        assert value(container, "--user") == "10001:10001"
        assert "--read-only" in container["options"]
        assert value(container, "--memory")
        assert int(value(container, "--pids-limit")) > 0
        assert container["image"] == trial.image
        assert container["status"] == "created"
        assert "noexec" in value(container, "--tmpfs")


def test_nothing_is_created_with_rm_and_nothing_is_pulled(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    every_container(docker, trial, tmp_path)
    for call in docker.calls():
        assert call[0] == "create"
        assert not any(word == "--rm" or word.startswith("--rm=") for word in call)


def test_the_server_has_the_limits_of_the_plan(docker: Any, trial: plan.Plan) -> None:
    containers.create_server(trial)
    server = docker.get(trial.candidate.container)
    assert value(server, "--memory") == trial.candidate.memory
    assert value(server, "--pids-limit") == str(trial.candidate.pids)
    assert value(server, "--entrypoint") == "llama-server"


def test_models_are_read_only(docker: Any, trial: plan.Plan) -> None:
    containers.create_server(trial)
    assert value(docker.get(trial.candidate.container), "--volume") == f"{trial.candidate.model_dir}:/models:ro"


def test_each_file_has_its_flag_and_the_inventorys_arguments_come_last(plan_data: dict[str, Any]) -> None:
    plan_data["candidate"]["files"].append({"name": "chat.jinja", "role": "chat_template", "sha256": ""})
    plan_data["candidate"]["server_args"] = ["-c", "4096"]
    command = containers.server_command(planfile.parse(plan_data))
    assert command == [
        *("--host", "127.0.0.1", "--port", "11437", "--jinja"),
        *("--model", "/models/gemma-4-E4B-it-Q4_K_M.gguf"),
        *("--mmproj", "/models/mmproj-F16.gguf"),
        *("--chat-template-file", "/models/chat.jinja"),
        *("-c", "4096"),
    ]


def test_a_model_without_projector_has_no_flag_for_it(plan_data: dict[str, Any]) -> None:
    del plan_data["candidate"]["files"][1]
    command = containers.server_command(planfile.parse(plan_data))
    assert "--mmproj" not in command
    assert "--chat-template-file" not in command


@pytest.mark.parametrize(
    ("access", "option", "found"), [("cdi", "--device", "nvidia.com/gpu=all"), ("gpus", "--gpus", "all")]
)
def test_the_gpu_comes_as_the_plan_says(
    docker: Any, plan_data: dict[str, Any], access: str, option: str, found: str
) -> None:
    plan_data["candidate"]["gpu_access"] = access
    containers.create_server(planfile.parse(plan_data))
    assert value(docker.get("panda-llamacpp-e4b"), option) == found


def test_no_gpu_for_a_candidate_without_and_none_for_clients(
    docker: Any, plan_data: dict[str, Any], tmp_path: Path
) -> None:
    plan_data["candidate"]["gpu_access"] = "none"
    for container in every_container(docker, planfile.parse(plan_data), tmp_path).values():
        assert not {"--device", "--gpus"} & set(container["options"])


def test_clients_carry_the_run_and_a2_a_label_of_its_own(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    made = every_container(docker, trial, tmp_path)
    labels = {name: container["labels"] for name, container in made.items()}
    assert labels.pop("mt-client-a2") == {"edgelab.model_trial.a2": trial.run}
    assert all(found == {"edgelab.model_trial.run": trial.run} for found in labels.values())


def test_clients_are_made_alike(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    made = every_container(docker, trial, tmp_path)
    made.pop("panda-llamacpp-e4b")
    shapes = {
        json.dumps({**c["options"], "--name": 0, "--label": 0, "image": c["image"], "verb": c["command"][0]})
        for c in made.values()
    }
    assert len(shapes) == 1
    assert [c["command"] for c in made.values()] == [["session", f"/in/session-{s}.json"] for s in sessions.SESSIONS]


def test_a_client_writes_samples_and_reads_the_rest(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    containers.create_client(trial, "a1", tmp_path)
    assert docker.get("mt-client-a1")["options"]["--volume"] == [
        f"{tmp_path}/inputs:/in:ro",
        f"{tmp_path}/samples:/out:rw",
        f"{tmp_path}/control:/control:ro",
    ]


# Production's prompt.


def test_the_prompt_is_made_without_network(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("def build_vlm_prompt(goal): ...")
    assert containers.extract_prompt(trial, source) == f"prompt of {trial.contracts.prompt.call}\n"
    create, start, remove = docker.calls()
    assert "--network=none" in create
    assert "--network=host" not in create
    assert "--cap-drop=ALL" in create
    assert "--user=10001:10001" in create
    assert f"--volume={source}:/in/source.py:ro" in create
    # Every user may read a command line, and the call holds the goal in words.
    assert not any(trial.contracts.prompt.call in word for call in docker.calls() for word in call)
    assert start == ["start", "--attach", "mt-prompt"]
    assert remove == ["rm", "--force", "mt-prompt"]
    assert docker.all() == []


@pytest.mark.parametrize("made", ["\r\n one\rtwo\r\n\r", "\ufeff \u2028\x85\x0b é \n\n", "one"])
def test_the_prompt_keeps_its_bytes(commands: Any, trial: plan.Plan, tmp_path: Path, made: str) -> None:
    commands.answer("docker start", out=made)
    commands.answer("docker create", out="")
    commands.answer("docker rm", out="")
    assert containers.extract_prompt(trial, tmp_path / "source.py") == made


def test_a_prompt_that_can_not_be_made_leaves_no_container(docker: Any, trial: plan.Plan, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("raise")
    with pytest.raises(DockerError, match="docker start: ValueError: no prompt today"):
        containers.extract_prompt(trial, source)
    assert docker.all() == []


# The command line.


def test_dockers_own_words_are_in_the_error(docker: Any) -> None:
    with pytest.raises(DockerError, match="docker start: Error: No such container: nobody"):
        containers.docker("start", "nobody")


def test_a_silent_failure_has_its_code(commands: Any) -> None:
    commands.answer("docker rm", rc=17)
    with pytest.raises(DockerError, match="docker rm: 17"):
        containers.docker("rm", "x")


def test_a_docker_that_hangs_is_given_up(commands: Any) -> None:
    commands.answer("docker ps", sleep_s=20)
    with pytest.raises(containers.DockerSilent, match="docker ps: no answer within 0 s"):
        containers.docker("ps", timeout_s=0.2)


def test_a_host_without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerError, match=r"docker: .*No such file"):
        containers.docker("ps")


# Finding and removing.


def test_containers_are_found_by_label_and_run(docker: Any) -> None:
    mine = [docker.add("a", RUN_LABEL, "run-1")["id"], docker.add("b", RUN_LABEL, "run-1", status="running")["id"]]
    other = docker.add("c", RUN_LABEL, "run-2")["id"]
    a2 = docker.add("d", A2_LABEL, "run-1")["id"]
    docker.add("tenant", "com.example", "run-1")
    assert containers.ids([RUN_LABEL], "run-1") == mine
    assert containers.ids([RUN_LABEL]) == [*mine, other]
    assert containers.ids([A2_LABEL]) == [a2]
    assert containers.ids(run="run-1") == [*mine, a2]
    assert containers.ids() == [*mine, other, a2]


def test_a_list_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "docker", lambda *_args, **_options: "Emulate Docker CLI\n")
    with pytest.raises(DockerError, match="docker ps: expected JSON, found Emulate Docker CLI"):
        containers.ids()


def test_all_of_a_run_are_removed_and_nobody_else(docker: Any) -> None:
    for i, status in enumerate(("created", "running", "exited")):
        docker.add(f"mine-{i}", RUN_LABEL, "run-1", status=status)
    docker.add("other", RUN_LABEL, "run-2")
    docker.add("a2", A2_LABEL, "run-1")
    docker.add("tenant", "com.example", "x", status="running")
    assert containers.remove([RUN_LABEL], "run-1") == 3
    assert [c["name"] for c in docker.all()] == ["other", "a2", "tenant"]
    assert containers.remove([RUN_LABEL], "run-1") == 0
    assert containers.remove(run="run-1") == 1
    assert [c["name"] for c in docker.all()] == ["other", "tenant"]


class Stubborn:
    """Stands in for `containers.docker`: removals fail, or new containers appear, as often as told."""

    def __init__(self, rounds: list[str]) -> None:
        self.rounds, self.removals = rounds, 0

    def __call__(self, *args: str, **_options: Any) -> str:
        if args[0] == "ps":
            names = self.rounds[min(self.removals, len(self.rounds) - 1)].split()
            return "".join(json.dumps([name, "run-1", ""]) + "\n" for name in names)
        self.removals += 1
        if "busy" in args:
            raise DockerError("docker rm: removal of container busy is already in progress")
        return ""


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Time that passes only when it is slept."""
    from fakeworld import Clock

    clock = Clock()
    monkeypatch.setattr(containers, "time", clock.module())
    return clock


def test_a_container_that_appears_late_is_removed_too(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    monkeypatch.setattr(containers, "docker", Stubborn(["one two", "late", ""]))
    seen: list[list[str]] = []
    assert containers.remove(run="run-1", before=lambda names, _limit_s: seen.append(names)) == 3
    assert seen == [["one", "two"], ["late"]]


def test_another_removal_under_way_is_waited_for(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    monkeypatch.setattr(containers, "docker", Stubborn(["busy", "busy", ""]))
    seen: list[list[str]] = []
    assert containers.remove(run="run-1", before=lambda names, _limit_s: seen.append(names)) == 1
    assert seen == [["busy"]]
    assert no_sleep.now > 10_000


class Undead(Stubborn):
    """One container can't be killed: docker waits for it, and then says so. Others are removed."""

    def __init__(self, clock: Any, takes_s: float, until: int = 1_000) -> None:
        super().__init__(["undead other", *["undead"] * until, ""])
        self.clock, self.takes_s, self.limits_s = clock, takes_s, []

    def __call__(self, *args: str, **options: Any) -> str:
        if args[0] == "rm":
            self.limits_s.append(options["timeout_s"])
            self.clock.sleep(self.takes_s)
            self.removals += 1
            raise DockerError("docker rm: could not kill: tried to kill container, but did not receive an exit event")
        return super().__call__(*args, **options)


def test_a_container_that_can_not_be_killed_is_asked_for_once(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    undead = Undead(no_sleep, 10.0)
    monkeypatch.setattr(containers, "docker", undead)
    began = no_sleep.now
    with pytest.raises(
        containers.DockerSilent, match=r"did not receive an exit event \(after 10 s\), and is not tried"
    ):
        containers.remove(run="run-1")
    assert undead.removals == 1
    assert no_sleep.now - began < 11


def test_a_slow_removal_that_did_its_work_is_none_of_that(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    """Another removal was under way: docker waited for it, and it is gone."""
    monkeypatch.setattr(containers, "docker", Undead(no_sleep, 10.0, until=0))
    assert containers.remove(run="run-1") == 2


def test_a_removal_has_a_bound_whatever_docker_does(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    undead = Undead(no_sleep, 2.0)
    monkeypatch.setattr(containers, "docker", undead)
    with pytest.raises(DockerError):
        containers.remove(run="run-1", limit_s=5.0)
    assert undead.limits_s[0] == pytest.approx(5.0)
    assert all(0.0 <= left_s <= 5.0 for left_s in undead.limits_s)
    assert undead.limits_s[2] < 1.0


def test_containers_that_do_not_go_are_named(monkeypatch: pytest.MonkeyPatch, no_sleep: Any) -> None:
    monkeypatch.setattr(containers, "docker", Stubborn(["busy"]))
    with pytest.raises(DockerError, match="containers of run-1 are still there: busy"):
        containers.remove(run="run-1")


# One container.


def test_a_started_container_is_its_process(docker: Any, commands: Any) -> None:
    docker.add("server", RUN_LABEL, "run-1")
    (commands.state / "pid-server").write_text(str(os.getpid()))
    assert containers.start("server") == probes.identify(os.getpid())
    assert containers.state("server")["Running"] is True


def test_a_container_that_ends_at_once_has_none(docker: Any) -> None:
    docker.add("server", RUN_LABEL, "run-1")
    assert containers.start("server") is None
    assert containers.state("server")["Status"] == "exited"


def test_a_start_that_comes_too_late_finds_nothing(docker: Any) -> None:
    with pytest.raises(DockerError, match="No such container"):
        containers.start("server")
    with pytest.raises(DockerError, match="No such object"):
        containers.state("server")


def test_a_start_in_the_background_holds_nobody_up(docker: Any, commands: Any, eventually: Eventually) -> None:
    docker.add("client", RUN_LABEL, "run-1")
    containers.start_in_background("client")
    eventually(lambda: docker.get("client")["status"] == "exited")
    containers.start_in_background("nobody")
    eventually(lambda: ["start", "nobody"] in docker.calls())


def test_who_waits_for_a_start_has_time_for_something_else(docker: Any, commands: Any, eventually: Eventually) -> None:
    docker.add("server", RUN_LABEL, "run-1")
    (commands.state / "pid-server").write_text(str(os.getpid()))
    commands.answer("docker start slow", rc=1, err="no such image", sleep_s=0.5)
    slow = containers.Starting("slow")
    assert not slow.done
    starting = containers.Starting("server")
    eventually(lambda: starting.done)
    assert starting.process() == probes.identify(os.getpid())
    eventually(lambda: slow.done)
    with pytest.raises(DockerError, match="no such image"):
        slow.process()


def test_last_words_of_a_container(docker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not about time: the made-up docker is a Python that starts slowly on a busy machine.
    monkeypatch.setattr(containers, "WORDS_S", 60.0)
    docker.add("server", RUN_LABEL, "run-1", logs="".join(f"line {i}\n" for i in range(20)))
    assert containers.tail("server", 2) == "line 18\nline 19"
    docker.add("silent", RUN_LABEL, "run-1")
    assert containers.tail("silent") == "(nothing)"
    asked = "".join(f"request: GET /health 127.0.0.1 503 {i}\n" for i in range(40))
    docker.add("asked", RUN_LABEL, "run-1", logs=f"no memory left\n{asked}")
    health = Http("http://127.0.0.1:11437/health")
    assert containers.tail("asked", 8, health) == "no memory left\nrequest: GET /health 127.0.0.1 503 39 (40 times)"


def say_bytes(commands: Any, rc: int = 0) -> None:
    """Make docker print what is text in no encoding, and what acts on a terminal."""
    line = "printf 'words \\377\\033[31m\\a\\n'"
    (commands.bin / "docker").write_text(f"#!/bin/sh\n{line}\n{line} >&2\nexit {rc}\n")


def test_last_words_that_are_no_text_can_not_act_on_a_terminal(commands: Any) -> None:
    say_bytes(commands)
    assert containers.tail("server").splitlines() == ["words \ufffd\ufffd[31m\ufffd"] * 2


def test_what_docker_says_of_a_failure_can_not_act_on_a_terminal(commands: Any) -> None:
    say_bytes(commands, rc=1)
    with pytest.raises(DockerError) as caught:
        containers.docker("start", "server")
    assert str(caught.value) == "docker start: words \ufffd\ufffd[31m\ufffd"


def test_output_that_is_no_text_is_no_trouble(commands: Any) -> None:
    say_bytes(commands)
    assert containers.docker("ps").startswith("words \ufffd")


def test_logs_that_are_no_text_are_kept(docker: Any, commands: Any, tmp_path: Path) -> None:
    own = tmp_path / "server-json.log"
    own.write_bytes(b'{"log": "bytes \xff\\n"}\n{"log": "half \\ud800"}\n{"log": 7}\n{"log": "last\\n"}\n')
    docker.add("server", RUN_LABEL, "run-1", log_path=str(own))
    containers.save_logs(["server"], tmp_path / "kept")
    kept = tmp_path / "kept" / "server.log"
    assert kept.read_text() == "bytes \ufffd\nlast\n"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_logs_are_kept_one_file_each(docker: Any, tmp_path: Path) -> None:
    entries = [{"log": "from docker's file\n"}, {"log": "twice\n"}]
    own = tmp_path / "server-json.log"
    own.write_text("".join(json.dumps(e) + "\n" for e in entries) + 'torn {"log"\n[]\n{}\n')
    docker.add("server", RUN_LABEL, "run-1", log_path=str(own))
    docker.add("client", RUN_LABEL, "run-1", logs="by docker logs\n", log_path=str(tmp_path / "gone"))
    docker.add("other", RUN_LABEL, "run-2", logs="not ours\n")
    containers.save_logs(["server", "client"], tmp_path / "kept")
    kept = {p.name: p.read_text() for p in (tmp_path / "kept").iterdir()}
    assert kept == {"server.log": "from docker's file\ntwice\n", "client.log": "by docker logs\n"}


# A running measuring container.


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    return tmp_path / "run"


def summary(trial: plan.Plan, run_dir: Path, session: str, text: str) -> None:
    """Write a session's summary."""
    (run_dir / "samples" / sessions.summary_name(trial, session)).write_text(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"exit_code": 0}', 0),
        ('{"exit_code": 3}', 3),
        ("{}", 4),
        ('{"exit_code": "0"}', 4),
        ('{"exit_code": null}', 4),
        ('{"exit_code": [0]}', 4),
        ('{"exit_code": 0.0}', 4),
        ('{"exit_code": false}', 4),
    ],
)
def test_a_client_is_through_when_its_summary_is_there(
    docker: Any, commands: Any, trial: plan.Plan, run_dir: Path, text: str, code: int
) -> None:
    commands.answer("docker wait", sleep_s=20)
    client = containers.Client(trial, "a1", run_dir)
    assert client.exit_code() is None
    summary(trial, run_dir, "a1", text)
    assert client.exit_code() == code
    assert client.exit_code() == code
    client.close()


@pytest.mark.parametrize(("out", "code"), [("137\n", 137), ("", 4)])
def test_a_client_that_ends_without_summary_is_seen(
    docker: Any, commands: Any, trial: plan.Plan, run_dir: Path, eventually: Eventually, out: str, code: int
) -> None:
    commands.answer("docker wait", rc=0 if out else 1, out=out)
    client = containers.Client(trial, "candidate", run_dir)
    try:
        eventually(lambda: client.exit_code() is not None)
        assert client.exit_code() == code
    finally:
        client.close()


def test_a_client_may_be_left_at_work(commands: Any, trial: plan.Plan, run_dir: Path) -> None:
    commands.answer("docker wait", sleep_s=20)
    client = containers.Client(trial, "a2", run_dir)
    assert client.exit_code() is None
    client.close()
    assert client._waiter.poll() is not None, "docker wait is left behind"
    assert [call[0] for call in commands.calls("docker")] in ([], ["wait"]), "the container is left as it is"


def test_a_client_that_says_what_is_no_text_is_seen(
    commands: Any, trial: plan.Plan, run_dir: Path, eventually: Eventually
) -> None:
    say_bytes(commands)
    client = containers.Client(trial, "a1", run_dir)
    try:
        eventually(lambda: client.exit_code() is not None)
        assert client.exit_code() == 4
    finally:
        client.close()


def test_a_torn_summary_is_no_summary(commands: Any, trial: plan.Plan, run_dir: Path) -> None:
    commands.answer("docker wait", sleep_s=20)
    client = containers.Client(trial, "a1", run_dir)
    summary(trial, run_dir, "a1", '{"exit_code"')
    try:
        assert client.exit_code() is None
    finally:
        client.close()


@pytest.mark.parametrize("trouble", [TimeoutError("docker timed out"), FileNotFoundError("docker")])
def test_words_for_a_failure_are_not_waited_for(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    """A killed engine holds its callers until it is back, and a restore waits for the end of the one who asks."""
    limits: list[float] = []

    def hang(_argv: list[str], limit_s: float, **_options: Any) -> None:
        limits.append(limit_s)
        raise trouble

    monkeypatch.setattr(run, "command", hang)
    assert containers.tail("box") == "(docker does not answer)"
    with pytest.raises(containers.DockerError):
        containers.state("box", containers.WORDS_S)
    assert limits == [1.0, 1.0]
