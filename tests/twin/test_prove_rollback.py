"""``prove_rollback`` of the installed collection: a right inventory is green, every kind of wrong one red by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
DRILLS = ("the controller is killed in the window", "the runner is killed in the window",
          "the host reboots in the window", "a start fails once", "health that never answers")  # fmt: skip
# A real service of the disposable host. Files switch what goes wrong when it is started.
SERVICE = """import http.server, json, os, sys, time
port, name = int(sys.argv[1]), sys.argv[2]
sick, lost = (os.path.exists(f"/srv/shop/{what}-{name}") for what in ("sick", "lost"))
if lost:
    sys.exit("its database is gone")
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"ready": not sick}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever()
"""
UNIT = "[Unit]\n{order}\n[Service]\nExecStart=/usr/bin/python3 /srv/shop/service.py {port} {name}\n"
START = """#!/bin/sh
test ! -e /srv/shop/seven-voice || exit 7
pgrep -f '^python3 service.py 5003 voice' >/dev/null && exit 0
cd /srv/shop && setsid nohup python3 service.py 5003 voice >/dev/null 2>&1 </dev/null &
"""
STOP = """#!/bin/sh
pkill -f '^python3 service.py 5003 voice' || true
while pgrep -f '^python3 service.py 5003 voice' >/dev/null; do sleep 0.1; done
"""


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def shop(port: int, field: str) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{port}/", "json": {field: True}, "timeout_s": 5}


def tenants(**limits: Any) -> list[dict[str, Any]]:
    return [
        {"name": "db", "kind": "systemd", "unit": "db.service", "port": 5001, "health": shop(5001, "ready"), **limits},
        {"name": "api", "kind": "systemd", "unit": "api.service", "needs": ["db"], "port": 5002,
         "health": shop(5002, "ready"), **limits},
        {"name": "voice", "kind": "script", "user": "root", "directory": "/srv/shop", "start": "./start.sh",
         "stop": "./stop.sh", "process": "service.py 5003 voice", "port": 5003, "health": shop(5003, "ready"),
         **limits},
    ]  # fmt: skip


RIGHT = {
    "trial_gpu": {"steady_gb": [0.3, 0.6]},
    "trial_tenants": tenants(),
    "trial_stop_order": ["voice", "api", "db"],
    "trial_restore_order": ["db", "api", "voice"],
}


@dataclass(frozen=True)
class Pipeline:
    """A folder with nothing but an inventory, and the installed collection."""

    folder: Path
    collections: Path
    image: str

    def prove(self, facts: dict[str, Any], *drills: str, **options: Any) -> tuple[int, dict[str, str], str]:
        """Play it; returns the exit code, the cases with their reasons (empty: passed), and all that was said."""
        inventory = self.folder / "hosts.yml"
        inventory.write_text(json.dumps({"trial_hosts": {"hosts": {"shop": facts}}}))
        given = {"prove_rollback_image": self.image, "prove_rollback_drills": list(drills), **options}
        given["prove_rollback_dir"] = str(self.folder / "proof")
        (self.folder / "given.json").write_text(json.dumps(given))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHONPATH"))}
        done = subprocess.run(
            [tool("ansible-playbook"), "edgelab.model_trial.prove_rollback", "-i", "hosts.yml", "-e", "@given.json"],
            cwd=self.folder,
            env={**kept, "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200,
        )  # fmt: skip
        cases = {}
        for case in ElementTree.parse(self.folder / "proof" / "junit.xml").getroot().iter("testcase"):
            cases[case.get("name", "")] = next((f"{one.tag}: {one.get('message')}" for one in case), "")
        assert "<h1>Does " in (self.folder / "proof" / "index.html").read_text()
        return done.returncode, cases, done.stdout


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("installed")
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    subprocess.run([tool("ansible-galaxy"), "collection", "build", "--output-path", str(folder)], cwd=ROOT, **quiet)
    [tarball] = folder.glob("*.tar.gz")
    words = ["collection", "install", "--offline", "-p", str(folder), str(tarball)]
    subprocess.run([tool("ansible-galaxy"), *words], cwd=folder, **quiet)
    named = subprocess.run(
        [sys.executable, str(ROOT / "images/twin/twin.py"), "base"], check=True, stdout=subprocess.PIPE, text=True
    )
    return Pipeline(tmp_path_factory.mktemp("pipeline"), folder, named.stdout.strip())


def test_a_right_inventory_comes_back_from_every_drill(pipeline: Pipeline) -> None:
    facts = {**RIGHT, "trial_gpu": {"steady_gb": [2.0, 3.0]}, "ansible_user": "ops"}
    facts["trial_tenants"] = [
        *({**one, "vram_process": one["name"]} for one in tenants()),
        {"name": "cache", "kind": "container", "container": "cache-box", "port": 5004,
         "health": {"url": "http://127.0.0.1:5004/"}},
    ]  # fmt: skip
    facts.update(trial_stop_order=["voice", "api", "cache", "db"], trial_restore_order=["db", "cache", "api", "voice"])
    before = sorted(pipeline.collections.rglob("*"))
    every = ("controller-killed", "runner-killed", "reboot", "start-fails-once", "health-never")
    code, cases, said = pipeline.prove(facts, *every)
    assert (code, cases) == (0, dict.fromkeys(("the inventory", "the ground", "a rehearsal", *DRILLS), "")), said
    page = (pipeline.folder / "proof" / "index.html").read_text()
    assert "Replaced on the twin, and so not proved" in page
    assert "the container cache-box, its image and its options" in page
    # Nothing of it is left, and nothing was written into the collection.
    names = subprocess.run(["docker", "ps", "-aq", "--filter", "name=pr-shop-"], capture_output=True, text=True)
    assert names.stdout == ""
    new = [path for path in pipeline.collections.rglob("*") if path not in before and "__pycache__" not in path.parts]
    assert new == []


@pytest.mark.parametrize(
    ("change", "options", "case", "words"),
    [
        (
            {"trial_restore_order": ["api", "db", "voice"]},
            {},
            "the inventory",
            "expected api after db, because api needs",
        ),
        ({"trial_candidate": {"label": "x", "container": "x", "port": 5001}}, {}, "a rehearsal", "Contract 3"),
        ({}, {"prove_rollback_image": "edgelab/no-such-image:1"}, "the ground", "edgelab/no-such-image:1 is not here"),
    ],
)
def test_what_is_wrong_is_in_the_first_case_that_fails(
    pipeline: Pipeline, change: dict[str, Any], options: dict[str, Any], case: str, words: str
) -> None:
    (pipeline.folder / "proof").mkdir(exist_ok=True)
    (pipeline.folder / "proof" / "junit.xml").write_text("<testsuites name='of an earlier run'/>")
    code, cases, said = pipeline.prove({**RIGHT, **change}, **options)
    assert code != 0, said
    first = next(name for name, why in cases.items() if why)
    assert first == case, said
    assert words in cases[first]


@pytest.fixture(scope="module")
def host(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """A disposable host with real units and scripts: a container with systemd, as a pipeline has one."""
    code, _cases, said = pipeline.prove(RIGHT, prove_rollback_keep=True)
    assert code == 0, said
    name = said.split("kept: docker exec -it ")[1].split()[0]
    try:
        yield real(name, pipeline.folder / "id")
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", name], check=True, stdout=subprocess.DEVNULL)


def inside(name: str, script: str, *words: str) -> None:
    """Run a shell script as root in the container."""
    subprocess.run(["docker", "exec", name, "sh", "-euc", script, "sh", *words], check=True)


def real(name: str, key: Path) -> dict[str, Any]:
    """Put real services in the place of the stand-ins; returns how to reach the host."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    inside(name, 'sh /opt/twin/login.sh root "$1"', key.with_suffix(".pub").read_text())
    inside(name, "systemctl stop api db; /srv/shop/stop.sh; rm -f /etc/systemd/system/*.wants/twin-start-voice.service")
    after_db = "Requires=db.service\nAfter=db.service"
    for path, text in (
        ("/srv/shop/service.py", SERVICE), ("/srv/shop/start.sh", START), ("/srv/shop/stop.sh", STOP),
        ("/etc/systemd/system/db.service", UNIT.format(order="", port=5001, name="db")),
        ("/etc/systemd/system/api.service", UNIT.format(order=after_db, port=5002, name="api")),
    ):  # fmt: skip
        inside(name, 'printf %s "$2" >"$1"; chmod 755 "$1"', path, text)
    inside(name, "chmod 644 /etc/systemd/system/db.service /etc/systemd/system/api.service; systemctl daemon-reload")
    proxy = f"docker exec -i {name} /usr/sbin/sshd -i"
    return {
        "trial_disposable": True,
        "ansible_host": name,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-o ProxyCommand='{proxy}' -o StrictHostKeyChecking=no "
        "-o UserKnownHostsFile=/dev/null -F /dev/null",
    }


