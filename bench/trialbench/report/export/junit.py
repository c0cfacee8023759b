"""JUnit: what a CI system shows of a run. A suite each for the trial, its phases, its gates, its numbers, its checks,
what ground truth says of its files, and the proofs of engines that lie with it.

The verdict is a test case, too: ADOPT passes, PENDING_REVIEW is skipped (a person has not judged yet), REJECT and
INCONCLUSIVE fail. A trial that was rolled back fails as well, although its host is well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

from trialbench.report.comparison import CANDIDATE
from trialbench.report.folder import Folder
from trialbench.report.proofs import proofs_of
from trialbench.terminal import screen
from trialbench.verdict import Facts, Rules, adherence_finding, adherence_text

Result = Literal["passed", "failed", "skipped"]


@dataclass
class _Case:
    """One test case; `kind` is the failure's type, `text` what stands below its message."""

    name: str
    result: Result = "passed"
    message: str = ""
    text: str = ""
    kind: str = ""
    time_s: float | None = None


@dataclass
class _Suite:
    name: str
    cases: list[_Case] = field(default_factory=list)


def junit(folder: Folder, summary: dict[str, Any]) -> str:
    """The XML document."""
    suites = [
        _Suite("trial", _trial(folder, summary)),
        _Suite("phases", _phases(summary)),
        _Suite("gates", _gates(folder, summary)),
        _Suite("candidate", _candidate(folder, summary)),
        _Suite("checks", _checks(folder)),
        _Suite("ground_truth", _attested(folder)),
        _Suite("proofs", _proofs(folder)),
    ]
    counts = _counts([case for suite in suites for case in suite.cases])
    root = ElementTree.Element("testsuites", {"name": _clean(f"trial {summary['run']}"), **counts})
    for suite in suites:
        if suite.cases:
            _add(root, suite, folder, summary)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _trial(folder: Folder, summary: dict[str, Any]) -> list[_Case]:
    """That it came to its end, that the host is back, and what was decided."""
    restore, failure = summary["restore"], summary["failure"]
    ended = _Case("ended as planned")
    if summary["outcome"] not in ("completed", "rehearsed"):
        facts = (
            [f"{name}: {failure[name]}" for name in ("expected", "found", "todo") if failure[name]] if failure else []
        )
        ended = _failed(ended.name, f"{summary['outcome']}: {restore['why']}", facts, kind=summary["outcome"])
    back = _Case("host is back", time_s=restore["after_s"])
    if restore["restored"] is None:
        back = _Case(back.name, "skipped", "the run never held the host")
    elif not restore["restored"]:
        back = _failed(back.name, summary["restore_failure"] or "not known to be restored", restore["next"])
    cases = [ended, back]
    if not folder.rehearsal:
        cases.append(_verdict(folder.verdict))
    return cases


def _verdict(verdict: dict[str, Any] | None) -> _Case:
    if verdict is None:
        return _Case("verdict", "skipped", "not decided: trialbench verdict DIR")
    word, reasons = str(verdict["verdict"]), [str(reason) for reason in verdict["reasons"]]
    message = f"{word}: {reasons[0]}" if reasons else word
    if word == "ADOPT":
        return _Case("verdict")
    if word == "PENDING_REVIEW":
        return _Case("verdict", "skipped", message)
    return _failed("verdict", message, reasons[1:], kind=word)


def _phases(summary: dict[str, Any]) -> list[_Case]:
    return [
        _Case(phase["phase"], time_s=phase["duration_s"])
        if phase["ok"]
        else _failed(phase["phase"], "the phase failed", [], time_s=phase["duration_s"])
        for phase in summary["phases"]
    ]


def _gates(folder: Folder, summary: dict[str, Any]) -> list[_Case]:
    """VRAM at each gate: in its healthy band or not."""
    cases = []
    for gate in summary["vram"]["gates"]:
        name, found = f"VRAM at {gate['name']}", gate["footprint_gb"]
        if found is None:
            cases.append(_Case(name, "skipped", "not measured"))
        elif gate["band"] == "healthy":
            cases.append(_Case(name))
        else:
            bands = folder.plan.get("bands", {})
            expected = (
                f"{bands.get('low_below_gb', Rules.low_gb):g} to {bands.get('healthy_to_gb', Rules.high_gb):g} GB"
            )
            cases.append(_failed(name, f"expected {expected}, found {found:g} GB ({gate['band']})", []))
    return cases


