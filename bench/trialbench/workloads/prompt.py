"""Production's own functions, from its source: one builds the prompt, one reads a reply.

The host extracts them; it passes a source with the function and the module-level names it needs. This module executes
that source in the current process, which is why the trial builds the prompt in an isolated container without network.
"""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

from trialbench.errors import UsageError
from trialbench.files import encodable
from trialbench.workloads.parsers import OwnParser


def _run(source: Path) -> dict[str, object]:
    """The names that `source` defines, after it has been executed."""
    try:
        code = compile(source.read_text(encoding="utf-8"), str(source), "exec")
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{source}: is not a Python source: {error}") from error
    # A separate module, not "__main__": a script's main part must not run, and dataclasses look up their module.
    module = types.ModuleType("production_source")
    module.__file__ = str(source)
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return module.__dict__


def load_parser(source: Path, name: str) -> OwnParser:
    """Production's own parser `name`, after `source` has been executed.

    Raises:
        UsageError: the source can't be run, or has no such function.
    """
    try:
        found = _run(source).get(name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{source}: failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UsageError(f"{source}: expected a function {name!r}, found {type(found).__name__}")
    return OwnParser(name, found)


def evaluate_prompt(source: Path, call: str) -> str:
    """The text that `call`, one call expression, returns after `source` has been executed.

    Raises:
        UsageError: the source or the call can't be run, or the result is not a text; names what is missing.
    """
    try:
        expression = ast.parse(call, filename="--call", mode="eval")
    except SyntaxError as error:
        raise UsageError(f"--call: is not a Python expression: {call!r}: {error.msg}") from error
    if not isinstance(expression.body, ast.Call):
        raise UsageError(f'--call: expected one call such as build_prompt(goal="..."), found {call!r}')
    try:
        result = eval(compile(expression, "--call", "eval"), _run(source))
    except NameError as error:
        raise UsageError(
            f"{source}: the name {error.name!r} is missing from the extracted source, so the prompt cannot be made:"
            " extract that name too, or name what the function needs in the inventory"
        ) from error
    except Exception as error:
        raise UsageError(f"{source}: {call} failed: {type(error).__name__}: {error}") from error
    if not isinstance(result, str) or not result.strip():
        raise UsageError(f"{source}: expected {call} to return a text, found {type(result).__name__} {result!r:.60}")
    if not encodable(result):
        raise UsageError(f"{source}: expected {call} to return a text that UTF-8 can hold, found half a surrogate pair")
    return result
