"""llama.cpp: `llama-server` for a loaded model, `llama-perplexity`, `llama-quantize`, and the GGUF itself.

The server runs one request at a time on fixed settings (one slot, no flash attention, float32 cache, no fitting, no
prompt cache), so that the same file always gives the same tokens.
"""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trialbench.engines.llama.wire import WireError, fetch
from trialbench.errors import TrialbenchError
from trialbench.ground_truth.runtimes.base import (
    Answer,
    Artifact,
    Call,
    Candidate,
    Capability,
    Conversion,
    Generation,
    Identity,
    Perplexity,
    Position,
    Prompt,
    Score,
    Trouble,
    TroubleKind,
)
from trialbench.ground_truth.runtimes.json_words import number, sound, speed, token_ids
from trialbench.ground_truth.runtimes.tools import Process, RuntimeMissing, Tools

PROGRAMS = ("llama-server", "llama-quantize", "llama-perplexity")
_NO_COMMAND = "llama.cpp has no such command"
_DECLINED = {
    Capability.EVAL: "llama.cpp brings no text of its own: see ppl over ours",
    Capability.LINT: _NO_COMMAND,
    Capability.SELFTEST: _NO_COMMAND,
    Capability.TREE: _NO_COMMAND,
    Capability.ORACLE_ID: _NO_COMMAND,
    Capability.DEBUG: _NO_COMMAND,
    Capability.QA: _NO_COMMAND,
    Capability.LIST: _NO_COMMAND,
    Capability.PARITY_GPU: _NO_COMMAND,
    Capability.BENCH: "llama.cpp's speed is taken from the generations themselves",
    Capability.IMPORT_GGUF: "GGUF is llama.cpp's own format",
}
_FLOATS = ("f32", "f16")
_LOAD_S, _REQUEST_S, _TOOL_S = 120.0, 300.0, 3600.0
_MAX_REPLY = 256_000_000
# A softmax of float32 numbers comes nowhere near.
_LEAST_LOGPROB = -1e6
# llama-perplexity prints from a thread that its own end does not wait for: on a busy machine the last lines go missing.
_ATTEMPTS = 6
# Tokens of context that the server allots.
_CONTEXT = 512
_HOST = "127.0.0.1"


