"""Byte-level BPE in plain Python, for ASCII: which ids a `tokenizer.json` means, and which ones the GGUF made of it.

It shares no code with the converter. What it does not know raises `Unknown`: no such file may become a GGUF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_WORDS = r" ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+"
_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d|{_WORDS}"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As files of that family write it, with the classes of Unicode.
_QWEN2_SPLIT = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
_DIGITS = r"[0-9]|[^0-9]+"
# The patterns of a GGUF by their name, one after the other.
_CUTS = {"gpt-2": (_GPT2,), "smollm": (_DIGITS, _GPT2), "qwen2": (_QWEN2,)}
Step = Callable[[str], list[str]]


class Unknown(Exception):
    """Something that decides which ids a text has, and that is not known here."""


@dataclass(frozen=True)
class Pairs:
    """A tokenizer: `steps` cut a text into words, `ranks` order the merges, `added` are found before all that."""

    normal: Callable[[str], str]
    steps: Sequence[Step]
    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    added: Mapping[str, int]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    whole_words: bool = False

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with what is put around it."""
        return [*self.before, *self._between(text), *self.after]

    def _between(self, text: str) -> Iterator[int]:
        longest_first = sorted(self.added, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        at = 0
        for match in re.finditer(pattern, text):
            yield from self._plain(text[at : match.start()])
            yield self.added[match[0]]
            at = match.end()
        yield from self._plain(text[at:])

    def _plain(self, text: str) -> Iterator[int]:
        parts = [self.normal(text)] if text else []
        for step in self.steps:
            parts = [piece for part in parts for piece in step(part)]
        for part in parts:
            yield from self._word(part.replace(" ", "Ġ").replace("\n", "Ċ"))

    def _word(self, word: str) -> Iterator[int]:
        if self.whole_words and word in self.ids:
            yield self.ids[word]
            return
        parts = list(word)
        while len(parts) > 1:
            pairs = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in self.ranks]
            if not pairs:
                break
            _, at = min(pairs)
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        yield from (self.ids[part] for part in parts if part in self.ids)


def _cut(pattern: str) -> Step:
    return lambda text: [match[0] for match in re.finditer(pattern, text)]


def _pairs(merges: Sequence[Any]) -> dict[tuple[str, str], int]:
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    return {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs)}


def _flat(step: Any, key: str) -> list[Any]:
    if step is None:
        return []
    return [one for inner in step[key] for one in _flat(inner, key)] if step["type"] == "Sequence" else [step]


def from_folder(folder: Path) -> Pairs:
    """What transformers reads in `tokenizer.json`, and in `tokenizer_config.json` of tokens with a purpose.

    Raises:
        Unknown: something in it is not known here.
    """
    said = json.loads((folder / "tokenizer.json").read_bytes())
    model = said["model"]
    if model.get("type", "BPE") != "BPE":
        raise Unknown(model["type"])
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "unk_token"):
        if model.get(key):
            raise Unknown(key)
    ids, added = dict(model["vocab"]), {}
    for token in said.get("added_tokens") or []:
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise Unknown("flags")
        if token["content"] in added:
            continue
        beyond = max([len(model["vocab"]) - 1, *added.values()]) + 1
        added[token["content"]] = ids.get(token["content"], beyond)
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    # A mapping is a token under a key of the library, and elsewhere only where it says so itself.
    usual = {f"{one}_token" for one in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    named = [
        one["content"] if isinstance(one, dict) else one
        for key, one in settings.items()
        if key.endswith("_token") and (key in usual or not isinstance(one, dict) or "__type" in one)
    ]
    added |= {text: ids[text] for text in named if isinstance(text, str) and text in ids and text not in added}
    before, after = _around(said.get("post_processor"))
    steps = [_step(one) for one in _flat(said.get("pre_tokenizer"), "pretokenizers")]
    if not steps:
        raise Unknown("no pre_tokenizer")
    whole = bool(model.get("ignore_merges"))
    # The version of an older merges.txt is no pair.
    merges = [one for one in model["merges"] if not (isinstance(one, str) and one.startswith("#version"))]
    return Pairs(_normalizer(said), steps, ids, _pairs(merges), added, before, after, whole)


def _normalizer(said: Mapping[str, Any]) -> Callable[[str], str]:
    found = [one["type"] for one in _flat(said.get("normalizer"), "normalizers")]
    if set(found) - {"Lowercase", "NFC"}:
        raise Unknown(str(found))
    # To compose characters changes none of ASCII.
    return str.lower if "Lowercase" in found else str


def _step(one: Mapping[str, Any]) -> Step:
    if one["type"] == "Digits" and one.get("individual_digits"):
        return _cut(_DIGITS)
    if one == _QWEN2_SPLIT:
        return _cut(_QWEN2)
    if one["type"] != "ByteLevel":
        raise Unknown(str(one))
    cut = _cut(_GPT2) if one.get("use_regex", True) else lambda text: [text]
    if one.get("add_prefix_space", True):
        return lambda text: cut(text if text.startswith(" ") else f" {text}")
    return cut


def _around(post: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    before: list[int] = []
    after: list[int] = []
    for step in _flat(post, "processors"):
        if step["type"] == "ByteLevel":
            continue
        if step["type"] != "TemplateProcessing":
            raise Unknown(step["type"])
        place = before
        for part in step["single"]:
            if "Sequence" in part:
                place = after
            else:
                place += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return tuple(before), tuple(after)


def from_gguf(path: Path) -> Pairs:
    """What llama.cpp reads in a GGUF."""
    from gguf import GGUFReader

    key = {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in GGUFReader(path).fields.items()}
    kinds = dict(enumerate(key["token_type"]))
    ids = {text: number for number, text in enumerate(key["tokens"]) if kinds[number] != 5}
    added = {text: number for text, number in ids.items() if kinds[number] in (3, 4)}
    around = [(key[f"{end}_token_id"],) if key.get(f"add_{end}_token") else () for end in ("bos", "eos")]
    steps = [_cut(pattern) for pattern in _CUTS[key["pre"]]]
    return Pairs(str, steps, ids, _pairs(key["merges"]), added, *around)
