# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of messages: which of them act on a screen, and how they are counted."""

from __future__ import annotations

import re

# What acts instead of being read: controls but tab and line end, separators of lines and paragraphs, marks of
# direction, lone surrogates. All else is people's text: spaces of every width, joiners, emoji.
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(count: int, what: str, plural: str = "") -> str:
    """``1 channel``, ``2 channels``; ``what`` is the singular, ``plural`` is given where it needs more than an s."""
    return f"{count} {what if count == 1 else plural or what + 's'}"
