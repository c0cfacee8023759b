"""apr (crate `apr-cli`): a command for each question, answered in JSON on standard output.

What it prints is untrusted and not always what its help says: color codes, progress before the JSON, a non-zero exit
after valid JSON, an exit of 0 for a failure. So the payload and the exit code are kept apart, the last JSON value that
has the agreed keys counts, and what is missing stays missing.

There is no server: each question starts the program (10 ms; the file is mapped, not read).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trialbench.ground_truth.runtimes import tools
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artifact,
    Call,
    Capability,
    Conversion,
    Generation,
    Identity,
    Perplexity,
    Prompt,
    Score,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.runtimes.json_words import find_json, is_whole, plain, speed, token_ids
from trialbench.ground_truth.runtimes.tools import RuntimeMissing

# The version whose behavior `_DECLINED` states; other versions are asked, too, and their results name the version.
KNOWN_VERSION = "0.72.3"
_NO_FORCING = "apr cannot be made to continue a given text: no teacher forcing"
_DECLINED = {
    Capability.PROMPT_IDS: "apr takes text only",
    Capability.TOKENIZE: "apr does not print the token ids of a text",
    Capability.TEMPLATE: "apr does not print what its chat template makes",
    Capability.SCORE: _NO_FORCING,
    Capability.KL: _NO_FORCING,
    Capability.KV_TYPE: "apr has no choice of the cache's precision",
    Capability.PERPLEXITY: "apr evaluates only its own text",
    Capability.QUANTIZE: "apr quantizes while it imports",
}
# Question -> words of the command line, and the keys an answer must have.
_COMMANDS: Mapping[Capability, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Capability.EVAL: (("eval", "{}", "--threshold", "50.0"), ("perplexity", "tokens_evaluated")),
    Capability.INSPECT: (("inspect", "{}"), ("architecture",)),
    Capability.VALIDATE: (("validate", "{}"), ("checks", "passed")),
    Capability.TENSORS: (("tensors", "{}"), ("tensors", "tensor_count")),
    Capability.LINT: (("lint", "{}"), ("passed", "error_count")),
    Capability.SELFTEST: (("check", "{}"), ("stages",)),
    Capability.TREE: (("tree", "{}"), ("name", "children")),
    Capability.ORACLE_ID: (("oracle", "{}"), ("format",)),
    Capability.HEX: (("hex", "{}", "--tensor", "{tensor}", "--stats"), ("name", "stats")),
    Capability.DEBUG: (("debug", "{}"), ("health",)),
    Capability.BENCH: (("bench", "{}", "--iterations", "1", "--warmup", "0"), ("tokens_per_second",)),
    Capability.QA: (("qa", "{}", "--skip-ollama", "--skip-gpu-speedup", "--skip-ptx-parity"), ("gates",)),
    Capability.LIST: (("list",), ("models", "total")),
    Capability.DIFF: (("diff", "{}", "{other}"), ("identical", "difference_count")),
    Capability.ROSETTA_DIFF: (("rosetta", "diff-tensors", "{}", "{other}"), ("layout_mismatches",)),
    Capability.PARITY_GPU: (("parity", "{}", "--assert"), ("passed",)),
}
_IMPORTS = {"int8": ("--quantize", "int8"), "int4": ("--quantize", "int4"), "f16": ("--quantize", "fp16"), "f32": ()}
# What an import or an export may call its end. "warnings" is what it says of every GGUF, for which it has no checks of
# its own ("0/0 checks that ran", exit 0): the file that was made is judged by the suites.
_DONE = ("ok", "success", "warnings")
# Refusals of what was asked, not of the file: nothing is said about the model.
_NO_SUCH_FILE = re.compile(r"\bFile not found: ")
_OUR_QUESTION = re.compile(
    r"already exists\. Use --force|Prompt cannot be empty|Operation '\w+' not supported|Cannot import from APR format"
    r"|Failed to run \w+: No such file|Invalid model file extension"
)
_RUN_KEYS = ("tokens", "text")
# Of any thread: the program itself may go on without it, print its answer and end with 0.
_CRASHED = re.compile(r"^thread '.*' (?:\(\d+\) )?panicked at ", re.MULTILINE)
_PANIC, _NO_FILE, _USAGE, _NOT_BUILT, _NETWORK = 101, 3, 2, 9, 10
_ASK_S, _RUN_S, _MAKE_S = 600.0, 600.0, 3600.0
_MOST_TOKENS = 1_000_000

Run = Callable[[Sequence[str], float], Call]


class Apr:
    """The adapter.

    Args:
        binary: the program; a name without a slash is looked for on the PATH.
        run: runs a command line; the default starts the process, the negative controls put themselves in between.
    """

    formats = frozenset({"apr", "gguf", "hf"})

    def __init__(self, binary: str = "apr", *, run: Run | None = None) -> None:
        self._binary = shutil.which(binary) or binary
        self._home: Path | None = None
        self._run = run or self._start

    def rewired(self, change: Callable[[Call], Call]) -> Apr:
        """The same program with what it prints and its exit codes changed, its version excepted."""

        def run(argv: Sequence[str], timeout_s: float) -> Call:
            call = self._run(argv, timeout_s)
            return call if "--version" in argv else change(call)

        return Apr(self._binary, run=run)

    @cached_property
    def identity(self) -> Identity:
        """Version as `apr --version` says.

        Raises:
            RuntimeMissing: it is not there, or is another program of that name.
        """
        call = self._run([self._binary, "--version"], 60.0)
        told = plain(call.stdout).strip()
        match = re.fullmatch(r"apr (\d+\.\d+\.\d+\S*)(?: \(([^()\s]+)\))?", told.splitlines()[0] if told else "")
        if call.exit_code != 0 or match is None:
            found = _first_line(told) or _last_words(call) or f"exit {call.exit_code}"
            raise RuntimeMissing(
                f"{self._binary} --version: expected 'apr VERSION (COMMIT)', found {found!r}: set APR_BINARY to the "
                "program of the crate apr-cli (`cargo install apr-cli --locked`); there are other programs named apr"
            )
        detail = {"from": self._binary}
        if match[1] != KNOWN_VERSION:
            detail["declared for"] = KNOWN_VERSION
        version = match[1] + (f" ({match[2]})" if match[2] else "")
        return Identity("apr", version, detail, {"APR_BINARY": self._binary})

    def declined(self, capability: Capability, artifact: Artifact | None = None) -> str | None:
        """See the contract."""
        if artifact is not None and artifact.format not in self.formats:
            return f"apr does not read {artifact.format}"
        return _DECLINED.get(capability)

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> AprModel:  # noqa: ARG002 (the contract's)
        """Nothing is held in memory between the questions; `kv_type` is apr's own."""
        return AprModel(artifact, self.ask)

    def ask(self, words: Sequence[str], keys: Sequence[str], timeout_s: float) -> Answer:
        """One command with `--json`: the payload that has `keys`, and what speaks against it."""
        # The same run every time: no color, no network, and no memory of earlier runs (`_start`).
        if not all(map(_sayable, words)):
            why = "no argument can hold a NUL, or half a character"
            return Answer(None, Call(tuple(words)), Trouble(TroubleKind.NOT_BUILT, why))
        call = self._run([self._binary, *words, "--json", "--offline"], timeout_s)
        payload, near = find_json(call.stdout, keys)
        trouble = _trouble(call)
        if trouble is not None and trouble.kind is TroubleKind.TIMEOUT:
            payload = None
        if payload is None and trouble is None:
            words = "" if call.stdout.strip() else _last_words(call)
            if words.startswith("error:"):
                trouble = Trouble(TroubleKind.REFUSED, f"{words} (and exit code 0)")
            elif near:
                trouble = Trouble(TroubleKind.MISSING_FIELD, f"expected {', '.join(keys)} in the answer: {near}")
            else:
                shown = _first_line(plain(call.stdout)) or "nothing"
                trouble = Trouble(TroubleKind.UNREADABLE, f"expected JSON with {', '.join(keys)}, found {shown!r}")
        return Answer(payload, call, trouble)

    def probe(self, capability: Capability, artifact: Artifact, other: Artifact | None = None, **more: Any) -> Answer:
        """Ask about a file, or two. PARITY_GPU asks about a GGUF, which is exported first where need be."""
        if capability not in _COMMANDS:
            return Answer(None, Call(), Trouble(TroubleKind.NOT_BUILT, self.declined(capability) or "no such command"))
        words, keys = _COMMANDS[capability]
        for one in (artifact, *(() if other is None else (other,))):
            if capability is not Capability.LIST and not one.path.exists():
                return Answer(None, Call(), _absent(one.path))
        if capability is Capability.PARITY_GPU and artifact.format != "gguf":
            with tempfile.TemporaryDirectory(prefix="trialbench-apr-") as folder:
                made = self.convert(Capability.EXPORT, artifact, Path(folder) / "parity.gguf", artifact.quant)
                if made.artifact is None:
                    why = made.trouble.text if made.trouble else "nothing was exported"
                    text = f"parity asks for a GGUF, and there is none: {why}"
                    return Answer(None, made.call, Trouble(TroubleKind.ABSENT, text))
                return self.probe(capability, made.artifact)
        put = {"{}": artifact.path, "{other}": other.path if other else "", "{tensor}": more.get("tensor", "")}
        return self.ask([str(put.get(word, word)) for word in words], keys, _ASK_S)

    def perplexity(self, *_file_and_text: Any, **_settings: Any) -> Perplexity:
        """Declined: apr has a text of its own, see `Capability.EVAL`."""
        return Perplexity(None, trouble=Trouble(TroubleKind.NOT_BUILT, _DECLINED[Capability.PERPLEXITY]))

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        """`apr import` of a folder or a GGUF, `apr export` to a GGUF."""
        if capability is Capability.EXPORT:
            target, ending, step = target.with_suffix(".gguf"), "gguf", "gguf exported"
            words = ["export", str(source.path), "--format", "gguf", "--force"]
        elif capability in (Capability.IMPORT_HF, Capability.IMPORT_GGUF):
            ending, step = "apr", f"apr {quant}"
            path = _weights(source.path)
            words = ["import", str(path)]
            if capability is Capability.IMPORT_HF:
                if quant not in _IMPORTS:
                    text = f"apr imports to {', '.join(_IMPORTS)}, not to {quant}"
                    return Conversion(None, Call(), Trouble(TroubleKind.NOT_BUILT, text))
                words += _IMPORTS[quant]
            if not path.exists():
                return Conversion(None, Call(), _absent(path))
        else:
            return Conversion(
                None, Call(), Trouble(TroubleKind.NOT_BUILT, _DECLINED.get(capability, "no such command"))
            )
        return self._make(words, source, target, (ending, step, quant))

    def _make(self, words: Sequence[str], source: Artifact, target: Path, about: tuple[str, str, str]) -> Conversion:
        from trialbench.ground_truth.model.weights import sha256

        ending, step, quant = about
        target.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own under its own name: apr puts the file's name into the file.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as folder:
            partial = Path(folder) / target.name
            answer = self.ask([*words, "-o", str(partial)], ("status",), _MAKE_S)
            trouble = answer.trouble
            status = answer.payload.get("status") if isinstance(answer.payload, dict) else None
            if trouble is None and status not in _DONE:
                trouble = Trouble(TroubleKind.REFUSED, f"status {status!r:.80}")
            if not partial.is_file() and (trouble is None or trouble.kind is TroubleKind.UNREADABLE):
                trouble = Trouble(TroubleKind.REFUSED, f"it reported success, but did not write {target.name}")
            # Older versions ignore --json here; the file they made is what counts.
            if trouble is not None and trouble.kind is not TroubleKind.UNREADABLE:
                return Conversion(None, answer.call, trouble)
            partial.replace(target)
        made = Artifact(target, source.model, ending, quant, sha256(target), (*(source.parents or ("hf",)), step))
        return Conversion(made, answer.call)

    def _start(self, argv: Sequence[str], timeout_s: float) -> Call:
        if self._home is None:
            # `apr qa` compares with the speed of an earlier run; our runs must not depend on each other.
            self._home = Path(tempfile.mkdtemp(prefix="trialbench-apr-home-"))
        places = {"HOME": str(self._home), "XDG_CACHE_HOME": str(self._home / ".cache")}
        return tools.call(argv, timeout_s, {**os.environ, **places, "NO_COLOR": "1"})

    def close(self) -> None:
        """Forget what the program wrote down about its runs."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None


class AprModel:
    """Questions about one file. A context manager for the contract's sake: nothing is started."""

    def __init__(self, artifact: Artifact, ask: Callable[[Sequence[str], Sequence[str], float], Answer]) -> None:
        self._artifact, self._ask = artifact, ask

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    @property
    def trouble(self) -> Trouble | None:
        """A file that is not there; whether it can be read shows with the first prompt."""
        return None if self._artifact.path.exists() else _absent(self._artifact.path)

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:  # noqa: ARG002 (never given)
        """Continue the prompt's text greedily, on the CPU."""
        if not prompt.text:
            trouble = Trouble(TroubleKind.NOT_BUILT, "apr does not continue an empty prompt")
            return Generation(None, None, trouble=trouble)
        # Attached, since a text that begins with a dash would be taken for an option.
        text = ["-p", prompt.text] if not prompt.text.startswith("-") else [f"-p{prompt.text}"]
        words = ["run", str(_weights(self._artifact.path)), *text, "-n", str(max_new_tokens)]
        return _generation(self._ask([*words, "--temperature", "0", "--top-k", "1", "--no-gpu"], _RUN_KEYS, _RUN_S))

    def score(self, *_prompt_and_forced: Any, **_settings: Any) -> Score:
        """Declined."""
        trouble = Trouble(TroubleKind.NOT_BUILT, _NO_FORCING)
        return Score(None, Generation(None, None, trouble=trouble), trouble=trouble)

    def tokenize(self, *_text: Any, **_settings: Any) -> Answer:
        """Declined."""
        return Answer(None, Call(), Trouble(TroubleKind.NOT_BUILT, _DECLINED[Capability.TOKENIZE]))

    def render(self, *_messages: Any) -> Answer:
        """Declined."""
        return Answer(None, Call(), Trouble(TroubleKind.NOT_BUILT, _DECLINED[Capability.TEMPLATE]))