class LlamaCpp:
    """The adapter.

    Args:
        tools: where the programs are.
        threads: for the server and the tools; results do not depend on it, times do.
    """

    def __init__(self, tools: Tools, *, threads: int = 1) -> None:
        self._tools, self._threads = tools, threads

    formats = frozenset({"gguf"})

    @cached_property
    def identity(self) -> Identity:
        """Version as `llama-server --version` says.

        Raises:
            RuntimeMissing: the programs are not there.
        """
        missing = [program for program in PROGRAMS if not self._tools.has(program)]
        if missing:
            raise RuntimeMissing(
                f"llama.cpp: expected {', '.join(PROGRAMS)} in {self._tools.place}, found no {', '.join(missing)}: "
                "set LLAMA_CPP_BIN to a folder that has them, or LLAMA_CPP_IMAGE to an image (images/oracle/build.py)"
            )
        told = self._tools.run("llama-server", "--version", timeout_s=60)
        text = told.stdout + told.stderr
        version = re.search(r"^version: (.+)$", text, re.MULTILINE)
        if version is None:
            raise RuntimeMissing(f"llama-server --version: expected a line 'version: ...', found {text[:200]!r}")
        built = re.search(r"^built with (.+)$", text, re.MULTILINE)
        return Identity(
            "llama.cpp",
            version[1].strip(),
            {"from": self._tools.place, **({"built with": built[1].strip()} if built else {})},
            self._tools.environment,
        )

    def declined(self, capability: Capability, artifact: Artifact | None = None) -> str | None:
        """See the contract."""
        if artifact is not None and artifact.format not in self.formats and capability is not Capability.IMPORT_HF:
            return f"llama.cpp does not read {artifact.format}"
        return _DECLINED.get(capability)

    def open(self, artifact: Artifact, *, kv_type: str = "f32") -> ServedModel:
        """Start a server; `kv_type` is that of the key/value cache (`f32`, `f16`, `q8_0`)."""
        return ServedModel(self._tools, artifact, threads=self._threads, context=_CONTEXT, kv_type=kv_type)

    def probe(self, capability: Capability, artifact: Artifact, other: Artifact | None = None, **more: Any) -> Answer:
        """Ask about a file. The answers have the keys that `apr` gives, so that one suite reads both."""
        from trialbench.ground_truth.runtimes import gguf_file

        why = self.declined(capability, artifact)
        if why is not None:
            return Answer(None, Call(), Trouble(TroubleKind.NOT_BUILT, why))
        started = time.monotonic()
        try:
            payload = gguf_file.answer(capability, artifact.path, None if other is None else other.path, **more)
            trouble = None
        except TrialbenchError as error:
            payload = None
            kind = TroubleKind.REFUSED if artifact.path.exists() else TroubleKind.ABSENT
            trouble = Trouble(kind, str(error))
        argv = ("gguf", capability.value, str(artifact.path), *(() if other is None else (str(other.path),)))
        return Answer(payload, Call(argv, seconds=time.monotonic() - started), trouble)

    def perplexity(self, artifact: Artifact, text: Path, *, context: int, reference: Path | None = None) -> Perplexity:
        """Run llama-perplexity. Its exit code is 0 even when it failed: only its words count."""
        more = () if reference is None else ("--kl-divergence-base", str(reference), "--kl-divergence")
        return parse_perplexity(self._perplexity(artifact, text, context, more), kl=reference is not None)

    def reference_logits(self, artifact: Artifact, text: Path, target: Path, *, context: int) -> Trouble | None:
        """Write llama-perplexity's logits file for `perplexity(..., reference=target)`; None when it worked."""
        target.unlink(missing_ok=True)
        call = self._perplexity(artifact, text, context, ("--kl-divergence-base", str(target)))
        trouble = parse_perplexity(call, kl=False).trouble
        if trouble is None and not target.exists():
            trouble = Trouble(TroubleKind.REFUSED, f"llama-perplexity wrote no {target.name}")
        return trouble

    def _perplexity(self, artifact: Artifact, text: Path, context: int, more: Sequence[str]) -> Call:
        for _ in range(_ATTEMPTS):
            call = self._run_perplexity(artifact, text, context, more)
            if not _is_cut(call):
                break
        return call

    def _run_perplexity(self, artifact: Artifact, text: Path, context: int, more: Sequence[str]) -> Call:
        return self._tools.run(
            "llama-perplexity",
            *("--model", str(artifact.path), "--file", str(text), "--ctx-size", str(context)),
            *("--batch-size", "512", "--threads", str(self._threads), "-fit", "off", "--flash-attn", "off"),
            *more,
            timeout_s=_TOOL_S,
        )

    def convert(self, capability: Capability, source: Artifact, target: Path, quant: str) -> Conversion:
        """Hugging Face folder -> GGUF (our converter), float GGUF -> quantized (llama-quantize), GGUF -> folder."""
        why = self.declined(capability, source)
        if why is not None:
            return Conversion(None, Call(), Trouble(TroubleKind.NOT_BUILT, why))
        if capability is Capability.QUANTIZE:
            return self._quantize(source, target, quant)
        from trialbench.ground_truth.model import convert
        from trialbench.ground_truth.model.weights import sha256

        started = time.monotonic()
        call = Call(("trialbench", "convert", str(source.path), str(target)))
        notes: tuple[str, ...] = ()
        try:
            if capability is Capability.IMPORT_HF:
                notes = convert.to_gguf(source.path, target, quant, name=source.model)
                artifact = Artifact(target, source.model, "gguf", quant, sha256(target), _step(source, f"gguf {quant}"))
            else:
                convert.to_hf(source.path, target)
                artifact = Artifact(target, source.model, "hf", "f32", "", _step(source, "hf"))
        except TrialbenchError as error:
            return Conversion(None, call, Trouble(TroubleKind.REFUSED, str(error)))
        return Conversion(artifact, Call(call.argv, 0, seconds=time.monotonic() - started), notes=notes)

    def _quantize(self, source: Artifact, target: Path, quant: str) -> Conversion:
        from trialbench.ground_truth.model.weights import sha256

        partial = target.with_name(f".{target.name}.part")
        kind = quant.upper() if quant in _FLOATS else quant
        call = self._tools.run(
            "llama-quantize", str(source.path), str(partial), kind, str(self._threads), timeout_s=_TOOL_S
        )
        if call.exit_code != 0 or not partial.exists():
            partial.unlink(missing_ok=True)
            return Conversion(None, call, Trouble(_kind(call), _last_words(call) or "llama-quantize wrote nothing"))
        partial.replace(target)
        artifact = Artifact(target, source.model, "gguf", quant, sha256(target), _step(source, f"gguf {quant}"))
        return Conversion(artifact, call)

    def close(self) -> None:
        """Let the tools go."""
        self._tools.close()


