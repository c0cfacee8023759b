"""The work folder: pull, convert once, convert again when something changed, clean."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from by_path import load
from trialbench import hub
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model, load_roster
from trialbench.ground_truth.model.weights import Gguf, sha256
from trialbench.ground_truth.runtimes.base import Capability
from trialbench.ground_truth.runtimes.llama_cpp import LlamaCpp
from trialbench.ground_truth.runtimes.tools import LocalTools
from trialbench.hub.fetch import WrongHashError


@pytest.fixture
def workspace(tmp_path: Path, roster_file: Path) -> Workspace:
    return Workspace(tmp_path / "work", load_roster(str(roster_file)))


@pytest.fixture
def runtime(stand_ins: Path) -> LlamaCpp:
    return LlamaCpp(LocalTools(stand_ins))


def test_files_are_made_once(workspace: Workspace, runtime: LlamaCpp) -> None:
    told: list[str] = []
    models = workspace.roster.models
    first = workspace.convert(runtime, models, told.append)
    assert [one.label for one in first] == [
        f"{slug} {quant} (gguf)" for slug in ("m-llama", "m-gpt2") for quant in ("f32", "f16", "Q8_0")
    ]
    assert all(one.fresh and one.artifact is not None for one in first)
    assert sum("made in" in text for text in told) == 6
    said = len(told)
    again = workspace.convert(runtime, models, told.append)
    assert not any(one.fresh for one in again)
    assert len(told) == said
    artifact = workspace.artifact(models[0], "llama.cpp", "Q8_0")
    assert artifact.parents == ("hf", "gguf f32", "gguf Q8_0")
    assert artifact.sha256 == sha256(artifact.path)


def test_files_are_made_again_when_something_changed(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = workspace.roster.models[0]
    workspace.convert(runtime, [model], lambda _text: None)
    path = workspace.path(model, "llama.cpp", "f16")

    def fresh() -> list[str]:
        return [
            one.artifact.quant
            for one in workspace.convert(runtime, [model], lambda _text: None)
            if one.fresh and one.artifact is not None
        ]

    path.write_bytes(path.read_bytes()[:-1])
    assert fresh() == ["f16"]
    path.with_suffix(".json").write_text("{")
    assert fresh() == ["f16"]
    runtime.__dict__["identity"] = replace(runtime.identity, version="2")
    assert fresh() == ["f32", "f16", "Q8_0"]
    folder = workspace.folder(model)
    (folder / "generation_config.json").write_text("{}")
    assert fresh() == ["f32", "f16", "Q8_0"]


def test_a_quant_alone_brings_its_float_file(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = replace(workspace.roster.models[0], quants={"llama.cpp": ("Q8_0",)})
    made = workspace.convert(runtime, [model], lambda _text: None)
    assert [one.label for one in made] == ["m-llama Q8_0 (gguf)"]
    assert workspace.path(model, "llama.cpp", "f32").exists()


def test_no_file_of_an_older_folder_stays(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = replace(workspace.roster.models[0], quants={"llama.cpp": ("Q8_0",)})
    assert model.folder is not None
    quantized, base = (workspace.path(model, "llama.cpp", quant) for quant in ("Q8_0", "f32"))
    workspace.convert(runtime, [model], lambda _text: None)
    before = quantized.read_bytes()
    config = json.loads((model.folder / "config.json").read_text())
    (model.folder / "config.json").write_text(json.dumps({**config, "rope_theta": 7.0}))
    (made,) = workspace.convert(runtime, [model], lambda _text: None)
    assert made.artifact is not None
    assert Gguf(base).key("llama.rope.freq_base") == 7.0
    assert quantized.read_bytes() != before
    # What is refused now was not made of this folder.
    (model.folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    (made,) = workspace.convert(runtime, [model], lambda _text: None)
    assert made.trouble is not None
    assert "hidden_act: expected silu" in made.trouble.text
    assert not quantized.exists()
    assert not base.exists()


def test_what_cannot_be_made_is_named(workspace: Workspace, runtime: LlamaCpp) -> None:
    told: list[str] = []
    model = workspace.roster.models[0]
    odd = replace(model, quants={"llama.cpp": ("Q9_9",)})
    (made,) = workspace.convert(runtime, [odd], told.append)
    assert made.artifact is None
    assert told == ["m-llama Q9_9 (gguf): not made: main: invalid ftype 'Q9_9'"]
    gone = replace(model, folder=workspace.root / "none")
    assert all(one.artifact is None for one in workspace.convert(runtime, [gone], told.append))
    assert "none: expected a folder with a model's Hugging Face files, found none" in told[-1]
    assert "trialbench pull" not in told[-1]
    public = replace(model, folder=None, hub="owner/name", revision="main")
    assert all(one.artifact is None for one in workspace.convert(runtime, [public], told.append))
    assert "trialbench pull" in told[-1]
    told.clear()
    assert workspace.convert(runtime, [replace(model, quants={})], told.append) == []
    assert told == ["m-llama: the roster names no files for llama.cpp"]
    assert model.folder is not None
    (model.folder / "tokenizer.json").unlink()
    workspace.clean([model])
    made_now = workspace.convert(runtime, [model], told.append)
    assert [one.artifact for one in made_now] == [None, None, None]


def test_one_bad_folder_stops_only_itself(workspace: Workspace, runtime: LlamaCpp) -> None:
    first, second = workspace.roster.models
    assert first.folder is not None
    told: list[str] = []
    # A link to nowhere of a file that nobody needs is no reason; of one that is needed it is the reason.
    (first.folder / "notes.txt").symlink_to("gone.txt")
    assert all(one.artifact is not None for one in workspace.convert(runtime, [first, second], told.append))
    workspace.clean([first, second])
    for spoil in (
        lambda path: path.symlink_to("gone.json"),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"{"),
    ):
        tokenizer = first.folder / "tokenizer.json"
        tokenizer.rmdir() if tokenizer.is_dir() else tokenizer.unlink()
        spoil(tokenizer)
        made = workspace.convert(runtime, [first, second], told.append)
        assert [one.artifact is None for one in made] == [True] * 3 + [False] * 3
        assert all("tokenizer.json" in one.trouble.text for one in made if one.trouble is not None)
    record = workspace.record(second, "llama.cpp", "f16")
    path = workspace.path(second, "llama.cpp", "f16")
    path.unlink()
    path.mkdir()
    made = workspace.convert(runtime, [second], told.append)
    assert [one.artifact is None for one in made] == [False, True, False]
    assert record.parent.is_dir()


def test_what_a_file_lacks_of_its_folder_is_told_and_kept(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = workspace.roster.models[0]
    assert model.folder is not None
    config = json.loads((model.folder / "config.json").read_text())
    (model.folder / "config.json").write_text(json.dumps({**config, "logits_scaling": 8.0, "eos_token_id": 8}))
    told: list[str] = []
    made = workspace.convert(runtime, [model], told.append)
    note = f"{model.folder / 'config.json'}: logits_scaling: 8.0: not used, transformers reads no such key for llama"
    assert made[0].notes == (note,)
    assert f"m-llama f32 (gguf): {note}" in told
    assert json.loads(workspace.record(model, "llama.cpp", "f32").read_text())["notes"] == [note]


def test_a_runtime_that_quantizes_while_importing(workspace: Workspace, runtime: LlamaCpp) -> None:
    asked: list[Any] = []

    class Importer(LlamaCpp):
        def declined(self, capability: Capability, artifact: Any = None) -> str | None:
            return "does it while importing" if capability is Capability.QUANTIZE else None

        def convert(self, capability: Capability, source: Any, target: Path, quant: str) -> Any:
            asked.append((capability, source.format, quant))
            return super().convert(capability, source, target, "f32")

    importer = Importer(runtime._tools)
    (made,) = workspace.convert(
        importer, [replace(workspace.roster.models[0], quants={"llama.cpp": ("int8",)})], lambda _text: None
    )
    assert made.artifact is not None
    assert asked == [(Capability.IMPORT_HF, "hf", "int8")]


def test_clean(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = workspace.roster.models[0]
    workspace.convert(runtime, [model], lambda _text: None)
    base = workspace.root / model.slug
    (base / "hf").mkdir()
    (base / "hf.json").write_text("{}")
    assert workspace.clean([model]) == [base / "llama.cpp"]
    assert sorted(path.name for path in base.iterdir()) == ["hf", "hf.json"]
    assert workspace.clean([model], pulled=True) == [base / "hf", base / "hf.json"]
    assert not base.exists()
    assert workspace.clean([model]) == []


def test_clean_spares_what_the_roster_brings(workspace: Workspace, runtime: LlamaCpp) -> None:
    model = workspace.roster.models[0]
    workspace.convert(runtime, [model], lambda _text: None)
    base = workspace.root / model.slug
    given = base / "llama.cpp" / "downloads" / "model.gguf"
    given.parent.mkdir()
    given.write_bytes(b"GGUF of another program")
    shutil.copytree(workspace.folder(model), base / "source")
    model = replace(model, folder=base / "source", files={"Q8_0": given})
    workspace.roster = replace(workspace.roster, models=(model,))
    gone = workspace.clean([model], pulled=True)
    assert base / "llama.cpp" / "m-llama-f16.gguf" in gone
    assert list(base.rglob("*.gguf")) == [given]
    assert (base / "source" / "config.json").exists()


COMMIT = "a" * 40


@pytest.fixture
def public(workspace: Workspace) -> Model:
    return replace(workspace.roster.models[0], folder=None, hub="owner/name", revision="main")


def test_pull_resolves_once_and_pins(
    workspace: Workspace, public: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def list_files(repo: str, revision: str, include: Any) -> Any:
        asked.append((repo, revision))
        names = ("config.json", "model.safetensors", "tokenizer.json")
        return COMMIT, [hub.RemoteFile(name, 1, None) for name in names]

    def fetch(repo: str, *, revision: str, include: Any, dest: Path, sha256: Any, tell: Any) -> list[Path]:
        asked.append((revision, list(include), dict(sha256)))
        (dest / "config.json").write_text("{}")
        return [dest / "config.json"]

    monkeypatch.setattr(hub, "list_files", list_files)
    monkeypatch.setattr("trialbench.hub.fetch.fetch", fetch)
    told: list[str] = []
    assert workspace.revision(public) is None
    workspace.pull([public, workspace.roster.models[1]], told.append)
    assert told == [
        f"m-llama: owner/name at main is commit {COMMIT}",
        f"m-gpt2: comes with the roster, in {workspace.roster.models[1].folder}",
    ]
    assert asked[0] == ("owner/name", "main")
    assert asked[1][0] == COMMIT
    assert asked[1][2] == {}
    assert workspace.revision(public) == COMMIT
    assert workspace.revision(workspace.roster.models[1]) is None
    asked.clear()
    workspace.pull([public], told.append)
    digest = sha256(workspace.folder(public) / "config.json")
    # The second time nothing is resolved, and what was fetched is the pin.
    assert asked == [(COMMIT, ["config.json"], {"config.json": digest})]
    asked.clear()
    workspace.pull([replace(public, revision="v2")], told.append)
    assert asked[0] == ("owner/name", "v2")


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.prove
def test_pull_takes_what_a_repository_has(
    workspace: Workspace, public: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As the published ones are: no index of shards, no chat template, the same weights in other formats.
    there = (
        *("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"),
        "additional_chat_templates/rag.jinja",
    )
    root = tmp_path / "hub" / "owner" / "name"
    (root / "onnx").mkdir(parents=True)
    (root / "additional_chat_templates").mkdir()
    for name in (*there, "README.md", "pytorch_model.bin", "onnx/model.onnx"):
        (root / name).write_bytes(f"{name}\n".encode() * 100)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = load(Path(__file__).resolve().parents[3] / "fixtures" / "hub" / "hub.py")
    with hub.HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        told: list[str] = []
        workspace.pull([public], told.append)
        folder = workspace.folder(public)
        assert files_of(folder) == sorted(there)
        assert workspace.revision(public) == server.commit("owner/name")
        # What came first is the pin from now on: other bytes under the same name are refused.
        record = folder.with_name("hf.json")
        asked = len(server.requests)
        workspace.pull([public], told.append)
        assert len(server.requests) == asked
        record.write_text(record.read_text().replace(sha256(folder / "model.safetensors"), "0" * 64))
        (folder / "model.safetensors").unlink()
        with pytest.raises(WrongHashError, match=r"model\.safetensors: expected SHA-256 0000"):
            workspace.pull([public], told.append)
        assert not (folder / "model.safetensors").exists()
        # Another revision: what it no longer has does not stay behind.
        (root / "tokenizer_config.json").unlink()
        (root / "additional_chat_templates" / "rag.jinja").unlink()
        workspace.pull([replace(public, revision=server.commit("owner/name"))], told.append)
        assert files_of(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
        (root / "tokenizer.json").unlink()
        fresh = Workspace(tmp_path / "another", workspace.roster)
        with pytest.raises(UsageError, match=r"expected tokenizer\.json .* found README\.md, config\.json"):
            fresh.pull([public], told.append)


def test_the_verbs(
    tmp_path: Path,
    roster_file: Path,
    stand_ins: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLAMA_CPP_BIN", str(stand_ins))
    options = ["--roster", str(roster_file), "--work", str(tmp_path / "w")]
    assert main(["convert", *options, "--model", "m-llama"]) == 0
    assert "3 of 3 files are there, 3 of them new" in capsys.readouterr().out
    assert main(["pull", *options]) == 0
    assert "comes with the roster" in capsys.readouterr().err
    assert main(["clean", *options]) == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert main(["convert", *options, "--model", "nobody"]) == 2
    assert "no model 'nobody'" in capsys.readouterr().err
    shutil.rmtree(roster_file.parent / "m-gpt2")
    assert main(["pull", *options]) == 2
    told = capsys.readouterr().err
    assert f"m-gpt2: {roster_file.parent / 'm-gpt2'}: expected a folder with a model's Hugging Face files" in told
    assert "m-llama: comes with the roster" in told
    assert main(["convert", *options]) == 3
    assert "3 of 6 files are there" in capsys.readouterr().out


def test_where_llama_cpp_comes_from(
    tmp_path: Path,
    roster_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stand_ins: Path,
) -> None:
    options = ["--roster", str(roster_file), "--work", str(tmp_path / "w"), "--model", "m-llama"]
    monkeypatch.delenv("LLAMA_CPP_BIN", raising=False)
    monkeypatch.setenv("LLAMA_CPP_IMAGE", "tools:1")
    import os

    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "docker.log"))
    monkeypatch.setenv("PATH", f"{stand_ins}:{os.environ['PATH']}")
    assert main(["convert", *options]) == 0
    assert f"--volume {roster_file.parent}:{roster_file.parent}:ro" in (tmp_path / "docker.log").read_text()
    monkeypatch.delenv("LLAMA_CPP_IMAGE")
    assert main(["convert", *options]) == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    capsys.readouterr()
    assert main(["convert", *options]) == 4
    assert "llama.cpp: expected llama-server" in capsys.readouterr().err


def test_the_oracle_verb(
    tmp_path: Path, roster_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["oracle", "--roster", str(roster_file), "--work", str(tmp_path / "w"), "--model", "m-llama"]
    seen: dict[str, Any] = {}

    def made(roster: Any, models: Any, folder_of: Any, **more: Any) -> list[Path]:
        seen.update(more)
        return [tmp_path]

    def second(roster: Any, model: Any, file: Path, quant: str, folder: Path, *, tell: Any) -> list[Path]:
        seen.setdefault("second", []).append((file.name, quant))
        return [tmp_path] * 2

    monkeypatch.setattr("trialbench.ground_truth.evidence.oracle.make_oracles", made)
    monkeypatch.setattr("trialbench.ground_truth.evidence.oracle.make_second_oracles", second)
    assert main([*options, "--device", "cuda", "--precision", "bf16", "--kernels"]) == 0
    assert (seen["device"], seen["precision"], seen["kernels"]) == ("cuda", "bf16", True)
    assert "1 oracle files" in capsys.readouterr().out
    assert main([*options, "--second"]) == 2
    assert "`trialbench convert` first" in capsys.readouterr().err
    base = tmp_path / "w" / "m-llama" / "llama.cpp"
    base.mkdir(parents=True)
    for quant in ("f32", "f16", "Q8_0"):
        (base / f"m-llama-{quant}.gguf").write_bytes(b"x")
        (base / f"m-llama-{quant}.json").write_text(json.dumps({"sha256": "0" * 64, "parents": ["hf"]}))
    assert main([*options, "--second"]) == 0
    assert seen["second"] == [(f"m-llama-{quant}.gguf", quant) for quant in ("f32", "f16", "Q8_0")]
    assert "6 second oracles" in capsys.readouterr().out


def test_a_record_that_cannot_be_read(workspace: Workspace) -> None:
    model = workspace.roster.models[0]
    path = workspace.path(model, "llama.cpp", "f16")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert workspace.artifact(model, "llama.cpp", "f16").sha256 == ""
    path.with_suffix(".json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        workspace.artifact(model, "llama.cpp", "f16")
    for text in ("{}", "[]", '{"sha256": 1, "parents": []}', '{"sha256": "a", "parents": null}'):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(UsageError, match=r"m-llama-f16\.json: expected a record with sha256, parents, found"):
            workspace.artifact(model, "llama.cpp", "f16")


def test_a_record_of_a_pull_that_cannot_be_read(workspace: Workspace, public: Model) -> None:
    record = workspace.root / public.slug / "hf.json"
    record.parent.mkdir(parents=True)
    for text in ("{}", "[]", '{"hub": "a/b", "asked": "main", "revision": null, "files": {}}'):
        record.write_text(text)
        for ask in (workspace.revision, lambda model: workspace.pull([model], lambda _text: None)):
            with pytest.raises(UsageError, match=r"hf\.json: expected a record with hub, asked, revision"):
                ask(public)


def test_a_file_of_somebody_elses_is_judged_as_it_is(
    roster_file: Path, tmp_path: Path, runtime: LlamaCpp, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = roster_file.read_text()
    roster_file.write_text(text.replace("    quants:", "    files: {Q8_0: given/model.gguf}\n    quants:", 1))
    roster = load_roster(str(roster_file))
    model, workspace = roster.models[0], Workspace(tmp_path / "work", roster)
    given = roster_file.parent / "given" / "model.gguf"
    assert model.files == {"Q8_0": given}
    missing = workspace.convert(runtime, [model], lambda _text: None)[-1]
    assert missing.artifact is None
    assert missing.trouble is not None
    assert "expected the file that the roster brings for Q8_0, found none" in missing.trouble.text
    given.parent.mkdir()
    given.write_bytes(b"GGUF and more")
    made = workspace.convert(runtime, [model], lambda _text: None)[-1]
    assert (made.fresh, made.trouble) == (False, None)
    artifact = workspace.artifact(model, "llama.cpp", "Q8_0")
    assert (artifact.path, artifact.sha256, artifact.parents) == (given, sha256(given), ("given",))
    # Files of others are neither made nor removed.
    workspace.clean([model])
    assert given.read_bytes() == b"GGUF and more"
    assert workspace.artifact(model, "llama.cpp", "Q8_0").sha256 == ""
    # A container sees it as well.
    from trialbench.ground_truth import cli

    seen: list[Any] = []
    monkeypatch.setenv("LLAMA_CPP_IMAGE", "image:1")
    monkeypatch.delenv("LLAMA_CPP_BIN", raising=False)
    monkeypatch.setattr(
        "trialbench.ground_truth.runtimes.tools.ContainerTools",
        lambda _image, folders: seen.append(folders) or LocalTools(stand_ins),
    )
    cli.llama_cpp(workspace, threads=1).close()
    assert seen[0][given.parent] is False
