"""A Markdown document as lines and parsed structure, for edits that leave everything else unchanged.

A real parser identifies headings, tables and lists, so look-alikes inside a code fence, an indented block or an HTML
comment are ignored. The text is never re-rendered. An edit replaces a span of characters, and
everything outside of it stays byte for byte, line ends, mark of order and odd widths included.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from trialbench.errors import UsageError
from trialbench.show.terminal import line as one_line

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_PIPE = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LITERAL = {"fence", "code_block", "html_block"}
# Characters that Markdown or common extensions (mathematics, bare links) would not render literally.
_ACTIVE = re.compile(r"[\\`*\[\]<>|#~&${]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
# What becomes one blank: blanks, tabs and line ends. A no-break space or a wide one is a part of the text.
_BLANKS = re.compile(r"[ \t\r\n]+")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]+\]")
_TAG = re.compile(r"<(/?[A-Za-z][\w-]*)")
_VOID = {"br", "img", "wbr"}
# What these tags hold is struck out, or a footnote's mark.
_HIDING = {"del", "s", "strike", "sup"}


class Refused(UsageError):
    """A document that lacks an expected place, or has several; names the document and the place."""


class Edit(NamedTuple):
    """Characters `start` to `end` of a document are replaced by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading, or a paragraph that is nothing but a title (level 7). Lines count from 0."""

    line: int
    level: int
    text: str


class Span(NamedTuple):
    """Lines `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """A table row: its line, and for each cell the span of characters within that line between the pipes."""

    line: int
    text: str
    cells: tuple[tuple[int, int], ...]
    references: Mapping[str, Any]

    def raw(self, column: int) -> str:
        """A cell with its padding; empty where the row is too short."""
        if column >= len(self.cells):
            return ""
        start, end = self.cells[column]
        return self.text[start:end]

    def plain(self, column: int) -> str:
        """A cell as a reader sees it."""
        return plain(self.raw(column), self.references)

    def led(self, column: int) -> str:
        """What begins a cell as one thing (`led`)."""
        return led(self.raw(column), self.references)


class Page:
    """A document.

    Args:
        name: what the document is called in messages.
        text: its characters, undecodable bytes as lone surrogates.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        # Link definitions, filled when the text is parsed.
        self.references: dict[str, Any] = {}
        # The byte order mark belongs to no line; with it, the first heading would not parse.
        self._offset = 1 if text.startswith("\ufeff") else 0
        self.lines: list[str] = _LINE.findall(text, self._offset)
        self.starts: list[int] = []
        at = self._offset
        for entry in self.lines:
            self.starts.append(at)
            at += len(entry)
        self.starts.append(at)

    @cached_property
    def eol(self) -> str:
        """The most frequent line end, or a newline if there is none."""
        ends = Counter(found[0] for found in re.finditer(r"\r\n|\r|\n", self.text))
        return ends.most_common(1)[0][0] if ends else "\n"

    @cached_property
    def tokens(self) -> list[Token]:
        """The parser's tokens."""
        env: dict[str, Any] = {}
        tokens = _parser().parse("".join(self.lines), env)
        self.references.update(env.get("references", {}))
        return tokens

    def blocks(self, *kinds: str) -> Iterator[Span]:
        """Lines of top-level blocks of these kinds (not inside a list or quotation)."""
        for token in self.tokens:
            if token.level == 0 and token.type in kinds and token.map:
                yield Span(*token.map)

    @cached_property
    def literal(self) -> set[int]:
        """Lines of code and HTML at any depth, which contain no Markdown."""
        found: set[int] = set()
        for token in self.tokens:
            if token.type in _LITERAL and token.map:
                found.update(range(*token.map))
        return found

    @cached_property
    def texts(self) -> list[Span]:
        """Lines of each run of text, at any depth."""
        return [Span(*token.map) for token in self.tokens if token.type == "inline" and token.map]

    @cached_property
    def headings(self) -> list[Heading]:
        """Headings in order, and paragraphs of one line that are set bold as one."""
        found = []
        for token, inside in pairwise(self.tokens):
            if token.level or not token.map:
                continue
            if token.type == "heading_open":
                found.append(Heading(token.map[0], int(token.tag[1:]), plain(inside.content, self.references)))
            elif token.type == "paragraph_open" and re.fullmatch(r"(\*\*|__)[^*_\n]+\1:?", inside.content):
                found.append(Heading(token.map[0], 7, plain(inside.content.rstrip(":"), self.references).rstrip(":")))
        return found

    def section(self, title: re.Pattern[str], what: str) -> Span:
        """Lines of the one section whose heading is `title`, or else contains it; the heading is included.

        Raises:
            Refused: there is none, or more than one.
        """
        found = [heading for heading in self.headings if title.search(heading.text)]
        # A heading "Registry of active models" can precede "Active Models".
        found = [heading for heading in found if title.fullmatch(heading.text)] or found
        if len(found) != 1:
            where = f" (lines {', '.join(str(one.line + 1) for one in found)})" if found else ""
            raise self.refused(f"one heading {what}", f"{len(found) or 'none'}{where}")
        [heading] = found
        after = (one.line for one in self.headings if one.line > heading.line and one.level <= heading.level)
        return Span(heading.line, next(after, len(self.lines)))

    def comments(self) -> Iterator[tuple[int, str]]:
        """Lines that hold an HTML comment and nothing else: (line, text)."""
        for block in self.blocks("html_block"):
            for number in range(*block):
                text = self.content(number).strip()
                if text.startswith("<!--") and text.endswith("-->"):
                    yield number, text

    def table(self, block: Span) -> list[Row]:
        """Rows of the table that fills `block`: the header, then the body; the line of dashes is left out.

        A line without a pipe directly below a table is a row of one cell to a parser and none to its author.
        """
        numbers = [block.start, *range(block.start + 2, block.end)]
        return [self.row(number) for number in numbers if _PIPE.search(self.lines[number])]

    def row(self, number: int) -> Row:
        """Line `number` as a table row."""
        text = self.content(number)
        pipes = [found.start() for found in _PIPE.finditer(text)]
        bounds = [-1, *pipes, len(text)]
        cells = [(left + 1, right) for left, right in pairwise(bounds)]
        # Outer pipes are optional; what lies outside of them is not a cell.
        if pipes and not text[: pipes[0]].strip():
            cells = cells[1:]
        if cells and pipes and not text[pipes[-1] + 1 :].strip():
            cells = cells[:-1]
        return Row(number, text, tuple(cells), self.references)

    def content(self, number: int) -> str:
        """A line without its end."""
        return self.lines[number].rstrip("\r\n")

    def span(self, block: Span) -> tuple[int, int]:
        """Character positions of whole lines."""
        return self.starts[block.start], self.starts[block.end]

    def line_at(self, position: int) -> int:
        """The line of a character position."""
        return max(0, bisect.bisect_right(self.starts, position) - 1)

    def trimmed(self, block: Span) -> Span:
        """`block` without the blank lines at its end."""
        end = block.end
        while end > block.start and not self.lines[end - 1].strip():
            end -= 1
        return Span(block.start, end)

    def insert_after(self, number: int, new: Sequence[str]) -> Edit:
        """New lines after line `number` (-1: at the beginning); a missing end of the last line stays missing."""
        body = self.eol.join(new)
        if number < 0:
            return Edit(self._offset, self._offset, body + self.eol)
        at = self.starts[number + 1]
        if self.lines[number].endswith(("\r", "\n")):
            return Edit(at, at, body + self.eol)
        return Edit(at, at, self.eol + body)

    def replace_line(self, number: int, new: str) -> Edit:
        """Line `number` with other content and the same end."""
        start = self.starts[number]
        return Edit(start, start + len(self.content(number)), new)

    def edited(self, edits: Sequence[Edit]) -> str:
        """The text after `edits`, which don't overlap."""
        found, at = [], 0
        for edit in sorted(edits, key=lambda one: (one.start, one.end)):
            if edit.start < at:
                raise AssertionError(f"{self.name}: edits overlap at {edit.start}")
            found += [self.text[at : edit.start], edit.text]
            at = edit.end
        return "".join([*found, self.text[at:]])

    def refused(self, expected: str, found: str) -> Refused:
        """The error that names this document."""
        return Refused(f"{self.name}: expected {expected}, found {found}. None of the documents was touched")


@cache
def _parser() -> MarkdownIt:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise UsageError(
            "documents: expected the package markdown-it-py, found none "
            "(do: pip install 'edgelab-trialbench[controller]')"
        ) from error
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def masked(text: str) -> str:
    """`text` with code spans and HTML comments blanked: positions stay, look-alikes go."""
    for pattern in (_COMMENT, _CODE):
        text = pattern.sub(lambda found: re.sub(r"[^\r\n]", "\0", found[0]), text)
    return text


def rendered(markdown: str) -> str:
    """What a reader sees of `markdown`, as HTML without white space, line breaks and the borders of paragraphs."""
    return re.sub(r"\s+|</?p>|<br />", "", _parser().render(markdown.removeprefix("\ufeff")))


def escape(text: str, limit: int = 200) -> str:
    """Untrusted text as inert Markdown: one line, no markup, safe in a table cell; spaces of other widths stay."""
    shown = one_line(_BLANKS.sub(" ", text).strip(" "), limit)
    return _ACTIVE.sub(_backslash, shown) or "?"


def word(text: str) -> str:
    """`text` as one word that an HTML comment can hold, different for different texts; a run's id stays as it is."""
    return re.sub("-(?=-)", "%2D", quote(text, safe="/.:", errors="surrogatepass"))


def plain(markdown: str, references: Mapping[str, Any] | None = None) -> str:
    """Inline Markdown as a reader sees it: without padding, markup, tags, footnotes and what is struck out.

    Args:
        references: the document's link definitions (`Page.references`).
    """
    return _visible(_inline(markdown, references))


def led(markdown: str, references: Mapping[str, Any] | None = None) -> str:
    """What begins inline Markdown as one thing: its leading code, link or bold text, or what comes before a line break.

    Empty if nothing sets the beginning off from the rest.
    """
    tokens = _inline(markdown, references)
    while tokens and (
        tokens[0].type == "image" or (tokens[0].type == "text" and not re.search(r"\w", tokens[0].content))
    ):
        del tokens[0]
    if tokens and tokens[0].type == "text":
        breaks = [at for at, token in enumerate(tokens) if _tag(token) in ("br", "small", "sub")]
        return _visible(tokens[: breaks[0]]) if breaks else ""
    depth = 0
    for at, token in enumerate(tokens):
        depth += _nesting(token)
        if depth <= 0:
            return _visible(tokens[: at + 1])
    return ""


def _tag(token: Token) -> str:
    """The name of an HTML tag, with its slash; empty for anything else."""
    found = _TAG.match(token.content) if token.type == "html_inline" else None
    return found[1].casefold() if found else ""


def _nesting(token: Token) -> int:
    """1 for what opens, -1 for what closes, 0 for anything else."""
    tag = _tag(token)
    return (-1 if tag.startswith("/") else int(tag not in _VOID)) if tag else token.nesting


def _inline(markdown: str, references: Mapping[str, Any] | None) -> list[Token]:
    """The parser's inline tokens, without the marks of footnotes."""
    text = markdown.strip().replace(r"\|", "|")
    for mark in reversed(list(_FOOTNOTE.finditer(masked(text)))):
        text = text[: mark.start()] + text[mark.end() :]
    [token] = _parser().parseInline(text, {"references": references or {}})
    return list(token.children or [])


def _visible(tokens: Sequence[Token]) -> str:
    found, hidden = "", 0
    for token in tokens:
        tag = _tag(token)
        if token.type in ("s_open", "s_close") or tag.removeprefix("/") in _HIDING:
            hidden += _nesting(token)
        elif hidden > 0:
            continue
        elif token.type in ("softbreak", "hardbreak") or tag == "br":
            found += " "
        elif token.type in ("text", "code_inline"):
            found += token.content
    # A link whose definition is missing.
    return " ".join(re.sub(r"\A\[([^\]]+)\](?:\[[^\]]*\])?", r"\1", found.strip()).split())


def _backslash(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
