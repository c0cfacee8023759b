"""A trial that requires a ground-truth verdict: where it is missing, failed or none at all, nothing is touched.

The golden trial (tests/twin/golden) has one that passes.
"""

from __future__ import annotations

import json

import pytest
from attachments import ground_truth, model_hash

pytestmark = pytest.mark.twin

REQUIRED = ("-e", "ground_truth_required=true")


def given(path):
    """A verdict as options of the play."""
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
        played = host.play("benchmark-e4b.yml", *REQUIRED, *given(ground_truth(tmp_path, "PASS", "FAIL")))
    finally:
        host.run("mv /root/car-view.jpg /home/panda/")
    assert played.code != 0
    for text in ("Contract 10", "Contract 13", "tiny-e4b f16: NOT PROVED the same model", "try another file"):
        assert text in played.text, f"{text!r} is not in:\n{played.text}"
    assert host.fingerprint() == before


def test_a_file_that_is_no_verdict_is_named(host, tmp_path):
    path = tmp_path / "v.json"
    path.write_text("{}", encoding="utf-8")
    played = host.play("benchmark-e4b.yml", *given(path))
    assert played.code != 0
    assert "v.json: expected a verdict of `trialbench check`" in played.text
