"""The bench image's parts, and its builder against a stand-in of the Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from by_path import load
from docker.errors import APIError, DockerException, ImageNotFound
from trialbench.workloads import packaged

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "images" / "bench"


build = load(HERE / "build.py")


class Engine:
    """As much of a Docker client as the builder uses."""

    def __init__(self, added: int = 50_000_000) -> None:
        self.added = added
        self.builds: list[dict[str, Any]] = []
        self.pulled: list[str] = []
        self.known: dict[str, Any] = {"base:1": self.image("sha256:base", 100_000_000, {})}
        self.events: list[dict[str, Any]] = [{"stream": "Step 1/2 : FROM x\n"}, {"stream": "\n"}, {"aux": {}}]
        self.images = SimpleNamespace(get=self.get)
        self.api = SimpleNamespace(build=self.build, pull=self.pull)

    @staticmethod
    def image(name: str, size: int, labels: dict[str, str]) -> Any:
        return SimpleNamespace(id=name, attrs={"Size": size, "Architecture": "amd64"}, labels=labels)

    def get(self, name: str) -> Any:
        if name not in self.known:
            raise ImageNotFound(name)
        return self.known[name]

    def build(self, **options: Any) -> Any:
        with tarfile.open(fileobj=options["fileobj"]) as archive:
            members = archive.getmembers()
        self.builds.append({**options, "members": members})
        self.known[options["tag"]] = self.image("sha256:built", 100_000_000 + self.added, options["labels"])
        return iter(self.events)

    def pull(self, name: str, **_options: Any) -> Any:
        self.pulled.append(name)
        self.known[name] = self.image("sha256:pulled", 1, {})
        return iter([{"status": "Downloading"}, {"status": "Pull complete", "id": "abc"}])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    def wheels(folder: Path, _architecture: str) -> None:
        (folder / "httpx-0.28.1-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(build, "download_wheels", wheels)
    return Engine()


def test_image_is_built_once(engine: Engine) -> None:
    first = build.ensure(engine, "base:1")
    again = build.ensure(engine, "base:1")
    assert first == again
    assert len(engine.builds) == 1
    assert first == {
        "id": "sha256:built",
        "tag": first["tag"],
        "base": "base:1",
        "base_id": "sha256:base",
        "added_mb": 50.0,
        "trialbench_version": "0.1.0",
        "workloads": packaged(),
    }
    assert first["tag"].startswith("edgelab/bench:")
    build.ensure(engine, "base:1", force=True)
    assert len(engine.builds) == 2


def test_another_base_or_another_source_makes_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.content_hash("sha256:a")
    assert build.content_hash("sha256:b") != before
    monkeypatch.setattr(build, "PIP", "pip==0")
    assert build.content_hash("sha256:a") != before


def test_build_goes_by_the_base_s_id_over_the_host_s_network(engine: Engine) -> None:
    build.ensure(engine, "base:1")
    options = engine.builds[0]
    assert options["buildargs"] == {"BASE_IMAGE": "sha256:base"}
    assert options["network_mode"] == "host"
    members = {member.name: member for member in options["members"]}
    assert {"Containerfile", "requirements.txt", "trialbench/cli.py", "wheels/httpx-0.28.1-py3-none-any.whl"} <= set(
        members
    )
    assert {"trialbench/workloads/nav.yml", "trialbench/schemas/sample.schema.json"} <= set(members)
    assert not [name for name in members if "__pycache__" in name]
    assert {(member.uid, member.mtime, member.mode) for member in members.values()} == {(0, 0, 0o644)}


def test_an_image_that_grew_too_large_is_refused(engine: Engine) -> None:
    engine.added = 100_100_000
    with pytest.raises(build.BuildError, match=r"at most 100 MB on top of the base, found 100\.1 MB"):
        build.ensure(engine, "base:1")


def test_a_failed_build_shows_its_last_lines(engine: Engine) -> None:
    engine.events = [{"stream": "Step 4/9 : RUN apt-get\n"}, {"stream": "E: no network\n"}, {"error": "exit 100\n"}]
    with pytest.raises(build.BuildError, match="E: no network\nexit 100"):
        build.ensure(engine, "base:1")


def test_a_base_by_digest_is_pulled_and_one_by_tag_is_not(engine: Engine) -> None:
    digest = "ghcr.io/ggml-org/llama.cpp@sha256:" + "0" * 64
    assert build.find_base(engine, digest).id == "sha256:pulled"
    assert engine.pulled == [digest]
    with pytest.raises(build.BuildError, match="named by digest"):
        build.find_base(engine, "ghcr.io/ggml-org/llama.cpp:server-cuda")
    engine.api.pull = lambda *_a, **_o: iter([{"error": "denied"}])
    with pytest.raises(build.BuildError, match="could not be pulled: denied"):
        build.find_base(engine, "x@sha256:" + "1" * 64)


def test_wheels_are_fetched_for_the_pythons_of_both_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=len(commands) == 3)

    monkeypatch.setattr(subprocess, "run", run)
    build.download_wheels(tmp_path, "amd64")
    assert [command[command.index("--python-version") + 1] for command in commands] == ["3.12", "3.13"]
    assert all("--only-binary" in command and "--no-deps" in command for command in commands)
    with pytest.raises(build.BuildError, match=r"Python 3\.12 could not be downloaded"):
        build.download_wheels(tmp_path, "amd64")
    with pytest.raises(build.BuildError, match="found 'riscv64'"):
        build.download_wheels(tmp_path, "riscv64")


def test_default_base_is_the_cpu_base(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [SimpleNamespace(returncode=0, stdout="edgelab/cpu-base:abc\n"), SimpleNamespace(returncode=1, stdout="")]
    )
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_o: next(answers))
    assert build.default_base() == "edgelab/cpu-base:abc"
    with pytest.raises(build.BuildError, match="CPU base image could not be built"):
        build.default_base()


def test_command_writes_what_it_built(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "build" / "bench-image.json"
    monkeypatch.setattr(sys, "argv", ["build.py", "--base", "base:1", "--out", str(out)])
    monkeypatch.setattr(build.docker, "from_env", lambda **_options: engine)
    assert build.main() == 0
    assert json.loads(out.read_text(encoding="utf-8"))["id"] == "sha256:built"
    assert capsys.readouterr().out == "sha256:built\n"
    assert [path.name for path in out.parent.iterdir()] == ["bench-image.json"]


@pytest.mark.parametrize("error", [APIError("boom"), DockerException("no socket")])
def test_command_says_plainly_what_is_wrong(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_options: Any) -> Any:
        raise error

    monkeypatch.setattr(sys, "argv", ["build.py", "--base", "base:1"])
    monkeypatch.setattr(build.docker, "from_env", refuse)
    assert build.main() == 1
    assert capsys.readouterr().err.startswith("[bench] error: ")


def test_containerfile_builds_with_the_classic_builder_and_runs_confined() -> None:
    text = (HERE / "Containerfile").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not re.search(r"^#\s*(syntax|escape)=", text)
    assert "--mount" not in code
    assert "<<" not in code
    assert code.splitlines()[0] == "ARG BASE_IMAGE"
    last_stage = code[code.rindex("FROM ") :]
    assert "USER 10001:10001" in last_stage
    assert "ENTRYPOINT []" in last_stage
    assert "LLAMA_ARG_HOST=127.0.0.1" in last_stage


def pinned(lines: list[str]) -> dict[str, str]:
    found = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def test_image_and_checkout_hold_the_same_versions() -> None:
    image = pinned((HERE / "requirements.txt").read_text(encoding="utf-8").splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = pinned(project["dependencies"])
    assert core
    assert {name: image.get(name) for name in core} == core
    dev = pinned(project["optional-dependencies"]["dev"])
    assert image["nvidia-ml-py"] == dev["nvidia-ml-py"]
    assert not {"anyio", "click", "hf-xet", "rich", "docker"} & set(image)
