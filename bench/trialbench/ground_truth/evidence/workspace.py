"""Where the files of a check are, and how they get there: pull, convert, clean.

WORK/<slug>/hf/                        the model's Hugging Face files, unless the roster brings them
WORK/<slug>/hf.json                    which commit they are, and their hashes
WORK/<slug>/<runtime>/<slug>-<quant>.gguf     what a runtime runs
WORK/<slug>/<runtime>/<slug>-<quant>.json     what it was made from, by which version: made again only when that changes
WORK/<slug>/<runtime>/reference.kld    logits of the float32 file over the roster's text
WORK/<slug>/<runtime>/reference.json   from which file, text and version they were made
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError, UsageError
from trialbench.files import read_json, write_json
from trialbench.ground_truth.model.checkpoint import not_a_model
from trialbench.ground_truth.model.roster import Model, Roster
from trialbench.ground_truth.model.weights import folder_hashes, sha256
from trialbench.ground_truth.runtimes.base import Artifact, Call, Capability, Conversion, Runtime, Trouble, TroubleKind

Tell = Callable[[str], None]

# What a checkpoint needs to be converted and to make an oracle, and what is taken along where a repository has it; not
# the same weights in other formats.
_NEEDED = ("config.json", "tokenizer.json", "model*.safetensors")
_PULLED = (
    *(*_NEEDED, "generation_config.json", "model.safetensors.index.json", "tokenizer_config.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
_FLOATS = ("f32", "f16")
_PULL_RECORD: dict[str, type] = {"hub": str, "asked": str, "revision": str, "files": dict}
_ENDINGS = {"apr": "apr"}


@dataclass(frozen=True)
class Made:
    """One artifact after `convert`: there already, made, or not made and why; `notes`: what it lacks of its source."""

    artifact: Artifact | None
    label: str
    fresh: bool
    call: Call
    trouble: Trouble | None = None
    notes: tuple[str, ...] = ()


class Workspace:
    """The work folder of one roster.

    Args:
        root: the folder; made when needed.
        roster: whose models.
    """

    def __init__(self, root: Path, roster: Roster) -> None:
        self.root, self.roster = root, roster

    def folder(self, model: Model) -> Path:
        """The model's Hugging Face files: the roster's own, or where `pull` puts them."""
        return model.folder if model.folder is not None else self.root / model.slug / "hf"

    def revision(self, model: Model) -> str | None:
        """The commit that `pull` fetched; None for a model that the roster brings.

        Raises:
            UsageError: what `pull` wrote down cannot be read.
        """
        path = self.root / model.slug / "hf.json"
        if model.folder is not None or not path.exists():
            return None
        return str(_written_down(path, **_PULL_RECORD)["revision"])

    def source(self, model: Model) -> Artifact:
        """The Hugging Face folder as an artifact."""
        return Artifact(self.folder(model), model.slug, "hf", "hf", parents=("hf",))

    def path(self, model: Model, runtime: str, quant: str) -> Path:
        """The path of one quant's file, made or not; for a file that the roster brings, the roster's path."""
        ending = _ending(runtime)
        if ending == "gguf" and quant in model.files:
            return model.files[quant]
        return self.root / model.slug / runtime / f"{model.slug}-{quant}.{ending}"

    def record(self, model: Model, runtime: str, quant: str) -> Path:
        """Where it is written down what a file was made from, and its hash."""
        return self.root / model.slug / runtime / f"{model.slug}-{quant}.json"

    def reference(self, model: Model, runtime: str) -> Path:
        """Logits of the float32 file over the roster's text, for the KL divergence of the others."""
        return self.root / model.slug / runtime / "reference.kld"

    def artifact(self, model: Model, runtime: str, quant: str) -> Artifact:
        """The file of one quant, as it is now; its path need not exist.

        Raises:
            UsageError: its record cannot be read.
        """
        path = self.path(model, runtime, quant)
        record = self.record(model, runtime, quant)
        if not path.exists() or not record.exists():
            return Artifact(path, model.slug, _ending(runtime), quant)
        made = _written_down(record, sha256=str, parents=list)
        parents = tuple(str(one) for one in made["parents"])
        return Artifact(path, model.slug, _ending(runtime), quant, made["sha256"], parents)

    def pull(self, models: Sequence[Model], tell: Tell) -> list[str]:
        """Fetch what the roster does not bring. The first time a branch is resolved to a commit and the hashes are
        written down; from then on they are the pins.

        Returns:
            Why a folder that the roster brings is not that of a model, one each: it stops no other.

        Raises:
            UsageError, ServerError: as `hub.fetch`.
        """
        wrong = []
        for model in models:
            if model.folder is None:
                self._pull(model, tell)
                continue
            why = not_a_model(model.folder)
            tell(f"{model.slug}: {why or f'comes with the roster, in {model.folder}'}")
            wrong += [] if why is None else [f"{model.slug}: {why}"]
        return wrong

    def _pull(self, model: Model, tell: Tell) -> None:
        from trialbench.hub.fetch import fetch

        assert model.hub is not None
        assert model.revision is not None
        folder, record = self.folder(model), self.root / model.slug / "hf.json"
        pins: dict[str, str] = {}
        known: dict[str, Any] = {"files": {}}
        commit = model.revision
        if record.exists():
            known = _written_down(record, **_PULL_RECORD)
            if known["hub"] == model.hub and known["asked"] == model.revision:
                commit, pins = str(known["revision"]), dict(known["files"])
        include = sorted(pins)
        if not pins:
            commit, include = _offered(model.hub, model.revision)
            tell(f"{model.slug}: {model.hub} at {model.revision} is commit {commit}")
        folder.mkdir(parents=True, exist_ok=True)
        paths = fetch(model.hub, revision=commit, include=include, dest=folder, sha256=pins, tell=tell)
        files = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
        write_json(record, {"hub": model.hub, "asked": model.revision, "revision": commit, "files": files})
        for name in known["files"].keys() - files.keys():
            # Of the revision before: an index of shards that are gone would decide what is read.
            if not Path(name).is_absolute() and ".." not in Path(name).parts:
                (folder / name).unlink(missing_ok=True)

    def convert(self, runtime: Runtime, models: Sequence[Model], tell: Tell) -> list[Made]:
        """Make every file that the roster wants of `runtime`; what is there already from the same input is left."""
        made = []
        for model in models:
            quants = model.wanted(runtime.identity.name)
            if not quants:
                tell(f"{model.slug}: the roster names no files for {runtime.identity.name}")
            for quant in quants:
                one = self._made(runtime, model, quant)
                if one.trouble is not None:
                    tell(f"{one.label}: not made: {one.trouble.text}")
                elif one.fresh:
                    tell(f"{one.label}: made in {one.call.seconds:.2f} s")
                for note in one.notes:
                    tell(f"{one.label}: {note}")
                made.append(one)
        return made

    def _made(self, runtime: Runtime, model: Model, quant: str) -> Made:
        """One file. Whatever is wrong with its folder or its record is the answer for this file alone."""
        try:
            return self._convert(runtime, model, quant)
        except TrialbenchError as error:
            why = str(error)
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
        name = runtime.identity.name
        label = Artifact(self.path(model, name, quant), model.slug, _ending(name), quant).label
        return Made(None, label, False, Call(), Trouble(TroubleKind.REFUSED, why))

    def _convert(self, runtime: Runtime, model: Model, quant: str) -> Made:
        name = runtime.identity.name
        target = self.path(model, name, quant)
        record = self.record(model, name, quant)
        label = Artifact(target, model.slug, _ending(name), quant).label
        if target == model.files.get(quant):
            return self._given(model, name, quant, label)
        folder = self.folder(model)
        why = not_a_model(folder)
        if why is not None:
            why += "" if model.folder is not None else ": `trialbench pull` fetches them"
            return Made(None, label, False, Call(), Trouble(TroubleKind.ABSENT, why))
        wanted = {
            "inputs": folder_hashes(folder),
            "runtime": name,
            "version": runtime.identity.version,
            "quant": quant,
        }
        if _is_made(target, record, wanted):
            return Made(self.artifact(model, name, quant), label, False, Call())
        target.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        # It is of other inputs. Should no new one be made, nobody may take it for this folder's.
        target.unlink(missing_ok=True)
        done = self._run(runtime, model, quant, target)
        if done.artifact is None:
            return Made(None, label, False, done.call, done.trouble)
        digest = done.artifact.sha256 or sha256(target)
        notes = {"notes": list(done.notes)} if done.notes else {}
        write_json(record, {**wanted, "sha256": digest, "parents": list(done.artifact.parents), **notes})
        return Made(self.artifact(model, name, quant), label, True, done.call, notes=done.notes)

    def _given(self, model: Model, runtime: str, quant: str, label: str) -> Made:
        """A third-party file: it is never made, and its current hash is recorded."""
        path, record = self.path(model, runtime, quant), self.record(model, runtime, quant)
        if not path.is_file():
            why = f"{path}: expected the file that the roster brings for {quant}, found none"
            return Made(None, label, False, Call(), Trouble(TroubleKind.ABSENT, why))
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"quant": quant, "given": str(path), "sha256": sha256(path), "parents": ["given"]})
        return Made(self.artifact(model, runtime, quant), label, False, Call())

    def _run(self, runtime: Runtime, model: Model, quant: str, target: Path) -> Conversion:
        if quant in _FLOATS or runtime.declined(Capability.QUANTIZE) is not None:
            return runtime.convert(Capability.IMPORT_HF, self.source(model), target, quant)
        # Quantized from float32, so that no other rounding comes before; from that of the folder as it is now.
        base = self._convert(runtime, model, "f32")
        if base.artifact is None:
            return Conversion(None, base.call, base.trouble)
        return runtime.convert(Capability.QUANTIZE, base.artifact, target, quant)

    def clean(self, models: Sequence[Model], *, pulled: bool = False) -> list[Path]:
        """Remove what `convert` made, and with `pulled` also what was fetched; returns what went.

        What the roster brings stays, wherever it is.
        """
        brought = {path.resolve() for model in self.roster.models for path in model.files.values()}
        brought |= {model.folder.resolve() for model in self.roster.models if model.folder is not None}
        gone: list[Path] = []
        for model in models:
            base = self.root / model.slug
            if not base.is_dir():
                continue
            for path in sorted(base.iterdir()):
                if path.name not in ("hf", "hf.json") or pulled:
                    _remove(path, brought, gone)
            if not any(base.iterdir()):
                base.rmdir()
        return gone


