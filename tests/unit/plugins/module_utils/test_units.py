# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd as its own tool prints them, and who goes down with whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import units
from ansible_collections.edgelab.model_trial.plugins.module_utils.run import Ran
from ansible_collections.edgelab.model_trial.plugins.module_utils.units import Unit

ANSWER = """\
Id=a.service
Names=a.service alias.service
ActiveState=active
SubState=running
EnvironmentFiles=/etc/default/a (ignore_errors=yes)
EnvironmentFiles=/etc/a.env (ignore_errors=no)
FragmentPath=/etc/systemd/system/a.service
DropInPaths=/run/systemd/system/a.service.d/x.conf
odd line

Id=b.target
Names=b.target
ActiveState=inactive
SubState=dead
Job=71
"""


def test_an_answer_is_read_unit_by_unit() -> None:
    found = units.parse(ANSWER)
    assert sorted(found) == ["a.service", "alias.service", "b.target"]
    unit = found["alias.service"]
    assert (unit.id, unit.kind, unit.state, unit.active, unit.has_process) == (
        "a.service", "service", "active (running)", True, True,
    )  # fmt: skip
    assert units.files(unit) == [
        "/etc/systemd/system/a.service",
        "/run/systemd/system/a.service.d/x.conf",
        "/etc/default/a",
        "/etc/a.env",
    ]
    # In the queue of a boot it is about to be there.
    assert found["b.target"].active
    assert not found["b.target"].has_process
    assert units.parse("Failed to connect to bus\n") == {}


@pytest.mark.parametrize(
    ("facts", "active"),
    [
        ({"ActiveState": "active"}, True),
        ({"ActiveState": "activating"}, True),
        ({"ActiveState": "reloading"}, True),
        ({"ActiveState": "deactivating"}, False),
        ({"ActiveState": "failed", "Job": "0"}, False),
        ({"ActiveState": "inactive", "Job": ""}, False),
        ({}, False),
    ],
)
def test_a_unit_is_there_or_gone(facts: dict[str, str], active: bool) -> None:
    assert Unit(facts).active is active


def test_many_units_are_one_question() -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> Ran:
        asked.append(argv)
        return Ran(0, ANSWER, "")

    assert units.show(run, ["b.target", "a", "-.mount"])["a.service"].active
    assert units.everything(run)
    assert [list(argv[3:]) for argv in asked] == [
        ["--", "-.mount", "a.service", "b.target"],
        ["--all", *units.PATTERNS],
    ]
    assert units.show(run, []) == {}
    assert len(asked) == 2


def test_no_answer_is_an_error() -> None:
    with pytest.raises(OSError, match="systemctl show: Failed to connect to bus"):
        units.show(lambda _argv: Ran(1, "", "Failed to connect to bus: Host is down\n"), ["a"])


def graph(**edges: str) -> dict[str, Unit]:
    """Units with what goes down with them: ``a="RequiredBy:b,c PartOf:d"``; all are services."""
    found = {}
    for name, text in edges.items():
        facts = {"Id": f"{name}.service", "Names": f"{name}.service", "ActiveState": "active"}
        for edge in text.split():
            how, _colon, others = edge.partition(":")
            facts[how] = " ".join(f"{other}.service" for other in others.split(","))
        found[f"{name}.service"] = Unit(facts)
    return found


@pytest.mark.parametrize(
    ("edges", "roots", "down", "questions"),
    [
        ({"a": ""}, {"A": "a"}, {}, 1),
        # A wish is no need, and a unit it needs itself stays.
        ({"a": "WantedBy:b Requires:c"}, {"A": "a"}, {}, 1),
        ({"a": "RequiredBy:b", "b": ""}, {"A": "a"}, {"b": ["A"]}, 2),
        ({"a": "BoundBy:b", "b": "ConsistsOf:c", "c": ""}, {"A": "a"}, {"b": ["A"], "c": ["A"]}, 3),
        ({"a": "RequiredBy:b", "b": "PropagatesStopTo:a"}, {"A": "a.service"}, {"b": ["A"]}, 2),
        # One that needs two tenants went down with either; a tenant may go down with another.
        ({"a": "RequiredBy:c", "b": "RequisiteOf:c", "c": ""}, {"A": "a", "B": "b"}, {"c": ["A", "B"]}, 2),
        ({"a": "RequiredBy:b", "b": "RequiredBy:c", "c": ""}, {"A": "a", "B": "b"}, {"b": ["A"], "c": ["A", "B"]}, 2),
        # A unit that systemd does not know leads nowhere.
        ({"a": "RequiredBy:b"}, {"A": "a"}, {"b": ["A"]}, 2),
    ],
)
def test_who_goes_down_with_whom(
    edges: dict[str, str], roots: dict[str, str], down: dict[str, list[str]], questions: int
) -> None:
    known, asked = graph(**edges), []

    def look(names: Iterable[str]) -> dict[str, Unit]:
        asked.append(list(names))
        return {name: known[name] for name in asked[-1] if name in known}

    found, _seen = units.dragged(roots, look)
    assert {name: sorted(by) for name, by in found.items()} == {f"{n}.service": by for n, by in down.items()}
    assert len([names for names in asked if names]) <= questions


def test_an_alias_is_the_same_unit() -> None:
    known = graph(a="RequiredBy:b", b="RequiredBy:a")
    known["alias.service"] = Unit({**known["a.service"].facts, "Names": "a.service alias.service"})
    found, _seen = units.dragged({"A": "alias"}, lambda names: {n: known[n] for n in names})
    assert set(found) == {"b.service"}


def test_a_target_is_marked_and_pulls_nothing_up() -> None:
    """A start of its own would start all that it wants, also what a person has stopped."""
    assert units.start_command(Unit({"Id": "a.socket"})) == ["systemctl", "start", "--", "a.socket"]
    assert "--job-mode=ignore-dependencies" in units.start_command(Unit({"Id": "a.target"}))
