"""The golden trial: one play of `benchmark-e4b.yml` with everything attached, and all that it must leave.

The files run in the order of their numbers. Files 1 to 3 only read what the play left. File 4 harvests it again. File 5
restores, verifies and uninstalls, so nothing of the collection is on the twin afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from attachments import copy_documents, ground_truth, put_proofs, texts


@dataclass(frozen=True)
class Golden:
    """The finished trial.

    Attributes:
        host: the twin.
        text: what the play said.
        tasks: the names of its tasks, in order.
        folder: the harvested run.
        phone: the phone daemon's process before the trial.
        docs: the documents that the trial wrote into.
        before: their texts before it.
        began_s: the host's clock before the trial.
    """

    host: Any
    text: str
    tasks: list[str]
    folder: Path
    phone: str
    docs: Path
    before: dict[str, str]
    began_s: str

    def document(self, name: str) -> Any:
        """A JSON document of the run."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file of the run."""
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def samples(self, segment: str) -> list[dict[str, Any]]:
        """The samples of a segment."""
        return self.lines(f"samples/{segment}.jsonl")

    def events(self, name: str, **facts: Any) -> list[dict[str, Any]]:
        """The journal's events of a name that have these facts."""
        return [e for e in self.lines("journal.jsonl") if e["event"] == name and facts.items() <= e.items()]


@pytest.fixture(scope="session")
def golden(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """Play it once: documents, a required ground-truth verdict that passes, six proofs, the inventory's own limits."""
    docs = copy_documents(tmp_path_factory.mktemp("her-os"))
    before, phone = texts(docs), host.phone_pid()
    put_proofs(host.results / "proofs" / "twin")
    began_s = host.run("date +%s")
    verdict = ground_truth(tmp_path_factory.mktemp("ground-truth"), "PASS", "PASS")
    attached = {"docs_root": str(docs), "ground_truth_required": True, "ground_truth_verdicts": [str(verdict)]}
    played = host.play("benchmark-e4b.yml", "-e", json.dumps(attached))
    assert played.code == 0, played.text
    return Golden(host, played.text, played.tasks(), host.latest(), phone, docs, before, began_s)
