"""A broken contract stops the trial in phase 0 or 1, by name, and provably nothing was touched."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from attachments import copy_documents, model_hash, texts

pytestmark = pytest.mark.twin

CHECKOUT = "/home/panda/workplace/her/her-os"
VOICE = f"{CHECKOUT}/services/annie-voice/chatterbox_tts.py"
MARK = '{"run": "elsewhere", "epoch": 7, "boot_id": "x", "since": "2026-01-01T00:00:00Z", "controller": "somebody"}'
NOBODY = {"revision": "", "files": []}
WRONG = {
    "revision": "59a157a6814e283c21a7daeb78d1bd9d2c8c7938",
    "files": [
        {"name": "candidate-f16.gguf", "size": 2902944, "sha256": "0" * 64},
        {"name": "mmproj-candidate-f16.gguf", "size": 531008, "sha256": "1" * 64},
    ],
}


def answers(port):
    """Shell words that wait until somebody answers on a port."""
    return f"until curl -sf -o /dev/null -m 5 http://127.0.0.1:{port}/health; do sleep 0.05; done"


@dataclass(frozen=True)
class Broken:
    """How a contract is broken and mended from beside, and what must then be said."""

    breaks: str
    mends: str
    says: tuple[str, ...]
    args: tuple[str, ...] = ()


CALL = "curl -sf -X POST -H 'Content-Type: application/json' -d '{\"active\": %s}' http://127.0.0.1:8770/call"
CALL_IN_PROGRESS = Broken(
    CALL % "true", CALL % "false", ("Contract 12", "no call in progress", "operator_confirms_idle=true")
)

# tests/unit/plugins/module_utils/test_contracts.py judges each of them alone, on a host that is made of data. Here all
# that can be broken at the same time on a real host is broken, and one play names every one of them.
AT_ONCE = (
    # An occupied port.
    Broken(
        "systemd-run --quiet --unit squatter python3 -m http.server 11437 --bind 127.0.0.1;"
        " until curl -s -o /dev/null http://127.0.0.1:11437/; do sleep 0.05; done",
        "systemctl stop squatter",
        ("Contract 3", "11437", "http.server"),
    ),
    # Moved lines.
    Broken(
        f"cp -p {VOICE} /root/voice.py; sed -i '1i # one\\n# two\\n# three\\n# four\\n# five' {VOICE}",
        f"cp -p /root/voice.py {VOICE}",
        ("Contract 2", "159-161"),
    ),
    # A tenant that is gone.
    Broken(
        "systemctl stop panda-nav",
        f"systemctl start panda-nav; {answers(11436)}",
        ("Contract 4", "11436", "Contract 6", "unit panda-nav.service is inactive"),
    ),
    # A tenant that is not healthy.
    Broken(
        f"su panda -c 'cd {CHECKOUT}/services/chatterbox && ./stop.sh'",
        f"su panda -c 'cd {CHECKOUT}/services/chatterbox && ./start.sh'; {answers(8772)}",
        ("Contract 6", "chatterbox: http://127.0.0.1:8772/health: no answer"),
    ),
    CALL_IN_PROGRESS,
    # A missing camera image.
    Broken("mv /home/panda/car-view.jpg /root/", "mv /root/car-view.jpg /home/panda/", ("Contract 10", "car-view.jpg")),
    # An unset pin.
    Broken("true", "true", ("Contract 11", "make pin"), ("-e", json.dumps({"trial_pins": NOBODY}))),
)
CASES = {
    "everything at once": Broken(
        "; ".join(one.breaks for one in AT_ONCE),
        "; ".join(one.mends for one in AT_ONCE),
        tuple(text for one in AT_ONCE for text in one.says),
        tuple(word for one in AT_ONCE for word in one.args),
    ),
    "two at once": Broken(
        "mv /home/panda/car-view.jpg /root/; mv /etc/sudoers.d/panda /root/sudoers",
        "mv /root/car-view.jpg /home/panda/; mv /root/sudoers /etc/sudoers.d/panda",
        ("Contract 1", "sudo", "Contract 10"),
    ),
    # It would get into commands and files, and into the archive of the results.
    "a login that greets": Broken(
        "echo echo Welcome to panda >/home/panda/.bashrc; chmod 0644 /home/panda/.bashrc",
        "rm /home/panda/.bashrc",
        ("The connection to the host, what a command says", "Welcome to panda", "only in a terminal"),
    ),
    "a scene that is cut off": Broken(
        "cp -p /home/panda/scenes/dim-05.png /root/; truncate -s 100 /home/panda/scenes/dim-05.png",
        "cp -p /root/dim-05.png /home/panda/scenes/; rm /root/dim-05.png",
        ("Contract 10", "dim-05.png: the PNG is cut off"),
    ),
    "open mark": Broken(
        f"mkdir -p /var/lib/model-trial && printf '%s' '{MARK}' > /var/lib/model-trial/open",
        "rm /var/lib/model-trial/open",
        ("Contract 9", "elsewhere", "2026-01-01T00:00:00Z"),
    ),
    "wrong hash": Broken(
        "rm -rf /var/lib/model-trial/models",
        "rm -rf /var/lib/model-trial/models",
        ("Fetch the model files", "candidate-f16.gguf", "0" * 64),
        ("-e", json.dumps({"trial_pins": WRONG})),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_contract_stops_the_trial_before_anything_is_touched(host, name):
    case = CASES[name]
    host.run(case.breaks)
    try:
        before = host.fingerprint()
        played = host.play("benchmark-e4b.yml", *case.args)
        after = host.fingerprint()
    finally:
        host.run(case.mends)
    assert played.code != 0
    for text in case.says:
        assert text in played.text, f"{text!r} is not in:\n{played.text}"
    assert "what to do" in played.text or name == "wrong hash"
    assert after == before
    assert "3 tenants stop, baseline, drain" not in played.tasks()


def test_the_operators_word_replaces_the_quiet_probes(host):
    host.run(CALL_IN_PROGRESS.breaks)
    try:
        played = host.play("benchmark-e4b.yml", "--tags", "preflight", "-e", "operator_confirms_idle=true")
    finally:
        host.run(CALL_IN_PROGRESS.mends)
    assert played.code == 0, played.text


def test_check_mode_shows_the_plan_and_touches_neither_host_nor_documents(host, tmp_path):
    docs, before = copy_documents(tmp_path), host.fingerprint()
    written = texts(docs)
    played = host.play("benchmark-e4b.yml", "--check", "--diff", "-e", f"docs_root={docs}")
    assert played.code == 0, played.text
    for text in ("1. stop chatterbox", "2. stop panda-llamacpp", "expected mute time", "expected blind time"):
        assert text in played.text
    # No ground truth is required, and it is said that there is none.
    assert f"no ground-truth verdict for the file with SHA-256 {model_hash()[:12]}" in played.text
    assert host.fingerprint() == before
    assert texts(docs) == written


def test_an_unreachable_host_is_a_plain_error(host):
    played = host.play("benchmark-e4b.yml", "-e", "ansible_port=1")
    assert played.code != 0
    assert "UNREACHABLE" in played.text


def test_a_wrong_inventory_is_a_plain_error(host):
    played = host.play("benchmark-e4b.yml", "-i", "no-such-inventory")
    assert played.code != 0
    assert "no-such-inventory" in played.text


def test_limit_to_nobody_is_an_error(host):
    assert host.play("benchmark-e4b.yml", "--limit", "somebody-else").code != 0
