"""A key that can't stand in a header is refused before a library meets it, and quotes it in its error."""

from __future__ import annotations

import pytest
from trialbench.cli import main
from trialbench.engines.credentials import environment_key
from trialbench.errors import UsageError


def test_the_line_end_that_a_file_gives_it_is_not_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIALBENCH_API_KEY", raising=False)
    assert environment_key() is None
    monkeypatch.setenv("TRIALBENCH_API_KEY", " \n")
    assert environment_key() is None
    monkeypatch.setenv("TRIALBENCH_API_KEY", "s3cret\r\n")
    assert environment_key() == "s3cret"


@pytest.mark.parametrize("key", ["s3cret\nX-More: 1", "s3cret two", "s3cretü", "s" * 5000])
def test_no_key_and_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str) -> None:
    monkeypatch.setenv("TRIALBENCH_API_KEY", key)
    with pytest.raises(UsageError, match="TRIALBENCH_API_KEY: expected one key"):
        environment_key()
    assert main(["oneshot", "--engine", "llama-server", "--url", "http://127.0.0.1:9", "hi"]) == 2
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err
