"""The verb `oneshot`, and the command `gemma_oneshot`, which is `trialbench oneshot --engine gemma-cpp`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trialbench.errors import UsageError
from trialbench.options import Parser, Verbs, begun, output, outputs
from trialbench.show.terminal import ended, line, say, screen
from trialbench.verbs.select import add_options, find_config, make_engine

if TYPE_CHECKING:
    from trialbench.engines.contract import Constraint, Deadlines, Generation, Request

EXIT_OK, EXIT_REFUSED, EXIT_DOUBTFUL, EXIT_FAILED = 0, 2, 3, 4
_EXIT_CODES = "exit codes: 0 a reply, 2 refused or wrong usage, 3 a doubtful reply, 4 no reply, 128+N ended by signal N"
_MAX_PROMPT = 16 << 20


def add(verbs: Verbs) -> None:
    """Add the verb `oneshot`; nothing heavy is imported before it runs."""
    oneshot = verbs.add_parser(
        "oneshot", help="send one prompt and stream its reply to standard output", epilog=_EXIT_CODES
    )
    _add_arguments(oneshot)


def _add_arguments(oneshot: argparse.ArgumentParser, *, required: bool = True) -> None:
    oneshot.add_argument("prompt", nargs="?", help="the prompt; - reads standard input")
    oneshot.add_argument("--prompt-file", type=Path, metavar="FILE", help="read the prompt from here, verbatim")
    add_options(oneshot, required=required)
    oneshot.add_argument(
        "--timeout", type=float, metavar="S", help="in total (default: generation_timeout from --config, else 60)"
    )
    oneshot.add_argument("--first-timeout", type=float, metavar="S", help="to the first token (default: no limit)")
    oneshot.add_argument("--token-timeout", type=float, metavar="S", help="between two tokens (default: no limit)")
    oneshot.add_argument("--max-tokens", type=int, metavar="N")
    oneshot.add_argument("--temperature", type=float, metavar="T")
    oneshot.add_argument("--top-k", type=int, metavar="N")
    oneshot.add_argument("--top-p", type=float, metavar="P")
    oneshot.add_argument("--seed", type=int, metavar="N")
    oneshot.add_argument("--deterministic", action="store_true", default=None, help="give the same reply every time")
    oneshot.add_argument("--cache-prompt", action="store_true", help="let the server reuse its prompt cache")
    oneshot.add_argument("--grammar", type=Path, metavar="FILE", help="the reply must match this GBNF grammar")
    oneshot.add_argument("--json-schema", type=Path, metavar="FILE", help="the reply must fit this JSON schema")
    oneshot.add_argument(
        "--allowed-token", action="append", metavar="ID|TEXT", help="the reply may contain only these; repeatable"
    )
    oneshot.add_argument("--result", type=output, metavar="FILE.json", help="write text, times, memory and labels here")
    oneshot.set_defaults(verb=_oneshot)


def _oneshot(options: argparse.Namespace) -> int:
    from trialbench.engines.contract import Token
    from trialbench.files import write_json

    words = outputs({"--result": options.result})
    find_config(options)
    request = _request(options)
    engine = make_engine(options)
    # Control characters are escaped for a terminal; a file or pipe gets the reply unchanged.
    shown = screen if words.isatty() else str
    caught = _Signals()
    try:
        generation = engine.start(request)
        caught.end(generation)
        for event in generation.events():
            if isinstance(event, Token):
                _write(shown(event.text), words)
        result = generation.result()
    finally:
        caught.restore()
        engine.close()
    if result.text and not result.text.endswith("\n") and words.isatty():
        _write("\n", words)
    if options.result is not None:
        write_json(options.result, result.as_dict())
    if caught.number is not None:
        say(f"trialbench: canceled by signal {caught.number}", sys.stderr)
        return 128 + caught.number
    if result.failure is None:
        return EXIT_OK
    row = result.failure.failure_class
    say(f"trialbench: {row.name} ({row.code}): {line(result.failure.detail, 600)}: {row.advice}", sys.stderr)
    if row.kind == "indeterminate":
        return EXIT_DOUBTFUL
    return EXIT_REFUSED if row.code in (400, 413) else EXIT_FAILED


def _write(text: str, stream: TextIO) -> None:
    """Write unbuffered bytes: an unpaired surrogate must not end the command."""
    stream.flush()
    data = text.encode("utf-8", "replace")
    descriptor = stream.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


class _Signals:
    """Ctrl-C and SIGTERM cancel the generation in order; a second signal changes nothing."""

    def __init__(self) -> None:
        self._generation: Generation | None = None
        self.number: int | None = None
        self._before = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(self, generation: Generation) -> None:
        """From now on, a signal cancels `generation`; at once if one has already arrived."""
        self._generation = generation
        if self.number is not None:
            generation.cancel()

    def restore(self) -> None:
        """Restore the old handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, _frame: object) -> None:
        self.number = self.number or number
        if self._generation is not None:
            self._generation.cancel()


