"""The collection as others get it: built, installed elsewhere, used by a project that does not know the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.twin

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests" / "fixtures" / "consumer"
SHIPPED = (
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "changelogs/changelog.yaml",
    "docs/reuse/hosts.yml",
    "docs/reuse/molecule.yml",
    "meta/runtime.yml",
    "MANIFEST.json",
    "playbooks/benchmark-e4b.yml",
    "playbooks/benchmark_e4b.yml",
    "playbooks/restore.yml",
    "plugins/action/phase.py",
    "plugins/module_utils/gpu.py",
    "plugins/modules/tenant.py",
    "roles/trial/meta/argument_specs.yml",
    "roles/verify/tasks/main.yml",
)
# The first folder of everything inside: the workshop stays at home.
FOLDERS = {"changelogs", "docs", "meta", "playbooks", "plugins", "roles", "tests", "bench", "images"}
CHECKS = [
    "VRAM is back in its steady band of 13-13.8 GB",
    "the telephone is healthy",
    "voice is healthy",
    "wheels is healthy",
    "eyes is healthy",
    "nobody listens on the candidate's port 11555",
    'voice speaks "dinner is ready"',
    "the telephone is alive",
]


def tool(name):
    """A program of the Python that runs the tests."""
    return str(Path(sys.executable).parent / name)


def clean_environment(collections):
    """This environment without anything that could lead Ansible back to the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MT_", "PYTHONPATH"))}
    return {**kept, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_NOCOLOR": "1"}


@dataclass(frozen=True)
class Consumer:
    """The consumer's folder, its collections, and how it runs a program."""

    folder: Path
    collections: Path
    connection: Path

    @property
    def installed(self):
        return self.collections / "ansible_collections" / "edgelab" / "model_trial"

    def run(self, name, *args, collections=None):
        environment = clean_environment(collections or self.collections)
        return subprocess.run(
            [tool(name), *args],
            cwd=self.folder,
            env={**environment, "CONSUMER_CONNECTION": str(self.connection)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Against a program that hangs.
            timeout=600,
        )

    def play(self, playbook, *args):
        """Run a playbook of the project; returns its output and what it reported."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        done = self.run("ansible-playbook", playbook, "-i", "inventory", "-e", f"robot_report={report}", *args)
        assert done.returncode == 0, done.stdout
        return done.stdout, json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [tool("ansible-galaxy"), "collection", "build", "--output-path", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("edgelab-model_trial-*.tar.gz"))


@pytest.fixture(scope="module")
def members(tarball):
    with tarfile.open(tarball) as archive:
        return {member.name: member for member in archive.getmembers()}


@pytest.fixture(scope="module")
def consumer(tarball, host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("consumer")
    shutil.copytree(PROJECT, folder / "project")
    found = Consumer(folder / "project", folder / "collections", host.connection_file)
    done = found.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(found.collections), str(tarball))
    assert done.returncode == 0, done.stdout
    return found


@pytest.fixture(scope="module")
def watched(host, consumer):
    """Nothing of the checkout answers for what is installed: every task's file lies below the installed copy."""

    def check(output):
        paths = [line.split("task path: ", 1)[1] for line in output.splitlines() if line.startswith("task path: ")]
        assert any(path.startswith(f"{consumer.installed}/roles/") for path in paths), output
        assert all(path.startswith((f"{consumer.installed}/", f"{consumer.folder}/")) for path in paths), paths

    return check


@pytest.mark.parametrize("name", SHIPPED)
def test_the_tarball_holds(members, name):
    assert name in members


def test_the_tarball_holds_nothing_of_the_workshop(members):
    assert {name.split("/")[0] for name in members if "/" in name} <= FOLDERS
    # A link would lead into a checkout that is not there.
    assert [name for name, member in members.items() if not (member.isfile() or member.isdir())] == []
    # The unit tests of plugins/ travel, for `ansible-test units`, and the suite that check_host.yml plays; all other
    # tests need the checkout.
    tests = {"/".join(name.split("/")[:3]) for name in members if name.startswith("tests/")}
    assert tests <= {
        "tests/check_host",
        "tests/check_host/conftest.py",
        "tests/check_host/test_host.py",
        "tests/config.yml",
        "tests/unit",
        "tests/unit/conftest.py",
        "tests/unit/plugins",
        "tests/unit/shared",
    }
    junk = (".git", ".venv", "__pycache__", "build", "collections", "benchmark-results", "molecule")
    assert [name for name in members if set(name.split("/")) & set(junk)] == []
    assert [name for name in members if name.endswith((".pyc", ".tar.gz", ".jsonl"))] == []


def test_what_answers_is_the_installed_copy(consumer, tmp_path):
    done = consumer.run("ansible-doc", "--json", "edgelab.model_trial.tenant")
    assert done.returncode == 0, done.stdout
    page = json.loads(done.stdout)["edgelab.model_trial.tenant"]["doc"]
    assert page["filename"] == str(consumer.installed / "plugins/modules/tenant.py")
    # And nothing else would have answered.
    done = consumer.run("ansible-doc", "--json", "edgelab.model_trial.tenant", collections=tmp_path)
    assert "edgelab.model_trial.tenant was not found" in done.stdout


def test_check_mode_shows_the_difference_and_touches_nothing(host, consumer, watched):
    before = {**host.fingerprint(), "used": host.used_mib()}
    output, report = consumer.play("rest.yml", "--check", "--diff", "-vv")
    assert {**host.fingerprint(), "used": host.used_mib()} == before
    watched(output)
    assert "-voice: started" in output
    assert "+voice: stopped" in output
    # Nothing was stopped, so stopping twice is a change twice, and there is nothing to start.
    assert [report[name]["changed"] for name in ("stop", "stop_again", "start", "start_again")] == [
        True,
        True,
        False,
        False,
    ]
    assert "duration_s" not in report["stop"]["tenants"]["voice"]
    assert report["drain"]["drained"] is False


def test_the_voice_rests_and_comes_back(host, consumer):
    others = "systemctl show -p MainPID --value panda-llamacpp panda-nav phone-daemon"
    before = host.run(others)
    try:
        _, report = consumer.play("rest.yml")
    finally:
        # Whatever failed in between, other tests find the voice. What runs is left alone.
        host.run("su panda -c /home/panda/workplace/her/her-os/services/chatterbox/start.sh")
    card = report["card"]
    assert card["available"] is True
    assert sorted(p["mib"] for p in card["processes"]) == [3900, 4300, 4900]
    assert [report[name]["changed"] for name in ("stop", "stop_again", "start", "start_again")] == [
        True,
        False,
        True,
        False,
    ]
    voice = report["stop"]["tenants"]["voice"]
    assert (voice["before"], voice["after"]) == ("started", "stopped")
    voice = report["start"]["tenants"]["voice"]
    assert (voice["before"], voice["after"]) == ("stopped", "started")
    assert report["drain"]["drained"] is True
    assert card["used_mib"] - report["drain"]["used_mib"] == 4300
    assert not any("chatterbox" in p["command"] for p in report["drain"]["processes"])
    assert report["silence"]["found"].startswith("no answer")
    assert report["speech"]["audio_s"] > 0.5
    assert [check["title"] for check in report["checks"]["checks"]] == CHECKS
    assert all(check["ok"] for check in report["checks"]["checks"])
    assert host.run(others) == before
    host.assert_back(None)


def test_the_roles_take_the_consumers_own_names_and_order(host, consumer, watched):
    before = host.fingerprint()
    output, report = consumer.play("look.yml", "-vv")
    assert host.fingerprint() == before
    watched(output)
    for text in ("1. stop eyes", "2. stop voice", "speechless", "sightless"):
        assert text in output
    assert [check["title"] for check in report["checks"]["checks"]] == CHECKS
    assert report["checks"]["failed_checks"] == []


@pytest.mark.parametrize("card", [True, False])
def test_a_gate_and_a_smoke_test_need_no_plan_and_no_card(host, consumer, card):
    before = host.fingerprint()
    _, report = consumer.play("alone.yml", *([] if card else ["-e", '{"trial_gpu": null}']))
    assert host.fingerprint() == before
    assert [(c["id"], c["ok"]) for c in report["contracts"]["contracts"]] == [(n, True) for n in (1, 4, 6, 7, 9)]
    found = report["contracts"]["contracts"][3]["found"]
    assert ("VRAM does not apply" in found) is not card
    first = CHECKS[0] if card else "VRAM: does not apply"
    wanted = [first, *(title for title in CHECKS[1:] if "candidate's port" not in title)]
    assert [check["title"] for check in report["checks"]["checks"]] == wanted
    assert report["checks"]["failed_checks"] == []


def test_a_contract_that_there_is_not_is_named(consumer):
    done = consumer.run("ansible-playbook", "alone.yml", "-i", "inventory", "-e", '{"preflight_only": [7, 15]}')
    assert done.returncode != 0
    assert "7 (there is room)" in done.stdout


def test_a_role_names_what_the_consumer_got_wrong(consumer):
    wrong = ("-e", json.dumps({"trial_restore_order": ["eyes"]}))
    done = consumer.run("ansible-playbook", "look.yml", "-i", "inventory", *wrong)
    assert done.returncode != 0
    assert "restore_order: expected the tenants of stop_order (eyes, voice), found ['eyes']" in done.stdout
