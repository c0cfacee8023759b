"""The runner behind `make test` and `make prove`, on checkouts of a few files; and its real table of steps."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import steps as table  # noqa: E402

# What must come, however busy the machine is.
LONG_S = 60.0


class Checkout:
    """A git repository with the runner, a table of its own, and a log of what its steps did."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "scripts").mkdir(parents=True)
        (root / "bin").mkdir()
        # Nobody's docker is asked.
        (root / "bin" / "docker").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        (root / "bin" / "docker").chmod(0o755)
        for name in ("prove.py", "steps.py"):
            text = (ROOT / "scripts" / name).read_text(encoding="utf-8")
            (root / "scripts" / name).write_text(text, encoding="utf-8")
        (root / ".gitignore").write_text("/build/\n__pycache__/\n", encoding="utf-8")
        for name in ("one", "two"):
            (root / f"{name}.txt").write_text(f"{name}\n", encoding="utf-8")
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=self.root, check=True, capture_output=True)

    def commit(self, **files: str) -> None:
        for name, text in files.items():
            (self.root / f"{name}.txt").write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")

    def table(self, *steps: str) -> None:
        """Give the copy of steps.py other steps; SAY is a command that leaves its name in build/did."""
        text = (ROOT / "scripts" / "steps.py").read_text(encoding="utf-8")
        text += "\n\ndef sh(words):\n    return ('sh', '-c', 'mkdir -p build; ' + words)\n\n\n"
        text += f"STEPS = ({''.join(step + ', ' for step in steps)})\n"
        (self.root / "scripts" / "steps.py").write_text(text, encoding="utf-8")
        self.commit()

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **variables}
        environment.pop("ALL", None)
        environment.update(variables)
        return subprocess.Popen(
            [sys.executable, "-B", str(self.root / "scripts" / "prove.py"), *words],
            cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str, **variables: str) -> tuple[int, str]:
        process = self.start(*words, **variables)
        text, _ = process.communicate(timeout=LONG_S)
        return process.returncode, text

    def did(self) -> list[str]:
        """What the steps did since the last call, in their order."""
        path = self.root / "build" / "did"
        found = path.read_text(encoding="utf-8").split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def document(self, name: str) -> Any:
        return json.loads((self.root / "build" / name).read_text(encoding="utf-8"))


def step(name: str, words: str = "", **more: object) -> str:
    """A step as the source of the table's copy."""
    command = f"echo {name} >>build/did; {words}"
    facts = {"after": (), "files": ("one.txt",), **more}
    rest = "".join(f", {key}={value!r}" for key, value in facts.items())
    return f"Step({name!r}, 'does it', sh({command!r}){rest})"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_a_run_leaves_what_each_step_took_and_of_which_commit(checkout: Checkout) -> None:
    checkout.table(step("first"), step("second", after=("first",)), step("other"))
    code, text = checkout.run("test")
    assert code == 0, text
    found = checkout.document("test.json")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout.root, capture_output=True, text=True).stdout
    assert (found["commit"], found["clean"], found["ok"]) == (head.strip(), True, True)
    assert {one["name"]: one["result"] for one in found["steps"]} == dict.fromkeys(("first", "second", "other"), "ok")
    assert all(one["seconds"] >= 0 for one in found["steps"])
    did = checkout.did()
    assert sorted(did) == ["first", "other", "second"]
    assert did.index("first") < did.index("second")
    assert text.splitlines()[-1] == "3 passed, 0 failed"
    assert not (checkout.root / "build" / "prove.json").exists()


def test_a_failure_is_shown_and_what_stands_on_it_is_left_out(checkout: Checkout) -> None:
    checkout.table(step("bad", "echo the reason; exit 3"), step("above", after=("bad",)), step("beside"))
    code, text = checkout.run("test")
    assert code == 1
    assert sorted(checkout.did()) == ["bad", "beside"]
    assert "the reason" in text
    assert "exit code 3" in text
    assert "needs bad" in text
    results = {one["name"]: one["result"] for one in checkout.document("test.json")["steps"]}
    assert results == {"bad": "failed", "above": "left out", "beside": "ok"}
    assert text.splitlines()[-1] == "1 passed, 2 failed"


