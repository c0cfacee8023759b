"""The command `gemma_oneshot`: `trialbench oneshot --engine gemma-cpp`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trialbench.engines import commands
from trialbench.show.terminal import ended


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
    return ended("gemma_oneshot", lambda: options.verb(options))


if __name__ == "__main__":
    sys.exit(main())
