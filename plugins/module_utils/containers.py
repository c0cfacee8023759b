# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trial's containers, through the docker command line, so that nothing has to be installed on the host.

Containers are created before the window and only started inside it. All carry the run as a label. A
restore removes by that label until no container is left, so a late start finds nothing to start.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import run, sessions
from .journal import private, write_atomic
from .plan import DOCKER_S, Http, Plan
from .probes import ProcessId, identify, log_end, printable

RUN_LABEL = "edgelab.model_trial.run"
A2_LABEL = "edgelab.model_trial.a2"
LABELS = (RUN_LABEL, A2_LABEL)
# The user inside every container of a trial, and the owner of the folders they write to.
CONTAINER_UID = 10001
MODELS = "/models"
CLIENT_MEMORY, CLIENT_PIDS = "512m", "64"
_TIMEOUT_S = 60.0
# A healthy engine lists its containers at once. One that is still starting blocks its callers, and a restore that asks
# this question keeps tenants down while it waits.
_LIST_S = 10.0
# After ten seconds, docker gives up on a container that can't be killed, and says so.
_REMOVE_S = 15.0
# Container output is not worth more down time than this.
_LOGS_S = 10.0
# A removal that took this long to fail will fail as slowly the next time; a quick failure may be a passing conflict.
_SLOW_S = 3.0
# A question that only adds detail to an error message must not delay what follows.
WORDS_S = 1.0
# How much of a container's output is kept: tenants are down while it is read.
_LOG_BYTES, _LOG_LINES = 4 << 20, 20_000
# Lines read for an error message, which shows the last few that are not answers to our own questions.
_TAIL_LINES = 2000


class DockerError(RuntimeError):
    """docker refused or did not answer; the message has the command's own words."""


class DockerSilent(DockerError):
    """docker did not answer in time, or failed as slowly; asking again would take the same time again."""


def docker(*args: str, timeout_s: float = _TIMEOUT_S, verbatim: bool = False) -> str:
    """Run one docker command and return what it printed, with ``verbatim`` as it is.

    Raises:
        DockerSilent: it took longer than ``timeout_s``.
        DockerError: it failed, or with ``verbatim`` printed no UTF-8 or too much.
    """
    try:
        done = run.command(["docker", *args], timeout_s, verbatim=verbatim)
    except TimeoutError as err:
        raise DockerSilent(f"docker {args[0]}: no answer within {timeout_s:.0f} s") from err
    except (OSError, ValueError) as err:
        raise DockerError(f"docker: {err}") from err
    if done.rc != 0:
        raise DockerError(f"docker {args[0]}: {printable(done.err.strip()) or done.rc}")
    return done.out


def _fenced(name: str, label: str, run: str) -> list[str]:
    # A trial's container must not come back by itself (--restart=no), vanish before its logs are read (no --rm), gain
    # privileges, or write outside its mounts.
    return [
        "create",
        f"--name={name}",
        f"--label={label}={run}",
        "--network=host",
        "--restart=no",
        "--read-only",
        "--tmpfs=/tmp:rw,nosuid,nodev,noexec,size=64m",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        f"--user={CONTAINER_UID}:{CONTAINER_UID}",
    ]


def gpu_args(access: str) -> list[str]:
    """How a container gets the GPU: through CDI, through the NVIDIA runtime, or not at all."""
    return {"cdi": ["--device=nvidia.com/gpu=all"], "gpus": ["--gpus=all"], "none": []}[access]


def server_command(plan: Plan) -> list[str]:
    """The candidate's llama-server with the flags that are decisions of the trial: loopback, port, jinja."""
    candidate = plan.candidate
    command = ["--host", "127.0.0.1", "--port", str(candidate.port), "--jinja"]
    flags = {"model": "--model", "mmproj": "--mmproj", "chat_template": "--chat-template-file"}
    for role, flag in flags.items():
        if candidate.file(role):
            command += [flag, f"{MODELS}/{candidate.file(role)}"]
    return command + candidate.server_args


def create_server(plan: Plan) -> None:
    """Create the candidate's container; it is not started.

    Raises:
        DockerError: docker refused.
    """
    candidate = plan.candidate
    docker(
        *_fenced(candidate.container, RUN_LABEL, plan.run),
        f"--memory={candidate.memory}",
        f"--pids-limit={candidate.pids}",
        f"--volume={candidate.model_dir}:{MODELS}:ro",
        *gpu_args(candidate.gpu_access),
        "--entrypoint=llama-server",
        plan.image,
        *server_command(plan),
    )


def client_name(session: str) -> str:
    """Name of the container that runs a session."""
    return f"mt-client-{session}"