def test_what_passed_is_not_run_again_until_a_file_it_depends_on_changes(checkout: Checkout) -> None:
    checkout.table(step("first"), step("second", files=("two.txt",)), step("ground", files=()))
    assert checkout.run("prove")[0] == 0
    assert sorted(checkout.did()) == ["first", "second"]
    code, text = checkout.run("prove")
    assert (code, checkout.did()) == (0, [])
    assert "2 steps passed before with the same files" in text
    checkout.commit(two="changed\n")
    assert checkout.run("prove")[0] == 0
    assert checkout.did() == ["second"]
    # The same contents as at first are the same files.
    assert checkout.run("prove", ALL="1")[0] == 0
    assert sorted(checkout.did()) == ["first", "second"]


def test_another_command_is_another_step(checkout: Checkout) -> None:
    checkout.table(step("first"))
    assert checkout.run("prove")[0] == 0
    checkout.table(step("first", "true"))
    assert checkout.run("prove")[0] == 0
    assert checkout.did() == ["first", "first"]


def test_what_failed_runs_again(checkout: Checkout) -> None:
    checkout.table(step("first", "test -e build/mended"), step("second"))
    assert checkout.run("prove")[0] == 1
    assert checkout.document("prove.json")["steps"]["first"]["result"] == "failed"
    checkout.did()
    (checkout.root / "build" / "mended").touch()
    assert checkout.run("prove")[0] == 0
    assert checkout.did() == ["first"]


def test_a_dirty_tree_records_nothing(checkout: Checkout) -> None:
    checkout.table(step("first"))
    (checkout.root / "new.txt").touch()
    code, text = checkout.run("prove")
    assert code == 0
    assert "dirty" in text
    assert not (checkout.root / "build" / "prove.json").exists()
    (checkout.root / "new.txt").unlink()
    assert checkout.run("prove")[0] == 0
    assert checkout.did() == ["first", "first"]


def test_a_tree_that_changes_meanwhile_is_proved_of_nothing(checkout: Checkout) -> None:
    checkout.table(step("first", "echo more >>one.txt"))
    code, text = checkout.run("prove")
    assert code == 0
    assert not (checkout.root / "build" / "prove.json").exists()
    assert "the tree changed meanwhile" in text


def test_what_this_machine_lacks_is_skipped_by_name_and_does_not_fail(checkout: Checkout) -> None:
    checkout.table(step("first"), step("real", needs=("apr",)))
    code, text = checkout.run("prove", APR_BINARY="")
    assert code == 0, text
    assert checkout.did() == ["first"]
    assert re.search(r"^ +real +needs the real program, named by APR_BINARY$", text, re.MULTILINE)
    assert text.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"
    assert checkout.run("prove", APR_BINARY="/bin/true")[0] == 0
    assert checkout.did() == ["real"]


def test_a_step_that_hangs_is_ended_whole(checkout: Checkout) -> None:
    checkout.table(step("hangs", "sleep 600 & echo $! >build/pid; wait", limit_s=0.5))
    code, text = checkout.run("test")
    assert code == 1
    assert "hung" in text
    assert_gone(int((checkout.root / "build" / "pid").read_text(encoding="utf-8")))


def assert_gone(pid: int) -> None:
    until = time.monotonic() + LONG_S
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.02)


def wait_for(path: Path) -> str:
    until = time.monotonic() + LONG_S
    while not (path.exists() and path.read_text(encoding="utf-8").strip()):
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)
    return path.read_text(encoding="utf-8").strip()


