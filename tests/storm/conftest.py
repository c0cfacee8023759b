"""A real llama-server with a tiny model: `MT_LLAMA_URL`, or a container of the bench image."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from trialbench.engines.openai import EndpointOptions, LlamaServer

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60.0
# Long replies on two slots; one thread, so that the storm itself has a core left.
ARGUMENTS = "--host 0.0.0.0 --port 8080 -m /models/baseline-f16.gguf -fit off --jinja --slots -np 2 -c 16384 -t 1"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def bench_image() -> str:
    if image := os.environ.get("MT_BENCH_IMAGE"):
        return image
    document = ROOT / "build" / "bench-image.json"
    if not document.is_file():
        pytest.fail(f"{document} is not there: `make image` writes it, or name a running server in MT_LLAMA_URL")
    return str(json.loads(document.read_text(encoding="utf-8"))["id"])


@pytest.fixture(autouse=True)
def nobodys_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real binary that is named for the live suite is not used here."""
    for name in ("BINARY", "WEIGHTS", "TOKENIZER", "FORMAT"):
        monkeypatch.delenv(f"GEMMA_CPP_{name}", raising=False)


@pytest.fixture(scope="session")
def llama_url() -> Iterator[str]:
    if url := os.environ.get("MT_LLAMA_URL"):
        yield url
        return
    name = f"mt-storm-{uuid.uuid4().hex[:8]}"
    docker(
        "run", "--rm", "--detach", "--name", name, "--publish", "127.0.0.1::8080",
        "--volume", f"{ROOT / 'tests' / 'fixtures' / 'models'}:/models:ro", "--entrypoint", "llama-server",
        bench_image(), *ARGUMENTS.split(),
    )  # fmt: skip
    try:
        url = f"http://{docker('port', name, '8080/tcp').splitlines()[0]}"
        engine = LlamaServer(EndpointOptions(url))
        until_s = time.monotonic() + START_LIMIT_S
        while (failure := engine.healthy()) is not None:
            assert time.monotonic() < until_s, f"llama-server is not well after {START_LIMIT_S:g} s: {failure.detail}"
            time.sleep(0.05)
        yield url
    finally:
        docker("rm", "--force", name)
