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
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html.entities import html5
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote

from trialbench.errors import UsageError

API_KEY, HUB_TOKEN = "TRIALBENCH_API_KEY", "HF_TOKEN"
# The last one is read by the hub's library alone, if at all; its value is as secret.
_VARIABLES = (API_KEY, HUB_TOKEN, "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# It becomes a header: a line end in it would be another header, and libraries quote what they refuse in their errors.
_KEY = re.compile(r"[!-~]{1,4096}")
_MASK = "***"
# How many characters of a secret in a row are masked anywhere: a truncated message must not show half of it. What is
# shorter is masked as a whole word.
_HEAD = 8
# How many characters of a part are looked at first, and how far apart: any `_HEAD` in a row hold such a place.
_GRAM = 4
_STEP = _HEAD - _GRAM + 1
# A secret that a terminal, a mail or a list has broken goes on within so many characters.
_GAP = 64
_SHORTEST = 4
# So many characters of base64 are in no message by chance.
_CODE = 6
_SIGNS = {name: one for name, one in html5.items() if name.endswith(";") and one in tuple(string.punctuation)}
# A character as languages, pages, mails and URLs may escape it: which ones they escape differs, and how often.
_CODED = (
    r"(?:u+00(?P<u>[0-9A-Fa-f]{2})|U0{6}(?P<U>[0-9A-Fa-f]{2})|[uUx]\{0{0,6}(?P<braced>[0-9A-Fa-f]{2})\}"
    r"|x(?P<x>[0-9A-Fa-f]{2})|(?P<octal>[01][0-7]{2})|(?P<sign>[!-/:-@\[%s\]^-`{-~]))"
)
_OTHERS = (
    r"|&(?:amp;)*(?:#0{0,5}(?P<number>\d{2,3});?|#[xX]0{0,6}(?P<hex>[0-9A-Fa-f]{2});?"
    rf"|(?P<name>{'|'.join(sorted(_SIGNS))}))"
    r"|%(?:25)*(?:u00)?(?P<url>[0-9A-Fa-f]{2})|=(?P<mail>[0-9A-F]{2})"
)
# Bytes one by one, as dumps and lists have them: 68:66, 68 66, 0x68, 0x66; 104, 102.
_PAIRS = re.compile(r"(?P<code>(?<![0-9A-Fa-f])(?:0x)?(?P<hex>[0-9A-Fa-f]{2})(?![0-9A-Fa-f]))[:,\s-]{0,3}")
_NUMBERS = re.compile(r"(?P<code>(?<![\d.])(?P<number>\d{2,3})(?![\d.]))[,\s]{0,3}")
_ESCAPED = re.compile(rf"(?<!\\)\\+{_CODED.replace('%s', '')}{_OTHERS}")
# ... and time after time, by languages whose own sign, the backslash, is in the secret.
_MAX_TIMES = 3
_ESCAPED_ONCE = re.compile(rf"\\{_CODED.replace('%s', chr(92) * 2)}{_OTHERS}")
# A longer one is not looked for in narrow columns; in others each line of it is found by itself.
_MAX_CLOSE = 2048
# What a narrow column, a list of characters, a frame, colors, tags or UTF-16 put between the characters of a secret.
_BETWEEN = re.compile(r"(?:\x1b\[[0-9;]*[A-Za-z]|<[^<>]{1,40}>|[^A-Za-z0-9])+")
# `://USER:PASSWORD@` of any URL, also where the password has a slash in it and the rest is not a URL any more.
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
    parts, shown, forms = [], 0, _forms(_secrets(), _words())
    # Together, because forms of one secret often begin alike: what one leaves is the rest of another.
    spans: list[tuple[int, int]] = []
    for plain, begins, ends in _views(text) if forms.known else ():
        spans += [(begins[begin], ends[end - 1]) for begin, end in forms.found(plain)]
        if pieces := list(_pieces(_BETWEEN.sub("", plain), forms.close)):
            close = [at for run in _runs(plain) for at in run]
            spans += [(begins[close[begin]], ends[close[end - 1]]) for begin, end in pieces]
    for begin, end in sorted(spans):
        if begin >= shown:
            parts += [text[shown:begin], _MASK]
        shown = max(shown, end)
    return _USER.sub(f"://{_MASK}@", "".join([*parts, text[shown:]]))


_View = tuple[str, Sequence[int], Sequence[int]]


def _views(text: str) -> Iterator[_View]:
    """`text`, and what it says once its escapes are read; where each character begins and ends in `text`."""
    yield text, range(len(text)), range(1, len(text) + 1)
    for escaped, times in ((_ESCAPED, 1), (_ESCAPED_ONCE, _MAX_TIMES), (_PAIRS, 1), (_NUMBERS, 1)):
        plain, begins, ends = text, [*range(len(text))], [*range(1, len(text) + 1)]
        for time in range(times):
            if not escaped.search(plain):
                break
            plain, firsts, lasts = _unescaped(plain, escaped)
            begins = [begins[at] for at in firsts] if time else firsts
            ends = [ends[at - 1] for at in lasts] if time else lasts
            yield plain, begins, ends


def _runs(text: str) -> Iterator[range]:
    """The places of the letters and digits of `text`."""
    at = 0
    for gap in _BETWEEN.finditer(text):
        yield range(at, gap.start())
        at = gap.end()
    yield range(at, len(text))


def _unescaped(text: str, escaped: re.Pattern[str]) -> tuple[str, list[int], list[int]]:
    """`text` without escapes, and where each of its characters begins and ends in `text`."""
    plain: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    inner = "hex" if "hex" in escaped.groupindex else "number"
    at = 0
    for found in escaped.finditer(text):
        begin, end = found.span()
        kind = found.lastgroup or ""
        if kind == "code":
            # What sets bytes apart is not a part of them.
            kind, end = inner, found.end("code")
        plain += [text[at:begin], _decoded(kind, found[kind])]
        begins += [*range(at, begin), begin]
        ends += [*range(at + 1, begin + 1), end]
        at = found.end()
    begins += range(at, len(text))
    ends += range(at + 1, len(text) + 1)
    return "".join([*plain, text[at:]]), begins, ends


def _decoded(kind: str, code: str) -> str:
    """The character that an escape stands for."""
    if kind in ("sign", "name"):
        return _SIGNS.get(code, code)
    return chr(int(code, {"octal": 8, "number": 10}.get(kind, 16)))


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


def _words() -> frozenset[str]:
    """Keys that are words of many messages, so that they are masked only where a message says that it names a key."""
    values = (os.environ.get(variable, "").strip() for variable in _VARIABLES)
    return frozenset(one for one in {*values, *_remembered} if one and not _is_secret(one))


class _Parts(NamedTuple):
    """Any `_HEAD` characters of secrets that are no word, where in which form they stand, and any `_GRAM` of those."""

    places: Mapping[str, tuple[str, int]]
    grams: frozenset[str]


class _Forms(NamedTuple):
    """How secrets may stand in a text."""

    known: bool
    # Those too short to be cut; None: there is none.
    short: re.Pattern[str] | None
    whole: frozenset[str]
    parts: _Parts
    # Of letters and digits alone.
    close: _Parts

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where any of them stands in `text`, or a part of it."""
        for one in self.short.finditer(text) if self.short is not None else ():
            yield one.span("named" if one["named"] else 0)
        for form in self.whole:
            yield from _beginnings(text, form)
        yield from _pieces(text, self.parts)


@functools.lru_cache(maxsize=8)
def _forms(secrets: frozenset[str], words: frozenset[str]) -> _Forms:
    forms = {form for secret in secrets for form in (secret, *_written(secret)) if len(form) >= _SHORTEST}
    codes = {form for secret in secrets for form in _encoded(secret.encode("utf-8", "surrogateescape"))}
    short, short_codes = {one for one in forms if len(one) < _HEAD}, {one for one in codes if _CODE <= len(one) < _HEAD}
    patterns = [
        rf"(?<![\w-])(?:{_any(short)})(?![\w-])",
        _any(short_codes),
        rf"(?i:bearer|token|key)\W{{1,3}}(?P<named>{_any(words)})(?![\w-])",
    ]
    whole = frozenset(one for one in forms | codes if len(one) >= _HEAD)
    close = _parts(_BETWEEN.sub("", one) for one in whole if len(one) <= _MAX_CLOSE)
    return _Forms(
        bool(secrets or words),
        re.compile("|".join(patterns)) if short or short_codes or words else None,
        whole,
        _parts_of(_parts(whole)),
        _parts_of({part: place for part, place in close.items() if not part.isdigit()}),
    )


def _parts_of(places: Mapping[str, tuple[str, int]]) -> _Parts:
    grams = (part[at : at + _GRAM] for part in places for at in range(_HEAD - _GRAM + 1))
    return _Parts(places, frozenset(grams))


def _any(texts: Iterable[str]) -> str:
    # Nothing, where there is none.
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"


def _parts(forms: Iterable[str]) -> dict[str, tuple[str, int]]:
    parts = ((form[at : at + _HEAD], (form, at)) for form in forms for at in range(len(form) - _HEAD + 1))
    return {part: place for part, place in parts if _is_random(part)}


def _written(secret: str) -> set[str]:
    """`secret` as languages and URLs write it."""
    raw = secret.encode("utf-8", "surrogateescape")
    percent = {quote(raw), quote_plus(raw), quote(raw, safe="")}
    percent |= {quote(one) for one in percent}
    percent |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), one) for one in percent}
    escaped = {repr(secret)[1:-1], ascii(secret)[1:-1], repr(raw)[2:-1], json.dumps(secret)[1:-1], html.escape(secret)}
    escaped |= {repr(one)[1:-1] for one in escaped}
    # Names of hosts and of headers.
    return percent | escaped | ({secret.lower(), secret.upper()} if any(map(str.isdigit, secret)) else set())


def _encoded(raw: bytes) -> set[str]:
    """In hexadecimal and base64, and in base64 once more, as files of settings have a user and a password."""
    once = _base64(raw)
    return {raw.hex(), raw.hex().upper(), *once, *(two for one in once for two in _base64(one.encode()))}


def _base64(raw: bytes) -> set[str]:
    """The characters of base64 that do not depend on what is encoded before and after `raw`."""
    found = set()
    for shift, first in ((0, 0), (1, 2), (2, 3)):
        whole = base64.b64encode(bytes(shift) + raw).decode()[first : (shift + len(raw)) * 8 // 6]
        found |= {whole, whole.translate(str.maketrans("+/", "-_"))}
    return found


def _beginnings(text: str, form: str) -> Iterator[tuple[int, int]]:
    """Where `form` stands in `text`, or as much of its beginning as does, and the rest of it."""
    begin = text.find(form[:_HEAD])
    while begin >= 0:
        same = _same(text, form, begin, _HEAD)
        yield begin, begin + same
        yield from _rest(text, form, begin + same, same)
        begin = text.find(form[:_HEAD], begin + 1)


def _pieces(text: str, parts: _Parts) -> Iterator[tuple[int, int]]:
    """Where any of `parts` stands in `text`, and as much of its form as goes on before and behind it.

    Each part has `_GRAM` characters that begin at a multiple of `_STEP`: only around those that a part may have is
    looked for parts.
    """
    at = 0
    grams = parts.grams
    for near in [one for one in range(0, len(text), _STEP) if text[one : one + _GRAM] in grams] if grams else ():
        at = max(at, near - _STEP + 1)
        while at <= near:
            if (place := parts.places.get(text[at : at + _HEAD])) is None:
                at += 1
                continue
            form, inside = place
            end = at + _same(text, form[inside:], at, _HEAD)
            yield at - _same(text[max(0, at - inside) : at][::-1], form[:inside][::-1], 0, 0), end
            at = end - _HEAD + 1


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
