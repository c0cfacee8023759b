# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JUnit and an HTML page of what was checked, for a controller that has nothing but this collection.

A pipeline collects whatever lies there. So the files of an earlier run are replaced before anything begins, by ones
that say that it did not come to its end.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ansible import context

# What XML 1.0 can't hold.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .4rem .6rem;
border-bottom: 1px solid #8886 } pre { white-space: pre-wrap; margin: .3rem 0 0; font-size: .85rem }
.passed { color: #1a7f37 } .failure, .error { color: #cf222e; font-weight: 600 } .skipped { color: #8a6d00 }
"""
# Molecule skips tags of its own in every play.
_MOLECULES = frozenset({"molecule-notest", "molecule-idempotence-notest", "notest"})
UNFINISHED = "it did not come to its end: it was ended from outside, or Ansible could not go on"


@dataclass(frozen=True)
class Case:
    """One thing that was checked.

    Attributes:
        name: the same in every run, so that a CI system keeps its history.
        result: ``passed``, ``failure``, ``error`` (it could not be checked) or ``skipped``.
        message: the reason, in a line.
        text: more about it.
        time_s: how long it took.
    """

    name: str
    result: str = "passed"
    message: str = ""
    text: str = ""
    time_s: float = 0.0

    @property
    def bad(self) -> bool:
        """Whether it fails the run."""
        return self.result in ("failure", "error")


@dataclass(frozen=True)
class Section:
    """A heading of the page with its lines."""

    title: str
    lines: Sequence[str]


def _clean(text: str) -> str:
    return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def junit(name: str, cases: Sequence[Case]) -> str:
    """The cases as JUnit XML, one suite."""
    results = [case.result for case in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(results.count("failure")),
        "errors": str(results.count("error")),
    }
    time_s = f"{sum(case.time_s for case in cases):.3f}"
    root = ElementTree.Element("testsuites", {"name": _clean(name), **counts, "time": time_s})
    skipped = str(results.count("skipped"))
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _clean(name), **counts, "skipped": skipped, "time": time_s}
    )
    for case in cases:
        facts = {"classname": _clean(name), "name": _clean(case.name), "time": f"{case.time_s:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", facts)
        if case.result != "passed":
            found = ElementTree.SubElement(element, case.result, {"message": _clean(case.message)})
            # The text mostly begins with the message.
            head = "" if case.text.startswith(case.message) else case.message
            found.text = _clean("\n".join(filter(None, (head, case.text))) or case.message)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def page(title: str, cases: Sequence[Case], sections: Sequence[Section] = ()) -> str:
    """The cases as one self-contained page: what failed is in its first lines."""
    bad = [case for case in cases if case.bad]
    verdict = f"{bad[0].name}: {bad[0].message}" if bad else f"passed, {len(cases)} checks"
    rows = "".join(
        f'<tr><td class="{case.result}">{case.result}</td><td>{html.escape(case.name)}</td><td>{case.time_s:.1f} s</td>'
        f"<td>{html.escape(case.message)}{f'<pre>{html.escape(case.text)}</pre>' if case.text else ''}</td></tr>\n"
        for case in cases
    )
    rest = "".join(_list(section) for section in sections if section.lines)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n<h1>{html.escape(title)}</h1>\n'
        f'<p class="{"failure" if bad else "passed"}">{html.escape(verdict)}</p>\n'
        f"<table><tr><th></th><th>what</th><th>time</th><th>why</th></tr>\n{rows}</table>\n{rest}</html>\n"
    )


def _list(section: Section) -> str:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in section.lines)
    return f"<h2>{html.escape(section.title)}</h2>\n<ul>{lines}</ul>\n"


def tags_refused() -> str:
    """Why this command line's tags can't be used, for a playbook that has none; empty if it names none.

    With a tag that no task has, a play does nothing and ends well.
    """
    asked = {name: [str(one) for one in context.CLIARGS.get(name) or ()] for name in ("tags", "skip_tags")}
    # Without --tags, Ansible's own word is all.
    unknown = [one for one in asked["tags"] if one != "all"]
    unknown += [one for one in asked["skip_tags"] if one not in _MOLECULES]
    found = ", ".join(dict.fromkeys(unknown))
    return f"expected no tags: this playbook has none, found {found}. Nothing was done" if found else ""


def put(path: Path, text: str) -> None:
    """Replace a file in one step; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


def words_of(text: str, limit: int = 4000) -> str:
    """The end of what a program printed, without the colors of a terminal."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip()
    return plain if len(plain) <= limit else f"...{plain[-limit:]}"
