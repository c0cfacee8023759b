"""Runs side by side. A play on several hosts prints it at its end; `--html` writes it as a page."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trialbench.errors import TrialbenchError
from trialbench.measure.summary import Request, SegmentSummary
from trialbench.report.comparison import Comparison, finding_noisy
from trialbench.report.decide import older
from trialbench.report.plan import Workload
from trialbench.report.restore import second_tries
from trialbench.report.run import read_run
from trialbench.report.summary import Summary, summarize_run
from trialbench.show.terminal import line
from trialbench.show.text import GIGABYTE_IS, apart, columns, counted, number, ratio_text, wrap
from trialbench.stats import Quantile

_HOST, _MOST = 40, 2000


@dataclass
class Row:
    """One run: texts of the columns; `windows` has the seconds by impact, `remarks` what must be known beside them.

    `p50` are the medians of candidate and baseline, in ms, `latency` is the comparison of latencies; both
    for charts, and empty where nothing was measured. `path` is None for a host that has no results. `decider` names
    the workload that decides, a file of the user's own with its hash; empty where nothing was to be measured. `asked`
    has the hashes of what it asked the candidate: body, prompt, image.
    """

    host: str
    outcome: str = "-"
    verdict: str = "-"
    candidate: str = "-"
    baseline: str = "-"
    restored_by: str = "-"
    model: str = "-"
    date: str = "-"
    adherence: str = "-"
    memory: str = "-"
    decider: str = ""
    asked: Request | None = None
    path: Path | None = None
    windows: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    p50: tuple[Quantile | None, Quantile | None] = (None, None)
    latency: Comparison | None = None

    @property
    def ratio(self) -> str:
        """Candidate over baseline with its 95 % interval, such as `1.90 [1.71, 2.15]`."""
        found = self.latency
        return ratio_text(found.ratio, found.low, found.high) if found else "-"

    @property
    def finding(self) -> str:
        """Whether that is a difference, and which: `22 % slower`, `not shown`, `not comparable`."""
        return finding_noisy(self.latency) if self.latency else "-"


def run_rows(paths: Sequence[Path], without: Sequence[tuple[str, str]] = ()) -> list[Row]:
    """A row for each run, and for each host that has none.

    Args:
        paths: result folders; one that can't be read is a row that says so.
        without: hosts that have no folder, each with the reason.
    """
    rows = [run_row(path) for path in paths]
    rows += [Row(host, outcome="no results", remarks=[why]) for host, why in without]
    hosts = Counter(row.host for row in rows)
    counted: Counter[str] = Counter()
    for row in rows:
        if hosts[row.host] > 1:
            # Number the runs of one host, so that remarks can name them.
            counted[row.host] += 1
            row.host = f"{row.host} #{counted[row.host]}"
    return rows


def impacts(rows: Sequence[Row]) -> list[str]:
    """Everything users lost in any of the runs."""
    return list(dict.fromkeys(impact for row in rows for impact in row.windows))


def hosts(rows: Sequence[Row]) -> list[str]:
    """The name of each row, short, and different where the rows' hosts differ."""
    return apart([line(row.host, _MOST) for row in rows], _HOST)


def differences(rows: Sequence[Row]) -> list[str]:
    """What keeps rows from being compared, a sentence each."""
    named = list(zip(hosts(rows), rows, strict=True))
    deciders = _grouped((row.decider, host) for host, row in named)
    if len(deciders) > 1:
        said = f"Different workloads decide: {_listed(deciders)}."
        return [f"{said} Milliseconds, adherence and verdicts of these runs do not compare."]
    asked = [(host, row.asked) for host, row in named if row.asked]
    requests = _grouped(((one.body_sha256 or "")[:12], host) for host, one in asked)
    if len(requests) < 2:
        return []
    parts = {"prompt": {one.prompt_sha256 for _host, one in asked}, "image": {one.image_sha256 for _host, one in asked}}
    what = " and ".join(name for name, found in parts.items() if len(found) > 1) or "settings"
    said = f"Different requests ({what}), by SHA-256: {_listed(requests)}."
    return [f"{said} Milliseconds and adherence of these runs were measured on different inputs."]


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The second of each pair by the first; pairs without a first are left out."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        if key:
            found.setdefault(key, []).append(value)
    return found


def _listed(found: dict[str, list[str]]) -> str:
    return "; ".join(f"{name} in {line(', '.join(those), _MOST)}" for name, those in found.items())


