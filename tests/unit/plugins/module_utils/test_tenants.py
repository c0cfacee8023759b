# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants of all four kinds, with real processes and made-up systemctl, systemd-run, docker and journalctl."""

from __future__ import annotations

import dataclasses
import getpass
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import identity, probes, run, sockets, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.identity import Before, Known
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Http, Speech, Tenant
from ansible_collections.edgelab.model_trial.plugins.module_utils.tenants import TenantError

if TYPE_CHECKING:
    from fakecommands import Commands

UNIT = Tenant("model", "systemd", unit="model.service")
BOX = Tenant("box", "container", container="box")
IGNORES_TERM = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a tenant's commands print to."""
    return tmp_path / "tenant.log"


def lines(log: Path) -> list[str]:
    """What was printed, without the lines that say when which command began."""
    return [line for line in log.read_text().splitlines() if not line.startswith("--- ")]


@pytest.fixture
def script(tmp_path: Path) -> Tenant:
    """A tenant with start and stop scripts that leave a line each."""
    folder = tmp_path / "voice's home"
    folder.mkdir()
    for name in ("start", "stop"):
        path = folder / f"{name}.sh"
        path.write_text(f"#!/bin/sh\necho {name} in $PWD\n")
        path.chmod(0o755)
    return Tenant("voice", "script", user="robot", directory=str(folder), start="./start.sh", stop="./stop.sh")


@pytest.fixture
def spawn(eventually: Callable[[Callable[[], Any]], None]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, and ends those that are left."""
    started: list[subprocess.Popen[bytes]] = []

    def make(*argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        started.append(child)
        # Right after exec the kernel does not show the new argv yet.
        eventually(lambda: probes.command(child.pid) == " ".join(argv))
        return child

    yield make
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Time that passes only when a tenant is waited for."""
    from fakeworld import Clock

    found = Clock()
    monkeypatch.setattr(tenants, "time", found.module())
    return found


def with_health(tenant: Tenant, url: str, **changes: Any) -> Tenant:
    """The tenant with a health page."""
    return dataclasses.replace(tenant, health=Http(url, json={"loaded": True}), **changes)


# Looking.


def test_a_units_facts_are_systemds(commands: Commands) -> None:
    commands.answer("systemctl show", out="ActiveState=active\nMainPID=12\nResult=a=b\nodd line\n")
    assert tenants.unit_facts("model.service") == {"ActiveState": "active", "MainPID": "12", "Result": "a=b"}
    (call,) = commands.calls("systemctl")
    assert call[0] == "show"
    assert call[-1] == "model.service"


def unit_says(active: str, sub: str = "", pid: int = 0, **facts: str) -> str:
    """What systemd says of a unit."""
    known = {"LoadState": "loaded", "ActiveState": active, "SubState": sub, "MainPID": str(pid), **facts}
    return "".join(f"{name}={value}\n" for name, value in known.items())


def box_says(status: str, pid: int = 0, **facts: bool) -> str:
    """What docker says of a container."""
    state = {"Status": status, "Running": False, "Paused": False, "Restarting": False, "Pid": pid, **facts}
    return json.dumps(state) + "\n"


OWN = os.getpid()
# No process has this number: the kernel gives out none above 2^22.
ENDED = 2**22 + 11


def row(value: object) -> str:
    """A row's part of a test's name: the same in every process that collects it."""
    return str(value).replace(str(OWN), "OWN") if isinstance(value, (str, int)) else getattr(value, "kind", "")


@pytest.mark.parametrize(
    ("tenant", "said", "running", "up", "pid"),
    [
        (UNIT, unit_says("active", "running", OWN), True, True, OWN),
        (UNIT, unit_says("reloading", "reload", OWN), True, True, OWN),
        # Without a process its state alone tells: a one-shot that remains, a timer, a socket, a mount.
        (UNIT, unit_says("active", "exited"), True, True, 0),
        (UNIT, unit_says("active", "waiting"), True, True, 0),
        (UNIT, unit_says("active", "elapsed"), True, True, 0),
        (UNIT, unit_says("active", "listening"), True, True, 0),
        # systemd has not heard of the end of its process yet.
        (UNIT, unit_says("active", "running", ENDED), True, False, 0),
        # On its way up or down, and in the pause before systemd starts it again.
        (UNIT, unit_says("activating", "start-pre"), True, False, 0),
        (UNIT, unit_says("activating", "start", OWN), True, False, OWN),
        (UNIT, unit_says("activating", "auto-restart"), True, False, 0),
        (UNIT, unit_says("activating", "auto-restart-queued"), True, False, 0),
        (UNIT, unit_says("failed", "failed-before-auto-restart"), True, False, 0),
        (UNIT, unit_says("inactive", "dead-before-auto-restart"), True, False, 0),
        (UNIT, unit_says("deactivating", "final-sigterm"), True, False, 0),
        (UNIT, unit_says("inactive", "dead", Job="80"), True, False, 0),
        (UNIT, unit_says("active", "running", OWN, Job="81"), True, False, OWN),
        (UNIT, unit_says("inactive", "dead"), False, False, 0),
        (UNIT, unit_says("failed", "failed"), False, False, 0),
        (UNIT, unit_says("maintenance", "cleaning"), False, False, 0),
        # Nobody can start these, and nothing of them runs.
        (UNIT, unit_says("inactive", "dead", LoadState="masked"), False, False, 0),
        (UNIT, unit_says("inactive", "dead", LoadState="bad-setting"), False, False, 0),
        # Its file is gone, and it runs on.
        (UNIT, unit_says("active", "running", OWN, LoadState="not-found"), True, True, OWN),
        (BOX, box_says("running", OWN, Running=True), True, True, OWN),
        (BOX, box_says("running", ENDED, Running=True), True, False, 0),
        (BOX, box_says("paused", OWN, Running=True, Paused=True), True, False, OWN),
        # In the pause before docker starts it again.
        (BOX, box_says("restarting", 0, Running=True, Restarting=True), True, False, 0),
        (BOX, box_says("exited"), False, False, 0),
        (BOX, box_says("created"), False, False, 0),
        (BOX, box_says("dead"), False, False, 0),
    ],
    ids=row,
)
def test_a_tenant_runs_when_its_manager_says_so(
    commands: Commands, tenant: Tenant, said: str, running: bool, up: bool, pid: int
) -> None:
    commands.answer("systemctl show", out=said)
    commands.answer("docker inspect", out=said)
    kind, condition = tenants.of(tenant), tenants.look(tenant)
    process = probes.identify(pid) if pid else None
    seen = kind.seen()
    assert (seen.running, seen.up, seen.process) == (running, up, process)
    # The contract, the snapshot, the fence and the restore ask the same question.
    assert kind.state(tenants.HERE).ok == up
    assert (condition.running, condition.healthy, condition.process) == (running, up, process)
    assert bool(tenants.revived([tenant])) == running
    assert tenants.runs(tenant) == running
    # A tenant without a process has none to compare with; one that has stays it.
    first = tenants.Standing(True, process, 0)
    commands.answer("docker inspect --format {{.RestartCount}}", out="0\n")
    assert (tenants.unsettled(tenant, first) == "") == up


@pytest.mark.parametrize(
    ("tenant", "answer", "error", "words"),
    [
        (UNIT, (0, unit_says("inactive", "dead", LoadState="not-found"), ""), tenants.NotThere,
         "model: systemd has no unit model.service"),
        (UNIT, (1, "", "Failed to connect to bus: Connection refused\n"), OSError,
         "systemd does not report the state of model.service: Failed to connect to bus: Connection refused"),
        (UNIT, (0, "", ""), OSError, "systemd does not report the state of model.service: exit status 0"),
        (BOX, (1, "", "Error response from daemon: No such container: box\n"), tenants.NotThere,
         "box: docker has no container box"),
        (BOX, (1, "", "error: no such object: box\n"), tenants.NotThere, "box: docker has no container box"),
        (BOX, (1, "", "Cannot connect to the Docker daemon. Is it running?\n"), TenantError,
         "box: docker does not report the state of the container box: Cannot connect to the Docker daemon"),
        # A daemon that is not there: its socket is what "no such file" is about.
        (BOX, (1, "", "dial unix /var/run/docker.sock: connect: no such file or directory\n"), TenantError,
         "box: docker does not report the state of the container box: dial unix"),
        (BOX, (0, "null\n", ""), TenantError, "box: docker does not report the state of the container box: null"),
        (BOX, (0, "", ""), TenantError, "box: docker does not report the state of the container box: exit status 0"),
    ],
)  # fmt: skip
def test_what_its_manager_does_not_tell_is_not_known(
    commands: Commands, tenant: Tenant, answer: tuple[int, str, str], error: type[Exception], words: str
) -> None:
    """No answer is neither up nor down, for every caller; and no tenant counts as revived because of it."""
    rc, out, err = answer
    for asked in ("systemctl show", "docker inspect"):
        commands.answer(asked, rc=rc, out=out, err=err)
    with pytest.raises(error, match=re.escape(words)) as caught:
        tenants.look(tenant)
    assert isinstance(caught.value, tenants.NotThere) == (error is tenants.NotThere)
    with pytest.raises(error):
        tenants.standing(tenant)
    assert tenants.revived([tenant]) == ""
    if error is tenants.NotThere:
        assert not tenants.runs(tenant)
        assert tenants.of(tenant).state(tenants.HERE) == probes.ProbeResult(
            False, words.removeprefix(f"{tenant.name}: ")
        )
    else:
        with pytest.raises(error, match=re.escape(words)):
            tenants.runs(tenant)


def test_who_may_not_see_other_users_processes_takes_systemds_word(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host with hidepid: the login user sees nobody's processes but his own."""
    monkeypatch.setattr(probes, "identify", lambda *_pid: None)
    commands.answer("systemctl show", out=unit_says("active", "running", 77))
    assert tenants.of(UNIT).state(tenants.HERE) == probes.ProbeResult(True, "unit model.service is active (running)")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (unit_says("active", "exited", ActiveEnterTimestampMonotonic="9000000000"), 1_000),
        # Nothing of it loads: a start need not wait for systemd's pause.
        (unit_says("activating", "auto-restart", ActiveEnterTimestampMonotonic="9000000000"), math.inf),
        (unit_says("activating", "start-pre", ActiveEnterTimestampMonotonic="9000000000"), 0),
        (unit_says("active", "exited"), 0),
    ],
)
def test_how_long_a_unit_without_a_process_has_been_up(
    commands: Commands, clock: Any, said: str, seconds: float
) -> None:
    commands.answer("systemctl show", out=said)
    assert tenants.age_s(UNIT) == seconds


