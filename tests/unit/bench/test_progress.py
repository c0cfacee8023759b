"""Progress: bars where they can be, lines elsewhere, never a line per sample."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import pytest
from trialbench.measure import progress
from trialbench.measure.client import Reply
from trialbench.measure.sample import Sample, judge
from trialbench.workloads import Workload


@pytest.fixture
def sample(nav: Workload) -> Sample:
    reply = Reply(1.0, latency_ms=20.0, content="left large", finish_reason="stop")
    return judge(reply, 1, nav, cache_prompt=False, wall="2026-01-01T00:00:00.000Z")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_now_and_then_and_at_the_end(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("trialbench.measure.progress.time.monotonic", lambda: now_s[0])
    stream = io.StringIO()
    plain = progress.PlainProgress(stream)
    plain.start("nav", 4)
    plain.sample(sample)
    now_s[0] += 3
    plain.sample(replace(sample, ok=False))
    plain.sample(sample)
    plain.sample(sample)
    plain.note("gate passed")
    plain.close()
    assert stream.getvalue().splitlines() == [
        "nav: 2/4 sent, 1 failed, p50 20.0 ms",
        "nav: 4/4 sent, 1 failed, p50 20.0 ms",
        "gate passed",
    ]


def test_an_extended_segment_goes_on_counting(sample: Sample) -> None:
    stream = io.StringIO()
    plain = progress.PlainProgress(stream)
    plain.start("nav", 1)
    plain.sample(sample)
    plain.start("nav", 2)
    plain.sample(sample)
    plain.start("describe", 1)
    plain.sample(replace(sample, ok=False))
    lines = stream.getvalue().splitlines()
    assert lines[1:] == ["nav: 2/2 sent, all ok, p50 20.0 ms", "describe: 1/1 sent, 1 failed"]


def test_bars(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars: Any = progress.make_progress()
    assert isinstance(bars, progress.RichProgress)
    bars.start("nav", 1)
    bars.sample(sample)
    bars.start("nav", 2)
    bars.sample(sample)
    bars.note("[not markup]")
    bars.close()
    assert "2/2" in terminal.getvalue()
    assert "[not markup]" in terminal.getvalue()


def test_lines_where_rich_is_missing_or_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress.make_progress(sys.stdout), progress.PlainProgress)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress.make_progress(), progress.PlainProgress)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(progress.make_progress(), progress.PlainProgress)
