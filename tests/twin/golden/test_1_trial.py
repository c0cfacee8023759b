"""The golden trial itself: the host is as before, the numbers are whole, and the window is short and in order."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.twin

CHECKS = 8
GROUPS = {"clear": 10, "edge": 10, "dim": 10, "two": 10}
SCENES = sum(GROUPS.values())
# From the first stop to the restored host; polls inside one task don't count.
MAX_WINDOW_TASKS = 12
DRAIN_MIN_S = 5.0
# The phone speaks once a second. A busy one may need a few sentences more to notice that the voice is back.
HEARD_AGAIN_S = 30.0


def test_the_host_is_as_before_and_all_checks_pass(golden):
    golden.host.assert_back(golden.phone)
    found = golden.document("verification.json")
    assert [c["ok"] for c in found["checks"]] == [True] * CHECKS, found
    assert found["ok"] is True


def test_the_candidate_answers_a_hundred_times_without_the_cache(golden):
    samples = golden.samples("nav-candidate")
    assert len(samples) == 100
    assert all(s["cache_n"] == 0 for s in samples)
    assert any(s["cache_n"] for s in golden.samples("nav-candidate-cached"))
    # The answer is on the picture: forty scenes in turns, each with the same reply whenever it is asked.
    replies = {}
    for at, sample in enumerate(samples):
        assert sample["scene"] == samples[at % SCENES]["scene"]
        replies.setdefault(sample["scene"], set()).add(sample["content"])
    assert len(replies) == SCENES
    assert [scene for scene, found in replies.items() if len(found) != 1] == []
    assert len(set.union(*replies.values())) > 4
    # Every session asks the same scenes in the same order; the cached segment stays on one.
    order = [s["scene"] for s in samples]
    for segment in ("nav-baseline-a1", "nav-baseline-a2"):
        assert [s["scene"] for s in golden.samples(segment)] == order
    assert len({s["scene"] for s in golden.samples("nav-candidate-cached")}) == 1


def test_right_answers_tell_the_models_apart(golden):
    """What production's format cannot: both models keep it, and are right in different scenes."""
    found = golden.document("summary.json")["correctness"]
    pairs = found["labeled"]["all"]
    assert found["scenes"] == pairs["scenes"] == SCENES
    assert {group: one["scenes"] for group, one in found["labeled"]["groups"].items()} == GROUPS
    # What tests/fixtures/models/README.md says of the weights; a server may round a scene or two the other way.
    assert pairs["baseline"] == pytest.approx(27, abs=2)
    assert pairs["candidate"] == pytest.approx(29, abs=2)
    assert len(found["disagreements"]) == pytest.approx(15, abs=3)
    assert found["labeled"]["finding"] == "not_shown"
    assert found["text"] in golden.document("verdict.json")["evidence"]["trial"]["lines"]


def test_the_play_shows_the_numbers_and_leaves_the_judgment_to_a_person(golden):
    assert golden.document("verdict.json")["verdict"] == "PENDING_REVIEW"
    for text in ("mute", "blind", "PENDING REVIEW", "overhead"):
        assert text in golden.text
    assert f"The report: {golden.folder}/report.html" in golden.text


def test_the_program_its_compiled_modules_and_units_are_on_the_host(golden):
    host = golden.host
    assert host.run("ls /usr/local/sbin/model-trial /etc/systemd/system/mt-*.service | wc -l") == "4"
    assert "matches /var/cache/model-trial/" in host.run("python3 -v /usr/local/sbin/model-trial --help 2>&1")


def test_the_window_has_few_tasks_and_gathers_no_facts(golden):
    tasks = golden.tasks
    first = next(i for i, t in enumerate(tasks) if "Stop the tenants" in t)
    last = next(i for i, t in enumerate(tasks) if "Bring the host back" in t)
    assert last - first + 1 <= MAX_WINDOW_TASKS, tasks[first : last + 1]
    assert "Gathering Facts" not in tasks


def test_tenants_stop_and_return_in_the_inventorys_order(golden):
    assert [e["tenant"] for e in golden.events("tenant_stopping")] == ["chatterbox", "panda-llamacpp"]
    assert [e["tenant"] for e in golden.events("tenant_healthy")] == ["panda-llamacpp", "chatterbox"]


def test_no_tenant_starts_before_the_promised_drain_is_over(golden):
    (removed,), started = golden.events("containers_removed"), golden.events("tenant_starting")
    assert started[0]["t_s"] - removed["t_s"] >= DRAIN_MIN_S


def test_the_caller_hears_the_silence_that_the_run_reports(golden):
    """The phone daemon speaks once a second and notes when nothing was heard; nobody told it of a trial."""
    (stopping,) = golden.events("tenant_stopping", tenant="chatterbox")
    (stopped,) = golden.events("tenant_stopped", tenant="chatterbox")
    (starting,) = golden.events("tenant_starting", tenant="chatterbox")
    (healthy,) = golden.events("tenant_healthy", tenant="chatterbox")
    (baseline,) = golden.events("segment_done", session="a1")

    def heard():
        """The beginning and the end of the silence that ended after the voice was started; none before."""
        lines = [json.loads(line) for line in golden.host.run("cat /var/log/phone/mute.jsonl").splitlines()]
        ends = [n for n, e in enumerate(lines) if e["event"] == "mute_end" and e["t_s"] > starting["t_s"]]
        return lines[ends[0] - 1 : ends[0] + 1] if ends else []

    golden.host.wait(lambda: len(heard()) == 2)
    begin, end = heard()
    assert begin["event"] == "mute_begin"
    # Phone and journal share the host's clock. The last sentence was heard before the voice was gone, and the silence
    # was noticed while the first baseline was still measured.
    assert begin["last_heard_t_s"] < stopped["t_s"]
    assert begin["t_s"] < baseline["t_s"]
    # It lasted without a word until the voice was started again, and not beyond its health.
    assert end["t_s"] < healthy["t_s"] + HEARD_AGAIN_S
    # The run reports this very time.
    (restored,) = golden.events("restored")
    assert restored["impacts"]["mute"] == pytest.approx(healthy["t_s"] - stopping["t_s"], abs=0.1)