def test_a_process_is_found_by_its_argv(spawn: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = spawn("sleep", "86.011")
    assert tenants.of(Tenant("x", "process", process="sleep 86.011")).find() == probes.identify(child.pid)
    assert tenants.of(Tenant("x", "process", process="sleep 86.012")).find() is None


def test_a_script_tenant_without_argv_is_who_holds_its_port(server: Any, free_port: int) -> None:
    assert tenants.of(Tenant("x", "script", port=server.port)).find() == probes.identify(os.getpid())
    assert tenants.of(Tenant("x", "script", port=free_port)).find() is None
    assert tenants.of(Tenant("x", "script")).find() is None


def test_a_tenant_that_is_not_there() -> None:
    condition = tenants.look(Tenant("x", "process", process="sleep 86.013"))
    assert (condition.running, condition.healthy, condition.process) == (False, False, None)
    assert condition.found == "not running"


def test_without_a_health_page_running_is_healthy(server: Any) -> None:
    condition = tenants.look(Tenant("x", "script", port=server.port))
    assert (condition.running, condition.healthy) == (True, True)
    assert condition.found == f"PID {os.getpid()}"


@pytest.mark.parametrize("loaded", [True, False])
def test_a_tenant_is_as_healthy_as_its_page_says(server: Any, loaded: bool) -> None:
    server.json("/health", {"loaded": loaded})
    condition = tenants.look(with_health(Tenant("x", "script", port=server.port), f"{server.url}/health"))
    assert (condition.running, condition.healthy) == (True, loaded)
    assert condition.process == probes.identify(os.getpid())
    assert str(os.getpid()) in condition.found
    assert f"loaded = {str(loaded).lower()}" in condition.found


@pytest.mark.parametrize(
    ("tenant", "command"),
    [
        (UNIT, "sudo systemctl start model.service"),
        (BOX, "sudo docker start box"),
        (
            Tenant("v", "script", user="robot", directory="/srv/my voice", start="./start.sh"),
            """sudo -u robot sh -c 'cd '"'"'/srv/my voice'"'"' && ./start.sh'""",
        ),
        (Tenant("p", "process", user="robot", start="python3 p.py"), "sudo -u robot sh -c 'python3 p.py'"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_operator_is_told_how_to_start_by_hand(tenant: Tenant, command: str) -> None:
    assert tenants.of(tenant).start_command() == command


# Stopping.


def test_a_unit_is_stopped_by_systemd(commands: Commands, log: Path) -> None:
    assert tenants.stop(UNIT, log) >= 0
    assert ["stop", "model.service"] in commands.calls("systemctl")


def test_a_unit_that_will_not_stop_is_named_with_its_last_words(commands: Commands, log: Path) -> None:
    commands.answer("systemctl stop", rc=1, err="Job failed.\n")
    commands.answer("journalctl", out="".join(f"line {i}\n" for i in range(40)))
    with pytest.raises(TenantError) as caught:
        tenants.stop(UNIT, log)
    text = str(caught.value)
    assert text.startswith("model: systemctl stop model.service ended with 1: Job failed.")
    assert "line 39" in text
    assert "line 19" not in text
    assert text.endswith("to start it by hand: sudo systemctl start model.service")


def test_its_last_words_are_not_our_own_questions(commands: Commands, log: Path) -> None:
    commands.answer("systemctl stop", rc=1, err="Job failed.\n")
    commands.answer("journalctl", out="no memory left\n" + "".join(f"GET /health {i}\n" for i in range(40)))
    with pytest.raises(TenantError) as caught:
        tenants.stop(dataclasses.replace(UNIT, health=Http("http://127.0.0.1:1/health")), log)
    told = "last log lines:\nno memory left\nGET /health 39 (40 times)\nto start it by hand: "
    assert told in str(caught.value)


def test_a_stop_command_that_hangs_is_given_up(commands: Commands, log: Path) -> None:
    commands.answer("systemctl stop", sleep_s=20)
    with pytest.raises(TenantError, match="model: still stopping after 0 s"):
        tenants.stop(Tenant("model", "systemd", unit="model.service", stop_timeout_s=0.3), log)


@pytest.mark.parametrize(
    ("tenant", "said", "words"),
    [
        (UNIT, unit_says("active", "running", OWN), f"PID {OWN} still runs"),
        (UNIT, unit_says("active", "exited"), "it still runs (unit model.service is active (exited))"),
        (
            UNIT,
            unit_says("activating", "auto-restart"),
            "it still runs (unit model.service is activating (auto-restart",
        ),
        (UNIT, "", "it is unknown whether it still runs: systemd does not report the state of model.service"),
        (BOX, box_says("restarting", Running=True, Restarting=True), "it still runs (container box is restarting)"),
        (BOX, "", "it is unknown whether it still runs: box: docker does not report"),
    ],
    ids=row,
)
def test_a_stop_waits_until_the_tenant_is_down(
    commands: Commands, log: Path, clock: Any, monkeypatch: pytest.MonkeyPatch, tenant: Tenant, said: str, words: str
) -> None:
    # Each look is two processes of the fakes.
    monkeypatch.setattr(tenants, "POLL_S", 0.5)
    commands.answer("docker stop")
    for asked in ("systemctl show", "docker inspect"):
        commands.answer(asked, out=said)
    tenant = dataclasses.replace(tenant, stop_timeout_s=7)
    with pytest.raises(TenantError, match=re.escape(f"{tenant.name}: {words}")) as caught:
        tenants.stop(tenant, log)
    assert str(caught.value).endswith(" after 7 s")
    # It is asked until it is: what was begun goes on.
    clock.after(3, lambda: monkeypatch.setattr(probes, "alive", lambda _process: False))
    for asked, down in (("systemctl show", unit_says("inactive", "dead")), ("docker inspect", box_says("exited"))):
        clock.after(3, lambda asked=asked, down=down: commands.answer(asked, out=down))
    assert 3 <= tenants.stop(tenant, log) < 4


def test_what_is_removed_by_its_stop_is_stopped(commands: Commands, log: Path) -> None:
    """A container of `--rm`, a transient unit: its manager no longer knows it."""
    commands.answer("docker stop")
    commands.answer("docker inspect", rc=1, err="Error response from daemon: No such container: box\n")
    commands.answer("systemctl show", out=unit_says("inactive", "dead", LoadState="not-found"))
    for tenant in (BOX, UNIT):
        assert tenants.stop(tenant, log) < 5


def test_a_container_is_stopped_with_its_grace(commands: Commands, log: Path) -> None:
    commands.answer("docker stop")
    commands.answer("docker inspect", out=box_says("exited"))
    tenants.stop(Tenant("box", "container", container="box", stop_timeout_s=12), log)
    assert ["stop", "-t", "12", "box"] in commands.calls("docker")


def test_a_script_tenant_stops_as_its_own_user_in_a_scope_of_its_own(
    commands: Commands, log: Path, script: Tenant
) -> None:
    tenants.stop(script, log)
    (call,) = commands.calls("systemd-run")
    assert "--scope" in call
    assert "--reuid=robot" in call
    scope = next(word.removeprefix("--unit=") for word in call if word.startswith("--unit="))
    # Its shell lives as long as the command, and can be told from what the command leaves in its scope.
    assert call[-4:] == ["/bin/sh", "-c", f"{tenants.BEGIN}./stop.sh\nexit $?", scope]
    assert lines(log) == [f"stop in {script.directory}"]


def test_a_stop_script_that_fails_is_quoted(commands: Commands, log: Path, script: Tenant) -> None:
    path = Path(script.directory) / "stop.sh"
    path.write_text("#!/bin/sh\necho no such thing >&2\nexit 3\n")
    with pytest.raises(TenantError) as caught:
        tenants.stop(script, log)
    assert "voice: './stop.sh' ended with 3" in str(caught.value)
    assert "no such thing" in str(caught.value)
    assert "sudo -u robot" in str(caught.value)


def test_a_process_is_asked_to_end(spawn: Callable[..., subprocess.Popen[bytes]], log: Path) -> None:
    child, bystander = spawn("sleep", "86.021"), spawn("sleep", "86.022")
    tenants.stop(Tenant("p", "process", process="sleep 86.021"), log)
    assert child.wait(60) == -15
    assert bystander.poll() is None


def test_a_process_that_will_not_hear_is_ended(
    spawn: Callable[..., subprocess.Popen[bytes]], log: Path, clock: Any
) -> None:
    # A clock that moves only in sleeps: the limit passes at once, whatever the machine is busy with.
    child = spawn(sys.executable, "-c", IGNORES_TERM, "86.031")
    assert child.stdout
    assert child.stdout.readline() == b"ready\n"
    clock.ticks.append(lambda: time.sleep(0.001))
    tenants.stop(Tenant("p", "process", process="86.031", stop_timeout_s=5), log)
    assert child.wait(60) == -9


def test_stopping_what_does_not_run_is_no_failure(commands: Commands, log: Path) -> None:
    tenants.stop(Tenant("p", "process", process="sleep 86.041"), log)


# Starting.


def test_a_unit_is_started_with_a_clean_record(commands: Commands, log: Path) -> None:
    commands.answer("systemctl reset-failed", rc=1, err="not loaded\n")
    tenants.start(UNIT, log)
    assert commands.calls("systemctl") == [["reset-failed", "model.service"], ["start", "model.service"]]


def test_a_container_is_started(commands: Commands, log: Path) -> None:
    commands.answer("docker start")
    tenants.start(BOX, log)
    assert commands.calls("docker") == [["start", "box"]]


def test_a_container_that_will_not_start_is_quoted(commands: Commands, log: Path) -> None:
    commands.answer("docker start", rc=1, err="no space\n")
    commands.answer("docker logs", out="first words\n", err="last words\n")
    with pytest.raises(TenantError) as caught:
        tenants.start(BOX, log)
    text = str(caught.value)
    assert "box: docker start box ended with 1: no space" in text
    assert "first words\nlast words" in text
    assert "to start it by hand: sudo docker start box" in text


def test_a_script_tenant_starts_in_its_folder(commands: Commands, log: Path, script: Tenant) -> None:
    log.write_text("earlier\n")
    tenants.start(script, log)
    assert lines(log) == ["earlier", f"start in {script.directory}"]
    assert "--reuid=robot" in commands.calls("systemd-run")[0]


def test_what_a_start_script_leaves_running_holds_nobody_up(
    commands: Commands, log: Path, script: Tenant, eventually: Callable[[Callable[[], Any]], None]
) -> None:
    Path(script.directory, "start.sh").write_text("#!/bin/sh\nsleep 86.051 &\necho up\n")
    try:
        tenants.start(script, log)
        assert lines(log) == ["up"]
        eventually(lambda: tenants.of(Tenant("x", "process", process="sleep 86.051")).find())
    finally:
        for process in probes.processes("sleep 86.051"):
            os.kill(process.pid, 9)


def test_a_process_is_started_in_the_background(
    commands: Commands, log: Path, eventually: Callable[[Callable[[], Any]], None]
) -> None:
    tenant = Tenant("p", "process", process="sleep 86.061", start="exec sleep 86.061", user="robot")
    try:
        tenants.start(tenant, log)
        eventually(lambda: tenants.of(tenant).find())
    finally:
        for process in probes.processes("sleep 86.061"):
            os.kill(process.pid, 9)


def test_a_start_that_says_nothing_is_quoted_so(commands: Commands, log: Path, script: Tenant) -> None:
    Path(script.directory, "start.sh").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(TenantError, match=r"ended with 1; last log lines:\n--- .*start.sh\nto start it by hand"):
        tenants.start(script, log)


def test_a_tenant_whose_folder_is_gone_is_named_with_its_command(commands: Commands, log: Path, script: Tenant) -> None:
    Path(script.directory).rename(f"{script.directory}.old")
    with pytest.raises(TenantError, match=r"voice: its start command cannot be run: .*No such file") as caught:
        tenants.start(script, log)
    assert f"to start it by hand: {tenants.of(script).start_command()}" in str(caught.value)
    with pytest.raises(TenantError, match=r"voice: its stop command cannot be run: .*No such file"):
        tenants.stop(script, log)


@pytest.mark.parametrize("trouble", [TimeoutError("journalctl timed out"), FileNotFoundError("journalctl")])
def test_words_that_can_not_be_had_hide_no_failure(
    commands: Commands, log: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    commands.answer("systemctl start", rc=1, err="Unit model.service is masked.\n")
    command = run.command

    def ask(argv: list[str], limit_s: float) -> run.Ran:
        if argv[0] == "journalctl":
            raise trouble
        return command(argv, limit_s)

    monkeypatch.setattr(run, "command", ask)
    with pytest.raises(
        TenantError, match=r"(?s)is masked.*\(nothing\)\nto start it by hand: sudo systemctl start model"
    ):
        tenants.start(UNIT, log)


def test_a_process_that_ends_before_its_signal_is_no_failure(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    there = [probes.ProcessId(2**22 + 7, 1)]
    looks = iter([True])

    def alive(_process: probes.ProcessId) -> bool:
        if next(looks, False):
            return True
        there.clear()
        return False

    monkeypatch.setattr(probes, "processes", lambda *_pattern: list(there))
    monkeypatch.setattr(probes, "alive", alive)
    tenants.stop(Tenant("p", "process", process="gone"), log)


def test_a_start_that_hangs_is_given_up(commands: Commands, log: Path) -> None:
    commands.answer("systemctl start", sleep_s=20)
    commands.answer("journalctl", out="loading the model\n")
    with pytest.raises(TenantError) as caught:
        tenants.start(Tenant("model", "systemd", unit="model.service", start_timeout_s=0.3), log)
    assert "did not return within 0 s" in str(caught.value)
    assert "loading the model" in str(caught.value)


def test_a_script_is_known_by_its_scope(commands: Commands, log: Path, script: Tenant) -> None:
    scope = tenants.start(script, log)
    (unit,) = [w.removeprefix("--unit=") for w in commands.calls("systemd-run")[0] if w.startswith("--unit=")]
    assert scope == unit
    assert re.fullmatch(r"trial-start\.voice\.[0-9a-f]{8}\.scope", unit)
    assert commands.calls("systemctl") == []


def test_a_start_that_failed_leaves_nothing_running(commands: Commands, log: Path, script: Tenant) -> None:
    """What it started would be there twice after the next try."""
    Path(script.directory, "start.sh").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(TenantError, match="ended with 1"):
        tenants.start(script, log)
    (unit,) = [w.removeprefix("--unit=") for w in commands.calls("systemd-run")[0] if w.startswith("--unit=")]
    assert any(call[-1] == unit for call in commands.calls("systemctl"))


def test_a_start_command_that_hangs_leaves_nothing_running(commands: Commands, log: Path, script: Tenant) -> None:
    commands.answer("systemd-run", sleep_s=20)
    with pytest.raises(TenantError, match="did not return within 0 s"):
        tenants.start(script, log, 0.3)
    assert len(commands.calls("systemctl")) == 1


def test_a_scope_that_can_not_be_ended_hides_no_failure(
    commands: Commands, log: Path, script: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(script.directory, "start.sh").write_text("#!/bin/sh\nexit 1\n")

    command = run.command

    def hang(argv: list[str], limit_s: float, **options: Any) -> run.Ran:
        if argv[0] != "systemd-run":
            raise TimeoutError
        return command(argv, limit_s, **options)

    monkeypatch.setattr(run, "command", hang)
    with pytest.raises(TenantError, match="ended with 1"):
        tenants.start(script, log)


@pytest.mark.parametrize("limit_s", [0.3, -5.0])
def test_a_start_may_be_given_less_than_the_tenants_limit(commands: Commands, log: Path, limit_s: float) -> None:
    commands.answer("systemctl start", sleep_s=20)
    began = time.monotonic()
    with pytest.raises(TenantError, match="did not return within 0 s"):
        tenants.start(UNIT, log, limit_s)
    assert time.monotonic() - began < 15


def test_two_starts_are_two_scopes(commands: Commands, log: Path, script: Tenant) -> None:
    for _unused in range(2):
        tenants.start(script, log)
    calls = commands.calls("systemd-run")
    assert len({word for argv in calls for word in argv if word.startswith("--unit=trial-start.voice.")}) == 2


def test_units_and_containers_have_no_scope(commands: Commands, log: Path) -> None:
    commands.answer("docker start")
    assert tenants.start(UNIT, log) == tenants.start(BOX, log) == ""


@pytest.mark.parametrize("log_path", ["/dev/full", "/nowhere/at/all.log"])
def test_a_full_disk_keeps_no_tenant_down(commands: Commands, script: Tenant, log_path: str, tmp_path: Path) -> None:
    """Its words go nowhere then; with the disk behind them its first one would end it."""
    Path(script.directory, "start.sh").write_text("#!/bin/sh\necho up && touch started\n")
    tenants.start(script, Path(log_path))
    assert Path(script.directory, "started").exists()


def test_the_log_says_what_was_run_and_is_roots_alone(commands: Commands, log: Path, script: Tenant) -> None:
    before = os.umask(0)
    try:
        tenants.start(script, log)
    finally:
        os.umask(before)
    first = log.read_text().splitlines()[0]
    assert first.startswith("--- 2")
    assert first.endswith("Z ./start.sh")
    assert log.stat().st_mode & 0o777 == 0o600


def say_bytes(commands: Commands, program: str) -> None:
    """Make a program print what is text in no encoding, and what acts on a terminal."""
    (commands.bin / program).write_text("#!/bin/sh\nprintf 'words \\377\\033[31m\\a\\n'\n")


@pytest.mark.parametrize(("tenant", "program"), [(UNIT, "journalctl"), (BOX, "docker")], ids=["unit", "container"])
def test_last_words_that_are_no_text(commands: Commands, log: Path, tenant: Tenant, program: str) -> None:
    say_bytes(commands, program)
    line = tenants.of(tenant).last_words(log).splitlines()[1]
    assert line == "words \ufffd\ufffd[31m\ufffd"


def test_last_words_of_a_script_that_are_no_text(log: Path, script: Tenant) -> None:
    log.write_bytes(b"words \xff\x1b[31m\x07\n")
    assert tenants.of(script).last_words(log).splitlines()[1] == "words \ufffd\ufffd[31m\ufffd"


def test_what_systemctl_says_can_not_act_on_a_terminal(commands: Commands, log: Path) -> None:
    commands.answer("systemctl start", rc=1, err="Job \x1b]0;title\x07failed.\n")
    with pytest.raises(TenantError, match="ended with 1: Job \ufffd]0;title\ufffdfailed") as caught:
        tenants.start(UNIT, log)
    assert "\x1b" not in str(caught.value)


def test_last_words_of_a_script_that_never_ran(log: Path, script: Tenant) -> None:
    assert "(nothing)" in tenants.of(script).last_words(log)


# Waiting.


def test_who_is_healthy_is_not_waited_for(server: Any, log: Path, clock: Any) -> None:
    server.json("/health", {"loaded": True})
    tenant = with_health(Tenant("x", "script", port=server.port), f"{server.url}/health")
    assert tenants.wait_healthy(tenant, log) == 0
    assert clock.now == 10_000


def test_a_loading_tenant_is_waited_for(server: Any, log: Path, clock: Any) -> None:
    server.json("/health", {"loaded": False})
    tenant = with_health(Tenant("x", "script", port=server.port), f"{server.url}/health")
    clock.after(3, lambda: server.json("/health", {"loaded": True}))
    assert 3 <= tenants.wait_healthy(tenant, log) < 3.2


def test_a_tenant_that_never_gets_there(server: Any, log: Path, clock: Any) -> None:
    server.json("/health", {"loaded": False})
    log.write_text("out of memory\n")
    tenant = with_health(Tenant("x", "script", port=server.port, start_timeout_s=9), f"{server.url}/health")
    with pytest.raises(TenantError) as caught:
        tenants.wait_healthy(tenant, log)
    assert "x: not healthy after 9 s (found: loaded = false)" in str(caught.value)
    assert "out of memory" in str(caught.value)


def test_without_a_health_page_the_process_is_waited_for(log: Path, clock: Any) -> None:
    with pytest.raises(TenantError, match=r"not healthy after 4 s \(found: not running\)"):
        tenants.wait_healthy(Tenant("x", "process", process="sleep 86.071", start_timeout_s=4), log)


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("ActiveState=activating\nSubState=auto-restart", "; unit api.service is activating (auto-restart)"),
        ("ActiveState=activating\nSubState=start", "; unit api.service is activating (start)"),
        ("ActiveState=active\nSubState=running", ""),
    ],
)
def test_a_unit_that_never_answers_tells_its_state(
    commands: Commands, log: Path, clock: Any, free_port: int, state: str, found: str
) -> None:
    """One that systemd starts again and again has the same silent page as one that loads."""
    commands.answer("systemctl show", out=f"LoadState=loaded\n{state}\nMainPID=0\nResult=exit-code\nJob=\n")
    tenant = with_health(
        Tenant("api", "systemd", unit="api.service", start_timeout_s=2), f"http://127.0.0.1:{free_port}/"
    )
    with pytest.raises(TenantError) as caught:
        tenants.wait_healthy(tenant, log)
    assert f"Connection refused{found}); " in str(caught.value)


def test_a_page_that_another_process_answers_is_not_enough(
    commands: Commands, server: Any, log: Path, clock: Any
) -> None:
    """The health page answers, but the unit has no process: a stranger took the port."""
    server.json("/health", {"loaded": True})
    tenant = with_health(UNIT, f"{server.url}/health", start_timeout_s=0.2)
    with pytest.raises(TenantError, match=rf"port {server.port} is held by PID {os.getpid()} \(user "):
        tenants.wait_healthy(tenant, log)


SCOPE = "voice-0123.scope"


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whether something lives in a scope, ``lives``: nothing, until a test says so."""
    found = SimpleNamespace(lives=False)
    monkeypatch.setattr(probes, "inhabited", lambda _unit: found.lives)
    return found


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("failed", "its unit is failed (exit-code)"),
        ("inactive", "its unit is inactive (exit-code)"),
        ("active", ""),
        ("activating", ""),
        ("deactivating", ""),
    ],
)
def test_a_unit_has_ended_when_systemd_says_so(commands: Commands, state: str, why: str) -> None:
    """A unit that systemd starts again by itself is activating meanwhile."""
    commands.answer("systemctl show", out=f"ActiveState={state}\nResult=exit-code\nConditionResult=yes\n")
    assert tenants.of(UNIT).ended("") == why


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ("Result=exec-condition\nConditionResult=yes", "its unit is inactive (exec-condition)"),
        (
            "Result=success\nConditionResult=no",
            "its unit is inactive (success), a condition of its unit is not met, so it was not started",
        ),
    ],
)
def test_a_start_that_systemd_skips_has_a_reason(commands: Commands, facts: str, why: str) -> None:
    """Its systemctl ends with 0."""
    commands.answer("systemctl show", out=f"ActiveState=inactive\n{facts}\n")
    assert tenants.of(UNIT).ended("") == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (box_says("running", OWN, Running=True), ""),
        (box_says("restarting", Running=True, Restarting=True), ""),
        (box_says("exited"), "its container has ended"),
    ],
    ids=row,
)
def test_a_container_has_ended_when_docker_says_so(commands: Commands, said: str, why: str) -> None:
    commands.answer("docker inspect", out=said)
    assert tenants.of(BOX).ended("") == why


def test_a_script_has_ended_with_the_last_process_of_its_scope(scope: Any, script: Tenant) -> None:
    assert tenants.of(script).ended(SCOPE) == "what its start command left in the background has ended"
    scope.lives = True
    assert tenants.of(script).ended(SCOPE) == ""


def test_a_script_whose_process_lives_elsewhere_has_not_ended(scope: Any, script: Tenant, server: Any) -> None:
    own = dataclasses.replace(script, port=server.port, user=getpass.getuser())
    assert tenants.of(own).ended(SCOPE) == ""


def test_without_a_scope_nothing_is_known_of_a_script(commands: Commands, script: Tenant) -> None:
    assert tenants.of(script).ended("") == ""
    assert commands.calls("systemctl") == []


def dying(commands: Commands, clock: Any, scope: Any, tenant: Tenant) -> tuple[str, float]:
    """What is said of a tenant that ends 0.3 s after its start, and after how many seconds."""
    clock.after(0.3, lambda: commands.answer("systemctl show", out="ActiveState=failed\nMainPID=0\nResult=oom-kill\n"))
    clock.after(0.3, lambda: setattr(scope, "lives", False))
    clock.after(0.3, lambda: commands.answer("docker inspect", out=box_says("exited")))
    began = clock.now
    with pytest.raises(TenantError) as caught:
        tenants.wait_healthy(tenant, Path("/nowhere"), SCOPE if tenant.kind == "script" else "")
    return str(caught.value), clock.now - began


@pytest.mark.parametrize("kind", ["systemd", "container", "script"])
def test_who_dies_while_starting_is_seen_within_a_second(
    commands: Commands, clock: Any, scope: Any, script: Tenant, free_port: int, kind: str
) -> None:
    tenant = {"systemd": UNIT, "container": BOX, "script": script}[kind]
    commands.answer("systemctl show", out=f"ActiveState=activating\nMainPID={os.getpid()}\n")
    scope.lives = True
    commands.answer("docker inspect", out=box_says("running", OWN, Running=True))
    commands.answer("journalctl", out="no memory left\n")
    text, seconds = dying(
        commands, clock, scope, with_health(tenant, f"http://127.0.0.1:{free_port}/", start_timeout_s=90)
    )
    assert f"{tenant.name}: ended before it was healthy: " in text
    assert "to start it by hand: " in text
    assert ("no memory left" in text) == (kind == "systemd")
    assert seconds < 1.2


def test_who_ended_is_told_from_who_is_late(commands: Commands, clock: Any, free_port: int, log: Path) -> None:
    commands.answer("systemctl show", out="ActiveState=failed\nResult=signal\n")
    with pytest.raises(tenants.Ended, match=r"its unit is failed \(signal\)"):
        tenants.wait_healthy(with_health(UNIT, f"http://127.0.0.1:{free_port}/"), log)


def test_who_once_died_in_his_scope_is_known_to_live_there(
    commands: Commands, scope: Any, clock: Any, script: Tenant, free_port: int, log: Path
) -> None:
    tenant = with_health(script, f"http://127.0.0.1:{free_port}/", port=free_port)
    began = clock.now
    with pytest.raises(tenants.Ended, match="left in the background has ended"):
        tenants.wait_healthy(tenant, log, SCOPE, sure=True)
    assert clock.now - began < 1


def test_a_process_that_dies_at_once_is_seen_within_a_second(
    commands: Commands, scope: Any, clock: Any, free_port: int, log: Path
) -> None:
    """Its command is the service itself: there is nobody it could have been left to."""
    tenant = Tenant("p", "process", process="sleep 86.091", start="sleep 86.091", start_timeout_s=60)
    began = clock.now
    with pytest.raises(tenants.Ended):
        tenants.wait_healthy(with_health(tenant, f"http://127.0.0.1:{free_port}/"), log, SCOPE)
    assert clock.now - began < 1


def test_a_script_that_left_its_service_to_others_is_never_judged_early(
    commands: Commands, scope: Any, clock: Any, script: Tenant, free_port: int, log: Path
) -> None:
    tenant = with_health(script, f"http://127.0.0.1:{free_port}/", port=free_port, start_timeout_s=30)
    began = clock.now
    with pytest.raises(TenantError, match="not healthy after 30 s"):
        tenants.wait_healthy(tenant, log, tenants.start(tenant, log))
    assert clock.now - began >= 30


def test_systemd_is_not_asked_at_every_look(commands: Commands, clock: Any, free_port: int, log: Path) -> None:
    commands.answer("systemctl show", out="ActiveState=activating\n")
    tenant = with_health(UNIT, f"http://127.0.0.1:{free_port}/", start_timeout_s=5)
    with pytest.raises(TenantError, match="not healthy"):
        tenants.wait_healthy(tenant, log)
    assert 5 <= len(commands.calls("systemctl")) <= 10


@pytest.mark.parametrize("limit_s", [2.0, 0.0, -3.0])
def test_a_caller_may_wait_less_than_the_tenants_limit(server: Any, log: Path, clock: Any, limit_s: float) -> None:
    server.json("/health", {"loaded": False})
    tenant = with_health(Tenant("x", "script", port=server.port, start_timeout_s=90), f"{server.url}/health")
    began = clock.now
    with pytest.raises(TenantError, match="not healthy after"):
        tenants.wait_healthy(tenant, log, limit_s=limit_s)
    assert clock.now - began < max(0.0, limit_s) + 0.2
    # A late look still counts: who is healthy by then is healthy.
    server.json("/health", {"loaded": True})
    assert tenants.wait_healthy(tenant, log, limit_s=limit_s) == 0


# Whose a listener is.


class Elsewhere:
    """A host that is made up: who asks systemd and docker is answered, and processes are as the test says."""

    proc = Path("/proc")

    def __init__(self, out: str = "") -> None:
        self.out = out

    def run(self, _argv: Any) -> run.Ran:
        return run.Ran(0, self.out, "")

    def root(self, *_argv: str) -> run.Ran:
        return run.Ran(0, self.out, "")


VOICE = Tenant("voice", "script", user="robot", port=8772)
BOXED = json.dumps({"id": "abc123", "pid": 40, "ports": {"9200/tcp": [{"HostIp": "", "HostPort": "8772"}]}})
HOSTED = json.dumps({"id": "abc123", "pid": 40, "ports": {}})


@pytest.mark.parametrize(
    ("tenant", "out", "pid", "uid", "units", "argv", "owned"),
    [
        # A unit: its control group, under any user; or systemd for its socket.
        (UNIT, "Id=model.service\n", 7, 0, ["system.slice", "model.service", "sub"], "x", True),
        (UNIT, "Id=model.service\n", 7, 0, ["system.slice", "model2.service"], "x", False),
        (UNIT, "Id=model.service\n", 7, 666, [], "model.service", False),
        (UNIT, "Id=model.service\nTriggeredBy=model.socket\n", 1, 0, ["init.scope"], "/sbin/init", True),
        (UNIT, "Id=model.service\nTriggeredBy=model.timer\n", 1, 0, ["init.scope"], "/sbin/init", False),
        (UNIT, "", 7, 0, ["system.slice"], "x", False),
        # A container: its control group, its process and what descends from it, docker's proxy for a published port.
        (BOX, HOSTED, 7, 0, ["system.slice", "docker-abc123.scope"], "x", True),
        (BOX, HOSTED, 40, 0, [], "x", True),
        (BOX, HOSTED, 7, 0, ["system.slice", "docker-def456.scope"], "x", False),
        (BOX, BOXED, 7, 0, ["docker.service"], "/usr/bin/docker-proxy -proto tcp -host-port 8772", True),
        (BOX, BOXED, 7, 666, [], "docker-proxy -proto tcp", False),
        (BOX, HOSTED, 7, 0, ["docker.service"], "/usr/bin/docker-proxy -proto tcp", False),
        (BOX, "no such container", 7, 0, [], "docker-proxy", False),
        # A script: the scope it was started in, or its user; with words of its argv also those.
        (VOICE, "", 7, 0, ["system.slice", "trial-start.voice.0123abcd.scope"], "x", True),
        (VOICE, "", 7, 1000, ["user.slice"], "x", True),
        (VOICE, "", 7, 666, ["user.slice"], "server.py", False),
        (VOICE, "", 7, 0, ["user.slice"], "server.py", False),
        (VOICE, "", 7, 666, ["trial-start.other.0123abcd.scope"], "x", False),
        (dataclasses.replace(VOICE, process="server.py"), "", 50, 1000, [], "python3 server.py", True),
        (dataclasses.replace(VOICE, process="server.py"), "", 7, 1000, [], "another", False),
        (dataclasses.replace(VOICE, process="server.py"), "", 50, 666, [], "python3 server.py", False),
        # The owner that the inventory names, if he is root or the tenant's user.
        (dataclasses.replace(UNIT, listener="haproxy"), "", 7, 0, ["haproxy.service"], "/usr/sbin/haproxy -f x", True),
        (dataclasses.replace(UNIT, listener="haproxy"), "", 7, 666, ["user.slice"], "haproxy", False),
        (dataclasses.replace(VOICE, listener="haproxy"), "", 7, 0, ["haproxy.service"], "haproxy", True),
        (dataclasses.replace(VOICE, listener="haproxy"), "", 7, 0, ["x.service"], "nginx", False),
    ],
)
def test_a_listener_is_its_own_or_a_stranger(
    monkeypatch: pytest.MonkeyPatch,
    tenant: Tenant,
    out: str,
    pid: int,
    uid: int,
    units: list[str],
    argv: str,
    owned: bool,
) -> None:
    monkeypatch.setattr(probes, "uid", lambda _pid, _proc: uid)
    monkeypatch.setattr(probes, "units", lambda _pid, _proc: units)
    monkeypatch.setattr(probes, "ancestors", lambda who, _proc: {who, 1})
    monkeypatch.setattr(probes, "processes", lambda _pattern, _proc: [probes.ProcessId(50, 500)])
    monkeypatch.setattr(identity, "uid_of", lambda _user: 1000)
    tenant = dataclasses.replace(tenant, port=8772)
    item = probes.Listener(8772, pid, argv)
    found = tenants.strangers(tenant, [item, probes.Listener(99, 8, "sshd")], Elsewhere(out))
    assert (found == "") == owned
    if not owned:
        assert found.startswith(f"port 8772 is held by PID {pid} (user ")
        assert found.endswith(f", {argv})")


@pytest.mark.parametrize(
    ("tenant", "ports"),
    [
        (VOICE, {8772}),
        (with_health(Tenant("x", "script"), "http://localhost/health"), {80}),
        (with_health(Tenant("x", "script"), "https://127.0.0.1/health"), {443}),
        (with_health(Tenant("x", "script", port=1), "http://[::1]:8080/health"), {1, 8080}),
        # Another machine's, or a container's own address: nothing on this host listens there.
        (with_health(Tenant("x", "script"), "http://172.17.0.2:8080/health"), set()),
        (with_health(Tenant("x", "script"), "http://127.0.0.1:none/health"), set()),
        (Tenant("x", "script", speech=Speech("http://127.0.0.1:8773/synthesize")), {8773}),
    ],
)
def test_a_tenants_ports_are_where_it_listens_and_is_asked(tenant: Tenant, ports: set[int]) -> None:
    assert tenants.ports(tenant) == ports


def test_a_stranger_on_its_port_is_no_tenant(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as the tenant would, and is neither found, nor healthy, nor ended in its place."""
    monkeypatch.setattr(identity, "uid_of", lambda _user: os.getuid() + 1)
    server.json("/health", {"loaded": True})
    tenant = with_health(Tenant("x", "script", user="robot", port=server.port), f"{server.url}/health")
    condition = tenants.look(tenant)
    assert (condition.running, condition.healthy, condition.process) == (False, False, None)
    assert f"port {server.port} is held by PID {os.getpid()} (user " in condition.found


def on_its_way(held: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Send a socket to another process that does not take it; its sender closes its own descriptor."""
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"x"], [held.fileno()])
    held.close()
    return ends


@pytest.mark.parametrize(
    ("uid", "user", "told"), [(65534, "", True), (65534, "robot", True), (4711, "robot", False), (0, "", False)]
)
def test_a_listener_that_hides_is_a_stranger(monkeypatch: pytest.MonkeyPatch, uid: int, user: str, told: bool) -> None:
    """In nobody's list of descriptors; a connection to it succeeds."""
    asked = sockets.listening
    monkeypatch.setattr(sockets, "listening", lambda *ports: [dataclasses.replace(i, uid=uid) for i in asked(*ports)])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(identity, "uid_of", lambda _user: 4711)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    tenant = dataclasses.replace(UNIT, user=user, port=listening.getsockname()[1])
    ends = on_its_way(listening)
    try:
        socket.create_connection(("127.0.0.1", tenant.port), 1).close()
        found = tenants.foreign(tenant)
        assert ("is held by a process that can't be seen (user " in found) == told
        assert told or not found
    finally:
        for end in ends:
            end.close()


# Begun and not ended.


def test_workers_that_are_left_are_ended_too(
    spawn: Callable[..., subprocess.Popen[bytes]], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the port of the one that was found first; and who hears no signal gets the last one."""
    first, second = (spawn(sys.executable, "-c", IGNORES_TERM, "86.041") for _unused in range(2))
    for child in (first, second):
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
    tenant = Tenant("x", "script", user="robot", port=1, directory="/", stop="true")
    children = [probes.ProcessId(0, 0)] + [probes.identify(child.pid) for child in (first, second)]

    def find(_kind: Any) -> probes.ProcessId | None:
        return next((child for child in children if child and probes.alive(child)), None)

    def refuse(*_args: Any) -> float:
        raise TenantError("it does not hear")

    monkeypatch.setattr(tenants.KINDS["script"], "find", find)
    monkeypatch.setattr(tenants, "stop", refuse)
    monkeypatch.setattr(probes, "members", lambda _pattern: {})
    tenants.end(tenant, log)
    assert (first.wait(60), second.wait(10)) == (-9, -9)


@pytest.mark.parametrize(
    ("facts", "begun"),
    [
        ("ActiveState=active\n", None),
        ("ActiveState=active\nJob=\n", None),
        ("ActiveState=active\nJob=0\n", None),
        ("ActiveState=deactivating\nJob=77\n", ("stop", "its unit is deactivating with a job in the queue (77)")),
        ("ActiveState=deactivating\n", ("stop", "its unit is deactivating")),
        # A stop that waits for its turn.
        ("ActiveState=active\nJob=78\n", ("stop", "its unit is active with a job in the queue (78)")),
        ("ActiveState=activating\nJob=79\n", ("start", "its unit is activating with a job in the queue (79)")),
        ("ActiveState=inactive\nJob=80\n", ("start", "its unit is inactive with a job in the queue (80)")),
    ],
)
def test_a_units_jobs_outlive_who_asked_for_them(commands: Commands, facts: str, begun: tuple[str, str] | None) -> None:
    commands.answer("systemctl show", out=f"{facts}MainPID={os.getpid()}\n")
    found = tenants.of(UNIT).begun()
    assert (found and (found.what, found.found)) == begun
    condition = tenants.look(UNIT)
    assert condition.healthy == (begun is None)
    assert condition.running
    if begun:
        assert begun[1] in condition.found
    assert (tenants.stop_under_way(UNIT) is not None) == (begun is not None and begun[0] == "stop")


@pytest.mark.parametrize(
    ("members", "argv", "begun", "loading"),
    [
        ({}, "", None, []),
        # A stop command, or what it left: the tenant may be ended by it at any moment.
        ({"trial-stop.voice.0123abcd.scope": [7]}, "sleep 10", "stop", []),
        # A start command that runs, and one that has left the voice behind.
        (
            {"trial-start.voice.0123abcd.scope": [7, 8]},
            "/bin/sh -c ./start.sh exit $? trial-start.voice.0123abcd.scope",
            "start",
            ["trial-start.voice.0123abcd.scope"],
        ),
        ({"trial-start.voice.0123abcd.scope": [7]}, "server.py", None, ["trial-start.voice.0123abcd.scope"]),
        # Another tenant's.
        ({"trial-stop.voice.2.0123abcd.scope": [7], "trial-stop.other.0123abcd.scope": [8]}, "x", None, []),
    ],
)
def test_a_command_that_still_runs_is_seen_by_its_scope(
    monkeypatch: pytest.MonkeyPatch,
    script: Tenant,
    members: dict[str, list[int]],
    argv: str,
    begun: str | None,
    loading: list[str],
) -> None:
    def matching(pattern: str) -> dict[str, list[int]]:
        return {scope: pids for scope, pids in members.items() if re.fullmatch(pattern, scope)}

    monkeypatch.setattr(probes, "members", matching)
    monkeypatch.setattr(probes, "command", lambda _pid: argv)
    found = tenants.of(script).begun()
    assert (found and found.what) == begun
    assert tenants.of(script).loading() == loading


@pytest.mark.parametrize(("uid", "begun"), [(0, True), (1000, False)])
def test_a_client_that_stops_a_container_is_seen(
    commands: Commands, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, uid: int,
    begun: bool,
) -> None:  # fmt: skip
    """It outlives a restore that was killed; a user's own program of that name stops nothing."""
    child = spawn(sys.executable, "-c", "import time; time.sleep(60)", "docker", "stop", "-t", "20", "box")
    monkeypatch.setattr(probes, "uid", lambda _pid: uid)
    found = tenants.of(BOX).begun()
    assert (found == tenants.Begun("stop", f"PID {child.pid} stops it")) == begun


def test_the_shell_of_a_command_stays_to_its_end(
    commands: Commands, log: Path, script: Tenant, eventually: Callable[[Callable[[], Any]], None]
) -> None:
    """Some shells give their process to the last command, whose argv says nothing."""
    Path(script.directory, "start.sh").write_text("#!/bin/sh\nps -ww -o args= -p $PPID\nexit 7\n")
    with pytest.raises(TenantError, match="ended with 7"):
        tenants.start(script, log)
    assert re.search(r"trial-start\.voice\.[0-9a-f]{8}\.scope$", log.read_text().strip())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90), ("10s", 10), ("500ms", 0.5), ("2h 1us", 7200.000001), ("0", 0), ("infinity", math.inf)],
)
def test_spans_of_time_are_systemds(text: str, seconds: float) -> None:
    assert tenants.span_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "3 fortnights", "3fortnights"])
def test_what_is_no_span_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="expected a span of time"):
        tenants.span_s(text)


# Whose a process is.


def known(tenant: Tenant, **before: Any) -> Known:
    """The tenant, with what is known of it from before the trial."""
    return Known(**{**vars(tenant), "before": Before(**before)})


ROBOTS = Tenant("p", "process", process="serve", user="robot", start="serve")


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, int]]:
    """Makes processes that have the argv: number to parent, those of another user, and who lives in a start scope.

    Who gets a signal is in the result, with its number.
    """

    def make(parents: dict[int, int], foreign: tuple[int, ...] = (), scoped: tuple[int, ...] = ()) -> dict[int, int]:
        def ancestors(pid: int, *_proc: Path) -> set[int]:
            return {pid} | (ancestors(parents[pid]) if pid in parents else set())

        hit: dict[int, int] = {}
        scope = {"trial-start.p.0123abcd.scope": list(scoped)} if scoped else {}
        alive = list(parents)
        monkeypatch.setattr(probes, "processes", lambda *_words: [probes.ProcessId(pid, pid * 10) for pid in alive])
        monkeypatch.setattr(probes, "ancestors", ancestors)
        monkeypatch.setattr(probes, "uid", lambda pid, *_proc: 666 if pid in foreign else 1000)
        monkeypatch.setattr(probes, "members", lambda _pattern: scope)
        monkeypatch.setattr(probes, "alive", lambda process: process.pid in alive and process.pid not in hit)
        monkeypatch.setattr(identity, "uid_of", lambda _user: 1000)
        monkeypatch.setattr(tenants, "_end_scope", lambda _scope: None)
        monkeypatch.setattr(os, "kill", lambda pid, number: hit.update({pid: number}))
        return hit

    return make


