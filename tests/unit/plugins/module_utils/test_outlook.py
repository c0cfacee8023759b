# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trial would do, before it does it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import outlook, planfile

ORDERS = list(itertools.permutations(["llamacpp", "chatterbox"]))


@pytest.fixture
def data(plan_data: dict[str, Any]) -> dict[str, Any]:
    """A plan whose expectations are round: 10 s to start a tenant, 20 s for the candidate, 0.1 s a reply."""
    for tenant in plan_data["tenants"]:
        tenant["expected_start_s"] = 10
    plan_data["candidate"]["expected_start_s"] = 20
    plan_data["workloads"] = [
        {"name": "nav", "role": "decides", "n": 100, "cached_n": 18, "warmup": 5, "expected_reply_s": 0.1},
        {"name": "describe", "role": "shown", "n": 5, "expected_reply_s": 0.1},
    ]
    plan_data["limits"] = {"drain_min_s": 5, "a2_s": 15, "cap_s": 1500}
    return plan_data


def test_down_times_follow_the_order_of_things(data: dict[str, Any]) -> None:
    found = outlook.down_s(planfile.parse(data))
    # 11 s of A1 and its container, 1 s a stop, 20 + 13 + 1 s of candidate, 5 s of drain.
    away = 20 + 13 + 1 + 5
    assert found["llamacpp"] == 1 + away + 10
    # Mute from before A1 until after A2 (10.5 s and its container: nothing is described again).
    assert found["chatterbox"] == 1 + (11 + 1) + found["llamacpp"] + (10.5 + 1) + 10


def test_what_is_shown_takes_its_time_too(data: dict[str, Any]) -> None:
    usual = outlook.down_s(planfile.parse(data))["llamacpp"]
    data["workloads"].append({"name": "obstacle", "role": "shown", "n": 4, "warmup": 1, "expected_reply_s": 2})
    assert outlook.down_s(planfile.parse(data))["llamacpp"] == usual + 10


def test_what_the_shown_replies_add_is_said(data: dict[str, Any]) -> None:
    data["workloads"][1]["expected_reply_s"] = 0.5
    (told,) = [line for line in outlook.lines(planfile.parse(data)) if line.startswith("of that")]
    # Blind while the candidate describes; mute while the baseline does, too.
    assert told == "of that describe: 5.0 s mute, 2.5 s blind (5 replies of each model, for a person to compare)"
    data["scenes"], data["workloads"][1] = {"folder": "~/views"}, {"name": "describe", "role": "shown"}
    (told,) = [line for line in outlook.lines(planfile.parse(data)) if line.startswith("of that")]
    assert told.endswith("(20 replies of each model, each about another picture, for a person to compare)")
    data["rehearsal"] = True
    assert not [line for line in outlook.lines(planfile.parse(data)) if line.startswith("of that")]


def test_the_second_baseline_is_bounded(data: dict[str, Any]) -> None:
    free = outlook.down_s(planfile.parse(data))["chatterbox"]
    data["limits"]["a2_s"] = 4
    assert outlook.down_s(planfile.parse(data))["chatterbox"] == pytest.approx(free - 6.5)


def test_who_comes_back_first_is_down_for_less(data: dict[str, Any]) -> None:
    usual = outlook.down_s(planfile.parse(data))
    data["restore_order"] = ["chatterbox", "llamacpp"]
    other = outlook.down_s(planfile.parse(data))
    assert other["chatterbox"] < usual["chatterbox"]
    assert other["llamacpp"] > usual["llamacpp"]


def test_a_baseline_that_does_not_stop_is_measured_all_the_same(data: dict[str, Any]) -> None:
    data["stop_order"] = data["restore_order"] = ["chatterbox"]
    found = outlook.down_s(planfile.parse(data))
    assert list(found) == ["chatterbox"]
    # Its own stop, A1 and its container, the candidate, the drain, its start.
    assert found["chatterbox"] == 1 + (11 + 1) + (20 + 13 + 1) + 5 + 10


def test_an_impact_lasts_from_the_first_stop_until_the_last_is_back(data: dict[str, Any]) -> None:
    data["tenants"][2]["impact"] = "blind"
    data["stop_order"] = ["chatterbox", "llamacpp"]
    data["restore_order"] = ["chatterbox", "llamacpp"]
    trial = planfile.parse(data)
    down = outlook.down_s(trial)
    text = "\n".join(outlook.lines(trial))
    (blind,) = [line for line in outlook.lines(trial) if line.startswith("expected blind time")]
    assert float(blind.split()[3]) > max(down.values()), text


def test_the_lines_name_what_stops_what_comes_back_and_what_stays(data: dict[str, Any]) -> None:
    trial = planfile.parse(data)
    down = outlook.down_s(trial)
    found = outlook.lines(trial)
    assert found[0] == "plan of e4b-20260501-120000 on panda: try gemma-4-E4B-it-Q4_K_M on port 11437"
    assert found[1] == f"1. stop chatterbox (Chatterbox TTS), expected down {down['chatterbox']:.0f} s"
    assert found[2] == f"2. stop llamacpp (Gemma 4 E2B), expected down {down['llamacpp']:.0f} s"
    assert found[3] == "then restore in the order: llamacpp, chatterbox"
    # Docker, the longest stop and its grace, drain, two starts, A2 and its grace, the settle period, the checks.
    assert found[4] == "a restore takes at most 500 s, including 1 s to check that every tenant stays up"
    assert f"expected mute time {down['chatterbox']:.0f} s, at most 1500 s" in found
    assert f"expected blind time {down['llamacpp']:.0f} s, at most 1500 s" in found
    assert found[-1] == "untouched: nav, phone"


