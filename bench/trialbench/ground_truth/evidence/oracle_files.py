"""Oracle files: what `transformers` says in float32, one JSON file for each model and prompt. No torch is needed here.

Layout, that of the original tool, so that its files are read and ours can be read by it:

    oracle/<slug>/<prompt>.json                     float32 on the CPU
    oracle-gpu/<slug>/<precision>/<prompt>.json     bf16 and fp16 (and whatever was made on a GPU)
and ours:
    oracle-gguf/<slug>/<quant>/<prompt>.json        transformers loading a quantized GGUF (the second oracle)
    oracle-tokenizer/<slug>.json                    token ids of the torture set, prompts of the chat template

`oracle` is the folder that a roster names; the others are beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import write_atomic
from trialbench.ground_truth.runtimes.base import Candidate, Prompt

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Oracle:
    """One golden continuation.

    The first block is the original tool's; `device` and `precision` are missing in its CPU files and read as `cpu`
    and `fp32`. The second block is ours, and None (or empty) in files of the original tool.

    Attributes:
        tokens: greedy ids without the prompt, an end-of-sequence token at the end included.
        text: decoded, white space kept.
        revision: the model's commit, or `sha256:...` of its files together for a local folder.
        prompt_ids: the prompt as token ids.
        eos_ids: what the model counts as end of sequence.
        top: at each position the most probable tokens, best first, float32 log-softmax.
        files: SHA-256 of the files it was made from.
        source: what was loaded: `hf`, or `gguf QUANT` for the second oracle.
    """

    model: str
    model_slug: str
    prompt: str
    prompt_file: str
    transformers_version: str
    torch_version: str
    tokens: tuple[int, ...]
    text: str
    max_new_tokens: int
    runtime: str = "transformers"
    format: str = "float32"
    device: str = "cpu"
    precision: str = "fp32"
    do_sample: bool = False
    gpu: Mapping[str, Any] = field(default_factory=dict)

    revision: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    eos_ids: tuple[int, ...] = ()
    top: tuple[tuple[Candidate, ...], ...] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    source: str = "hf"

    @property
    def prompt_name(self) -> str:
        """`arithmetic` of `prompts/arithmetic.txt`."""
        return Path(self.prompt_file).stem

    @property
    def as_prompt(self) -> Prompt:
        """What a runtime is given."""
        return Prompt(self.prompt_name, self.prompt, self.prompt_ids)

    def margins(self) -> tuple[float, ...] | None:
        """At each position the log-probability that the chosen token is ahead of the next one; None without `top`."""
        if self.top is None:
            return None
        return tuple(row[0].logprob - row[1].logprob if len(row) > 1 else float("inf") for row in self.top)


@dataclass(frozen=True)
class TokenizerOracle:
    """Token ids and chat prompts as the model's own tokenizer makes them.

    Attributes:
        ids: by the name of the text; without special tokens added.
        ids_special: the same with special tokens added (BOS where the model wants one).
        chats: by the name of the chat, the rendered prompt; empty when the model has no chat template.
        texts: the texts behind the names, so that a changed torture set is noticed.
    """

    model_slug: str
    transformers_version: str
    texts: Mapping[str, str]
    ids: Mapping[str, tuple[int, ...]]
    ids_special: Mapping[str, tuple[int, ...]]
    chats: Mapping[str, str]
    files: Mapping[str, str]


# Keys of the file that are the attributes' names, in the order of the original tool's file.
_TEXTS = (
    *("model", "model_slug", "prompt", "prompt_file", "runtime", "format", "transformers_version", "torch_version"),
    *("device", "precision"),
)
_GPU_KEYS = ("cuda_version", "gpu_name", "kernels_version", "kernels_enabled")


def oracle_path(
    folder: Path, slug: str, prompt: str, *, precision: str = "fp32", quant: str | None = None, device: str = "cpu"
) -> Path:
    """The path of an oracle; `folder` is the roster's `oracle`."""
    if quant is not None:
        return folder.with_name(f"{folder.name}-gguf") / slug / quant / f"{prompt}.json"
    if precision != "fp32" or device != "cpu":
        return folder.with_name(f"{folder.name}-gpu") / slug / precision / f"{prompt}.json"
    return folder / slug / f"{prompt}.json"


def tokenizer_path(folder: Path, slug: str) -> Path:
    """The path of the tokenizer's oracle."""
    return folder.with_name(f"{folder.name}-tokenizer") / f"{slug}.json"


