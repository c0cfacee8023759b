"""Resolve what a trial may use and write it down: the model's revision, each file's SHA-256, the base image's digest.

Usage (``make pin`` does the first)::

    python scripts/pin.py
    python scripts/pin.py --inventory playbooks/panda --host panda --revision main --image REGISTRY/NAME:TAG

    python scripts/pin.py --candidate playbooks/candidates/panda-nvfp4.yml

Repository and include patterns come from the inventory's ``trial_candidate``, the image from ``trial_base_image``
(the server image that the bench image is built on). Written is ``group_vars/trial_hosts/pins.yml`` of that inventory;
for a candidate in a file of its own, ``NAME.pins.yml`` beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def variables(inventory: Path, host: str) -> dict[str, Any]:
    """Return what the inventory says about a host."""
    command = ["ansible-inventory", "--inventory", str(inventory), "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"pin: {inventory} has no host {host}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def main() -> int:
    """Hand the inventory's candidate to ``trialbench pin``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inventory", type=Path, default=ROOT / "playbooks" / "panda")
    parser.add_argument("--host", default="panda")
    parser.add_argument("--revision", default="main", help="branch, tag or commit to pin")
    parser.add_argument("--image", help="default: the inventory's trial_base_image")
    parser.add_argument("--candidate", type=Path, help="a file of variables with another trial_candidate")
    options = parser.parse_args()

    known = variables(options.inventory, options.host)
    out = options.inventory / "group_vars" / "trial_hosts" / "pins.yml"
    if options.candidate:
        known.update(yaml.safe_load(options.candidate.read_text(encoding="utf-8")))
        out = options.candidate.with_suffix(".pins.yml")
    candidate = known.get("trial_candidate", {})
    if not candidate.get("repo") or not candidate.get("include"):
        raise SystemExit(f"pin: expected trial_candidate.repo and .include in {options.inventory}")
    image = options.image or known.get("trial_base_image")
    command = ["trialbench", "pin", "--repo", candidate["repo"], "--revision", options.revision, "--out", str(out)]
    for pattern in candidate["include"]:
        command += ["--include", pattern]
    if image:
        command += ["--image", image]
    else:
        print("pin: no image named (--image or trial_base_image): its digest stays empty", file=sys.stderr)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
