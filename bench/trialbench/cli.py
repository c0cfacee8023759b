"""The command `trialbench`. Each verb imports only what it needs, because start-up time counts in the trial."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from trialbench import __version__
from trialbench.options import Parser, begun
from trialbench.show.terminal import ended
from trialbench.verbs import hub, measure, oneshot, report, side_by_side

# Rooms that are not needed in the window, with the modules of their verbs. The bench image leaves them out
# (images/bench/build.py); the command then lacks these verbs.
_NOT_IN_THE_IMAGE = {"worker": "verbs.worker", "ground_truth": "ground_truth.cli"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Expected errors become a plain message on standard error."""
    return ended("trialbench", lambda: begun(_parser(), arguments))


_ABOUT = "Measures a language model where it would run, and gives a verdict."


def _parser() -> Parser:
    parser = Parser(prog="trialbench", description=_ABOUT)
    parser.add_argument("--version", action="version", version=f"trialbench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for group in (measure, hub, report, oneshot, side_by_side):
        group.add(verbs)
    for room, verb_module in _NOT_IN_THE_IMAGE.items():
        if importlib.util.find_spec(f"trialbench.{room}") is not None:
            importlib.import_module(f"trialbench.{verb_module}").add(verbs)
    for listed in verbs._choices_actions:
        # `VERB --help` begins with the verb's line in the list of verbs.
        verbs.choices[listed.dest].description = listed.help
    return parser
