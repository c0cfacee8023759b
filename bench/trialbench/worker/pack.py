"""Packs the worker into one file that runs on any Python 3.11 or newer: a zipapp that includes httpx.

    python -m trialbench.worker.pack build/trialbench-worker

Nothing is installed on the host, and only the standard library of its Python is used. The build is reproducible, so
that an unchanged program is never copied again.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from trialbench.errors import UsageError

SHEBANG = b"#!/usr/bin/env -S python3 -I\n"
_MAIN = "import sys\n\nfrom trialbench.verbs.worker import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
# The parts of trialbench that serve an engine. Measuring, verdict and report are not included.
_OURS = (
    *("__init__.py", "credentials.py", "errors.py", "files.py", "options.py", "urls.py"),
    *("show/__init__.py", "show/junit.py", "show/terminal.py", "show/text.py"),
    *("config/*.py", "engines/*.py", "engines/llama/*.py", "worker/*.py"),
    *("verbs/__init__.py", "verbs/oneshot.py", "verbs/select.py", "verbs/worker.py"),
)
# httpx and its dependencies, all pure Python. Only older releases of anyio need sniffio.
_NEEDED = ("anyio", "certifi", "h11", "httpcore", "httpx", "idna", "typing_extensions")
_NOT_PACKED = {"trialbench/worker/pack.py"}


def build() -> bytes:
    """The program.

    Raises:
        UsageError: a package that it needs is not installed here, or has compiled parts.
    """
    files = dict(_ours())
    for name in _NEEDED:
        files.update(_package(name))
    files["__main__.py"] = _MAIN.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return SHEBANG + buffer.getvalue()


def _ours() -> Iterator[tuple[str, bytes]]:
    root = Path(__file__).resolve().parent.parent
    for pattern in _OURS:
        for path in sorted(root.glob(pattern)):
            name = f"trialbench/{path.relative_to(root).as_posix()}"
            if name not in _NOT_PACKED:
                yield name, path.read_bytes()


def _package(name: str) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(f"the worker needs {name}, which is not installed here; do: pip install edgelab-trialbench")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        yield origin.name, origin.read_bytes()
        return
    for path in sorted(origin.parent.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        if path.suffix in (".so", ".pyd"):
            raise UsageError(f"the worker can't include {path}: it is compiled for this machine")
        yield f"{name}/{path.relative_to(origin.parent).as_posix()}", path.read_bytes()


def write(dest: Path) -> bool:
    """Write the program to `dest`, executable; whether it changed."""
    data = build()
    dest = Path(os.path.realpath(dest))  # a link stays one
    if dest.exists() and dest.read_bytes() == data:
        return False
    dest.parent.mkdir(parents=True, exist_ok=True)
    fresh = dest.with_name(f".{dest.name}.{os.getpid()}")
    fresh.write_bytes(data)
    fresh.chmod(0o755)
    fresh.replace(dest)
    return True


def main(arguments: list[str]) -> int:
    """`python -m trialbench.worker.pack DEST`; says `changed` or `unchanged`."""
    if len(arguments) != 1:
        print("usage: python -m trialbench.worker.pack DEST", file=sys.stderr)
        return 2
    try:
        changed = write(Path(arguments[0]))
    except UsageError as error:
        print(f"pack: {error}", file=sys.stderr)
        return error.exit_code
    print("changed" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
