"""Asks a runtime everything the suites want to know about a file: loaded once, however many rows judge it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_json, write_json
from trialbench.ground_truth.evidence.measures import Fidelity, fidelity
from trialbench.ground_truth.evidence.oracle_files import (
    Oracle,
    TokenizerOracle,
    oracle_path,
    read_oracle,
    read_tokenizer,
    tokenizer_path,
)
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model, Roster
from trialbench.ground_truth.model.weights import folder_hashes, hf_json, sha256
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artifact,
    Call,
    Capability,
    Generation,
    Perplexity,
    Prompt,
    Runtime,
    Score,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.runtimes.json_words import token_ids

_TOP = 64
# What a folder's tokens are made with, what its prompts, and what its continuations.
_WORDS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
_TOKENIZING = (*_WORDS, "chat_template.jinja")
_CONTINUING = (*_WORDS, "generation_config.json", "*.safetensors")


@dataclass(frozen=True)
class Seen:
    """What a loaded file answered.

    Attributes:
        trouble: why it could not be loaded.
        generations, scores: by prompt.
        tokens, tokens_special, chats: answers by the name of the text or chat.
        seconds: from the start of loading to the end.
    """

    trouble: Trouble | None = None
    generations: Mapping[str, Generation] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)
    tokens: Mapping[str, Answer] = field(default_factory=dict)
    tokens_special: Mapping[str, Answer] = field(default_factory=dict)
    chats: Mapping[str, Answer] = field(default_factory=dict)
    seconds: float = 0.0


class Evidence:
    """Everything that is asked, asked once and kept.

    Args:
        workspace: where the files are.
        runtime: who is asked.
        replaced: files that take the place of others, by (slug, quant): the negative controls.
        tell: progress, one line for each file.
    """

    def __init__(
        self,
        workspace: Workspace,
        runtime: Runtime,
        *,
        replaced: Mapping[tuple[str, str], Artifact] | None = None,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.workspace, self.runtime = workspace, runtime
        self.roster: Roster = workspace.roster
        self._replaced, self._tell = dict(replaced or {}), tell
        self._seen: dict[tuple[str, str, str], Seen] = {}
        self._oracles: dict[tuple[str, str], Oracle | Trouble] = {}
        self._tokenizers: dict[str, TokenizerOracle | Trouble] = {}
        self._perplexities: dict[tuple[str, str], Perplexity] = {}
        self._fidelities: dict[tuple[str, str, str], Fidelity | None] = {}
        self._probes: dict[Any, Answer] = {}
        self._digests: dict[Path, str] = {}
        self._sources: dict[str, dict[str, str]] = {}
        self.loads = 0
        # The last question about a file, kept for raw output.
        self.last_call: Call | None = None

    def artifact(self, model: Model, quant: str) -> Artifact:
        """The file of a quant, or the one that stands in for it."""
        found = self._replaced.get((model.slug, quant))
        return found or self.workspace.artifact(model, self.runtime.identity.name, quant)

    def digest(self, model: Model, quant: str) -> str:
        """SHA-256 of a quant's file as it is now; empty when there is none."""
        return self._digest_of(self.artifact(model, quant).path)

    def _digest_of(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = sha256(path) if path.is_file() else ""
        return self._digests[path]

    def altered(self, model: Model, quant: str) -> str | None:
        """What speaks against a quant's file being the one that was made, by the hash that was written down then."""
        artifact = self.artifact(model, quant)
        found = self.digest(model, quant) if artifact.sha256 else ""
        if not found or found == artifact.sha256:
            return None
        return (
            f"{artifact.path.name} was changed after it was made: its SHA-256 is {found[:16]}..., and was "
            f"{artifact.sha256[:16]}..."
        )

    def with_files(self, more: Mapping[tuple[str, str], Artifact]) -> Evidence:
        """The same evidence with other files in the place of some: what was found about those is left behind."""
        found = Evidence(self.workspace, self.runtime, replaced={**self._replaced, **more}, tell=self._tell)
        found._seen = {key: value for key, value in self._seen.items() if key[:2] not in more}
        found._oracles, found._tokenizers, found._sources = self._oracles, self._tokenizers, self._sources
        found._fidelities = {key: value for key, value in self._fidelities.items() if key[:2] not in more}
        return found

    def oracle(
        self, model: Model, prompt: str, *, quant: str | None = None, precision: str = "fp32"
    ) -> Oracle | Trouble:
        """The golden continuation; `quant` asks for the second oracle of that file."""
        key = (model.slug, f"{prompt}/{quant}/{precision}")
        if key not in self._oracles:
            path = oracle_path(self.roster.oracle, model.slug, prompt, quant=quant, precision=precision)
            self._oracles[key] = self._read(model, path, precision, second=quant is not None)
        return self._oracles[key]

    def _read(self, model: Model, path: Path, precision: str, *, second: bool) -> Oracle | Trouble:
        try:
            found = read_oracle(path)
            # A second oracle was made from a GGUF: its hash is held against that file where it is used.
            other = "" if second else self._departed(model, found.files, _CONTINUING)
        except UsageError as error:
            return Trouble(TroubleKind.ABSENT, str(error))
        if (found.model_slug, found.precision) != (model.slug, precision):
            said = f"{found.model_slug} in {found.precision}"
            return Trouble(
                TroubleKind.ABSENT, f"{path}: expected an oracle of {model.slug} in {precision}, found {said}"
            )
        return Trouble(TroubleKind.ABSENT, f"{path}: {other}") if other else self._completed(model, found)

    def _completed(self, model: Model, oracle: Oracle) -> Oracle:
        """What a file of the original tool leaves out, as far as the model's own files say it: the prompt's token ids,
        without which nothing compares, and what ends a sequence.
        """
        golden = self.tokenizer(model)
        if oracle.prompt_ids is not None or isinstance(golden, Trouble):
            return oracle
        name = next((name for name, text in golden.texts.items() if text == oracle.prompt), None)
        if name is None:
            return oracle
        eos: Sequence[int] = ()
        for file in ("generation_config.json", "config.json"):
            try:
                ends = hf_json(self.workspace.folder(model) / file).get("eos_token_id")
            except (UsageError, AttributeError):
                continue
            found = token_ids([one for one in (ends if isinstance(ends, list) else [ends]) if one != -1])
            eos = eos or tuple(found or ())
        return replace(oracle, prompt_ids=golden.ids_special[name], eos_ids=oracle.eos_ids or tuple(eos))

    def _departed(self, model: Model, made_of: Mapping[str, str], deciding: Sequence[str]) -> str:
        """What speaks against an oracle's files being the model's: one that is another now, gone, or new.

        An oracle that does not say what it was made of (the original tool's) is taken as it is.

        Raises:
            UsageError: a file of the model cannot be read.
        """
        if model.slug not in self._sources:
            self._sources[model.slug] = folder_hashes(self.workspace.folder(model))
        then, now = (_deciding(files, deciding) for files in (made_of, self._sources[model.slug]))
        other = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if not made_of or not other:
            return ""
        folder = self.workspace.folder(model)
        return (
            f"was made from other files ({', '.join(other)}) than {folder} has: make it again with `trialbench oracle`"
        )

    def tokenizer(self, model: Model) -> TokenizerOracle | Trouble:
        """What the model's own tokenizer says."""
        if model.slug not in self._tokenizers:
            self._tokenizers[model.slug] = self._read_tokenizer(model)
        return self._tokenizers[model.slug]

    def _read_tokenizer(self, model: Model) -> TokenizerOracle | Trouble:
        path = tokenizer_path(self.roster.oracle, model.slug)
        try:
            found = read_tokenizer(path)
            other = self._departed(model, found.files, _TOKENIZING)
        except UsageError as error:
            return Trouble(TroubleKind.ABSENT, str(error))
        return Trouble(TroubleKind.ABSENT, f"{path}: {other}") if other else found

    def seen(self, model: Model, quant: str, *, kv_type: str = "f32") -> Seen:
        """Everything about one loaded file. The first call loads it; all others find it here."""
        key = (model.slug, quant, kv_type)
        if key not in self._seen:
            started = time.monotonic()
            self.loads += 1
            found = self._look(model, self.artifact(model, quant), kv_type)
            seconds = time.monotonic() - started
            self._seen[key] = Seen(**{**vars(found), "seconds": seconds})
            self._tell(f"{model.slug} {quant}: {'not loaded' if found.trouble else 'asked'} in {seconds:.1f} s")
        return self._seen[key]

    def _look(self, model: Model, artifact: Artifact, kv_type: str) -> Seen:
        can = self._can(artifact)
        with self.runtime.open(artifact, kv_type=kv_type) as loaded:
            if loaded.trouble is not None:
                return Seen(loaded.trouble)
            generations: dict[str, Generation] = {}
            scores: dict[str, Score] = {}
            for prompt in self.roster.prompts.prompts:
                oracle = self.oracle(model, prompt.name)
                if isinstance(oracle, Trouble):
                    generations[prompt.name] = loaded.generate(
                        Prompt(prompt.name, prompt.text), max_new_tokens=self.roster.max_new_tokens
                    )
                elif can(Capability.SCORE) and oracle.top is not None and oracle.prompt_ids is not None:
                    # The free continuation comes with the score. It may end earlier than asked for where the oracle
                    # is shorter than the limit: as many tokens as the oracle has are compared.
                    scores[prompt.name] = loaded.score(oracle.as_prompt, oracle.tokens, top=_TOP)
                    generations[prompt.name] = scores[prompt.name].generation
                else:
                    generations[prompt.name] = loaded.generate(oracle.as_prompt, max_new_tokens=oracle.max_new_tokens)
            tokens: dict[str, Answer] = {}
            special: dict[str, Answer] = {}
            chats: dict[str, Answer] = {}
            golden = self.tokenizer(model)
            if not isinstance(golden, Trouble):
                if can(Capability.TOKENIZE):
                    for name, text in golden.texts.items():
                        tokens[name] = loaded.tokenize(text, add_special=False)
                        special[name] = loaded.tokenize(text, add_special=True)
                if can(Capability.TEMPLATE):
                    for chat in self.roster.prompts.chats:
                        if chat.name in golden.chats:
                            chats[chat.name] = loaded.render(chat.messages)
            return Seen(None, generations, scores, tokens, special, chats)

    def _can(self, artifact: Artifact) -> Callable[[Capability], bool]:
        return lambda capability: self.runtime.declined(capability, artifact) is None

    def fidelity(self, model: Model, quant: str, prompt: str) -> Fidelity | None:
        """Teacher forcing along one oracle, where both sides have what it needs."""
        key = (model.slug, quant, prompt)
        if key not in self._fidelities:
            score, oracle = self.seen(model, quant).scores.get(prompt), self.oracle(model, prompt)
            usable = score is not None and score.positions is not None and not isinstance(oracle, Trouble)
            self._fidelities[key] = (
                fidelity(oracle, score.positions)  # type: ignore[arg-type,union-attr]  # `usable` says so
                if usable
                else None
            )
        return self._fidelities[key]

    def float_shifts(self, model: Model) -> list[float]:
        """How far leads move in the most exact file there is: what float arithmetic alone does."""
        names = model.wanted(self.runtime.identity.name)
        base = next((quant for quant in ("f16", "f32") if quant in names), None)
        if base is None:
            return []
        found = [self.fidelity(model, base, prompt.name) for prompt in self.roster.prompts.prompts]
        return [shift for one in found if one is not None for shift in one.shifts]

    def perplexity(self, model: Model, quant: str) -> Perplexity:
        """Over the roster's text, with KL divergence where the float32 file's logits can be had; or over a text of
        the runtime's own, where it takes no other.
        """
        key = (model.slug, quant)
        if key not in self._perplexities:
            text = self.roster.prompts.perplexity_text
            if self.runtime.declined(Capability.PERPLEXITY, self.artifact(model, quant)) is not None:
                self._perplexities[key] = own_perplexity(self.probe(Capability.EVAL, model, quant))
            elif text is None:
                why = Trouble(TroubleKind.ABSENT, f"{self.roster.path}: the prompts name no perplexity_text")
                self._perplexities[key] = Perplexity(None, trouble=why)
            else:
                self._perplexities[key] = self.runtime.perplexity(
                    self.artifact(model, quant),
                    text,
                    context=self.roster.perplexity_context,
                    reference=self._reference(model, text),
                )
        self.last_call = self._perplexities[key].call
        return self._perplexities[key]

    def _reference(self, model: Model, text: Path) -> Path | None:
        """The logits of the float32 file over the text. They are made if they are missing, belong to something else, or
        have no record, because a process was killed before it wrote one.
        """
        make = getattr(self.runtime, "reference_logits", None)
        base = self.workspace.artifact(model, self.runtime.identity.name, "f32")
        if make is None or not base.path.exists():
            return None
        target, context = self.workspace.reference(model, self.runtime.identity.name), self.roster.perplexity_context
        record = target.with_suffix(".json")
        wanted = {
            "file": self._digest_of(base.path),
            "text": self._digest_of(text),
            "context": context,
            "version": self.runtime.identity.version,
        }
        try:
            there = target.exists() and record.exists() and read_json(record) == wanted
        except UsageError:
            there = False
        if not there:
            record.unlink(missing_ok=True)
            if make(base, text, target, context=context) is not None:
                return None
            write_json(record, wanted)
        return target

    def probe(self, capability: Capability, model: Model, quant: str, other: str = "", **more: str) -> Answer:
        """A question about a file, or two."""
        key = (capability, model.slug, quant, other, tuple(sorted(more.items())))
        if key not in self._probes:
            second = self.artifact(model, other) if other else None
            self._probes[key] = self.runtime.probe(capability, self.artifact(model, quant), second, **more)
        self.last_call = self._probes[key].call
        return self._probes[key]

    def call_of(self, model: Model, quant: str, prompt: str) -> Call | None:
        """How a prompt's continuation was asked for, if it was."""
        seen = self._seen.get((model.slug, quant, "f32"))
        got = None if seen is None else seen.generations.get(prompt)
        return None if got is None else got.call


def own_perplexity(answer: Answer) -> Perplexity:
    """The perplexity in an answer to `Capability.EVAL`. Its bound is not ours: only the number and the count matter."""
    payload = answer.payload
    crashed = answer.trouble is not None and answer.trouble.kind in (TroubleKind.PANIC, TroubleKind.TIMEOUT)
    if not isinstance(payload, dict) or crashed:
        missing = Trouble(TroubleKind.MISSING_FIELD, "no perplexity in the answer")
        return Perplexity(None, call=answer.call, trouble=answer.trouble or missing)
    value, tokens = payload.get("perplexity"), payload.get("tokens_evaluated")
    trouble = None
    if answer.trouble is not None and payload.get("passed") is not False:
        trouble = answer.trouble
    elif value in (None, "") or tokens in (None, ""):
        empty = "perplexity" if value in (None, "") else "tokens_evaluated"
        trouble = Trouble(TroubleKind.EMPTY, f"{empty}: left empty")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 1.0 <= value < 1e300:
        trouble = Trouble(TroubleKind.UNREADABLE, f"perplexity: expected a number from 1 on, found {value!r:.40}")
    elif isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens < 10**12:
        trouble = Trouble(TroubleKind.UNREADABLE, f"tokens_evaluated: expected a count, found {tokens!r:.40}")
    if trouble is not None or value is None:
        return Perplexity(None, call=answer.call, trouble=trouble)
    return Perplexity(float(value), tokens=tokens, call=answer.call)


def _deciding(files: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Those files that decide; of the weights those that are loaded: one file of all tensors comes before shards."""
    found = {name: digest for name, digest in files.items() if any(fnmatch(name, one) for one in names)}
    whole = "model.safetensors" in found
    idle = {name for name in found if name.endswith(".safetensors") and (name != "model.safetensors") == whole}
    return {name: digest for name, digest in found.items() if name not in idle | {"consolidated.safetensors"}}


def prompts_of(roster: Roster) -> Sequence[str]:
    """Names of the prompts that are continued."""
    return [prompt.name for prompt in roster.prompts.prompts]
