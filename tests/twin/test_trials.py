"""Whole trials on the twin: a good candidate, a bigger one, and the ones that must be turned away."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
CHECKS = 8
# From the first stop to the restored host; polls inside one task don't count.
MAX_WINDOW_TASKS = 12
LISTED = (
    "samples/nav-candidate.jsonl",
    "samples/nav-candidate-cached.jsonl",
    "samples/nav-baseline-a1.jsonl",
    "samples/nav-baseline-a2.jsonl",
    "samples/nav-baseline-tenants.jsonl",
    "samples/describe-candidate.jsonl",
    "samples/describe-baseline.jsonl",
    "summary.json",
    "verification.json",
    "verdict.json",
    "journal.jsonl",
    "vram.jsonl",
)


def variables(**values):
    return ("-e", json.dumps(values))


class Verbatim(str):
    """A text that Ansible must not take for a template of its own."""


yaml.SafeDumper.add_representer(Verbatim, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


def candidate(**changes):
    """The twin's candidate with some of its fields changed, as a file of variables."""
    text = (ROOT / "playbooks/twin/group_vars/trial_hosts/candidate.yml").read_text(encoding="utf-8")
    fields = {**yaml.safe_load(text)["trial_candidate"], **changes}
    with tempfile.NamedTemporaryFile("w", suffix=".yml", delete=False) as file:
        yaml.safe_dump({"trial_candidate": fields}, file)
    return ("-e", f"@{file.name}")


def events(folder, name):
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == name]


def assert_eight_checks(host):
    found = host.document("verification.json")
    assert [c["ok"] for c in found["checks"]] == [True] * CHECKS, found
    assert found["ok"] is True


@pytest.fixture(scope="module")
def good(host):
    """A trial of the inventory's own candidate: what it said, its folder, and the phone's process before it."""
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml")
    return played, host.latest(), phone


def test_a_trial_leaves_its_documents_and_the_host_as_it_was(host, good):
    played, _, phone = good
    assert played.code == 0, played.text
    host.assert_back(phone)
    assert_eight_checks(host)
    for name in LISTED:
        assert (host.latest() / name).exists(), name
    assert len(host.samples("nav-candidate")) == 100
    assert all(s["cache_n"] == 0 for s in host.samples("nav-candidate"))
    assert any(s["cache_n"] for s in host.samples("nav-candidate-cached"))
    # The answer is on the picture, and two models are two models.
    assert {s["content"] for s in host.samples("nav-candidate")} == {"left large"}
    assert host.document("verdict.json")["verdict"] == "PENDING_REVIEW"
    for text in ("mute", "blind", "PENDING REVIEW", "overhead"):
        assert text in played.text
    assert host.run("ls /usr/local/sbin/model-trial /etc/systemd/system/mt-*.service | wc -l") == "4"
    # The program that is installed finds its own modules compiled.
    assert "matches /var/cache/model-trial/" in host.run("python3 -v /usr/local/sbin/model-trial --help 2>&1")


def test_the_caller_heard_the_same_silence(host, good):
    """The phone daemon speaks once a second and notes when nothing was heard; nobody told it of a trial."""
    heard = [json.loads(line) for line in host.run("cat /var/log/phone/mute.jsonl").splitlines()]
    muted_s = next(e["muted_s"] for e in reversed(heard) if e["event"] == "mute_end")
    # A sentence a second at either end is as precise as an ear can be; a busy machine delays a sentence.
    assert abs(muted_s - events(good[1], "restored")[0]["impacts"]["mute"]) < 4


def test_few_tasks_and_nothing_slow_in_the_window(good):
    played, folder, _ = good
    tasks = played.tasks()
    first = next(i for i, t in enumerate(tasks) if "Stop the tenants" in t)
    last = next(i for i, t in enumerate(tasks) if "Bring the host back" in t)
    assert last - first + 1 <= MAX_WINDOW_TASKS, tasks[first : last + 1]
    assert "Gathering Facts" not in tasks
    order = (
        [e["tenant"] for e in events(folder, "tenant_stopping")],
        [e["tenant"] for e in events(folder, "tenant_healthy")],
    )
    assert order == (["chatterbox", "panda-llamacpp"], ["panda-llamacpp", "chatterbox"])
    removed, started = events(folder, "containers_removed")[0], events(folder, "tenant_starting")[0]
    assert started["t_s"] - removed["t_s"] >= 5.0


def test_another_candidate_is_another_variables_file(host):
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", "-e", "@candidates/twin-nvfp4.yml")
    assert played.code == 0, played.text
    host.assert_back(None)
    assert host.phone_pid() != phone
    assert_eight_checks(host)
    assert [e["tenant"] for e in events(host.latest(), "tenant_stopping")] == ["phone", "chatterbox", "panda-llamacpp"]
    assert host.document("plan.json")["candidate"]["label"] == "gemma-4-E4B-it-NVFP4"


