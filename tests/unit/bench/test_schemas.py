"""The published schemas, and our validator against jsonschema as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trialbench
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from profiles import examples
from published import accept, validator
from trialbench import schemas
from trialbench.errors import UsageError

NAMES = [
    "attestation",
    "calibration",
    "claim",
    "documents",
    "ground-truth",
    "hold",
    "journal",
    "judgments",
    "oracle",
    "plan",
    "prompts",
    "proof",
    "rehearsal",
    "review-key",
    "roster",
    "row",
    "sample",
    "scenes",
    "session",
    "sign",
    "snapshot",
    "summary",
    "tokenizer-oracle",
    "tolerances",
    "verdict",
    "verification",
    "vram",
    "worker-reply",
    "worker-request",
    "workload",
]
WORKLOADS = Path(trialbench.__file__).parent / "workloads"


def test_names() -> None:
    assert schemas.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas_and_use_only_what_the_validator_knows(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.load(name))

    def keywords(schema: Any) -> None:
        if isinstance(schema, dict):
            schemas.validate(None, name)
            for value in schema.values():
                keywords(value)

    keywords(schemas.load(name))


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match="there are: attestation, calibration, claim, documents"):
        schemas.load("sampel")


@pytest.mark.parametrize("path", sorted(WORKLOADS.glob("*.yml")), ids=lambda path: path.stem)
def test_packaged_workloads_fit(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    accept(document, "workload")
    assert schemas.validate(document, "workload") == []


JOURNAL = {
    "seq": 1,
    "wall": "2026-01-02T03:04:05Z",
    "t_s": 1.5,
    "boot_id": "b",
    "run": "r",
    "epoch": 1,
    "by": "runner",
    "event": "gate",
    "name": "start",
}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("journal", JOURNAL, None),
        ("journal", JOURNAL | {"by": "somebody"}, 'by: expected one of "runner"'),
        ("journal", JOURNAL | {"seq": True}, "seq: expected integer, found true"),
        ("journal", JOURNAL | {"seq": 1.0}, None),
        ("journal", JOURNAL | {"epoch": -1}, "epoch: expected at least 0, found -1"),
        ("journal", JOURNAL | {"event": ""}, "event: expected at least 1 characters"),
        ("journal", [], "the document: expected object, found []"),
        ("verdict", {"format": 2}, "format: expected 1, found 2"),
        ("workload", {"limits": {"max_tokens": 1, "timeout_s": 0}}, "limits.timeout_s: expected more than 0"),
        ("workload", {"limits": {"max_tokens": 10**9}}, "expected at most 131072"),
        ("workload", {"messages": [{"role": "user", "content": [{"image": False}]}]}, "[0].image: expected true"),
    ],
)
def test_problems_name_place_expected_and_found(name: str, value: Any, problem: str | None) -> None:
    found = [str(one) for one in schemas.validate(value, name)]
    assert (found == []) == (problem is None) == validator(name).is_valid(value)
    assert problem is None or any(problem in one for one in found)


def test_long_values_are_shortened() -> None:
    assert len(str(schemas.validate(JOURNAL | {"by": "x" * 500}, "journal")[0])) < 200


def test_unknown_keyword_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "load", lambda _name: {"oneOf": []})
    with pytest.raises(AssertionError, match="oneOf"):
        schemas.validate(1, "any")


def test_entries_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "load", lambda _name: {"type": "array", "maxItems": 1})
    assert [str(one) for one in schemas.validate([1, 2], "any")] == [
        "the document: expected at most 1 entries, found 2"
    ]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats(-2, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
PLACES = [
    ("workload", ("limits", "max_tokens")),
    ("workload", ("messages", 0, "content")),
    ("workload", ("variables",)),
    ("workload", ("contract",)),
    ("session", ("segments", 0, "n")),
    ("session", ("wait_s",)),
]
GOOD: dict[str, Any] = {
    "workload": {
        "name": "x",
        "messages": [{"role": "user", "content": "hi"}],
        "limits": {"max_tokens": 5},
        "variables": {},
        "contract": {"words": [["a"]]},
    },
    "session": {"url": "http://x", "out_dir": "/o", "wait_s": 1, "segments": [{"id": "a", "workload": "nav", "n": 1}]},
}


@settings(max_examples=examples(300))
@given(st.sampled_from(PLACES), ANY_JSON)
@example(PLACES[0], True)
@example(PLACES[0], 5.0)
@example(PLACES[1], [{}])
@example(PLACES[3], {"words": [], "x": 1})
def test_validator_agrees_with_jsonschema(place: tuple[str, tuple[str | int, ...]], value: Any) -> None:
    name, path = place
    document = json.loads(json.dumps(GOOD[name]))
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    accepted = schemas.validate(document, name) == []
    assert accepted == validator(name).is_valid(document)
