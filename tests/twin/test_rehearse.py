"""Rehearsals on the twin: no candidate, no image, no pins; the tenants stop and come back, with measured times."""

from __future__ import annotations

import json

import pytest
from attachments import events_of

pytestmark = pytest.mark.twin

CALL = "curl -sf -X POST -H 'Content-Type: application/json' -d '{\"active\": %s}' http://127.0.0.1:8770/call"
ORDER = ["chatterbox", "panda-llamacpp"]
# What a host has before its first trial: nothing is pinned, no image was ever built.
BARE = (
    *("-e", json.dumps({"trial_pins": {"revision": "", "files": []}})),
    *("-e", "trial_image_file=/nowhere/bench-image.json"),
)
# Who is told, by a shell that looks at its environment.
TOLD = "/tmp/told"
HOOK = {"command": ["/bin/sh", "-c", f'echo "$MODEL_TRIAL_EVENT $MODEL_TRIAL_RUN $(id -un)" >>{TOLD}'], "user": "panda"}
TELL = ("-e", json.dumps({"trial_hook": HOOK}))


def newest(host):
    """The newest rehearsal's folder; `latest` is for trials."""
    return max(host.results.glob("*-rehearsal-*"), key=lambda path: path.name)


@pytest.fixture(scope="module")
def rehearsed(host):
    """A rehearsal: what it said, its folder, the phone's process before it, and the link that was there."""
    link = host.results / "latest"
    before = link.readlink() if link.is_symlink() else None
    phone = host.phone_pid()
    host.run(f"rm -f {TOLD}")
    played = host.play("rehearse.yml", *BARE, *TELL)
    assert played.code == 0, played.text
    return played, newest(host), phone, before


def test_the_host_comes_back_and_only_the_named_tenants_were_gone(host, rehearsed):
    _, folder, phone, _ = rehearsed
    host.assert_back(phone)
    assert [e["tenant"] for e in events_of(folder, "tenant_stopping")] == ORDER
    assert [e["tenant"] for e in events_of(folder, "tenant_healthy")] == ORDER[::-1]
    assert events_of(folder, "drained")
    assert not [e for e in events_of(folder) if e["event"].startswith("candidate")]
    assert not list((folder / "samples").glob("*"))


def test_what_a_trial_would_need_beyond_it_is_named(rehearsed):
    played, _, _, _ = rehearsed
    assert "contract 11, everything is pinned" in played.text
    assert "run `make pin`" in " ".join(played.text.split())
    assert "edgelab.model_trial.acquire : Ship the image" in "\n".join(played.tasks())
    assert "shipping the image" not in played.text


def test_it_is_on_record_beside_the_trials(host, rehearsed):
    _, folder, _, before = rehearsed
    assert json.loads((folder / "plan.json").read_text(encoding="utf-8"))["rehearsal"] is True
    checks = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    assert checks["ok"] is True
    assert len(checks["checks"]) == 8
    link = host.results / "latest"
    assert (link.readlink() if link.is_symlink() else None) == before


def test_times_are_those_of_the_journal_and_a_trial_is_computed_from_them(rehearsed):
    played, folder, _, _ = rehearsed
    record = json.loads((folder / "rehearsal.json").read_text(encoding="utf-8"))
    measured = record["measured"]
    assert measured["stop_s"] == {e["tenant"]: e["duration_s"] for e in events_of(folder, "tenant_stopped")}
    assert measured["start_s"] == {e["tenant"]: e["duration_s"] for e in events_of(folder, "tenant_healthy")}
    (drained,), (again,) = events_of(folder, "drained"), events_of(folder, "drained_again")
    assert measured["drain_s"] == {"window": drained["duration_s"], "restore": again["duration_s"]}
    # The promised drain counts from the last container, not from the first reading.
    (removed,) = events_of(folder, "containers_removed")
    assert events_of(folder, "tenant_starting")[0]["t_s"] - removed["t_s"] >= 5.0
    (restored,) = events_of(folder, "restored")
    assert measured["down_s"] == restored["down"]
    for name in ORDER:
        # A trial has the candidate and the measuring on top of what is measured here.
        least = measured["stop_s"][name] + sum(measured["drain_s"].values()) + measured["start_s"][name]
        assert record["trial_down_s"][name] > least + 2
        row = next(line for line in played.text.splitlines() if line.strip().startswith(f"twin | {name} "))
        assert f"{measured['down_s'][name]:.1f}" in row.split()
        assert f"{record['trial_down_s'][name]:.1f}" in row.split()
    assert "expected down 8 s (in a trial" in played.text


