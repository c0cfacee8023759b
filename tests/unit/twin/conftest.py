"""The twin's programs are files, not packages: tests load them by path."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TWIN = ROOT / "images" / "twin"
HER_OS = TWIN / "her-os" / "services"


def load(name: str, path: Path) -> ModuleType:
    """Import the file ``path`` under ``name`` and remember it, as dataclasses need their module to be findable."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def observer() -> ModuleType:
    return load("twin_observer", TWIN / "gpu" / "observer.py")


@pytest.fixture(scope="session")
def twin() -> ModuleType:
    return load("twin_program", TWIN / "twin.py")


@pytest.fixture(scope="session")
def base() -> ModuleType:
    return load("cpu_base_build", ROOT / "images" / "base" / "build.py")


@pytest.fixture(scope="session")
def gpu_programs(tmp_path_factory: pytest.TempPathFactory, twin: ModuleType) -> Path:
    """The compiled library and nvidia-smi. A machine without gcc can't build a twin either: that is a failure."""
    assert shutil.which("gcc") is not None, "gcc is missing: `make setup` installs it"
    folder = tmp_path_factory.mktemp("gpu")
    twin.compile_programs(folder)
    return folder
