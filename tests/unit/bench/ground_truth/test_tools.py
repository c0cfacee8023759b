"""Programs in a folder and in a container, run, started and ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from trialbench.ground_truth.runtimes import tools
from trialbench.ground_truth.runtimes.tools import ContainerTools, LocalTools, RuntimeMissing, clipped


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "speaks", 'echo "out $*"; echo err >&2; exit 3')
    program(folder, "sleeps", "echo started; exec sleep 60")
    program(folder, "stubborn", "trap '' TERM; echo started; while :; do sleep 0.05; done")
    return folder


def wait_for(what: object, said: str) -> None:
    deadline = time.monotonic() + 30
    while said not in what.output():  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_local_programs(box: Path) -> None:
    place = LocalTools(box)
    assert place.place == str(box)
    assert place.has("speaks")
    assert not place.has("nothing")
    call = place.run("speaks", "a", "b", timeout_s=10)
    assert (call.exit_code, call.stdout, call.stderr) == (3, "out a b\n", "err\n")
    assert call.argv == (str(box / "speaks"), "a", "b")
    late = place.run("sleeps", timeout_s=0.2)
    assert (late.exit_code, late.stdout) == (None, "started\n")
    gone = place.run("nothing", timeout_s=1)
    assert (gone.exit_code, gone.stderr) == (127, "nothing: No such file or directory")
    with pytest.raises(RuntimeMissing, match="nothing: cannot be started: No such file"):
        place.start("nothing")
    place.close()


def test_the_path_is_searched(monkeypatch: pytest.MonkeyPatch, box: Path) -> None:
    monkeypatch.setenv("PATH", str(box))
    assert LocalTools().has("speaks")
    assert LocalTools().place == "PATH"


@pytest.mark.parametrize("name", ["sleeps", "stubborn"])
def test_a_local_process_is_ended(monkeypatch: pytest.MonkeyPatch, box: Path, name: str) -> None:
    monkeypatch.setattr(tools, "_STOP_S", 0.3)
    process = LocalTools(box).start(name)
    wait_for(process, "started")
    assert process.exit_code() is None
    process.stop()
    assert process.exit_code() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.popen.pid, 0)


def test_long_output_keeps_both_ends() -> None:
    text = clipped(b"begin" + b"x" * 300_000 + b"end\xff")
    assert text.startswith("begin")
    assert text.endswith("end\ufffd")
    assert "100009 bytes left out" in text


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_ins: Path, box: Path) -> Path:
    monkeypatch.setenv("PATH", f"{stand_ins}:{box}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "docker.log"))
    return tmp_path / "docker.log"


def test_one_container_serves_all_calls(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    place = ContainerTools("tools:1", {tmp_path / "work": True, tmp_path: False})
    assert place.place == "tools:1"
    place.close()  # Nothing was started yet.
    assert place.has("speaks")
    assert not place.has("nothing-of-that-name")
    call = place.run("speaks", "a", timeout_s=10)
    assert (call.argv, call.exit_code, call.stdout) == (("speaks", "a"), 3, "out a\n")
    assert call.stderr == "err\n"
    place.close()
    lines = docker.read_text().splitlines()
    assert sum(line.startswith("run ") for line in lines) == 1
    (run,) = [line for line in lines if line.startswith("run ")]
    for flag in ("--rm", "--interactive", "--pull never", "--network host", "--cap-drop ALL", "--read-only"):
        assert flag in run
    assert f"--volume {tmp_path / 'work'}:{tmp_path / 'work'} " in run
    assert f"--volume {tmp_path}:{tmp_path}:ro" in run
    assert f"--user {os.getuid()}:{os.getgid()}" in run
    assert not list(Path("/tmp").glob(f"trialbench-tools-{os.getpid()}-*"))


@pytest.mark.prove
def test_a_timeout_in_a_container_ends_the_program(docker: Path) -> None:
    place = ContainerTools("tools:1", {})
    call = place.run("sleeps", timeout_s=1)
    place.close()
    assert (call.exit_code, call.stdout) == (None, "started\n")


@pytest.mark.parametrize("name", ["sleeps", "stubborn"])
def test_a_process_in_a_container_is_ended_inside(monkeypatch: pytest.MonkeyPatch, docker: Path, name: str) -> None:
    monkeypatch.setattr(tools, "_STOP_S", 0.3)
    place = ContainerTools("tools:1", {})
    process = place.start(name)
    assert process.pid_inside is not None
    assert process.argv == (name,)
    process.stop()
    assert process.exit_code() is not None
    assert " sh -c kill -TERM " in docker.read_text()
    assert (" sh -c kill -KILL " in docker.read_text()) == (name == "stubborn")
    place.close()


def test_a_client_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, docker: Path) -> None:
    monkeypatch.setattr(tools, "_STOP_S", 0.2)
    place = ContainerTools("tools:1", {})
    process = place.start("sleeps")
    process.pid_inside = None
    process.stop()
    assert process.exit_code() is not None
    place.close()


def test_a_container_that_does_not_end_is_removed(monkeypatch: pytest.MonkeyPatch, docker: Path) -> None:
    monkeypatch.setattr(tools, "_STOP_S", 0.2)
    place = ContainerTools("deaf:1", {})
    assert place.has("speaks")
    place.close()
    assert "rm --force trialbench-tools-" in docker.read_text()


def test_a_missing_image_and_a_missing_docker(docker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeMissing, match=r"missing:1: no container could be started: .*No such image.*LLAMA_CPP_BIN"
    ):
        ContainerTools("missing:1", {}).has("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissing, match="docker: cannot be started"):
        ContainerTools("tools:1", {}).has("x")
