"""The published JSON schemas (draft 2020-12), and a small validator for the part of the standard they use.

The schema files are the one truth about each format: what is checked when a file is read is what is published.
`jsonschema` would add 5 MB and 60 ms of start-up to the measuring client, so it serves as the oracle in the tests
and this validator, about a hundred lines, serves at run time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_json

_FOLDER = Path(__file__).parent
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
# Every keyword the validator understands; a schema that uses another one is refused instead of half checked.
_KEYWORDS = {"$schema", "$id", "$defs", "$ref", "title", "description", "default", "examples", "anyOf"}
_KEYWORDS |= {
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
}
_KEYWORDS |= {"minLength", "pattern", "minimum", "maximum", "exclusiveMinimum"}


@dataclass(frozen=True)
class Problem:
    """One place where a value does not fit. `path` leads to it: keys and positions from the root."""

    path: tuple[str | int, ...]
    expected: str
    found: str

    def __str__(self) -> str:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")
        return f"{where or 'the document'}: expected {self.expected}, found {self.found}"


def names() -> list[str]:
    """Names of the published schemas, sorted."""
    return sorted(path.name.removesuffix(".schema.json") for path in _FOLDER.glob("*.schema.json"))


@cache
def load(name: str) -> dict[str, Any]:
    """The schema `name`.

    Raises:
        UsageError: no such schema; lists those there are.
    """
    try:
        schema: dict[str, Any] = json.loads((_FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no schema named {name!r}; there are: {', '.join(names())}") from None
    return schema


def read(path: Path, name: str, what: str) -> dict[str, Any]:
    """The JSON document in `path`, which is `what` and fits the schema `name`.

    Raises:
        UsageError: it cannot be read, is not JSON, or does not fit; names the first problem.
    """
    data: dict[str, Any] = read_json(path)
    problems = validate(data, name)
    if problems:
        raise UsageError(f"{path}: expected {what}; {problems[0]}")
    return data


def validate(value: Any, name: str) -> list[Problem]:
    """All problems of `value` against the schema `name`; an empty list means it fits."""
    schema = load(name)
    return list(_check(value, schema, schema, ()))


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value fits a schema that uses the validator's keywords only, as contracts of workloads do."""
    root = dict(schema)
    return next(_check(value, root, root, ()), None) is None


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: to Python true is 1, to JSON it is not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_type(value: Any, name: str) -> bool:
    # bool is a kind of int in Python, in JSON it is not; 3.0 is an integer in JSON Schema.
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        # YAML has them, JSON does not.
        return False
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _check(value: Any, schema: Any, root: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[Problem]:
    unknown = set(schema) - _KEYWORDS
    if unknown:
        raise AssertionError(f"schema keyword not understood by the validator: {sorted(unknown)}")
    if "$ref" in schema:
        yield from _check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
        return
    if "anyOf" in schema:
        attempts = [list(_check(value, branch, root, path)) for branch in schema["anyOf"]]
        if all(attempts):
            # The branch that got furthest into the value, with the fewest problems there, explains best what is wrong.
            yield from max(attempts, key=lambda found: (max(len(problem.path) for problem in found), -len(found)))
            return
    if "const" in schema and not _same(value, schema["const"]):
        yield Problem(path, _show(schema["const"]), _show(value))
    if "enum" in schema and not any(_same(value, entry) for entry in schema["enum"]):
        yield Problem(path, "one of " + ", ".join(_show(entry) for entry in schema["enum"]), _show(value))
    if "type" in schema:
        allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is_type(value, name) for name in allowed):
            yield Problem(path, " or ".join(allowed), _show(value))
            return
    if isinstance(value, dict):
        yield from _check_object(value, schema, root, path)
    elif isinstance(value, list):
        yield from _check_array(value, schema, root, path)
    elif isinstance(value, str):
        yield from _check_string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(value, schema, path)


def _check_object(
    value: dict[str, Any], schema: Any, root: dict[str, Any], path: tuple[str | int, ...]
) -> Iterator[Problem]:
    properties = schema.get("properties", {})
    for key in schema.get("required", []):
        if key not in value:
            yield Problem(path, f"a key {key!r}", "none")
    extra = schema.get("additionalProperties", True)
    for key, entry in value.items():
        if key in properties:
            yield from _check(entry, properties[key], root, (*path, key))
        elif extra is False:
            yield Problem((*path, key), "one of the keys " + ", ".join(properties), f"the key {key!r}")
        elif isinstance(extra, dict):
            yield from _check(entry, extra, root, (*path, key))


def _check_array(value: list[Any], schema: Any, root: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[Problem]:
    if len(value) < schema.get("minItems", 0):
        yield Problem(path, f"at least {schema['minItems']} entries", str(len(value)))
    if len(value) > schema.get("maxItems", len(value)):
        yield Problem(path, f"at most {schema['maxItems']} entries", str(len(value)))
    if "items" in schema:
        for position, entry in enumerate(value):
            yield from _check(entry, schema["items"], root, (*path, position))


def _check_string(value: str, schema: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if len(value) < schema.get("minLength", 0):
        yield Problem(path, f"at least {schema['minLength']} characters", _show(value))
    # In JSON Schema `$` is the end of the text; Python's would let a line end follow.
    if "pattern" in schema and not re.search(re.sub(r"\$\Z", r"\\Z", schema["pattern"]), value):
        yield Problem(path, f"text like {schema['pattern']}", _show(value))


def _check_number(value: float, schema: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if value < schema.get("minimum", value):
        yield Problem(path, f"at least {schema['minimum']}", _show(value))
    if value > schema.get("maximum", value):
        yield Problem(path, f"at most {schema['maximum']}", _show(value))
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        yield Problem(path, f"more than {schema['exclusiveMinimum']}", _show(value))