def _step(source: Artifact, name: str) -> tuple[str, ...]:
    return (*(source.parents or ("hf",)), name)


def _kind(call: Call) -> TroubleKind:
    if call.exit_code is None:
        return TroubleKind.TIMEOUT
    # Ended by a signal: below zero here, 128 and more through a container.
    return TroubleKind.PANIC if call.exit_code < 0 or call.exit_code >= 128 else TroubleKind.REFUSED


def _last_words(call: Call) -> str:
    lines = [line for line in (call.stdout + "\n" + call.stderr).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"error|fail|invalid|abort", line, re.IGNORECASE)]
    return (telling or lines or [""])[-1].strip()[:500]


def _is_cut(call: Call) -> bool:
    """It ran, said nothing of a failure, and ended without its last lines: worth asking again."""
    text = call.stdout + "\n" + call.stderr
    ended = _ESTIMATE.search(text) or re.search(r"^Same top p *:", text, re.MULTILINE)
    failed = re.search(r"error|fail|invalid|abort", text, re.IGNORECASE)
    return call.exit_code == 0 and _CHUNKS.search(text) is not None and not ended and not failed


_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
_ESTIMATE = re.compile(rf"Final estimate: PPL = {_NUMBER} \+/- {_NUMBER}")
_CHUNKS = re.compile(r"over ([0-9]{1,9}) chunks, n_ctx=([0-9]{1,9})\b")


