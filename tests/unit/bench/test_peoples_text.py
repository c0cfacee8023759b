"""What people and models wrote reaches the reader as it is, in every view; only what would act is escaped."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from acting import acting
from ansible_collections.edgelab.model_trial.plugins.module_utils.words import ACTS
from markdown_it import MarkdownIt
from trialbench.report.compare import compare_table
from trialbench.report.documents.markdown import escape
from trialbench.report.export import write_exports
from trialbench.report.html.comparison import write_comparison
from trialbench.report.html.report import report_html
from trialbench.show import html, svg
from trialbench.show.terminal import line, say, screen
from trialbench.show.text import columns, wrap

pytestmark = pytest.mark.usefixtures("few_resamples")

REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"

# Text, and how it is shown.
TEXTS = [
    ("une balle, 1,5\u00a0m «\u00a0grande\u00a0» n\u202f=\u202f3", None),
    ("\u0645\u06cc\u200c\u0628\u06cc\u0646\u0645", None),
    ("\u0915\u094d\u200d\u0937", None),
    ("ボールが見えます。\u3000距離は1.5メートル。", None),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 ❤\ufe0f \U0001f44d\U0001f3fd", None),
    ("soft\u00adhyphen \u2003em \u2009thin zero\u200bwidth word\u2060joiner \ufeffmark", None),
    ("private \U0000e000, not assigned \u0378, a flag \U0001f3f4\U000e0067\U000e0062\U000e007f", None),
    ("nul \x00 bell \x07 escape \x1b[2J delete \x7f", r"nul \x00 bell \x07 escape \x1b[2J delete \x7f"),
    ("C1 \x9b31m \x85", r"C1 \x9b31m \x85"),
    ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
    ("half \ud83d of a pair", r"half \ud83d of a pair"),
    ("\u202egnp.exe\u202c \u2066x\u2069 \u200e\u200f\u061c", r"\u202egnp.exe\u202c \u2066x\u2069 \u200e\u200f\u061c"),
]


def said(text: str) -> str:
    out = io.StringIO()
    say(text, out)
    return out.getvalue().removesuffix("\n")


VIEWS: dict[str, Callable[[str], str]] = {
    "terminal": said,
    "line": lambda text: line(text, 200),
    "columns": lambda text: columns([[text, "x"]]).removesuffix("  x"),
    "wrap": wrap,
    "page": html.shown,
    "cell of a page": html.brief,
    "prose of a page": lambda text: str(html.prose(text)),
    "Markdown": lambda text: unescape(MarkdownIt().renderInline(escape(text))),
    "chart": lambda text: str(ElementTree.fromstring(svg.element("text", text)).text),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_only_what_would_act_is_escaped(view: str, text: str, shown: str | None) -> None:
    found = VIEWS[view](text)
    assert found == (text if shown is None else shown)
    assert acting(found) == []


@pytest.mark.prove
def test_every_character_is_either_kept_or_acts() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1))).replace("\t", "")
    kept = set(everything) - set(acting(everything))
    assert acting(screen(everything)) == []
    assert kept <= set(screen(everything))


def test_what_acts_is_the_same_on_a_host() -> None:
    """The acting side has a rule of its own, for what a trial shows while it runs."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert ACTS.findall(everything) == acting(everything.replace("\t", ""))


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_a_reply_is_the_same_on_the_page_and_in_the_exports(tmp_path: Path, text: str, shown: str | None) -> None:
    run = tmp_path / "run"
    shutil.copytree(REAL, run)
    samples = run / "samples" / "describe-candidate.jsonl"
    lines = [json.loads(one) for one in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(one | {"content": text}) + "\n" for one in lines[:3]))
    write_exports(run, ["csv"])
    with (run / "exports" / "samples.csv").open(newline="", encoding="utf-8") as stream:
        cells = {row["content"] for row in csv.DictReader(stream) if row["segment"] == "describe-candidate"}
    expected = text if shown is None else shown
    assert expected in cells
    assert f">{expected}</blockquote>" in report_html(run).replace("&#39;", "'")


def test_a_name_of_another_direction_leaves_the_figures_behind_it_where_they_are(tmp_path: Path) -> None:
    """Without isolation, a browser would show a date behind an Arabic name before it."""
    run = tmp_path / "run"
    shutil.copytree(REAL, run)
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"host": "ورشة"}))
    page = write_comparison([run], tmp_path / "compare.html").read_text(encoding="utf-8")
    for document in (report_html(run), page):
        assert re.search(r"<bdi>ورشة</bdi> <span [^>]*>/</span>", document)
        assert not re.search(r"(?<!<bdi>)ورشة <span", document)


def test_a_remark_below_the_runs_shows_text_as_their_table_does() -> None:
    host = "salle\u00a02 \u202e"
    table = compare_table([], [(host, "bell \x07, 1,5\u00a0m")])
    assert table.count("salle\u00a02 \\u202e") == 2
    assert "bell \\x07, 1,5\u00a0m" in table
