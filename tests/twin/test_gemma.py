"""The worker's play on the twin: what a check shows, what stops it, and the proofs by their tags.

The molecule scenario `gemma` installs it twice, looks at the service and its three proofs, and removes it. The golden
trial (tests/twin/golden) takes proofs along.
"""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from attachments import PROOFS

pytestmark = pytest.mark.twin

PLAY = "gemma_worker.yml"
PROGRAM = "/usr/local/bin/trialbench-worker"
CONFIG = "/etc/fazai/fazai.conf"
MADE = [CONFIG, "/etc/systemd/system/gemma-worker-boot.service", "/etc/systemd/system/gemma-worker.service",
        "/usr/local/bin/gemma_oneshot", PROGRAM]  # fmt: skip


def changed(played):
    """How many tasks changed something on the twin."""
    return int(re.search(r"^twin\s*:.*?changed=(\d+)", played.text, re.MULTILINE)[1])


def there(host):
    """Which of the files that the role makes are on the host, by name."""
    return host.run(f"ls -d {' '.join(MADE)} 2>/dev/null || true").split()


def proofs(host):
    """Where the numbers go."""
    return host.results / "worker-proofs" / "twin"


def numbers(host, name):
    return json.loads((proofs(host) / f"{name}.json").read_text(encoding="utf-8"))


# What the proofs judge by default is meant for a host that is idle. Whether a play carries out a proof and fetches its
# numbers does not depend on it.
ROOMY = json.dumps({"gemma_cpp_proof_expect": ["quiet_max_ms=20000"]})


def proved(host, *arguments):
    """The play, its numbers below the results, one repetition each."""
    return host.play(
        PLAY, "-e", f"gemma_cpp_results_dir={host.results}/worker-proofs", "-e", "gemma_cpp_proof_runs=1", *arguments
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


def test_a_check_shows_what_would_be_and_restarts_nothing(installed):
    host = installed[0]
    assert there(host) == MADE
    began = host.run("systemctl show -p ActiveEnterTimestampMonotonic --value gemma-worker")
    config = host.run(f"cat {CONFIG}")
    checked = host.play(PLAY, "--check", "--diff", "-e", "gemma_cpp_max_tokens=64")
    assert checked.code == 0, checked.text
    assert "-max_tokens = 512" in checked.text
    assert "+max_tokens = 64" in checked.text
    assert host.run(f"cat {CONFIG}") == config
    assert host.run("systemctl show -p ActiveEnterTimestampMonotonic --value gemma-worker") == began


def test_a_hash_that_is_another_stops_the_play_before_anything_changes(installed):
    host = installed[0]
    for hashed, says in (("0" * 64, "expected /opt/fazai/bin/gemma with SHA-256"), ("beef", "64 hexadecimal digits")):
        played = host.play(PLAY, "-e", f"gemma_cpp_binary_sha256='{hashed}'")
        assert played.code != 0
        assert says in " ".join(played.text.split())
        assert changed(played) == 0
    assert host.run("systemctl is-active gemma-worker") == "active"


def test_a_proof_has_a_tag_of_its_own_and_changes_nothing(installed):
    host = installed[0]
    checked = proved(host, "--tags", "proof", "--check")
    assert checked.code == 0, checked.text
    assert not proofs(host).exists()
    played = proved(host, "--tags", "cancel", "-e", ROOMY)
    assert (played.code, changed(played)) == (0, 0), played.text
    # A document and a JUnit file for each engine, and nothing of the other two proofs.
    of_cancel = [name for name in PROOFS if name.startswith("cancel")]
    assert {path.name for path in proofs(host).iterdir()} == {
        f"{name}.{end}" for name in of_cancel for end in ("json", "xml")
    }
    for path in proofs(host).glob("*.xml"):
        assert ElementTree.parse(path).getroot()[0].get("failures") == "0"
    assert host.run("pgrep -f '[p]ort 11555' || true") == "", "the server that was started for them is gone"


def test_a_bound_that_does_not_hold_fails_the_play_and_its_numbers_are_fetched(installed):
    host = installed[0]
    strict = json.dumps({"gemma_cpp_proof_expect": ["cold_start_s=0.0001"], "gemma_cpp_proof_servers": []})
    played = proved(host, "--tags", "cold-start", "-e", strict)
    assert played.code != 0
    assert "FAILED" in played.text
    found = numbers(host, "cold-start")
    assert found["ok"] is False
    assert [check["name"] for check in found["checks"] if not check["ok"]] == ["cold_start_s"]
