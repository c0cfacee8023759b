"""What the options of several verbs share: types, checks, and the options themselves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from trialbench.credentials import redact
from trialbench.errors import UsageError
from trialbench.urls import server

# A string, because the generic form of this class exists only for type checkers.
Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote the command line, show no secret of it; its verbs have such parsers too."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and exit with 2."""
        super().error(redact(message))


def begun(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Run the verb that `arguments` (None: the command line's) name; returns its exit code.

    Raises:
        TrialbenchError: from the verb, or from the type of an option.
    """
    options = parser.parse_args(arguments)
    code: int = options.verb(options)
    return code


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ArgumentTypeError: it is none; argparse says so.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1, found {text}")
    return number


def server_url(text: str) -> str:
    """The server of `--url`, without the path of its API.

    Raises:
        UsageError: it names none.
    """
    return server(text, "--url")


def writable(option: str, path: Path | None) -> None:
    """Refuse an unusable output path before the work whose result would be lost; no path is fine.

    Raises:
        UsageError: its folder is not there or not ours to write to, or it is a folder itself.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is a folder" if path.is_dir() else f"there is no writable folder {folder}"
        raise UsageError(f"{option} {path}: expected a file that can be written, but {what}")


def pairs(given: Sequence[str], option: str, like: str) -> dict[str, str]:
    """`given`, each of the form `like` (such as KEY=VALUE), as a mapping; the last of a name counts.

    Raises:
        UsageError: one of them is no such pair.
    """
    found = {}
    for one in given:
        key, separator, value = one.partition("=")
        if not separator or not key:
            raise UsageError(f"{option}: expected {like}, found {one!r}")
        found[key] = value
    return found
