# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instructions for the measuring containers: one session file per container.

A session is a list of segments for one process, because in the window even the start of a Python interpreter counts.
Baseline and candidate get the same segments with the same settings.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from .plan import SESSION_SHARE, Plan, Workload

# Folders inside a client container.
INPUTS, OUT, CONTROL = "/in", "/out", "/control"
# Among the inputs: what the workload that decides asks, and the pictures for the others.
SCENES, PICTURES = "scenes.json", "pictures.json"
SESSIONS = ("tenants", "a1", "candidate", "a2")
# The sign after which a session sends nothing more.
HALT = "halt"
# The live model has callers of its own: no request is sent while its slots are busy. Maximum wait for idle slots, per
# segment; in the window the segment's own limit applies as well.
IDLE_WAIT_S = 10.0
# Requests a second while the live model's callers are served.
BESIDE_HZ = 10.0
# Our client against a raw socket: four requests a pair, after the sample of phase 2. Never in the window.
CALIBRATE = {"rate_hz": 20.0, "time_limit_s": 15.0}
# A reply takes about a kilobyte.
_MAX_BYTES = 16 << 20
# How much of a server's own text is passed on.
_WORDS = 200


def _session(
    plan: Plan, url: str, label: str, start_file: str | None, segments: list[dict[str, Any]]
) -> dict[str, Any]:
    parser = plan.contracts.parser
    own = {"source": f"{INPUTS}/parser_source.py", "function": parser.function} if parser else None
    return {
        "url": url,
        "model_label": label,
        "out_dir": OUT,
        "control_dir": CONTROL,
        "start_file": start_file,
        # The longest it can wait for its start signal: a model that loads, then a whole measurement.
        "wait_s": plan.candidate.start_timeout_s + plan.limits.measure_s,
        "prompt_file": f"{INPUTS}/prompt.txt",
        "image": f"{INPUTS}/camera.jpg",
        "parser": own,
        "timeout_s": plan.limits.request_timeout_s,
        "idle_wait_s": IDLE_WAIT_S,
        "time_limit_s": SESSION_SHARE * plan.limits.measure_s,
        "segments": segments,
    }


def _scenes(plan: Plan, work: Workload) -> dict[str, str]:
    """Which scenes a workload asks: the one that decides with prompts and labels, the others the pictures alone."""
    if plan.scenes is None:
        return {}
    return {"scenes": f"{INPUTS}/{SCENES if work.role == 'decides' else PICTURES}"}


def workload(work: Workload) -> str:
    """The workload as a session names it: a packaged workload, or the user's own file among the inputs."""
    return work.name if work.text is None else f"{INPUTS}/{work.name}.yml"


def _shown(plan: Plan, side: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{work.name}-{side}",
            "workload": workload(work),
            **_scenes(plan, work),
            **({"warmup": work.warmup} if work.warmup else {}),
            "n": work.n,
        }
        for work in plan.shown
    ]


def summary_name(plan: Plan, session: str) -> str:
    """Name of the file that a finished session writes; it is named after the first segment."""
    return f"summary-{build(plan)[session]['segments'][0]['id']}.json"


def build(plan: Plan) -> dict[str, dict[str, Any]]:
    """The four sessions of a trial by name: ``tenants``, ``a1``, ``candidate``, ``a2``."""
    work, base = plan.decider, plan.baseline
    asked = {"workload": workload(work), **_scenes(plan, work)}
    warmed = {**asked, "warmup": work.warmup}
    candidate_url = f"http://127.0.0.1:{plan.candidate.port}"
    smoke = {**asked, "n": 1, "smoke": True, "gate_file": "measure", "extend_to": 1}
    first = {
        **warmed,
        "n": work.first_n,
        "extend_to": work.n,
        "gate_file": "extend",
        "stop_on_thinking": True,
    }
    return {
        "tenants": {
            **_session(
                plan,
                base.url,
                base.label,
                None,
                [{"id": f"{work.name}-baseline-tenants", **warmed, "n": work.tenants_n, "rate_hz": BESIDE_HZ}],
            ),
            "calibrate": {"n": work.tenants_n, **CALIBRATE},
        },
        "a1": _session(
            plan,
            base.url,
            base.label,
            "start-a1",
            [{"id": f"{work.name}-baseline-a1", **warmed, "n": work.n}, *_shown(plan, "baseline")],
        ),
        "candidate": _session(
            plan,
            candidate_url,
            plan.candidate.label,
            "start-candidate",
            [
                {"id": "smoke-candidate", **smoke},
                {"id": f"{work.name}-candidate", **first},
                {
                    "id": f"{work.name}-candidate-cached",
                    **asked,
                    "warmup": 1,
                    "n": work.cached_n,
                    "cache_prompt": True,
                },
                *_shown(plan, "candidate"),
            ],
        ),
        "a2": _session(
            plan,
            base.url,
            base.label,
            "start-a2",
            [{"id": f"{work.name}-baseline-a2", **warmed, "n": work.n, "time_limit_s": plan.limits.a2_s}],
        ),
    }


def _read(path: Path) -> bytes:
    # The container owns this folder: root follows no link there, waits for no pipe, and reads no more than a session
    # can have written.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def replies(path: Path) -> list[dict[str, Any]]:
    """Samples that a session wrote, one object a line; torn lines, and lines that are not objects, are left out."""
    rows = []
    for line in _read(path).split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def good(lines: list[dict[str, Any]]) -> int:
    """How many of the samples are valid replies."""
    return sum(line.get("ok") is True for line in lines)


def failed(lines: list[dict[str, Any]]) -> str:
    """What samples without one valid reply were instead: how many there are, and the first one's error."""
    if not lines:
        return "no reply at all"
    detail = f": {str(lines[0]['error_detail'])[:_WORDS]!r}" if lines[0].get("error_detail") else ""
    return f"{len(lines)} failed, the first one by {lines[0].get('error_class')}{detail}"


def summary(path: Path) -> dict[str, Any] | None:
    """The summary of a finished session, or None while there is no complete one."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(_read(path))
        return found if isinstance(found, dict) else None
    return None
