"""Every JUnit document keeps what Jenkins and GitLab ask of one, whichever of our two writers wrote it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from acting import acting
from ansible_collections.edgelab.model_trial.plugins.plugin_utils import outcome
from trialbench.ground_truth.check import as_dict
from trialbench.ground_truth.output.junit import junit as ground_truth_junit
from trialbench.ground_truth.suites.results import Result, Row, Status
from trialbench.report.export.junit import junit as run_junit
from trialbench.report.run import read_run
from trialbench.report.summary import summarize_run
from trialbench.show.junit import Case, Suite, write
from trialbench.worker.proof import Check, Expectation, Proof
from trialbench.worker.proof import junit as proof_junit

pytestmark = pytest.mark.usefixtures("few_resamples")

EVIL = "a\x00\x1b[31m\x9b \u202eb\u2028<&>]]>\ufffe\ud800 \U0001f468\u200d\U0001f469 1,5\u00a0m"

# Jenkins' schema: attributes and children of each element. An element of which nothing is said holds text.
ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
    "testcase": {"name", "classname", "time"},
    "property": {"name", "value"},
    **{kind: {"message", "type"} for kind in ("failure", "error", "skipped")},
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
    "properties": {"property"},
}
NEEDED = {"testsuite": {"name", "tests", "failures", "errors"}, "testcase": {"name", "classname"}}


def complaints(text: str) -> list[str]:
    """What Jenkins would refuse or show wrongly, and what GitLab would lose."""
    root = ElementTree.fromstring(text.encode())
    found = [] if root.tag == "testsuites" else [f"the root is {root.tag}"]
    for element in root.iter():
        more = set(element.attrib) - ATTRIBUTES.get(element.tag, set())
        less = NEEDED.get(element.tag, set()) - {name for name, value in element.attrib.items() if value}
        others = {child.tag for child in element} - CHILDREN.get(element.tag, set())
        found += [f"{element.tag}: {what}" for what in (more, less, others) if what]
        if not re.fullmatch(r"|\d+\.\d{3}", element.get("time", "")):
            found.append(f"time {element.get('time')}")
        found += [f"{element.tag} acts" for told in (*element.attrib.values(), element.text or "") if acting(told)]
    for suite in root:
        cases = suite.findall("testcase")
        kinds = {"tests": len(cases)}
        kinds |= {f"{kind}s": len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error")}
        kinds["skipped"] = len(suite.findall("testcase/skipped"))
        found += [f"{name} is {suite.get(name)}" for name, count in kinds.items() if suite.get(name) != str(count)]
    ids = Counter((case.get("classname", ""), case.get("name", "")) for case in root.iter("testcase"))
    found += [f"{name} is there {count} times" for name, count in ids.items() if count > 1]
    # What stands before the last dot is Jenkins' package.
    found += [f"class {name}" for name, _case in ids if not all(part.strip() for part in [*name.rpartition(".")])]
    for kind in ("failure", "error"):
        # GitLab shows the text alone.
        bare = [one for one in root.iter(kind) if not (one.text or "").startswith(one.get("message") or "?")]
        found += [f"{kind} without its message: {one.get('message')}" for one in bare]
    return found


def of_run(make: Callable[[Path], Path]) -> Callable[[Path, str, str], str]:
    def written(to: Path, host: str, model: str) -> str:
        run = make(to / "run")
        plan = json.loads((run / "plan.json").read_text())
        plan["host"], plan["candidate"]["label"] = host, model
        (run / "plan.json").write_text(json.dumps(plan))
        read = read_run(run)
        return run_junit(read, summarize_run(read))

    return written


def of_ground_truth(_to: Path, host: str, model: str) -> str:
    """Of two runtimes, which are its hosts."""
    rows = [Result(Row("token", model, "f16", prompt=EVIL), status, EVIL) for status in Status for _ in range(2)]
    claims = [
        {"name": EVIL, "statement": EVIL, "standing": EVIL, "status": status.value, "says": EVIL}
        for status in (Status.PASS, Status.FAIL, Status.INCONCLUSIVE)
    ]
    results = [as_dict(row) for row in rows]
    return ground_truth_junit(
        {"runtime": {"name": host}, "roster": {"name": model}, "results": results, "claims": claims}
    )


def of_proof(_to: Path, host: str, model: str) -> str:
    """Of two engines, which are its hosts."""
    checks = [
        Check(EVIL, 1.0, "s", Expectation("<", 2)),
        Check("slow", 3.0, "s", Expectation("<", 2), EVIL),
        Check("slow", None, "s", Expectation("<", 2)),
        Check("left out", None, "", Expectation("<", 2), EVIL, skipped=True),
    ]
    return proof_junit([Proof("cancel", {"source": host, "model": model, "bits": 8}, checks)])


def of_rollback(_to: Path, host: str, model: str) -> str:
    cases = [
        outcome.Case(model, result, EVIL, text)
        for result in ("passed", "failure", "error", "skipped")
        for text in ("", EVIL, "more of it")
    ]
    return outcome.junit("prove_rollback", cases, host)


WRITERS: dict[str, Any] = {
    "ground truth": of_ground_truth,
    "proof": of_proof,
    "prove_rollback": of_rollback,
}
RUNS = ("rich", "rolled_back", "untouched", "hostile")


def written(what: str, folders: ModuleType, to: Path, host: str, model: str) -> str:
    return str((WRITERS.get(what) or of_run(folders.ALL[what]))(to, host, model))


@pytest.mark.parametrize("what", [*WRITERS, *RUNS])
def test_jenkins_and_gitlab_have_no_complaint(folders: ModuleType, tmp_path: Path, what: str) -> None:
    assert complaints(written(what, folders, tmp_path, "edge.example.org", "gemma-4.1 E4B")) == []


@pytest.mark.parametrize("what", [*WRITERS, "rich"])
def test_two_of_one_pipeline_share_no_case(folders: ModuleType, tmp_path: Path, what: str) -> None:
    """Neither of two hosts nor of two models; a second run of the same shares all of them, which is its history."""
    ids = []
    for number, (host, model) in enumerate((("a", "x"), ("b", "x"), ("a", "y"), ("a", "x"))):
        root = ElementTree.fromstring(written(what, folders, tmp_path / str(number), host, model))
        ids.append({(case.get("classname"), case.get("name")) for case in root.iter("testcase")})
    assert ids[0] == ids[3]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a", "a", "a"], ["a", "a #2", "a #3"]),
        (["a #2", "a", "a"], ["a #2", "a", "a #3"]),
        (["a", "a", "a #2"], ["a", "a #2", "a #2 #2"]),
        # Which differ only in what is escaped.
        (["\x07", "\\x07"], ["\\x07", "\\x07 #2"]),
    ],
)
def test_both_writers_number_what_has_one_name(names: list[str], shown: list[str]) -> None:
    ours = write("x", [Suite("s", [Case(name) for name in names], "x.s")])
    theirs = outcome.junit("x", [outcome.Case(name) for name in names])
    for text in (ours, theirs):
        assert [case.get("name") for case in ElementTree.fromstring(text).iter("testcase")] == shown


SUITE = (
    '<testsuites><testsuite name="a" tests="{n}" failures="{bad}" errors="0" skipped="0">{cases}</testsuite>'
    "</testsuites>"
)


@pytest.mark.parametrize(
    ("bad", "cases"),
    [
        (0, ['<testcase name="a"/>']),
        (0, ['<testcase classname="a" name="a"/>']),
        (0, ['<testcase classname="a.b" name="a"/>'] * 2),
        (0, ['<testcase classname="a.b" name="a"><properties/></testcase>']),
        (1, ['<testcase classname="a.b" name="a"><failure message="why"/></testcase>']),
    ],
)
def test_the_rules_find_what_was_wrong_before(bad: int, cases: list[str]) -> None:
    assert complaints(SUITE.format(n=len(cases), bad=bad, cases="".join(cases))) != []


def test_the_root_has_no_skipped() -> None:
    assert complaints('<testsuites skipped="0"/>') == ["testsuites: {'skipped'}"]
    assert complaints(SUITE.format(n=1, bad=0, cases='<testcase classname="a.b" name="a"/>')) == []