# What is broken when it is started again; the order of the inventory; the words in the first failing case.
REAL = [
    ("", {}, ""),
    ("", {"needs": [], "trial_restore_order": ["api", "db", "voice"]}, "Contract 6"),
    ("seven-voice", {}, "voice"),
    ("sick-api", {}, "api"),
    ("lost-db", {}, "db"),
]


def settled(host: dict[str, Any], limited: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The inventory of the disposable host, with short limits."""
    limits = {"cap_s": 800, "drain_limit_s": 20, "lease_s": 10}
    return {**RIGHT, **host, "trial_tenants": limited, **changes, "trial_settle_s": 1, "trial_limits": limits}


AT_REST = "rm -f /srv/shop/*-*; systemctl reset-failed; systemctl start db api; /srv/shop/start.sh; sleep 1"


def test_real_units_come_back_from_a_start_and_a_health_page_that_fail(
    pipeline: Pipeline, host: dict[str, Any]
) -> None:
    inside(host["ansible_host"], AT_REST)
    drills = ("start-fails-once", "health-never")
    facts = settled(host, tenants(start_timeout_s=6))
    code, cases, said = pipeline.prove(facts, *drills, prove_rollback_ground="host")
    assert (code, {name: cases[name] for name in DRILLS[3:]}) == (0, dict.fromkeys(DRILLS[3:], "")), said
    # Nothing of the faults is left: no unit that strikes, and nobody stands still.
    inside(host["ansible_host"], "! systemctl is-active 'prove-rollback-*'")
    inside(host["ansible_host"], "! grep -l '^State:.T' /proc/[0-9]*/status 2>/dev/null")


@pytest.mark.parametrize(("broken", "change", "words"), REAL, ids=["right", "order", "exits 7", "sick", "lost"])
def test_a_disposable_host_with_real_units(
    pipeline: Pipeline, host: dict[str, Any], broken: str, change: dict[str, Any], words: str
) -> None:
    name = host["ansible_host"]
    limited = tenants(start_timeout_s=6)
    if "needs" in change:
        limited = [{**one, "needs": []} for one in limited]
    orders = {key: value for key, value in change.items() if key.startswith("trial_")}
    inside(name, f"{AT_REST}; {f'touch /srv/shop/{broken}' if broken else 'true'}")
    code, cases, said = pipeline.prove(settled(host, limited, **orders), prove_rollback_ground="host")
    assert (code == 0) is (not words), said
    assert not cases["the ground"], said
    assert words in cases["a rehearsal"], said
    # Whatever was broken is mended, and the host comes back: the next case finds it at rest.
    waits = "for i in $(seq 300); do test -e /var/lib/model-trial/open || exit 0; sleep 0.2; done; exit 1"
    inside(name, f"rm -f /srv/shop/{broken or 'nothing'}; {waits}")
