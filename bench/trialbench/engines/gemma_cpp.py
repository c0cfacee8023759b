"""gemma.cpp: its `gemma` binary, one isolated process per generation.

gemma.cpp's server is not used: it binds to every address without authentication, a disconnect does not stop it, and one
prompt that is too long ends it. The binary has no timeout, no seed and no version. It ignores unknown flags, and takes
a prompt that equals a flag's name for that flag. So prompts are passed in a file that only this user can read, and a
binary is accepted by its absolute path, its SHA-256 and its `--help`: Debian has a genomics tool called `gemma`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialbench.engines.contract import (
    Capability,
    Deadlines,
    FinishReason,
    Generation,
    Label,
    Probe,
    Refused,
    Request,
    Usage,
    require,
)
from trialbench.engines.failures import BAD_ARGUMENTS, BAD_WEIGHTS, MISSING_BINARY, SERVER_ERROR, UNSUPPORTED, Failure
from trialbench.engines.hashing import Hashes, Identity, check_file, identity_of
from trialbench.engines.process import BrokenGeneration, ProcessGeneration, Told, classify
from trialbench.engines.prompts import prompt_text
from trialbench.engines.supervisor import Command, SpawnError, Supervisor

# Bits per weight of gemma.cpp's formats; the format of an .sbs file is declared, never guessed.
WEIGHT_FORMATS: Mapping[str, int] = {"f32": 32, "bf16": 16, "sfp": 8, "i8": 8, "nuq": 4}
_PREFILL = re.compile(r"Prefill: (\d+) ms for (\d+) prompt tokens")
_FIRST = re.compile(r"Time to first token: (\d+) ms")
_GENERATE = re.compile(r"Generate: (\d+) ms for (\d+) tokens")
# Its warning if prompt and reply don't fit: the real size of the prompt, and the context as capped by the model.
_TRUNCATED = re.compile(r"prefill (\d+) \+ max_gen_steps \d+ > seq_len (\d+), truncating")
# With --verbosity 1: a dot for each token of the prompt, a blank line, the reply, a blank line.
_PREFIX = re.compile(r"\A\.*\n\n")
_END = "\n\n"
_HELP_LIMIT_S = 10.0
_CPU_FLAGS = frozenset({"avx2", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd"})
_TRISTATE = {"auto": -1, "off": 0, "on": 1}


@dataclass(frozen=True)
class GemmaOptions:
    """The binary, its files, and its defaults; a request's own values take precedence.

    Args:
        weight_format: `f32`, `bf16`, `sfp`, `i8` or `nuq`; gives the bits. None: unknown.
        pin, map: `auto`, `on` or `off`: threads on cores, weights as file mapping.
        num_threads: 0: the binary decides.
        scratch: where the prompt file is stored during a generation; default: the system's temporary folder.
    """

    binary: Path
    weights: Path
    tokenizer: Path | None = None
    binary_sha256: str | None = None
    weights_sha256: str | None = None
    tokenizer_sha256: str | None = None
    model: str | None = None
    weight_format: str | None = None
    max_tokens: int = 512
    temperature: float | None = None
    top_k: int | None = None
    deterministic: bool = False
    num_threads: int = 0
    seq_len: int = 8192
    pin: str = "auto"
    map: str = "auto"
    scratch: Path | None = None

    @property
    def bits(self) -> int | None:
        """Bits per weight as declared by `weight_format`; None when nothing was declared (never guessed)."""
        return None if self.weight_format is None else WEIGHT_FORMATS[self.weight_format]

    def __post_init__(self) -> None:
        if self.weight_format is not None and self.weight_format not in WEIGHT_FORMATS:
            raise Refused(
                Failure(
                    BAD_ARGUMENTS,
                    f"weight_format: expected one of {', '.join(WEIGHT_FORMATS)}, found {self.weight_format!r}",
                )
            )
        for name, low, high in (("num_threads", 0, 4096), ("seq_len", 1, 1 << 20)):
            # The binary treats -1 threads as very many, and a context of 0 as a prompt that is too long.
            if not low <= getattr(self, name) <= high:
                raise Refused(Failure(BAD_ARGUMENTS, f"{name}: expected {low} to {high}, found {getattr(self, name)}"))
        for name in ("pin", "map"):
            if getattr(self, name) not in _TRISTATE:
                raise Refused(
                    Failure(BAD_ARGUMENTS, f"{name}: expected auto, on or off, found {getattr(self, name)!r}")
                )


class GemmaText:
    """Extracts the reply from the binary's output: dots of the prefill before it, a blank line after it."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> str:
        """The text that certainly belongs to the reply; holds back line ends that may be the last ones."""
        text, self._held = self._held + text, ""
        if not self._begun:
            prefix = _PREFIX.match(text)
            if prefix is None and not text.strip(".\n"):
                # Only dots and line ends so far: the reply has not begun.
                self._held = text
                return ""
            self._begun = True
            text = text[prefix.end() :] if prefix else text
        kept = text.rstrip("\n")
        # The last two line ends are the binary's own; any before them are the model's.
        keep = len(text) - min(len(text) - len(kept), len(_END))
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """The text held back, without the blank line at the end."""
        rest, self._held = self._held, ""
        if not self._begun:
            # Dots without the blank line after them belong to the prefill: it ended before its first token.
            prefix = _PREFIX.match(rest)
            rest = rest[prefix.end() :] if prefix else ""
        return rest.removesuffix(_END)


