"""The table of steps behind `make test` and `make prove`: what runs, after what, on which files it depends.

This file is data and a few questions about it; ``scripts/prove.py`` runs it. Add every new test to a step here;
otherwise no tier runs it.

* A step of the tier ``test`` is part of `make test`, so a person waits for it. A step of the tier ``prove`` is part of
  `make prove`, which runs everything that ``build/prove.json`` does not record as proved.
* ``files`` names what a step depends on, as patterns or as groups of patterns (GROUPS). After a change, the steps whose
  files it touches run again: a pattern too many makes that slow, a missing one makes it wrong.
* A step that has ``needs`` is skipped where this machine lacks one of them; NEEDS says what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST, PROVE = "test", "prove"
BOTH = frozenset({TEST, PROVE})
ONLY_TEST, ONLY_PROVE = frozenset({TEST}), frozenset({PROVE})

# ---- which files a step depends on ----

# A pattern that ends in a slash means everything below that folder; else * matches within one name, ** across folders.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "everything": ("**",),
    "environment": ("pyproject.toml", "constraints.txt", "scripts/setup.sh"),
    "collection": ("plugins/", "roles/", "playbooks/", "collection/", "meta/", "galaxy.yml", "ansible.cfg"),
    "trialbench": ("bench/",),
    # The unit tests of plugins/, which ship with the collection.
    "shipped tests": ("tests/unit/plugins/", "tests/unit/conftest.py", "tests/unit/shared/"),
    "image": ("images/bench/", "images/base/"),
    "twin": (
        "images/twin/",
        "images/base/",
        "plugins/plugin_utils/twins.py",
        "tests/fixtures/models/",
        "tests/fixtures/hub/",
    ),
    # What a whole trial on a twin uses.
    "trial": (
        "environment",
        "collection",
        "trialbench",
        "image",
        "twin",
        "tests/conftest.py",
        "tests/twin/conftest.py",
    ),
}


def patterns_of(names: Iterable[str]) -> tuple[str, ...]:
    """Resolve groups into patterns, groups within groups included."""
    found: dict[str, None] = {}
    for name in names:
        for pattern in patterns_of(GROUPS[name]) if name in GROUPS else (name,):
            found[pattern] = None
    return tuple(found)


def expression(pattern: str) -> str:
    """Turn a pattern into a regular expression for a whole path."""
    if pattern.endswith("/"):
        return re.escape(pattern) + ".*"
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)


# ---- what a machine may lack ----


def lacks_variables(*names: str) -> Callable[[], str | None]:
    """Make a question: which of these environment variables is not set?"""

    def ask() -> str | None:
        missing = [name for name in names if not os.environ.get(name)]
        return f"needs the real program, named by {' and '.join(missing)}" if missing else None

    return ask


def lacks_gpu() -> str | None:
    """Say so when there is no NVIDIA GPU that answers."""
    smi = shutil.which("nvidia-smi")
    if smi is None or subprocess.run([smi, "-L"], capture_output=True, check=False, timeout=20).returncode != 0:
        return "needs an NVIDIA GPU and its driver (nvidia-smi -L)"
    return None


def lacks_torch() -> str | None:
    """Say so when torch was not installed for the oracles (scripts/ground_truth.py does it; a download of minutes)."""
    if (ROOT / "build" / "oracle-venv" / ".stamp").exists():
        return None
    return "needs torch and transformers in build/oracle-venv: `make ground-truth` installs them"


def lacks_reader(*files: str) -> Callable[[], str | None]:
    """Make a question: which of the files of build/readers is there neither, nor a program of its name?"""

    def ask() -> str | None:
        missing = [
            name for name in files if not shutil.which(name) and not (ROOT / "build" / "readers" / name).exists()
        ]
        return f"needs {' and '.join(missing)}: `make readers` fetches them" if missing else None

    return ask


def oldest_python() -> str | None:
    """Return a Python 3.10, the oldest that a host may have; None where there is none."""
    for name in (os.environ.get("PYTHON_3_10", ""), "python3.10"):
        path = shutil.which(name) if name else None
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False, timeout=20).returncode == 0:
            return path
    return None


def lacks_oldest_python() -> str | None:
    """Say so when there is no Python 3.10."""
    return None if oldest_python() else "needs a Python 3.10 on PATH, or named by PYTHON_3_10"


NEEDS: Mapping[str, Callable[[], str | None]] = {
    "gemma.cpp": lacks_variables("GEMMA_CPP_BINARY", "GEMMA_CPP_WEIGHTS"),
    "apr": lacks_variables("APR_BINARY"),
    "gpu": lacks_gpu,
    "torch": lacks_torch,
    "python 3.10": lacks_oldest_python,
    "promtool": lacks_reader("promtool"),
    "junit schema": lacks_reader("junit-10.xsd"),
}

# ---- the steps ----


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: what a person calls it; `make prove STEPS="NAME ..."` runs it alone.
        does: what it shows, in a few words.
        run: the command's words; ``{twin}`` stands for the twin that the step was given, ``{a}`` and ``{b}`` for both
            twins, ``{python}`` for the Python that runs the table.
        tiers: of which tiers it is a part.
        tests: paths or node ids of the tests it runs; they end the command when it is pytest.
        files: what its result depends on, as patterns or names of GROUPS; none: it is never taken from the record.
        after: names of the steps that must have passed before.
        twin: "a" or "b" for that twin, "any" for whichever is free, "" for none.
        needs: keys of NEEDS; the step is skipped where one is missing.
        variables: environment variables of the command.
        expected_s: seconds on two cores where setup and first trial take 135 s; for the order and the estimate.
        limit_s: seconds after which it counts as hanging and is ended.
    """

    name: str
    does: str
    run: tuple[str, ...]
    tiers: frozenset[str] = BOTH
    tests: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    after: tuple[str, ...] = ("python",)
    twin: str = ""
    needs: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    expected_s: float = 30
    limit_s: float = 1200

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command."""
        return (*self.run, *self.tests) if self.run[:1] == ("pytest",) else self.run

    @property
    def is_ground(self) -> bool:
        """Whether it only prepares what others need: it shows nothing by itself and is never recorded."""
        return not self.files and not self.tests

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of ``files``, and the tests' own files."""
        own = {test.partition("::")[0] for test in self.tests}
        return (*patterns_of(self.files), *sorted(name if name.endswith(".py") else f"{name}/" for name in own))


