"""The schema of Jenkins' xUnit plugin takes a run's JUnit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def schema(readers: Path) -> Any:
    sys.path.insert(0, str(readers / "site"))
    import xmlschema

    return xmlschema.XMLSchema(str(readers / "junit-10.xsd"))


def test_jenkins_schema_has_no_complaint(exported: list[Path], schema: Any) -> None:
    for run in exported:
        found = [str(error.reason) for error in schema.iter_errors(str(run / "exports" / "junit.xml"))]
        assert found == [], run.name


def test_the_schema_refuses_what_was_wrong_before(exported: list[Path], schema: Any, tmp_path: Path) -> None:
    """Or its silence would say nothing."""
    text = (exported[0] / "exports" / "junit.xml").read_text(encoding="utf-8")
    (tmp_path / "junit.xml").write_text(text.replace("<testsuites ", '<testsuites skipped="0" ', 1), encoding="utf-8")
    assert [str(error.reason) for error in schema.iter_errors(str(tmp_path / "junit.xml"))] != []