def _ending(runtime: str) -> str:
    """The format of a runtime's files, regardless of a third-party file's name."""
    return _ENDINGS.get(runtime, "gguf")


def _remove(path: Path, brought: set[Path], gone: list[Path]) -> None:
    """Remove `path` with all below it but what is `brought`; what went is added to `gone`."""
    real = path.resolve()
    if real in brought:
        return
    if not path.is_dir() or path.is_symlink():
        path.unlink()
    elif any(real in one.parents for one in brought):
        for inner in sorted(path.iterdir()):
            _remove(inner, brought, gone)
        return
    else:
        shutil.rmtree(path)
    gone.append(path)


def _written_down(path: Path, **keys: type) -> dict[str, Any]:
    """A record of ours in the work folder.

    Raises:
        UsageError: it cannot be read, or lacks one of `keys`.
    """
    found = read_json(path)
    if isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in keys.items()):
        return found
    raise UsageError(
        f"{path}: expected a record with {', '.join(keys)}, found {found!r:.60}: remove it, and make it again"
    )


def _offered(repo: str, revision: str) -> tuple[str, list[str]]:
    """The commit that a revision is, and which of the files we take it has. No repository has all of them.

    Raises:
        UsageError: one that is needed is not there.
        ServerError: as `hub.list_files`.
    """
    from trialbench import hub

    commit, files = hub.list_files(repo, revision, ["*"])
    names = [file.name for file in files]
    for pattern in _NEEDED:
        if not fnmatch.filter(names, pattern):
            raise UsageError(f"{repo}: expected {pattern} at {revision}, found {', '.join(names[:20])}")
    return commit, sorted({name for pattern in _PULLED for name in fnmatch.filter(names, pattern)})


def _is_made(target: Path, record: Path, wanted: dict[str, Any]) -> bool:
    if not target.exists() or not record.exists():
        return False
    try:
        known = read_json(record)
    except UsageError:
        return False
    return (
        isinstance(known, dict)
        and all(known.get(key) == value for key, value in wanted.items())
        and known.get("sha256") == sha256(target)
    )
