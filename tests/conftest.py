"""Every suite of the checkout: the collection is importable by its real name, without being installed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `ansible_collections` is a namespace package: the checkout's own collections path is all it takes. ansible-test has a
# loader of its own and does not ship this file.
sys.path.insert(0, str(ROOT / "collection"))