PYTEST = ("pytest", "-q", "--tb=short")
# One process per twin; each line names the current test.
ON_TWIN = ("pytest", "-v", "--tb=short", "-m", "twin")
DRILL = ("pytest", "-q", "--tb=short", "-o", "console_output_style=classic")
DRILLS = "tests/twin/drills/test_drills.py"
DRILL_PARTS = 10
# Five drills that span the mechanisms: a candidate, the machine, the runner, the restore, the controller.
CORE_DRILLS = (
    "measure-dies-at-sample-57",
    "window-rebooted",
    "candidate-runner-killed",
    "restore-restore-killed-starting",
    "measure-killed-in-measure",
)
BROKEN_CONTRACT = "tests/twin/test_contracts.py::test_a_broken_contract_stops_the_trial_before_anything_is_touched"
READY = ("python", "image", "twin-a", "twin-b")
# What unit tests read beside their own files.
UNIT_FILES = (
    "environment", "collection", "trialbench", "images/", "docs/", "scripts/", "tests/conftest.py", "tests/fixtures/",
    "README.md", "SECURITY.md", "bench/README.md",
)  # fmt: skip


def twin_file(name: str, does: str, expected_s: float, *more: str) -> Step:
    """Make the step of a file of twin tests."""
    path = f"tests/twin/test_{name}.py"
    files = ("trial", "tests/fixtures/results/attachments.py", *more)
    return Step(
        name.replace("_", "-"), does, ON_TWIN, ONLY_PROVE, (path,), files, READY, "any",
        expected_s=expected_s, limit_s=2400,
    )  # fmt: skip


