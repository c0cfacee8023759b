"""The roster: which models are judged, on which prompts, within which tolerances. All of it is data.

A roster is one YAML file; beside it (or named by it) are the prompts, the tolerances, the claims and the oracle.
The packaged roster `original` holds the three public models; any other is a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trialbench.errors import UsageError
from trialbench.ground_truth.model.yaml_files import PACKAGED, Document, load


@dataclass(frozen=True)
class Model:
    """A model of the roster, with what its configuration is expected to say.

    Attributes:
        slug: its name in paths and reports.
        name: its public name, `owner/name`.
        folder: where its Hugging Face files are, when the roster brings them; else None.
        hub, revision: where they are fetched from, and at which commit; else None.
        architecture: `llama`, `qwen2`, `gpt2`.
        layers, heads, kv_heads, hidden, vocabulary: of its configuration.
        perplexity_ceiling: a working file stays below this.
        quants: by runtime, in the order they are made and shown.
        files: by quant, third-party GGUF files, judged unchanged.
    """

    slug: str
    name: str
    folder: Path | None
    hub: str | None
    revision: str | None
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    perplexity_ceiling: float
    quants: Mapping[str, tuple[str, ...]]
    files: Mapping[str, Path] = field(default_factory=dict)

    def wanted(self, runtime: str) -> tuple[str, ...]:
        """The quants that the roster wants of `runtime`; none when it does not name it."""
        return self.quants.get(runtime, ())


@dataclass(frozen=True)
class PromptText:
    """A prompt of the roster: one line that is continued, or a text that is tokenized.

    Attributes:
        known: by `RUNTIME/SLUG`, why this text is known to come out differently there; it is shown, and not judged.
    """

    name: str
    text: str
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chat:
    """Messages for the chat template, `role` and `content` each."""

    name: str
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Prompts:
    """What is asked.

    Attributes:
        prompts: what is continued; each gets an oracle.
        tokenizer: the torture set: texts that are only tokenized.
        chats: what the chat template renders, for models that have one.
        perplexity_text: a file with running text, or None.
    """

    prompts: tuple[PromptText, ...]
    tokenizer: tuple[PromptText, ...]
    chats: tuple[Chat, ...]
    perplexity_text: Path | None

    def tokenized(self) -> dict[str, str]:
        """Every text whose token ids an oracle holds, by name; a prompt and a text may have the same name."""
        prompts = {f"prompt/{prompt.name}": prompt.text for prompt in self.prompts}
        return {**prompts, **{text.name: text.text for text in self.tokenizer}}


@dataclass(frozen=True)
class Tolerance:
    """A bound stated in advance: `value` in `unit`, and the reason for it."""

    name: str
    value: float
    unit: str
    why: str


@dataclass(frozen=True)
class Roster:
    """Everything a check needs to know beforehand.

    Attributes:
        oracle: folder of the oracle files (layout of `oracle_files`).
        claims: folder of the claims.
        max_new_tokens: how far a prompt is continued.
        perplexity_context: tokens of a chunk of the perplexity text; not more than the models were trained on.
        precisions: half precisions that have oracles of their own: `bf16`, `fp16`.
    """

    name: str
    path: Path
    models: tuple[Model, ...]
    prompts: Prompts
    tolerances: Mapping[str, Tolerance]
    oracle: Path
    claims: Path | None
    max_new_tokens: int = 32
    perplexity_context: int = 512
    precisions: tuple[str, ...] = ()

    def model(self, slug: str) -> Model:
        """The model called `slug`.

        Raises:
            UsageError: the roster has none; lists those it has.
        """
        for model in self.models:
            if model.slug == slug:
                return model
        known = ", ".join(model.slug for model in self.models)
        raise UsageError(f"{self.path}: no model {slug!r} in the roster {self.name!r}; there are: {known}")

    def tolerance(self, name: str) -> Tolerance:
        """The tolerance called `name`.

        Raises:
            UsageError: the roster does not define it.
        """
        if name not in self.tolerances:
            raise UsageError(f"{self.path}: no tolerance {name!r}; there are: {', '.join(sorted(self.tolerances))}")
        return self.tolerances[name]


def load_roster(name: str, *, work: Path = Path()) -> Roster:
    """Read a roster with its prompts and tolerances.

    Args:
        name: a packaged roster's name (`original`), or a path to a YAML file.
        work: where the oracles are if a roster names no folder for them.

    Raises:
        UsageError: with file and line, what was expected and what was found.
    """
    path = _find(name)
    document = load(path, "roster", "roster")
    data = document.data
    models = tuple(_model(entry, document) for entry in data["models"])
    _refuse_doubles([model.slug for model in models], document, "models", "slug")
    for number, model in enumerate(models):
        _check_quants(model, document, number)
    _refuse_repeats(data.get("precisions", ()), document, "precisions")
    return Roster(
        name=data["name"],
        path=path,
        models=models,
        prompts=load_prompts(document.beside(data["prompts"])),
        tolerances=load_tolerances(document.beside(data["tolerances"])),
        oracle=document.beside(data["oracle"]) if "oracle" in data else work / "oracle",
        claims=_claims(document) if "claims" in data else None,
        max_new_tokens=_whole(data.get("max_new_tokens", Roster.max_new_tokens)),
        perplexity_context=_whole(data.get("perplexity_context", Roster.perplexity_context)),
        precisions=tuple(data.get("precisions", ())),
    )


def _find(name: str) -> Path:
    if "/" in name or name.endswith((".yml", ".yaml")):
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise UsageError(f"--roster: expected a path, found {name!r}: {error}") from error
    path = PACKAGED / f"roster-{name}.yml"
    if not path.exists():
        known = sorted(one.stem.removeprefix("roster-") for one in PACKAGED.glob("roster-*.yml"))
        raise UsageError(f"no roster named {name!r}: expected one of {', '.join(known)}, or a path to a YAML file")
    return path


def _model(entry: dict[str, object], document: Document) -> Model:
    source = entry["source"]
    assert isinstance(source, dict)
    quants = entry["quants"]
    assert isinstance(quants, dict)
    files = entry.get("files", {})
    assert isinstance(files, dict)
    return Model(
        slug=str(entry["slug"]),
        name=str(entry["name"]),
        folder=document.beside(source["folder"]) if "folder" in source else None,
        hub=source.get("hub"),
        revision=source.get("revision"),
        architecture=str(entry["architecture"]),
        layers=_whole(entry["layers"]),
        heads=_whole(entry["heads"]),
        kv_heads=_whole(entry["kv_heads"]),
        hidden=_whole(entry["hidden"]),
        vocabulary=_whole(entry["vocabulary"]),
        perplexity_ceiling=float(str(entry["perplexity_ceiling"])),
        quants={runtime: tuple(names) for runtime, names in quants.items()},
        files={quant: document.beside(path) for quant, path in files.items()},
    )


def _whole(value: object) -> int:
    return int(str(value).removesuffix(".0"))


def _claims(document: Document) -> Path:
    """The folder of the claims. It must exist: otherwise no claim would be judged, silently."""
    folder = document.beside(document.data["claims"])
    if not folder.is_dir():
        raise UsageError(f"{document.at('claims')}: expected a folder of claims, found none at {folder}")
    return folder


def _check_quants(model: Model, document: Document, number: int) -> None:
    for runtime, names in model.quants.items():
        _refuse_repeats(names, document, "models", number, "quants", runtime)
    for quant in model.files:
        if quant not in model.wanted("llama.cpp"):
            at = document.at("models", number, "files", quant)
            raise UsageError(f"{at}: expected one of the quants that llama.cpp is asked for, found {quant!r}")


def _refuse_repeats(names: Sequence[str], document: Document, *where: str | int) -> None:
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UsageError(f"{document.at(*where, position)}: {name!r} is already there")


def _refuse_doubles(names: list[str], document: Document, section: str, key: str) -> None:
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UsageError(f"{document.at(section, position, key)}: {name!r} is already there; names are unique")


def load_prompts(path: Path) -> Prompts:
    """Read a prompts file.

    Raises:
        UsageError: with file and line.
    """
    document = load(path, "prompts", "prompts file")
    data = document.data
    for section in ("prompts", "tokenizer", "chats"):
        _refuse_doubles([entry["name"] for entry in data.get(section, [])], document, section, "name")
    text = document.beside(data["perplexity_text"]) if "perplexity_text" in data else None
    if text is not None and not text.is_file():
        raise UsageError(f"{document.at('perplexity_text')}: expected a text file, found nothing at {text}")
    return Prompts(
        prompts=tuple(PromptText(entry["name"], entry["text"]) for entry in data["prompts"]),
        tokenizer=tuple(
            PromptText(entry["name"], entry["text"], entry.get("known", {})) for entry in data.get("tokenizer", [])
        ),
        chats=tuple(Chat(entry["name"], tuple(entry["messages"])) for entry in data.get("chats", [])),
        perplexity_text=text,
    )


def load_tolerances(path: Path) -> dict[str, Tolerance]:
    """Read a tolerances file.

    Raises:
        UsageError: with file and line.
    """
    document = load(path, "tolerances", "tolerances file")
    return {
        name: Tolerance(name, float(entry["value"]), entry["unit"], entry["why"])
        for name, entry in document.data["tolerances"].items()
    }