FAMILY = {10: 1, 11: 10, 20: 1, 21: 20}


@pytest.mark.parametrize(
    ("parents", "foreign", "scoped", "before", "found", "ended"),
    [
        # Another user's with the same argv is neither found nor ended.
        (FAMILY, (10, 11), (), {}, 20, [20, 21]),
        (FAMILY, (20, 21), (), {"process": probes.ProcessId(10, 100)}, 10, [10, 11]),
        # His own second copy, too, has been there by itself.
        (FAMILY, (), (), {"process": probes.ProcessId(20, 200)}, 20, [20, 21]),
        # A worker of it that has lost its parent.
        (
            {11: 1, 20: 1}, (), (),
            {"process": probes.ProcessId(10, 100), "family": (probes.ProcessId(11, 110),)}, 11, [11],
        ),
        # What a restore has started lives in the scope of its start command.
        (FAMILY, (), (20,), {"process": probes.ProcessId(9, 90)}, 10, [20, 21]),
        # A later process with the number of the one from before.
        ({10: 1}, (), (), {"process": probes.ProcessId(9, 90)}, 10, []),
        # Without anything known there is one family, or nobody is touched.
        ({10: 1, 11: 10}, (), (), {}, 10, [10, 11]),
        (FAMILY, (), (), {}, 10, None),
        (FAMILY, (), (10,), {}, 10, [10, 11]),
        ({}, (), (), {}, 0, []),
    ],
)  # fmt: skip
def test_only_its_own_processes_are_ended(
    crowd: Callable[..., dict[int, int]],
    log: Path,
    parents: dict[int, int],
    foreign: tuple[int, ...],
    scoped: tuple[int, ...],
    before: dict[str, Any],
    found: int,
    ended: list[int] | None,
) -> None:
    hit = crowd(parents, foreign, scoped)
    kind = tenants.of(known(ROBOTS, **before))
    process = kind.find()
    assert (process.pid if process else 0) == found
    for end, number in ((lambda: kind.stop(log), 15), (kind.kill, 9)):
        hit.clear()
        if ended is None:
            with pytest.raises(
                TenantError, match="p: PIDs 10, 20 all have the argv 'serve', and none descends"
            ) as caught:
                end()
            assert "none of them is ended" in str(caught.value)
        else:
            end()
        assert hit == dict.fromkeys(ended or [], number)


