"""A verdict as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from trialbench.ground_truth.output.table import label

_JUNIT = {"FAIL": "failure", "INCONCLUSIVE": "error", "NOT APPLICABLE": "skipped"}


def junit(verdict: dict[str, Any]) -> str:
    """The verdict as JUnit XML. What could not be decided is an error: CI must not take it for a success."""
    rows = verdict["results"]
    root = ET.Element("testsuites", name=f"ground truth, {_xml(verdict['runtime']['name'])}")
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        kinds = [_kind(row) for row in mine]
        node = _suite(root, suite, kinds)
        for row, kind in zip(mine, kinds, strict=True):
            name, classname = _xml(label(row)), _xml(f"{suite}.{row['model']}")
            case = ET.SubElement(node, "testcase", classname=classname, name=name)
            if kind is not None:
                says = f"proves nothing: {row['says']}" if row["proves_nothing"] else row["says"]
                ET.SubElement(case, kind, message=_xml(says)[:500])
    if verdict["claims"]:
        kinds = [_JUNIT.get(claim["status"]) for claim in verdict["claims"]]
        node = _suite(root, "claims", kinds)
        for claim, kind in zip(verdict["claims"], kinds, strict=True):
            case = ET.SubElement(node, "testcase", classname="claims", name=_xml(claim["name"]))
            # Whether it was stated beforehand belongs to it, however it came out.
            properties = ET.SubElement(case, "properties")
            for key in ("standing", "statement"):
                ET.SubElement(properties, "property", name=key, value=_xml(claim[key])[:500])
            if kind is not None:
                ET.SubElement(case, kind, message=_xml(f"{claim['standing']}: {claim['says']}")[:500])
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _kind(row: dict[str, Any]) -> str | None:
    """What a row is in JUnit's words; None for a success. An answer that is always the same is none."""
    return "skipped" if row["proves_nothing"] else _JUNIT.get(row["status"])


def _suite(root: ET.Element, name: str, kinds: Sequence[str | None]) -> ET.Element:
    numbers = {f"{kind}s" if kind != "skipped" else kind: str(kinds.count(kind)) for kind in _JUNIT.values()}
    return ET.SubElement(root, "testsuite", {"name": _xml(name), "tests": str(len(kinds)), **numbers})


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold, whatever they are escaped as."""
    return "".join(one if one in "\t\n" or one.isprintable() else repr(one)[1:-1] for one in text)
