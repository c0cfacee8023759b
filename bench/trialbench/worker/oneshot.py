"""The command `gemma_oneshot`: `trialbench oneshot --engine gemma-cpp`, with the fazai.conf of the host, if any."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from trialbench.engines import commands
from trialbench.errors import TrialbenchError, UsageError
from trialbench.terminal import say
from trialbench.worker.config import DEFAULT_PATH


def main(arguments: Sequence[str] | None = None) -> int:
    """One prompt, its reply on standard output; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="gemma_oneshot",
        description="One prompt for gemma.cpp, its reply streamed to standard output.",
        epilog=commands.EXIT_CODES,
    )
    commands.add_oneshot(parser, required=False)
    options = parser.parse_args(arguments)
    options.engine = options.engine or "gemma-cpp"
    if options.engine == "gemma-cpp" and options.config is None and DEFAULT_PATH.exists():
        options.config = DEFAULT_PATH
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except TrialbenchError as error:
        say(f"gemma_oneshot: {error}", sys.stderr)
        return error.exit_code
    except OSError as error:
        say(f"gemma_oneshot: {error.filename or 'input/output'}: {error.strerror or error}", sys.stderr)
        return UsageError.exit_code


if __name__ == "__main__":
    sys.exit(main())