def compare_table(paths: Sequence[Path], without: Sequence[tuple[str, str]] = ()) -> str:
    """Several runs for people, in the order given; arguments as for `run_rows`."""
    rows = run_rows(paths, without)
    named = list(zip(hosts(rows), rows, strict=True))
    lost = impacts(rows)
    head = ["host", "outcome", "verdict", "p50 ms", "baseline", *(f"{name} s" for name in lost), "restored by"]
    table = [
        [host, row.outcome, row.verdict, row.candidate, row.baseline]
        + [row.windows.get(name, "-") for name in lost]
        + [row.restored_by]
        for host, row in named
    ]
    parts = [columns([head, *table])]
    measured = [
        [host, line(row.model, _MOST), row.date[:10], row.ratio, row.finding, row.adherence, row.memory]
        for host, row in named
        if row.candidate != "-"
    ]
    if measured:
        more = ["host", "candidate", "date", "B/A p50 [95 %]", "difference", "adherent", "GB"]
        parts += [columns([more, *measured]), GIGABYTE_IS]
    remarks = [f"{host}: {text[:_MOST]}".replace("\n", " ") for host, row in named for text in row.remarks]
    return "\n".join([*parts, *map(wrap, [*differences(rows), *remarks])])


def run_row(path: Path) -> Row:
    """The row of one result folder."""
    try:
        run = read_run(path)
        summary = summarize_run(run)
    except TrialbenchError as error:
        return Row(path.name, outcome="no results", remarks=[str(error)])
    failure, work = summary.failure, run.plan.decider
    candidate, baseline = summary.segments.get(work.candidate), summary.segments.get(work.a1)
    latency = next((one for one in summary.comparisons if one.metric == "latency_ms"), None)
    row = Row(
        host=run.plan.host or path.name,
        outcome=summary.outcome.replace("_", " "),
        verdict=run.verdict.verdict.replace("_", " ") if run.verdict else "-",
        # The two that the ratio is of, where there is one: the baseline is then A1 and A2 together.
        candidate=number(latency.candidate) if latency else _p50(candidate),
        baseline=number(latency.baseline) if latency else _p50(baseline),
        model=summary.model_label or "-",
        date=run.began[:16].replace("T", " ") if run.journal else "-",
        adherence=_adherence(candidate),
        memory=_memory(summary),
        decider=_decider(work) if run.plan.document and not run.rehearsal else "",
        path=path,
        windows={impact: number(window.total_s) for impact, window in summary.windows.items()},
        p50=(candidate.latency_ms.p50 if candidate else None, baseline.latency_ms.p50 if baseline else None),
        latency=latency,
        asked=candidate.request if candidate and run.plan.document and not run.rehearsal else None,
        remarks=[*older(run, summary), *_caveats(summary)],
    )
    row.windows |= {entry.impact: "still" for entry in summary.still_down}
    restored = run.events("restored")
    if restored:
        row.restored_by = restored[-1].restored_by or "-"
    elif summary.outcome == "open":
        row.restored_by = "not yet"
    if failure:
        row.remarks.append(str(failure))
    if restored:
        row.remarks += [f"NOT BACK AT THE FIRST TRY: {words}" for words in second_tries(run)]
    if summary.restore_failure:
        row.remarks.append(f"restore: {summary.restore_failure}")
    return row


def _decider(work: Workload) -> str:
    if work.text is None:
        return work.name
    return f"{work.name} (its own file, SHA-256 {hashlib.sha256(work.text.encode()).hexdigest()[:12]})"


def _p50(segment: SegmentSummary | None) -> str:
    return number(segment.latency_ms.p50.value) if segment else "-"


def _adherence(segment: SegmentSummary | None) -> str:
    found = segment.adherence if segment else None
    return f"{found.k}/{found.n}, {counted(found.questions, 'question')}" if found else "-"


def _memory(summary: Summary) -> str:
    peak = summary.vram.peak_footprint_gb
    return "-" if peak is None else f"{peak:.2f}"


def _caveats(summary: Summary) -> list[str]:
    """Caveats of a run's numbers."""
    noisy = [one.metric for one in summary.comparisons if one.noisy]
    left_out = next((one.left_out for one in summary.comparisons if one.left_out), "")
    return [
        *(f"TAINTED {text}" for text in summary.taints),
        *(f"PARTIAL {text}" for text in summary.partial),
        *([f"NOISY: A1 and A2 differ by more than 5 % in {', '.join(noisy)}"] if noisy else []),
        *([f"the medians leave out {left_out}"] if left_out else []),
    ]
