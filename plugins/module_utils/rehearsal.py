# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has this host ever come back? The record that a rehearsal leaves, and what has changed since.

A rehearsal that was restored at the first attempt and passed all checks is recorded on the host, with a hash of each
thing that it covered: the tenants as the inventory has them, their order, units, containers, scripts, and this program.
A trial compares these hashes with the host as it is now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .journal import State, wall, write_atomic
from .plan import Plan, Tenant
from .run import Ran
from .tenants import Host

FILE, FORMAT = "rehearsed.json", 1
PROGRAM = "/usr/local/sbin/model-trial"
# One for each candidate that stops other tenants, and some earlier ones.
KEPT = 8
# Fields for people, and fields that the host looks up: with other values, it is still the same tenant. They include the
# figures that a rehearsal tells the operator to correct.
_WORDS = ("title", "impact", "boot", "expected_start_s", "stop_limit_s")
# Prints a line for each file: a hash of its size and its first 4 MiB, or a dash if it is no program. It runs as root,
# because a file's owner may forbid others to read it.
_HASH = """for file
do
  program=no
  case "$file" in *.sh | *.py) program=yes ;; esac
  test -x "$file" && program=yes
  if test -f "$file" && test $program = yes
  then { stat -L -c %s -- "$file" && head -c 4194304 -- "$file"; } | sha256sum | cut -c 1-64
  else echo -
  fi
done"""
_EXEC = re.compile(r"^Exec[A-Za-z]*=[-@:+!|]*(.*)$", re.MULTILINE)
_CONTAINER = '{"image": {{json .Image}}, "config": {{json .Config}}, "host": {{json .HostConfig}}}'


class Untold(RuntimeError):
    """Something that a rehearsal covers can't be looked up; the message says what."""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def of_program(path: Path) -> str:
    """SHA-256 of a program; empty where it can't be read."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def _out(ran: Ran, what: str) -> str:
    if ran.rc:
        raise Untold(f"{what}: {ran.first_line()}")
    return ran.out


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _files(words: Iterable[str], folder: str) -> list[str]:
    return [str(Path(folder or "/", word)) for word in words if word and not word.startswith("-")]


def _of_tenant(tenant: Tenant, host: Host) -> tuple[dict[str, str], list[str]]:
    """Hashes of what a tenant's manager knows about it, and files that may be its programs."""
    files = [file for command in (tenant.start, tenant.stop) for file in _files(_words(command), tenant.directory)]
    if tenant.unit:
        text = _out(host.root("systemctl", "cat", "--", tenant.unit), f"unit {tenant.unit}")
        lines = _EXEC.findall(text.replace("\\\n", " "))
        files += [word for line in lines for word in _words(line) if word.startswith("/")]
        return {f"unit {tenant.unit}": _sha256(text)}, files
    if tenant.container:
        asked = host.root("docker", "inspect", "--format", _CONTAINER, tenant.container)
        return {f"container {tenant.container}": _sha256(_out(asked, f"container {tenant.container}"))}, files
    return {}, files


def _of_files(files: Sequence[str], host: Host) -> dict[str, str]:
    if not files:
        return {}
    found = _out(host.root("sh", "-c", _HASH, "sh", *files), "the tenants' programs").split()
    return {f"script {file}": sha for file, sha in zip(files, found, strict=False) if sha != "-"}


def parts(plan: Plan, host: Host, program: str) -> dict[str, str]:
    """What a rehearsal of this plan on this host covers: the SHA-256 of each thing, by its name for people.

    Args:
        plan: whose tenants would be stopped and started.
        host: where it would be.
        program: SHA-256 of the program that would do it.

    Raises:
        Untold: something can't be looked up.
    """
    order = json.dumps([plan.stop_order, plan.restore_order])
    found = {"the order": _sha256(order), "the program": program}
    files: list[str] = []
    for tenant in plan.tenants:
        facts = {name: value for name, value in dataclasses.asdict(tenant).items() if name not in _WORDS}
        found[f"tenant {tenant.name}"] = _sha256(json.dumps(facts, sort_keys=True))
        if tenant.name in plan.stop_order:
            more, mentioned = _of_tenant(tenant, host)
            found |= more
            files += mentioned
    return found | _of_files(list(dict.fromkeys(files)), host)


