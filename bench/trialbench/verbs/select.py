"""The options that name an engine, and the engine that they describe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trialbench.errors import UsageError
from trialbench.options import server_url

if TYPE_CHECKING:
    from trialbench.config.engine import EngineChoice
    from trialbench.engines.contract import Engine
    from trialbench.engines.gemma_cpp import GemmaOptions
    from trialbench.measure.engine_client import EngineClient

# The default path of fazai.conf.
DEFAULT_CONFIG = Path("/etc/fazai/fazai.conf")
NAMES = ("gemma-cpp", "llama-server", "openai")
# Defaults of the options, for the live suite and the command line.
_BINARY, _WEIGHTS, _TOKENIZER = "GEMMA_CPP_BINARY", "GEMMA_CPP_WEIGHTS", "GEMMA_CPP_TOKENIZER"


def add_options(parser: argparse.ArgumentParser, *, required: bool = True, url: bool = True) -> None:
    """The options that name an engine and say where it is.

    Args:
        required: whether `--engine` must be given.
        url: whether to add `--url` and `--model`; False if the verb has its own.
    """
    parser.add_argument("--engine", choices=NAMES, required=required, help="the engine that generates")
    group = parser.add_argument_group("engine")
    if url:
        group.add_argument("--url", type=server_url, help="llama-server, openai: such as http://127.0.0.1:11435")
        group.add_argument("--model", help="name of the model; sent to servers that need it")
    group.add_argument("--bits", type=int, help="declared bits per weight (default: from the file's type, or none)")
    group.add_argument("--gguf", type=Path, metavar="FILE", help="llama-server: its model's file, for bits and hash")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="openai: a host besides the loopback"
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"gemma-cpp: defaults for other options, from fazai.conf (default: {DEFAULT_CONFIG} if it exists)",
    )
    group.add_argument("--binary", type=Path, metavar="FILE", help=f"gemma-cpp: absolute path (default: ${_BINARY})")
    group.add_argument("--weights", type=Path, metavar="FILE", help=f"gemma-cpp: the .sbs file (default: ${_WEIGHTS})")
    group.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help=f"gemma-cpp: for files from before 2025 (default: ${_TOKENIZER})"
    )
    group.add_argument("--binary-sha256", metavar="HEX", help="gemma-cpp: refuse another binary")
    group.add_argument("--weights-sha256", metavar="HEX", help="gemma-cpp: refuse other weights")
    group.add_argument("--weight-format", metavar="NAME", help="gemma-cpp: f32, bf16, sfp, i8 or nuq; gives the bits")
    group.add_argument("--num-threads", type=int, metavar="N", help="gemma-cpp (default: the binary decides)")
    group.add_argument("--seq-len", type=int, metavar="N", help="gemma-cpp: the context (default: 8192)")
    group.add_argument("--memory-mib", type=float, metavar="MIB", help="gemma-cpp: end a generation that exceeds this")


def find_config(options: argparse.Namespace) -> None:
    """Use the default configuration file, if it exists, for gemma-cpp without `--config`.

    It does not apply to other engines: it belongs to gemma.cpp's service, and users of other engines may not be allowed
    to read it.
    """
    if options.config is None and options.engine == "gemma-cpp" and DEFAULT_CONFIG.exists():
        options.config = DEFAULT_CONFIG


def make_engine(options: argparse.Namespace) -> Engine:
    """The engine that `add_options` describes.

    Raises:
        UsageError: something it needs is missing or wrong.
    """
    from trialbench.config.engine import gemma_engine, http_engine

    if options.engine == "gemma-cpp":
        chosen = gemma_options(options)
        # 0 would mean no limit, and NaN is never reached.
        if options.memory_mib is not None and not 0 < options.memory_mib < float("inf"):
            raise UsageError(f"--memory-mib: expected MiB above 0, found {options.memory_mib:g}")
        return gemma_engine(chosen, memory_mib=options.memory_mib)
    if not options.url:
        raise UsageError(f"--engine {options.engine}: expected --url http://HOST:PORT, found none")
    if options.bits is not None and not 1 <= options.bits <= 64:
        raise UsageError(f"--bits: expected 1 to 64, found {options.bits}")
    from trialbench.credentials import environment_key
    from trialbench.engines.endpoint import EndpointOptions

    endpoint = EndpointOptions(
        options.url,
        model=options.model,
        bits=options.bits,
        api_key=environment_key(),
        allowed_hosts=frozenset(options.allow_host),
    )
    return http_engine(options.engine, endpoint, gguf=options.gguf)


def choose(options: argparse.Namespace) -> EngineChoice:
    """The engine that `options` and the configuration describe, for a worker or a proof.

    `--engine` defaults to gemma-cpp, and its `--config` to the default file if it exists.

    Raises:
        UsageError: a wrong configuration, or an option that the engine needs and that is missing.
        Refused: the URL's host is not allowed.
    """
    from trialbench.config.engine import EngineChoice
    from trialbench.config.fazai import load
    from trialbench.config.settings import Settings

    found = argparse.Namespace(**vars(options))
    found.engine = options.engine or "gemma-cpp"
    find_config(found)
    settings, notes = (Settings(), []) if found.config is None else load(found.config)

    def make(url: str | None) -> Engine:
        return make_engine(argparse.Namespace(**{**vars(found), "url": url or found.url}))

    return EngineChoice(settings, make, tuple(str(note) for note in notes))


def measuring_client(options: argparse.Namespace) -> EngineClient | None:
    """The client of `trialbench run --engine`; None without an engine, when `--url` names the server."""
    if options.engine is None:
        if not options.url:
            raise UsageError("run: expected --url http://HOST:PORT or --engine NAME, found neither")
        return None
    if options.stream:
        raise UsageError("--stream: leave it out with --engine: engines always stream")
    if options.omit:
        raise UsageError("--omit: leave it out with --engine: it names fields of the plain client's request")
    from trialbench.measure.engine_client import EngineClient, label_text

    find_config(options)
    engine = make_engine(options)
    if options.cache_prompt and "cache" not in engine.capabilities:
        engine.close()
        # Otherwise a table would show "on" for an engine without a cache.
        raise UsageError(f"--cache-prompt: leave it out: {options.engine} has no prompt cache that could be asked for")
    # Some engines learn their label only from the probe.
    engine.probe(hashes=False)
    # The name in the table, unless the user gives one.
    options.label = options.label or label_text(engine.label)
    options.url = options.url or engine.label.source
    return EngineClient(engine)


def gemma_options(options: argparse.Namespace) -> GemmaOptions:
    """Options from the command line, else from the environment, else from `--config`.

    Raises:
        UsageError: no binary or no weights are named.
    """
    from dataclasses import replace

    from trialbench.engines.gemma_cpp import GemmaOptions

    binary = options.binary or _from_environment(_BINARY)
    weights = options.weights or _from_environment(_WEIGHTS)
    if options.config is not None:
        from trialbench.config.fazai import load

        base = load(options.config)[0].gemma
        base = replace(base, binary=binary or base.binary, weights=weights or base.weights)
    elif binary is None or weights is None:
        missing = "--binary" if binary is None else "--weights"
        raise UsageError(f"--engine gemma-cpp: expected {missing} FILE (or --config FILE), found none")
    else:
        base = GemmaOptions(binary, weights)
    given = {
        "tokenizer": options.tokenizer or _from_environment(_TOKENIZER),
        "binary_sha256": options.binary_sha256,
        "weights_sha256": options.weights_sha256,
        "model": options.model,
        "weight_format": options.weight_format,
        "num_threads": options.num_threads,
        "seq_len": options.seq_len,
    }
    # The bits of an .sbs file follow from its format, so that the two can't contradict each other.
    if options.bits is not None:
        raise UsageError("--bits: gemma-cpp's bits follow from --weight-format")
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None
