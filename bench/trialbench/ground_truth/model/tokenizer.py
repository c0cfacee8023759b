"""The whole tokenizer of a Hugging Face folder, as a GGUF of llama.cpp can say it; what it cannot say is refused.

It takes up to six files: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
and for what ends a sequence `generation_config.json` and `config.json`. They are read in the order of transformers,
which goes by `tokenizer.json` wherever two of them disagree on what a text becomes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.model.by_text import (
    ALPHABET,
    CONTROL,
    ENDS,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    cut_otherwise,
    other_ends,
    other_kinds,
)
from trialbench.ground_truth.model.configuration import Shape
from trialbench.ground_truth.model.templates import read_templates
from trialbench.ground_truth.model.weights import hf_json

# Classes of transformers that build their tokenizer from vocabulary and merges and cut text in a way of their own, and
# those that take `tokenizer.json` as it is: a byte-level one called LlamaTokenizer is among them.
_REBUILT = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
_TAKEN = frozenset(("", "PreTrainedTokenizer", "TokenizersBackend", "LlamaTokenizer"))
# Keys of the settings whose tokens every class has; other keys are a model's own.
_USUAL = tuple(f"{one}_token" for one in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# The named tokens that a class takes where the settings have no such key.
_NAMED_ANYWAY = {
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}
# The ids that transformers takes where `config.json` has no such key.
_DEFAULT_ENDS = {"llama": 2, "gpt2": 50256}
_UPSTREAM = "convert this model with llama.cpp's own convert_hf_to_gguf.py"

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By llama.cpp's name, how text is cut into words; a pattern counts only character by character.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "qwen2": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
            {**BYTE_LEVEL, "use_regex": False},
        ],
    },
}


@dataclass(frozen=True)
class Tokenizer:
    """What a GGUF says about a tokenizer.

    Attributes:
        pre: llama.cpp's name for how text is cut into words.
        texts, kinds: one for each row of the embedding.
        merges: each the two texts with a blank between them, first ones first.
        ends: the ids that end a sequence: the first, and those others that llama.cpp does not know by their text.
        adds_bos, adds_eos: whether each text gets one.
        templates: the chat templates by name; `default` is the one that is meant without a name.
        notes: what was seen and is not in the file, in words.
    """

    pre: str
    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    bos: int
    ends: tuple[int, ...]
    pad: int | None
    adds_bos: bool
    adds_eos: bool
    templates: Mapping[str, str]
    notes: tuple[str, ...]


def read_tokenizer(folder: Path, shape: Shape) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Raises:
        UsageError: a file is missing or garbled, or says something that no GGUF can say; names file and key.
    """
    return _Reader(folder, shape).read()


