"""The worker's play on the twin: what a check shows, twice is once, the proofs by their tags, and gone again."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.twin

PLAY = "gemma-worker.yml"
PROGRAM = "/usr/local/bin/trialbench-worker"
CONFIG = "/etc/fazai/fazai.conf"
MADE = [CONFIG, "/etc/systemd/system/gemma-worker.service", "/usr/local/bin/gemma_oneshot", PROGRAM]
PROOFS = ("cold-start", "timeout-retry", "cancel")
# What is proved on the twin: file name's end, source.
ENGINES = (("", "gemma_local"), ("-llama-server", "llama_server"))


def changed(played):
    """How many tasks changed something on the twin."""
    return int(re.search(r"^twin\s*:.*?changed=(\d+)", played.text, re.MULTILINE)[1])


def there(host):
    """Which of the files that the role makes are on the host, by name."""
    return host.run(f"ls -d {' '.join(MADE)} 2>/dev/null || true").split()


def proofs(host):
    """Where the numbers go: where the verdict of a trial looks for them."""
    return host.results / "proofs" / "twin"


def numbers(host, name):
    return json.loads((proofs(host) / f"{name}.json").read_text(encoding="utf-8"))


def proved(host, *arguments):
    """The play, its numbers beside the results of trials, one repetition each."""
    return host.play(
        PLAY, "-e", f"gemma_cpp_results_dir={host.results}/proofs", "-e", "gemma_cpp_proof_runs=1", *arguments
    )


@pytest.fixture(scope="module")
def ready(host):
    """The twin with what an operator has put there; nothing of ours is left on it afterwards."""
    played = host.play("../molecule/gemma/prepare.yml")
    assert played.code == 0, played.text
    yield host
    host.play(PLAY, "--tags", "uninstall")


@pytest.fixture(scope="module")
def installed(ready):
    """The twin with the worker; whatever was checked before came before."""
    before = there(ready)
    checked = ready.play(PLAY, "--check", "--diff")
    after = there(ready)
    played = ready.play(PLAY)
    assert played.code == 0, played.text
    return ready, before, checked, after


def test_a_check_on_a_bare_host_changes_nothing(installed):
    _, before, checked, after = installed
    assert checked.code == 0, checked.text
    assert (before, after) == ([], [])
    assert changed(checked) > 0
    assert "gemma-worker.service" in checked.text


def test_twice_is_once_and_a_check_shows_what_would_be(installed):
    host = installed[0]
    assert there(host) == MADE
    again = host.play(PLAY)
    assert (again.code, changed(again)) == (0, 0), again.text
    began = host.run("systemctl show -p ActiveEnterTimestampMonotonic --value gemma-worker")
    config = host.run(f"cat {CONFIG}")
    checked = host.play(PLAY, "--check", "--diff", "-e", "gemma_cpp_max_tokens=64")
    assert checked.code == 0, checked.text
    assert "-max_tokens = 512" in checked.text
    assert "+max_tokens = 64" in checked.text
    assert host.run(f"cat {CONFIG}") == config
    assert host.run("systemctl show -p ActiveEnterTimestampMonotonic --value gemma-worker") == began


def test_the_service_is_hardened_and_answers(installed):
    host = installed[0]
    said = host.run("systemd-analyze security --no-pager gemma-worker.service")
    exposure = float(re.search(r"Overall exposure level for gemma-worker.service: ([0-9.]+)", said)[1])
    assert exposure <= 3.0, said
    assert json.loads(host.run(f"{PROGRAM} worker --status --socket /run/fazai/gemma.sock"))["status"] == "running"


def test_a_hash_that_is_another_stops_the_play_before_anything_changes(installed):
    host = installed[0]
    for hashed, says in (("0" * 64, "expected /opt/fazai/bin/gemma with SHA-256"), ("beef", "64 hexadecimal digits")):
        played = host.play(PLAY, "-e", f"gemma_cpp_binary_sha256='{hashed}'")
        assert played.code != 0
        assert says in " ".join(played.text.split())
        assert changed(played) == 0
    assert host.run("systemctl is-active gemma-worker") == "active"


def test_each_proof_has_a_tag(installed):
    host = installed[0]
    checked = proved(host, "--tags", "probe", "--check")
    assert checked.code == 0, checked.text
    assert not proofs(host).exists()
    played = proved(host, "--tags", "cancel")
    assert played.code == 0, played.text
    found = sorted(path.name for path in proofs(host).iterdir())
    assert found == ["cancel-llama-server.json", "cancel-llama-server.xml", "cancel.json", "cancel.xml"]


def test_a_bound_that_does_not_hold_fails_the_play_and_its_numbers_are_fetched(installed):
    host = installed[0]
    strict = json.dumps({"gemma_cpp_proof_expect": ["cold_start_s=0.0001"], "gemma_cpp_proof_servers": []})
    played = proved(host, "--tags", "cold-start", "-e", strict)
    assert played.code != 0
    assert "FAILED" in played.text
    found = numbers(host, "cold-start")
    assert found["ok"] is False
    assert [check["name"] for check in found["checks"] if not check["ok"]] == ["cold_start_s"]


def test_the_three_proofs_hold_for_both_engines_and_a_trial_takes_them_along(installed):
    host = installed[0]
    played = proved(host, "--tags", "probe")
    assert played.code == 0, played.text
    assert changed(played) == 0
    for name in PROOFS:
        for end, source in ENGINES:
            found = numbers(host, f"{name}{end}")
            assert (found["proof"], found["source"], found["ok"]) == (name, source, True)
            suite = ElementTree.parse(proofs(host) / f"{name}{end}.xml").getroot()[0]
            assert suite.get("failures") == "0"
    assert host.run("pgrep -f '[p]ort 11555' || true") == "", "the server that was started for them is gone"
    trial = host.play("benchmark-e4b.yml")
    assert trial.code == 0, trial.text
    evidence = host.document("verdict.json")["evidence"]
    assert list(evidence) == ["trial", "ground_truth", "engines"]
    assert (evidence["engines"]["finding"], len(evidence["engines"]["lines"])) == ("passed", 6)
    assert len(list((host.latest() / "proofs").iterdir())) == 6
    report = (host.latest() / "report.html").read_text(encoding="utf-8")
    assert 'id="proofs"' in report
    assert "Does it survive?" in " ".join(trial.text.split())


def test_it_goes_as_it_came(installed):
    host = installed[0]
    checked = host.play(PLAY, "--tags", "uninstall", "--check")
    assert checked.code == 0, checked.text
    assert there(host) == MADE
    gone = host.play(PLAY, "--tags", "uninstall")
    assert gone.code == 0, gone.text
    assert there(host) == []
    assert host.run("systemctl is-active gemma-worker || true") == "inactive"
    assert host.run("test -e /opt/fazai/bin/gemma && echo kept") == "kept"
    again = host.play(PLAY, "--tags", "uninstall")
    assert (again.code, changed(again)) == (0, 0), again.text