def _generation(answer: Answer) -> Generation:
    payload, trouble = answer.payload, answer.trouble
    if not isinstance(payload, dict):
        return Generation(None, None, call=answer.call, trouble=trouble)
    tokens, text, count = payload["tokens"], payload["text"], payload.get("tokens_generated")
    if trouble is None:
        trouble = _contradiction(payload, tokens, text, count)
    if trouble is not None:
        return Generation(None, None, call=answer.call, trouble=trouble)
    reason = payload.get("finish_reason")
    return Generation(
        tokens=tuple(tokens) or None,
        text=text,
        prompt_tokens=number if is_whole(number := payload.get("prompt_tokens")) else None,
        finish_reason=reason if isinstance(reason, str) else None,
        call=answer.call,
        tokens_per_s=speed(payload.get("tok_per_sec")),
    )


def _contradiction(payload: Mapping[str, Any], tokens: Any, text: Any, count: Any) -> Trouble | None:
    """What in the answer itself speaks against it."""
    error = payload.get("error") or payload.get("refusal")
    if error or payload.get("status", "ok") != "ok":
        return Trouble(TroubleKind.REFUSED, str(error or f"status {payload.get('status')!r:.80}")[:500])
    if not isinstance(tokens, list) or not isinstance(text, str) or len(tokens) > _MOST_TOKENS:
        return Trouble(TroubleKind.UNREADABLE, "tokens: expected a list of ids, text: expected a string")
    if token_ids(tokens) is None:
        return Trouble(TroubleKind.UNREADABLE, "tokens: expected whole numbers from 0 on")
    if "tokens_generated" in payload and (isinstance(count, bool) or count != len(tokens)):
        return Trouble(TroubleKind.UNREADABLE, f"tokens_generated says {count!r:.40}, and there are {len(tokens)}")
    return None


