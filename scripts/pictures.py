"""Pictures of the report for docs/: by day, by night and on a phone, from the recorded golden trial.

    python scripts/pictures.py [FOLDER]

The report of tests/fixtures/runs/completed is opened in a headless chromium (``scripts/setup.sh --browser`` installs
one; ``TRIAL_BROWSER`` names another) and its first screen written to FOLDER (default: docs/pictures) in each view.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "fixtures" / "runs" / "completed"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Name to color scheme, width and height in CSS pixels, and pixels of the picture for each of them.
VIEWS = {"light": ("light", 1280, 900, 1), "dark": ("dark", 1280, 900, 1), "phone": ("light", 390, 844, 2)}


def browser() -> str:
    """The path of a chromium; ends the program where there is none."""
    found = os.environ.get("TRIAL_BROWSER") or next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        sys.exit("pictures: no browser: `scripts/setup.sh --browser` installs chromium, or TRIAL_BROWSER names one")
    return found


def main() -> None:
    """Write the pictures and print their paths."""
    sys.path.insert(0, str(ROOT / "bench"))
    from trialbench.report.html.report import write_report

    to = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    to.mkdir(parents=True, exist_ok=True)
    path = browser()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = shutil.copytree(RUN, Path(folder) / "run")
        report = write_report(run)
        # Chromium's own sandbox does not run as root.
        launched = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        for name, (scheme, width, height, scale) in VIEWS.items():
            page = launched.new_page(
                color_scheme=scheme, viewport={"width": width, "height": height}, device_scale_factor=scale
            )
            page.goto(report.as_uri())
            picture = to / f"report-{name}.png"
            page.screenshot(path=picture)
            print(picture)
        launched.close()


if __name__ == "__main__":
    main()
