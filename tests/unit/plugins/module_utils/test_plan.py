# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what is read, what is derived from it, and how everything wrong is named."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import plan as plans
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile

Data = dict[str, Any]


def change(data: Data, path: str, value: Any) -> Data:
    """A copy of ``data`` with the value at a dotted path replaced."""
    changed = copy.deepcopy(data)
    place: Any = changed
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        place = place[key]
    place[last] = value
    return changed


def test_a_plan_is_read_with_its_defaults(plan_data: Data) -> None:
    plan = planfile.parse(plan_data)
    assert plan.tenant("chatterbox").health == plans.Http("http://127.0.0.1:8772/health", json={"model_loaded": True})
    assert plan.tenant("phone").watch_process
    assert not plan.tenant("nav").watch_process
    assert plan.candidate.port == 11437
    assert plan.candidate.file("mmproj") == "mmproj-F16.gguf"
    assert plan.candidate.file("chat_template") == ""
    assert plan.limits.cap_s == 1500
    assert plan.attended


def as_texts(value: Any) -> Any:
    """The same with every number and truth value as the text that ``-e`` and a template make of it."""
    if isinstance(value, dict):
        # What a body or an answer holds is no option: there a text is a text.
        return {key: part if key in ("json", "body", "format") else as_texts(part) for key, part in value.items()}
    if isinstance(value, list):
        return [as_texts(part) for part in value]
    return str(value) if isinstance(value, (bool, int, float)) else value


def test_each_number_may_be_given_as_text(plan_data: Data) -> None:
    plan = planfile.parse(plan_data)
    given = as_texts(json.loads(planfile.to_json(plan)))
    assert given["limits"]["cap_s"] == "1500.0"
    assert planfile.parse(given) == plan
    tenant = plan_data["tenants"][0]
    assert planfile.parse_tenant(as_texts(tenant), "tenants[0]") == planfile.parse_tenant(tenant, "tenants[0]")


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("tenants.0.start_timeout_s", "10", 10.0),
        ("tenants.0.start_timeout_s", "2.5e1", 25.0),
        ("tenants.0.port", "8080", 8080),
        ("tenants.0.start_timeout_s", "", None),
        ("tenants.0.start_timeout_s", "10 s", None),
        ("tenants.0.start_timeout_s", "nan", None),
        ("tenants.0.start_timeout_s", "1e999", None),
        ("tenants.0.start_timeout_s", "1_0", None),
        ("tenants.0.start_timeout_s", "10\n", None),
        ("tenants.0.start_timeout_s", "\u0661\u0660", None),
        ("tenants.0.start_timeout_s", "-1", None),
        ("tenants.0.port", "8080.5", None),
        ("tenants.0.port", "0x1f90", None),
        ("tenants.0.port", "9" * 5000, None),
        ("tenants.0.port", "true", None),
        ("attended", "1", None),
    ],
)
def test_a_text_that_is_no_number_is_refused_as_it_was_given(
    plan_data: Data, path: str, text: str, value: float | None
) -> None:
    if value is None:
        with pytest.raises(planfile.PlanError, match=re.escape(path.replace(".0.", "[0].") + ": expected ")):
            planfile.parse(change(plan_data, path, text))
        return
    tenant = planfile.parse(change(plan_data, path, text)).tenants[0]
    assert getattr(tenant, path.rsplit(".", 1)[-1]) == value


def test_a_plan_survives_its_json(plan_data: Data, tmp_path: Path) -> None:
    plan = planfile.parse(plan_data)
    path = tmp_path / "plan.json"
    path.write_text(planfile.to_json(plan))
    assert planfile.load(path) == plan


def test_what_is_lost_follows_from_what_stops(plan_data: Data) -> None:
    assert planfile.parse(plan_data).impacts == {"mute": ["chatterbox"], "blind": ["llamacpp"]}


def test_a_tenant_without_impact_costs_nobody_anything(plan_data: Data) -> None:
    plan_data["tenants"][2]["impact"] = ""
    assert planfile.parse(plan_data).impacts == {"blind": ["llamacpp"]}


