# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the measuring containers are told: the candidate is measured as the live model is."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, sessions

Session = dict[str, Any]

# Beside the tests, because these ship with the collection.
USUAL = Path(__file__).resolve().parents[1] / "fakes" / "default_sessions.json"

# What a segment's id, its hold point and its bounds say; everything else is how it is measured.
ABOUT = ("id", "gate_file", "extend_to", "stop_on_thinking", "n", "time_limit_s", "rate_hz")


@pytest.fixture
def built(plan_data: dict[str, Any]) -> dict[str, Session]:
    """The sessions of a plan."""
    return sessions.build(planfile.parse(plan_data))


def segments(session: Session) -> dict[str, dict[str, Any]]:
    """The segments of a session by id, in order."""
    return {segment["id"]: segment for segment in session["segments"]}


def how(segment: dict[str, Any]) -> dict[str, Any]:
    """How a segment measures."""
    return {key: value for key, value in segment.items() if key not in ABOUT}


def test_there_is_a_session_for_every_container(built: dict[str, Session]) -> None:
    assert tuple(built) == sessions.SESSIONS == ("tenants", "a1", "candidate", "a2")


def test_files_of_a_run_have_the_agreed_names(built: dict[str, Session]) -> None:
    names = {name: list(segments(session)) for name, session in built.items()}
    assert names == {
        "tenants": ["nav-baseline-tenants"],
        "a1": ["nav-baseline-a1", "describe-baseline"],
        "candidate": ["smoke-candidate", "nav-candidate", "nav-candidate-cached", "describe-candidate"],
        "a2": ["nav-baseline-a2"],
    }


def test_the_usual_sessions_are_these_to_the_letter(built: dict[str, Session]) -> None:
    """What two runs were asked must not differ, or their numbers can not be compared."""
    usual = USUAL.read_text(encoding="utf-8")
    assert json.dumps(built, indent=1) + "\n" == usual


THREE = [
    {"name": "phone-intent", "role": "decides", "text": "name: phone-intent", "n": 30, "first_n": 10},
    {"name": "describe", "role": "shown"},
    {"name": "obstacle", "role": "shown", "text": "name: obstacle", "n": 8, "warmup": 2},
]
INTENT, OBSTACLE = "/in/phone-intent.yml", "/in/obstacle.yml"
# id, workload, warmup, n
SEGMENTS = {
    "tenants": [("phone-intent-baseline-tenants", INTENT, 3, 20)],
    "a1": [
        ("phone-intent-baseline-a1", INTENT, 3, 30),
        ("describe-baseline", "describe", None, 5),
        ("obstacle-baseline", OBSTACLE, 2, 8),
    ],
    "candidate": [
        ("smoke-candidate", INTENT, None, 1),
        ("phone-intent-candidate", INTENT, 3, 10),
        ("phone-intent-candidate-cached", INTENT, 1, 20),
        ("describe-candidate", "describe", None, 5),
        ("obstacle-candidate", OBSTACLE, 2, 8),
    ],
    "a2": [("phone-intent-baseline-a2", INTENT, 3, 30)],
}


def test_a_trial_asks_the_workloads_of_its_plan(plan_data: dict[str, Any], built: dict[str, Session]) -> None:
    own = sessions.build(planfile.parse({**plan_data, "workloads": THREE}))
    about = ("id", "workload", "warmup", "n")
    assert {
        name: [tuple(one.get(key) for key in about) for one in session["segments"]] for name, session in own.items()
    } == SEGMENTS
    # Everything else is as in any trial.
    assert [{**session, "segments": []} for session in own.values()] == [
        {**session, "segments": []} for session in built.values()
    ]
    assert segments(own["candidate"])["phone-intent-candidate"]["extend_to"] == 30


def test_a_trial_without_anything_to_show_has_the_deciding_segments_alone(plan_data: dict[str, Any]) -> None:
    own = sessions.build(planfile.parse({**plan_data, "workloads": THREE[:1]}))
    assert [len(session["segments"]) for session in own.values()] == [1, 1, 3, 1]