def read_oracle(path: Path) -> Oracle:
    """Read one oracle file, ours or the original tool's.

    Raises:
        UsageError: not there, no JSON, or not an oracle; says where and what was expected.
    """
    data = _checked(path, "oracle", "trialbench oracle")
    tokens = tuple(int(token) for token in data["tokens"])
    if "token_count" in data and data["token_count"] != len(tokens):
        raise UsageError(
            f"{path}: token_count: expected {len(tokens)}, the number of tokens, found {data['token_count']}"
        )
    top = data.get("top_logprobs")
    if top is not None and len(top) != len(tokens):
        raise UsageError(
            f"{path}: top_logprobs: expected {len(tokens)} positions, one for each token, found {len(top)}"
        )
    return Oracle(
        **{key: data.get(key, "unknown") for key in _TEXTS if key in data or key.endswith("_version")},
        tokens=tokens,
        text=data["text"],
        max_new_tokens=int(data.get("max_new_tokens", len(tokens))),
        do_sample=data.get("do_sample", False),
        gpu={key: data[key] for key in _GPU_KEYS if key in data},
        revision=data.get("model_revision"),
        prompt_ids=_ids(data.get("prompt_ids")),
        eos_ids=_ids(data.get("eos_ids")) or (),
        top=None if top is None else tuple(tuple(Candidate(int(one[0]), float(one[1])) for one in row) for row in top),
        files=data.get("files", {}),
        source=data.get("source", "hf"),
    )


def _ids(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(one) for one in value)


def write_oracle(path: Path, oracle: Oracle) -> None:
    """Write one oracle file, atomically; the original tool's keys first and in its order."""
    data: dict[str, Any] = {
        **{key: getattr(oracle, key) for key in _TEXTS},
        "tokens": list(oracle.tokens),
        "text": oracle.text,
        "token_count": len(oracle.tokens),
        "max_new_tokens": oracle.max_new_tokens,
        "do_sample": oracle.do_sample,
        **oracle.gpu,
        "schema_version": SCHEMA_VERSION,
        "source": oracle.source,
        "model_revision": oracle.revision,
        "prompt_ids": None if oracle.prompt_ids is None else list(oracle.prompt_ids),
        "eos_ids": list(oracle.eos_ids),
        "files": dict(oracle.files),
        "top_logprobs": None
        if oracle.top is None
        else [[[one.id, round(one.logprob, 5)] for one in row] for row in oracle.top],
    }
    _write(path, data)


def read_tokenizer(path: Path) -> TokenizerOracle:
    """Read the oracle of a tokenizer.

    Raises:
        UsageError: not there, no JSON, or not an oracle of a tokenizer.
    """
    data = _checked(path, "tokenizer-oracle", "trialbench oracle")
    for key in ("ids", "ids_special"):
        if data[key].keys() != data["texts"].keys():
            found = ", ".join(data[key])[:200] or "none"
            raise UsageError(f"{path}: {key}: expected the same names as in texts, found {found}")
    return TokenizerOracle(
        model_slug=data["model_slug"],
        transformers_version=data["transformers_version"],
        texts=data["texts"],
        ids={name: tuple(ids) for name, ids in data["ids"].items()},
        ids_special={name: tuple(ids) for name, ids in data["ids_special"].items()},
        chats=data["chats"],
        files=data["files"],
    )


def write_tokenizer(path: Path, oracle: TokenizerOracle) -> None:
    """Write the oracle of a tokenizer, atomically."""
    _write(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "model_slug": oracle.model_slug,
            "transformers_version": oracle.transformers_version,
            "texts": dict(oracle.texts),
            "ids": {name: list(ids) for name, ids in oracle.ids.items()},
            "ids_special": {name: list(ids) for name, ids in oracle.ids_special.items()},
            "chats": dict(oracle.chats),
            "files": dict(oracle.files),
        },
    )


def _checked(path: Path, schema: str, maker: str) -> dict[str, Any]:
    if not path.exists():
        raise UsageError(f"{path}: expected an oracle file, found none: make it with `{maker}`")
    return schemas.read(path, schema, f"an oracle (see `trialbench schema {schema}`)")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    """One key a line: a thousand numbers indented one by one would be unreadable, and a diff of them useless."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False, ensure_ascii=True)}" for key, value in data.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "{\n" + ",\n".join(lines) + "\n}\n")