def test_the_restore_bound_is_the_sum_of_what_each_step_may_take(plan_data: Data) -> None:
    plan_data["limits"] = {"drain_limit_s": 30, "a2_s": 15, "cap_s": 1500}
    plan_data["tenants"][0]["start_timeout_s"] = 60
    plan_data["tenants"][2]["start_timeout_s"] = 90
    plan_data["settle_s"] = 12
    plan = planfile.parse(plan_data)
    # A script's stop is under way, and each of the two may have to be ended.
    stops = 20 + 2 * (20 + plans.STOP_GRACE_S)
    moves = stops + 30 + 60 + 90 + 15 + plans.A2_GRACE_S + 12
    answers = sum(q.timeout_s for t in plan.tenants for q in (t.health, t.speech) if q)
    assert answers > 0
    # One of the two is a unit: systemd may be silent at the last look.
    looks = plans.LOOKS * 2 * 3.0 + plans.PATIENCE_S
    assert plan.restore_bound_s == moves + plans.DOCKER_S + looks + plans.CHECKS_S + answers
    # A unit may take longer to stop than it is asked to.
    plan_data["tenants"][0]["stop_limit_s"] = 90
    longer = planfile.parse(plan_data)
    assert longer.restore_bound_s == plan.restore_bound_s + 90 - 20
    assert plan.run_max_s == 1500 - plan.restore_bound_s


BOXED = {"kind": "container", "container": "box"}


@pytest.mark.parametrize(
    ("at", "changes", "more_s"),
    [
        (2, {"speech": None}, -30.0),
        (2, {"start_timeout_s": 121}, 1.0),
        (2, {"stop_timeout_s": 30}, 10.0 + 10.0),
        (2, {"health": {"url": "http://127.0.0.1:8772/", "timeout_s": 5}}, (plans.LOOKS + 1) * 2.0),
        # docker: two looks and a silence; the same once at the last look; whose the answers of health and speech were;
        # whether it opens the card.
        (2, BOXED, 7 * plans.QUESTION_S + 2 * plans.PATIENCE_S),
        (2, {**BOXED, "vram_process": ""}, 5 * plans.QUESTION_S + 2 * plans.PATIENCE_S),
        (2, {"kind": "systemd", "unit": "voice"}, plans.PATIENCE_S - 20.0),
        # Who is not stopped is only checked.
        (1, {"health": None}, -3.0),
        (3, {"stop_timeout_s": 300, "start_timeout_s": 300}, 0.0),
        (3, {**BOXED, "watch_process": False}, plans.QUESTION_S + 2 * plans.QUESTION_S),
    ],
)  # fmt: skip
def test_what_a_tenant_adds_to_the_bound(plan_data: Data, at: int, changes: Data, more_s: float) -> None:
    before = planfile.parse(copy.deepcopy(plan_data))
    plan_data["tenants"][at] |= changes
    after = planfile.parse(plan_data)
    assert after.restore_bound_s - before.restore_bound_s == pytest.approx(more_s)


def test_an_opening_may_measure_and_has_an_end(plan_data: Data) -> None:
    plan = planfile.parse(plan_data)
    assert plan.open_bound_s == plans.OPEN_S + plan.limits.measure_s
    assert dataclasses.replace(plan, rehearsal=True).open_bound_s == plans.OPEN_S


@pytest.mark.parametrize(
    ("gb", "band"),
    [
        (5.49, "low"),
        (5.5, "healthy"),
        (7.5, "healthy"),
        (7.51, "warning"),
        (8.0, "warning"),
        (8.01, "abort"),
    ],
)
def test_bands_include_the_edges_the_right_way(gb: float, band: str) -> None:
    assert plans.Bands().name(gb * 1024) == band


