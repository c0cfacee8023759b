"""Types of command-line options that several verbs share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError, ArgumentTypeError: it is none; argparse says so.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {number}")
    return number
