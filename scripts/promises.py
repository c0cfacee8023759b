"""The table of promises: what is promised, claimed and decided, and which tests hold it.

    python scripts/promises.py            write docs/promises.md
    python scripts/promises.py --check    fail when docs/promises.md is not what this would write
    python scripts/promises.py --unit     print the unit tests that the step `promises` runs, one a line

The promises are read from README's table, the tables Claims and Proof of SECURITY.md, and the names of the tests in
tests/unit/test_ten_decisions.py. ``tests/promises.yml`` adds the tests of the first and says which unit
tests are too slow for the step; ``scripts/steps.py`` says which step of which tier runs a test.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE, PAGE = "tests/promises.yml", "docs/promises.md"
DECISIONS = "tests/unit/test_ten_decisions.py"
UNIT = "tests/unit/"
DRILL = "tests/twin/drills/test_drills.py::test_the_host_comes_back"
DRILL_CASES = "tests/twin/drills/cases.py"
# The step that runs the unit tests of this table; the other tests stand in the steps themselves.
STEP = "promises"


@dataclass(frozen=True)
class Row:
    """One promise, claim or decision, with the tests that hold it.

    Attributes:
        kind: "promise", "claim" or "decision".
        key: the promise's own words, or the number.
        text: what is promised, as Markdown.
        tests: paths or node ids.
    """

    kind: str
    key: str
    text: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a person calls the row."""
        return self.key if self.kind == "promise" else f"{self.kind} {self.key}"


# ---- what is promised, where it stands ----


