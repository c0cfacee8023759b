"""JUnit XML: one writer for everything that a CI system reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        text: the body of a failure.
        out: what a passed case prints.
        classname: defaults to the suite's.
    """

    name: str
    result: Result = "passed"
    message: str = ""
    text: str = ""
    kind: str = ""
    time_s: float | None = None
    out: str = ""
    classname: str = ""
    properties: Mapping[str, str] | None = None


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
    """The XML document.

    Args:
        timed: write the seconds of each case, and the totals at the root.
        indented: False for documents of thousands of cases.
    """
    totals = _counts([case for suite in suites for case in suite.cases], timed=True) if timed else {}
    # The root has no `skipped`: Jenkins' schema refuses it there, and the suites have it.
    totals.pop("skipped", None)
    root = ElementTree.Element("testsuites", {"name": _text(name), **totals})
    for suite in suites:
        host = {} if suite.host is None else {"hostname": _text(suite.host)}
        counts = _counts(suite.cases, timed=timed)
        element = ElementTree.SubElement(root, "testsuite", {"name": _text(suite.name), **host, **counts})
        if suite.began:
            element.set("timestamp", _text(suite.began[:19]))
        _properties(element, suite.properties)
        for case in suite.cases:
            _case(element, suite, case, timed=timed)
    if indented:
        ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(parent: ElementTree.Element, suite: Suite, case: Case, *, timed: bool) -> None:
    classname = _text(case.classname or suite.classname)
    element = ElementTree.SubElement(parent, "testcase", classname=classname, name=_text(case.name))
    if timed:
        element.set("time", _seconds(case.time_s))
    _properties(element, case.properties)
    if case.result != "passed":
        kind = {"type": _text(case.kind)} if case.kind else {}
        found = ElementTree.SubElement(element, case.result, {"message": _text(case.message), **kind})
        found.text = _text(case.text)
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
