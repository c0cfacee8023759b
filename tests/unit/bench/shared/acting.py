"""What may not reach a reader: an oracle of its own beside `show.terminal.screen`."""

from __future__ import annotations

import unicodedata

# ALM, LRM, RLM, the embeddings and overrides, the isolates.
DIRECTION = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def acting(text: str) -> list[str]:
    """The characters of `text` that act instead of being read; line ends don't count."""
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return [one for one in text if one != "\n" and (unicodedata.category(one) in kinds or ord(one) in DIRECTION)]
