"""trialbench: measures a language model where it would run, and gives a verdict."""

from __future__ import annotations

__version__ = "0.1.0"