def test_a_script_that_is_found_by_argv_is_ended_by_its_own_processes_alone(
    crowd: Callable[..., dict[int, int]], script: Tenant
) -> None:
    hit = crowd(FAMILY)
    tenants.of(known(dataclasses.replace(script, process="serve"), process=probes.ProcessId(10, 100))).kill()
    assert hit == {10: 9, 11: 9}


def test_the_same_argv_of_another_user_lives_on(
    spawn: Callable[..., subprocess.Popen[bytes]], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = spawn("sleep", "86.111"), spawn("sleep", "86.111")
    monkeypatch.setattr(identity, "uid_of", lambda _user: 1000)
    monkeypatch.setattr(probes, "uid", lambda pid, *_proc: 666 if pid == other.pid else 1000)
    tenants.stop(Tenant("p", "process", process="sleep 86.111", user="robot"), log)
    assert own.wait(10) == -15
    assert other.poll() is None


@pytest.mark.parametrize(("user", "ended"), [(1000, True), (0, False)])
def test_the_inventorys_listener_on_its_port_is_not_the_tenant(
    script: Tenant, monkeypatch: pytest.MonkeyPatch, user: int, ended: bool
) -> None:
    """A proxy of root's listens for it, and for others, too."""
    hit: list[int] = []
    proxy = probes.ProcessId(10, 100)
    monkeypatch.setattr(identity, "uid_of", lambda _user: 1000)
    monkeypatch.setattr(probes, "uid", lambda _pid, *_proc: user)
    monkeypatch.setattr(probes, "identify", lambda _pid, *_proc: proxy)
    monkeypatch.setattr(probes, "alive", lambda _process: True)
    monkeypatch.setattr(probes, "members", lambda _pattern: {})
    monkeypatch.setattr(probes, "command", lambda _pid: "haproxy -f x")
    monkeypatch.setattr(probes, "listeners", lambda **_ports: [probes.Listener(8772, 10, "haproxy -f x")])
    monkeypatch.setattr(os, "kill", lambda pid, _number: hit.append(pid))
    tenant = dataclasses.replace(script, process="", port=8772, listener="haproxy")
    kind = tenants.of(known(tenant, process=proxy))
    kind.kill()
    assert set(hit) == ({10} if ended else set())
    # Nor does a restore start the tenant with what only the proxy may have: its slice, limits, priority, OOM score.
    monkeypatch.setattr(identity, "kin", lambda _pid: None)
    assert ("identity" in kind.facts(proxy)) is ended


# On its way.


LOOK = ("/usr/bin/python3", "/srv/voice", ("python3", "server.py"))
OTHER, FRESH = probes.ProcessId(30, 300), probes.ProcessId(31, 310)


@pytest.mark.parametrize(
    ("changes", "before", "alike", "coming"),
    [
        ({}, {}, [FRESH], ""),
        ({}, {"kin": LOOK}, [], ""),
        ({}, {"kin": LOOK}, [FRESH], "PID 31 does not listen yet (its words)"),
        # Who looked the same before the trial is another program; after a boot nobody can tell.
        ({}, {"kin": LOOK, "others": (OTHER,), "process": probes.ProcessId(9, 90)}, [OTHER], ""),
        ({}, {"kin": LOOK, "others": (OTHER,), "process": probes.ProcessId(9, 90)}, [OTHER, FRESH], "PID 31"),
        ({}, {"kin": LOOK, "others": (OTHER,)}, [FRESH], ""),
        # With an argv to go by it is found while it loads.
        ({"process": "server.py"}, {"kin": LOOK}, [FRESH], ""),
    ],
)
def test_what_looks_like_it_and_was_not_there_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    before: dict[str, Any],
    alike: list[probes.ProcessId],
    coming: str,
) -> None:
    monkeypatch.setattr(identity, "uid_of", lambda _user: 1000)
    monkeypatch.setattr(identity, "alike", lambda look, user: alike if (look, user) == (LOOK, 1000) else [])
    monkeypatch.setattr(probes, "command", lambda _pid: "its words")
    monkeypatch.setattr(probes, "listeners", lambda **_where: [])
    monkeypatch.setattr(probes, "processes", lambda *_words: [])
    monkeypatch.setattr(probes, "members", lambda _pattern: {})
    tenant = known(dataclasses.replace(VOICE, **changes), **before)
    found = tenants.of(tenant).coming()
    assert found.startswith(coming)
    assert bool(found) == bool(coming)
    condition = tenants.look(tenant)
    assert (condition.running, condition.healthy, condition.process) == (bool(coming), False, None)
    assert condition.found == (found or "not running")


