"""Server-sent events, as far as chat completions use them.

Lines end at the byte `\\n` and nowhere else: text splitters such as `httpx.Response.iter_lines` also cut at U+0085 and
U+2028, which may stand unescaped in the JSON of an event, and so break valid replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(field, value) of every non-empty line, `data` and `error` alike; comments are passed over.

    Each event of this protocol is one line, so lines are handed out as they complete. A last line without its end
    is not handed out: the connection broke inside it.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode("utf-8", "replace").partition(":")
            if name:
                yield name, value.removeprefix(" ")