def test_when_nothing_stays_it_is_said(data: dict[str, Any]) -> None:
    data["tenants"] = [t for t in data["tenants"] if t["name"] in ("llamacpp", "chatterbox")]
    assert outlook.lines(planfile.parse(data))[-1] == "untouched: nothing"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("back", ORDERS)
def test_nobody_is_down_for_less_than_the_candidate_takes(
    data: dict[str, Any], order: tuple[str, ...], back: tuple[str, ...]
) -> None:
    data["stop_order"], data["restore_order"] = list(order), list(back)
    found = outlook.down_s(planfile.parse(data))
    assert list(found) == list(order)
    assert min(found.values()) > 20 + 13 + 5 + 10


# Rehearsals: nothing is tried and nothing measured, so that only stops, drains and starts remain.


def test_a_rehearsal_takes_stops_drain_and_starts(data: dict[str, Any]) -> None:
    data["rehearsal"] = True
    trial = planfile.parse(data)
    assert outlook.down_s(trial) == {"chatterbox": 1 + 1 + 5 + 10 + 10, "llamacpp": 1 + 5 + 10}
    found = outlook.lines(trial)
    assert found[0].endswith("rehearse the trial of gemma-4-E4B-it-Q4_K_M: stop, drain, restore, without a candidate")
    data["rehearsal"] = False
    full = outlook.down_s(planfile.parse(data))
    assert (
        found[1] == f"1. stop chatterbox (Chatterbox TTS), expected down 27 s (in a trial {full['chatterbox']:.0f} s)"
    )
    assert "expected mute time 27 s, at most 1500 s" in found


ENTRIES: list[dict[str, Any]] = [
    {"event": "opened", "seq": 1},
    {
        "event": "restored",
        "seq": 2,
        "down": {"chatterbox": 20.25, "llamacpp": 9.5},
        "times": {
            "stop_s": {"chatterbox": 2.0, "llamacpp": 0.5},
            "start_s": {"chatterbox": 9.0, "llamacpp": 3.0},
            "drain_s": {"window": 0.75, "restore": 6.0},
        },
    },
]


def test_what_a_rehearsal_measured_is_read_from_its_journal() -> None:
    found = outlook.measured(ENTRIES)
    assert found is not None
    assert found.stop_s == {"chatterbox": 2.0, "llamacpp": 0.5}
    assert found.start_s["llamacpp"] == 3.0
    assert found.drain_s == {"window": 0.75, "restore": 6.0}
    assert found.down_s["chatterbox"] == 20.25
    assert outlook.measured(ENTRIES[:1]) is None


def test_a_journal_without_times_measured_nothing(data: dict[str, Any]) -> None:
    data["rehearsal"] = True
    found = outlook.measured([{"event": "restored", "seq": 1}])
    assert found == outlook.Measured()
    trial = planfile.parse(data)
    text = outlook.report(trial, found)
    assert text[1].split()[:4] == ["chatterbox", "-", "-", "-"]
    assert "drain: not measured" in text
    assert outlook.hints(trial, found) == []


def test_a_trial_is_computed_again_from_what_was_measured(data: dict[str, Any]) -> None:
    data["rehearsal"] = True
    rehearsed = planfile.parse(data)
    data["rehearsal"] = False
    trial, found = planfile.parse(data), outlook.measured(ENTRIES)
    assert found is not None
    expected = outlook.down_s(trial, found)
    # Stop, drain of the window, candidate, drain of the restore (measured: 6 s), start.
    assert expected["llamacpp"] == pytest.approx(0.5 + 0.75 + (20 + 13 + 1) + 6 + 3, abs=0.06)
    assert expected["chatterbox"] == pytest.approx(2 + 12 + expected["llamacpp"] + 11.5 + 9, abs=0.11)
    text = outlook.report(rehearsed, found)
    assert text[0].split("  ")[0] == "tenant"
    assert text[1].split() == ["chatterbox", "2.0", "9.0", "20.2", f"{expected['chatterbox']:.1f}"]
    assert text[2].split() == ["llamacpp", "0.5", "3.0", "9.5", f"{expected['llamacpp']:.1f}"]
    assert "drain: 0.8 s in the window, 6.0 s in the restore" in text
    assert f"a trial: mute for about {expected['chatterbox']:.0f} s, at most 1500 s" in text
    # 10 s were expected and 3 s measured: the outlook of the inventory would mislead. 9 s is near enough.
    assert [line for line in text if line.startswith("hint")] == [
        "hint: llamacpp took 3.0 s to start, the inventory expects 10 s; set its expected_start_s to 3"
    ]


def test_what_leaves_too_little_room_is_hinted_at(data: dict[str, Any]) -> None:
    data["tenants"][0]["start_timeout_s"] = 20
    data["limits"] = {"drain_min_s": 5, "drain_limit_s": 30, "a2_s": 15, "cap_s": 516}
    trial = planfile.parse(data)
    name = trial.tenants[0].name
    found = outlook.Measured(start_s={name: 11.0}, drain_s={"restore": 16.0})
    text = "\n".join(outlook.hints(trial, found))
    assert f"{name} took 11.0 s of the 20 s it may take to start; raise its start_timeout_s" in text
    assert "VRAM took 16.0 s to drain in the restore; raise limits.drain_limit_s (30)" in text
    assert "its window ends after" not in text
    slow = outlook.Measured(stop_s={"chatterbox": 400.0})
    assert "its window ends after" in "\n".join(outlook.hints(trial, slow))