def create_client(plan: Plan, session: str, run_dir: Path) -> None:
    """Create the measuring container of a session; it is not started.

    Raises:
        DockerError: docker refused.
    """
    docker(
        *_fenced(client_name(session), A2_LABEL if session == "a2" else RUN_LABEL, plan.run),
        f"--memory={CLIENT_MEMORY}",
        f"--pids-limit={CLIENT_PIDS}",
        f"--volume={run_dir / 'inputs'}:{sessions.INPUTS}:ro",
        f"--volume={run_dir / 'samples'}:{sessions.OUT}:rw",
        f"--volume={run_dir / 'control'}:{sessions.CONTROL}:ro",
        "--entrypoint=trialbench",
        plan.image,
        "session",
        f"{sessions.INPUTS}/session-{session}.json",
    )


def extract_prompt(plan: Plan, source: Path) -> str:
    """Run production's prompt function once, in a container without network, and return the prompt.

    The call is written to a file beside ``source``: it holds the goal in words, and every user can read a command line.

    Raises:
        DockerError: the function could not be run; the message has its error.
        OSError: the call can't be written.
    """
    call = source.with_name("prompt_call.txt")
    write_atomic(call, plan.contracts.prompt.call, 0o644)
    # A prompt keeps its line ends: they change what a model answers.
    return _prompt(plan, source, call, "--call-file")


def extract_prompts(plan: Plan, source: Path, calls: Sequence[str]) -> list[str]:
    """The prompts that several calls yield, in one container.

    Raises:
        DockerError, OSError: as `extract_prompt`.
    """
    listed = source.with_name("prompt_calls.txt")
    write_atomic(listed, json.dumps(calls), 0o644)
    said = _prompt(plan, source, listed, "--calls-file")
    try:
        found = json.loads(said)
    except (ValueError, RecursionError) as err:
        raise DockerError(f"the prompts: expected a list in JSON, found {said[:80]!r}") from err
    if not isinstance(found, list) or len(found) != len(calls) or not all(isinstance(one, str) for one in found):
        raise DockerError(f"the prompts: expected {len(calls)} texts, found {said[:80]!r}")
    return found


def _prompt(plan: Plan, source: Path, call: Path, option: str) -> str:
    name = "mt-prompt"
    argv = [a for a in _fenced(name, RUN_LABEL, plan.run) if a != "--network=host"]
    docker(
        *argv,
        "--network=none",
        f"--memory={CLIENT_MEMORY}",
        f"--pids-limit={CLIENT_PIDS}",
        f"--volume={source}:{sessions.INPUTS}/source.py:ro",
        f"--volume={call}:{sessions.INPUTS}/{call.name}:ro",
        "--entrypoint=trialbench",
        plan.image,
        "prompt",
        "--source",
        f"{sessions.INPUTS}/source.py",
        option,
        f"{sessions.INPUTS}/{call.name}",
    )
    try:
        return docker("start", "--attach", name, verbatim=True)
    finally:
        docker("rm", "--force", name)


def ids(labels: Sequence[str] = LABELS, run: str = "", limit_s: float = _LIST_S) -> list[str]:
    """IDs of all containers with one of these labels (of one run, or of any).

    docker's filter has no "or", and a second question would cost down time: all containers are listed with their
    labels and filtered here.

    Raises:
        DockerError: docker refused, did not answer in time, or answered something else.
    """
    values = ",".join(f'{{{{json (.Label "{label}")}}}}' for label in labels)
    template = f"[{{{{json .ID}}}},{values}]"
    listed = docker("ps", "--all", "--no-trunc", "--format", template, timeout_s=limit_s).splitlines()
    try:
        rows = [json.loads(line) for line in listed]
    except ValueError as err:
        raise DockerError(f"docker ps: expected JSON, found {printable(' '.join(listed))[:200]}") from err
    return [row[0] for row in rows if (run in row[1:] if run else any(row[1:]))]


def remove(
    labels: Sequence[str] = LABELS,
    run: str = "",
    *,
    before: Callable[[list[str], float], None] | None = None,
    limit_s: float = DOCKER_S,
) -> int:
    """Remove all containers with one of these labels until none is left; returns how many.

    ``before`` is called with the IDs of the containers about to be removed, and the seconds that are left for it; all
    of it takes at most ``limit_s``.

    Raises:
        DockerSilent: docker did not answer in time, or failed slowly: a container that can't be killed.
        DockerError: docker refused, or new ones kept appearing.
    """
    gone: set[str] = set()
    deadline, slow = time.monotonic() + limit_s, ""

    def at_most(wanted_s: float) -> float:
        return max(0.0, min(wanted_s, deadline - time.monotonic()))

    for _attempt in range(10):
        left = ids(labels, run, at_most(_LIST_S))
        if not left:
            return len(gone)
        if slow:
            raise DockerSilent(f"{slow}, and is not tried again now")
        if before and not gone.issuperset(left):
            before([container for container in left if container not in gone], at_most(_LOGS_S))
        gone.update(left)
        asked = time.monotonic()
        try:
            docker("rm", "--force", "--volumes", *left, timeout_s=at_most(_REMOVE_S))
        except DockerSilent:
            raise
        except DockerError as err:
            took_s = time.monotonic() - asked
            slow = f"{err} (after {took_s:.0f} s)" if took_s > _SLOW_S else ""
            # Another process may already be removing this container; the next listing shows it.
            time.sleep(0.1)
    raise DockerError(f"containers of {run or 'a trial'} are still there: {', '.join(left)}")


