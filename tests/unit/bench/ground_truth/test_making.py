"""What is made around the ground truth: the two images, and the run of `make ground-truth`, on stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from by_path import load

ROOT = Path(__file__).resolve().parents[4]
FIXTURES = ROOT / "tests" / "fixtures" / "ground_truth"


build = load(ROOT / "images/oracle/build.py")
truth = load(ROOT / "scripts/ground_truth.py")


class Programs:
    """Stand-ins of docker, pip and the base image's builder; what was run is kept."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.images: set[str] = set()
        self.fails: str = ""
        self.context: dict[str, str] = {}

    def run(self, command: list[str], **_options: Any) -> Any:
        words = " ".join(command)
        self.ran.append(command)
        code = 1 if self.fails and self.fails in words else 0
        if "images/base/build.py" in words:
            return SimpleNamespace(returncode=code, stdout="" if code else "note\nedgelab/base:1\n", stderr="")
        if command[:3] == ["docker", "image", "inspect"]:
            return SimpleNamespace(returncode=int(command[3] not in self.images), stdout="", stderr="")
        if command[:2] == ["docker", "build"] and not code:
            folder = Path(command[-1])
            self.context = {
                path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
                for path in folder.rglob("*")
                if path.is_file()
            }
            self.images.add(command[command.index("--tag") + 1])
        return SimpleNamespace(returncode=code, stdout="", stderr="no space left on device\n")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs()
    monkeypatch.setattr(build.subprocess, "run", found.run)
    monkeypatch.setattr(build.shutil, "which", lambda _name: "/usr/bin/docker")
    return found


def made(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["build.py", *words])
    code: int = build.main()
    return code


def test_the_tools_image_is_built_once(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(monkeypatch, "tools") == 0
    name = capsys.readouterr().out.strip()
    assert name.startswith("edgelab/llama-tools:")
    assert list(programs.context) == ["Containerfile"]
    command = next(one for one in programs.ran if one[:2] == ["docker", "build"])
    assert "BASE_IMAGE=edgelab/base:1" in command
    assert made(monkeypatch, "tools") == 0
    assert sum(one[:2] == ["docker", "build"] for one in programs.ran) == 1
    assert made(monkeypatch, "tools", "--force") == 0
    assert sum(one[:2] == ["docker", "build"] for one in programs.ran) == 2
    assert capsys.readouterr().out.split() == [name, name]


def test_the_oracle_image_has_the_package_and_pinned_wheels(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(monkeypatch, "oracle") == 0
    assert capsys.readouterr().out.startswith("edgelab/oracle:")
    wanted = programs.context["requirements.txt"].split()
    names = {one.partition("==")[0] for one in wanted}
    assert names >= {"torch", "transformers", "tokenizers", "gguf", "numpy", "httpx"}
    assert all("==" in one for one in wanted)
    assert "trialbench/ground_truth/evidence/oracle.py" in programs.context
    assert not any("__pycache__" in name for name in programs.context)
    pip = next(one for one in programs.ran if "download" in one)
    assert "--only-binary" in pip
    assert pip[-1] == build.PIP


def test_the_name_follows_the_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = build.image_name("oracle", "base:1")
    assert before == build.image_name("oracle", "base:1") != build.image_name("oracle", "base:2")
    monkeypatch.setattr(build, "PIP", "pip==0")
    assert build.image_name("oracle", "base:1") != before
    assert build.image_name("tools", "base:1").startswith("edgelab/llama-tools:")


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("images/base/build.py", "the CPU base image could not be built"),
        ("pip download", "the wheels could not be downloaded"),
        ("docker build", "its last words: no space left on device"),
    ],
)
def test_a_build_that_fails_says_why(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str, said: str
) -> None:
    programs.fails = fails
    assert made(monkeypatch, "oracle") == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_without_docker_it_says_so(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _name: None)
    assert made(monkeypatch, "tools", "--print-name") == 1
    assert "expected the program docker, not found" in capsys.readouterr().err
    assert programs.ran == []