def test_baseline_and_candidate_are_measured_alike(built: dict[str, Session]) -> None:
    different = ("url", "model_label", "start_file", "segments", "calibrate")
    shared = [json.dumps({k: v for k, v in session.items() if k not in different}) for session in built.values()]
    assert len(set(shared)) == 1
    a1, candidate = segments(built["a1"]), segments(built["candidate"])
    assert how(a1["nav-baseline-a1"]) == how(candidate["nav-candidate"])
    assert how(segments(built["a2"])["nav-baseline-a2"]) == how(candidate["nav-candidate"])
    assert how(a1["describe-baseline"]) == how(candidate["describe-candidate"])
    assert a1["describe-baseline"]["n"] == candidate["describe-candidate"]["n"] == 5


def test_only_the_address_tells_them_apart(built: dict[str, Session]) -> None:
    where = {name: (s["url"], s["model_label"]) for name, s in built.items()}
    baseline = ("http://127.0.0.1:11435", "gemma-4-E2B")
    assert where == {
        "tenants": baseline,
        "a1": baseline,
        "a2": baseline,
        "candidate": ("http://127.0.0.1:11437", "gemma-4-E4B-it-Q4_K_M"),
    }


def test_the_smoke_test_comes_first_and_waits_for_leave(built: dict[str, Session]) -> None:
    first = built["candidate"]["segments"][0]
    assert first["smoke"] is True
    assert (first["n"], first["extend_to"], first["gate_file"]) == (1, 1, "measure")


def test_twenty_then_a_hold_point_then_a_hundred(built: dict[str, Session]) -> None:
    nav = segments(built["candidate"])["nav-candidate"]
    assert (nav["n"], nav["extend_to"], nav["gate_file"]) == (20, 100, "extend")
    assert nav["stop_on_thinking"] is True
    assert segments(built["a1"])["nav-baseline-a1"]["n"] == 100


def test_the_second_baseline_is_bounded(built: dict[str, Session]) -> None:
    again = segments(built["a2"])["nav-baseline-a2"]
    assert (again["n"], again["time_limit_s"]) == (100, 15)


def test_the_cache_is_used_in_its_own_run_only(built: dict[str, Session]) -> None:
    cached = [s["id"] for session in built.values() for s in session["segments"] if s.get("cache_prompt")]
    assert cached == ["nav-candidate-cached"]


def test_the_sample_among_the_tenants_is_small_and_slow(built: dict[str, Session]) -> None:
    (sample,) = built["tenants"]["segments"]
    assert sample["n"] <= 20
    assert sample["rate_hz"] > 0
    assert built["tenants"]["start_file"] is None


def test_calibration_belongs_to_phase_2_alone_and_is_slow(built: dict[str, Session]) -> None:
    assert [name for name, session in built.items() if "calibrate" in session] == ["tenants"]
    asked = built["tenants"]["calibrate"]
    assert (asked["n"], asked["rate_hz"], asked["time_limit_s"]) == (20, 20, 15)


def test_others_come_first_in_every_session_and_no_session_is_endless(built: dict[str, Session]) -> None:
    assert {session["idle_wait_s"] for session in built.values()} == {10}
    assert {session["time_limit_s"] for session in built.values()} == {540}


def test_clients_wait_for_a_sign_of_their_own(built: dict[str, Session]) -> None:
    signs = [session["start_file"] for session in built.values()]
    assert signs == [None, "start-a1", "start-candidate", "start-a2"]


def test_a_client_waits_longer_than_a_model_loads(plan_data: dict[str, Any]) -> None:
    plan_data["candidate"]["start_timeout_s"] = 300
    wait_s = sessions.build(planfile.parse(plan_data))["candidate"]["wait_s"]
    assert wait_s > 300


def test_counts_come_from_the_plan(plan_data: dict[str, Any]) -> None:
    plan_data["workloads"] = [
        {"name": "nav", "role": "decides", "tenants_n": 7, "first_n": 8, "n": 9, "cached_n": 3, "warmup": 1},
        {"name": "describe", "role": "shown", "n": 2},
    ]
    plan_data["limits"] = {"request_timeout_s": 12}
    built = sessions.build(planfile.parse(plan_data))
    candidate = segments(built["candidate"])
    assert [candidate[i]["n"] for i in candidate] == [1, 8, 3, 2]
    assert candidate["nav-candidate"]["extend_to"] == segments(built["a1"])["nav-baseline-a1"]["n"] == 9
    assert candidate["nav-candidate"]["warmup"] == 1
    assert built["tenants"]["segments"][0]["n"] == 7
    assert {session["timeout_s"] for session in built.values()} == {12}