BROKEN = [
    ("run", "a b", "run: expected letters"),
    ("run", 7, "run: expected a text, found 7"),
    ("run", "x" * 101, "run: expected letters, digits, dot, dash, underscore, 100 at most"),
    ("attended", "yes", "attended: expected true or false"),
    ("tenants", {}, "tenants: expected a list"),
    ("tenants.0", "llamacpp", "tenants[0]: expected a mapping with the fields of Tenant"),
    ("tenants.0.color", "red", "tenants[0].color: expected one of "),
    ("tenants.0.name", "../x", "tenants[0].name: expected letters"),
    ("tenants.0.name", "nav", "tenants: expected every name once"),
    ("tenants.0.kind", "cron", "tenants[0].kind: expected one of systemd"),
    ("tenants.0.unit", "", "tenants[0].unit: expected a value, because kind is systemd"),
    ("tenants.0.port", True, "tenants[0].port: expected a whole number"),
    ("tenants.0.start_timeout_s", "soon", "tenants[0].start_timeout_s: expected a number"),
    ("tenants.0.start_timeout_s", True, "tenants[0].start_timeout_s: expected a number"),
    ("tenants.0.health.url", 1, "tenants[0].health.url: expected a text"),
    ("tenants.0.health.json", [], "tenants[0].health.json: expected a mapping"),
    ("tenants.2.user", "", "tenants[2].user: expected a value, because kind is script"),
    ("tenants.2.directory", "", "tenants[2].directory: expected a value"),
    ("tenants.3.process", "", "tenants[3].process: expected a value, because kind is process"),
    ("stop_order", ["nobody"], "stop_order: expected names of tenants"),
    ("restore_order", ["llamacpp"], "restore_order: expected the tenants of stop_order"),
    ("baseline.tenant", "nobody", "baseline.tenant: expected one of"),
    ("candidate.label", "a/b", "candidate: expected label and container"),
    ("candidate.server_args", ["--host=0.0.0.0"], "candidate.server_args: expected no --host=0.0.0.0"),
    ("candidate.gpu_access", "yes", "candidate.gpu_access: expected one of cdi"),
    ("candidate.files.0.name", "../model.gguf", "candidate.files: expected plain file names"),
    ("contracts.clauses.0.lines", [159], "contracts.clauses[0].lines: expected [first, last]"),
    ("contracts.clauses.0.lines", [161, 159], "contracts.clauses[0].lines: expected [first, last]"),
    ("contracts.prompt.lines", [131], "contracts.prompt.lines: expected [first, last]"),
    ("gpu.steady_gb", [13.8, 13.0], "gpu.steady_gb: expected [low, high]"),
    ("gpu.steady_gb", [13.8], "gpu.steady_gb: expected [low, high]"),
    ("bands", {"abort_above_gb": 7.0}, "bands: expected low_below_gb < healthy_to_gb"),
    ("limits", {"cap_s": 60}, "limits.cap_s: expected more than the restore bound"),
    (
        "limits",
        {"lease_s": 4.9},
        "limits.lease_s: expected at least 5 s, so that a slow poll does not end the lease, found 4.9",
    ),
    ("limits", {"lease_s": float("nan")}, "limits.lease_s: expected a finite number, found nan"),
    ("limits", {"cap_s": float("inf")}, "limits.cap_s: expected a finite number, found inf"),
    ("limits", {"cap_s": 1e300}, "limits.cap_s: expected a number below 1e+15, found 1e+300"),
    ("limits", {"cap_s": 10**400}, "limits.cap_s: expected a number below 1e+15, found 1000"),
    ("tenants.0.expected_start_s", -(10**400), "tenants[0].expected_start_s: expected a number below 1e+15"),
    ("gpu.total_gb_min", float("nan"), "gpu.total_gb_min: expected a finite number, found nan"),
    ("gpu.steady_gb", [float("nan"), 13.0], "gpu.steady_gb[0]: expected a finite number, found nan"),
    ("gpu.index", 10**18, "gpu.index: expected a number below 1e+18, found 1000000000000000000"),
    ("tenants.0.health.json", {"load": float("nan")}, "tenants[0].health.json: expected finite numbers"),
    ("tenants.0.health.json", {"load": [-(10**400), float("-inf")]}, "tenants[0].health.json: expected finite numbers"),
    ("slo", {"p95_ms": True}, "slo.p95_ms: expected a number, found True"),
    ("slo", {"p95_ms": -1}, "slo.p95_ms: expected 0 or more, found -1.0"),
    ("slo", {"hz": "fast"}, "slo.hz: expected a number, found 'fast'"),
    ("accuracy_not_worse_by", 101, "accuracy_not_worse_by: expected percentage points, at most 100, found 101.0"),
    ("accuracy_not_worse_by", -1, "accuracy_not_worse_by: expected 0 or more, found -1.0"),
    ("accuracy_not_worse_by", True, "accuracy_not_worse_by: expected a number, found True"),
    ("accuracy_not_worse_by", float("nan"), "accuracy_not_worse_by: expected a finite number, found nan"),
    ("limits", {"lease_s": -1}, "limits.lease_s: expected at least 5 s"),
    ("tenants.0.start_timeout_s", 0, "tenants[0].start_timeout_s: expected more than 0, found 0.0"),
    ("tenants.2.stop_timeout_s", -1, "tenants[2].stop_timeout_s: expected more than 0, found -1.0"),
    ("tenants.0.expected_start_s", -1, "tenants[0].expected_start_s: expected 0 or more"),
    ("tenants.0.health.timeout_s", 0, "tenants[0].health.timeout_s: expected more than 0"),
    ("tenants.0.port", 70000, "tenants[0].port: expected at most 65535, found 70000"),
    ("contracts.quiet.0.http.timeout_s", -2, "contracts.quiet[0].http.timeout_s: expected more than 0"),
    ("candidate.port", 70000, "candidate.port: expected at most 65535, found 70000"),
    ("candidate.port", -1, "candidate.port: expected 0 or more, found -1"),
    ("candidate.port", 0, "candidate.port: expected the port it listens on, found 0"),
    ("gpu.index", -1, "gpu.index: expected 0 or more"),
    ("gpu.steady_gb", [-1, 13.0], "gpu.steady_gb[0]: expected 0 or more"),
    ("limits", {"a2_s": -1000}, "limits.a2_s: expected 0 or more"),
    ("limits", {"drain_limit_s": 0, "drain_min_s": 0}, "limits.drain_limit_s: expected more than 0"),
    ("limits", {"drain_limit_s": 3}, "limits.drain_limit_s: expected at least drain_min_s (5), found 3.0"),
    ("limits", {"request_timeout_s": 0}, "limits.request_timeout_s: expected more than 0"),
    ("workloads", {"nav_extended": 10}, "workloads: expected a list"),
    (
        "workloads",
        [],
        "workloads: expected exactly one with the role decides; give every other one the role shown, found []",
    ),
    ("workloads.0", "nav", "workloads[0]: expected a mapping with the fields of Workload, found 'nav'"),
    (
        "workloads.0.role",
        "shown",
        "workloads: expected exactly one with the role decides; give every other one the role",
    ),
    (
        "workloads.1.role",
        "decides",
        "workloads: expected exactly one with the role decides; give every other one the role",
    ),
    ("workloads.1.role", "judges", "workloads[1].role: expected one of decides, shown, found 'judges'"),
    ("workloads.1.role", None, "workloads[1].role: expected a text, found None"),
    (
        "workloads.1.name",
        "nav",
        "workloads: expected every name once, because its samples are kept under it; rename one",
    ),
    ("workloads.1.name", "Describe", "workloads[1].name: expected a-z, 0-9, - and _, 40 at most"),
    ("workloads.1.name", "../x", "workloads[1].name: expected a-z, 0-9, - and _, 40 at most"),
    ("workloads.1.name", "x" * 41, "workloads[1].name: expected a-z, 0-9, - and _, 40 at most"),
    (
        "workloads.1.name",
        "smoke",
        "workloads[1].name: expected a name other than smoke, without baseline and candidate",
    ),
    ("workloads.0.name", "on-candidate", "workloads[0].name: expected a name other than smoke, without baseline and"),
    ("workloads.0.text", 7, "workloads[0].text: expected a text, found 7"),
    ("workloads.0.nav_first", 7, "workloads[0].nav_first: expected one of cached_n"),
    ("workloads.0.cached_n", 0, "workloads[0].cached_n: expected more than 0"),
    ("workloads.0.warmup", -1, "workloads[0].warmup: expected 0 or more"),
    ("workloads.0.n", 10, "workloads[0].n: expected at least first_n (20), found 10"),
    ("workloads.1.n", 0, "workloads[1].n: expected more than 0, found 0"),
    ("workloads.1.first_n", 5, "workloads[1].first_n: expected nothing: only the workload that decides has this count"),
    ("host", "../panda", "host: expected letters, digits, dot, dash, underscore (it may name a folder)"),
    ("host", "", "host: expected letters"),
    ("host", "pan da", "host: expected letters"),
    ("rehearsal", "yes", "rehearsal: expected true or false"),
    ("scenes", {}, "scenes.folder: expected a value (it has no default)"),
    ("scenes", {"folder": ""}, "scenes.folder: expected a folder of pictures on the host"),
    ("scenes", {"folder": "/v", "pattern": "a/*.jpg"}, "scenes.pattern: expected a pattern of file names"),
    ("scenes", {"folder": "/v", "limit": 1}, "scenes.limit: expected from 2 to 500 pictures, found 1"),
    ("hook", "notify", "hook: expected a mapping with the fields of Hook"),
    ("hook", {}, "hook.command: expected a value (it has no default)"),
    ("hook", {"command": "notify ann"}, "hook.command: expected a list"),
    ("hook", {"command": []}, "hook: expected a command of one or more words, and the user who runs it"),
    ("hook", {"command": ["notify", ""]}, "hook: expected a command of one or more words"),
    ("hook", {"command": ["notify", "a\0b"]}, "hook: expected a command of one or more words"),
    ("hook", {"command": ["notify"], "user": "ann\n"}, "hook: expected a command of one or more words"),
    ("hook", {"command": ["notify", 7]}, "hook.command[1]: expected a text, found 7"),
    ("hook", {"command": ["notify"], "user": ""}, "hook: expected a command of one or more words, and the user"),
    ("hook", {"command": ["notify"], "shell": True}, "hook.shell: expected one of command, user"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN, ids=[f"{p}={v!r}" for p, v, _unused in BROKEN])
def test_what_is_wrong_is_named_with_its_place(plan_data: Data, path: str, value: Any, message: str) -> None:
    with pytest.raises(planfile.PlanError) as caught:
        planfile.parse(change(plan_data, path, value))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("needs", "orders", "message"),
    [
        ({"nav": ["nobody"]}, None, "tenants[1].needs: expected names of tenants (llamacpp, nav, chatterbox, phone)"),
        ({"nav": ["llamacpp", "llamacpp"]}, None, "tenants[1].needs: expected every name once"),
        ({"nav": "llamacpp"}, None, "tenants[1].needs: expected a list"),
        ({"nav": ["nav"]}, None, "tenants: expected needs without a circle"),
        (
            {"nav": ["phone"], "phone": ["llamacpp"], "llamacpp": ["nav"]},
            None,
            "no tenant could be the first to start, found 'llamacpp needs nav needs phone needs llamacpp'",
        ),
        # Who stays up needs what goes down.
        (
            {"phone": ["chatterbox"]},
            None,
            "stop_order: expected phone before chatterbox, because phone needs chatterbox",
        ),
        (
            {"chatterbox": ["llamacpp"]},
            (["llamacpp", "chatterbox"], ["llamacpp", "chatterbox"]),
            "stop_order: expected chatterbox before llamacpp, because chatterbox needs llamacpp, found ['llamacpp'",
        ),
        (
            {"chatterbox": ["llamacpp"]},
            (["chatterbox", "llamacpp"], ["chatterbox", "llamacpp"]),
            "restore_order: expected chatterbox after llamacpp, because chatterbox needs llamacpp, found ['chatterbox'",
        ),
        ({"chatterbox": ["llamacpp"]}, (["chatterbox", "llamacpp"], ["llamacpp", "chatterbox"]), ""),
        # Needs of what stays up, in chains and in a diamond.
        ({"llamacpp": ["nav", "phone"], "nav": ["phone"], "chatterbox": ["nav"]}, None, ""),
    ],
)
def test_what_a_tenant_needs_orders_the_stops_and_starts(
    plan_data: Data, needs: dict[str, Any], orders: tuple[list[str], list[str]] | None, message: str
) -> None:
    for tenant in plan_data["tenants"]:
        tenant.update({"needs": needs[tenant["name"]]} if tenant["name"] in needs else {})
    if orders:
        plan_data["stop_order"], plan_data["restore_order"] = orders
    if not message:
        assert planfile.parse(plan_data).tenant("chatterbox").needs == needs["chatterbox"]
        return
    with pytest.raises(planfile.PlanError) as caught:
        planfile.parse(plan_data)
    assert message in str(caught.value)