class _Reader:
    """The files of one folder."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._folder, self._shape = folder, shape
        self._where = str(folder / "tokenizer.json")
        self._tokenizer = _mapping(folder / "tokenizer.json", needed=True)
        self._settings = _mapping(folder / "tokenizer_config.json")
        self._config = _mapping(folder / "config.json", needed=True)
        self._generation = _mapping(folder / "generation_config.json")
        self._class = self._tokenizer_class()
        self._named = self._special_tokens()
        self._ids: dict[str, int] = {}
        self._notes: list[str] = []

    def read(self) -> Tokenizer:
        """Everything, or the first thing that cannot be said."""
        try:
            model = self._tokenizer["model"]
            self._check_model(model)
            kinds = self._vocabulary(model)
            merges = tuple(self._merges(model))
            self._note_texts(kinds)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self._where}: is not a tokenizer of the library `tokenizers`: {error}") from error
        pre = pre_tokenizer(self._tokenizer, self._where)
        self._check_steps(pre)
        before, after = self._added_around()
        ends = self._ends()
        bos = self._bos(before, ends[0])
        if after is not None and after != ends[0]:
            raise UsageError(
                f"{self._where}: post_processor: expected the end, token {ends[0]}, found {after} after each"
            )
        templates = read_templates(self._folder, self._settings, self._notes)
        return Tokenizer(
            pre=pre,
            texts=self._rows(),
            kinds=tuple(kinds.get(number, UNUSED) for number in range(self._shape.vocabulary)),
            merges=merges,
            bos=bos,
            ends=ends,
            pad=self._id("pad_token"),
            adds_bos=before is not None,
            adds_eos=after is not None,
            templates=templates,
            notes=tuple(self._notes),
        )

    def _tokenizer_class(self) -> str:
        """The class that transformers takes; whatever the files say, it has one of its own for qwen2."""
        if self._shape.architecture == "qwen2":
            return "Qwen2Tokenizer"
        said = self._settings.get("tokenizer_class") or self._config.get("tokenizer_class")
        usual = "GPT2Tokenizer" if self._shape.architecture == "gpt2" else ""
        return str(said or usual).removesuffix("Fast")

    # --- Vocabulary ---

    def _check_model(self, model: Any) -> None:
        # The oldest files do not name the type.
        kind = model.get("type", "BPE" if "merges" in model else None)
        if kind != "BPE":
            raise UsageError(f"{self._where}: expected a byte-level BPE tokenizer, found {kind}")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback"):
            if model.get(key):
                raise UsageError(f"{self._where}: model.{key}: expected none, found {model[key]!r}; {_UPSTREAM}")
        if model.get("unk_token") and not model["vocab"].keys() >= ALPHABET:
            raise UsageError(
                f"{self._where}: model.unk_token: expected none, found {model['unk_token']!r}; {_UPSTREAM}"
            )

    def _vocabulary(self, model: Any) -> dict[int, int]:
        """Fills the ids by text; returns the kind of each id."""
        texts: dict[int, str] = {}
        for text, number in model["vocab"].items():
            self._take(texts, text, number)
        kinds = dict.fromkeys(texts, NORMAL)
        self._ids = {text: number for number, text in texts.items()}
        taken: list[int] = []
        for added in self._tokenizer.get("added_tokens") or []:
            text, number = added["content"], added["id"]
            self._check_added(added, self._where)
            # The library looks the text up, and takes the next number if it is missing; it ignores the id in the file.
            after = max(taken, default=0) + 1 if max(taken, default=-1) >= len(model["vocab"]) else len(model["vocab"])
            expected = self._ids.get(text, after)
            if number != expected:
                raise UsageError(
                    f"{self._where}: added_tokens: {text!r}: expected the id {expected}, as the library counts, "
                    f"found {number!r}"
                )
            if text not in self._ids:
                self._take(texts, text, number)
            taken.append(number)
            kinds[number] = CONTROL if added.get("special") else USER_DEFINED
            self._ids[text] = number
        self._declared_elsewhere(kinds, {texts[number] for number in taken})
        return kinds

    def _take(self, texts: dict[int, str], text: Any, number: Any) -> None:
        if type(number) is not int or number < 0 or not isinstance(text, str):
            raise UsageError(f"{self._where}: expected a text and its id, found {text!r}: {number!r}")
        if number in texts:
            raise UsageError(f"{self._where}: the id {number} is that of {texts[number]!r} and of {text!r}")
        if number >= self._shape.vocabulary:
            raise UsageError(
                f"{self._where}: a token id of {number}, expected less than vocab_size, {self._shape.vocabulary}"
            )
        texts[number] = text

    def _check_added(self, added: Mapping[str, Any], where: str) -> None:
        for flag in ("lstrip", "rstrip", "single_word"):
            if added.get(flag):
                raise UsageError(f"{where}: {added.get('content')!r}: {flag}: expected false, found {added[flag]!r}")
        if not isinstance(added.get("content"), str) or not added["content"]:
            raise UsageError(f"{where}: added_tokens: expected a text, found {added.get('content')!r}")

    def _declared_elsewhere(self, kinds: dict[int, int], known: set[str]) -> None:
        """Tokens of the other files. They may repeat what `tokenizer.json` has, and say what is special."""
        settings = str(self._folder / "tokenizer_config.json")
        decoder = self._settings.get("added_tokens_decoder")
        for number, added in (decoder or {}).items():
            self._check_added(added, settings)
            self._same(settings, str(added["content"]), int(number))
            kinds[int(number)] = CONTROL if added.get("special") else kinds[int(number)]
        if decoder is not None and self._class in _REBUILT:
            # Such a class takes the added tokens from there alone.
            lost = (
                known - {str(added["content"]) for added in decoder.values()} - self._tokenizer["model"]["vocab"].keys()
            )
            if lost:
                raise UsageError(
                    f"{settings}: added_tokens_decoder: expected {min(lost)!r} of tokenizer.json, found none"
                )
        for text, number in _mapping(self._folder / "added_tokens.json").items():
            self._same(str(self._folder / "added_tokens.json"), text, number)
        for key, token in self._named:
            text = _text(token)
            if text not in self._ids:
                self._notes.append(f"{settings}: {key}: {text!r} is no token of tokenizer.json: not in the file")
                continue
            if isinstance(token, dict) and text not in known:
                # Not yet an added token: it becomes one as it is written here.
                self._check_added(token, f"{settings}: {key}")
            kinds[self._ids[text]] = CONTROL

    def _note_texts(self, kinds: Mapping[int, int]) -> None:
        """What llama.cpp does with tokens because of their texts."""
        self._notes.extend(f"{self._where}: {words}" for words in other_kinds(self._ids, kinds))
        normalized = {
            str(added["content"])
            for added in self._tokenizer.get("added_tokens") or []
            if added.get("normalized", not added.get("special"))
        }
        found = {text for text, number in self._ids.items() if kinds[number] in (CONTROL, USER_DEFINED)}
        text = cut_otherwise(found - normalized, found & normalized)
        if text is not None:
            self._notes.append(
                f"{self._where}: added_tokens: llama.cpp finds other ones in {text!r}: the longest first, transformers "
                "from left to right"
            )

    def _same(self, where: str, text: str, number: Any) -> None:
        if self._ids.get(text) != number:
            found = self._ids.get(text, "none")
            raise UsageError(
                f"{where}: {text!r} with the id {number}: expected it in tokenizer.json, found {found} there"
            )

    def _special_tokens(self) -> list[tuple[str, Any]]:
        """The key of all tokens that are named for a purpose, `image_token` no less than `eos_token`, and each as it is
        written: a text, or a mapping that holds it. In the order and with the exceptions of transformers.
        """
        said = {**_NAMED_ANYWAY.get(self._class, {}), **self._settings}
        more = said.get("extra_special_tokens") or said.get("additional_special_tokens") or []
        named = {key: one for key, one in said.items() if key.endswith("_token") and (key in _USUAL or _names(one))}
        if isinstance(more, dict):
            named, more = {**named, **more}, []
        if not named.keys() - set(_USUAL):
            named.update(said.get("model_specific_special_tokens") or {})
        if "added_tokens_decoder" not in said:
            older = _mapping(self._folder / "special_tokens_map.json")
            named.update({key: one for key, one in older.items() if key.endswith("_token")})
            extra = older.get("extra_special_tokens") or ([] if more else older.get("additional_special_tokens")) or []
            named, more = ({**named, **extra}, more) if isinstance(extra, dict) else (named, [*more, *extra])
        found = [*named.items(), *(("extra_special_tokens", one) for one in more)]
        for key, token in found:
            if not isinstance(token, str | dict | None):
                where = self._folder / "tokenizer_config.json"
                raise UsageError(f"{where}: {key}: expected a token, found {token!r:.80}")
        return [(key, token) for key, token in found if _text(token)]

    def _rows(self) -> tuple[str, ...]:
        """A text for each row. Matrices are often larger than the vocabulary; the rest gets names that no text has."""
        texts = {number: text for text, number in self._ids.items()}
        return tuple(texts.get(number) or self._filler(number) for number in range(self._shape.vocabulary))

    def _filler(self, number: int) -> str:
        name = f"[PAD{number}]"
        while name in self._ids:
            name = f"[{name}]"
        return name

    def _merges(self, model: Any) -> Iterator[str]:
        # The first line of an older merges.txt is no pair; a list of two texts always is one.
        lines = [one for one in model["merges"] if not (isinstance(one, str) and one.startswith("#version"))]
        pairs = [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in lines]
        if not pairs:
            raise UsageError(f"{self._where}: model.merges: expected some, found none: llama.cpp loads no such file")
        seen = set()
        for pair in pairs:
            text = " ".join(pair)
            if len(pair) != 2 or text.count(" ") != 1:
                raise UsageError(f"{self._where}: model.merges: expected two texts without blanks, found {pair!r}")
            missing = [one for one in (*pair, "".join(pair)) if one not in model["vocab"]]
            if missing:
                raise UsageError(f"{self._where}: model.merges: {text!r}: expected {missing[0]!r} in the vocabulary")
            if text in seen:
                raise UsageError(f"{self._where}: model.merges: expected each pair once, found {text!r} twice")
            seen.add(text)
            yield text

    # --- Steps before and after ---

    def _check_steps(self, pre: str) -> None:
        normalizer = _flat(self._tokenizer.get("normalizer"), "normalizers")
        if normalizer and not (self._class == "Qwen2Tokenizer" and [one.get("type") for one in normalizer] == ["NFC"]):
            found = json.dumps(self._tokenizer["normalizer"])[:200]
            raise UsageError(f"{self._where}: normalizer: expected none, found {found}: a GGUF can't hold that")
        if self._class == "Qwen2Tokenizer":
            # Its class does, whether tokenizer.json says so or not.
            self._notes.append(
                f"{self._where}: normalizer: NFC: llama.cpp does not compose characters, transformers does"
            )
        decoder = [one.get("type") for one in _flat(self._tokenizer.get("decoder"), "decoders")]
        if decoder != ["ByteLevel"]:
            raise UsageError(
                f"{self._where}: decoder: expected ByteLevel, found {', '.join(map(str, decoder)) or 'none'}"
            )
        settings = str(self._folder / "tokenizer_config.json")
        for key in ("add_prefix_space", "split_special_tokens"):
            if self._settings.get(key):
                raise UsageError(f"{settings}: {key}: expected false, found {self._settings[key]!r}")
        versions = self._settings.get("fast_tokenizer_files")
        if versions and versions != ["tokenizer.json"]:
            raise UsageError(f"{settings}: fast_tokenizer_files: expected tokenizer.json alone, found {versions!r:.80}")
        if self._settings.get("auto_map"):
            self._notes.append(
                f"{settings}: auto_map: code that comes with the model: not run, tokenizer.json is taken"
            )
        for where, said, prefix in ((self._where, self._tokenizer, ""), (settings, self._settings, "tokenizer_")):
            for key in (f"{prefix}truncation", f"{prefix}padding"):
                if said.get(key):
                    self._notes.append(f"{where}: {key}: not in the file: llama.cpp takes a text as it is")
        own = _REBUILT.get(self._class, pre)
        if own == "qwen2" and pre != own:
            raise UsageError(
                f"{self._where}: pre_tokenizer: expected that of qwen2, which transformers takes, found {pre}"
            )
        if pre != own:
            self._notes.append(
                f"{settings}: tokenizer_class: in transformers 5 {self._class} cuts text as {own}; taken: {pre} of "
                "tokenizer.json, as transformers 4 does: some ids differ from those of 5"
            )
        elif self._class not in _REBUILT.keys() | _TAKEN:
            self._notes.append(
                f"{settings}: tokenizer_class: {self._class}: not used: text is cut as tokenizer.json says"
            )

    def _added_around(self) -> tuple[int | None, int | None]:
        """The ids that the post-processor puts before and after each text."""
        found = [
            one for one in _flat(self._tokenizer.get("post_processor"), "processors") if one["type"] != "ByteLevel"
        ]
        if not found:
            return None, None
        step, where = found[0], f"{self._where}: post_processor"
        if len(found) > 1 or step["type"] != "TemplateProcessing":
            raise UsageError(
                f"{where}: expected TemplateProcessing, found {', '.join(str(one['type']) for one in found)}"
            )
        single = [*step["single"]]
        texts = [number for number, part in enumerate(single) if "Sequence" in part]
        before, after = single[: texts[0]] if texts else single, single[texts[0] + 1 :] if texts else []
        if len(texts) != 1 or len(before) > 1 or len(after) > 1:
            shown = " ".join(str((part.get("SpecialToken") or part.get("Sequence"))["id"]) for part in single)
            raise UsageError(f"{where}: expected at most one token before and after each text, found {shown}")
        return self._placed(step, before, where), self._placed(step, after, where)

    def _placed(self, step: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], where: str) -> int | None:
        if not parts:
            return None
        name = parts[0]["SpecialToken"]["id"]
        token = (step.get("special_tokens") or {}).get(name) or {}
        ids, tokens = token.get("ids") or [], token.get("tokens") or [name]
        if len(ids) != 1 or len(tokens) != 1 or self._ids.get(str(tokens[0])) != ids[0]:
            raise UsageError(
                f"{where}: {name!r}: expected one token of the vocabulary, found {tokens} with the ids {ids}"
            )
        return int(ids[0])

    # --- Special ids ---

    def _id(self, key: str) -> int | None:
        """The id of a named token: by its text, else by config.json; None where neither names a row."""
        text = self._text_of(key)
        number = self._ids.get(text, self._config.get(f"{key}_id"))
        number = number[0] if isinstance(number, list) and number else number
        return number if type(number) is int and 0 <= number < self._shape.vocabulary else None

    def _text_of(self, key: str) -> str:
        return next((_text(token) for name, token in self._named if name == key), "")

    def _bos(self, placed: int | None, end: int) -> int:
        named = self._id("bos_token")
        if placed is not None and named not in (None, placed):
            raise UsageError(
                f"{self._where}: post_processor: expected the bos_token, token {named}, found {placed} before"
            )
        if placed is None and self._settings.get("add_bos_token"):
            where = self._folder / "tokenizer_config.json"
            self._notes.append(f"{where}: add_bos_token: not used: tokenizer.json puts none before a text, it decides")
        # llama.cpp would take token 11 for one. It is never added: see adds_bos.
        found = named if placed is None else placed
        return end if found is None else found

    def _ends(self) -> tuple[int, ...]:
        """What ends a sequence: as in transformers, generation_config.json before config.json, the tokenizer's last."""
        found, where = self._said_ends()
        others = other_ends(self._ids, found)
        if others:
            shown = ", ".join(others)
            self._notes.append(f"{where}: llama.cpp also ends at {shown}, by the text; transformers does not")
        # The first, and those that llama.cpp does not know by their text: a GGUF has places for two more.
        known = {self._ids[text] for text in ENDS & self._ids.keys()}
        more = [number for number in found[1:] if number not in known]
        if len(more) > 2:
            raise UsageError(
                f"{where}: expected at most three ends, found {', '.join(map(str, found))}: a GGUF can't hold that"
            )
        return (found[0], *more)

    def _said_ends(self) -> tuple[list[int], str]:
        """All ids that end a sequence, and where they are said."""
        for name, said in (("generation_config.json", self._generation), ("config.json", self._config)):
            where = f"{self._folder / name}: eos_token_id"
            found = self._numbers(said.get("eos_token_id"), where)
            if found:
                return found, where
        text = self._text_of("eos_token")
        default = None if "eos_token_id" in self._config else _DEFAULT_ENDS.get(self._shape.architecture)
        number = self._ids.get(text, default)
        if number is None or number >= self._shape.vocabulary:
            raise UsageError(
                f"{self._folder}: expected an end of sequence (eos_token_id of generation_config.json or config.json, "
                "eos_token of tokenizer_config.json), found none: a GGUF without one ends at token 11"
            )
        if default is not None and number != default:
            self._notes.append(f"{self._folder / 'config.json'}: no eos_token_id: taken from the tokenizer: {number}")
        return [number], str(self._folder / "tokenizer_config.json")

    def _numbers(self, value: Any, where: str) -> list[int]:
        """The ids of a number or a list; -1 stands for none."""
        found = value if isinstance(value, list) else [] if value is None else [value]
        bad = [one for one in found if type(one) is not int or not -1 <= one < self._shape.vocabulary]
        if bad:
            raise UsageError(f"{where}: expected ids below vocab_size, {self._shape.vocabulary}, found {value!r}")
        return [one for one in dict.fromkeys(found) if one >= 0]


