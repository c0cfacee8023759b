"""Build the bench image that a host of an inventory needs.

Usage (``make image HOST=panda`` does it)::

    python scripts/image.py --inventory playbooks/panda --host panda

The base comes from the inventory's ``trial_base_image`` with the digest in ``trial_pins``; what was built is written
to ``build/bench-image-HOST.json``, which the inventory names as ``trial_image_file``. So an image for another host is
never taken by mistake.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pin import ROOT, variables


def main() -> int:
    """Hand base and output to ``images/bench/build.py``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inventory", type=Path, required=True)
    parser.add_argument("--host", required=True)
    options = parser.parse_args()
    known = variables(options.inventory, options.host)
    name, digest = known.get("trial_base_image", ""), known.get("trial_pins", {}).get("image_digest", "")
    if not name or not digest:
        raise SystemExit(
            f"image: expected trial_base_image and trial_pins.image_digest in {options.inventory}, "
            f"found {name or 'no image'} and {digest or 'no digest'}. `make pin` writes the digest."
        )
    # The digest stands for the tag: NAME:TAG@DIGEST is NAME@DIGEST.
    repository = name.rsplit(":", 1)[0] if ":" in name.rsplit("/", 1)[-1] else name
    out = ROOT / "build" / f"bench-image-{options.host}.json"
    build = ROOT / "images" / "bench" / "build.py"
    base = f"{repository}@{digest}"
    return subprocess.run([sys.executable, str(build), "--base", base, "--out", str(out)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