def test_tenants_alone_are_moved_in_the_order_of_their_needs(plan_data: Data) -> None:
    """Without a plan, what a tenant needs may be somewhere else; what is listed has an order."""
    api, db = (next(t for t in plan_data["tenants"] if t["name"] == name) for name in ("chatterbox", "llamacpp"))
    api["needs"] = ["llamacpp", "elsewhere"]
    for items, started in (([db, api], True), ([api, db], False), ([api], True), ([db], False)):
        assert len(planfile.parse_tenants(items, "tenants", started=started)) == len(items)
    for items, started, word in (([api, db], True, "after"), ([db, api], False, "before")):
        with pytest.raises(planfile.PlanError, match=f"tenants: expected chatterbox {word} llamacpp"):
            planfile.parse_tenants(items, "tenants", started=started)


def test_a_workloads_counts_follow_from_its_role(plan_data: Data) -> None:
    plan_data["workloads"] = [
        {"name": "describe", "role": "shown"},
        {"name": "phone-intent", "role": "decides", "first_n": 10, "text": "name: phone-intent"},
        {"name": "obstacle", "role": "shown", "n": 7, "warmup": 1},
    ]
    plan = planfile.parse(plan_data)
    assert plan.decider == plans.Workload(
        "phone-intent", "decides", "name: phone-intent", n=100, warmup=3, first_n=10, cached_n=20, tenants_n=20
    )
    assert plan.shown == [
        plans.Workload("describe", "shown", n=5),
        plans.Workload("obstacle", "shown", n=7, warmup=1),
    ]
    assert planfile.parse(json.loads(planfile.to_json(plan))) == plan


