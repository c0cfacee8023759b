"""The stand-in for gemma.cpp's binary, and a streaming server that keeps to a script."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trialbench.engines.contract import Deadlines
from trialbench.engines.gemma_cpp import GemmaCpp, GemmaOptions
from trialbench.engines.supervisor import Bounds, Command, Supervised, Supervisor

STAND_IN = Path(__file__).resolve().parents[3] / "fixtures" / "engines" / "gemma"
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.sbs"
    path.write_text("{}", encoding="utf-8")
    return path


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    # A grace that a busy machine does not use up; who ignores SIGTERM is tested with `impatient`.
    one = Supervisor(Bounds(grace_s=10.0, memory_mib=256), home=False)
    yield one
    one.close()
    assert one.running == 0


@pytest.fixture
def impatient(supervisor: Supervisor) -> None:
    """SIGKILL soon after SIGTERM."""
    supervisor.bounds = replace(supervisor.bounds, grace_s=0.2)


@pytest.fixture
def run(supervisor: Supervisor) -> Callable[..., Supervised]:
    """Starts a shell script under the supervisor."""

    def start(script: str, *, text_filter: Any = None, scratch: Path | None = None, **deadlines: float) -> Supervised:
        command = Command(["/bin/sh", "-c", script], ENVIRONMENT, scratch=scratch)
        return supervisor.spawn(command, Deadlines(**deadlines), text_filter)

    return start


@pytest.fixture
def gemma(weights: Path, supervisor: Supervisor, tmp_path: Path) -> GemmaCpp:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = GemmaOptions(STAND_IN, weights, model="gemma2-2b-it", weight_format="sfp", scratch=scratch)
    return GemmaCpp(options, supervisor)


@pytest.fixture
def does() -> Callable[..., str]:
    """A prompt that tells the stand-in what to do."""
    return lambda prompt="tell me", **what: f"#stand-in {json.dumps(what)}\n{prompt}"


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """How many files this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.fixture
def stand_in() -> Path:
    return STAND_IN
