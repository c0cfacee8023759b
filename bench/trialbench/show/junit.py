"""JUnit XML: one writer for everything that a CI system reads.

What Jenkins and GitLab ask of it holds for each document: a case has its class name and name alone, GitLab shows of a
failure only its text, and Jenkins' schema knows no properties of a case. `plugin_utils/outcome.py` in the collection,
which must do without this package, keeps the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal
from xml.etree import ElementTree

from trialbench.show.terminal import screen

# XML 1.0 holds neither, even where people's text does.
_NO_XML = re.compile("[\ufffe\uffff]")
Result = Literal["passed", "failure", "error", "skipped"]


@dataclass(frozen=True)
class Case:
    """One test case. Its texts may be anything: the writer escapes what XML 1.0 cannot hold.

    Attributes:
        kind: the type of a failure.
        text: the body of a failure, below its message.
        out: what a passed case prints.
        classname: defaults to the suite's; with a dot, behind which Jenkins' package ends.
    """

    name: str
    result: Result = "passed"
    message: str = ""
    text: str = ""
    kind: str = ""
    time_s: float | None = None
    out: str = ""
    classname: str = ""


@dataclass(frozen=True)
class Suite:
    """Test cases under one name.

    Attributes:
        classname: of its cases.
        began: ISO 8601 in UTC; the format has no time zone, so only the first 19 characters are written.
        properties: None leaves the element out.
    """

    name: str
    cases: Sequence[Case] = field(default_factory=list)
    classname: str = ""
    host: str | None = None
    began: str = ""
    properties: Mapping[str, str] | None = None


def write(name: str, suites: Sequence[Suite], *, timed: bool = False, indented: bool = True) -> str:
    """The XML document. Cases of one class name and name are numbered: to a CI system they are one.

    Args:
        timed: write the seconds of each case, and the totals at the root.
        indented: False for documents of thousands of cases.
    """
    totals = _counts([case for suite in suites for case in suite.cases], timed=True) if timed else {}
    # The root has no `skipped`: Jenkins' schema refuses it there, and the suites have it.
    totals.pop("skipped", None)
    root = ElementTree.Element("testsuites", {"name": _text(name), **totals})
    taken: set[tuple[str, str]] = set()
    for suite in suites:
        host = {} if suite.host is None else {"hostname": _text(suite.host)}
        counts = _counts(suite.cases, timed=timed)
        element = ElementTree.SubElement(root, "testsuite", {"name": _text(suite.name), **host, **counts})
        if suite.began:
            element.set("timestamp", _text(suite.began[:19]))
        _properties(element, suite.properties)
        for case in suite.cases:
            classname = _text(case.classname or suite.classname)
            _case(element, case, classname, _free(taken, classname, _text(case.name)), timed=timed)
    if indented:
        ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _free(taken: set[tuple[str, str]], classname: str, name: str) -> str:
    """`name`, numbered where the class has one of that name; added to `taken`."""
    names = (name if again == 1 else f"{name} #{again}" for again in count(1))
    found = next(one for one in names if (classname, one) not in taken)
    taken.add((classname, found))
    return found


def _case(parent: ElementTree.Element, case: Case, classname: str, name: str, *, timed: bool) -> None:
    element = ElementTree.SubElement(parent, "testcase", classname=classname, name=name)
    if timed:
        element.set("time", _seconds(case.time_s))
    if case.result != "passed":
        kind = {"type": _text(case.kind)} if case.kind else {}
        found = ElementTree.SubElement(element, case.result, {"message": _text(case.message), **kind})
        told = case.result == "skipped" or case.text.startswith(case.message)
        head = "" if told else case.message
        found.text = _text("\n".join(filter(None, (head, case.text))))
    elif case.out:
        ElementTree.SubElement(element, "system-out").text = _text(case.out)


def _properties(parent: ElementTree.Element, properties: Mapping[str, str] | None) -> None:
    if properties is not None:
        element = ElementTree.SubElement(parent, "properties")
        for name, value in properties.items():
            ElementTree.SubElement(element, "property", name=name, value=_text(value))


def _counts(cases: Sequence[Case], *, timed: bool) -> dict[str, str]:
    results = [case.result for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(results.count("failure")),
        "errors": str(results.count("error")),
        "skipped": str(results.count("skipped")),
        **({"time": _seconds(sum(case.time_s or 0.0 for case in cases))} if timed else {}),
    }


def _text(value: str) -> str:
    return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", screen(value))


def _seconds(value: float | None) -> str:
    return f"{max(value or 0.0, 0.0):.3f}"
