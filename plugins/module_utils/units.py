# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read systemd units, many in one query: what goes down with a unit, and whether it could be started again.

Everything is read with ``systemctl show``; this module starts, stops and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .run import Ran

# Relations through which the stop of a unit stops another one. `Wants=` and `WantedBy=` do not.
DRAGS = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
# The relation that says in which order units start; they stop in the reverse order.
FOLLOWS = "After"
# Relations through which a stopped unit starts again: a connection, a time, a file, or another unit that upholds it.
REVIVES = ("TriggeredBy", "UpheldBy")
# A systemd that is older than a property leaves it out of the answer, without an error.
PROPERTIES = (
    "Id", "Names", "LoadState", "ActiveState", "SubState", "Job", "Type", "BusName", "UnitFileState", "Transient",
    "CanStart", "CanStop", "RefuseManualStart", "RefuseManualStop", "NeedDaemonReload",
    "TimeoutStartUSec", "TimeoutUSec", "Triggers", "FragmentPath", "SourcePath", "DropInPaths", "EnvironmentFiles",
    *DRAGS, *REVIVES, FOLLOWS,
)  # fmt: skip
# Types of units that a stop can pass through. Devices, slices and scopes are not stopped with a service.
PATTERNS = ("*.service", "*.socket", "*.timer", "*.path", "*.target", "*.mount", "*.automount")
SUFFIXES = (".service", ".socket", ".timer", ".path", ".target", ".mount", ".automount", ".swap", ".slice", ".scope",
            ".device")  # fmt: skip

_UP = ("active", "reloading", "refreshing")
Runs = Callable[[Sequence[str]], Ran]


@dataclass(frozen=True)
class Unit:
    """What systemd says about one unit, by property; a property with several values has one a line."""

    facts: Mapping[str, str]

    @property
    def id(self) -> str:
        """Its name, with the suffix."""
        return self.facts.get("Id", "")

    @property
    def kind(self) -> str:
        """Its suffix: ``service``, ``socket``, ``target`` ..."""
        return self.id.rsplit(".", 1)[-1]

    @property
    def state(self) -> str:
        """Its state in systemd's two words: ``active (running)``."""
        return f"{self.facts.get('ActiveState', 'unknown')} ({self.facts.get('SubState', 'unknown')})"

    @property
    def active(self) -> bool:
        """Whether it is up or coming up: a unit that a boot has queued is not gone."""
        state = self.facts.get("ActiveState")
        return state in (*_UP, "activating") or (self._job and state != "deactivating")

    @property
    def up(self) -> bool:
        """Whether it is up, whatever job it has."""
        return self.facts.get("ActiveState") in _UP

    @property
    def leaving(self) -> bool:
        """Whether it goes down, or has a job that may be its stop: begun and not ended is neither up nor down."""
        return self.facts.get("ActiveState") == "deactivating" or (self.up and self._job)

    @property
    def _job(self) -> bool:
        return self.facts.get("Job", "").strip() not in ("", "0")

    @property
    def has_process(self) -> bool:
        """Whether it is a service with a running process."""
        return self.kind == "service" and self.active and self.facts.get("SubState") not in ("exited", "dead")

    def words(self, name: str) -> list[str]:
        """The values of a property that is a list."""
        return self.facts.get(name, "").split()


def full(name: str) -> str:
    """A unit's name with its suffix; like systemctl, take a name without one for a service."""
    return name if name.endswith(SUFFIXES) else f"{name}.service"


def parse(text: str) -> dict[str, Unit]:
    """Parse the answer of ``systemctl show``: a dictionary with each unit under each of its names."""
    found: dict[str, Unit] = {}
    for block in text.split("\n\n"):
        facts: dict[str, str] = {}
        for line in block.splitlines():
            name, equals, value = line.partition("=")
            if equals:
                facts[name] = f"{facts[name]}\n{value}" if name in facts else value
        unit = Unit(facts)
        for name in {unit.id, *unit.words("Names")} - {""}:
            found[name] = unit
    return found


def show(run: Runs, names: Iterable[str]) -> dict[str, Unit]:
    """Ask for some units in one query; for a unit that it does not know, systemd answers ``not-found``.

    Raises:
        OSError: systemctl did not answer.
    """
    wanted = sorted({full(name) for name in names})
    # "--": the mount unit of the root directory is called "-.mount".
    return _ask(run, ["--", *wanted]) if wanted else {}


def everything(run: Runs) -> dict[str, Unit]:
    """Ask for all units that systemd has loaded, except devices, slices and scopes, in one query.

    Raises:
        OSError: systemctl did not answer.
    """
    return _ask(run, ["--all", *PATTERNS])


