"""Secrets: where they come from, what they may consist of, and that no message of ours ever shows one.

`redact` is called at the places where words leave this program: terminal, log, failures, samples. It knows the secrets
that the environment holds now and those given to `remember`, in each form in which a library may quote them.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

from trialbench.errors import UsageError

API_KEY, HUB_TOKEN = "TRIALBENCH_API_KEY", "HF_TOKEN"
# The last one is read by the hub's library alone, if at all; its value is as secret.
_VARIABLES = (API_KEY, HUB_TOKEN, "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# It becomes a header: a line end in it would be another header, and libraries quote what they refuse in their errors.
_KEY = re.compile(r"[!-~]{1,4096}")
_MASK = "***"
# How many first or last characters of a secret are masked anywhere: a truncated message must not show half of it. What
# is shorter is masked as a whole word.
_HEAD = 8
# A secret that a terminal, a mail or a list has broken goes on within so many characters.
_GAP = 64
_SHORTEST = 4
# A character as languages, pages and URLs may escape it: which ones they escape differs, and how often.
_CODED = (
    r"(?:[uU](?:0{2,6}(?P<u>[0-9A-Fa-f]{2})|\{0{0,6}(?P<braced>[0-9A-Fa-f]{2})\})|x(?P<x>[0-9A-Fa-f]{2})"
    r"|(?P<octal>[01][0-7]{2})|(?P<sign>[!-/:-@\[%s\]^-`{-~]))"
)
_OTHERS = r"|&#0{0,5}(?P<number>\d{2,3});|&#[xX]0{0,6}(?P<hex>[0-9A-Fa-f]{2});|%(?:25)*(?P<url>[0-9A-Fa-f]{2})"
# Bytes one by one, as dumps have them: 68:66, 68 66, 0x68, 0x66.
_PAIRS = re.compile(r"(?<![0-9A-Fa-f])(?:0x)?(?P<hex>[0-9A-Fa-f]{2})(?![0-9A-Fa-f])[:,\s-]{0,3}")
_ESCAPED = re.compile(rf"(?<!\\)\\+{_CODED.replace('%s', '')}{_OTHERS}")
# ... and time after time, by languages whose own sign, the backslash, is in the secret.
_MAX_TIMES = 3
_ESCAPED_ONCE = re.compile(rf"\\{_CODED.replace('%s', chr(92) * 2)}{_OTHERS}")
# `://USER:PASSWORD@` of any URL, also where the password has a slash in it and the rest is no URL any more.
_USER = re.compile(r"://(?:[^\s/?#]*|[^\s/?#:]*:(?!\d{1,5}(?:[/?#]|$))\S*)@")
_remembered: set[str] = set()


def is_key(text: str) -> bool:
    """Whether `text` can stand in a header as it is: printable ASCII without blanks."""
    return _KEY.fullmatch(text) is not None


def from_environment(variable: str) -> str | None:
    """The secret that `variable` holds, less the blanks and line ends around it; None where it holds nothing.

    Raises:
        UsageError: it can't be a key; says which character is in the way, and shows none.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not is_key(key):
        raise UsageError(
            f"{variable}: expected one key of printable ASCII characters without blanks, found {_odd(key)}"
        )
    return key


def environment_key() -> str | None:
    """The key for a server, from `TRIALBENCH_API_KEY`; see `from_environment`."""
    return from_environment(API_KEY)


def remember(secret: str) -> None:
    """From now on `redact` knows `secret`, which came from a file or an answer."""
    _remembered.add(secret)


def redact(text: str) -> str:
    """`text` without any secret, whether it stands there as it is, escaped, quoted for a URL, encoded, or cut short."""
    parts, shown, secrets = [], 0, _secrets()
    # Together, because forms of one secret often begin alike: what one leaves is the rest of another.
    spans = [span for form in _forms(secrets) for span in _spans(text, form)]
    for escaped, times in ((_ESCAPED, 1), (_ESCAPED_ONCE, _MAX_TIMES), (_PAIRS, 1)) if secrets else ():
        plain, places = text, list(range(len(text) + 1))
        for _ in range(times):
            if not escaped.search(plain):
                break
            plain, at = _unescaped(plain, escaped)
            places = [places[one] for one in at]
            spans += [(places[begin], places[end]) for one in secrets for begin, end in _spans(plain, one)]
    for begin, end in sorted(spans):
        if begin >= shown:
            parts += [text[shown:begin], _MASK]
        shown = max(shown, end)
    return _USER.sub(f"://{_MASK}@", "".join([*parts, text[shown:]]))


def _unescaped(text: str, escaped: re.Pattern[str]) -> tuple[str, list[int]]:
    """`text` without escapes, and for each of its characters, and its end, the place where it begins in `text`."""
    plain: list[str] = []
    places: list[int] = []
    at = 0
    for found in escaped.finditer(text):
        plain += [text[at : found.start()], _decoded(found.groupdict())]
        places += range(at, found.start() + 1)
        at = found.end()
    places += range(at, len(text) + 1)
    return "".join([*plain, text[at:]]), places