def test_it_leaves_a_record_on_the_host_that_a_trial_is_held_to(host, rehearsed):
    """Root's alone; and what is changed on the host afterwards is named."""
    assert host.run("stat -c '%U %a' /var/lib/model-trial/rehearsed.json").split() == ["root", "600"]
    insist = ("--tags", "preflight", "-e", json.dumps({"trial_require_rehearsal": True}))
    played = host.play("benchmark-e4b.yml", *insist)
    assert played.code == 0, played.text
    script = "/home/panda/workplace/her/her-os/services/chatterbox/start.sh"
    host.run(f"cp -p {script} /root/start.sh; echo '# another line' >> {script}")
    try:
        refused = host.play("benchmark-e4b.yml", *insist)
        warned = host.play("benchmark-e4b.yml", "--tags", "preflight")
    finally:
        host.run(f"cp -p /root/start.sh {script}")
    assert refused.code != 0
    assert warned.code == 0, warned.text
    for text in (refused.text, warned.text):
        words = " ".join(text.split())
        assert "Contract 14" in words
        assert f"changed since: script {script}" in words


def told(host):
    """What the hook was told, without the run's name."""
    return [line.split() for line in host.run(f"cat {TOLD}").splitlines()]


def test_the_hook_is_told_of_begin_and_end(host, rehearsed):
    _, folder, _, _ = rehearsed
    host.wait(lambda: len(told(host)) > 1)
    assert told(host) == [["opened", folder.name, "panda"], ["closed", folder.name, "panda"]]


def test_check_mode_and_preflight_touch_nothing(host, rehearsed):
    before = host.fingerprint()
    for words in (["--check"], ["--tags", "preflight"]):
        played = host.play("rehearse.yml", *BARE, *words)
        assert played.code == 0, played.text
        assert "1. stop chatterbox" in played.text
        assert "expected mute time" in played.text
    assert host.fingerprint() == before


def test_a_busy_host_is_left_alone(host, rehearsed):
    host.run(CALL % "true")
    before = host.fingerprint()
    try:
        played = host.play("rehearse.yml", *BARE)
    finally:
        host.run(CALL % "false")
    assert played.code != 0
    assert "Contract 12" in played.text
    assert "Contract 11" not in played.text
    assert host.fingerprint() == before
    refused = (newest(host) / "exports" / "junit.xml").read_text(encoding="utf-8")
    assert "untouched: preflight: " in refused
    assert "Contract 12" in refused


def test_a_bigger_candidates_order_is_rehearsed_and_a_tenant_that_stays_away_is_a_loud_failure(host):
    phone = host.phone_pid()
    host.program("fault", "panda-llamacpp-refuse-start")
    host.run(f"rm -f {TOLD}")
    try:
        played = host.play("rehearse.yml", *BARE, *TELL, "-e", "@candidates/twin-nvfp4.yml")
        held = host.run("test -e /var/lib/model-trial/open && echo held || true")
    finally:
        host.program("fault", "--clear")
    assert played.code != 0
    assert "the host could NOT be restored yet" in played.text
    assert "sudo systemctl start panda-llamacpp.service" in played.text
    assert "does not say that the host was restored" in played.text
    assert held == "held"
    assert [e["tenant"] for e in events_of(newest(host), "tenant_stopping")] == ["phone", *ORDER]
    # The others did not wait for the live model.
    assert {"chatterbox", "phone"} <= {e["tenant"] for e in events_of(newest(host), "tenant_healthy")}
    assert host.play("restore.yml").code == 0
    host.assert_back(None)
    assert host.phone_pid() != phone
    host.wait(lambda: told(host)[-1][0] == "closed")
    assert [line[0] for line in told(host)[:2]] == ["opened", "restore_failed"]