def parse_perplexity(call: Call, *, kl: bool) -> Perplexity:
    """Read the output of llama-perplexity; a number that is missing, not finite or impossible is trouble."""
    text = call.stdout + "\n" + call.stderr
    chunks = _CHUNKS.findall(text)
    tokens = None
    if chunks:
        count, context = (int(number) for number in chunks[-1])
        # The first half of each chunk is context only, and its last token has no successor.
        tokens = count * (context - context // 2 - 1)
    if kl:
        value, uncertainty = _pair(r"Mean PPL\(Q\)", text)
        mean, spread = _pair(r"Mean +KLD", text)
        worst, _ = _pair(r"Maximum KLD", text)
        same, _ = _pair(r"Same top p", text)
        found = [value, mean, worst, same]
    else:
        match = _ESTIMATE.search(text)
        value, uncertainty = (float(match[1]), float(match[2])) if match else (None, None)
        mean = spread = worst = same = None
        found = [value]
    trouble = None
    # It ends with 0 even when it failed; whatever it ends with otherwise speaks against what it printed before.
    failed = call.exit_code != 0 or any(one is None or not math.isfinite(one) for one in found)
    if failed or (value is not None and value < 1.0):
        kind = _kind(call) if call.exit_code != 0 else TroubleKind.REFUSED
        trouble = Trouble(kind, _last_words(call) or "llama-perplexity printed no result")
    return Perplexity(
        value=_finite(value),
        uncertainty=_finite(uncertainty),
        tokens=tokens,
        kl_mean=_finite(mean),
        kl_uncertainty=_finite(spread),
        kl_max=_finite(worst),
        same_top=None if same is None or not math.isfinite(same) else same / 100,
        call=call,
        trouble=trouble,
    )


def _pair(name: str, text: str) -> tuple[float | None, float | None]:
    match = re.search(rf"^{name} *: *{_NUMBER}(?: *± *{_NUMBER})?", text, re.MULTILINE)
    if match is None:
        return None, None
    return float(match[1]), None if match[2] is None else float(match[2])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class ServedModel:
    """A model held by a llama-server of its own on the loopback. Entering starts it, leaving ends it."""

    def __init__(self, tools: Tools, artifact: Artifact, *, threads: int, context: int, kv_type: str) -> None:
        self._tools, self._artifact = tools, artifact
        self._settings = (threads, context, kv_type)
        self._process: Process | None = None
        self._port = 0
        self._argv: tuple[str, ...] = ()
        self.trouble: Trouble | None = None

    def __enter__(self) -> Self:
        if not self._artifact.path.exists():
            self.trouble = Trouble(
                TroubleKind.ABSENT, f"no such file, make it with `trialbench convert`: {self._artifact.path}"
            )
            return self
        for _ in range(3):
            self._start()
            self.trouble = self._wait()
            # Another process may take the port between choosing and using it.
            if self.trouble is None or "bind" not in self.trouble.text:
                break
            self._end()
        if self.trouble is not None:
            self._end()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _start(self) -> None:
        threads, context, kv_type = self._settings
        with socket.create_server((_HOST, 0)) as listener:
            self._port = listener.getsockname()[1]
        # A quantized value cache exists with flash attention only.
        flash = "off" if kv_type in _FLOATS else "on"
        self._argv = (
            *("--model", str(self._artifact.path), "--host", _HOST, "--port", str(self._port)),
            *("--ctx-size", str(context), "--parallel", "1", "--threads", str(threads)),
            *("--batch-size", "512", "--ubatch-size", "512", "--n-gpu-layers", "0", "-fit", "off"),
            *("--flash-attn", flash, "--cache-type-k", kv_type, "--cache-type-v", kv_type),
            *("--jinja", "--no-warmup"),
        )
        self._process = self._tools.start("llama-server", *self._argv)

    def _wait(self) -> Trouble | None:
        assert self._process is not None
        deadline = time.monotonic() + _LOAD_S
        while time.monotonic() < deadline:
            code = self._process.exit_code()
            if code is not None:
                words = _last_words(Call(stdout=self._process.output()))
                kind = TroubleKind.PANIC if code < 0 or code >= 128 else TroubleKind.REFUSED
                return Trouble(kind, f"llama-server ended with {code} while loading: {words}")
            try:
                status, _ = self._http("GET", "/health", None, 2.0)
            except WireError:
                status = 0
            if status == 200:
                return None
            time.sleep(0.01)
        return Trouble(TroubleKind.TIMEOUT, f"llama-server did not get ready within {_LOAD_S:.0f} s")

    def _http(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> tuple[int, bytes]:
        # A connection each: the server closes kept ones after a hundred requests or a few idle seconds.
        found = fetch(f"http://{_HOST}:{self._port}", method, path, body, timeout_s=timeout_s, limit=_MAX_REPLY)
        return found.status or 0, bytes(found.body)

    def _ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One request. Payload: the decoded object; everything that can go wrong on the way is trouble."""
        argv = ("llama-server", *self._argv)
        if self.trouble is not None:
            return Answer(None, Call(argv, request={"path": path, **body}), self.trouble)
        started = time.monotonic()
        raw, status, trouble = b"", 0, None
        try:
            status, raw = self._http("POST", path, body, _REQUEST_S)
        except WireError as error:
            if error.timed_out:
                trouble = Trouble(TroubleKind.TIMEOUT, f"{path}: no answer within {_REQUEST_S:.0f} s")
            elif error.kind == "too_long":
                trouble = Trouble(TroubleKind.UNREADABLE, f"{path}: not JSON: {error}")
            else:
                code = None if self._process is None else self._process.exit_code()
                ended = "" if code is None else f"; llama-server ended with {code}"
                trouble = Trouble(TroubleKind.PANIC, f"{path}: the connection broke: {error}{ended}")
        seconds = time.monotonic() - started
        text = raw[:20_000].decode(errors="replace")
        call = Call(argv, stdout=text, seconds=seconds, request={"path": path, **body})
        if trouble is not None:
            return Answer(None, call, trouble)
        try:
            payload = sound(json.loads(raw))
        except (ValueError, RecursionError) as error:
            return Answer(None, call, Trouble(TroubleKind.UNREADABLE, f"{path}: not JSON: {error}"))
        if status != 200:
            return Answer(None, call, Trouble(TroubleKind.REFUSED, f"{path}: HTTP {status}: {text[:300]}"))
        if not isinstance(payload, dict):
            return Answer(None, call, Trouble(TroubleKind.UNREADABLE, f"{path}: expected an object"))
        return Answer(payload, call)

    def generate(self, prompt: Prompt, *, max_new_tokens: int, top: int = 0) -> Generation:
        """Continue greedily; the prompt goes as token ids where they are known."""
        return self._complete(prompt.text if prompt.ids is None else list(prompt.ids), max_new_tokens, top)

    def _complete(self, prompt: str | list[int], n_predict: int, top: int) -> Generation:
        answer = self._ask(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": n_predict,
                "temperature": 0,
                "top_k": 1,
                "samplers": ["top_k"],
                "repeat_penalty": 1.0,
                "seed": 42,
                "cache_prompt": False,
                "return_tokens": True,
                **({"n_probs": top} if top else {}),
            },
        )
        if answer.trouble is not None:
            return Generation(None, None, call=answer.call, trouble=answer.trouble)
        return read_completion(answer, top)

    def score(self, prompt: Prompt, forced: Sequence[int], *, top: int) -> Score:
        """Distributions along `forced`.

        One request follows the forced tokens for as long as the model would choose them itself; each token that it
        would not choose costs one more request. A file that agrees with its oracle is scored by its own generation.
        """
        if prompt.ids is None:
            trouble = Trouble(TroubleKind.ABSENT, f"the oracle of {prompt.name!r} has no prompt ids to start from")
            return Score(None, Generation(None, None, trouble=trouble), trouble=trouble)
        positions: list[Position] = []
        free: Generation | None = None
        while len(positions) < len(forced):
            start = len(positions)
            got = self._complete([*prompt.ids, *forced[:start]], len(forced) - start, top)
            free = free or got
            if got.trouble is not None or not got.positions:
                trouble = got.trouble or Trouble(TroubleKind.MISSING_FIELD, "/completion: no completion_probabilities")
                return Score(None, free, got.call, trouble)
            for position in got.positions:
                positions.append(position)
                # Beyond a token that was not forced, the rest of this continuation is another text.
                if len(positions) == len(forced) or position.chosen != forced[len(positions) - 1]:
                    break
        assert free is not None
        return Score(tuple(positions), free, free.call)

    def tokenize(self, text: str, *, add_special: bool) -> Answer:
        """Token ids; special tokens written in the text count as such, as in transformers."""
        answer = self._ask("/tokenize", {"content": text, "add_special": add_special, "parse_special": True})
        if answer.payload is None:
            return answer
        ids = token_ids(answer.payload.get("tokens"))
        if ids is None:
            return Answer(None, answer.call, Trouble(TroubleKind.UNREADABLE, "/tokenize: expected a list of token ids"))
        return Answer(list(ids), answer.call)

    def render(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """The prompt of the file's chat template, the assistant's turn opened."""
        answer = self._ask("/apply-template", {"messages": [dict(message) for message in messages]})
        if answer.payload is None:
            return answer
        text = answer.payload.get("prompt")
        if not isinstance(text, str):
            return Answer(None, answer.call, Trouble(TroubleKind.UNREADABLE, "/apply-template: expected a prompt"))
        return Answer(text, answer.call)


def read_completion(answer: Answer, top: int) -> Generation:
    """The untrusted reply of `/completion`, checked field by field."""
    payload, call = answer.payload, answer.call
    assert isinstance(payload, dict)

    def broken(what: str) -> Generation:
        return Generation(None, None, call=call, trouble=Trouble(TroubleKind.UNREADABLE, f"/completion: {what}"))

    tokens = token_ids(payload.get("tokens"))
    if tokens is None:
        return broken("expected a list of token ids under tokens")
    text = payload.get("content")
    if not isinstance(text, str):
        return broken("expected text under content")
    if payload.get("truncated") is True:
        return broken("the prompt was cut to fit the context")
    positions = None
    if top:
        positions = _positions(payload.get("completion_probabilities"))
        if positions is None:
            return broken("expected completion_probabilities with ids and finite logprobs")
    count = payload.get("tokens_evaluated")
    stop = payload.get("stop_type")
    timings = payload.get("timings")
    return Generation(
        tokens=tokens or None,
        text=text,
        prompt_tokens=count if type(count) is int else None,
        finish_reason={"eos": "stop", "limit": "length"}.get(stop, stop) if isinstance(stop, str) else None,
        positions=positions,
        call=call,
        trouble=None if tokens else Trouble(TroubleKind.MISSING_FIELD, "/completion: no tokens"),
        tokens_per_s=speed(timings.get("predicted_per_second")) if isinstance(timings, dict) else None,
    )


def _positions(value: Any) -> tuple[Position, ...] | None:
    if not isinstance(value, list):
        return None
    found = []
    for entry in value:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:
            return None
        row = entry.get("top_logprobs")
        if not isinstance(row, list) or not row:
            return None
        candidates = []
        for one in row:
            if not isinstance(one, dict) or type(one.get("id")) is not int:
                return None
            logprob = number(one.get("logprob"))
            if logprob is None or logprob < _LEAST_LOGPROB:
                return None
            # Rounding may leave a certain token a little above probability one.
            candidates.append(Candidate(one["id"], min(logprob, 0.0)))
        found.append(Position(entry["id"], tuple(candidates)))
    return tuple(found)