def _decoded(groups: dict[str, str | None]) -> str:
    """The character that an escape stands for."""
    [(kind, code)] = [(name, one) for name, one in groups.items() if one is not None]
    return code if kind == "sign" else chr(int(code, {"octal": 8, "number": 10}.get(kind, 16)))


def _odd(key: str) -> str:
    place = next((place for place, one in enumerate(key, start=1) if not "!" <= one <= "~"), None)
    if place is None:
        return f"{len(key)} of them"
    one = key[place - 1]
    kind = "not ASCII" if one > "\x7f" else "a blank" if one == " " else "a control character"
    return f"one that is {kind} (number {place} of {len(key)})"


def _secrets() -> frozenset[str]:
    found = set(_remembered)
    for variable in _VARIABLES:
        value = os.environ.get(variable, "").strip()
        # Where it holds more than a key, a library may show any of its lines.
        found |= {value, *value.split()}
    for variable in _PROXIES:
        for name in (variable, variable.upper()):
            user, _, password = os.environ.get(name, "").rpartition("@")[0].rpartition("://")[2].partition(":")
            found |= {password, unquote(password), f"{user}:{password}" if password else ""}
            # Some proxies take a token as the user, and no password.
            found |= {user, unquote(user)} if not password and _is_random(user) else set()
    return frozenset(one for one in found if _is_secret(one))


def _is_secret(text: str) -> bool:
    """Short words, such as the `none` and `EMPTY` that stand for no key, and short numbers are in many messages."""
    return len(text) >= _HEAD or (len(text) >= _SHORTEST and not text.isalpha() and not text.isdigit())


@functools.lru_cache(maxsize=8)
def _forms(secrets: frozenset[str]) -> frozenset[str]:
    return frozenset(form for secret in secrets for form in (secret, *_written(secret)) if len(form) >= _SHORTEST)


def _written(secret: str) -> set[str]:
    """`secret` as languages, URLs and encodings write it."""
    raw = secret.encode("utf-8", "surrogateescape")
    percent = {quote(raw), quote_plus(raw), quote(raw, safe="")}
    percent |= {quote(one) for one in percent}
    percent |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), one) for one in percent}
    escaped = {repr(secret)[1:-1], ascii(secret)[1:-1], repr(raw)[2:-1], json.dumps(secret)[1:-1], html.escape(secret)}
    escaped |= {repr(one)[1:-1] for one in escaped}
    return percent | escaped | (_encoded(raw) if len(raw) >= _HEAD else set())


def _encoded(raw: bytes) -> set[str]:
    """In hexadecimal and base64: the characters that do not depend on what is encoded before and after `raw`."""
    found = {raw.hex(), raw.hex().upper()}
    for shift, first in ((0, 0), (1, 2), (2, 3)):
        whole = base64.b64encode(bytes(shift) + raw).decode()[first : (shift + len(raw)) * 8 // 6]
        found |= {whole, whole.translate(str.maketrans("+/", "-_"))}
    return found


def _spans(text: str, form: str) -> Iterator[tuple[int, int]]:
    """Where `form` stands in `text`, or as much of its beginning, or of its end, as does."""
    if len(form) < _HEAD:
        yield from (found.span() for found in re.finditer(rf"(?<![\w-]){re.escape(form)}(?![\w-])", text))
        return
    begin = text.find(form[:_HEAD])
    while begin >= 0:
        same = _same(text, form, begin, _HEAD)
        yield begin, begin + same
        yield from _rest(text, form, begin + same, same)
        begin = text.find(form[:_HEAD], begin + 1)
    if _is_random(form[-_HEAD:]):
        back = form[::-1]
        end = text.find(form[-_HEAD:])
        while end >= 0:
            end += _HEAD
            yield end - _same(text[max(0, end - len(form)) : end][::-1], back, 0, _HEAD), end
            end = text.find(form[-_HEAD:], end - _HEAD + 1)


def _same(text: str, form: str, begin: int, known: int) -> int:
    """How much of `form` stands at `begin`, where so much of it is known to stand."""
    same, differs = known, len(form) + 1
    while same + 1 < differs:
        middle = (same + differs) // 2
        same, differs = (middle, differs) if text.startswith(form[:middle], begin) else (same, middle)
    return same


def _rest(text: str, form: str, end: int, have: int) -> Iterator[tuple[int, int]]:
    """Where `form`, of which `have` characters stand before `end`, goes on behind what breaks it."""
    while len(form) - have >= _SHORTEST:
        begin = text.find(form[have : have + _SHORTEST], end, end + _GAP)
        if begin < 0:
            return
        same = _same(text, form[have:], begin, _SHORTEST)
        yield begin, begin + same
        end, have = begin + same, have + same


def _is_random(part: str) -> bool:
    """Whether the end of a secret can't be a word of a message: `-password` is the end of some keys."""
    return any(one.isdigit() for one in part) or (part != part.lower() and part != part.upper())
