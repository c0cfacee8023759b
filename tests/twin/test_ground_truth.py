"""Ground truth before a trial: required and not there, nothing is touched; there, it travels with the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ("-e", "ground_truth_required=true")
QUICK = ("-e", json.dumps({"trial_limits": {"cap_s": 600, "drain_min_s": 1, "a2_s": 15, "measure_s": 120}}))


def model_hash():
    """Of the file that the twin's candidate is, as its pins say."""
    for path in sorted((ROOT / "playbooks" / "twin" / "group_vars").rglob("*.yml")):
        pins = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("trial_pins")
        if pins:
            return next(f["sha256"] for f in pins["files"] if f["name"] == "candidate-f16.gguf")
    raise AssertionError("the twin's inventory has no pins")


def verdict(folder, *statuses):
    """A verdict of `trialbench check` about that file, as options of the play."""
    row = {
        "suite": "token", "model": "tiny-e4b", "quant": "f16", "other": "", "says": "x", "expected": "", "got": "",
        "cause": "", "proves_nothing": False, "reproduce": "", "evidence": {},
    }  # fmt: skip
    data = {
        "schema_version": 1, "verdict": "PASS", "made": "2026-11-21T04:00:00+00:00", "trialbench": "0.1.0",
        "roster": {"name": "twin", "path": "roster.yml"}, "runtime": {"name": "llama.cpp", "version": "b11669"},
        "machine": {"system": "s", "processor": "p", "cores": 1}, "seconds": 1, "loads": 1,
        "counts": {"declared": 2, "probative": 2, "PASS": 2, "FAIL": 0, "INCONCLUSIVE": 0, "NOT APPLICABLE": 0},
        "files": [{"model": "tiny-e4b", "quant": "f16", "format": "gguf", "path": "candidate-f16.gguf",
                   "sha256": model_hash(), "bytes": 1, "parents": [], "tokens_per_s": None}],
        "claims": [],
        "results": [{**row, "prompt": f"p{n}", "status": status} for n, status in enumerate(statuses)],
    }  # fmt: skip
    path = folder / "verdict.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return ("-e", json.dumps({"ground_truth_verdicts": [str(path)]}))


@pytest.mark.parametrize("mode", [(), ("--check",), ("--tags", "preflight")])
def test_a_required_verdict_that_is_missing_breaks_a_contract_and_nothing_is_touched(host, mode):
    before = host.fingerprint()
    played = host.play("benchmark-e4b.yml", *REQUIRED, *mode)
    assert played.code != 0
    for text in ("Contract 13", f"SHA-256 {model_hash()[:12]}...", "looked in no verdict at all", "what to do"):
        assert text in played.text, f"{text!r} is not in:\n{played.text}"
    assert host.fingerprint() == before
    assert "3 tenants stop, baseline, drain" not in played.tasks()


def test_a_failed_one_breaks_it_beside_others(host, tmp_path):
    before = host.fingerprint()
    host.run("mv /home/panda/car-view.jpg /root/")
    try:
        played = host.play("benchmark-e4b.yml", *REQUIRED, *verdict(tmp_path, "PASS", "FAIL"))
    finally:
        host.run("mv /root/car-view.jpg /home/panda/")
    assert played.code != 0
    for text in ("Contract 10", "Contract 13", "tiny-e4b f16: NOT PROVED the same model", "try another file"):
        assert text in played.text, f"{text!r} is not in:\n{played.text}"
    assert host.fingerprint() == before


def test_where_none_is_needed_it_is_said_that_there_is_none(host):
    before = host.fingerprint()
    played = host.play("benchmark-e4b.yml", "--check")
    assert played.code == 0, played.text
    assert f"no ground-truth verdict for the file with SHA-256 {model_hash()[:12]}" in played.text
    assert host.fingerprint() == before


def test_a_file_that_is_no_verdict_is_named(host, tmp_path):
    path = tmp_path / "v.json"
    path.write_text("{}", encoding="utf-8")
    played = host.play("benchmark-e4b.yml", "-e", json.dumps({"ground_truth_verdicts": [str(path)]}))
    assert played.code != 0
    assert "is no verdict of `trialbench check`" in played.text


def test_a_good_one_travels_with_the_run(host, tmp_path):
    phone = host.phone_pid()
    played = host.play("benchmark-e4b.yml", *QUICK, *REQUIRED, *verdict(tmp_path, "PASS", "PASS"))
    assert played.code == 0, played.text
    host.assert_back(phone)
    says = "tiny-e4b f16: the same model: 2 checks passed, 0 failed, 0 could not be decided"
    assert says in played.text
    assert host.document("plan.json")["ground_truth"]["required"] is True
    found = host.document("attestation.json")
    assert (found["required"], found["files"][0]["sha256"], found["files"][0]["status"]) == (
        True,
        model_hash(),
        "passed",
    )
    assert host.document("verdict.json")["facts"]["ground_truth"] == "passed"
    assert says in (host.latest() / "report.html").read_text(encoding="utf-8")
    # Another play harvests after a lost controller: it knows no more than the host does.
    (host.latest() / "attestation.json").unlink()
    played = host.play("harvest.yml")
    assert played.code == 0, played.text
    assert host.document("attestation.json") == found
    assert host.document("verdict.json")["facts"]["ground_truth"] == "passed"
