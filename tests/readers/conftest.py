"""Exports of every kind of run, for readers that other people made; `scripts/readers.sh` fetches these."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from trialbench.report.export import write_exports

READERS = Path(__file__).resolve().parents[2] / "build" / "readers"


@pytest.fixture(scope="session")
def readers() -> Path:
    """Where the readers lie that this machine lacks otherwise."""
    return READERS


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of runs of every kind, exported."""
    folders = importlib.import_module("folders")
    root = tmp_path_factory.mktemp("runs")
    runs = [make(root / name) for name, make in {**folders.ALL, "completed": folders.completed}.items()]
    for run in runs:
        write_exports(run)
    return runs
