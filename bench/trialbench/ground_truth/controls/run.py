"""Negative controls: wrong files and runtimes that the suites must reject, or their passes mean nothing.

A control is caught when the suite it is aimed at says FAIL of it and PASS of the intact file, on the same row.
INCONCLUSIVE, or a crash of trialbench, does not count. At least one control is aimed at each applicable suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.attribution.ladder import Ladder, climb
from trialbench.ground_truth.controls import apr, llama_cpp
from trialbench.ground_truth.controls.base import Bench, Control
from trialbench.ground_truth.evidence.observe import Evidence
from trialbench.ground_truth.evidence.workspace import Workspace
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.runtimes.base import Artifact, Runtime
from trialbench.ground_truth.suites.results import Result, Row, Status
from trialbench.ground_truth.suites.table import declared, judge, suite


@dataclass(frozen=True)
class Caught:
    """The outcome of one control.

    Attributes:
        by: suites that caught it.
        missed: targeted suites that did not catch it, with their answers.
        untried: targeted suites that do not pass the intact file either, so that no change can be seen.
        trouble: why it could not be made; nothing is proved then.
        blamed: the ladder of the wrong file, as far as its guilty step.
    """

    control: Control
    by: tuple[str, ...]
    missed: Mapping[str, str]
    trouble: str = ""
    blamed: Ladder | None = None
    untried: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """All targeted suites that could catch it did, and the ladder names the right step."""
        return bool(self.by) and not self.missed and not self.trouble and self.rightly

    @property
    def tried(self) -> bool:
        """Whether any suite could have caught it."""
        return bool(self.by or self.missed or self.trouble)

    @property
    def rightly(self) -> bool:
        """Whether the ladder blames the step that was made wrong, or no step if none was."""
        return (None if self.blamed is None else self.blamed.guilty) is self.control.guilty


def run_controls(
    workspace: Workspace,
    runtime: Runtime,
    model: Model,
    *,
    tell: Callable[[str], None] = lambda _text: None,
) -> list[Caught]:
    """Try every control on one model: the tiny llama, whose layout has everything that can be got wrong."""
    intact = Evidence(workspace, runtime)
    folder = workspace.root / "controls"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    controls, judged = _set(runtime.identity.name)
    for control in controls:
        if control.oracle is not None and not workspace.roster.precisions:
            continue
        found.append(_try(control, workspace, runtime, model, intact, folder, judged))
        one = found[-1]
        how = (
            f"caught by {', '.join(one.by)}" if one.good else f"NOT CAUGHT {one.trouble}" if one.tried else "not tried"
        )
        tell(f"control {control.name}: {how}")
    return found


def _try(
    control: Control,
    workspace: Workspace,
    runtime: Runtime,
    model: Model,
    intact: Evidence,
    folder: Path,
    judged: str,
) -> Caught:
    replaced: dict[tuple[str, str], Artifact] = {}
    as_made: dict[tuple[str, str], Artifact] = {}
    bad: Runtime = runtime
    original = workspace.artifact(model, runtime.identity.name, judged)
    try:
        if control.spoil is not None:
            spoilt = control.spoil(Bench(workspace, runtime, model, original, folder))
            replaced[model.slug, judged] = spoilt.artifact
            if control.damaged:
                as_made[model.slug, judged] = replace(spoilt.artifact, sha256=original.sha256)
            if spoilt.floats is not None:
                as_made[model.slug, spoilt.floats.quant] = spoilt.floats
        if control.lie is not None:
            bad = control.lie(runtime)
        told = workspace
        if control.oracle is not None:
            oracle = control.oracle(Bench(workspace, runtime, model, original, folder))
            told = Workspace(workspace.root, replace(workspace.roster, oracle=oracle))
    except (TrialbenchError, OSError, ValueError) as error:
        return Caught(control, (), {}, f"could not be made: {error}")
    # The suites are not told the hash of a damaged file: they must see the damage themselves.
    spoiled = Evidence(told, bad, replaced=replaced)
    by, missed, untried = [], {}, {}
    failed: list[Result] = []
    for name in control.aimed:
        rows = [
            _aim(row, judged)
            for row in declared(workspace.roster, runtime.identity.name, [name], [model.slug])
            if _meant(row, control, judged)
        ]
        pairs = [(judge(row, intact), judge(row, spoiled)) for row in rows]
        failed += [wrong for good, wrong in pairs if (good.status, wrong.status) == (Status.PASS, Status.FAIL)]
        if _is_caught(pairs, control.open_is_enough):
            by.append(name)
        elif pairs and all(good.status is not Status.PASS for good, _ in pairs):
            untried[name] = f"{pairs[0][0].status.value}: {pairs[0][0].says}"
        else:
            missed[name] = _missed(pairs)
    blamed = _blamed(control, failed, spoiled.with_files(as_made), model, judged) if failed else None
    return Caught(control, tuple(by), missed, blamed=blamed, untried=untried)


def _blamed(control: Control, failed: Sequence[Result], evidence: Evidence, model: Model, judged: str) -> Ladder | None:
    """The ladder of the file in which the control showed; None if no step is to blame."""
    if control.guilty is None:
        return None
    quant = judged if control.lie is None else failed[0].row.quant
    return climb(failed, evidence, model, quant, whole=False)


def _set(runtime: str) -> tuple[Sequence[Control], str]:
    """The controls for a runtime, and the quant of the file that is spoiled."""
    table = apr if runtime == "apr" else llama_cpp
    return table.CONTROLS, table.JUDGED


def _aim(row: Row, judged: str) -> Row:
    """Suites that judge the most exact file are asked about the spoiled one instead."""
    return replace(row, quant=judged) if row.suite in ("tokenizer", "template") else row


def _meant(row: Row, control: Control, judged: str) -> bool:
    """Rows about the spoiled file; a wrong runtime is wrong about every file."""
    if control.oracle is not None:
        return True
    return control.lie is not None or judged in (_aim(row, judged).quant, row.other)


def _is_caught(pairs: Sequence[tuple[Result, Result]], open_is_enough: bool) -> bool:
    if open_is_enough:
        passed = [bad.status for good, bad in pairs if good.status is Status.PASS]
        return bool(passed) and Status.PASS not in passed
    return any(good.status is Status.PASS and bad.status is Status.FAIL for good, bad in pairs)


def _missed(pairs: Sequence[tuple[Result, Result]]) -> str:
    if not pairs:
        return "no row is declared"
    good, bad = pairs[0]
    return f"intact {good.status.value}, wrong {bad.status.value}: {bad.says}"


def uncovered(caught: Sequence[Caught], runtime: Runtime, workspace: Workspace, model: Model) -> list[str]:
    """Applicable suites that caught no control, and so have never been seen to fail.

    Suites with a constant answer are left out.
    """
    proved = {name for one in caught for name in (*one.by, *one.untried)}
    rows = declared(workspace.roster, runtime.identity.name, (), [model.slug])
    evidence = Evidence(workspace, runtime)
    constant = {name for name in {row.suite for row in rows} if runtime.identity.name in suite(name).constant}
    asked = {row.suite for row in rows if _applies(row, evidence)} - constant
    return sorted(asked - proved)


def _applies(row: Row, evidence: Evidence) -> bool:
    artifact = evidence.artifact(evidence.roster.model(row.model), row.quant) if row.quant else None
    return suite(row.suite).declined(evidence.runtime, artifact) is None
