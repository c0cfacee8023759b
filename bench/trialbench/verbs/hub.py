"""The verbs of the hub: `fetch` and `pin`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trialbench.options import Verbs, output, outputs, pairs
from trialbench.show.terminal import say


def add(verbs: Verbs) -> None:
    """Add the verbs `fetch` and `pin`."""
    fetch = verbs.add_parser("fetch", help="download model files at a pinned revision and check their hashes")
    fetch.add_argument("--revision", required=True, metavar="SHA", help="a full commit hash")
    fetch.add_argument("--dest", required=True, type=Path, metavar="DIR", help="where the files go")
    fetch.add_argument("--sha256", action="append", default=[], metavar="NAME=HEX", help="pinned hash; repeatable")
    fetch.set_defaults(verb=_fetch)
    pin = verbs.add_parser("pin", help="resolve revision, file hashes and image digest, and record them")
    pin.add_argument("--revision", default="main", help="branch, tag or commit to pin (default: main)")
    pin.add_argument("--image", metavar="REF", help="container image whose digest is pinned as well")
    pin.add_argument("--out", required=True, type=output, metavar="FILE.yml")
    pin.set_defaults(verb=_pin)
    for parser in (fetch, pin):
        parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
        parser.add_argument(
            "--include", required=True, action="append", metavar="PATTERN", help="which files; repeatable"
        )


def _fetch(options: argparse.Namespace) -> int:
    from trialbench.hub.fetch import fetch

    fetch(
        options.repo,
        revision=options.revision,
        include=options.include,
        dest=options.dest,
        sha256=pairs(options.sha256, "--sha256", "NAME=HEX"),
        tell=_tell,
    )
    return 0


def _pin(options: argparse.Namespace) -> int:
    from trialbench.hub.pin import pin

    words = outputs({"--out": options.out})
    pin(
        options.repo,
        revision=options.revision,
        include=options.include,
        image=options.image,
        out=options.out,
        tell=lambda text: say(text, words),
    )
    return 0


def _tell(text: str) -> None:
    say(text, sys.stdout)
