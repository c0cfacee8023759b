"""Production's own prompt: runs the function taken from the production source, and returns what it returns.

Finding and cutting out the function is the host's part; it hands over a source that holds the function and the
module-level names it needs. This runs that source and the one call in the current process, which is why the trial
does it in a container without network, with nothing in it.
"""

from __future__ import annotations

import ast
from pathlib import Path

from trialbench.errors import UsageError


def evaluate_prompt(source: Path, call: str) -> str:
    """The text that `call`, one call expression, returns after `source` has been executed.

    Raises:
        UsageError: the source or the call cannot be run, or the result is no text; names what is missing.
    """
    try:
        expression = ast.parse(call, filename="--call", mode="eval")
    except SyntaxError as error:
        raise UsageError(f"--call: is no Python expression: {call!r}: {error.msg}") from error
    if not isinstance(expression.body, ast.Call):
        raise UsageError(f'--call: expected one call such as build_prompt(goal="..."), found {call!r}')
    try:
        code = compile(source.read_text(encoding="utf-8"), str(source), "exec")
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{source}: is no Python source: {error}") from error
    # `__name__` is not "__main__": a script's main part must not run.
    names: dict[str, object] = {"__name__": "production_prompt", "__file__": str(source)}
    try:
        exec(code, names)
        result = eval(compile(expression, "--call", "eval"), names)
    except NameError as error:
        raise UsageError(
            f"{source}: the name {error.name!r} is missing from the extracted source, so the prompt cannot be made:"
            " extract that name too, or name what the function needs in the inventory"
        ) from error
    except Exception as error:
        raise UsageError(f"{source}: {call} failed: {type(error).__name__}: {error}") from error
    if not isinstance(result, str) or not result.strip():
        raise UsageError(f"{source}: expected {call} to return a text, found {type(result).__name__} {result!r:.60}")
    return result