def _request(options: argparse.Namespace) -> Request:
    from trialbench.engines.contract import Request

    return Request(
        prompt=_prompt(options),
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        deterministic=options.deterministic,
        cache_prompt=options.cache_prompt,
        constraint=_constraint(options),
        deadlines=_deadlines(options),
    )


def _deadlines(options: argparse.Namespace) -> Deadlines:
    from trialbench.engines.contract import DEFAULT_TIMEOUT_S, Deadlines

    total_s = options.timeout
    if total_s is None and options.engine == "gemma-cpp" and options.config is not None:
        from trialbench.config.fazai import load

        total_s = load(options.config)[0].deadlines.total_s
    return Deadlines(options.first_timeout, options.token_timeout, DEFAULT_TIMEOUT_S if total_s is None else total_s)


def _prompt(options: argparse.Namespace) -> str:
    if (options.prompt is None) == (options.prompt_file is None):
        raise UsageError("expected exactly one of PROMPT and --prompt-file")
    if options.prompt_file is not None:
        raw: bytes = options.prompt_file.read_bytes()
    elif options.prompt == "-":
        raw = sys.stdin.buffer.read(_MAX_PROMPT + 1)
        if len(raw) > _MAX_PROMPT:
            raise UsageError(f"standard input: expected a prompt of at most {_MAX_PROMPT >> 20} MiB, found more")
    else:
        return str(options.prompt)
    return _decoded(raw, options.prompt_file or "standard input")


def _decoded(raw: bytes, where: object) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: expected UTF-8 text, found something else at byte {error.start}") from error


def _constraint(options: argparse.Namespace) -> Constraint | None:
    from trialbench.engines.contract import Constraint
    from trialbench.files import read_json

    if not (options.grammar or options.json_schema or options.allowed_token):
        return None
    schema = read_json(options.json_schema) if options.json_schema else None
    if options.json_schema and not isinstance(schema, dict):
        raise UsageError(f"{options.json_schema}: expected a JSON schema, an object, found something else")
    return Constraint(
        grammar=_decoded(options.grammar.read_bytes(), options.grammar) if options.grammar else None,
        json_schema=schema,
        # Ids have at most as many digits as any vocabulary needs; longer numbers are text, as they are to a model.
        allowed_tokens=[int(one) if re.fullmatch("[0-9]{1,9}", one) else one for one in options.allowed_token]
        if options.allowed_token
        else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `gemma_oneshot`: one prompt, its reply on standard output; returns the exit code."""
    parser = Parser(
        prog="gemma_oneshot",
        description="One prompt for gemma.cpp, its reply streamed to standard output.",
        epilog=_EXIT_CODES,
    )
    _add_arguments(parser, required=False)
    parser.set_defaults(engine="gemma-cpp")
    return ended("gemma_oneshot", lambda: begun(parser, arguments))


if __name__ == "__main__":
    sys.exit(main())
