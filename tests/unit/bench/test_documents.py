"""The user's three Markdown documents: what is written into them, and that nothing else in them changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from profiles import examples
from published import accept
from sample_lines import compared
from trialbench import files, schemas
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.report import documents
from trialbench.report.documents import MEMORY, REGISTRY, RESEARCH, markdown, write_documents
from trialbench.report.documents.markdown import Edit, Page, Refused, Span, escape, masked, word
from trialbench.report.documents.memory import memory_edits
from trialbench.report.documents.registry import registry_edits
from trialbench.report.documents.research import research_edits, shown_run
from trialbench.report.documents.trial import Trial
from trials import BARE, LABEL, MEASURED, RUN, Edits, a_trial, edited, segment

SAMPLES = Path(__file__).resolve().parents[3] / "images" / "twin" / "her-os"


def research(text: str, run: Trial = RUN) -> str:
    return edited(research_edits, text, run)


def registry(text: str, run: Trial = RUN) -> str:
    return edited(registry_edits, text, run)


def memory(text: str, run: Trial = RUN) -> str:
    return edited(memory_edits, text, run)


def kept(before: str, after: str) -> tuple[str, str]:
    """What went and what came: everything before and behind it is the same."""
    start = next(at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new)
    end = next(at for at, (old, new) in enumerate(zip(before[::-1], after[::-1], strict=False)) if old != new)
    return before[start : len(before) - end], after[start : len(after) - end]


# --- the research document --------------------------------------------------------------------------------------------


def test_the_sentence_becomes_a_block() -> None:
    before = (SAMPLES / RESEARCH).read_text()
    after = research(before)
    sentence = "For Q4_K_M on an RTX 5070 Ti no benchmarks exist yet."
    head, _, tail = before.partition(sentence)
    assert after.startswith(head)
    assert after.endswith(tail)
    block = after[len(head) : len(after) - len(tail)].splitlines()
    begin = f"<!-- model-trial numbers of {LABEL}: begin, run {RUN.id} of 2026-11-21 00:52 UTC; "
    assert re.fullmatch(re.escape(begin) + r"`trialbench documents` rewrites it; sum [0-9a-f]{8} -->", block[0])
    assert block[1:] == [
        "",
        "Tried on panda on 2026-11-21: **PENDING REVIEW** (nobody has judged yet; adherence 99/100).",
        "",
        f"| nav | {LABEL} | gemma-4-E2B-it before | gemma-4-E2B-it after |",
        "|---|---|---|---|",
        "| p50 ms, 95 % interval | 13.8 [13.3, 14.1] | 7.5 [13.3, 14.1] | 7.6 [13.3, 14.1] |",
        "| p95 ms, 95 % interval | >= 13.3 | >= 13.3 | >= 13.3 |",
        r"| p99 ms, 95 % interval | \~max 46.4 | \~max 46.4 | \~max 46.4 |",
        "| tok/s | 218 | 218 | 218 |",
        "| effective Hz, 1 / p50 | 72.6 | 72.6 | 72.6 |",
        "| VRAM GB above the drained 4.22 | 6.15 | - | - |",
        "| adherence | 99/100, 99 % | 99/100, 99 % | 99/100, 99 % |",
        "| distinct questions, replies | 1, 2 | 1, 2 | 1, 2 |",
        "| valid replies | 100/100 | 100/100 | 100/100 |",
        "| p50 ms, prompt cache on | 9.2 [13.3, 14.1] | - | - |",
        "",
        f"<!-- model-trial numbers of {LABEL}: end -->",
    ]


def test_the_facts_stand_first_below_the_numbers() -> None:
    obeys = "; ".join(["obeys in 60 of 60 scenes"] * 15)
    told = f"fits: 6.2 of 5.5-7.5 GB; 65 % slower; {obeys}; <b>judged</b> better"
    measured = replace(MEASURED, comparisons=[compared(2.0, text="latency: 2 x")])
    text = research("no benchmarks exist yet", a_trial(measured, answer=told))
    assert "\n\n* fits: 6.2 of 5.5-7.5 GB; 65 % slower; obeys" in text
    assert "\\<b\\>judged\\</b\\> better\n* latency: 2 x\n" in text
    # The block is still ours: the next run rewrites it.
    assert "fits" not in research(text)


def test_a_later_run_rewrites_its_block_alone() -> None:
    first = research("A\n\nno benchmarks exist yet\n\nB")
    later = a_trial(id="20261122T000000Z-x", begun="2026-11-22 00:00", verdict="ADOPT", reasons=["better"])
    second = research(first, later)
    assert second.startswith("A\n\n<!-- model-trial")
    assert second.endswith("end -->\n\nB")
    assert second.count("model-trial numbers") == 2
    assert "**ADOPT** (better)" in second
    assert RUN.id not in second


def test_another_model_gets_a_block_below() -> None:
    first = research("no benchmarks exist yet\n\nB\n")
    second = research(first, a_trial(label="gemma-4-E4B-it-NVFP4"))
    assert second.startswith(first.removesuffix("\n\nB\n"))
    assert second.endswith("<!-- model-trial numbers of gemma-4-E4B-it-NVFP4: end -->\n\nB\n")
    # Its own sentence, where there is one, comes first.
    third = research(first + "\nFor NVFP4 no benchmarks exist yet.\n", a_trial(label="gemma-4-E4B-it-NVFP4"))
    assert third.startswith(first)


@pytest.mark.parametrize(
    ("before", "left", "right"),
    [
        ("no benchmarks exist yet", "", ""),
        ("**No benchmarks exist yet.**\n", "", "\n"),
        ("One is. For it *no\nbenchmarks exist yet*! Two (2.5 GB) are.\n", "One is. ", " Two (2.5 GB) are.\n"),
        ("a\nb. No benchmarks exist yet.\nC is.", "a\nb. ", "\nC is."),
        ("# T\nno benchmarks exist yet\n# U\n", "# T\n", "\n# U\n"),
        ("   no benchmarks exist yet  \n", "   ", "  \n"),
        ("`no benchmarks exist yet` is it. No benchmarks exist yet.\n", "`no benchmarks exist yet` is it. ", "\n"),
    ],
)
def test_what_else_the_paragraph_says_stays(before: str, left: str, right: str) -> None:
    after = research(before)
    assert after.startswith(left)
    assert after.endswith(right)
    block = after[len(left) : len(after) - len(right)]
    assert block.strip().startswith("<!-- model-trial numbers")
    assert block.strip().endswith("end -->")
    # Alone in its place it needs no blank lines of ours.
    assert block.startswith("\n\n") == bool(left.strip(" #T\n"))
    assert block.endswith("\n\n") == bool(right.strip(" #U\n"))


# The paragraph before and after: {} is where the block comes, None is "refused, and nothing changed".
NEIGHBORS: dict[str, tuple[str, str | None]] = {
    "a lower-case word begins the next sentence": (
        "For Q4 no benchmarks exist yet. llama.cpp can not load it.",
        "{} llama.cpp can not load it.",
    ),
    "stops in numbers and names": (
        "See llama.cpp. It has 5.0 GB. No benchmarks exist yet. It needs b6000.",
        "See llama.cpp. It has 5.0 GB. {} It needs b6000.",
    ),
    "a footnote belongs to the sentence before it": (
        "It has 5.0 GB.[^1] For it no benchmarks exist yet. It needs b6000.\n\n[^1]: By its card.",
        "It has 5.0 GB.[^1] {} It needs b6000.\n\n[^1]: By its card.",
    ),
    "its own footnote": ("It is. For it no benchmarks exist yet.[^2] It needs b6000.", None),
    "its own footnote as HTML": ("It is. For it no benchmarks exist yet.<sup>2</sup> It needs b6000.", None),
    "its own reference": ("It is. For it no benchmarks exist yet.[2] It needs b6000.", None),
    "its own footnote, as one digit": ("It is. For it no benchmarks exist yet.¹ It needs b6000.", None),
    "a footnote in it": ("For Q4[^1] no benchmarks exist yet. It is.", None),
    "in a footnote": ("[^1]: It is. No benchmarks exist yet. Yes.", None),
    "a line break of HTML behind it": ("It is. No benchmarks exist yet.<br>Next.", None),
    "a line break of HTML before it": ("It is.<br>No benchmarks exist yet. Next.", "It is.<br>{} Next."),
    "lines broken by HTML": ("It is<br>\nNo benchmarks exist yet<br>\nNext", None),
    "a backslash behind it": ("It is.\\\nNo benchmarks exist yet.\\\nNext.", None),
    "spaces that break the line": ("It is.  \nNo benchmarks exist yet.  \nnext is", "It is.  \n{}  \nnext is"),
    "three dots": ("No benchmarks exist yet... Next is.", None),
    "an ellipsis": ("No benchmarks exist yet… Next is.", None),
    "a full stop of another script": ("最初。No benchmarks exist yet。次です。", "最初。{}次です。"),
    "an exclamation of another script": ("No benchmarks exist yet！次です。", "{}次です。"),
    "a semicolon behind it": ("No benchmarks exist yet; the vendor has some.", None),
    "a semicolon before it": ("Q8 is too large; for Q4 no benchmarks exist yet. Next.", None),
    "a colon behind it": ("No benchmarks exist yet: Bob is on it.", None),
    "a colon before it": ("To do: no benchmarks exist yet. Next.", None),
    "a comma behind it": ("No benchmarks exist yet, but the vendor claims 80 tok/s. Next.", None),
    "a comma before it": ("In May Bob measured 80 tok/s, so no benchmarks exist yet. Next.", None),
    "a dash behind it": ("No benchmarks exist yet - it needs b6000. Next.", None),
    "a long dash behind it": ("No benchmarks exist yet\u2014ask Bob. Next.", None),
    "a conjunction": ("It has 5.0 GB and no benchmarks exist yet. Next.", None),
    "a conjunction in a place": ("For Q4 we have 5.0 GB and no benchmarks exist yet. Next.", None),
    "a clause": ("Bob says that no benchmarks exist yet. Next.", None),
    "a denial": ("It is false that no benchmarks exist yet. Next.", None),
    "a question": ("Why? No benchmarks exist yet? Next.", None),
    "nothing between the sentences": ("No benchmarks exist yet.Next is.", None),
    "more words": ("No benchmarks exist yet for Q8_0. Next.", None),
    "more words in brackets": ("No benchmarks exist yet (Bob has some). Next.", None),
    "lines without a stop": ("First line\nNo benchmarks exist yet\nLast line", None),
    "a line without a stop above": ("First line\nFor it no benchmarks exist yet.\nLast line", None),
    "a line without a stop that looks like ours": ("For a start\nFor it no benchmarks exist yet. Next.", None),
    "a line without a stop below": ("It is. No benchmarks exist yet\nLast line", None),
    "a wrapped sentence": (
        "It is. For Q4 on an\nRTX 5070 Ti no\nbenchmarks exist yet.\nNext.",
        "It is. {}\nNext.",
    ),
    "quoted": ('"No benchmarks exist yet." That was Bob.', None),
    "quoted with other marks": ("It is. “No benchmarks exist yet.” said Bob.", None),
    "in brackets": ("It is. (No benchmarks exist yet.) Next.", "It is. {} Next."),
    "in brackets of another sentence": ("It is (no benchmarks exist yet). Next.", None),
    "half a bracket": ("No benchmarks exist yet.) Next.", None),
    "bold by itself": ("It is. **No benchmarks exist yet.** Next.", "It is. {} Next."),
    "bold, the stop outside": ("It is. __For Q4_K_M no benchmarks exist yet__. Next.", "It is. {} Next."),
    "bold with its neighbors": ("**It is. No benchmarks exist yet. Next.**", None),
    "bold with one neighbor": ("It *is. No benchmarks exist yet.* Next.", None),
    "a star as the mark of a footnote": ("It is. No benchmarks exist yet.* Next.\n\n\\* By Bob.", None),
    "two stars as the mark of a footnote": ("It is. No benchmarks exist yet.** Next.\n\n\\*\\* By Bob.", None),
    "a dagger as the mark of a footnote": ("It is. No benchmarks exist yet.† Next.", None),
    "an open mark before it": ("It is. _No benchmarks exist yet. Next.", None),
    "struck out": ("It is. ~~No benchmarks exist yet.~~ Next.", None),
    "in a tag": ("It is. <b>No benchmarks exist yet.</b> Next.", None),
    "in a link": ("It is. [No benchmarks exist yet.](http://x) Next.", None),
    "a link in it": ("It is. For [Q4](http://x) no benchmarks exist yet. Next.", None),
    "a comment in it": ("It is. For Q4 <!-- ask Bob --> no benchmarks exist yet. Next.", None),
    "a comment before it": ("It is. <!-- ask Bob --> No benchmarks exist yet. Next.", None),
    "a comment behind it": ("No benchmarks exist yet. <!-- ask Bob --> Next.", "{} <!-- ask Bob --> Next."),
    "a figure in it": ("It is. For Q4 at 5.0 GB no benchmarks exist yet. Next.", None),
    "a speed in it": ("It is. For Q4, with 80 tok/s on paper, no benchmarks exist yet. Next.", None),
    "a fact in brackets in it": ("It is. For Q4 (5.0 GB) no benchmarks exist yet. Next.", None),
    "numbers that are names": ("It is. For Q4_K_M on an RTX 5070 Ti no benchmarks exist yet. Next.", "It is. {} Next."),
    "code in it": ("It is. For `Q4_K_M` no benchmarks exist yet. Next.", "It is. {} Next."),
    "abbreviations in it": ("It is. For Q4 vs. Q8, e.g. here, no benchmarks exist yet. Next.", "It is. {} Next."),
    "an abbreviation before it": (
        "Cards, phones etc. For it no benchmarks exist yet. Next.",
        "Cards, phones etc. {} Next.",
    ),
    "an abbreviation that has a capital behind it": ("It is Q4 vs. No benchmarks exist yet. Next.", None),
    "a word that is perhaps an abbreviation": ("It has xyz. size. for it no benchmarks exist yet. Next.", None),
    "what would become a list": ("No benchmarks exist yet. - a dash", None),
    "what would become a numbered list": ("No benchmarks exist yet. 1) of two", None),
    "what would become a heading": ("No benchmarks exist yet. # 2 is next", None),
    "what would become code": ("No benchmarks exist yet.\n\tNext is.", None),
    "a list below": ("No benchmarks exist yet.\n- next", "{}\n- next"),
    "a heading below it": ("No benchmarks exist yet.\n---\nNext.", None),
    "words before it": ("It is. But so far, for Q4_K_M, no benchmarks exist yet. Next.", "It is. {} Next."),
    "wide spaces": ("It is.\u3000No benchmarks exist yet.\u00a0Next is.", "It is.\u3000{}\u00a0Next is."),
}


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("what", NEIGHBORS)
def test_no_neighbor_of_the_sentence_is_lost(what: str, eol: str) -> None:
    before, expected = (text and f"# T\n\n{text}\n\nEnd.\n".replace("\n", eol) for text in NEIGHBORS[what])
    assert before is not None
    if expected is None:
        with pytest.raises(Refused, match=r'DOC.md: expected .*"no benchmarks exist yet"'):
            research(before)
        return
    left, right = expected.split("{}")
    after = research(before)
    assert after.startswith(left)
    assert after.endswith(right)
    block = after[len(left) : len(after) - len(right)].strip()
    assert block.startswith("<!-- model-trial numbers")
    assert block.endswith("end -->")


def test_a_line_of_the_users_in_the_block_is_not_lost() -> None:
    first = research("A\n\nno benchmarks exist yet\n\nB")
    head, end, tail = first.rpartition("<!-- model-trial numbers")
    with pytest.raises(Refused, match=r"found a line of yours in line \d+ \(do: move it out\)"):
        research(f"{head}Bob doubts it.\n\n{end}{tail}", a_trial(verdict="ADOPT"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("yet; adherence 99/100).", "yet; adherence 99/100). Bob doubts it."),
        ("| valid replies", "| Bob's card | 12.1 | 7 | 7 |\n| valid replies"),
        ("| 218 | 218 |", "| 218 (hot) | 218 |"),
        ("| p95 ms", "| p95 in ms"),
        ("\n\n<!-- model-trial numbers of", "\n\n* Bob doubts it.\n\n<!-- model-trial numbers of"),
    ],
)
def test_words_of_the_users_in_our_lines_are_not_lost(ours: str, theirs: str) -> None:
    first = research("no benchmarks exist yet")
    head, found, tail = first.rpartition(ours)
    assert found
    with pytest.raises(Refused, match=r"found other words or numbers in lines 2 to \d+ \(do: move what is yours"):
        research(f"{head}{theirs}{tail}", a_trial(verdict="ADOPT"))


def test_what_a_formatter_does_to_the_block_is_no_word() -> None:
    """Widths of columns, the rule below the header, blanks at line ends."""
    first = research("A\n\nno benchmarks exist yet")
    wide = first.replace(" | ", "   | ").replace("|---|---|", "| :--- | ---: |").replace("better).", "better).  ")
    assert "**ADOPT**" in research(wide, a_trial(verdict="ADOPT"))
    # A block of before there was a sum, and one that was emptied.
    assert "**ADOPT**" in research(re.sub("; sum [0-9a-f]{8}", "", first), a_trial(verdict="ADOPT"))
    assert research(re.sub(r"(?s)(?<=-->).*(?=\n<!--)", "\n", first)) == first


LOOK_ALIKES = [
    "```\nno benchmarks exist yet\n```\n",
    "~~~~ text\n~~~\nno benchmarks exist yet\n~~~~\n",
    "text\n\n    no benchmarks exist yet\n",
    "<!--\nno benchmarks exist yet\n-->\n",
    "a <!-- no benchmarks exist yet --> b\n",
    "It says `no benchmarks exist yet` there.\n",
    "<div>\nno benchmarks exist yet\n</div>\n",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_are_left_alone(text: str) -> None:
    with pytest.raises(Refused, match=r'DOC.md: expected the sentence "no benchmarks exist yet".*, found neither'):
        research(text)
    both = research(f"{text}\nno benchmarks exist yet\n")
    assert both.startswith(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* no benchmarks exist yet\n", r"found it only in a list, table, heading or quotation \(line 1\)"),
        ("\n> no benchmarks exist yet\n", r"quotation \(line 2\)"),
        ("| a |\n|---|\n| no benchmarks exist yet |\n", r"\(line 3\)"),
        ("no benchmarks exist yet\n===\n", r"\(line 1\)"),
        ("no benchmarks exist yet\n\nNo benchmarks exist yet\n", r"expected one sentence .* found 2 \(lines 1, 3\)"),
        (f"<!-- model-trial numbers of {LABEL}: end -->\n", "expected one begin and one end marker .* in lines 1"),
        ("", "found neither"),
    ],
)
def test_no_place_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        research(text)
    assert str(caught.value).startswith("DOC.md: ")
    assert str(caught.value).endswith("None of the documents was touched")


def test_marks_in_code_are_quotations() -> None:
    block = research("no benchmarks exist yet")
    quoted = f"```\n{block}\n```\n\n"
    assert research(quoted + "no benchmarks exist yet").startswith(quoted)
    assert shown_run(Page("x", quoted), a_trial(begun="2020-01-01 00:00")) is None
    assert shown_run(Page("x", block), a_trial(begun="2020-01-01 00:00")) == RUN.id
    assert shown_run(Page("x", block), RUN) is None


def test_what_is_missing_of_a_run_is_a_dash() -> None:
    bare = a_trial(
        replace(
            MEASURED,
            segments={},
            vram=BARE.vram,
            comparisons=[compared(2.0, text="latency: 2 x | no *difference*")],
        )
    )
    text = research("no benchmarks exist yet", bare)
    assert f"| nav | {LABEL} |\n|---|---|\n| p50 ms, 95 % interval | - |" in text
    assert "| VRAM GB | - |" in text
    assert "\n\n* latency: 2 x \\| no \\*difference\\*\n\n" in text
    nothing = replace(MEASURED, segments={"nav-candidate": segment(adherent=(0, 0))})
    assert "| adherence | - |" in research("no benchmarks exist yet", a_trial(nothing))


# --- the registry -----------------------------------------------------------------------------------------------------


def test_row_peak_and_log() -> None:
    before = (SAMPLES / REGISTRY).read_text().replace("12.8", "13.0")
    after = registry(before)
    retired = "| gemma-3n-E4B-it | 11435 | 5.6 | retired |\n"
    expected = before.replace(retired, f"{retired}| {LABEL} | 11437 | 6.2 | PENDING REVIEW |\n").replace("13.0", "12.8")
    line = f"* 2026-11-21: {LABEL} tried on panda: PENDING REVIEW, 6.2 GB, run {RUN.id}.\n"
    assert after == expected.replace("## Change Log\n\n", f"## Change Log\n\n{line}")


def test_a_verdict_that_came_later_is_written_over() -> None:
    first = registry((SAMPLES / REGISTRY).read_text())
    second = registry(first, a_trial(verdict="ADOPT"))
    assert second == first.replace("PENDING REVIEW", "ADOPT")
    assert second.count(RUN.id) == 1


def test_words_added_to_our_line_stay() -> None:
    first = registry((SAMPLES / REGISTRY).read_text()).replace("tried on panda:", "tried (by me, ADOPT it?) on panda:")
    second = registry(first, a_trial(verdict="REJECT"))
    assert "(by me, ADOPT it?) on panda: REJECT, 6.2 GB" in second


def test_a_second_run_is_logged_besides() -> None:
    first = registry((SAMPLES / REGISTRY).read_text())
    second = registry(first, a_trial(id=f"{RUN.id}-2", verdict="REJECT"))
    assert second.count("tried on panda") == 2
    assert f"REJECT (was PENDING REVIEW), 6.2 GB, run {RUN.id}-2." in second


DOC = """\
# R