@pytest.mark.parametrize(
    ("boot", "facts", "coming"),
    [
        ("voice-boot.service", "ActiveState=activating\nJob=7\n", "voice-boot.service, which starts it, is activating"),
        ("by voice@1.service then", "ActiveState=activating\n", "voice@1.service, which starts it, is activating"),
        # It may wait forever, and nobody with it.
        ("voice-boot.service", "ActiveState=inactive\nJob=7\n", ""),
        ("voice-boot.service", "ActiveState=inactive\n", ""),
        ("voice-boot.service", "ActiveState=active\nJob=7\n", ""),
        ("voice-boot.service", "ActiveState=failed\n", ""),
        ("its unit is enabled", "ActiveState=activating\n", ""),
        ("", "ActiveState=activating\n", ""),
    ],
)
def test_a_boot_unit_that_is_being_started_starts_its_tenant(
    commands: Commands, boot: str, facts: str, coming: str
) -> None:
    commands.answer("systemctl show", out=facts)
    assert tenants.of(dataclasses.replace(VOICE, boot=boot)).coming() == coming


WAITS = "voice-boot.service, which starts it, waits for its turn (job 7)"
BESIDE = "voice-boot.service is activating, and would start it beside PID 31"


@pytest.mark.parametrize(
    ("facts", "pid", "inside", "queued"),
    [
        ("ActiveState=inactive\nJob=7\n", 0, "", WAITS),
        ("ActiveState=failed\nJob=7\n", 31, "", WAITS),
        ("ActiveState=inactive\nJob=\n", 0, "", ""),
        ("ActiveState=inactive\nJob=0\n", 0, "", ""),
        ("ActiveState=active\nJob=7\n", 31, "", ""),
        # It is about to start the tenant: see `coming`.
        ("ActiveState=activating\nJob=7\n", 0, "", ""),
        ("ActiveState=activating\nJob=7\n", 31, "user.slice", BESIDE),
        # It is what this unit has started.
        ("ActiveState=activating\nJob=7\n", 31, "voice-boot.service", ""),
    ],
)
def test_a_boot_unit_that_waits_for_its_turn_is_yet_to_start_its_tenant(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, facts: str, pid: int, inside: str, queued: str
) -> None:
    commands.answer("systemctl show", out=facts)
    found = probes.ProcessId(pid, 5) if pid else None
    monkeypatch.setattr(tenants.KINDS["script"], "find", lambda _kind: found)
    monkeypatch.setattr(probes, "units", lambda _pid: [inside])
    assert tenants.of(dataclasses.replace(VOICE, boot="voice-boot.service")).queued() == queued
    assert tenants.of(dataclasses.replace(VOICE, boot="its unit is enabled")).queued() == ""


