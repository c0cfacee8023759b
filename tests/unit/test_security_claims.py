"""SECURITY.md and the tests hold each other: every claim has a proof, every proof is a test that exists.

Beside that the claims that need neither a twin nor a fake world.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import plan as plans
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, probes, run, sessions, tenants
from ansible_collections.edgelab.model_trial.plugins.module_utils.journal import State
from trialbench import schemas

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e"


def rows(section: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    text = re.split(r"^## ", SECURITY, flags=re.MULTILINE)
    body = next(part for part in text if part.startswith(f"{section}\n"))
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


CLAIMS = {row[0]: row for row in rows("Claims")}
PROOFS = rows("Proof")


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a file; none where there is no such file."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_claims_are_numbered_and_say_how() -> None:
    assert list(CLAIMS) == [str(number) for number in range(1, len(CLAIMS) + 1)]
    assert all(len(row) == 3 and all(row) for row in CLAIMS.values())


def test_no_claim_without_a_proof_and_no_proof_without_a_claim() -> None:
    assert {row[0] for row in PROOFS} == set(CLAIMS)
    assert len({tuple(row) for row in PROOFS}) == len(PROOFS)


@pytest.mark.parametrize("test", [row[1].strip("`") for row in PROOFS])
def test_every_proof_is_a_test_that_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in functions_of(path), f"{test}: no such test"


def test_every_test_on_the_twin_proves_a_claim() -> None:
    path = "tests/twin/test_security.py"
    assert {f"{path}::{name}" for name in functions_of(path)} <= {row[1].strip("`") for row in PROOFS}


def test_a_process_cannot_name_itself_into_a_terminal() -> None:
    """Any user of the host chooses his command line; it is printed where he holds the candidate's port, or VRAM."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, EVIL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        shown = probes.command(process.pid)
        process.stdin.close()
    assert "owned" in shown
    assert [c for c in shown if not c.isprintable()] == []


@pytest.mark.parametrize("text", [EVIL, "\ud800", "\x9b31m", "\u2066", "\r\x08"])
def test_what_is_shown_is_printable(text: str) -> None:
    shown = probes.printable(f"a{text}\n\tb")
    assert [c for c in shown if c not in "\n\t" and not c.isprintable()] == []
    assert (shown[0], shown[-3:]) == ("a", "\n\tb")
    shown.encode()


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path: Path) -> None:
    """A tenant prints what it likes; reading its log is part of the restore."""
    log = tmp_path / "tenant.log"
    log.write_bytes(b"\xff\xfe\x80 CUDA error \x1b[31m\n")
    tenant = planfile.parse_tenant(
        {
            "name": "voice",
            "kind": "script",
            "user": "nobody",
            "directory": str(tmp_path),
            "start": "./start.sh",
            "stop": "./stop.sh",
            "port": 1,
            "health": {"url": "http://127.0.0.1:1/health"},
        },
        "tenants[0]",
    )
    words = tenants.of(tenant).last_words(log)
    assert "CUDA error" in words
    assert [c for c in words if c not in "\n\t" and not c.isprintable()] == []
    # Commands that are asked (systemctl, journalctl, docker) may answer such bytes, too.
    done = run.command(["printf", r"\377\376 CUDA error"], 10)
    assert "CUDA error" in done.out


CLIMBING = ["../evil", "a/b", "/etc", ".hidden", "..", "a b", "a\n", "a\x1b", "", "x" * 101]


@pytest.mark.parametrize("name", CLIMBING, ids=repr)
def test_names_with_a_slash_are_refused(name: str, tmp_path: Path) -> None:
    assert not plans.NAME.match(name)
    if name:
        with pytest.raises((ValueError, OSError)):
            State(tmp_path).run_dir(name)
    tenant: dict[str, Any] = {"name": name, "kind": "process", "process": "x", "user": "nobody", "start": "x"}
    with pytest.raises(planfile.PlanError, match="letters, digits"):
        planfile.parse_tenant(tenant, "tenants[0]")
    session = {"url": "http://h", "out_dir": "/out", "segments": [{"id": name, "workload": "nav", "n": 1}]}
    if len(name) <= 100:
        assert schemas.validate(session, "session"), name


PLAN: dict[str, Any] = {
    "run": "run-1",
    "host": "panda",
    "image": "sha256:0",
    "gpu": {"steady_gb": [1, 2]},
    "tenants": [{"name": "llm", "kind": "systemd", "unit": "llm.service"}],
    "baseline": {"tenant": "llm", "url": "http://127.0.0.1:1", "label": "old"},
    "candidate": {"label": "new", "container": "new", "files": [{"name": "m.gguf", "role": "model"}]},
    "contracts": {"prompt": {"file": "/p.py", "function": "f", "call": "f()"}, "camera": "/c.jpg"},
    "workloads": [{"name": "nav", "role": "decides"}],
    "stop_order": ["llm"],
    "restore_order": ["llm"],
}


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "a\x1b[2J"])
@pytest.mark.parametrize(
    "place", ["run", "host", "candidate.label", "candidate.container", "candidate.files.0.name", "workloads.0.name"]
)
def test_no_name_of_a_plan_climbs(place: str, name: str) -> None:
    assert planfile.parse(PLAN).run == "run-1"
    changed = copy.deepcopy(PLAN)
    *parents, last = place.split(".")
    inner: Any = changed
    for parent in parents:
        inner = inner[int(parent)] if parent.isdigit() else inner[parent]
    inner[last] = name
    with pytest.raises(planfile.PlanError):
        planfile.parse(changed)


def test_every_segment_of_a_trial_has_a_plain_name() -> None:
    built = sessions.build(planfile.parse(PLAN))
    ids = [segment["id"] for session in built.values() for segment in session["segments"]]
    assert all(plans.NAME.match(name) for name in [*sessions.SESSIONS, *ids])
