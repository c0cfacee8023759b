"""docs/worker.md says what the worker does: its transcript is replayed, its table of keys compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from trialbench import schemas
from trialbench.config import fazai as config

ROOT = Path(__file__).resolve().parents[4]
TEXT = (ROOT / "docs" / "worker.md").read_text(encoding="utf-8")


def transcript() -> list[tuple[str, dict[str, Any]]]:
    block = TEXT.split("```text\n")[1].split("```")[0]
    return [(line[0], json.loads(line[2:])) for line in block.splitlines()]


def test_the_transcript_fits_the_schemas() -> None:
    lines = transcript()
    assert len(lines) > 15
    for side, message in lines:
        if side == "<" and message.get("type") == "status":
            continue  # shortened, as the text says
        if message.get("action") == "shell" or message == {"type": "generate", "prompt": "Whose?"}:
            continue  # requests that are refused
        assert schemas.validate(message, "worker-request" if side == ">" else "worker-reply") == [], message


def test_the_transcript_is_what_happens(bench: Any, serve: Any) -> None:
    engine = bench.Engine(["Hel", "lo."], ["Ev", "hang"], ["Hel", "lo."])
    engine.capabilities = frozenset()
    caller = serve(bench.dispatcher(engine))()
    lines = transcript()
    while lines:
        caller.send(lines.pop(0)[1])
        expected = []
        while lines and lines[0][0] == "<":
            expected.append(lines.pop(0)[1])
        found = [caller.read() for _ in expected]
        if expected[0].get("type") == "aborted":
            # Two threads answer: the end may be told before the abort is.
            found.sort(key=lambda message: str(message["type"]))
        for message, wanted in zip(found, expected, strict=True):
            assert same(message, wanted), (message, wanted)


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal but for times, counts, and what was shortened."""
    if expected.get("type") == "status":
        return bool(found["mode"] == expected["mode"] and found["status"] == expected["status"])

    def kept(message: dict[str, Any]) -> dict[str, Any]:
        plain = {key: value for key, value in message.items() if key not in ("usage", "timestamp")}
        if isinstance(plain.get("metadata"), dict):
            plain["metadata"] = kept(plain["metadata"])
        return plain

    return kept(found) == kept(expected)


def test_the_table_names_every_key() -> None:
    table = TEXT.split("## fazai.conf")[1].split("## Three proofs")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", table))
    for section, keys in config.keys().items():
        assert section in named
        assert set(keys) <= named, set(keys) - named


def test_the_role_writes_every_key_that_its_variables_have() -> None:
    role = ROOT / "roles" / "gemma_cpp"
    template = (role / "templates" / "fazai.conf.j2").read_text(encoding="utf-8")
    written = {*re.findall(r"^([a-z0-9_]+) = ", template, re.MULTILINE)}
    known = {key for keys in config.keys().values() for key in keys} | {"endpoint", "api_key_file"}
    assert written <= known
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    variables = {name for entry in specs.values() for name in entry["options"]}
    assert {*re.findall(r"gemma_cpp_[a-z0-9_]+", template)} <= variables
    readme = (role / "README.md").read_text(encoding="utf-8")
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    for name in variables:
        assert f"### {name}\n" in readme, name
    required = {name for entry in specs.values() for name, one in entry["options"].items() if one.get("required")}
    assert set(defaults) | required == variables
    for entry in specs.values():
        for name, one in entry["options"].items():
            if "default" in one:
                assert defaults[name] == one["default"], name