def _ask(run: Runs, words: Sequence[str]) -> dict[str, Unit]:
    ran = run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", *words])
    found = parse(ran.out)
    if not found:
        raise OSError(f"systemctl show: {ran.first_line()}")
    return found


def dragged(
    roots: Mapping[str, str], look: Callable[[Iterable[str]], Mapping[str, Unit]]
) -> tuple[dict[str, dict[str, str]], dict[str, Unit]]:
    """Find what is stopped together with some units: the units that require them, the units that require those, ...

    A stop also passes through units that are not active.

    Args:
        roots: units, by the caller's name for each.
        look: returns units by name; called once for each step away from the roots, usually once in all.

    Returns:
        ``{unit: {root: how}}`` without the roots' own units, ``how`` in words; and all units that were looked at.
    """
    found: dict[str, dict[str, str]] = {}
    known: dict[str, Unit] = {}
    level = {(root, full(name)) for root, name in roots.items()}
    seen = set(level)
    while level:
        known.update(look(sorted({name for _root, name in level} - set(known))))
        ahead: set[tuple[str, str]] = set()
        for root, name in sorted(level):
            unit = known.get(name)
            # Its other names are the same unit.
            seen |= {(root, other) for other in unit.words("Names")} if unit else set()
        for root, name in sorted(level):
            unit = known.get(name)
            for how in DRAGS if unit else ():
                for other in unit.words(how) if unit else ():
                    if (root, other) not in seen:
                        seen.add((root, other))
                        ahead.add((root, other))
                        found.setdefault(other, {})[root] = f"{how} of {name}"
        level = ahead
    return found, known


def before(name: str, look: Callable[[Iterable[str]], Mapping[str, Unit]]) -> set[str]:
    """Find the units that systemd starts before one: those that its ``After=`` names, those that theirs name, ...

    Args:
        name: the unit.
        look: returns units by name; called once for each step away from it.

    Returns:
        All names of these units; the unit's own are among them where the order is a circle.
    """
    found: set[str] = set()
    level = {full(name)}
    while level:
        known = look(sorted(level))
        level = {other for one in level if one in known for other in known[one].words(FOLLOWS)} - found
        found |= level
    known = look(sorted(found))
    return found | {other for one in found if one in known for other in known[one].words("Names")}


def start_command(unit: Unit) -> list[str]:
    """The command that brings back a unit which was stopped together with another.

    A target is only marked as reached: an ordinary start would also start everything that it wants, including units
    that a person has stopped.
    """
    mode = ["--job-mode=ignore-dependencies"] if unit.kind == "target" else []
    return ["systemctl", "start", *mode, "--", unit.id]


def lacks(unit: Unit | None, there: Callable[[str], bool]) -> list[str]:
    """Why a unit could not be stopped and started again, as far as systemd knows; empty where it could.

    Args:
        unit: None where systemd gave no answer about it.
        there: whether a file exists.
    """
    if unit is None:
        return ["systemd gave no information about its unit"]
    facts, found = unit.facts, []
    load, path = facts.get("LoadState", "unknown"), facts.get("FragmentPath", "")
    if load != "loaded":
        found.append(f"its unit is {load}")
    elif facts.get("Transient") == "yes":
        found.append("its unit is transient: systemd forgets it when it stops (write a unit file)")
    elif path and not there(path):
        found.append(f"its unit file is gone: {path}")
    for verb, can in (("Start", "started"), ("Stop", "stopped")):
        if facts.get(f"RefuseManual{verb}") == "yes":
            found.append(f"its unit refuses to be {can} manually (RefuseManual{verb}=yes)")
        elif facts.get(f"Can{verb}") == "no" and not found:
            found.append(f"systemd says that its unit can't be {can} (Can{verb}=no)")
    return found


def warnings(unit: Unit | None) -> list[str]:
    """What a person should know before a unit is stopped, although it can be started again."""
    if unit is None:
        return []
    found = []
    if unit.facts.get("NeedDaemonReload") == "yes":
        # The remedy, a reload of systemd, may take the GPU from running containers.
        found.append("its unit files have changed since systemd read them; it will start with the old version")
    revivers = [other for name in REVIVES for other in unit.words(name)]
    ends = "may start it while it is stopped, which would end the run"
    return found + [f"{name} {ends}: stop {name}" for name in revivers]


def files(unit: Unit) -> list[str]:
    """Paths of all files that define a unit: its unit file, drop-ins, generator source and environment files."""
    environment = [line.rsplit(" (", 1)[0].lstrip("-") for line in unit.facts.get("EnvironmentFiles", "").splitlines()]
    own = [unit.facts.get("FragmentPath", ""), unit.facts.get("SourcePath", "")]
    return list(dict.fromkeys(path for path in [*own, *unit.words("DropInPaths"), *environment] if path))
