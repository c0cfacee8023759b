"""What the options of several verbs share: types, checks, and the options themselves."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TextIO, TypeAlias

from trialbench.credentials import redact
from trialbench.errors import UsageError
from trialbench.files import STDOUT, destination, is_file, writable_kind
from trialbench.urls import server

# A string, because the generic form of this class exists only for type checkers.
Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


# There is no such option; a user who tries it has exposed the secret already.
_GIVEN_KEY = re.compile(r"(--?[\w-]*(?:key|token|passw|secret|auth)[\w-]*[= ]+)\S+", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote the command line, show no secret of it; its verbs have such parsers too."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and exit with 2."""
        super().error(_GIVEN_KEY.sub(r"\1***", redact(message)))


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
        ArgumentTypeError: the text is not such a number; argparse reports it.
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


def output(text: str) -> Path:
    """The path of an option that names an output; `-` is standard output."""
    if text == "-":
        return STDOUT
    # `./-` is a file of that name, which a path alone can't tell from `-`.
    return Path.cwd() / text if text.strip("./") == "-" else Path(text)


def outputs(given: Mapping[str, Path | None]) -> TextIO:
    """Refuse unusable outputs before the work whose result would be lost; returns where words for people go.

    That is standard output, or standard error where standard output is for one of the outputs.

    Args:
        given: the path of each option, None where it was not given.

    Raises:
        UsageError: an output can't be written, or two are the same.
    """
    places: dict[Path | int, str] = {}
    for option, path in given.items():
        if path is None:
            continue
        problem = writable_kind(path)
        if problem is not None:
            raise UsageError(f"{option} {path}: expected a file that can be written, but {problem}")
        place = destination(path)
        if place in places:
            raise UsageError(
                f"{option} {path}: expected a file other than that of {places[place]}, which it would overwrite"
            )
        if isinstance(place, int) or is_file(path):
            places[place] = option
    return sys.stderr if 1 in places else sys.stdout


def pairs(given: Sequence[str], option: str, like: str) -> dict[str, str]:
    """`given`, each of the form `like` (such as KEY=VALUE), as a mapping; the last of a name counts.

    Raises:
        UsageError: one of them is not such a pair.
    """
    found = {}
    for one in given:
        key, separator, value = one.partition("=")
        if not separator or not key:
            raise UsageError(f"{option}: expected {like}, found {one!r}")
        found[key] = value
    return found
