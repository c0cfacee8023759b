"""The program `trialbench-worker`: the verbs that a host needs to serve an engine, and nothing of the measuring side.

`python -m trialbench.worker`, and what the zipapp of `trialbench.worker.pack` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trialbench import __version__
from trialbench.engines import commands
from trialbench.show.terminal import ended
from trialbench.worker import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Expected errors become a plain message on standard error."""
    parser = argparse.ArgumentParser(prog="trialbench-worker", description="Serves one engine over ND-JSON.")
    parser.add_argument("--version", action="version", version=f"trialbench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    cli.add(verbs)
    commands.add(verbs)
    options = parser.parse_args(arguments)
    return ended("trialbench-worker", lambda: options.verb(options))


if __name__ == "__main__":
    sys.exit(main())