def _candidate(folder: Folder, summary: dict[str, Any]) -> list[_Case]:
    """What the candidate's own replies decide."""
    segment = summary["segments"].get(CANDIDATE)
    if segment is None:
        return []
    facts = folder.verdict["facts"] if folder.verdict else {}
    adherence, cases = segment["adherence"], []
    if adherence and adherence["n"]:
        counted = Facts(nav_n=adherence["n"], adherent=adherence["k"], gates=())
        percent = facts.get("adherence_percent", Rules.adherence_percent)
        rules = Rules(adherence_percent=percent, adherence_rule=facts.get("adherence_rule", Rules.adherence_rule))
        finding, text = adherence_finding(counted, rules), adherence_text(counted, rules)
        passed = _Case("adherence")
        cases.append(passed if finding == "PASS" else _failed(passed.name, text, [], kind=finding))
    thinking = sum(one["thinking"] for name, one in summary["segments"].items() if "candidate" in name)
    quiet = _Case("no reply was thinking")
    cases.append(_failed(quiet.name, f"{thinking} replies were thinking", []) if thinking else quiet)
    clean = _Case("numbers are untainted")
    taints = summary["taints"]
    cases.append(_failed(clean.name, f"tainted: {taints[0]}", taints[1:]) if taints else clean)
    return cases


def _checks(folder: Folder) -> list[_Case]:
    """The checks that closed the run; without them the newest that the host made by itself."""
    found = folder.verification
    if found is None:
        found = next((one for one in reversed(folder.events("checks")) if isinstance(one.get("checks"), list)), None)
    cases = []
    for check in found["checks"] if found else []:
        name = f"{check['id']} {check['title']}"
        message = f"expected {check['expected']}, found {check['found']}"
        cases.append(_Case(name) if check["ok"] else _failed(name, message, []))
    return cases


def _attested(folder: Folder) -> list[_Case]:
    """A case for each file of the candidate: the same model or not; one that nobody has judged is skipped."""
    cases = []
    for file in folder.attestation["files"] if folder.attestation else []:
        name = f"same model {file['sha256'][:12]}"
        if file["status"] == "failed":
            cases.append(_failed(name, file["says"], []))
        else:
            cases.append(_Case(name) if file["status"] == "passed" else _Case(name, "skipped", file["says"]))
    return cases


def _proofs(folder: Folder) -> list[_Case]:
    """A case for each number of a proof that was judged."""
    cases = []
    for proof in proofs_of(folder.proofs):
        for number in proof.numbers:
            name = f"{proof.name} {proof.engine}: {number.name}"
            message = f"expected {number.expected} {number.unit}".rstrip() + f", found {number.found}"
            if number.skipped:
                cases.append(_Case(name, "skipped", number.detail))
            elif number.judged:
                passed = _Case(name)
                cases.append(passed if number.ok else _failed(name, message, [number.detail], kind="expectation"))
    return cases


def _failed(name: str, message: str, text: list[str], *, kind: str = "failed", time_s: float | None = None) -> _Case:
    return _Case(name, "failed", message, "\n".join(text), kind, time_s)


def _add(root: ElementTree.Element, suite: _Suite, folder: Folder, summary: dict[str, Any]) -> None:
    attributes = {"name": suite.name, "hostname": _clean(str(summary["host"] or "")), **_counts(suite.cases)}
    element = ElementTree.SubElement(root, "testsuite", attributes)
    begun = next((str(event["wall"]) for event in folder.journal), "")
    if begun[:19].count(":") == 2:
        # The format knows no zone; this is UTC.
        element.set("timestamp", _clean(begun[:19]))
    properties = ElementTree.SubElement(element, "properties")
    for name in ("run", "host", "model_label", "baseline_label", "outcome", "trialbench"):
        if summary[name] is not None:
            ElementTree.SubElement(properties, "property", name=name, value=_clean(str(summary[name])))
    for case in suite.cases:
        one = ElementTree.SubElement(element, "testcase", classname=f"trial.{suite.name}", name=_clean(case.name))
        one.set("time", _seconds(case.time_s))
        if case.result == "skipped":
            ElementTree.SubElement(one, "skipped", message=_clean(case.message))
        elif case.result == "failed":
            ElementTree.SubElement(one, "failure", message=_clean(case.message), type=case.kind).text = _clean(
                f"{case.message}\n{case.text}".strip()
            )


def _counts(cases: list[_Case]) -> dict[str, str]:
    results = [case.result for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(results.count("failed")),
        "errors": "0",
        "skipped": str(results.count("skipped")),
        "time": _seconds(sum(case.time_s or 0.0 for case in cases)),
    }


def _seconds(value: float | None) -> str:
    return f"{max(value or 0.0, 0.0):.3f}"


def _clean(text: str) -> str:
    """A stranger's text without what XML 1.0 can't hold."""
    return screen(text)
