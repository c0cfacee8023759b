"""Progress: a bar on a terminal where rich is installed, plain lines anywhere else."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any, TextIO

from trialbench.measure.sample import Sample
from trialbench.measure.segments import Progress
from trialbench.show.terminal import say, screen
from trialbench.show.text import number

_EVERY_S = 2.0


class _Counter:
    """Counts what both kinds of progress show."""

    def start(self, segment: str, total: int) -> None:
        """A segment begins, or goes on to a new total."""
        if segment != getattr(self, "segment", None):
            self.segment = segment
            self.done = self.failed = 0
            self.latencies: list[float] = []
        self.total = total

    def sample(self, sample: Sample) -> None:
        """Count a sample and show it."""
        self.done += 1
        self.failed += not sample.ok
        if sample.ok and sample.latency_ms is not None:
            self.latencies.append(sample.latency_ms)

    def text(self) -> str:
        """The text after `done/total`: failures and median so far."""
        middle = f", p50 {number(statistics.median(self.latencies))} ms" if self.latencies else ""
        return f"sent, {self.failed} failed{middle}" if self.failed else f"sent, all ok{middle}"


class PlainProgress(_Counter, Progress):
    """A line every two seconds, at each segment's end, and for each note."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._told_s = 0.0

    def start(self, segment: str, total: int) -> None:
        """A segment begins, or goes on to a new total."""
        super().start(segment, total)
        self._told_s = time.monotonic()

    def sample(self, sample: Sample) -> None:
        """Count a sample and show it."""
        super().sample(sample)
        now_s = time.monotonic()
        if self.done == self.total or now_s - self._told_s >= _EVERY_S:
            self._told_s = now_s
            self.note(f"{self.segment}: {self.done}/{self.total} {self.text()}")

    def note(self, text: str) -> None:
        """Show a line."""
        say(text, self._stream)

    def close(self) -> None:
        """Nothing to do: lines are complete."""


class RichProgress(_Counter, Progress):
    """One bar per segment."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self._bars.start()
        self._tasks: dict[str, Any] = {}

    def start(self, segment: str, total: int) -> None:
        """A segment begins, or goes on to a new total."""
        super().start(segment, total)
        if segment in self._tasks:
            self._bars.update(self._tasks[segment], total=total)
        else:
            self._tasks[segment] = self._bars.add_task(segment, total=total, text="")

    def sample(self, sample: Sample) -> None:
        """Count a sample and show it."""
        super().sample(sample)
        self._bars.update(self._tasks[self.segment], advance=1, text=self.text())

    def note(self, text: str) -> None:
        """Show a line."""
        self._bars.console.print(screen(text), markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()


def make_progress(stream: TextIO | None = None) -> Progress:
    """Bars if standard error is a terminal and rich is installed, else lines to `stream` (default: standard error)."""
    if stream is None and sys.stderr.isatty():
        try:
            return RichProgress()
        except ImportError:
            pass  # rich is not in the bench image
    return PlainProgress(stream)