def _records(text: str) -> list[dict[str, Any]]:
    """The records in a file, the newest first; anything else in it is left out."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("rehearsals"), list):
        return []
    return [
        {"run": str(one.get("run")), "wall": str(one.get("wall")), "parts": one["parts"]}
        for one in found["rehearsals"]
        if isinstance(one, dict) and isinstance(one.get("parts"), dict)
    ]


def _changed(before: dict[str, Any], now: dict[str, str]) -> list[str]:
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def judge(plan: Plan, host: Host, state_dir: Path, program: str = "") -> tuple[bool, str]:
    """Whether exactly this was rehearsed on this host; and what was found, in words.

    Args:
        plan: the trial's.
        host: asked as root.
        state_dir: where the record is.
        program: SHA-256 of the program that the trial brings; empty means the installed one.
    """
    path = str(state_dir / FILE)
    shown = host.root("sh", "-c", 'test ! -e "$1" || cat -- "$1"', "sh", path)
    if shown.rc:
        return False, f"{path} cannot be read: {shown.first_line()}"
    records = _records(shown.out)
    if not records:
        torn = " (its record cannot be used)" if shown.out else ""
        return False, f"no rehearsal of this host has passed{torn}"
    if not program:
        # Without a program, none is installed, and any record belongs to another program.
        program = (host.root("sha256sum", "--", PROGRAM).out.split() or [""])[0]
    try:
        now = parts(plan, host, program)
    except Untold as err:
        return False, f"it is unknown whether this was rehearsed: {err}"
    # The records begin with the newest, so this is the newest of those with the fewest changes.
    nearest = min(records, key=lambda one: len(_changed(one["parts"], now)))
    changed = _changed(nearest["parts"], now)
    when = f"{nearest['wall']} (run {nearest['run']})"
    if changed:
        return False, f"rehearsed at {when}, and changed since: {', '.join(changed)}"
    return True, f"rehearsed at {when}"


def second_tries(entries: Sequence[dict[str, Any]]) -> list[str]:
    """What did not succeed at the first try of the restore, in words, oldest first; empty if everything did.

    These are starts of a tenant that were tried again, and restores that were not complete, or were cut off and begun
    again. A restore that waited until the host could start processes again does not count.
    """
    found, restores, begun = [], 0, False
    for entry in entries:
        event, why = entry["event"], str(entry.get("reason") or "without a reason").split("\n", 1)[0]
        if event == "tenant_retry":
            found.append(f"{entry.get('tenant')}: start {entry.get('attempt')} failed and was tried again: {why}")
        elif event == "restore_started":
            if begun:
                found.append(f"restore {restores} was cut off and begun again")
            restores, begun = restores + 1, True
        elif event == "restore_failed":
            found.append(f"restore {max(restores, 1)} was not complete: {why}")
        if event in ("restore_failed", "restore_waits"):
            begun = False
    return found


def passed(entries: Sequence[dict[str, Any]]) -> str:
    """Why a finished run was no passed rehearsal; empty if it was one: everything went well at the first attempt."""
    events = [entry["event"] for entry in entries]
    bad = [entry for entry in entries if entry["event"] in ("phase_failed", "tenant_failed")]
    if bad:
        return f"{bad[0]['event'].replace('_', ' ')}: {bad[0].get('reason', '')}"
    again = second_tries(entries)
    if again:
        return again[0]
    done = any(entry["event"] == "phase_done" and entry.get("phase") == "window" for entry in entries)
    return "" if done and "restored" in events else "it did not run to its end"


def keep(plan: Plan, state: State, host: Host, program: str) -> None:
    """Record on the host that this was rehearsed; an earlier record of the same rehearsal is replaced.

    Raises:
        Untold: something that it covers can't be looked up.
        OSError: the record can't be written; earlier records are unchanged.
    """
    now = parts(plan, host, program)
    path = state.root / FILE
    text = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
    others = [one for one in _records(text) if _changed(one["parts"], now)]
    records = [{"run": plan.run, "wall": wall(), "parts": now}, *others][:KEPT]
    write_atomic(path, json.dumps({"format": FORMAT, "rehearsals": records}, indent=1, sort_keys=True) + "\n")