@pytest.mark.parametrize(
    ("scenes", "n"),
    [
        (None, 5),
        ({"folder": "~/views"}, 20),
        ({"folder": "~/views", "limit": 60}, 20),
        ({"folder": "~/views", "limit": 12}, 12),
        ({"folder": "~/views", "limit": "12"}, 12),
    ],
)
def test_with_scenes_what_is_shown_asks_about_twenty_of_them(plan_data: Data, scenes: Data | None, n: int) -> None:
    plan_data["scenes"] = scenes
    assert [work.n for work in planfile.parse(plan_data).shown] == [n]
    plan_data["workloads"][1]["n"] = 3
    assert [work.n for work in planfile.parse(plan_data).shown] == [3]


def test_more_than_a_session_has_time_for_is_refused_before_anything_stops(plan_data: Data) -> None:
    # 103 and 22 replies of 0.05 s, and 20 of 2 s: 46.25 s.
    plan_data["scenes"] = {"folder": "~/views"}
    plan_data["workloads"][1]["expected_reply_s"] = 2
    plan_data["limits"] = {**plan_data.get("limits", {}), "measure_s": 52}
    assert planfile.parse(plan_data).candidate_replies_s == pytest.approx(46.25)
    plan_data["limits"]["measure_s"] = 51
    with pytest.raises(planfile.PlanError) as caught:
        planfile.parse(plan_data)
    for part in (
        "workloads: expected replies that take at most 45.9 s of the 51 s of limits.measure_s",
        "raise measure_s",
        "found 'about 46.2 s: nav 100 x 0.05 s, describe 20 x 2 s'",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("ties", [60, "60", 100, None])
def test_a_margin_of_ties_is_a_share(plan_data: Data, ties: Any) -> None:
    plan_data["review_ties_percent"] = ties
    assert planfile.parse(plan_data).review_ties_percent == (None if ties is None else float(ties))


@pytest.mark.parametrize("ties", [0, 101])
def test_a_margin_that_is_no_share_is_refused(plan_data: Data, ties: Any) -> None:
    plan_data["review_ties_percent"] = ties
    with pytest.raises(planfile.PlanError, match="review_ties_percent: expected more than 0, and at most 100, found"):
        planfile.parse(plan_data)


def test_a_trial_can_go_without_anything_to_show(plan_data: Data) -> None:
    plan_data["workloads"] = [{"name": "nav", "role": "decides"}]
    assert planfile.parse(plan_data).shown == []


def test_a_plan_without_workloads_says_so(plan_data: Data) -> None:
    del plan_data["workloads"]
    with pytest.raises(planfile.PlanError, match="workloads: expected a value"):
        planfile.parse(plan_data)


def test_a_hook_is_argv_and_a_user(plan_data: Data) -> None:
    assert planfile.parse(plan_data).hook is None
    assert planfile.parse({**plan_data, "hook": None}).hook is None
    found = planfile.parse({**plan_data, "hook": {"command": ["notify", "a b"]}})
    assert found.hook == plans.Hook(["notify", "a b"], "nobody")
    assert planfile.parse(json.loads(planfile.to_json(found))) == found


def test_a_short_lease_is_long_enough(plan_data: Data) -> None:
    assert planfile.parse({**plan_data, "limits": {"lease_s": 5}}).limits.lease_s == 5.0


def unpinned(data: Data) -> Data:
    """A plan whose candidate has no pins of its own."""
    del data["candidate"]["revision"]
    for file in data["candidate"]["files"]:
        del file["sha256"]
    return data


def test_pins_are_folded_into_the_candidate(plan_data: Data) -> None:
    pins = {"revision": "f" * 40, "files": [{"name": "mmproj-F16.gguf", "sha256": "e" * 64}, "odd"]}
    candidate = planfile.parse({**unpinned(plan_data), "pins": pins}).candidate
    assert candidate.revision == "f" * 40
    assert [file.sha256 for file in candidate.files] == ["", "e" * 64]


def test_pins_of_the_candidate_itself_come_first(plan_data: Data) -> None:
    own = planfile.parse(plan_data).candidate
    pins = {"revision": "f" * 40, "files": [{"name": "mmproj-F16.gguf", "sha256": "e" * 64}]}
    assert planfile.parse({**plan_data, "pins": pins}).candidate == own


def test_hashes_in_capitals_are_the_same_hashes(plan_data: Data) -> None:
    lower = "0123456789abcdef" * 4
    plan_data["candidate"]["revision"] = lower[:40].upper()
    for file in plan_data["candidate"]["files"]:
        file["sha256"] = lower.upper()
    plan_data["contracts"]["prompt"]["sha256"] = lower.upper()
    plan_data |= {"image": f"sha256:{lower.upper()}", "image_base": f"BASE@sha256:{lower.upper()}"}
    found = planfile.parse(plan_data)
    assert {file.sha256 for file in found.candidate.files} == {lower}
    assert (found.candidate.revision, found.contracts.prompt.sha256) == (lower[:40], lower)
    assert (found.image, found.image_base) == (f"sha256:{lower}", f"BASE@sha256:{lower}")


@pytest.mark.parametrize("pins", [None, {}, {"revision": None, "files": None}])
def test_unset_pins_are_empty_and_no_error(plan_data: Data, pins: Any) -> None:
    candidate = planfile.parse({**unpinned(plan_data), "pins": pins}).candidate
    assert candidate.revision == ""
    assert {file.sha256 for file in candidate.files} == {""}


@pytest.mark.parametrize("files", ["model.gguf", ["model.gguf"]])
def test_pins_do_not_hide_what_is_wrong_with_the_candidate(plan_data: Data, files: Any) -> None:
    plan_data["candidate"]["files"] = files
    with pytest.raises(planfile.PlanError, match=r"candidate\.files"):
        planfile.parse({**plan_data, "pins": {}})


def test_a_tenant_alone_is_one_that_can_be_moved(plan_data: Data) -> None:
    assert planfile.parse_tenant(plan_data["tenants"][2], "tenant").name == "chatterbox"
    with pytest.raises(planfile.PlanError, match=r"tenant\.start: expected a value, because kind is process"):
        planfile.parse_tenant(plan_data["tenants"][3], "tenant")


def test_a_tenant_alone_needs_time_too(plan_data: Data) -> None:
    with pytest.raises(planfile.PlanError, match=r"tenant\.start_timeout_s: expected more than 0"):
        planfile.parse_tenant({**plan_data["tenants"][2], "start_timeout_s": 0}, "tenant")


def test_a_missing_value_is_named(plan_data: Data) -> None:
    del plan_data["baseline"]["url"]
    with pytest.raises(planfile.PlanError, match=r"baseline\.url: expected a value"):
        planfile.parse(plan_data)


def test_a_watched_process_needs_its_argv(plan_data: Data) -> None:
    plan_data["tenants"][0].update(watch_process=True, process="")
    with pytest.raises(planfile.PlanError, match=r"tenants\[0\]\.process: .*watch_process"):
        planfile.parse(plan_data)


def test_a_process_that_is_stopped_must_be_startable(plan_data: Data) -> None:
    plan_data["stop_order"].append("phone")
    plan_data["restore_order"].append("phone")
    with pytest.raises(planfile.PlanError, match=r"tenants\[3\]\.start"):
        planfile.parse(plan_data)


def test_a_stopped_tenant_needs_a_way_to_be_seen_back(plan_data: Data) -> None:
    plan_data["tenants"][2]["health"] = None
    with pytest.raises(planfile.PlanError, match=r"tenants\[2\]\.health: .*see that the tenant is back"):
        planfile.parse(plan_data)


@pytest.mark.parametrize("data", [None, [], "plan", 1])
def test_what_is_no_mapping_is_no_plan(data: Any) -> None:
    with pytest.raises(planfile.PlanError, match="plan: expected a mapping with the fields of Plan"):
        planfile.parse(data)


def test_a_file_that_is_absent_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(planfile.PlanError, match=r"absent\.json"):
        planfile.load(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(planfile.PlanError, match=r"torn\.json"):
        planfile.load(tmp_path / "torn.json")


def test_a_loaded_plan_says_which_file_is_wrong(tmp_path: Path, plan_data: Data) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({**plan_data, "run": "a b"}))
    with pytest.raises(planfile.PlanError, match=r"plan\.json: run: expected"):
        planfile.load(tmp_path / "plan.json")


def test_a_plan_says_its_format_and_one_without_a_number_is_read(plan_data: Data, tmp_path: Path) -> None:
    """Plans of finished runs were written before there was a number; a program of another version must be told."""
    assert "format" not in plan_data
    plan = planfile.parse(plan_data)
    assert json.loads(planfile.to_json(plan))["format"] == plans.PLAN_FORMAT == plan.format
    assert planfile.parse({**plan_data, "format": plans.PLAN_FORMAT}) == plan


@pytest.mark.parametrize("number", [plans.PLAN_FORMAT + 1, 0, "1", None, True, [1]], ids=repr)
def test_a_plan_of_another_format_is_refused_by_its_number_and_not_by_its_fields(
    plan_data: Data, tmp_path: Path, number: Any
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan_data, "format": number, "a_field_of_the_future": 1}))
    with pytest.raises(planfile.PlanError, match=rf"plan\.json: format: expected {plans.PLAN_FORMAT}, found") as caught:
        planfile.load(path)
    assert "a_field_of_the_future" not in str(caught.value)
    assert "restored by the program beside its plan" in str(caught.value)
    assert "--tags acquire" in str(caught.value)