def table(path: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of the second level, without the table's head."""
    sections = re.split(r"^## ", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [section for section in sections if section.partition("\n")[0] == heading]
    if len(found) != 1:
        raise SystemExit(
            f"{path}: expected one heading '## {heading}', found {len(found)}; scripts/promises.py reads it"
        )
    lines = found[0].partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def promises() -> list[str]:
    """Return what README promises, in its own words."""
    return [row[0] for row in table("README.md", "What is promised, by what, and how it is tested")]


def decisions() -> dict[str, dict[str, str]]:
    """Return for each decision its tests: node id and what it says, in the order of the file."""
    found: dict[str, dict[str, str]] = {}
    for name in functions_of(DECISIONS):
        match = re.fullmatch(r"test_decision_(\d+)_(\w+)", name)
        if match:
            found.setdefault(match[1], {})[f"{DECISIONS}::{name}"] = match[2].replace("_", " ")
    return found


@functools.cache
def source() -> dict[str, Any]:
    """Return tests/promises.yml."""
    found: dict[str, Any] = yaml.safe_load((ROOT / SOURCE).read_text(encoding="utf-8"))
    return found


@functools.cache
def rows() -> tuple[Row, ...]:
    """Return the whole table: README's promises, then the decisions, then the claims."""
    named = {entry["promise"]: entry for entry in source()["promises"]}
    found = []
    for promise in promises():
        entry = named.get(promise, {})
        drills = [f"{DRILL}[{name}]" for name in entry.get("drills", [])]
        found.append(Row("promise", promise, promise, (*entry.get("tests", []), *drills)))
    more = {str(number): tests for number, tests in source()["decisions"].items()}
    for number, tests in decisions().items():
        text = "; ".join(tests.values())
        found.append(Row("decision", number, text, (*tests, *more.get(number, []))))
    proofs = [(row[0], row[1].strip("`")) for row in table("SECURITY.md", "Proof")]
    for number, claim, *_ in table("SECURITY.md", "Claims"):
        found.append(Row("claim", number, claim, tuple(test for of, test in proofs if of == number)))
    return tuple(found)


# ---- which tests there are ----


@functools.cache
def module(path: str) -> ast.Module:
    """Return the syntax tree of a file; an empty one where there is no such file."""
    file = ROOT / path
    return ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")


def functions_of(path: str) -> dict[str, ast.FunctionDef]:
    """Return the functions of a file by name."""
    return {node.name: node for node in module(path).body if isinstance(node, ast.FunctionDef)}


def constant(path: str, name: str) -> ast.expr | None:
    """Return what a module assigns to a name, as syntax."""
    for node in module(path).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node.value
    return None


def texts(nodes: Iterable[ast.expr | None]) -> list[str] | None:
    """Return the texts that these expressions are; None where one of them is something else."""
    known = [node.value if isinstance(node, ast.Constant) else None for node in nodes]
    found = [value for value in known if isinstance(value, str)]
    return found if len(found) == len(known) else None


def drill_ids() -> list[str]:
    """Return the ids of the fault drills, read from the table of cases."""
    cases = constant(DRILL_CASES, "CASES")
    found = []
    for call in cases.elts if isinstance(cases, ast.Tuple) else []:
        if isinstance(call, ast.Call):
            words = texts(call.args[:3]) or texts(call.args[:1]) or []
            words += texts(word.value for word in call.keywords if word.arg == "phase") or []
            found.append(f"{words[-1]}-{words[0]}")
    return found


def parameters(path: str, function: ast.FunctionDef) -> list[str] | None:
    """Return the ids of a test with one text as its parameter; None where they can't be read from the source."""
    marks = [
        node
        for node in function.decorator_list
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".parametrize")
    ]
    if len(marks) != 1 or len(marks[0].args) != 2 or marks[0].keywords:
        return None
    values = marks[0].args[1]
    if path == DRILL.partition("::")[0] and ast.unparse(values) == "chosen()":
        return drill_ids()
    if isinstance(values, ast.Name):
        values = constant(path, values.id) or values
    if isinstance(values, ast.Dict):
        return texts(values.keys)
    return texts(values.elts) if isinstance(values, ast.List | ast.Tuple) else None


def trouble_with(test: str) -> str | None:
    """Say what is wrong with the name of a test; None when there is such a test."""
    path, _, rest = test.partition("::")
    if not (ROOT / path).exists():
        return f"{test}: no such file"
    if not rest:
        return None
    name, bracket, parameter = rest.partition("[")
    function = functions_of(path).get(name)
    if function is None or not name.startswith("test_"):
        return f"{test}: {path} has no test {name}"
    if not bracket:
        return None
    known = parameters(path, function)
    if known is None:
        return f"{test}: the parameters of {name} can't be read from the source; name the test without brackets"
    if parameter.removesuffix("]") not in known:
        return f"{test}: expected a parameter of {', '.join(known)}, found {parameter.removesuffix(']')}"
    return None


def unit_tests(of: Iterable[Row] | None = None) -> list[str]:
    """Return the unit tests that the step `promises` runs; of some rows only, if given."""
    slow = set(source()["slow"])
    tests = (test for row in (rows() if of is None else of) for test in row.tests)
    return list(dict.fromkeys(test for test in tests if test.startswith(UNIT) and test not in slow))


# ---- which step runs a test ----


@functools.cache
def steps() -> Any:
    """Return the table of steps; it is not needed to name the unit tests, which it asks for itself."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        return importlib.import_module("steps")
    finally:
        sys.path.pop(0)


def step_in(tier: str, test: str) -> str | None:
    """Return the name of the step that runs a test in a tier, the most specific one; None where none does."""
    if test.startswith(UNIT) and test in unit_tests():
        return STEP
    fits = [step for step in steps().steps_of(test) if tier in step.tiers]
    if not fits:
        return None
    nearest = max(fits, key=lambda step: max(len(own) for own in step.tests if test.startswith(own)))
    # The parts of one suite are one step for a reader.
    return re.sub(r"-\d+$", "", str(nearest.name))


# ---- the page ----

HEAD = """\
# What is promised, and which tests hold it

Made by `scripts/promises.py`; don't edit this page. A row is a promise of [README](../README.md), one of the ten
decisions that `tests/unit/test_ten_decisions.py` keeps, or a claim of [SECURITY](../SECURITY.md). The step that
runs a test follows it in parentheses.

`make test` runs the tests of the third column, `make prove` all of them. The step `promises` runs the unit tests of
this page alone, in seconds. `tests/mutations.py`, a step of `make prove`, removes mechanisms one at a time (each
promise loses at least one of its own) and demands that a unit test of that row fails in the step `promises`.

To add a test to a promise, name it in `tests/promises.yml`; to a claim, in the table *Proof* of SECURITY.md; to a
decision, write it into `tests/unit/test_ten_decisions.py`. Then run `python scripts/promises.py`.

| | what | in `make test` | more in `make prove` |
|---|---|---|---|
"""


def link(test: str) -> str:
    """Write a test by its own name, as a link to its file."""
    path, _, name = test.partition("::")
    return f"[`{name or path.rpartition('/')[2]}`](../{path})"


def cell(named: list[tuple[str, str]]) -> str:
    """Write tests and their steps into one cell: drills in one line, every other test in a line of its own."""
    lines = [f"{link(test)} ({step})" for test, step in named if not test.startswith(f"{DRILL}[")]
    drills: dict[str, list[str]] = {}
    for test, step in named:
        if test.startswith(f"{DRILL}["):
            drills.setdefault(step, []).append(f"`{test.removeprefix(f'{DRILL}[').removesuffix(']')}`")
    lines += [f"[drills](drills.md) {', '.join(names)} ({step})" for step, names in drills.items()]
    return "<br>".join(lines) or "-"


def page() -> str:
    """Return docs/promises.md."""
    lines = []
    for row in rows():
        quick, more = [], []
        for test in row.tests:
            step, proving = step_in("test", test), step_in("prove", test)
            if step:
                quick.append((test, step))
            elif proving:
                more.append((test, proving))
        lines.append(
            f"| {row.kind if row.kind == 'promise' else row.name} | {row.text} | {cell(quick)} | {cell(more)} |\n"
        )
    return HEAD + "".join(lines)


def main() -> int:
    """Write the page, check it, or print the unit tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help=f"fail when {PAGE} is stale")
    parser.add_argument("--unit", action="store_true", help=f"print the unit tests of the step {STEP}")
    args = parser.parse_args()
    if args.unit:
        print("\n".join(unit_tests()))
        return 0
    path, text = ROOT / PAGE, page()
    if not args.check:
        path.write_text(text, encoding="utf-8")
        print(f"{PAGE}: {len(rows())} rows")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE}: expected what scripts/promises.py writes, found something else; run: python scripts/promises.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
