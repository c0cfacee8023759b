# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module page that makes a service speak, against real servers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgelab.model_trial.plugins.modules import speech_check


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_service_that_speaks(invoke: Any, server: Any, reply: Any, tone: Any, check_mode: bool) -> None:
    server.routes["/say"] = reply(tone())
    result = invoke(speech_check.main, {"url": f"{server.url}/say", "body": {"text": "x"}}, check_mode)
    assert not result["failed"]
    assert not result["changed"]
    assert (result["audio_s"], result["rate_hz"], result["size_bytes"]) == (1.0, 22_050, len(tone()))
    assert result["found"].startswith("WAV, 1.00 s")
    assert server.asked == [("POST", "/say", b'{"text": "x"}')]


def test_what_came_instead_is_said(invoke: Any, server: Any, reply: Any) -> None:
    server.routes["/say"] = reply(b"<html>sorry</html>")
    result = invoke(speech_check.main, {"url": f"{server.url}/say"})
    assert result["failed"]
    assert "expected a valid WAV of more than 5120 bytes" in result["msg"]
    assert "found an HTML page instead of audio" in result["msg"]
    assert server.asked[0][2] == b'{"text": "test one two"}'


@pytest.mark.parametrize(
    ("option", "given", "found"),
    [
        ("timeout_s", 0, "timeout_s: expected more than 0, found 0.0"),
        ("timeout_s", -1, "timeout_s: expected more than 0, found -1.0"),
        ("timeout_s", "nan", "timeout_s: expected a finite number, found nan"),
        ("timeout_s", "inf", "timeout_s: expected a finite number, found inf"),
        ("min_bytes", "-5", "min_bytes: expected 0 or more, found -5"),
    ],
)
def test_a_figure_that_can_not_be_meant_is_refused(invoke: Any, option: str, given: Any, found: str) -> None:
    result = invoke(speech_check.main, {"url": "http://127.0.0.1:9/", option: given})
    assert (result["failed"], result["msg"]) == (True, found)


def test_a_time_longer_than_a_sockets_is_no_fault(invoke: Any, server: Any, reply: Any, tone: Any) -> None:
    server.routes["/say"] = reply(tone())
    found = invoke(speech_check.main, {"url": f"{server.url}/say", "timeout_s": 1e14})
    assert not found["failed"], found


def test_the_limits_are_passed_on(invoke: Any, server: Any, reply: Any, tone: Any) -> None:
    server.routes["/say"] = reply(tone(), delay_s=5.0)
    assert "timed out" in invoke(speech_check.main, {"url": f"{server.url}/say", "timeout_s": 0.2})["msg"]
    server.routes["/say"] = reply(tone())
    limit = len(tone())
    assert "too small" in invoke(speech_check.main, {"url": f"{server.url}/say", "min_bytes": limit})["msg"]