# A host where nothing is tried


def test_a_trial_needs_a_card_and_a_rehearsal_does_not(plan_data: Data) -> None:
    for data in ({**plan_data, "gpu": None}, {name: part for name, part in plan_data.items() if name != "gpu"}):
        with pytest.raises(planfile.PlanError, match=r"gpu: expected the card .*\(trial_gpu\).*, found None"):
            planfile.parse(data)
        assert planfile.parse({**data, "rehearsal": True}).gpu is None


def test_a_host_where_nothing_is_tried_is_its_tenants() -> None:
    tenants = [{"name": name, "kind": "systemd", "unit": name} for name in ("db", "api")]
    site = planfile.parse_site({"tenants": tenants, "stop_order": ["api", "db"]})
    assert (site.gpu, site.restore_order, site.contracts) == (None, ["db", "api"], plans.Conditions())
    assert site.tenant("api").unit == "api"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tenants": None}, "tenants: expected a list, found None"),
        (
            {"candidate": {}},
            "candidate: expected one of contracts, gpu, restore_order, stop_order, tenants, found 'candidate'",
        ),
        ({"stop_order": ["x"]}, "stop_order: expected names of tenants (db)"),
        (
            {"stop_order": ["db"], "restore_order": ["db", "db"]},
            "restore_order: expected the tenants of stop_order (db)",
        ),
        ({"gpu": {"steady_gb": [2]}}, "gpu.steady_gb: expected [low, high]"),
        ({"gpu": {}}, "gpu.steady_gb: expected a value"),
        ({"contracts": {"camera": "x"}}, "contracts.camera: expected one of clauses, disk_gb_min"),
        ({"contracts": {"ram_gb_min": -1}}, "contracts.ram_gb_min: expected 0 or more"),
    ],
)
def test_what_is_wrong_about_such_a_host_is_named(change: Data, words: str) -> None:
    site = {"tenants": [{"name": "db", "kind": "systemd", "unit": "db"}], **change}
    with pytest.raises(planfile.PlanError) as caught:
        planfile.parse_site(site)
    assert words in str(caught.value)


def test_a_container_is_stopped_and_started_by_its_name_alone() -> None:
    """docker says whether it runs, as systemd does of a unit."""
    [tenant] = planfile.parse_tenants(
        [{"name": "search", "kind": "container", "container": "search"}], "tenants", started=True
    )
    assert tenant.health is None


@pytest.mark.parametrize("bad", [math.nan, [math.nan], [[math.inf]], {"share": -math.inf}, 10**400, 1e300])
def test_figures_of_modules_are_finite_at_any_depth(bad: object) -> None:
    with pytest.raises(
        planfile.PlanError, match=r"^limit_s.*: expected (a number below|a finite number|finite numbers)"
    ):
        planfile.check_figures({"limit_s": bad})
    planfile.check_figures({"json": {"least": -1, "n": 0, "name": "x"}, "required": True, "at": [0, 1.5]})
