"""Templates to one HTML file. Text from a model, server or log is escaped, shortened and made visible."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from trialbench.show.terminal import line, screen
from trialbench.show.text import counted, middle, together

_HERE = Path(__file__).parent / "templates"
_PARTS = {".css": "style", ".js": "script"}
# Maximum length of a text, in characters; a page that grows too large uses the smaller limits.
_LIMITS = (4000, 500, 100)
_BRIEF, _SENTENCE = 200, 1000
# Columns of a number with its unit, which stays on one line.
_FIGURE = 40
# Characters and lines of a text that are shown; the rest is behind a fold.
_FOLDED, _FOLDED_LINES = 600, 8
_JOINED = "\N{ZERO WIDTH JOINER}\N{VARIATION SELECTOR-16}"
# Documented maximum: 2 MB.
MAX_BYTES = 1_900_000


def render(template: Path, *, max_bytes: int = MAX_BYTES, **values: Any) -> str:
    """The document that `template` makes of `values`, with style and script inside, below `max_bytes`.

    A template extends `base.html.j2` and imports `macros.html.j2`, which are in this folder. Its own style and script
    are beside it under its name, such as `page.css` beside `page.html.j2`.
    """
    page = ""
    for limit in _LIMITS:
        page = _render(template, limit, values)
        if len(page.encode()) <= max_bytes:
            break
    return page


def _part(template: Path, suffix: str) -> str:
    """The style or script of every page, and then that of `template`."""
    places = (_HERE / f"{_PARTS[suffix]}{suffix}", template.with_name(template.name.partition(".")[0] + suffix))
    return "".join(place.read_text(encoding="utf-8") for place in places if place.exists())


def _render(template: Path, limit: int, values: dict[str, Any]) -> str:
    def put(value: Any) -> Any:
        return shown(value, limit) if isinstance(value, str) else value

    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=put,
    )
    environment.filters["prose"] = lambda text: prose(text, min(limit, _SENTENCE))
    environment.filters["together"] = together
    environment.filters["brief"] = brief
    environment.filters["counted"] = counted
    environment.filters["figure"] = lambda text: middle(brief(text), _FIGURE)
    environment.filters["fold"] = lambda text: fold(shown(text, limit))
    style, script = _part(template, ".css"), _part(template, ".js")
    # Only this style and script are allowed, and nothing is fetched; the browser enforces both.
    policy = (
        f"default-src 'none'; style-src '{_fingerprint(style)}'; script-src '{_fingerprint(script)}';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template.name)
    return page.render(style=Markup(style), script=Markup(script), policy=Markup(policy), **values)


def shown(text: str, limit: int = _LIMITS[0]) -> str:
    """`text` for a page: truncated, with invisible characters escaped.

    Markup, which only this package creates, is left unchanged.
    """
    if isinstance(text, Markup):
        return text
    kept = screen(text[:limit])
    # Escapes make the text longer.
    return kept if len(text) <= limit and len(kept) <= 4 * limit else f"{kept[: 4 * limit]} ... (cut)"


def brief(text: str) -> str:
    """`text` on one short line, for names, labels and cells; what is too long loses its middle."""
    return text if isinstance(text, Markup) else middle(line(text, _LIMITS[0]), _BRIEF)


def fold(text: str) -> tuple[str, str]:
    """The beginning of `text`, and the rest of it where it is long, cut between words and lines."""
    most = min(_FOLDED, sum(len(one) + 1 for one in text.split("\n", _FOLDED_LINES)[:_FOLDED_LINES]))
    if len(text) <= most + _FOLDED // 2 and text.count("\n", most) <= _FOLDED_LINES // 2:
        return text, ""
    at = max(text.rfind(" ", 0, most), text.rfind("\n", 0, most))
    at = most if at < most // 2 else at + 1
    while at < len(text) and (unicodedata.combining(text[at]) or text[at] in _JOINED or text[at - 1] in _JOINED):
        at += 1
    return text[:at], text[at:]


def prose(text: str, limit: int = _LIMITS[0]) -> Markup:
    """`text` escaped, with the parts between backticks marked up as code."""
    parts = shown(text, limit).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def _fingerprint(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
