"""Whole trials on the twin that end otherwise than the golden one: a bigger candidate, a poor one, and failures.

What a good trial leaves is in tests/twin/golden; faults that strike a trial are in tests/twin/drills.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from attachments import DOCUMENTS, MEMORY, copy_documents, events_of, said, texts

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
CHECKS = 8


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


def assert_eight_checks(host):
    found = host.document("verification.json")
    assert [c["ok"] for c in found["checks"]] == [True] * CHECKS, found
    assert found["ok"] is True


# The promised five seconds of drain are held against the golden trial; here they would only be waited for.
QUICK = variables(trial_limits={"cap_s": 1000, "drain_min_s": 1, "a2_s": 15, "measure_s": 120, "request_timeout_s": 10})


def test_another_candidate_is_another_variables_file(host):
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", *QUICK, "-e", "@candidates/twin-nvfp4.yml")
    assert played.code == 0, played.text
    host.assert_back(None)
    assert host.phone_pid() != phone
    assert_eight_checks(host)
    stopped = [e["tenant"] for e in events_of(host.latest(), "tenant_stopping")]
    assert stopped == ["phone", "chatterbox", "panda-llamacpp"]
    assert host.document("plan.json")["candidate"]["label"] == "gemma-4-E4B-it-NVFP4"
    assert said(played.text) == {}, "without a root nobody's documents are touched"


def test_a_poor_candidate_conforms_and_a_person_turns_it_away(host):
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", *QUICK, "-e", "@candidates/twin-poor.yml")
    assert played.code == 0, played.text
    host.assert_back(phone)
    samples = host.samples("nav-candidate")
    assert len(samples) == 100
    assert {s["strategy"] for s in samples} <= {1, 2}
    # Every reply keeps to the contract, and most are wrong: adherence alone can't see that, right answers do.
    labeled = host.document("summary.json")["correctness"]["labeled"]
    assert labeled["all"]["candidate"] < labeled["all"]["baseline"]
    assert labeled["finding"] == "worse"
    found = host.document("verdict.json")
    assert (found["verdict"], found["facts"]["adherent"]) == ("PENDING_REVIEW", 100), found
    judged = [sys.executable, "-m", "trialbench", "verdict", str(host.latest()), "--judge", "describe=same"]
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
    "takes too much VRAM": (
        variables(trial_vram_bands={"low_below_gb": 1, "healthy_to_gb": 5, "abort_above_gb": 6}),
        "VRAM",
    ),
    # It serves, but not where a llama-server is asked.
    "never gets healthy": (
        candidate(start_timeout_s=5, server_args=[*ARGS, "--api-prefix", "/elsewhere"]),
        "the candidate's start took too long",
    ),
}


@pytest.mark.parametrize("name", TURNED_AWAY)
def test_a_candidate_that_fails_its_gate_is_rolled_back(host, name, tmp_path):
    """The host is back, the memory remembers the run, and its numbers count nowhere."""
    args, reason = TURNED_AWAY[name]
    docs, phone = copy_documents(tmp_path), host.phone_pid()
    before = texts(docs)
    played = host.play("benchmark-e4b.yml", *QUICK, *args, "-e", f"docs_root={docs}")
    assert played.code != 0
    assert re.search(reason, played.text), played.text
    host.assert_back(phone)
    assert_eight_checks(host)
    assert len(host.samples("nav-baseline-a1")) == 100
    assert events_of(host.latest(), "phase_failed")
    verdict = host.document("verdict.json")["verdict"]
    assert verdict in ("INCONCLUSIVE", "REJECT")
    after = texts(docs)
    assert [document for document in DOCUMENTS if after[document] != before[document]] == [MEMORY]
    assert f"run {host.latest().name}: " in after[MEMORY]
    assert f"rolled back, **{verdict}**" in after[MEMORY]
    cases = ElementTree.parse(host.latest() / "exports" / "junit.xml").getroot()
    assert int(cases.attrib["failures"]) >= 2


def test_the_checks_see_a_dead_phone_daemon(host):
    host.run("kill -9 $(systemctl show -p MainPID --value phone-daemon)")
    try:
        played = host.play("verify_rollback.yml")
    finally:
        host.run("systemctl reset-failed phone-daemon; systemctl start phone-daemon")
        host.wait(lambda: host.run("curl -sf http://127.0.0.1:8770/health || true") != "")
    assert played.code != 0
    assert "Check 8" in played.text