# The promised five seconds of drain are held against a good trial; here they would only be waited for.
QUICK = variables(trial_limits={"cap_s": 600, "drain_min_s": 1, "a2_s": 15, "measure_s": 120})


def test_a_poor_candidate_conforms_and_a_person_turns_it_away(host):
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", *QUICK, "-e", "@candidates/twin-poor.yml")
    assert played.code == 0, played.text
    host.assert_back(phone)
    samples = host.samples("nav-candidate")
    assert len(samples) == 100
    assert {s["strategy"] for s in samples} <= {1, 2}
    # Every reply keeps to the contract, and is wrong: adherence alone can't see that.
    assert {s["content"] for s in samples} != {s["content"] for s in host.samples("nav-baseline-a1")}
    found = host.document("verdict.json")
    assert (found["verdict"], found["facts"]["adherent"]) == ("PENDING_REVIEW", 100), found
    judged = [sys.executable, "-m", "trialbench", "verdict", str(host.latest()), "--describe", "same"]
    subprocess.run(judged, check=True)
    found = host.document("verdict.json")
    assert (found["verdict"], found["reasons"][0]) == (
        "REJECT",
        "describe judged same: not materially better than the baseline",
    )


def thinking(name):
    return Verbatim((ROOT / "tests/fixtures/models/chat-templates" / name).read_text(encoding="utf-8"))


ARGS = ["-ngl", "99", "-c", "4096", "-np", "1", "-fit", "off", "-t", "1"]
TURNED_AWAY = {
    "breaks the contract": (("-e", "@candidates/twin-violating.yml"), "the smoke test failed"),
    "thinks in secret": (
        candidate(server_args=[*ARGS, "--chat-template", thinking("thinks-hidden.jinja")]),
        "the smoke test failed",
    ),
    "thinks aloud": (
        candidate(server_args=[*ARGS, "--chat-template", thinking("thinks-visible.jinja")]),
        "the smoke test failed",
    ),
    "takes too much VRAM": (
        variables(trial_vram_bands={"low_below_gb": 1, "healthy_to_gb": 5, "abort_above_gb": 6}),
        "VRAM",
    ),
    "ends at start": (candidate(server_args=["--no-such-flag"]), "the candidate"),
    "never gets healthy": (candidate(start_timeout_s=0.05), "took too long"),
}


@pytest.mark.parametrize("name", TURNED_AWAY)
def test_a_candidate_that_fails_its_gate_is_rolled_back(host, name):
    args, reason = TURNED_AWAY[name]
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", *QUICK, *args)
    assert played.code != 0
    assert reason in played.text, played.text
    host.assert_back(phone)
    assert_eight_checks(host)
    assert len(host.samples("nav-baseline-a1")) == 100
    assert host.document("verdict.json")["verdict"] != "ADOPT"
    assert events(host.latest(), "phase_failed")


def test_a_candidate_that_dies_while_measuring_is_rolled_back_with_its_samples(host):
    phone = host.phone_pid()
    process = host.start_play("benchmark-e4b.yml", *variables(trial_workloads={"nav_extended": 600}))
    running = "/var/lib/model-trial/runs/*/samples/nav-candidate.jsonl"
    count = f"cat $(ls -t {running} 2>/dev/null | head -1) 2>/dev/null | wc -l"
    deadline = time.monotonic() + host.PLAY_TIMEOUT_S
    host.run(f"rm -f {running}")
    while int(host.run(count, check=False) or 0) < 57:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    host.run("docker kill panda-llamacpp-e4b")
    text, _ = process.communicate(timeout=host.PLAY_TIMEOUT_S)
    assert process.returncode != 0
    assert "the candidate died" in text or "measuring stopped early" in text, text
    host.assert_back(phone)
    assert_eight_checks(host)
    assert len(host.samples("nav-candidate")) >= 57


def test_the_checks_see_a_dead_phone_daemon(host):
    host.run("kill -9 $(systemctl show -p MainPID --value phone-daemon)")
    try:
        played = host.play("verify-rollback.yml")
    finally:
        host.run("systemctl reset-failed phone-daemon; systemctl start phone-daemon; sleep 2")
    assert played.code != 0
    assert "Check 8" in played.text
    assert host.play("verify-rollback.yml").code == 0


def test_restore_and_uninstall_leave_nothing_to_do_the_second_time(host):
    assert "changed=0" in host.play("restore.yml").text
    assert host.play("uninstall.yml").code == 0
    left = host.run("ls -d /var/*/model-trial /usr/local/sbin/model-trial /etc/systemd/system/mt-* 2>/dev/null || true")
    assert left == ""
    # Nor a failed unit without a file: it would leave the host degraded for good.
    assert "mt-" not in host.run("systemctl list-units --all --plain --no-legend 'mt-*'")
    again = host.play("uninstall.yml")
    assert again.code == 0
    assert "changed=0" in again.text
    # Nor is there anything to harvest, which is said as such.
    nothing = host.play("harvest.yml")
    assert nothing.code != 0
    assert "found none under" in nothing.text