def test_workloads_are_the_packaged_ones_or_the_users_own(plan_data: dict[str, Any], built: dict[str, Session]) -> None:
    def named(sessions_: dict[str, Session]) -> set[str]:
        return {segment["workload"] for session in sessions_.values() for segment in session["segments"]}

    assert named(built) == {"nav", "describe"}
    plan_data["workloads"][0]["text"] = "messages: []"
    assert named(sessions.build(planfile.parse(plan_data))) == {"/in/nav.yml", "describe"}


def test_a_summary_is_named_after_the_first_segment(plan_data: dict[str, Any], built: dict[str, Session]) -> None:
    trial = planfile.parse(plan_data)
    names = [sessions.summary_name(trial, name) for name in sessions.SESSIONS]
    assert names == [f"summary-{session['segments'][0]['id']}.json" for session in built.values()]


def test_sessions_are_json(built: dict[str, Session]) -> None:
    assert json.loads(json.dumps(built)) == built


def test_productions_own_parser_reads_all_replies_or_none(plan_data: dict[str, Any], built: dict[str, Session]) -> None:
    assert {session["parser"] for session in built.values()} == {None}
    plan_data["contracts"]["parser"] = {"file": "/srv/server.py", "function": "parse_nav_reply"}
    with_parser = sessions.build(planfile.parse(plan_data))
    wanted = {"source": "/in/parser_source.py", "function": "parse_nav_reply"}
    assert all(session["parser"] == wanted for session in with_parser.values())


# What containers write is data of strangers, in a folder of theirs.


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe whose other end somebody holds open, without a word."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    holder = os.open(path, os.O_RDWR)
    yield path
    os.close(holder)


def test_replies_are_objects_a_line(tmp_path: Path) -> None:
    path = tmp_path / "nav.jsonl"
    path.write_bytes(b'{"seq": 1}\n[1]\n7\nnull\n"x"\n\n\xff\n' + b"[" * 100_000 + b'\n{"seq": 2}\n{"seq": 3, "te')
    assert sessions.replies(path) == [{"seq": 1}, {"seq": 2}]


def test_a_summary_is_one_whole_object(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for text in (b"", b"{", b'{"exit_code": 0', b"[0]", b"0", b"null", b"\xff", b"[" * 100_000):
        path.write_bytes(text)
        assert sessions.summary(path) is None
    path.write_bytes(b'{"exit_code": 3}\n')
    assert sessions.summary(path) == {"exit_code": 3}


def nothing(path: Path) -> bool:
    """Whether a path reads as nothing, at once."""
    began = time.monotonic()
    found = sessions.replies(path) == [] and sessions.summary(path) is None
    return found and time.monotonic() - began < 10


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert nothing(tmp_path / "nowhere")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """The host reads as root what a container has put there."""
    (tmp_path / "secret").write_text('{"secret": 1}\n')
    (tmp_path / "nav.jsonl").symlink_to(tmp_path / "secret")
    assert nothing(tmp_path / "nav.jsonl")


def test_pipes_are_not_waited_for(tmp_path: Path, pipe: Path) -> None:
    assert nothing(pipe)
    os.mkfifo(tmp_path / "without-writer")
    assert nothing(tmp_path / "without-writer")


def test_a_folder_in_a_files_place_costs_nothing(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _unused in range(20):
        assert nothing(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_disk_that_can_not_be_read_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nav.jsonl").write_text("{}\n")

    def fail(_fd: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        found = sessions.replies(tmp_path / "nav.jsonl")
    assert found == []


def test_no_more_is_read_than_a_session_can_have_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MAX_BYTES", 25)
    path = tmp_path / "nav.jsonl"
    path.write_bytes(b'{"seq": 1}\n' * 1000)
    assert sessions.replies(path) == [{"seq": 1}, {"seq": 1}]
