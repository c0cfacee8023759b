"""Data files of the ground truth: YAML, checked against a published schema, errors with file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import MAX_NUMBER, read_text, yaml_line

PACKAGED = Path(__file__).parent.parent / "data"
# Data files have a few hundred lines; nested aliases could expand to billions of nodes.
_MAX_BYTES, _MAX_NODES = 4_000_000, 200_000


class Document:
    """A checked YAML document that still knows its lines.

    Attributes:
        path: where it came from; relative paths in it are relative to its folder.
        data: the document, fitting its schema.
    """

    def __init__(self, path: Path, data: dict[str, Any], text: str) -> None:
        self.path = path
        self.data = data
        self._text = text

    def at(self, *where: str | int) -> str:
        """`FILE:LINE` of the deepest place of `where` that exists, for messages."""
        return f"{self.path}:{yaml_line(self._text, where)}"

    def beside(self, name: str) -> Path:
        """A path named in the document, relative to it; absolute, as programs elsewhere are given it.

        Raises:
            UsageError: no path can be called that; with its line.
        """
        try:
            return (self.path.parent / Path(name).expanduser()).resolve()
        except (ValueError, RuntimeError, OSError) as error:
            line = next((node.start_mark.line + 1 for node in _scalars(self._text) if node.value == name), 1)
            raise UsageError(f"{self.path}:{line}: expected a path, found {name!r}: {error}") from error


def load(path: Path, schema: str, what: str) -> Document:
    """Read `path` and check it against the published schema `schema`.

    Raises:
        UsageError: not readable, no YAML, or it does not fit; every problem with its line.
    """
    text = read_text(path, what, max_bytes=_MAX_BYTES)
    data = _parse(text, path)
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected a mapping ({what}), found {type(data).__name__}")
    problems = schemas.validate(data, schema)
    lines = [f"{path}:{yaml_line(text, problem.path)}: {problem}" for problem in problems]
    if not problems:
        # YAML allows inf and nan; such a bound would hold for everything or nothing, and JSON cannot represent it.
        lines = [
            f"{path}:{yaml_line(text, where)}: {where[-1]}: expected a finite number below 1e15, found {value}"
            for where, value in _not_finite(data)
        ]
    if lines:
        raise UsageError(
            f"the {what} does not fit its schema (see `trialbench schema {schema}`):\n  " + "\n  ".join(lines)
        )
    return Document(path, data, text)


def _parse(text: str, path: Path) -> Any:
    import yaml

    try:
        # Composed first, to find repeated keys: loading would silently drop all but the last value.
        _unique(yaml.compose(text, Loader=yaml.SafeLoader), path, iter(range(_MAX_NODES)))
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: is not YAML: {str(error) or 'nested too deeply'}") from error
    except _IMPROPER as error:
        raise UsageError(f"{path}{_improper(text)}: {error}") from error


# What the loader's constructors raise, without a line, for a scalar that is not what its tag or its form says.
_IMPROPER = (ValueError, AttributeError, TypeError, KeyError, OverflowError)


def _improper(text: str) -> str:
    """`:LINE: is not YAML: 'SCALAR'` of the first scalar that the loader cannot construct."""
    import yaml

    # An escape that is no character cannot be composed at all.
    with suppress(*_IMPROPER):
        for node in _scalars(text):
            try:
                yaml.safe_load(yaml.serialize(node))
            except _IMPROPER:
                return f":{node.start_mark.line + 1}: is not YAML: {node.value[:40]!r}"
    return ": is not YAML"


def _not_finite(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _not_finite(one, (*where, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _not_finite(one, (*where, number))
    elif isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
        yield where, f"{value!s:.40}"


def _scalars(text: str) -> Iterator[Any]:
    import yaml

    nodes = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, yaml.MappingNode):
            nodes += [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        else:
            yield node


def _unique(node: Any, path: Path, left: Iterator[int]) -> None:
    """Refuse a repeated key, and more nodes than are `left`."""
    import yaml

    if next(left, None) is None:
        raise UsageError(f"{path}: is not YAML: its aliases unfold to more than {_MAX_NODES} values")
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                first = seen[str(key.value)]
                raise UsageError(f"{path}:{line}: the key {key.value!r} is already there in line {first}")
            seen[str(key.value)] = line
            _unique(value, path, left)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _unique(value, path, left)