class GemmaCpp:
    """The engine `gemma_local`. Concurrent generations are separate processes, each with its own copy of the weights.

    Args:
        supervisor: a shared one, or None for its own, which `close` closes.
    """

    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, options: GemmaOptions, supervisor: Supervisor | None = None) -> None:
        self.options = options
        self.label = Label("gemma_local", options.model, options.bits)
        self.owns_supervisor = supervisor is None
        self.supervisor = supervisor or Supervisor()
        self._hashes = Hashes()
        # The version of the binary whose --help was checked, and the result: None, or that it is another program.
        self._seen: tuple[Identity, Failure | None] | None = None

    def probe(self, *, hashes: bool = True) -> Probe:
        """Files, hashes, and whether the binary's `--help` is gemma.cpp's."""
        failure = self._files(hash_them=hashes) or self._accept(again=True)
        options = self.options
        return Probe(
            usable=failure is None,
            label=self.label,
            failure=failure,
            capabilities=self.capabilities,
            hashes=self._sums() if hashes else {},
            facts={
                "engine": "gemma.cpp",
                "binary": str(options.binary),
                "weights": str(options.weights),
                "weight_format": options.weight_format,
                "num_threads": options.num_threads or os.cpu_count(),
                "seq_len": options.seq_len,
                "pin": options.pin,
                "map": options.map,
                "cpu": cpu_features(),
            },
        )

    def healthy(self) -> Failure | None:
        """Whether the files still exist and are not already known to be wrong."""
        return self._files(hash_them=False) or self._accept(ask=False)

    def start(self, request: Request) -> Generation:
        """Begin; before the first use, and after a file changed, hashes the weights and checks the binary's `--help`.

        Raises:
            Refused: constrained decoding, token ids, a seed, an image, or no prompt.
        """
        require(self, request)
        text = prompt_text(request)
        if request.extra:
            raise Refused(Failure(UNSUPPORTED, f"gemma_local takes no further fields, found {sorted(request.extra)}"))
        if request.top_k == 0 and request.temperature != 0:
            raise Refused(Failure(BAD_ARGUMENTS, "top_k: gemma_local takes 1 or more, found 0"))
        if "\0" in text:
            raise Refused(Failure(BAD_ARGUMENTS, "prompt: expected a text without NUL characters"))
        failure = self._files(hash_them=True) or self._accept()
        if failure is not None:
            return BrokenGeneration(self.label, failure)
        scratch = None
        try:
            scratch = Path(tempfile.mkdtemp(prefix="trialbench-gemma-", dir=self.options.scratch))
            prompt = scratch / "prompt"
            descriptor = os.open(prompt, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                # An unpaired surrogate is not valid text; the model gets U+FFFD, like any reader of the file.
                stream.write(text.encode("utf-8", "replace"))
        except OSError as error:
            # No space, or no temporary folder: the part of the prompt that was written is removed.
            self.supervisor.sweep_up(scratch)
            return BrokenGeneration(self.label, Failure(SERVER_ERROR, f"the prompt's file: {error.strerror}"))
        command = Command(self._arguments(request, prompt), _environment(), scratch=scratch)
        try:
            running = self.supervisor.spawn(command, request.deadlines, GemmaText())
        except SpawnError as error:
            return BrokenGeneration(self.label, Failure(MISSING_BINARY, str(error)))
        limit = self._limit(request)
        ignored = [name for name in ("top_p", "repeat_penalty") if getattr(request, name) is not None]
        return ProcessGeneration(
            self.label,
            running,
            request.deadlines,
            lambda errors, chunks: _told(errors, chunks, limit, self.options.seq_len),
            {"ignored": ignored} if ignored else {},
        )

    def close(self) -> None:
        """End running generations, if the supervisor is ours."""
        if self.owns_supervisor:
            self.supervisor.close()

    def _limit(self, request: Request) -> int:
        return request.max_tokens if request.max_tokens is not None else self.options.max_tokens

    def _arguments(self, request: Request, prompt: Path) -> list[str]:
        options = self.options
        temperature = request.temperature if request.temperature is not None else options.temperature
        top_k = request.top_k if request.top_k is not None else options.top_k
        if temperature == 0:
            # The binary would divide by it; greedy choice is top_k 1.
            temperature, top_k = None, 1
        deterministic = request.deterministic if request.deterministic is not None else options.deterministic
        given: list[tuple[str, object]] = [
            ("--weights", options.weights),
            ("--tokenizer", options.tokenizer),
            ("--prompt_file", prompt),
            ("--max_generated_tokens", self._limit(request)),
            ("--seq_len", options.seq_len),
            ("--temperature", temperature),
            ("--top_k", top_k),
            ("--deterministic", int(deterministic)),
            ("--num_threads", options.num_threads or None),
            ("--pin", None if options.pin == "auto" else _TRISTATE[options.pin]),
            ("--map", None if options.map == "auto" else _TRISTATE[options.map]),
            ("--multiturn", 0),
            # Timing on standard error; a blank line separates the dots that come with it from the reply.
            ("--verbosity", 1),
        ]
        return [str(options.binary), *(str(part) for pair in given if pair[1] is not None for part in pair)]

    def _files(self, *, hash_them: bool) -> Failure | None:
        options = self.options
        failure = check_file(
            options.binary, "binary", expected=options.binary_sha256, hashes=self._hashes, read=hash_them, binary=True
        ) or check_file(
            options.weights, "weights", expected=options.weights_sha256, hashes=self._hashes, read=hash_them
        )
        if failure is None and options.tokenizer is not None:
            failure = check_file(
                options.tokenizer, "tokenizer", expected=options.tokenizer_sha256, hashes=self._hashes, read=hash_them
            )
        return failure

    def _sums(self) -> dict[str, str]:
        sums = {}
        for name in ("binary", "weights", "tokenizer"):
            path: Path | None = getattr(self.options, name)
            if path is not None:
                try:
                    sums[name] = self._hashes.sha256(path)
                except OSError:
                    continue  # `failure` says so
        return sums

    def _accept(self, *, again: bool = False, ask: bool = True) -> Failure | None:
        """None if the binary is gemma.cpp's; checked once for each version of the file.

        Any other program would get the prompt, and its output would be taken for the reply.

        Args:
            again: check it even if the result is known.
            ask: False: an unknown binary counts as good.
        """
        try:
            found = identity_of(self.options.binary.stat())
        except OSError as error:
            return Failure(MISSING_BINARY, f"binary: {self.options.binary}: {error.strerror}")
        if self._seen is not None and self._seen[0] == found and not again:
            return self._seen[1]
        if not ask:
            return None
        failure, certain = self._ask_help()
        if certain:
            self._seen = (found, failure)
        return failure

    def _ask_help(self) -> tuple[Failure | None, bool]:
        """None if `--help` is gemma.cpp's, else the failure; and whether the result is final."""
        deadlines = Deadlines(total_s=_HELP_LIMIT_S)
        try:
            running = self.supervisor.spawn(Command([str(self.options.binary), "--help"], _environment()), deadlines)
        except SpawnError as error:
            return Failure(MISSING_BINARY, str(error)), False
        shown = "".join(text for text, _ in running.chunks())
        ending = running.ending
        assert ending is not None
        shown += ending.errors
        if "--weights" in shown:
            return None, True
        failure = classify(ending, shown, deadlines)
        if failure is not None and failure.failure_class is not BAD_WEIGHTS:
            return failure, False
        detail = f"{self.options.binary}: its --help does not name --weights: this is not gemma.cpp's binary"
        return Failure(MISSING_BINARY, detail), True


def cpu_features() -> list[str]:
    """The SIMD features of this CPU that gemma.cpp has code for."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # pragma: no cover - no /proc
        return []
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return sorted(_CPU_FLAGS & set(flags[1].split())) if flags else []


def _environment() -> dict[str, str]:
    """A minimal environment: no key, no proxy, no preloaded library. LC_ALL fixes the number format."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def _told(errors: str, chunks: int, limit: int, seq_len: int) -> Told:
    """Reads the timing lines. The binary does not report why it stopped, so the token count decides.

    The count includes the token that ends a reply, but not the one that ends the prompt.
    """
    prefill, first, generate = _PREFILL.search(errors), _FIRST.search(errors), _GENERATE.search(errors)
    usage = Usage(
        chunks=chunks,
        prompt_tokens=int(prefill[2]) if prefill else None,
        completion_tokens=int(generate[2]) if generate else None,
        prompt_ms=float(prefill[1]) if prefill else None,
        predicted_ms=float(generate[1]) if generate else None,
    )
    finish: FinishReason = "unknown"
    if usage.completion_tokens is not None:
        if truncated := _TRUNCATED.search(errors):
            limit = min(limit, int(truncated[2]) - int(truncated[1]))
        full = usage.completion_tokens >= limit or usage.completion_tokens + (usage.prompt_tokens or 0) + 1 >= seq_len
        finish = "length" if full else "stop"
    facts: dict[str, Any] = {"engine_ttft_ms": float(first[1])} if first else {}
    return Told(finish, usage, facts)
