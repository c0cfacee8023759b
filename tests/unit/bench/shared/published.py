"""The published schemas as an independent validator reads them, each compiled once.

``jsonschema.validate`` checks the schema itself before each document, which costs fifty times what the document does.
That the schemas are valid ones is a test of its own (``test_schemas.py``).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from trialbench import schemas


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """What jsonschema makes of the schema of that name."""
    return jsonschema.Draft202012Validator(schemas.load(name))


def accept(document: Any, name: str) -> None:
    """Raise what is wrong with a document."""
    validator(name).validate(document)
