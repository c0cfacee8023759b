"""What the report writes about known runs stays as it is: every number, key and verdict word of every file.

`tests/fixtures/results/golden/` holds what each run of `folders.ALL` and the recorded `runs/completed` gives. Sentences
are masked there, so that words may be improved; a large output is kept as its hash. After a change that is meant to
change numbers, write the files again and review their diff:

    GOLDEN=write pytest tests/unit/bench/test_golden.py
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attachments
import folders
import pytest
from trialbench import stats
from trialbench.errors import UsageError
from trialbench.files import read_json
from trialbench.report.compare import compare_table
from trialbench.report.decide import decide_folder
from trialbench.report.documents import write_documents
from trialbench.report.export import write_exports
from trialbench.report.html.comparison import write_comparison
from trialbench.report.html.report import write_report
from trialbench.report.summary import write_summary
from trialbench.report.table import folder_table

GOLDEN = Path(folders.__file__).parent / "golden"
# Larger outputs are no help in a review; one run is kept in more detail, the others differ from it in a few places.
MOST_BYTES, MOST_OF_ONE = 5_000, 30_000


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an interval ends hangs on it, and nothing else; it saves a minute."""
    for name in ("median_ratio", "paired_ratio"):
        monkeypatch.setattr(stats, name, functools.partial(getattr(stats, name), resamples=200))


MAKERS = {**folders.ALL, "completed": folders.completed}


def written(run: Path) -> Iterator[tuple[str, Any]]:
    """Every output about a run, by name: JSON as a document, anything else as text."""
    try:
        decide_folder(run)
        yield "verdict.json", read_json(run / "verdict.json")
    except UsageError as error:
        yield "verdict.json", type(error).__name__
    yield "summary.json", read_json(write_summary(run))
    yield "show", folder_table(run)
    yield "report.html", write_report(run).read_text(encoding="utf-8")
    for path in write_exports(run):
        yield path.name, path.read_text(encoding="utf-8")
    yield "compare", compare_table([run])
    yield "compare.html", write_comparison([run], run / "compare.html").read_text(encoding="utf-8")
    try:
        root = run.parent / "documents"
        root.mkdir()
        for document in write_documents(run, attachments.copy_documents(root)):
            yield document.name, document.after if document.changed else "unchanged"
    except UsageError as error:
        yield "documents", type(error).__name__


def masked(name: str, value: Any) -> Any:
    """The output without its sentences, times of writing and version."""
    if isinstance(value, dict):
        return {key: masked(name, one) for key, one in value.items() if key not in ("created", "trialbench")}
    if isinstance(value, list):
        return [masked(name, one) for one in value]
    if not isinstance(value, str):
        return value
    if name.endswith(".json"):
        # A sentence keeps the names before its first colon: `cache: nav-candidate: ...`.
        return value if " " not in value else re.match(r"(?:[\w-]+: )*", value)[0] + "..."  # type: ignore[index]
    if name == "junit.xml":
        value = re.sub(r'message="[^"]*"', 'message=""', value)
        value = re.sub(r'(name="(?:trialbench|answer)" value=)"[^"]*"', r"\1", value)
        return [line for line in value.split("\n") if line.lstrip().startswith("<")]
    if name == "metrics.prom":
        value = re.sub(r'version="[^"]*"', "", value)
        return [re.sub(r'"[^"]* [^"]*"', '"..."', line) for line in value.split("\n") if not line.startswith("# HELP")]
    if name == "samples.csv":
        return value.split("\n")
    # A text for people: its numbers and its words in capitals, a line each where it has any.
    # The policy of a page has the hashes of its style and script, which change with each word of them.
    value = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", value)
    value = re.sub(r"<style>.*?</style>|<script>.*?</script>|base64,[^\"]*|<footer>.*", "", value, flags=re.DOTALL)
    lines = (re.findall(r"(?<![\w#])[-+~]?\d[\d.,/%]*|\b[A-Z][A-Z_ ]*[A-Z]\b", line) for line in value.split("\n"))
    return [" ".join(found) for found in lines if found]


def kept(value: Any, limit: int) -> Any:
    """`value`, or the hash of one that is too large to review."""
    text = json.dumps(value, ensure_ascii=True)
    if len(text) <= limit:
        return value
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_written_stays_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[Path], Path] = MAKERS[name]
    # Commands in the report name the folder.
    monkeypatch.chdir(tmp_path)
    limit = MOST_OF_ONE if name == "finished" else MOST_BYTES
    found = {output: kept(masked(output, value), limit) for output, value in written(make(tmp_path / "run"))}
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert list(found) == list(golden)
    for output, value in found.items():
        # As text, because the order of keys counts too.
        assert json.dumps(value, indent=1) == json.dumps(golden[output], indent=1), output