def molecule(name: str, does: str, expected_s: float, tiers: frozenset[str] = ONLY_PROVE, twin: str = "any") -> Step:
    """Make the step of a molecule scenario."""
    files = ("trial", ".config/molecule/", "molecule/shared/", f"molecule/{name}/", "scripts/molecule.sh")
    return Step(
        f"molecule-{name}", does, ("scripts/molecule.sh", "-s", name), tiers, (f"molecule/{name}",), files, READY, twin,
        variables={"MT_MOLECULE_TWIN": "{twin}"}, expected_s=expected_s,
    )  # fmt: skip


STEPS: tuple[Step, ...] = (
    # ---- what the others need: never taken from the record, and quick when it is there ----
    Step("packages", "Debian packages, a running Docker engine", ("scripts/setup.sh", "--system"), after=(),
         expected_s=10),
    Step("python", "the Python environment in .venv", ("scripts/setup.sh", "--python"), after=("packages",),
         expected_s=40),
    Step("twin-a", "a digital twin of the host", ("{python}", "images/twin/twin.py", "up", "--name", "{a}"),
         after=("packages",), expected_s=65),
    Step("twin-b", "another one", ("{python}", "images/twin/twin.py", "up", "--name", "{b}"), after=("twin-a",),
         expected_s=10),
    Step("image", "the bench image: llama-server and trialbench", ("python", "images/bench/build.py"),
         after=("python", "twin-a"), expected_s=20),
    # ---- without a twin ----
    Step("promises", "the unit tests that docs/promises.md names", ("scripts/unit.sh", "promises"),
         files=("everything",), expected_s=25),
    Step("lint", "ruff, mypy, ansible-lint, yamllint, import borders, spelling, changelog", ("scripts/lint.sh",),
         files=("everything",), expected_s=45),
    Step("coverage", "all unit tests; 95 % line coverage of each file", ("scripts/unit.sh", "coverage"), ONLY_PROVE,
         ("tests/unit",), UNIT_FILES, variables={"MT_PROFILE": "short"}, expected_s=200, limit_s=2400),
    # Not measured: a trace of each line makes them several times slower.
    Step("long-profile", "property tests and exhaustive tests, with many and new examples", ("scripts/unit.sh", "long"),
         ONLY_PROVE, ("tests/unit",), UNIT_FILES, expected_s=120, limit_s=2400),
    Step("sanity", "ansible-test sanity on the built and installed collection", ("scripts/ansible_test.sh", "sanity"),
         files=("collection", "trialbench", "images/", "shipped tests",
                "tests/config.yml", "docs/", "changelogs/", "README.md", "LICENSE", "environment",
                "scripts/ansible_test.sh"), expected_s=110),
    # A process for each test is more than twice the work: `make test` has these tests in `unit`.
    Step("units", "ansible-test units on the built and installed collection", ("scripts/ansible_test.sh", "units"),
         ONLY_PROVE, ("tests/unit/plugins",),
         files=("collection", "shipped tests", "tests/config.yml", "environment", "scripts/ansible_test.sh"),
         after=("python", "sanity"), expected_s=60),
    Step("browser", "all pages in a headless browser", ("scripts/browser.sh",), tests=("tests/browser",),
         files=("trialbench", "plugins/plugin_utils/outcome.py", "plugins/module_utils/words.py", "tests/conftest.py",
                "tests/fixtures/results/", "tests/fixtures/ground_truth/", "environment", "scripts/browser.sh"),
         expected_s=110),
    # The last one of `make test`: it uses every core that is left.
    Step("unit", "the other unit tests", ("scripts/unit.sh", "rest"), ONLY_TEST, ("tests/unit",), expected_s=240),
    Step("promtool", "promtool has no complaint about a run's metrics", PYTEST, ONLY_PROVE,
         ("tests/readers/test_promtool.py",),
         ("trialbench", "tests/fixtures/results/", "tests/fixtures/runs/", "tests/readers/conftest.py", "environment",
          "scripts/readers.sh"), needs=("promtool",), expected_s=20),
    Step("junit-schema", "Jenkins' schema takes a run's JUnit", PYTEST, ONLY_PROVE,
         ("tests/readers/test_junit_schema.py",),
         ("trialbench", "tests/fixtures/results/", "tests/fixtures/runs/", "tests/readers/conftest.py", "environment",
          "tests/readers/requirements.txt", "scripts/readers.sh"), needs=("junit schema",), expected_s=20),
    Step("python-3.10", "the oldest Python that a host may have imports everything that runs there",
         ("scripts/oldest_python.sh",), ONLY_PROVE, files=("plugins/module_utils/", "scripts/oldest_python.sh"),
         needs=("python 3.10",), expected_s=2),
    Step("ground-truth", "the tiny models with llama.cpp, against the shipped oracles",
         ("python", "scripts/ground_truth.py", "--shipped"), ONLY_PROVE,
         files=("trialbench", "image", "tests/fixtures/ground_truth/", "environment", "scripts/ground_truth.py"),
         after=("python", "image"), expected_s=50),
    Step("ground-truth-torch", "the same with fresh oracles", ("python", "scripts/ground_truth.py"), ONLY_PROVE,
         files=("trialbench", "image", "tests/fixtures/ground_truth/", "environment", "scripts/ground_truth.py"),
         after=("python", "image", "ground-truth"), needs=("torch",), expected_s=200, limit_s=3600),
    Step("mutations", "`make test` notices each broken mechanism", ("python", "tests/mutations.py"), ONLY_PROVE,
         ("tests/mutations.py",),
         ("environment", "collection", "trialbench", "images/", "tests/unit/", "tests/fixtures/", "tests/conftest.py",
          "tests/promises.yml", "README.md", "SECURITY.md", "scripts/promises.py", "scripts/unit.sh"),
         expected_s=130, limit_s=1200),
    Step("fuzz", "random bytes and structures for five minutes: no traceback, no secret, no lost byte, no hang",
         PYTEST, ONLY_PROVE, ("tests/fuzz",),
         ("environment", "trialbench", "plugins/module_utils/", "tests/conftest.py", "tests/unit/bench/shared/"),
         variables={"MT_FUZZ_S": "300"}, expected_s=330),
    Step("live-gemma", "the engines' suite on the real gemma.cpp", (*PYTEST, "-m", "live"), ONLY_PROVE,
         ("tests/live/test_gemma_cpp.py",), ("trialbench", "environment"), needs=("gemma.cpp",), limit_s=3600),
    Step("live-apr", "ground truth on the real apr", (*PYTEST, "-m", "live"), ONLY_PROVE, ("tests/live/test_apr.py",),
         ("trialbench", "environment"), needs=("apr",), limit_s=3600),
    Step("gpu", "NVML as it really answers", (*PYTEST, "-m", "gpu"), ONLY_PROVE, ("tests/gpu",),
         ("collection", "environment"), needs=("gpu",)),
    Step("storm", "500 cancels at random moments, 1000 requests with faults", (*PYTEST, "-s"), ONLY_PROVE,
         ("tests/storm",), ("trialbench", "image", "environment", "tests/fixtures/engines/", "tests/fixtures/models/"),
         after=("python", "image"), variables={"MT_SLACK": "3"}, expected_s=110),
    Step("faulty-server", "trialbench against a real llama-server that goes wrong", ON_TWIN, ONLY_PROVE,
         ("tests/twin/test_faulty_server.py",),
         ("trialbench", "image", "environment", "tests/fixtures/models/", "tests/fixtures/faulty_server/"),
         after=("python", "image"), expected_s=40),
    Step("reuse", "the shipped molecule scenario, from the installed tarball in an empty folder", ON_TWIN, ONLY_PROVE,
         ("tests/twin/test_reuse.py",), ("collection", "docs/", "README.md", "twin", "environment"),
         after=("python", "twin-a"), expected_s=60),
    Step("gpu-suite", "tests/gpu itself, on the twin's driver", ON_TWIN, ONLY_PROVE, ("tests/twin/test_gpu_suite.py",),
         ("plugins/", "images/twin/", "tests/gpu/", "tests/fixtures/cuda/", "environment"), expected_s=40),
    # ---- on twin "a" in `make test`: the golden trial ----
    Step("golden", "one whole trial, used by every suite that needs a finished run", ON_TWIN,
         tests=("tests/twin/golden",), files=("trial", "tests/fixtures/results/"), after=READY, twin="a",
         expected_s=80),
    Step("check-host", "the eight checks with other tools",
         ("ansible-playbook", "playbooks/check_host.yml", "-i", "playbooks/twin"), tests=("tests/check_host",),
         files=("images/twin/", "images/base/", "tests/fixtures/models/", "playbooks/twin/", "environment",
                "playbooks/check_host.yml", "playbooks/require_tags.yml", "plugins/action/check_host.py",
                "plugins/plugin_utils/outcome.py", "plugins/plugin_utils/twins.py"),
         after=READY, twin="a", expected_s=20),
    molecule("roles", "single roles in a user's own playbook", 45, BOTH, "a"),
    # ---- on twin "b" in `make test`: what goes wrong ----
    Step("gate", "two broken contracts, an open mark, a rejected candidate", ON_TWIN, ONLY_TEST,
         (f"{BROKEN_CONTRACT}[two at once]", f"{BROKEN_CONTRACT}[open mark]",
          "tests/twin/test_trials.py::test_a_candidate_that_fails_its_gate_is_rolled_back[thinks in secret]"),
         after=READY, twin="b", expected_s=45),
    Step("drills-core", "five faults that span the mechanisms", DRILL, ONLY_TEST,
         tuple(f"{DRILLS}::test_the_host_comes_back[{name}]" for name in CORE_DRILLS), after=READY, twin="b",
         variables={"MT_SLACK": "3"}, expected_s=130),
    # ---- `make prove`: everything else on twins, the longest first ----
    *(
        Step(f"drills-{part}", f"fault drills, part {part} of {DRILL_PARTS}",
             (*DRILL, f"--part={part}/{DRILL_PARTS}"), ONLY_PROVE, ("tests/twin/drills",),
             ("trial", "tests/fixtures/faulty_server/"), READY, "any", expected_s=250, limit_s=3600)
        for part in range(1, DRILL_PARTS + 1)
    ),
    twin_file("security", "the claims of SECURITY.md, under attack from everything", 110),
    twin_file("trials", "candidates that fail, a bigger one, a poor one", 150),
    twin_file("contracts", "broken contracts stop a trial before anything is touched; check mode", 100),
    twin_file("rehearse", "stop, drain, restore, verify without a candidate", 100),
    twin_file("fleet", "two hosts in one play", 120, "tests/twin/fleet/"),
    twin_file("prove_rollback", "any inventory: a right one comes back, a wrong one is red by name", 420, "galaxy.yml"),
    twin_file("twin_honest", "the twin reports what runs in it", 80),
    twin_file("consumer", "the installed collection in a project that does not know the checkout", 60,
              "docs/", "tests/fixtures/consumer/", "shipped tests", "README.md",
              "LICENSE", "CHANGELOG.md", "changelogs/"),
    twin_file("gemma", "the worker's play: check mode, tags, bounds", 90, "molecule/gemma/prepare.yml",
              "tests/fixtures/engines/", "tests/fixtures/results/proofs/"),
    twin_file("required_verdict", "a trial that requires a ground-truth verdict", 40),
    molecule("default", "the trial; then restore and verify change nothing", 80),
    molecule("rollback", "break, verify, restore, verify", 60),
    molecule("gemma", "the worker as a hardened service, its three proofs, its removal", 90),
)  # fmt: skip


def find(name: str) -> Step:
    """Return the step of that name; raises KeyError with the known names."""
    for step in STEPS:
        if step.name == name:
            return step
    raise KeyError(f"no step is called {name!r}; there are {', '.join(step.name for step in STEPS)}")


def runs(step: Step, test_id: str) -> bool:
    """Whether a step runs a test, named by path or node id."""
    return any(test_id == own or test_id.startswith((f"{own}/", f"{own}::", f"{own}[")) for own in step.tests)


def steps_of(test_id: str) -> tuple[Step, ...]:
    """Return the steps that run a test (``path``, ``path::name`` or ``path::name[parameter]``)."""
    return tuple(step for step in STEPS if runs(step, test_id))
