"""The table of promises and what it speaks of hold each other: README, SECURITY.md, decisions, tests, steps, page."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from by_path import load

ROOT = Path(__file__).resolve().parents[2]


table = load(ROOT / "scripts/promises.py")
ROWS = table.rows()
TESTS = list(dict.fromkeys(test for row in ROWS for test in row.tests))


def test_the_table_has_every_promise_of_the_readme_and_no_other() -> None:
    assert [entry["promise"] for entry in table.source()["promises"]] == table.promises()
    assert len(table.promises()) >= 15


def test_the_table_has_every_decision_and_every_claim() -> None:
    numbers = {kind: [row.key for row in ROWS if row.kind == kind] for kind in ("decision", "claim")}
    assert numbers["decision"] == [str(number) for number in range(1, 11)]
    assert numbers["claim"] == [str(number) for number in range(1, len(numbers["claim"]) + 1)]
    assert {row[0] for row in table.table("SECURITY.md", "Proof")} == set(numbers["claim"])
    assert {str(number) for number in table.source()["decisions"]} <= set(numbers["decision"])


def test_the_source_says_nothing_that_nobody_reads() -> None:
    source = table.source()
    assert set(source) == {"promises", "decisions", "slow"}
    for entry in source["promises"]:
        assert set(entry) <= {"promise", "tests", "drills"}, entry["promise"]
    for row in ROWS:
        assert len(set(row.tests)) == len(row.tests), row.name
    assert len(set(source["slow"])) == len(source["slow"])
    assert [test for test in source["slow"] if test not in TESTS or not test.startswith(table.UNIT)] == []


@pytest.mark.parametrize("test", TESTS)
def test_every_named_test_exists_and_a_step_runs_it(test: str) -> None:
    assert table.trouble_with(test) is None
    assert table.step_in("test", test) or table.step_in("prove", test), f"{test}: no step of scripts/steps.py runs it"


@pytest.mark.parametrize("test", [test for test in TESTS if test.startswith(table.UNIT)])
def test_no_named_unit_test_is_left_to_make_prove(test: str) -> None:
    """The page says that `make test` runs it."""
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name.partition("[")[0]]
    assert "pytest.mark.prove" not in [ast.unparse(mark) for mark in found.decorator_list]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_a_test_in_both_tiers(row: table.Row) -> None:  # type: ignore[name-defined]  # a script
    for tier in ("test", "prove"):
        assert [test for test in row.tests if table.step_in(tier, test)], f"no test in `make {tier}`"


def test_the_step_runs_the_unit_tests_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    step = table.steps().find(table.STEP)
    assert set(step.tiers) == {"test", "prove"}
    assert "promises" in step.command
    assert table.unit_tests()
    assert {test.partition("/unit/")[0] for test in table.unit_tests()} == {"tests"}
    assert not set(table.unit_tests()) & set(table.source()["slow"])
    assert len(table.unit_tests(ROWS[:1])) < len(table.unit_tests())


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("tests/unit/test_nothing.py::test_it", "no such file"),
        ("tests/unit/test_promises.py::test_it", "has no test test_it"),
        ("tests/unit/test_promises.py::load", "has no test load"),
        ("tests/twin/test_contracts.py::test_limit_to_nobody_is_an_error[x]", "can't be read"),
        ("tests/unit/test_promises.py::test_every_named_test_exists_and_a_step_runs_it[x]", "can't be read"),
        (f"{table.DRILL}[measure-nothing]", "found measure-nothing"),
    ],
)
def test_a_test_that_is_not_there_is_named(test: str, words: str) -> None:
    assert words in table.trouble_with(test)


def test_parameters_are_read_from_dictionaries_and_lists() -> None:
    for test in (
        "tests/twin/test_contracts.py::test_a_broken_contract_stops_the_trial_before_anything_is_touched[two at once]",
        "tests/twin/test_trials.py::test_a_candidate_that_fails_its_gate_is_rolled_back[thinks in secret]",
        "tests/unit/test_mechanisms.py::test_no_host_is_begun_after_one_has_failed[rehearse.yml]",
        f"{table.DRILL}[measure-dies-at-sample-57]",
        f"{table.DRILL}[snapshot-killed-in-snapshot]",
    ):
        assert table.trouble_with(test) is None
    assert len(set(table.drill_ids())) == len(table.drill_ids())


def test_the_page_is_what_the_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ROOT / table.PAGE).read_text(encoding="utf-8") == table.page(), "run: python scripts/promises.py"
    monkeypatch.setattr(table, "PAGE", str(tmp_path / "page.md"))
    monkeypatch.setattr(sys, "argv", ["promises.py", "--check"])
    assert table.main() == 1
    assert "run: python scripts/promises.py" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["promises.py"])
    assert table.main() == 0
    monkeypatch.setattr(sys, "argv", ["promises.py", "--check"])
    assert table.main() == 0
    monkeypatch.setattr(sys, "argv", ["promises.py", "--unit"])
    capsys.readouterr()
    assert table.main() == 0
    assert capsys.readouterr().out.splitlines() == table.unit_tests()


def test_readme_and_security_lead_to_the_page_and_keep_no_list_of_their_own() -> None:
    rows = table.table("README.md", "What is promised, by what, and how it is tested")
    assert {len(row) for row in rows} == {2}
    for path in ("README.md", "SECURITY.md"):
        assert "(docs/promises.md)" in (ROOT / path).read_text(encoding="utf-8")


def test_mutations_attack_every_promise_and_fit_the_product() -> None:
    mutations = load(ROOT / "tests/mutations.py")
    assert {row.key for row in ROWS if row.kind == "promise"} <= {found.attacks for found in mutations.MUTATIONS}
    assert len({found.name for found in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
    for found in mutations.MUTATIONS:
        assert mutations.row_of(found).tests
        assert mutations.broken(found) != (ROOT / found.file).read_text(encoding="utf-8")
    stale = mutations.Mutation("stale", "decision 1", "Makefile", "no such text", "")
    with pytest.raises(ValueError, match=r"expected the text 'no such text' once, found it 0 times, in Makefile"):
        mutations.broken(stale)
    with pytest.raises(ValueError, match="found no such row for 'decision 99'"):
        mutations.row_of(mutations.Mutation("astray", "decision 99", "Makefile", "", ""))


@pytest.mark.parametrize(
    ("code", "output", "caught", "words"),
    [
        (1, "FAILED tests/a.py::test_it - assert 1\n1 failed", "tests/a.py::test_it", ""),
        (1, "FAILED tests/a.py::test_it[two words] - assert 1", "tests/a.py::test_it", ""),
        (1, "FAILED tests/a.py::test_it", "tests/a.py::test_it", ""),
        (1, "FAILED tests/b.py::test_other - assert 1", "", "found only tests/b.py::test_other"),
        (1, "ERROR tests/a.py::test_it - ValueError", "", "found exit code 1"),
        (2, "ERROR tests/a.py - SyntaxError", "", "found exit code 2"),
        (0, "1 passed", "", "SURVIVED"),
        (None, "", "", "found none within"),
    ],
)
def test_a_mutant_is_caught_by_a_failed_test_of_its_own_row_alone(
    code: int | None, output: str, caught: str, words: str
) -> None:
    mutations = load(ROOT / "tests/mutations.py")
    row = table.Row("promise", "it", "it", ("tests/a.py::test_it",))
    found, trouble = mutations.judge(code, output, row)
    assert found == caught
    assert words in trouble
    assert bool(trouble) is not bool(found)