SLOW = "test -e build/go && exit 0; setsid sleep 600 & echo $! >build/pid; wait"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_half_way_and_started_again_it_goes_on(checkout: Checkout, number: signal.Signals) -> None:
    checkout.table(step("first"), step("slow", SLOW, after=("first",)), step("last", after=("slow",)))
    process = checkout.start("prove")
    pid = int(wait_for(checkout.root / "build" / "pid"))
    process.send_signal(number)
    text, _ = process.communicate(timeout=LONG_S)
    assert process.returncode != 0
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert_gone(pid)
        assert re.search(r"LEFT OUT +slow .*interrupted", text)
        assert "not proved: slow, last" in text
    assert checkout.document("prove.json")["steps"]["first"]["result"] == "ok"
    checkout.did()
    (checkout.root / "build" / "go").touch()
    code, text = checkout.run("prove")
    assert code == 0, text
    # What a killed run had left cannot disturb the next one.
    assert_gone(pid)
    assert checkout.did() == ["slow", "last"]
    assert text.splitlines()[-1] == "3 passed, 0 failed"


def test_a_run_within_a_step_of_another_run_leaves_that_one_alone(checkout: Checkout) -> None:
    """The unit step is such a step: these tests start runs of their own in it."""
    checkout.table(step("ground", files=()), step("first", after=("ground",)))
    outer = {"MT_RUN_OF": f"{checkout.root}-outer/build/test/unit"}
    with subprocess.Popen(["sleep", "600"], env={**os.environ, **outer}) as bystander:
        try:
            code, text = checkout.run("test", **outer)
            assert code == 0, text
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_two_steps_never_share_a_twin(checkout: Checkout) -> None:
    words = "mkdir build/$MT_TWIN || exit 9; sleep 0.3; rmdir build/$MT_TWIN; echo $MT_TWIN >>build/twins"
    many = [step(f"t{number}", words, twin="any") for number in range(4)]
    checkout.table(*many, step("a1", words, twin="a"), step("a2", words, twin="a"))
    code, text = checkout.run("test")
    assert code == 0, text
    twins = (checkout.root / "build" / "twins").read_text(encoding="utf-8").split()
    assert len(twins) == 6
    assert len(set(twins)) == 2


def test_a_step_on_a_twin_begins_beside_as_many_others_as_there_are_cores(checkout: Checkout) -> None:
    cores = max(2, os.cpu_count() or 2)
    # Each ends when all of them have begun.
    meet = f"[ $(ls build/met | wc -l) = {cores + 1} ] && exit"
    words = "mkdir -p build/met; touch build/met/{}; for n in $(seq 100); do " + meet + "; sleep 0.1; done; exit 1"
    others = [step(f"other{number}", words.format(number)) for number in range(cores)]
    checkout.table(*others, step("twin", words.format("twin"), twin="a"))
    code, text = checkout.run("test")
    assert code == 0, text


def test_one_run_at_a_time(checkout: Checkout) -> None:
    checkout.table(step("slow", SLOW))
    process = checkout.start("test")
    wait_for(checkout.root / "build" / "pid")
    code, text = checkout.run("test")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LONG_S)
    assert code == 2
    assert "runs in this checkout already" in text


def test_what_is_asked_for_and_what_it_stands_on(checkout: Checkout) -> None:
    checkout.table(step("ground", files=()), step("first", after=("ground",)), step("other"))
    assert checkout.run("test", "first")[0] == 0
    assert checkout.did() == ["ground", "first"]
    code, text = checkout.run("test", "nothing")
    assert code == 2
    assert "expected steps of `make test`, found 'nothing'. There are: ground, first, other" in text


def test_a_damaged_record_is_named(checkout: Checkout) -> None:
    checkout.table(step("first"))
    (checkout.root / "build").mkdir()
    for damage in ("", "[]", '{"steps": 3}', '{"steps": {"a": 1}}'):
        (checkout.root / "build" / "prove.json").write_text(damage, encoding="utf-8")
        code, text = checkout.run("prove")
        assert code == 2, text
        assert "prove.json: expected the record" in text
        assert "Remove the file" in text


# ---- the real table ----

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
# Files on which no result depends but that of lint: texts for people, and what belongs to the repository itself.
NO_RESULT = (
    r"LICENSE|\.ansible-lint|\.config/banned-turns\.txt|\.config/us-spelling\.txt|\.yamllint|\.gitignore|\.ci/run|Makefile|CONTRIBUTING\.md|CHANGELOG\.md|changelogs/.*"
    r"|docs/.*|.*\.md"
)
# These look at every file, so they say nothing about who depends on what.
ALL_FILES = ("promises", "lint")


