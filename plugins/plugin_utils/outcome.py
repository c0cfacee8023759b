# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JUnit and an HTML page of what was checked, for a controller that has nothing but this collection.

A pipeline collects whatever lies there. So the files of an earlier run are replaced before anything begins, by ones
that say that it did not come to its end.

The JUnit keeps the rules of ``bench/trialbench/show/junit.py``, which can't be used here.
"""

from __future__ import annotations

import html
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ansible import constants, context
from ansible.errors import AnsibleActionFail
from ansible_collections.edgelab.model_trial.plugins.module_utils.words import ACTS, counted

# XML 1.0 holds neither.
_NO_XML = re.compile("[\ufffe\uffff]")
_STYLE = """
:root { color-scheme: light dark; background: Canvas; color: CanvasText }
body { background: Canvas; font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .4rem .6rem;
border-bottom: 1px solid #8886; overflow-wrap: anywhere }
pre { white-space: pre-wrap; margin: .3rem 0 0; font-size: .85rem }
caption { text-align: left; font-weight: 600 }
.passed { color: #1a7f37 } .failure, .error { color: #cf222e; font-weight: 600 } .skipped { color: #7a6000 }
@media (prefers-color-scheme: dark) {
.passed { color: #57d27e } .failure, .error { color: #ff8f8a } .skipped { color: #e3b341 } }
"""
UNFINISHED = "it did not finish: it was ended from outside, or Ansible could not continue"
# Molecule skips tags of its own in every play.
_MOLECULES = frozenset({"molecule-notest", "molecule-idempotence-notest", "notest"})
# What Ansible asks a person for, and what tells it to a process of its own.
_ASKED = {
    "ask_pass": ("--ask-pass (-k, ANSIBLE_ASK_PASS)", "--connection-password-file=FILE"),
    "become_ask_pass": ("--ask-become-pass (-K, ANSIBLE_BECOME_ASK_PASS)", "--become-password-file=FILE"),
    "ask_vault_pass": ("--ask-vault-pass (-J, ANSIBLE_ASK_VAULT_PASS)", "--vault-password-file=FILE"),
}
_ASKING_VAULTS = ("prompt", "prompt_ask_vault_pass")


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
    return _NO_XML.sub(_escaped, ACTS.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _html(text: str) -> str:
    return html.escape(_clean(text))


def _free(taken: Sequence[str], name: str) -> str:
    """``name``, numbered where another case has it."""
    names = (name if again == 1 else f"{name} #{again}" for again in itertools.count(1))
    return next(one for one in names if one not in taken)


def junit(name: str, cases: Sequence[Case], host: str = "") -> str:
    """The cases as JUnit XML, one suite.

    Args:
        name: what was done, such as ``prove_rollback``.
        cases: two of one name are numbered: a CI system takes them for one.
        host: where; it is in the class name, so that two of one pipeline stay apart.
    """
    classname = f"{name}.{host or 'unknown'}"
    taken: list[str] = []
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
        taken.append(_free(taken, _clean(case.name)))
        facts = {"classname": _clean(classname), "name": taken[-1], "time": f"{case.time_s:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", facts)
        if case.result != "passed":
            found = ElementTree.SubElement(element, case.result, {"message": _clean(case.message)})
            # The text mostly begins with the message.
            told = case.result == "skipped" or case.text.startswith(case.message)
            found.text = _clean("\n".join(filter(None, ("" if told else case.message, case.text))))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def page(title: str, cases: Sequence[Case], sections: Sequence[Section] = ()) -> str:
    """The cases as one self-contained page: what failed is in its first lines."""
    bad = [case for case in cases if case.bad]
    verdict = f"{bad[0].name}: {bad[0].message}" if bad else f"passed, {counted(len(cases), 'check')}"
    rows = "".join(
        f'<tr><td class="{case.result}">{case.result}</td><td>{_html(case.name)}</td><td>{case.time_s:.1f} s</td>'
        f"<td>{_html(case.message)}{f'<pre>{_html(case.text)}</pre>' if case.text else ''}</td></tr>\n"
        for case in cases
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("result", "what", "time", "why"))
    rest = "".join(_list(section) for section in sections if section.lines)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{_html(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<main>\n<h1>{_html(title)}</h1>\n"
        f'<p class="{"failure" if bad else "passed"}">{_html(verdict)}</p>\n'
        f"<table><caption>What was tried</caption>\n<tr>{heads}</tr>\n{rows}</table>\n{rest}</main>\n</html>\n"
    )


def _list(section: Section) -> str:
    lines = "".join(f"<li>{_html(line)}</li>" for line in section.lines)
    return f"<h2>{_html(section.title)}</h2>\n<ul>{lines}</ul>\n"


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


def questions_refused(ours: bool = True) -> str:
    """Why this play's questions to a person can't be used by processes that it starts; empty if it asks none.

    They have no terminal, and Ansible hands no answer on.

    Args:
        ours: whether they get what this command line says; otherwise, what only the settings say.
    """
    given = context.CLIARGS if ours else {}
    found = [words for name, words in _ASKED.items() if given.get(name)]
    for one in map(str, (*constants.DEFAULT_VAULT_IDENTITY_LIST, *(given.get("vault_ids") or ()))):
        *label, source = one.split("@", 1)
        if source in _ASKING_VAULTS:
            found.append((f"the vault identity {one}", f"--vault-id {''.join(label) or 'default'}@FILE"))
    if not found:
        return ""
    return (
        f"expected passwords in files, found {', '.join(what for what, _instead in found)}: a process of its own asks "
        "again, and nobody can answer it. Use instead: "
        f"{', '.join(dict.fromkeys(instead for _what, instead in found))}. Nothing was done"
    )


def nobody(group: str, members: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """Why no host is left to be tried, with the hosts that there are.

    Args:
        group: which was asked for, by its name or a pattern.
        members: its hosts, whatever ``--limit`` says.
        groups: all of the inventory.
    """
    limit, group = context.CLIARGS.get("subset"), group or "''"
    within = f" within --limit {limit}" if limit else ""
    if members:
        return f"expected a host in the group {group}, found none{within}: the group has {few(members)}"
    there = [f"{name} ({few(hosts)})" for name, hosts in groups.items() if hosts and name != "all"]
    has = f"the inventory has {few(there)}" if there else "the inventory has no host"
    return f"expected a host in the group {group} (trial_group names it), found none{within}: {has}"


def few(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def names_of(given: Any) -> list[str] | None:
    """Names that were given as a list, or with commas as one text; None if they are neither."""
    if not isinstance(given, (str, list, tuple)):
        return None
    names = given.split(",") if isinstance(given, str) else [str(one) for one in given]
    return [name.strip() for name in names if name.strip()]


def faulty(name: str, err: BaseException) -> Case:
    """A case that could not be checked, with the words of what was raised."""
    words = words_of(str(err))
    return Case(name, "error", next(iter(words.splitlines()), "") or type(err).__name__, words)


def put(path: Path, text: str) -> None:
    """Replace a file in one step; its folder is made. A link stays one; a pipe or a device is written to.

    Raises:
        AnsibleActionFail: it can't be written, or nobody reads the pipe.
    """
    try:
        _write(path, text.encode("utf-8", "backslashreplace"))
    except OSError as err:
        raise AnsibleActionFail(
            f"{path}: expected a file that can be written here, found: {err.strerror}. Name another place"
        ) from None


def _write(path: Path, content: bytes) -> None:
    if not replaced(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as stream:
            os.set_blocking(stream.fileno(), True)
            stream.write(content)
        return
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(place)


def replaced(path: Path) -> bool:
    """Whether `put` replaces what is there: a file, or nothing yet."""
    return path.is_file() or not path.exists()


def words_of(text: str, limit: int = 4000) -> str:
    """The end of what a program printed, without the colors of a terminal."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip()
    return plain if len(plain) <= limit else f"...{plain[-limit:]}"
