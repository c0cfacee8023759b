"""Terminal output. Untrusted text (models, servers, logs) is displayed and never interpreted by the terminal.

No text leaves with a secret in it, not even a traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from trialbench.credentials import redact
from trialbench.errors import TrialbenchError, UsageError

# Sparkline bars as digits, for terminals whose encoding has no bars.
_BARS = str.maketrans("▁▂▃▄▅▆▇█", "12345678")
# What acts on a screen instead of being read: controls but the line end, separators of lines and paragraphs, marks of
# direction, lone surrogates. All else is people's text: spaces of every width, joiners, soft hyphens, emoji.
_ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def screen(text: str) -> str:
    """`text` with what would act escaped (controls, separators of lines, marks of direction, lone surrogates).

    Secrets are masked, line ends kept, tabs become spaces. Pages, terminal and exports show text through this function
    alone.
    """
    return _ACTS.sub(lambda found: _escaped(found[0]), redact(text).expandtabs())


def line(text: str, limit: int) -> str:
    """`text` on one line, its tabs and line ends escaped too, cut to `limit` characters; secrets are masked."""
    # Before it is cut: half a secret is not known as one.
    text = redact(text)
    shown = _ACTS.sub(lambda found: _escaped(found[0]), text[:limit]).replace("\n", "\\n")
    return shown if len(text) <= limit and len(shown) <= limit else shown[: limit - 3] + "..."


def say(text: str, stream: TextIO | None = None) -> None:
    """Print `text` to standard output or `stream`; characters that its encoding lacks are escaped."""
    out, shown = stream or sys.stdout, screen(text)
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        shown = shown.translate(_BARS).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=out, flush=stream is not None)


def ended(name: str, act: Callable[[], int]) -> int:
    """The exit code of the command called `name`. Expected errors become a plain message on standard error.

    Other errors are ours: their traceback is for the report of a bug.
    """
    _silence_closed_streams()
    try:
        code = act()
        # Flush here, where a closed pipe can still be handled, not at interpreter exit.
        sys.stdout.flush()
        return code
    except TrialbenchError as error:
        say(f"{name}: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        # Before or after the part that ends in order by itself, such as the requests of a run.
        say(f"{name}: interrupted", sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `trialbench show DIR | head` closed the pipe: keep the interpreter from flushing to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        say(f"{name}: {error.filename or 'input/output'}: {error.strerror or error}", sys.stderr)
        return UsageError.exit_code
    except Exception:
        say(f"{traceback.format_exc()}{name}: this is a bug; please report it with the lines above", sys.stderr)
        return 1


def _silence_closed_streams() -> None:
    """Discard what is written to a standard stream that was closed beforehand (`>&-`); Python has None there.

    Their descriptors are taken, too: the next file that is opened would get one, and what is printed with it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
