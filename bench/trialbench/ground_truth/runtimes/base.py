"""The contract between a suite and a runtime: what can be asked, what is answered, and what was seen while asking.

A suite never knows which runtime it tests. It looks at `Runtime.capabilities`: what a runtime has declared beforehand
that it cannot do is *not applicable*, by name and with the reason; everything else is asked, and a missing answer is
the suite's to judge. An adapter never judges: it returns what it got, and `Trouble` when it got nothing usable.

Three kinds of question:

* about a file, answered by a document (`Runtime.probe`): inspect, validate, tensors, lint, ...
* about a loaded model (`Runtime.open` -> `LoadedModel`): generate, tokenize, score. A file is loaded once for them all.
* to make a file (`Runtime.convert`): import, quantize, export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


class Capability(StrEnum):
    """Something a runtime can be asked for. The values are used in data files and reports."""

    # A loaded model.
    GENERATE = "generate"  # greedy tokens for a prompt
    PROMPT_IDS = "prompt-ids"  # takes the prompt as token ids, so that its tokenizer is out of the way
    TOKENIZE = "tokenize"  # text -> token ids, on its own
    TEMPLATE = "template"  # messages -> prompt text, by the file's own chat template
    SCORE = "score"  # log-probabilities per position under a given continuation (teacher forcing)
    KV_TYPE = "kv-type"  # the precision of the key/value cache can be chosen
    # A file.
    PERPLEXITY = "perplexity"  # over a text of ours
    KL = "kl"  # KL divergence over a text against stored float32 logits
    EVAL = "eval"  # perplexity over the runtime's own text
    INSPECT = "inspect"
    VALIDATE = "validate"
    TENSORS = "tensors"
    LINT = "lint"
    SELFTEST = "selftest"
    TREE = "tree"
    ORACLE_ID = "oracle-id"
    HEX = "hex"
    DEBUG = "debug"
    BENCH = "bench"
    QA = "qa"
    LIST = "list"
    # Two files.
    DIFF = "diff"
    ROSETTA_DIFF = "rosetta-diff"
    PARITY_GPU = "parity-gpu"
    # Making files.
    IMPORT_HF = "import-hf"
    IMPORT_GGUF = "import-gguf"
    QUANTIZE = "quantize"
    EXPORT = "export"


class TroubleKind(StrEnum):
    """Why there is no usable answer. Whether that is FAIL or INCONCLUSIVE is for the suite to say."""

    PANIC = "panic"  # the runtime crashed: a signal, exit 101, a traceback
    REFUSED = "refused"  # it said so itself: an error message and a non-zero exit, or an HTTP error
    UNREADABLE = "unreadable"  # it answered, and the answer is not what was agreed (no JSON, wrong types)
    MISSING_FIELD = "missing-field"  # it answered without a field that was asked for
    EMPTY = "empty"  # it answered with a field that was asked for, and left it empty
    TIMEOUT = "timeout"
    ABSENT = "absent"  # the model file, the runtime or the GPU is not there
    NOT_BUILT = "not-built"  # this build of the runtime has no such feature


@dataclass(frozen=True)
class Trouble:
    """No usable answer, and why. `text` is for people and holds the runtime's own words (untrusted)."""

    kind: TroubleKind
    text: str