def test_names_are_unique_and_what_a_step_stands_on_comes_before_it() -> None:
    names = [step.name for step in table.STEPS]
    assert len(set(names)) == len(names)
    for number, one in enumerate(table.STEPS):
        assert set(one.after) <= set(names[:number]), one.name
        for other in one.after:
            assert one.tiers <= table.find(other).tiers, f"{one.name} needs {other}"
        assert set(one.needs) <= set(table.NEEDS)
        assert one.twin in ("", "a", "b", "any")


@pytest.mark.skipif(not TRACKED, reason="asks git which files there are; this is no checkout")
def test_every_pattern_matches_and_every_file_belongs_to_a_step() -> None:
    expressions = {one.name: [re.compile(table.expression(pattern)) for pattern in one.patterns] for one in table.STEPS}
    for name, patterns in expressions.items():
        for pattern in patterns:
            assert any(pattern.fullmatch(path) for path in TRACKED), f"{name}: {pattern.pattern} matches no file"
    special = [p for one in table.STEPS if one.name not in ALL_FILES for p in expressions[one.name]]
    alone = [
        path for path in TRACKED if not re.fullmatch(NO_RESULT, path) and not any(p.fullmatch(path) for p in special)
    ]
    assert alone == [], "no step but those that read every file depends on these; scripts/steps.py must say who does"


@pytest.mark.skipif(not TRACKED, reason="asks git which files there are; this is no checkout")
def test_every_test_file_is_run_by_make_prove() -> None:
    tests = [path for path in TRACKED if re.fullmatch(r"tests/(?!fixtures/).*/test_\w+\.py", path)]
    assert len(tests) > 100
    for path in tests:
        tiers = {tier for one in table.steps_of(path) for tier in one.tiers}
        assert table.PROVE in tiers, f"{path} is run by no step of `make prove`"


def test_a_step_in_the_quick_tier_belongs_to_the_whole_one() -> None:
    """What `make test` runs, `make prove` runs too, by itself or within another step."""
    for one in table.STEPS:
        if table.TEST in one.tiers and table.PROVE not in one.tiers:
            for test in one.tests:
                others = [step for step in table.steps_of(test) if table.PROVE in step.tiers]
                assert others, f"{one.name}: {test} is part of `make test` alone"


CHANGES = {
    "roles/restore/tasks/main.yml": {"golden", "drills-1", "fleet", "molecule-roles", "sanity", "consumer"},
    "plugins/module_utils/restorer.py": {"golden", "drills-1", "units", "coverage", "python-3.10", "mutations"},
    "bench/trialbench/stats.py": {"golden", "coverage", "storm", "ground-truth", "browser"},
    "tests/twin/drills/faults.py": {"drills-1", "drills-10"},
    "tests/browser/test_pages.py": {"browser"},
    "README.md": {"promises", "lint", "coverage"},
}
KEPT = {
    "roles/restore/tasks/main.yml": {"storm", "browser", "ground-truth", "faulty-server", "python-3.10"},
    "bench/trialbench/stats.py": {"units", "python-3.10", "check-host"},
    "tests/twin/drills/faults.py": {"golden", "fleet", "coverage", "sanity", "storm", "molecule-default"},
    "tests/browser/test_pages.py": {"golden", "drills-1", "coverage", "units"},
    "README.md": {"golden", "drills-1", "storm", "molecule-roles", "browser"},
    "docs/drills.md": {"golden", "drills-1", "storm", "browser"},
}


@pytest.mark.parametrize("path", sorted(CHANGES | KEPT))
def test_a_change_runs_again_what_it_can_break_and_no_more(path: str) -> None:
    assert (ROOT / path).exists()
    hit = {
        one.name
        for one in table.STEPS
        if any(re.fullmatch(table.expression(pattern), path) for pattern in one.patterns)
    }
    assert CHANGES.get(path, set()) <= hit
    assert not KEPT.get(path, set()) & hit
