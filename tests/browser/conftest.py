"""Pages in a real headless browser: Debian's chromium, which `make browser` installs."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "build" / "screens"


def _view(width: int, height: int, scheme: str = "light", **more: Any) -> dict[str, Any]:
    return {"viewport": {"width": width, "height": height}, "color_scheme": scheme, **more}


# How a page is looked at, by name; `double` is a desk at 200 %, `zoomed` at 400 %.
VIEWS = {
    "light": _view(1280, 900),
    "dark": _view(1280, 900, "dark"),
    "phone": _view(390, 844),
    "double": _view(640, 450, device_scale_factor=2),
    "zoomed": _view(320, 256),
    "forced": _view(1280, 900, forced_colors="active"),
    "forced dark": _view(1280, 900, "dark", forced_colors="active"),
}


# `make test` looks at one page in every way, and at the others in these; `make prove` looks at all in all.
USUAL = ("light", "phone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "prove: one more page in one more way, which `make prove` alone looks at")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("browser")
            case = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            if case.get("kind", "rich") != "rich" and case.get("view", "light") not in USUAL:
                item.add_marker("prove")


@dataclass
class Opened:
    """A page in the browser, and everything it said, asked for, or tried since."""

    page: Page
    told: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def assert_silent(self) -> None:
        """Nothing on the console, and nothing asked of anybody: the document itself and what it carries along."""
        assert self.told == []
        others = [url[:200] for url in self.requests[1:] if not url.startswith("data:")]
        assert others == []


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def folders() -> ModuleType:
    """tests/fixtures/results/folders.py."""
    return importlib.import_module("folders")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("TRIAL_BROWSER") or next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.fail("no browser: `scripts/setup.sh --browser` installs chromium, or TRIAL_BROWSER names one")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not run as root.
        launched = playwright.chromium.launch(executable_path=found, chromium_sandbox=os.geteuid() != 0)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a file in one of `VIEWS`."""
    contexts = []

    def go(file: Path, view: str = "light", **options: Any) -> Opened:
        context = browser.new_context(**VIEWS[view], **options)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.told.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.told.append(f"error: {error}"))
        found.page.on("dialog", lambda dialog: (found.told.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        found.page.on("popup", lambda popup: found.told.append(f"popup: {popup.url}"))

        def asked(request: Request) -> None:
            found.requests.append(request.url)

        found.page.on("request", asked)
        found.page.goto(file.as_uri())
        return found

    yield go
    for context in contexts:
        context.close()
