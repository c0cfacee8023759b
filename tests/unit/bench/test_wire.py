"""One wire: who in trialbench speaks HTTP, who opens a socket, who reads a stream, each by name and with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3] / "bench" / "trialbench"
HTTP = ("httpx", "httpcore", "h11", "http", "urllib.request", "urllib3", "requests", "aiohttp", "httpx_sse")
# Module -> why it may import an HTTP library.
SPEAKS_HTTP = {
    "engines/llama/wire.py": "the one wire to every llama-server",
    "hub/bounds.py": "reads answers of a hub or a registry in bounded bytes and time",
    "hub/__init__.py": "the errors of huggingface-hub, which are httpx's",
    "hub/download.py": "fetches a file in parts, from where an earlier fetch stopped",
    "hub/route.py": "which proxy and which certificates a request needs",
    "hub/registry.py": "asks a container registry for a digest",
}
# Module -> why it opens or touches a socket.
HAS_SOCKETS = {
    "engines/llama/generation.py": "shuts down the connection of a reply that is canceled",
    "ground_truth/runtimes/llama_cpp.py": "finds a free port for the server that it starts",
    "measure/raw.py": "the yardstick: shares nothing with the wire that it measures",
    "verbs/worker.py": "asks a worker for its status on its Unix socket",
    "worker/channel.py": "ND-JSON over a Unix socket",
    "worker/proofs.py": "a client of the worker under proof",
    "worker/server.py": "listens on a Unix socket",
    "worker/stall.py": "a relay that passes bytes on, or holds them",
}
# Module -> why it reads a stream.
READS_STREAMS = {
    "engines/llama/generation.py": "generating: tokens as they come",
    "measure/client.py": "measuring: the time of the first token",
}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import, in functions too; name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def importers(*modules: str) -> set[str]:
    """The files of trialbench that import one of `modules`, or something below it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for module, name in imports(path)
        if any(f"{module}.{name}.".startswith(f"{one}.") for one in modules)
    }


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        (HTTP, SPEAKS_HTTP),
        (("socket",), HAS_SOCKETS),
        (("trialbench.engines.llama.messages.StreamedReply",), READS_STREAMS),
    ],
    ids=["HTTP", "sockets", "streams"],
)
def test_only_the_named_modules(modules: tuple[str, ...], named: dict[str, str]) -> None:
    assert importers(*modules) == set(named)


def test_the_yardstick_shares_nothing_with_what_it_measures() -> None:
    assert [module for module, _ in imports(ROOT / "measure" / "raw.py") if module.startswith("trialbench")] == []