def state(name: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """A container's state as docker reports it: Status, Running, Pid, ExitCode, OOMKilled.

    Raises:
        DockerError: there is no such container, or no answer in time.
    """
    found = json.loads(docker("inspect", "--format", "{{json .State}}", name, timeout_s=timeout_s))
    return dict(found)


def start(name: str) -> ProcessId | None:
    """Start a created container; returns its main process, or None when it ended at once.

    Raises:
        DockerError: docker refused (no such container: the host has been restored meanwhile).
    """
    docker("start", name)
    return identify(int(state(name).get("Pid") or 0))


class Starting:
    """A container that docker is starting, while the caller does other things."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False
        self._process: ProcessId | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._work, name=f"start-{name}", daemon=True).start()

    def _work(self) -> None:
        try:
            self._process = start(self.name)
        except Exception as err:
            self._error = err
        self.done = True

    def process(self) -> ProcessId | None:
        """Its main process once it is ``done``, or None when that ended at once.

        Raises:
            DockerError: docker refused (no such container: the host has been restored meanwhile).
        """
        if self._error:
            raise self._error
        return self._process


def start_in_background(name: str) -> None:
    """Start a created container without waiting for docker; what the container does shows whether it started."""

    def work() -> None:
        with contextlib.suppress(DockerError):
            docker("start", name)

    threading.Thread(target=work, name=f"start-{name}", daemon=True).start()


class Client:
    """A running measuring container.

    It is finished when its summary exists: waiting for docker to report the end of the process would cost 250 ms of
    down time. ``docker wait`` catches a client that ends without a summary.
    """

    def __init__(self, plan: Plan, session: str, run_dir: Path) -> None:
        self.name = client_name(session)
        self._code: int | None = None
        self._summary = run_dir / "samples" / sessions.summary_name(plan, session)
        self._waiter = run.background(["docker", "wait", self.name])

    def exit_code(self) -> int | None:
        """The session's exit code, or None while it works; 4 for a client that vanished."""
        summary = sessions.summary(self._summary)
        if summary is not None:
            # A client that was told to stop (docker sends the signal when it ends) wrote a summary of unfinished work.
            code = 4 if summary.get("stopped") == "signal" else summary.get("exit_code")
            # The client wrote this value: anything but a number is not a success.
            return code if isinstance(code, int) and not isinstance(code, bool) else 4
        if self._waiter.poll() is None:
            return None
        if self._code is None:
            out = self._waiter.communicate()[0].strip()
            self._code = int(out) if out.isdigit() else 4
        return self._code

    def close(self) -> None:
        """Stop waiting; the container is left as it is."""
        if self._waiter.poll() is None:
            self._waiter.kill()
            self._waiter.communicate()
        elif self._waiter.stdout:
            self._waiter.stdout.close()


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        return file.read(_LOG_BYTES).decode("utf-8", "replace")


def save_logs(names: list[str], folder: Path, limit_s: float = _LOGS_S) -> None:
    """Write what these containers printed to ``folder``, one file each; unreadable output is skipped.

    docker's own log files are read where they exist, all with one call: tenants are down meanwhile, at most for
    ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = docker("inspect", "--format", "{{json .LogPath}} {{json .Name}}", *names, timeout_s=limit_s)
    for line in found.splitlines():
        path, name = (json.loads(word) for word in line.split(" ", 1))
        log = folder / f"{name.lstrip('/')}.log"
        if path and Path(path).exists():
            with open(log, "w", encoding="utf-8", opener=private) as out:
                for entry in _end_of(Path(path)).splitlines():
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        out.write(json.loads(entry)["log"])
        else:
            with open(log, "wb", opener=private) as raw:
                command = ["docker", "logs", "--tail", str(_LOG_LINES), name.lstrip("/")]
                run.command(command, max(0.0, deadline - time.monotonic()), into=raw)


def tail(name: str, lines: int = 8, health: Http | None = None) -> str:
    """The last lines a container printed, for an error message. A restore waits for the caller, so it must be quick.

    ``health`` is the question that it was asked again and again.
    """
    try:
        done = run.command(["docker", "logs", "--tail", str(_TAIL_LINES), name], WORDS_S)
    except OSError:
        return "(docker does not answer)"
    told = [line for text in (done.out, done.err) for line in log_end(text, health, lines)]
    return printable("\n".join(told).strip()) or "(nothing)"