def _sayable(word: str) -> bool:
    """Whether a command line can hold it: a prompt from a third-party oracle may contain any bytes."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _weights(path: Path) -> Path:
    """What is asked about in a Hugging Face folder: its one file; the folder itself where there are several."""
    one = path / "model.safetensors"
    return one if path.is_dir() and (one.exists() or not any(path.glob("*.safetensors"))) else path


def _absent(path: Path) -> Trouble:
    return Trouble(TroubleKind.ABSENT, f"no such file, make it with `trialbench convert --runtime apr`: {path}")


def _trouble(call: Call) -> Trouble | None:
    """What the exit code says, in the program's own words."""
    code = call.exit_code
    if code is None:
        return Trouble(TroubleKind.TIMEOUT, f"no end after {call.seconds:.0f} s")
    if code == _PANIC or code < 0 or code >= 128 or _CRASHED.search(plain(call.stderr)):
        return Trouble(TroubleKind.PANIC, _panic_words(call) or f"it crashed (exit {code})")
    if code == 0:
        return None
    words = _last_words(call) or f"exit {code} without output"
    if code not in (_NO_FILE, _NETWORK) and _NO_SUCH_FILE.search(words):
        return Trouble(TroubleKind.ABSENT, words)
    if _OUR_QUESTION.search(words):
        return Trouble(TroubleKind.NOT_BUILT, words)
    kind = {
        _NO_FILE: TroubleKind.ABSENT,
        _USAGE: TroubleKind.NOT_BUILT,
        _NOT_BUILT: TroubleKind.NOT_BUILT,
        _NETWORK: TroubleKind.ABSENT,
        127: TroubleKind.ABSENT,
    }.get(code, TroubleKind.REFUSED)
    return Trouble(kind, words)


def _panic_words(call: Call) -> str:
    lines = plain(call.stderr).splitlines()
    at = next((number for number, line in enumerate(lines) if _CRASHED.match(line)), None)
    if at is None:
        return _last_words(call)
    # `thread 'main' (4711) panicked at file.rs:1:2:` and the message below it; the number is another every time.
    where = re.sub(r" \(\d+\)", "", lines[at]).rstrip(":")
    return ": ".join([where, *(line.strip() for line in lines[at + 1 : at + 2])])[:500]


def _last_words(call: Call) -> str:
    lines = [line.strip() for line in plain(call.stderr or call.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1][:500]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:120]