def test_who_is_not_on_his_way_any_more_is_not_waited_for(
    clock: Any, log: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    words = ["PID 31 does not listen yet"]
    monkeypatch.setattr(tenants.KINDS["script"], "coming", lambda _kind: words[0])
    clock.after(3, lambda: words.insert(0, ""))
    began = clock.now
    tenant = with_health(VOICE, f"http://127.0.0.1:{free_port}/", port=free_port)
    with pytest.raises(tenants.Ended, match="it was coming up \\(PID 31 does not listen yet\\), but is no longer"):
        tenants.wait_healthy(tenant, log)
    assert 3 <= clock.now - began < 5


# Who it is.


def test_a_start_asks_for_what_was_before(commands: Commands, log: Path, script: Tenant) -> None:
    who = identity.Identity(os.getuid(), 0, [], "robots.slice", 3, 0, {}, {"MemoryMax": "4096"}, ["PATH"])
    Path(script.directory, "start.sh").write_text('#!/bin/sh\necho "$VOICE, $HOME."\n')
    values = {"PATH": os.environ["PATH"], "VOICE": "robot"}
    tenant = known(dataclasses.replace(script, user=getpass.getuser()), identity=who, environment=values)
    tenants.start(tenant, log)
    (call,) = commands.calls("systemd-run")
    assert {"--slice=robots.slice", "--property=MemoryMax=4096", "--nice=3", "--init-groups"} <= set(call)
    assert call[call.index("env") : call.index("/bin/sh")] == ["env", "-i"]
    assert not any("robot," in word for word in call)
    # The fake leaves out what makes the environment empty; what is read into it comes last.
    assert lines(log)[0].startswith("robot, ")


@pytest.mark.parametrize(
    ("scopes", "units", "known_scopes", "words"),
    [
        (True, ["system.slice", "trial-start.voice.0123abcd.scope"], [], "nice 5, was 0"),
        # Others have started it, in their own way; or it was there before.
        (True, ["system.slice", "cron.service"], [], ""),
        (True, ["system.slice", "trial-start.voice.0123abcd.scope"], ["trial-start.voice.0123abcd.scope"], ""),
        (True, ["trial-start.other.0123abcd.scope"], [], ""),
        (False, ["trial-start.voice.0123abcd.scope"], [], ""),
    ],
)
def test_who_was_started_for_the_trial_is_to_be_who_it_was(
    monkeypatch: pytest.MonkeyPatch, scopes: bool, units: list[str], known_scopes: list[str], words: str
) -> None:
    then = identity.Identity(1000, 1000, [], "system.slice", 0, 0, {}, {}, None)
    process = probes.ProcessId(7, 70) if scopes else None
    monkeypatch.setattr(tenants.KINDS["script"], "find", lambda _kind: process)
    monkeypatch.setattr(probes, "units", lambda _pid: units)
    monkeypatch.setattr(identity, "read", lambda _pid: dataclasses.replace(then, nice=5))
    assert tenants.changed(VOICE, {"identity": then.facts(), "scopes": known_scopes}) == words
    assert tenants.changed(VOICE, {"pid": 7}) == ""


# Where a process prints to.


def test_a_process_prints_where_it_did_before(commands: Commands, log: Path, tmp_path: Path) -> None:
    """And not for as long as it lives into the folder of a run."""
    kept = tmp_path / "its own.log"
    kept.write_text("earlier\n")
    tenant = Tenant("p", "process", process="true", start="echo it lives", user=getpass.getuser())
    tenants.start(known(tenant, output=str(kept)), log)
    deadline = time.monotonic() + 30
    while kept.read_text() != "earlier\nit lives\n" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert kept.read_text() == "earlier\nit lives\n"
    assert lines(log) == []
    assert "\nit lives\n" in tenants.of(known(tenant, output=str(kept))).last_words(log)
    # Another's file is not read for him, nor is a link followed.
    (tmp_path / "link").symlink_to(kept)
    assert "\nit lives\n" not in tenants.of(known(tenant, output=str(tmp_path / "link"))).last_words(log)


def test_elsewhere_it_prints_into_the_journal(commands: Commands, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.answer("journalctl", out="words of it\n")
    monkeypatch.setattr(tenants, "JOURNAL", log.parent)
    tenant = Tenant("p", "process", process="true", start="true", user=getpass.getuser())
    tenants.start(tenant, log)
    (call,) = commands.calls("systemd-run")
    assert call[call.index("/bin/sh") - 2 : call.index("/bin/sh")] == ["systemd-cat", "--identifier=trial-p"]
    assert "words of it" in tenants.of(tenant).last_words(log)
    assert commands.calls("journalctl") == [["--identifier=trial-p", "-n", "2000", "--no-pager", "-o", "cat"]]


# Memory that is shared.


@pytest.mark.parametrize(
    ("uid", "linger", "removes", "lost"),
    [
        (1000, "no", "b true", True),
        # loginctl knows nobody who has neither a session nor lingers.
        (1000, "", "b true", True),
        (1000, "yes", "b true", False),
        (1000, "no", "b false", False),
        # No logind, nobody who removes.
        (1000, "no", "", False),
        # Users of the system keep theirs.
        (998, "no", "b true", False),
        (None, "no", "b true", False),
    ],
)
def test_a_login_user_loses_shared_memory_with_his_last_session(
    monkeypatch: pytest.MonkeyPatch, script: Tenant, uid: int | None, linger: str, removes: str, lost: bool
) -> None:
    class Logind(Elsewhere):
        def run(self, argv: Any) -> run.Ran:
            return run.Ran(0, {"loginctl": linger, "busctl": removes}[argv[0]] + "\n", "")

    monkeypatch.setattr(identity, "uid_of", lambda _user: uid)
    found = tenants.of(dataclasses.replace(script, user=getpass.getuser())).way_back(Logind())
    assert bool(found) == lost
    if lost:
        assert found.endswith(f"`sudo loginctl enable-linger {getpass.getuser()}`")
    # Units and containers have owners that never log out.
    assert not tenants.of(Tenant("nav", "process", process="x")).way_back(Logind())


# Watchdogs.


def test_a_revived_tenant_is_named_with_its_process(spawn: Callable[..., subprocess.Popen[bytes]]) -> None:
    gone, back = (Tenant(n, "process", process=f"sleep {n}") for n in ("86.081", "86.082"))
    assert tenants.revived([gone, back]) == ""
    child = spawn("sleep", "86.082")
    assert tenants.revived([gone, back]) == f"86.082 runs again (PID {child.pid}, sleep 86.082)"


@pytest.mark.parametrize(
    ("listening", "found"),
    [([], ""), ([probes.Listener(8772, 31, "python3 server.py")], "voice runs again (PID 31, its words)")],
)
def test_a_tenant_that_is_down_costs_no_walk_over_descriptors(
    monkeypatch: pytest.MonkeyPatch, listening: list[probes.Listener], found: str
) -> None:
    """This is asked every second of the window."""
    walks: list[set[int]] = []

    def walk(inodes: Any, _proc: Any = None) -> list[sockets.Holder]:
        walks.append({*inodes})
        return [sockets.Holder(7, item.pid, "3") for item in listening]

    held = [sockets.Socket(item.port, 7, 1000) for item in listening]
    monkeypatch.setattr(sockets, "listening", lambda ports, _proc=None: [one for one in held if one.port in ports])
    monkeypatch.setattr(sockets, "holders", walk)
    monkeypatch.setattr(probes, "identify", lambda pid, _proc=None: probes.ProcessId(pid, pid * 10) if pid else None)
    monkeypatch.setattr(probes, "command", lambda _pid, _proc=None: "its words")
    monkeypatch.setattr(tenants, "owns", lambda _tenant, item, _host: item.pid == 31)
    assert tenants.revived([VOICE]) == found
    assert walks == ([{7}] if listening else [])


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://127.0.0.1:8080/health", 8080),
        ("http://localhost/health", 80),
        ("https://[::1]/health", 443),
        # What listens here answers all of these.
        ("http://127.0.0.2:8080/", 8080),
        ("http://127.1:8080/", 8080),
        ("http://0.0.0.0:8080/", 8080),
        (f"http://{socket.gethostname()}:8080/", 8080),
        # An address for documentation, and a name that is not looked up.
        ("http://192.0.2.7:8080/", 0),
        ("http://[2001:db8::7]:8080/", 0),
        ("http://elsewhere.invalid:8080/", 0),
        ("http://[::1/", 0),
    ],
)
def test_an_address_leads_here_however_it_is_written(url: str, port: int) -> None:
    if "::1]" in url and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    assert tenants.ports_of([url]) == {port} - {0}