def test_only_the_name(programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(monkeypatch, "oracle", "--print-name") == 0
    assert capsys.readouterr().out.startswith("edgelab/oracle:")
    assert not any(one[0] == "docker" for one in programs.ran)


def test_the_containerfiles_never_fetch_models_and_name_their_base() -> None:
    for name in ("Containerfile", "Containerfile.tools"):
        text = (ROOT / "images" / "oracle" / name).read_text(encoding="utf-8")
        assert "FROM ${BASE_IMAGE}" in text
    assert "HF_HUB_OFFLINE=1" in (ROOT / "images" / "oracle" / "Containerfile").read_text(encoding="utf-8")


# scripts/ground_truth.py


class Runs:
    """What the script calls, in order; the verbs whose calls fail."""

    def __init__(self) -> None:
        self.verbs: list[tuple[str, ...]] = []
        self.commands: list[list[str]] = []
        self.bad: dict[str, int] = {}

    def run(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        if "trialbench" in command:
            at = command.index("trialbench")
            rest = [one for one in command[at + 2 :] if one in ("--second", "bf16", "fp16", "fp32", "--controls")]
            self.verbs.append((command[at + 1], *rest))
            assert options["env"]["LLAMA_CPP_IMAGE"] == "edgelab/llama-tools:1"
        return subprocess.CompletedProcess(command, self.bad.get(command[3], 0) if len(command) > 3 else 0, "")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    found = Runs()
    monkeypatch.setattr(truth.subprocess, "run", found.run)
    monkeypatch.setattr(truth, "oracle_python", lambda: Path("/venv/bin/python"))
    monkeypatch.setattr(truth, "tools_image", lambda: "edgelab/llama-tools:1")
    monkeypatch.setattr(truth, "BUILD", tmp_path)
    monkeypatch.setattr(truth, "ROOT", tmp_path)
    monkeypatch.setattr(truth, "WORK", tmp_path / "work")
    monkeypatch.setattr(truth, "differences", lambda _fresh, _shipped: [])
    for name in ("LLAMA_CPP_BIN", "LLAMA_CPP_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return found


ORACLES = [("oracle", "fp32"), ("oracle", "bf16"), ("oracle", "fp16")]


def test_the_whole_run(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert truth.main([]) == 0
    assert runs.verbs == [*ORACLES, ("convert",), ("oracle", "--second"), ("check", "--controls")]
    assert [command[0] for command in runs.commands[:4]] == ["/venv/bin/python"] * 3 + [sys.executable]
    assert "s in all; verdict, JUnit and page are in work" in capsys.readouterr().err


def test_the_shipped_oracles_need_no_torch(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "oracle_python", lambda: pytest.fail("asked for torch"))
    assert truth.main(["--shipped"]) == 0
    assert runs.verbs == [("convert",), ("check", "--controls")]
    assert str(FIXTURES / "oracle") in runs.commands[0]


def test_what_fails_ends_it(runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, code, last in (("oracle", 1, "oracle"), ("convert", 1, "convert"), ("check", 3, "check")):
        runs.verbs, runs.bad = [], {verb: 3}
        assert truth.main([]) == code
        assert runs.verbs[-1][0] == last
    runs.bad = {}
    monkeypatch.setattr(truth, "differences", lambda _fresh, _shipped: ["x/y.json: tokens differs"])
    assert truth.main([]) == 1
    assert "x/y.json: tokens differs" in capsys.readouterr().err


def test_fresh_models_are_judged_by_the_locked_claims(runs: Runs, tmp_path: Path) -> None:
    assert truth.main(["--fresh", "7"]) == 0
    folder = tmp_path / "ground-truth-fresh-7"
    assert (folder / "claims" / "lock.jsonl").read_bytes() == (FIXTURES / "claims" / "lock.jsonl").read_bytes()
    training = runs.commands[0]
    assert training[1].endswith("make_models.py")
    assert training[2:4] == ["--fresh", "7"]
    # No controls: they are about suites, not about models.
    assert runs.verbs == [*ORACLES, ("convert",), ("oracle", "--second"), ("check",)]
    assert str(folder / "oracle") in runs.commands[1]
    (folder / "SHA256SUMS").touch()
    runs.commands.clear()
    assert truth.main(["--fresh", "7"]) == 0
    assert not any("make_models.py" in " ".join(command) for command in runs.commands)


def test_a_fresh_oracle_is_held_against_the_shipped_one(tmp_path: Path) -> None:
    differences = load(ROOT / "scripts/ground_truth.py", "ground_truth_again").differences
    shipped, fresh = FIXTURES / "oracle" / "tiny-gpt2", tmp_path / "tiny-gpt2"
    fresh.mkdir()
    assert len(differences(tmp_path, FIXTURES / "oracle")) == 12
    for path in shipped.iterdir():
        data = json.loads(path.read_text(encoding="utf-8"))
        data["torch_version"] = "another"
        (fresh / path.name).write_text(json.dumps(data), encoding="utf-8")
    assert not any("tiny-gpt2" in one for one in differences(tmp_path, FIXTURES / "oracle"))
    data["tokens"] = [1]
    (fresh / path.name).write_text(json.dumps(data), encoding="utf-8")
    found = [one for one in differences(tmp_path, FIXTURES / "oracle") if "tiny-gpt2" in one]
    assert found == [f"oracle/tiny-gpt2/{path.name}: tokens differs"]