def pre_tokenizer(tokenizer: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name for the way a `tokenizer.json` cuts text into words.

    Raises:
        UsageError: one that is none of the three known here; a wrong guess would shift token ids silently.
    """
    found = tokenizer.get("pre_tokenizer")
    steps = [_plain(step) for step in _flat(found, "pretokenizers")]
    for name, known in PRE_TOKENIZERS.items():
        if steps == [_plain(step) for step in _flat(known, "pretokenizers")]:
            return name
    raise UsageError(
        f"{where}: pre_tokenizer: expected that of gpt-2, smollm or qwen2, found {json.dumps(found)[:400]}; {_UPSTREAM}"
    )


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what changes no ids, and with what goes without saying."""
    default = {"use_regex": True} if step.get("type") == "ByteLevel" else {}
    return {**default, **{key: value for key, value in step.items() if key != "trim_offsets"}}


def _flat(step: Any, key: str) -> list[Any]:
    """The steps of a sequence, or the one step, or none."""
    if step is None:
        return []
    if isinstance(step, dict) and step.get("type") == "Sequence":
        return [one for inner in step.get(key) or [] for one in _flat(inner, key)]
    return [step]


def _mapping(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """A JSON file of the folder; empty where there is none and none is needed."""
    if not needed and not path.exists() and not path.is_symlink():
        return {}
    found = hf_json(path)
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found


def _names(token: Any) -> bool:
    """Whether transformers takes what stands under a key of a model's own for a token: no bare mapping."""
    return isinstance(token, str) or (isinstance(token, dict) and token.get("__type") == "AddedToken")


def _text(token: Any) -> str:
    """The text of a special token."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")
