"""The key for a server: where it comes from, and what it may consist of. No message of ours ever shows it."""

from __future__ import annotations

import os
import re

from trialbench.errors import UsageError

_VARIABLE = "TRIALBENCH_API_KEY"
# It becomes a header: a line end in it would be another header, and libraries quote what they refuse in their errors.
_KEY = re.compile(r"[!-~]{1,4096}")


def is_key(text: str) -> bool:
    """Whether `text` can stand in a header as it is: printable ASCII without blanks."""
    return _KEY.fullmatch(text) is not None


def environment_key() -> str | None:
    """What `TRIALBENCH_API_KEY` holds, less the blanks and line ends around it; None where it holds nothing.

    Raises:
        UsageError: it can't be a key.
    """
    key = os.environ.get(_VARIABLE, "").strip()
    if not key:
        return None
    if not is_key(key):
        raise UsageError(f"{_VARIABLE}: expected one key of printable ASCII characters without blanks")
    return key
