"""The twin's programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load

ROOT = Path(__file__).resolve().parents[3]
TWIN = ROOT / "images" / "twin"


@pytest.fixture(scope="session")
def observer() -> ModuleType:
    return load(TWIN / "gpu" / "observer.py")


@pytest.fixture(scope="session")
def twin() -> ModuleType:
    return load(TWIN / "twin.py")


@pytest.fixture(scope="session")
def base() -> ModuleType:
    return load(ROOT / "images" / "base" / "build.py")


@pytest.fixture(scope="session")
def gpu_programs(tmp_path_factory: pytest.TempPathFactory, twin: ModuleType) -> Path:
    """The compiled library and nvidia-smi. A machine without gcc can't build a twin either: that is a failure."""
    assert shutil.which("gcc") is not None, "gcc is missing: `make setup` installs it"
    folder = tmp_path_factory.mktemp("gpu")
    twin.compile_programs(folder)
    return folder
