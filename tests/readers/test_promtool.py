"""promtool has no complaint about a run's metrics."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def test_promtool_has_no_complaint(exported: list[Path], readers: Path) -> None:
    promtool = shutil.which("promtool") or str(readers / "promtool")
    for run in exported:
        metrics = (run / "exports" / "metrics.prom").read_bytes()
        done = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b""), run.name


def test_promtool_complains_about_what_was_wrong_before(readers: Path) -> None:
    """Or its silence would say nothing."""
    promtool = shutil.which("promtool") or str(readers / "promtool")
    before = b'# HELP x_seconds Help.\n# TYPE x_seconds gauge\nx_seconds{quantile="0.5"} 1\n'
    done = subprocess.run([promtool, "check", "metrics"], input=before, capture_output=True, check=False)
    assert done.returncode == 3
    assert b"quantile" in done.stderr