| Active Models |
|---|

## Active Models ##

{table}

**Steady-state peak:** {peak}

## Change log

{log}
"""


def doc(
    table: str = "| Model | Port | VRAM GB | Status |\n|-|-|-|-|\n| a | 1 | 4.8 | active |\n| b | 2 | 1.1 | retired |",
    peak: str = "4.8 GB",
    log: str = "* 2026-01-02: x",
) -> str:
    return DOC.format(table=table, peak=peak, log=log)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        # As wide as its neighbors, with their pipes.
        (
            "| Model      | Port  | VRAM GB | Status   |\n|:--|--:|--|--|\n| a          | 1     | 4.8     | active   |",
            f"| {LABEL} | 11437 | 6.2     | PENDING REVIEW |",
        ),
        (
            "Model | Port | VRAM GB | Status\n--|--|--|--\na | 1 | 4.8 | active",
            f"{LABEL} | 11437 | 6.2 | PENDING REVIEW",
        ),
        # Other orders, more columns, words in the header.
        (
            "|Status|Note|VRAM (GB)|**Model**|\n|-|-|-|-|\n|active|x|4.8|a|",
            f"| PENDING REVIEW | | 6.2 | {LABEL} |",
        ),
        # Figures with their unit, in MiB, or by a header in MiB.
        ("| Model | VRAM | Status |\n|-|-|-|\n| a | ~4.8 GB | active |", f"| {LABEL} | 6.2 GB | PENDING REVIEW |"),
        ("| Model | VRAM | Status |\n|-|-|-|\n| a | 4915.2 MiB | active |", f"| {LABEL} | 6300 MiB | PENDING REVIEW |"),
        ("| Model | VRAM MiB | Status |\n|-|-|-|\n| a | 4915.2 | active |", f"| {LABEL} | 6300 | PENDING REVIEW |"),
        ("  | Model | VRAM GB | Status |\n  |-|-|-|\n  | a | 4.8 | active |", f"  | {LABEL} | 6.2 | PENDING REVIEW |"),
    ],
)
def test_a_new_row_is_like_its_neighbors(table: str, row: str) -> None:
    before = doc(table)
    assert (
        registry(before).splitlines()
        == doc(f"{table}\n{row}")
        .replace("x\n", "x\n")
        .replace(
            "\n* 2026-01-02",
            f"\n* 2026-11-21: {LABEL} tried on panda: PENDING REVIEW, 6.2 GB, run {RUN.id}.\n* 2026-01-02",
        )
        .splitlines()
    )


def test_a_table_without_rows_gets_its_first() -> None:
    table = "| Model | VRAM GB | Status |\n|-|-|-|"
    assert f"{table}\n| {LABEL} | 6.2 | PENDING REVIEW |\n" in registry(doc(table, peak="0 GB"))


@pytest.mark.parametrize(
    ("row", "filled"),
    [
        (f"| {LABEL} | 1 | 5 | - |", f"| {LABEL} | 11437 | 6.2 | PENDING REVIEW |"),
        (f"|`{LABEL}`|1|5|active|", f"|`{LABEL}`|11437|6.2|PENDING REVIEW|"),
        (f"| [{LABEL.upper()}](a.md) (4 bit) |   1 |   5 | retired        |", None),
        (f"| {LABEL} |", f"| {LABEL} | 11437 | 6.2 | PENDING REVIEW |"),
        (f"{LABEL} | | 6.2", f"{LABEL} | 11437 | 6.2 | PENDING REVIEW"),
        (
            "| gemma-4-E4B-it-Q4\\_K\\_M | 11437 | 6.2 | PENDING REVIEW |",
            "| gemma-4-E4B-it-Q4\\_K\\_M | 11437 | 6.2 | PENDING REVIEW |",
        ),
    ],
)
def test_an_old_row_is_filled_in(row: str, filled: str | None) -> None:
    table = "| Model | Port | VRAM GB | Status |\n|---|---|---|---|\n| a | 1 | 4.8 | active |\n"
    if filled is None:
        filled = f"| [{LABEL.upper()}](a.md) (4 bit) | 11437 | 6.2 | PENDING REVIEW |"
    assert f"\n{table}{filled}\n" in registry(doc(f"{table}{row}\n| z | 2 | - | active |"))


def test_figures_that_were_not_measured_stay() -> None:
    unmeasured = a_trial(replace(MEASURED, vram=BARE.vram), port=None)
    table = (
        f"| Model | Port | VRAM GB | Status |\n|---|---|---|---|\n| a | 1 | 4.8 | active |\n| {LABEL} | 7 | 5 | new |"
    )
    after = registry(doc(table), unmeasured)
    assert f"| {LABEL} | 7 | 5 | PENDING REVIEW |" in after
    assert f"tried on panda: PENDING REVIEW (was new), run {RUN.id}." in after


@pytest.mark.parametrize(
    ("rows", "peak", "expected"),
    [
        ("| a | 4.8 | active |", "9 GB", "4.8 GB"),
        (
            "| a | 4.8 | **Active** |\n| b | 4.2 GB | active |\n| c | 512 MiB | active |",
            "1.0 GB of 16 GB",
            "9.5 GB of 16 GB",
        ),
        ("| a | 4.85 | active |\n| b | - | active |\n| c | 1 | inactive |", "4.8 GB", "4.85 GB"),
        ("| a | 4.80 | active |", "4.80 GB", "4.80 GB"),
        ("| a | 4.8 | active |", "5000 MiB", "4915.2 MiB"),
        (f"| a | 4.8 | active |\n| {LABEL} | 9 | active |", "13.8 GB", "4.8 GB"),
        ("| a | 4.8 | active |\n| **Total** | 99 | active |", "4.8 GB", "4.8 GB"),
    ],
)
def test_the_peak_is_the_sum_of_the_active_rows(rows: str, peak: str, expected: str) -> None:
    after = registry(doc(f"| Model | VRAM GB | Status |\n|-|-|-|\n{rows}", peak))
    assert f"**Steady-state peak:** {expected}\n" in after


# What is stated of 9 GB in the table, and what is then stated; None is "refused, and nothing changed".
PEAKS: dict[str, str | None] = {
    "Steady-state peak: 12.8 GB": "Steady-state peak: 9.0 GB",
    "Steady state peak 12.8GB": "Steady state peak 9.0GB",
    "**Steady-state peak**: 12.8 GB.": "**Steady-state peak**: 9.0 GB.",
    "**Steady-state peak:** **12.8 GB**": "**Steady-state peak:** **9.0 GB**",
    "- Steady-state peak = 12.8 GiB": "- Steady-state peak = 9.0 GiB",
    "The steady-state peak is about 12.8 GB (the sum of the active rows).": (
        "The steady-state peak is about 9.0 GB (the sum of the active rows)."
    ),
    "All on one card. Panda's steady-state peak is 12.8 GB of 16 GB.": (
        "All on one card. Panda's steady-state peak is 9.0 GB of 16 GB."
    ),
    "Steady-state peak: ~12.8 GB / 16 GB": "Steady-state peak: ~9.0 GB / 16 GB",
    "Steady-state peak VRAM usage: 12.8 GB": "Steady-state peak VRAM usage: 9.0 GB",
    "Steady-state peak: 13107 MiB": "Steady-state peak: 9216 MiB",
    "| Steady-state peak | **12.8 GB** |\n|---|---|": "| Steady-state peak | **9.0 GB** |\n|---|---|",
    "Steady-state peak: 12.8 GB\nSee below.": "Steady-state peak: 9.0 GB\nSee below.",
    "Last year the steady-state peak was 5 GB.\n\nSteady-state peak: 12.8 GB": (
        "Last year the steady-state peak was 5 GB.\n\nSteady-state peak: 9.0 GB"
    ),
    "Steady-state peak: 12,8 GB": None,
    "Steady-state peak: 12,800 MiB": None,
    "Steady-state peak: 12 800 MiB": None,
    "Steady-state peak: 12\u202f800 MiB": None,
    "Steady-state peak: 12'800 MiB": None,
    "Steady-state peak: 1.2.8 GB": None,
    "Steady-state peak: 1e1 GB": None,
    "Steady-state peak: 12.8 to 13.1 GB": None,
    "Steady-state peak: 12.8 GB to 13.1 GB": None,
    "Steady-state peak: 12.8-13.1 GB": None,
    "Steady-state peak: 12.8 - 13.1 GB": None,
    "Steady-state peak: 12.8–13.1 GB": None,
    "Steady-state peak: 12.8..13.1 GB": None,
    "Steady-state peak: 12.8/13.1 GB": None,
    "Steady-state peak: between 12.8 and 13.1 GB": None,
    "Steady-state peak: 12.8 or 13.1 GB": None,
    "Steady-state peak: 12.8 ± 0.2 GB": None,
    "Steady-state peak: 12.8 GB ± 0.2": None,
    "Steady-state peak: 12.8 +/- 0.2 GB": None,
    "Steady-state peak: 12.8 GB +- a little": None,
    "Steady-state peak: 8 + 4.8 GB": None,
    "Steady-state peak: 8 GB + 4.8 GB": None,
    "Steady-state peak: 8 GB plus the phone": None,
    "Steady-state peak: > 12.8 GB": None,
    "Steady-state peak: ≤ 12.8 GB": None,
    "Steady-state peak: up to 12.8 GB": None,
    "Steady-state peak: 12.8 GB or more": None,
    "Steady-state peak: 12.8 GB without the phone": None,
    "Steady-state peak (card of 16 GB) 12.8 GB": None,
    "Steady-state peak (of 16 GB): 12.8 GB": None,
    "Steady-state peak (16 GB card): 12.8 GB": None,
    "Steady-state peak on the 16 GB card: 12.8 GB": None,
    "Steady-state peak 2026-09-14: 12.8 GB": None,
    "Steady-state peak: 12.8 GB (13107 MiB)": None,
    "Steady-state peak: 12.8 GB (measured 2026-09-14)": None,
    "Steady-state peak: 12.8 GB, 80 % of the card": None,
    "Steady-state peak: 80 % of 16 GB": None,
    "Steady-state peak: 12.8 GB/s": None,
    "Steady-state peak: 12.8 GB?": None,
    "**Steady-state peak**—12.8 GB": "**Steady-state peak**—9.0 GB",
    "Steady-state peak: 12.8 TB": None,
    "Steady-state peak: 12.8 Gbit": None,
    "Steady-state peak: 12.8": None,
    "Steady-state peak: **12**.8 GB": None,
    "Steady-state peak: <b>12.8 GB</b>": None,
    "Steady-state peak: ~~12.8 GB~~ 13.1 GB": None,
    "Steady-state peak: 12.8 GB\nto 13.1 GB": None,
    "Steady-state peak: 12.8 GB\n± 0.2": None,
    "Steady-state peak:\n12.8 GB": None,
    "Without the phone the\nsteady-state peak is 12.8 GB": None,
    "Without the phone the steady-state peak is 12.8 GB": None,
    "Last year's steady-state peak was 12.8 GB": None,
    "Expected steady-state peak: 12.8 GB": None,
    "Steady-state peak: 12.8 GB\n\nSteady-state peak with the phone: 13.1 to 13.3 GB": None,
}


@pytest.mark.parametrize("stated", PEAKS)
def test_a_peak_is_written_only_over_one_that_is_understood(stated: str) -> None:
    table = "| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 | active |\n| b | 4.2 | active |"
    before = doc(table).replace("**Steady-state peak:** 4.8 GB", stated)
    expected = PEAKS[stated]
    if expected is None:
        with pytest.raises(
            Refused, match=r'DOC.md: expected one (?:line such as|number).* "Steady-state peak: 12.8 GB"'
        ):
            registry(before)
        return
    assert f"\n{expected}\n" in registry(before)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4,8 | active |", "expected a number as VRAM .* found '4,8'"),
        ("| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8-5.2 | active |", "found '4.8-5.2'"),
        ("| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 ± 0.2 | active |", "found '4.8 ± 0.2'"),
        ("| Model | VRAM GB | Status |\n|-|-|-|\n| a | <5 | active |", "found '<5'"),
        ("| Model | VRAM MiB | Status |\n|-|-|-|\n| a | 4,915 | active |", "found '4,915'"),
        ("| Model | VRAM MiB | Status |\n|-|-|-|\n| a | 4.915 | active |", "found '4.915'"),
        # A unit that nobody names, or two.
        ("| Model | VRAM | Status |\n|-|-|-|\n| a | 4915 | active |", "with its unit"),
        ("| Model | VRAM GB (MiB) | Status |\n|-|-|-|\n| a | 4915 | active |", "with its unit"),
        # Active or not?
        (
            "| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 | active (nights) |",
            r"found 'active \(nights\)', which may",
        ),
        ("| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 | no longer active |", "which may be either"),
        # Rows that would not be counted.
        (
            "| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 | active |\n\n| b | 4.2 | active |",
            "expected the rows under Active Models in one table, found a row outside of it in line 12",
        ),
        (
            "| Model | VRAM GB | Status |\n|-|-|-|\n| a | 4.8 | active |\n<!-- new -->\n| b | 4.2 | **active** |",
            "found a row outside of it in line 12",
        ),
        (
            "| Model | VRAM | Status |\n|-|-|-|\n| a | 4.8 GB | active |\n\nB\n\n| VRAM | Model | Status |\n|-|-|-|\n",
            r"expected one table of models under Active Models, found 2 \(lines 8, 14\)",
        ),
        # Words of the user's beside a figure of the model's own row.
        (
            f"| Model | VRAM GB | Status |\n|-|-|-|\n| {LABEL} | 5.0 by its card | active |",
            "expected a number as VRAM .* found '5.0 by its card'",
        ),
        (
            f"| Model | Port | VRAM GB | Status |\n|-|-|-|-|\n| {LABEL} | 1 or 2 | 5 | x |",
            "expected one port in line 10",
        ),
    ],
)
def test_what_the_peak_is_the_sum_of_is_understood_or_refused(table: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        registry(doc(table))


@pytest.mark.parametrize(
    ("row", "counted"),
    [
        ("| ~~a~~ | ~~4.8~~ | ~~active~~ |", "0.0"),
        ("| a | ~~5.2~~ 4.8 | active |", "4.8"),
        ("| a[^1] | 4.8[^1] | active[^1] |", "4.8"),
        ("| a | <b>4.8</b><sup>1</sup> | <mark>Active</mark> |", "4.8"),
        ("| a | `4.8` | [active](b.md) |", "4.8"),
        ("| a | 4.8 | inactive |", "0.0"),
        ("| Total Recall TTS | 4.8 | active |", "4.8"),
        ("| Total (all) | 4.8 | active |", "0.0"),
        ("| Sum | 4.8 | active |", "0.0"),
    ],
)
def test_cells_are_read_as_a_reader_sees_them(row: str, counted: str) -> None:
    after = registry(doc(f"| Model | VRAM GB | Status |\n|-|-|-|\n{row}", peak="7.5 GB"))
    assert f"**Steady-state peak:** {counted} GB\n" in after


SAME = [
    f"`{LABEL}`",
    f"`{LABEL}` (4 bit)",
    f"`{LABEL}` four bits",
    f"**{LABEL}** (4 bit)",
    f"**{LABEL}** four bits",
    f"__{LABEL}__: four bits",
    f"***{LABEL}*** new",
    f"*`{LABEL}`* new",
    f"[{LABEL}](a.md)",
    f"[{LABEL}](a.md 'title') (4 bit)",
    f"[`{LABEL}`](a.md) four bits",
    f"[**{LABEL}**](<a b.md>), four bits",
    f"**[{LABEL}](a.md)** new",
    f"[{LABEL}][card]",
    f"[{LABEL}][card] four bits",
    f"[`{LABEL}`][card] (4 bit)",
    f"[{LABEL}][]",
    f"[{LABEL}]",
    f"[{LABEL}][nowhere]",
    f"{LABEL}[^1]",
    f"`{LABEL}`[^1] (4 bit)",
    f"**{LABEL}**[^a-b]",
    f"<b>{LABEL}</b>",
    f"<code>{LABEL}</code> four bits",
    f'<a href="a.md">{LABEL}</a> (4 bit)',
    f'<a id="x"></a>{LABEL}',
    f"{LABEL}<br>four bits",
    f"{LABEL}<br/><small>four bits</small>",
    f"{LABEL}<sup>1</sup>",
    f"{LABEL} – four bits",
    f"{LABEL} - four bits",
    f"{LABEL}, four bits",
    f"{LABEL}: four bits",
    f"{LABEL} [4 bit]",
    f"🆕 {LABEL}",
    f"✅ **{LABEL}** new",
    LABEL.upper(),
    LABEL.replace("_", "\\_"),
    LABEL.replace("-", "&#45;"),
]


@pytest.mark.parametrize("cell", SAME)
def test_the_model_is_found_in_any_markup(cell: str) -> None:
    head = "| Model | Port | VRAM GB | Status |\n|---|---|---|---|\n| a | 1 | 4.8 | active |\n"
    before = doc(f"{head}| {cell} | 1 | 5 | active |") + f"\n[card]: http://x\n[{LABEL}]: http://x\n\n[^1]: note\n"
    after = registry(before)
    assert f"\n{head}| {cell} | 11437 | 6.2 | PENDING REVIEW |\n\n" in after


@pytest.mark.parametrize(
    "cell",
    [
        f"{LABEL}-QAT",
        f"{LABEL}_L",
        f"{LABEL}.1",
        f"{LABEL} QAT",
        f"x (replaces {LABEL})",
        f"x, not `{LABEL}`",
        f"{LABEL}:8b",
    ],
)
def test_another_model_is_not_taken_for_it(cell: str) -> None:
    head = "| Model | Port | VRAM GB | Status |\n|---|---|---|---|\n"
    after = registry(doc(f"{head}| {cell} | 1 | 4.8 | active |"))
    assert f"\n{head}| {cell} | 1 | 4.8 | active |\n| {LABEL} | 11437 | 6.2 | PENDING REVIEW |\n" in after


def test_words_beside_a_verdict_stay() -> None:
    table = f"| Model | VRAM GB | Status |\n|-|-|-|\n| {LABEL} | 6.2 | **PENDING REVIEW** (Bob on Friday) |"
    after = registry(doc(table, peak="0 GB"), a_trial(verdict="ADOPT"))
    assert f"| {LABEL} | 6.2 | **ADOPT** (Bob on Friday) |" in after


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("* 2026-01-01: x\n* 2026-02-01: y", "* 2026-01-01: x\n* 2026-02-01: y\nNEW"),
        (
            "- **2026-02-01** — x\n\n- **2026-01-01** — y",
            "- **2026-11-21** — SAID\n\n- **2026-02-01** — x\n\n- **2026-01-01** — y",
        ),
        ("- first\n- second", "- 2026-11-21: SAID\n- first\n- second"),
        (
            "* 2025-01-01: x\n  * 2026-09-09: inside\n\n  more\n\n* 2026-01-01: y\n",
            "* 2025-01-01: x\n  * 2026-09-09: inside\n\n  more\n\n* 2026-01-01: y\n\nNEW",
        ),
        (
            "| Date | What |\n|-|-|\n| 2026-01-02 | x |\n| 2026-01-01 | y |",
            "| Date | What |\n|-|-|\n| 2026-11-21 | SAID |\n| 2026-01-02 | x |\n| 2026-01-01 | y |",
        ),
        (
            "| What | Who | When |\n|-|-|-|\n| x | me | 2026-01-01 |\n| y | i | 2026-01-02 |",
            "| What | Who | When |\n|-|-|-|\n| x | me | 2026-01-01 |\n| y | i | 2026-01-02 |\n| SAID |  | 2026-11-21 |",
        ),
        ("", "NEW"),
        # Into the order of the dates.
        ("* 2026-12-01: x\n* 2026-01-01: y", "* 2026-12-01: x\nNEW\n* 2026-01-01: y"),
        ("* 2026-01-01: x\n* 2026-12-01: y\n* 2027-01-01: z", "* 2026-01-01: x\nNEW\n* 2026-12-01: y\n* 2027-01-01: z"),
        ("* 2026-12-01: x", "* 2026-12-01: x\nNEW"),
        (
            "| Date | What |\n|-|-|\n| 2026-12-02 | x |\n| | y |\n| 2026-01-01 | z |",
            "| Date | What |\n|-|-|\n| 2026-12-02 | x |\n| | y |\n| 2026-11-21 | SAID |\n| 2026-01-01 | z |",
        ),
        # Below headings with dates.
        (
            "### 2026-09-14\n\n- x\n\n### 2026-06-02\n\n- y",
            "### 2026-11-21\n\n- SAID\n\n### 2026-09-14\n\n- x\n\n### 2026-06-02\n\n- y",
        ),
        (
            "### 2026-06-02\n\n- y\n\n### 2026-09-14\n\n- x",
            "### 2026-06-02\n\n- y\n\n### 2026-09-14\n\n- x\n\n### 2026-11-21\n\n- SAID",
        ),
        (
            "### 2026-12-14\n\n+ x\n\n### 2026-06-02\n\n+ y",
            "### 2026-12-14\n\n+ x\n\n### 2026-11-21\n\n+ SAID\n\n### 2026-06-02\n\n+ y",
        ),
        ("### [2026-09-14]\n- x", "### [2026-11-21]\n\n- SAID\n\n### [2026-09-14]\n- x"),
        ("**2026-09-14**\n\n- x", "**2026-11-21**\n\n- SAID\n\n**2026-09-14**\n\n- x"),
        ("2026-09-14\n----------\n\n- x", "NEW\n\n2026-09-14\n----------\n\n- x"),
        ("### 2026-11-21\n\n- x\n\n### 2026-09-14\n\n- y", "### 2026-11-21\n\n- SAID\n- x\n\n### 2026-09-14\n\n- y"),
        ("### 2026-11-21\n\nprose\n\n### 2026-09-14\n\ny", "### 2026-11-21\n\nprose\n\n* SAID\n\n### 2026-09-14\n\ny"),
        ("All of it.\n\n### 2026-09-14\n\n- x", "All of it.\n\n### 2026-11-21\n\n- SAID\n\n### 2026-09-14\n\n- x"),
        # A list before the first heading is the log's own.
        ("* 2026-01-01: x\n\n### Older\n\n* y", "NEW\n* 2026-01-01: x\n\n### Older\n\n* y"),
    ],
)
def test_the_log_takes_the_line_in_its_own_manner(log: str, expected: str) -> None:
    said = f"{LABEL} tried on panda: PENDING REVIEW, 6.2 GB, run {RUN.id}."
    after = registry(doc(log=log))
    _, _, tail = after.partition("## Change log\n\n")
    assert tail.strip() == expected.replace("NEW", "* 2026-11-21: SAID").replace("SAID", said).strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# R\n", 'expected one heading "Active Models", found none'),
        (doc() + "\n### Active models\n", r'expected one heading "Active Models", found 2 \(lines 6, 19\)'),
        (doc("no table"), "expected a table under Active Models, found none"),
        (doc("```\n| Model | VRAM | Status |\n|-|-|-|\n```"), "expected a table under Active Models, found none"),
        (
            doc("| Model | Port | Status |\n|-|-|-|"),
            r"expected one column VRAM .* none \(columns: model, port, status\)",
        ),
        (
            doc("| Model | VRAM min | VRAM max | Status |\n|-|-|-|-|"),
            "expected one column VRAM under Active Models, found 2",
        ),
        (
            doc(f"| Model | VRAM | Status |\n|-|-|-|\n| {LABEL} | 1 | x |\n| {LABEL} | 2 | y |"),
            r"expected one row .* \(lines 10, 11\)",
        ),
        (
            doc("| Model | VRAM | Status |\n|-|-|-|\n| a | about five | active |"),
            "expected a number as VRAM .* line 10, found 'about five'",
        ),
        (doc(peak="unknown"), 'expected one line such as "Steady-state peak: 12.8 GB", found none'),
        (doc(peak="4 GB\n\nSteady-state peak 5 GB"), r"found 2 \(lines 13, 15\)"),
        (doc().replace("## Change log", "## History"), 'expected one heading "Change Log", found none'),
        (
            doc(log="prose"),
            "expected a list or a table of dated lines under Change Log, found something else in line 17",
        ),
        (doc(log="| a | b |\n|-|-|\n| x | y |"), "expected a column with dates"),
        (
            doc(log="| Date | What |\n|-|-|\n| 14.9.2026 | y |"),
            "expected dates such as 2026-01-31 .* found '14.9.2026'",
        ),
        # A list that stands below a date of its own.
        *(
            (
                doc(log=f"{day}\n\n* x"),
                "expected a list or a table of dated lines under Change Log, found one below line 17",
            )
            for day in (
                "2026-09-14",
                "2026-09-14:",
                "*2026-09-14*",
                "14.9.2026",
                "Sept 14, 2026",
                "14th September",
                "2026/09/14",
                "2026",
                "KW 38",
                "<h3>2026-09-14</h3>",
                "<summary>2026</summary>",
                "> 2026-09-14",
                "Q3 2026",
                "v1.2",
                "2026-W38",
            )
        ),
        *(
            (doc(log=f"### {title}\n\n* x"), "expected dates as headings under Change Log, found .* in line 17")
            for title in ("Unreleased", "1.2", "September 2026", "14.9.2026", "2026-09-14 (Bob)", "1.2 - 2026-09-14")
        ),
        (doc(log="### 2026-09-14\n\n* x\n\n### Older\n\n* y"), "found '### Older' in line 21"),
        (doc(log="#### Added\n\n* x\n\n### 2026-09-14\n\n* y"), "found '#### Added' in line 17"),
    ],
)
def test_a_registry_without_a_place_is_refused(text: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        registry(text)
    assert str(caught.value).startswith("DOC.md: ")


def test_look_alikes_in_the_registry_are_left_alone() -> None:
    before = (
        "```\n## Active Models\n\n| Model | VRAM | Status |\n|-|-|-|\n| a | 1 | active |\n\n"
        "Steady-state peak: 1 GB\n```\n\n"
        "<!--\n## Change Log\n\n* 2020-01-01: x\n-->\n\n"
        "| Other | VRAM | Status |\n|-|-|-|\n| " + LABEL + " | 1 | active |\n\n"
        "The `steady-state peak 3 GB` is below; the steady-state peak was 2 GB once.\n\n"
    )
    after = registry(before + doc(log=f"* 2026-01-01: steady-state peak 99 GB\n\n```\n{RUN.id}\n```"))
    assert after.startswith(before)
    assert after.count(RUN.id) == 2


def test_a_title_alone_is_preferred_to_one_among_words() -> None:
    text = f"# Registry of active models and their change log\n\n{doc()}\n## Notes on Active Models\n"
    assert registry(text).count(LABEL) == 3
    [only] = [doc().replace("## Active Models ##", "## 2. Active Models of Panda")]
    assert registry(only).count(LABEL) == 3


def test_a_bold_title_is_a_heading_too() -> None:
    text = doc().replace("## Active Models ##", "**Active Models:**").replace("## Change log", "__Changelog__")
    assert registry(text).count(LABEL) == 3


# --- the memory -------------------------------------------------------------------------------------------------------


def test_the_memory_gets_a_line() -> None:
    before = (SAMPLES / MEMORY).read_text()
    after = memory(before)
    assert after.startswith(before)
    line = (
        f"* 2026-11-21 00:52 UTC, run {RUN.id}: {LABEL} on panda: **PENDING REVIEW** (nobody has judged yet; adherence"
        " 99/100); p50 13.8 ms (live model 7.5), 72.6 Hz, 218 tok/s, 99/100 adherent, 6.15 GB above the drained level,"
        " mute for 13.5 s, blind for 10.1 s."
    )
    assert after[len(before) :].splitlines() == [
        "",
        "## Model trials",
        "",
        "<!-- model-trial runs: begin; `trialbench documents` keeps a line for each -->",
        "",
        line,
        "",
        "<!-- model-trial runs: end -->",
    ]


def test_runs_stand_newest_first_and_are_rewritten_in_place() -> None:
    def order(text: str) -> list[str]:
        return re.findall(r"run (r\d)", text)

    text = "# M"
    for name, begun in (
        ("r2", "2026-11-02 00:00"),
        ("r4", "2026-11-04 00:00"),
        ("r1", "2026-11-01 00:00"),
        ("r3", "2026-11-03 00:00"),
    ):
        text = memory(text, a_trial(id=name, begun=begun))
    assert order(text) == ["r4", "r3", "r2", "r1"]
    assert text.startswith("# M\n\n## Model trials")
    assert not text.endswith("\n")
    again = memory(text, a_trial(id="r2", begun="2026-11-02 00:00", verdict="REJECT"))
    assert order(again) == order(text)
    assert kept(text, again) == ("PENDING REVIEW", "REJECT")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blind for 10.1 s.", "blind for 10.1 s. Bob: it sounds worse (see his mail)."),
        ("on panda: **", "on panda (Bob was there): **"),
        ("; p50 13.8 ms", " Bob doubts it; p50 13.8 ms"),
        ("p50 13.8 ms", "p50 13.8 ms (hot)"),
        ("panda: **PENDING", "panda: he says ADOPT, we say **PENDING"),
    ],
)
def test_words_added_to_the_line_of_a_run_stay(ours: str, theirs: str) -> None:
    first = memory("# M\n")
    mine = first.replace(ours, theirs)
    assert mine != first
    assert memory(mine) == mine
    decided = a_trial(verdict="ADOPT", reasons=["better (12 of 14)", "adherence 99/100"])
    after = memory(mine, decided)
    gone = "**PENDING REVIEW** (nobody has judged yet; adherence 99/100)"
    assert after == mine.replace(gone, "**ADOPT** (better (12 of 14); adherence 99/100)")
    assert memory(after, replace(decided, reasons=["one", "two"])) == mine.replace(gone, "**ADOPT** (one; two)")


def test_a_line_of_a_run_without_its_verdict_is_refused() -> None:
    mine = memory("# M\n").replace("**PENDING REVIEW**", "pending")
    with pytest.raises(Refused, match=r"reasons\)\" once in the line of the run .*, found it not in line 7"):
        memory(mine, a_trial(verdict="ADOPT"))


def test_a_run_that_was_rolled_back_has_no_numbers() -> None:
    back = a_trial(replace(MEASURED, outcome="rolled_back", windows={}), verdict="INCONCLUSIVE", reasons=["smoke"])
    assert f"{LABEL} on panda: rolled back, **INCONCLUSIVE** (smoke).\n" in memory("", back)


def test_an_emptied_block_is_filled_again() -> None:
    text = memory("# M\n")
    emptied = re.sub(r"\* .*\n", "", text)
    assert memory(emptied).count(RUN.id) == 1


def test_a_broken_block_is_refused() -> None:
    with pytest.raises(Refused, match=r"one begin and one end marker around the runs, found markers in lines 3"):
        memory("# M\n\n<!-- model-trial runs: end -->\n")


# --- nothing else changes ---------------------------------------------------------------------------------------------

FILLERS = [
    "",
    "   ",
    "text with trailing spaces  ",
    "\ttab",
    "# Heading",
    "## Another one ##",
    "* item",
    "  * nested",
    "1. one",
    "> quoted",
    "> no benchmarks exist yet",
    "|  odd |width|",
    "|---|:-:|",
    "```",
    "~~~",
    "    indented code",
    "<!-- a comment -->",
    "<details>",
    "</details>",
    "**bold**",
    "---",
    "\u2028 odd separators \x0b \x85",
    "ünïcode 🤖 \ufffd",
    "\\| a \\` b",
    "[link]: http://127.0.0.1/ 'x'",
    "\udcff\udc80 no UTF-8",
]
fillers = st.lists(st.sampled_from(FILLERS), max_size=8)
ends = st.sampled_from(["\n", "\r\n", "\r"])
PLACES = {
    "research": (research_edits, ["For it no benchmarks exist yet."]),
    "registry": (
        registry_edits,
        [
            "## Active Models",
            "",
            "| Model | Port |VRAM GB| Status |",
            "|---|---:|--|--|",
            "| a  |1|  4.8 | active |",
            "",
            "Steady-state peak: 9.0 GB",
            "",
            "## Change Log",
            "",
            "* 2026-01-01: x",
        ],
    ),
    "memory": (memory_edits, [""]),
}


def _takes(make: Edits, page: Page) -> bool:
    try:
        after = page.edited(make(page, RUN))
        again = Page(page.name, after)
        return again.edited(make(again, RUN)) == after
    except Refused:
        return False


@pytest.mark.parametrize("what", PLACES)
@settings(max_examples=examples(150))
@given(above=fillers, below=fillers, eol=ends, bom=st.booleans(), final=st.booleans())
@example(above=["```"], below=[], eol="\n", bom=False, final=False)
@example(above=["text"], below=["text"], eol="\r\n", bom=True, final=False)
def test_all_else_stays_byte_for_byte(
    what: str, above: list[str], below: list[str], eol: str, bom: bool, final: bool
) -> None:
    make, place = PLACES[what]
    text = "\ufeff" * bom + eol.join([*above, "", *place, "", *below]) + eol * final
    page = Page("DOC.md", text)
    # A fence that is not closed swallows the place, or what is added at the end: nothing is written then.
    if {"```", "~~~"} & {*above, *below} and not _takes(make, page):
        return
    edits = make(page, RUN)
    after = page.edited(edits)
    again = Page("DOC.md", after)
    assert again.edited(make(again, RUN)) == after
    # What came in between the parts that stayed is ours alone, with the document's own line ends.
    position, rest = 0, after
    for edit in sorted(edits):
        same = text[position : edit.start]
        assert rest.startswith(same + edit.text)
        rest = rest[len(same) + len(edit.text) :]
        position = edit.end
        assert {found[0] for found in re.finditer(r"\r\n|\r|\n", edit.text)} <= {page.eol}
    assert rest == text[position:]
    gone = "".join(text[edit.start : edit.end] for edit in edits)
    assert len(gone) <= len("For it no benchmarks exist yet.")
    if what == "memory":
        assert not gone


_BITS = [
    "It is", "For it", "for it", "no", "Next", "llama.cpp", "5.0 GB", "vs", "e.g", "x", "...", ".", "。", "…", ";", ":",
    ",", "!", "?", "[^1]", "<br>", "\\", "*", "**", "_", "~~", "(", ")", '"', "”", "`", "<!-- c -->", "<b>", "</b>",
    "- ", "# ", "1. ", "> ", "| a | b |", " ", "  ", "\t", "\n", "  \n", "\r\n", "\r", "\n\n", "&amp;", "[a](b)",
    "[a]", "\u00a0", "\ud800", "\udcff",
]  # fmt: skip
_around = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(_BITS), max_size=6).map("".join))


@settings(max_examples=examples(3000), deadline=None)
@given(
    above=_around,
    sentence=st.sampled_from(
        ["No benchmarks exist yet", "For it no benchmarks exist yet", "For Q4 vs. Q8 no\nbenchmarks exist yet"]
    ),
    below=_around,
)
@example(above="It is.[^1] ", sentence="For it no benchmarks exist yet", below=".[^2] It needs.")
@example(above="It is. ", sentence="No benchmarks exist yet", below=". llama.cpp is. ")
@example(above="OF@", sentence="For it no benchmarks exist yet", below="")
@example(above="of/_", sentence="For it no benchmarks exist yet", below="")
@example(above="in-", sentence="For it no benchmarks exist yet", below="")
def test_nothing_but_the_sentence_goes(above: str, sentence: str, below: str) -> None:
    # A word glued to the sentence would be another word of it, and "for" begins it.
    above += " " * above[-1:].isalnum()
    assume(not re.search(r"(?i)\bfor\s+\Z", above))
    raw = f"# T\n\n{above}{sentence}{below}\n\nEnd.\n".encode("utf-8", "surrogatepass")
    page = Page("DOC.md", raw.decode("utf-8", "surrogateescape"))
    try:
        [edit] = research_edits(page, RUN)
    except Refused:
        return
    gone = page.text[edit.start : edit.end]
    before, found, behind = gone.partition(sentence)
    assert found
    assert not (before + behind).strip("*_().!。！"), gone
    after = page.edited([edit]).encode("utf-8", "surrogateescape")
    assert after.startswith(page.text[: edit.start].encode("utf-8", "surrogateescape"))
    assert after.endswith(page.text[edit.end :].encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("what", ["research", "registry", "memory"])
@settings(max_examples=examples(600), deadline=None)
@given(above=st.binary(max_size=40), below=st.binary(max_size=40), eol=st.sampled_from(["\n", "\r\n", "\r"]))
@example(above=b"\xef\xbb\xbf", below=b"\xff\x00\r", eol="\r\n")
def test_every_byte_outside_of_what_is_ours_survives(what: str, above: bytes, below: bytes, eol: str) -> None:
    make, place = PLACES[what]
    middle = eol.join(["", "", *place, "", ""]).encode()
    raw = above + middle + below
    page = Page("DOC.md", raw.decode("utf-8", "surrogateescape"))
    try:
        edits = make(page, RUN)
    except Refused:
        return
    after = page.edited(edits).encode("utf-8", "surrogateescape")
    assert after.startswith(above)
    assert below in after
    gone = {page.text[edit.start : edit.end] for edit in edits}
    assert gone <= {"", "For it no benchmarks exist yet.", "9.0"}


@settings(max_examples=examples(200))
@given(lines=fillers, eol=ends)
def test_lines_are_those_of_the_parser(lines: list[str], eol: str) -> None:
    page = Page("DOC.md", eol.join(lines))
    assert "".join(page.lines) == page.text
    for token in page.tokens:
        if token.map:
            assert token.map[1] <= max(len(page.lines), 1)


@settings(max_examples=examples(300))
@given(text=st.text(max_size=60))
@example(text="| a `b` <b>*c*</b> [x](y) ![z](w) \\ & &amp; ~~d~~ $e$ {{f}} __g__ http://127.0.0.1 www.x.y # -- -->")
@example(text="\xa0une balle, 1,5\xa0m, n\u202f=\u202f3\u3000\n\t ok\u2003")
@example(text="a\nb\r\n| injected | row |\n<!-- model-trial numbers of x: end -->")
def test_a_strangers_text_is_shown_and_does_nothing(text: str) -> None:
    shown = escape(text)
    assert not re.search(r"[\r\n]", shown)
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    [inline] = parser.parseInline(f"a {shown} z")
    kinds = {token.type for token in inline.children or []}
    assert kinds <= {"text", "text_special"}
    visible = "".join(token.content for token in inline.children or [])
    unescaped = re.sub(r"\\([!-/:-@[-`{-~])", r"\1", shown)
    assert visible == f"a {unescaped} z"
    # A table keeps its shape.
    tokens = parser.parse(f"| h | i |\n|---|---|\n| {shown} | k |\n\nend\n")
    cells = [inside.content for token, inside in pairwise(tokens) if token.type == "td_open"]
    assert len(cells) == 2
    assert cells[1] == "k"
    # Spaces of any width are a part of the text.
    wide = re.sub(r"[^\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]", "", text)
    assert wide == re.sub(r"[^\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]", "", shown)
    # Whatever it is called, it is found again.
    assert word(text) == "" or re.fullmatch(r"(?!.*--)\S+", word(text))


@settings(max_examples=examples(60))
@given(label=st.text(min_size=1, max_size=40), host=st.text(max_size=20), reason=st.text(max_size=60))
@example(label="a | b\n| injected | 1 | 2 | active |", host="<script>", reason="-->\n\nSteady-state peak: 1 GB")
@example(label="a--b-->c", host="`", reason="no benchmarks exist yet")
def test_strange_names_stay_in_their_place(label: str, host: str, reason: str) -> None:
    strange = a_trial(label=label, host=host, reasons=[reason], id=f"run {label}")
    text = research("A\n\nno benchmarks exist yet\n\nB\n", strange)
    kinds = [token.type for token in MarkdownIt("commonmark").enable("table").parse(text) if token.level == 0]
    assert [kind for kind in kinds if not kind.endswith("_close")] == [
        "paragraph_open",
        "html_block",
        "paragraph_open",
        "table_open",
        "html_block",
        "paragraph_open",
    ]
    # Its row has a name longer than any that is drawn here, or now and then a strange one would be this very model.
    there = doc(f"| Model | Port | VRAM GB | Status |\n|-|-|-|-|\n| {'known ' * 10} | 1 | 4.8 | active |")
    assert len(registry(there, strange).splitlines()) == len(there.splitlines()) + 2
    assert len(memory("# M\n", strange).splitlines()) == 9


def test_masking_keeps_positions() -> None:
    assert masked("a `b` ``c`d`` <!-- e\n--> f") == "a \0\0\0 \0\0\0\0\0\0\0 \0\0\0\0\0\0\n\0\0\0 f"


def test_edits_that_overlap_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match=r"DOC.md: edits overlap at 1"):
        Page("DOC.md", "abc").edited([Edit(0, 2, ""), Edit(1, 3, "")])
    assert Page("DOC.md", "a\nb").span(Span(1, 2)) == (2, 3)


# --- the whole: folder to documents -----------------------------------------------------------------------------------

BOOT = {"boot_id": "b", "run": "run-1", "epoch": 1, "by": "runner", "wall": "2026-11-21T00:52:00Z"}
EVENTS = ["opened", ("phase_done", {"phase": "measure"}), "restored", "closed"]


def make_folder(
    path: Path, *, label: str = LABEL, events: list[Any] = EVENTS, verdict: bool = True, **plan: Any
) -> Path:
    (path / "samples").mkdir(parents=True)
    plan = {
        "run": "run-1",
        "host": "panda",
        "candidate": {"label": label, "port": 11437},
        "baseline": {"label": "E2B"},
        **plan,
    }
    (path / "plan.json").write_text(json.dumps(plan))
    lines = []
    for seq, event in enumerate(events, 1):
        name, more = event if isinstance(event, tuple) else (event, {})
        lines.append({"seq": seq, "t_s": float(seq), "event": name, **BOOT, **more})
        assert schemas.validate(lines[-1], "journal") == []
    (path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample = {
        "seq": 1, "t_start_s": 2.0, "wall": "2026-11-21T00:52:02Z", "ok": True, "error_class": None, "latency_ms": 20.0,
        "ttft_ms": None, "server_ms": 18.0, "prompt_n": 9, "cache_n": 0, "completion_tokens": 3,
        "finish_reason": "stop", "strategy": 1, "parsed": ["left"], "content": "left",
        "flags": [], "error_detail": None,
    }  # fmt: skip
    (path / "samples" / "nav-candidate.jsonl").write_text(json.dumps(sample) + "\n")
    if verdict:
        assert main(["verdict", str(path)]) == 0
    return path


@pytest.fixture
def run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = make_folder(tmp_path / "run-1")
    capsys.readouterr()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "her-os"
    (found / "docs").mkdir(parents=True)
    for name in (RESEARCH, REGISTRY, MEMORY):
        shutil.copy(SAMPLES / name, found / name)
    return found


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_check_then_write_then_nothing(run_folder: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    argv = ["documents", str(run_folder), "--root", str(root)]
    assert main([*argv, "--check"]) == 0
    checked = capsys.readouterr().out
    assert contents(root) == before
    assert f"--- {RESEARCH} (before)\n+++ {RESEARCH} (after)\n" in checked
    assert f"\n+| {LABEL} | 11437 | | INCONCLUSIVE |\n" in checked
    assert checked.endswith("".join(f"{name}: would be written\n" for name in (RESEARCH, REGISTRY, MEMORY)))
    assert main([*argv, "--diff"]) == 0
    assert capsys.readouterr().out == checked.replace("would be written", "written")
    written = contents(root)
    assert list(written) == list(before), "nothing is left behind"
    assert main([*argv, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    accept(told, "documents")
    assert told["changed"] is False
    assert main([*argv, "--check"]) == 0
    assert capsys.readouterr().out == "".join(f"{name}: unchanged\n" for name in (RESEARCH, REGISTRY, MEMORY))
    assert contents(root) == written


def test_one_document_without_a_place_keeps_all_as_they_are(run_folder: Path, root: Path) -> None:
    for name in (RESEARCH, REGISTRY, MEMORY):
        good = (root / name).read_bytes()
        (root / name).write_text("```\n")
        before = contents(root)
        with pytest.raises(UsageError, match=f"^{re.escape(name)}: expected .* None of the documents was touched"):
            write_documents(run_folder, root)
        assert contents(root) == before
        (root / name).unlink()
        with pytest.raises(UsageError, match=f"^{re.escape(name)}: expected a document in .*No such file"):
            write_documents(run_folder, root)
        (root / name).write_bytes(good)


def test_a_fence_that_swallows_what_is_added_is_refused(run_folder: Path, root: Path) -> None:
    (root / MEMORY).write_text("# M\n\n```\nnever closed\n")
    with pytest.raises(Refused, match=r"MEMORY.md: expected a place .* \(a code fence or a comment that is not closed"):
        write_documents(run_folder, root)


def test_bytes_that_are_no_text_stay(run_folder: Path, root: Path) -> None:
    raw = b"\xef\xbb\xbf# M\r\n\xff\xfe\x00 caf\xe9  \r\nlast"
    (root / MEMORY).write_bytes(raw)
    write_documents(run_folder, root)
    after = (root / MEMORY).read_bytes()
    assert after.startswith(raw + b"\r\n\r\n## Model trials\r\n")
    assert b"\n" not in after.replace(b"\r\n", b"")
    assert not after.endswith(b"\r\n")


def test_what_is_too_large_is_refused(run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MAX_MIB", 0)
    with pytest.raises(UsageError, match="expected at most 0 MiB"):
        write_documents(run_folder, root)


def test_modes_and_links_are_kept(run_folder: Path, root: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "notes.md"
    real.parent.mkdir()
    (root / MEMORY).rename(real)
    real.chmod(0o640)
    (root / MEMORY).symlink_to(Path("..") / "elsewhere" / "notes.md")
    (root / REGISTRY).chmod(0o664)
    write_documents(run_folder, root)
    assert (root / MEMORY).is_symlink()
    assert b"Model trials" in real.read_bytes()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert stat.S_IMODE((root / REGISTRY).stat().st_mode) == 0o664


def test_an_owner_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"a")
    changed: list[tuple[int, int]] = []
    monkeypatch.setattr(files.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(files.os, "fchown", lambda _handle, uid, gid: changed.append((uid, gid)))
    files.replace_all([files.Replacement(target, b"a", b"b")])
    status = target.stat()
    # Once for the new text, once for the old one that is kept until all is written.
    assert changed == [(status.st_uid, status.st_gid)] * 2
    assert target.read_bytes() == b"b"


def test_somebody_elses_change_is_not_overwritten(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"now")
    with pytest.raises(UsageError, match="was changed by another program"):
        files.replace_all(
            [files.Replacement(tmp_path / "a", b"now", b"x"), files.Replacement(tmp_path / "b", b"then", b"x")]
        )
    assert contents(tmp_path) == {"a": b"now", "b": b"now"}


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_write_that_fails_takes_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).write_text(name)
    replace, calls = os.replace, []

    def failing(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="No space"):
        files.replace_all([files.Replacement(tmp_path / name, name.encode(), b"new") for name in names])
    assert contents(tmp_path) == {name: name.encode() for name in names}


def test_a_file_that_can_not_be_staged_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(
        files.os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        files.replace_all([files.Replacement(tmp_path / "a", b"a", b"b")])
    assert contents(tmp_path) == {"a": b"a"}


def test_two_writers_take_turns(tmp_path: Path) -> None:
    held, seen = threading.Event(), []

    def second() -> None:
        held.wait(60)
        with files.locked(tmp_path):
            seen.append("second")

    thread = threading.Thread(target=second)
    with files.locked(tmp_path):
        thread.start()
        held.set()
        thread.join(0.05)
        seen.append("first")
    thread.join(30)
    assert seen == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_an_older_run_leaves_what_a_newer_one_wrote(run_folder: Path, root: Path, tmp_path: Path) -> None:
    write_documents(run_folder, root)
    before = contents(root)
    older = make_folder(tmp_path / "run-0")
    journal = older / "journal.jsonl"
    journal.write_text(journal.read_text().replace("2026-11-21", "2026-11-20"))
    (older / "plan.json").write_text((older / "plan.json").read_text().replace("run-1", "run-0"))
    found = {one.name: one for one in write_documents(older, root)}
    assert found[RESEARCH].line(check=False) == (
        f"{RESEARCH}: left alone, the documents show the newer run run-1 of this model"
    )
    assert found[REGISTRY].left_alone
    after = contents(root)
    assert [name for name in after if after[name] != before[name]] == [MEMORY]


@pytest.mark.parametrize(
    ("events", "changed", "why"),
    [
        (["opened", ("phase_failed", {"phase": "candidate"}), "restored", "closed"], [MEMORY], "rolled back"),
        (["opened", ("phase_failed", {"phase": "candidate"})], [], "not known to be over"),
        ([("phase_failed", {"phase": "snapshot"})], [], "before it held the host"),
    ],
)
def test_what_a_failed_trial_writes(
    tmp_path: Path, root: Path, events: list[Any], changed: list[str], why: str
) -> None:
    folder = make_folder(tmp_path / "run-1", events=events)
    before = contents(root)
    found = write_documents(folder, root)
    after = contents(root)
    assert [name for name in after if after[name] != before[name]] == changed
    assert all(why in str(one.left_alone) for one in found if one.name not in changed)
    assert b"11437" not in after[REGISTRY]


@pytest.mark.parametrize(
    ("plan", "verdict", "words"),
    [
        ({"rehearsal": True}, False, "is a rehearsal"),
        ({}, False, r"expected a verdict.json, found none .*do: trialbench verdict"),
        ({"candidate": 1}, False, "expected a plan.json that names the candidate"),
    ],
)
def test_a_folder_that_can_not_be_told_of(
    tmp_path: Path, root: Path, plan: dict[str, Any], verdict: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "run-1", verdict=verdict, **plan)
    assert main(["documents", str(folder), "--root", str(root)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_journal_without_times_is_refused(tmp_path: Path, root: Path) -> None:
    folder = make_folder(tmp_path / "run-1")
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text().replace("2026-11-21T00:52:00Z", "noon"))
    with pytest.raises(UsageError, match="expected a journal that says when the run began"):
        write_documents(folder, root)


def test_a_root_that_is_not_there(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected the folder that holds MEMORY.md and docs/"):
        write_documents(run_folder, tmp_path / "none")


def test_another_research_document(run_folder: Path, root: Path) -> None:
    (root / RESEARCH).rename(root / "OTHER.md")
    write_documents(run_folder, root, research="OTHER.md")
    assert LABEL in (root / "OTHER.md").read_text()


def test_the_diff_tells_of_line_ends(run_folder: Path, root: Path) -> None:
    (root / MEMORY).write_bytes(b"# M\r\nlast \x1b[31m")
    shown = documents.diff(write_documents(run_folder, root, check=True))
    assert "-last \\x1b[31m\n\\ No newline at end of file\n+last \\x1b[31m\\r\n" in shown


def test_the_parser_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "markdown_it", None)
    markdown._parser.cache_clear()
    with pytest.raises(UsageError, match=r"markdown-it-py, found none \(do: pip install 'edgelab-trialbench\[contr"):
        research("x")
