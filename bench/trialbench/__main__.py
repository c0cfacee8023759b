"""`python -m trialbench` is the command `trialbench`."""

from __future__ import annotations

import sys

from trialbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