@dataclass(frozen=True)
class Call:
    """One use of a runtime as it happened, kept with the result as evidence.

    Attributes:
        argv: the command line; for a request to a server that of the server, and `request` holds the body.
        exit_code: of the process; None for a request, or when it was ended by us.
        stdout, stderr: raw, as text with undecodable bytes as U+FFFD, bounded by the adapter (untrusted).
        seconds: wall time.
    """

    argv: tuple[str, ...] = ()
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    request: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Artifact:
    """A model file (or a Hugging Face folder) that a runtime is asked about.

    Attributes:
        path: where it is.
        model: slug of the roster's model.
        format: `hf`, `gguf` or `apr`.
        quant: as in the roster: `f32`, `f16`, `Q8_0`, `Q4_0`, `Q4_K_M`, `Q2_K`, `int8`, `int4`, ...
        sha256: of the file; empty for a folder.
        parents: how it was made, oldest first, such as `("hf", "gguf f16", "gguf Q4_K_M")`: the ladder's rungs.
    """

    path: Path
    model: str
    format: str
    quant: str
    sha256: str = ""
    parents: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people call it: `tiny-llama Q4_K_M (gguf)`."""
        return f"{self.model} {self.quant} ({self.format})"


@dataclass(frozen=True)
class Candidate:
    """One token of a distribution: its id and natural-log probability (before any sampling)."""

    id: int
    logprob: float


@dataclass(frozen=True)
class Position:
    """The distribution at one position of a continuation, given everything before it.

    Attributes:
        chosen: the token the runtime would take (greedy).
        top: the most probable tokens, best first; their number is what was asked for, or the vocabulary's size.
    """

    chosen: int
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class Prompt:
    """The text to continue. `ids` are the oracle's; a runtime without `PROMPT_IDS` gets `text`.

    Attributes:
        name: of the prompt, as in the oracle's file name.
        text: verbatim.
        ids: token ids of the oracle's tokenizer; None when the oracle has none (files of the original tool).
    """

    name: str
    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Generation:
    """A greedy continuation.

    Attributes:
        tokens: ids without the prompt; None when the runtime gave none (never an empty tuple instead).
        text: as the runtime gave it, not stripped; None when it gave none.
        prompt_tokens: how many tokens the runtime says the prompt had; None when it does not say.
        prompt_ids: the prompt's ids as the runtime saw them, where it tells.
        finish_reason: `stop`, `length`, or what it said; None when it does not say.
        positions: the distributions along the continuation, where they were asked for.
        trouble: why there is no usable continuation; then tokens and text may be None.
    """

    tokens: tuple[int, ...] | None
    text: str | None
    prompt_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    positions: tuple[Position, ...] | None = None
    call: Call = field(default_factory=Call)
    trouble: Trouble | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True)
class Score:
    """Teacher forcing: one distribution per forced token, each given the prompt and the forced tokens before it.

    `generation` is the free continuation that came with it at no cost.
    """

    positions: tuple[Position, ...] | None
    generation: Generation
    call: Call = field(default_factory=Call)
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Answer:
    """What a runtime said about a file.

    Attributes:
        payload: the decoded document (untrusted), or None.
        call: the raw call.
        trouble: why there is no payload; may also accompany one, when the exit code contradicts it.
    """

    payload: Any | None
    call: Call
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a file over a text.

    Attributes:
        value, uncertainty: perplexity and its standard error, as far as the runtime gives one.
        tokens: how many tokens were evaluated; two values compare only where this and the tokenizer are equal.
        kl_mean, kl_uncertainty, kl_max, same_top: against stored reference logits (nats; share 0..1); None without.
    """

    value: float | None
    uncertainty: float | None = None
    tokens: int | None = None
    kl_mean: float | None = None
    kl_uncertainty: float | None = None
    kl_max: float | None = None
    same_top: float | None = None
    call: Call = field(default_factory=Call)
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Conversion:
    """A file that a runtime was asked to make; `artifact` is None when it did not, and `notes` say what it lacks of its
    source.
    """

    artifact: Artifact | None
    call: Call
    trouble: Trouble | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """Which runtime this is, for every output: a status belongs to a version.

    Attributes:
        name: `llama.cpp`, `apr`.
        version: as it says itself, such as `0.72.3 (abc123)`.
        detail: more that tells two builds apart: compiler, back ends, image digest.
        environment: variables that name its programs, for a command line that asks the same one.
    """

    name: str
    version: str
    detail: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class LoadedModel(Protocol):
    """A loaded model. A context manager; closing it ends the process that holds the model, if there is one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def trouble(self) -> Trouble | None:
        """Why the model could not be loaded; every question then answers with the same trouble."""

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        """Continue `prompt` greedily. `top` > 0 asks for that many candidates at each position."""

    def score(self, prompt: Prompt, forced: Sequence[int], *, top: int) -> Score:
        """The distributions along `forced` (needs `Capability.SCORE`)."""

    def tokenize(self, text: str, *, add_special: bool) -> Answer:
        """Payload: the list of token ids (needs `Capability.TOKENIZE`)."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """Payload: the prompt text that the file's chat template makes (needs `Capability.TEMPLATE`)."""


class Runtime(Protocol):
    """An adapter to one program that runs models. See the module's text for who judges what."""

    @property
    def identity(self) -> Identity:
        """Name and version. Asking may start the program once."""

    @property
    def formats(self) -> frozenset[str]:
        """The formats of `Artifact.format` it reads."""

    def declined(self, capability: Capability, artifact: Artifact | None = None) -> str | None:
        """Why this is not applicable here, as declared beforehand for this runtime, version and format; None: ask."""

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> LoadedModel:
        """Load a file. Never raises for a bad file: the loaded model carries the trouble."""

    def probe(self, capability: Capability, artifact: Artifact, other: Artifact | None = None, **more: Any) -> Answer:
        """Ask about one file, or two (`other`)."""

    def perplexity(self, artifact: Artifact, text: Path, *, context: int, reference: Path | None = None) -> Perplexity:
        """Perplexity over `text`; with `reference` (llama-perplexity's logits file) also the KL divergence."""

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        """Make `target` from `source`: `IMPORT_HF`, `IMPORT_GGUF`, `QUANTIZE` or `EXPORT`."""

    def close(self) -> None:
        """Release what outlives a loaded model (a container that holds the tools)."""
