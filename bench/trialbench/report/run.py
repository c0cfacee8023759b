"""Reads a run's folder, complete or not: a trial that failed early leaves few files and is reported too.

This is the one place where its files are read and checked; all the others get a `Run`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import read_json, read_json_lines
from trialbench.measure.sample import Sample
from trialbench.measure.summary import Request, SegmentFacts, SegmentSummary, Watched, summarize
from trialbench.report.journal import Check, Event, read_checks, read_event
from trialbench.report.plan import Named, Plan, Side, read_plan
from trialbench.report.proofs import MAX_BYTES, MAX_FILES, Proof, contradiction, in_order, read_proof
from trialbench.stats import Agreement
from trialbench.verdict import AdherenceRule, AttestedFile, GroundTruth, Judgment, Review, Reviewed, Verdict

_NO_PLAN = Plan()
# What every run showed before plans had a list of workloads; its judgment has a place of its own in verdict.json.
DESCRIBE = "describe"


@dataclass(frozen=True)
class Segment:
    """One segment of a session: a workload sent to one server, request after request.

    Attributes:
        samples, warmups: in the order they were sent; those that are void are left out.
        summary: their numbers, recomputed.
        void, void_warmups: samples that do not count, because another party may have answered.
        void_why: what was seen.
        side: who answered; None where the segment's name does not say.
    """

    name: str
    samples: tuple[Sample, ...]
    warmups: tuple[Sample, ...]
    summary: SegmentSummary
    void: tuple[Sample, ...] = ()
    void_warmups: tuple[Sample, ...] = ()
    void_why: str = ""
    side: Side | None = None


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of the card; `mib` is None where the driver does not report it."""

    pid: int | None
    mib: float | None
    command: str


@dataclass(frozen=True)
class Reading:
    """Card and host at one moment, a line of `vram.jsonl`. None: not known.

    Attributes:
        t_s: CLOCK_MONOTONIC seconds of the host.
        phase: of the trial, such as `measure`.
        energy_j: the card's counter since its driver was loaded.
        load1: the host's load average of a minute.
        throttle: why clocks are not higher, by name; empty if nothing holds them down.
        missing: key to the reason that it is not known, where that changed.
        recorded: the keys that the line has at all; older host programs record fewer.
    """

    t_s: float
    used_mib: float | None = None
    total_mib: float | None = None
    phase: str | None = None
    sm_mhz: float | None = None
    mem_mhz: float | None = None
    power_w: float | None = None
    temp_c: float | None = None
    util_percent: float | None = None
    mem_util_percent: float | None = None
    energy_j: float | None = None
    load1: float | None = None
    cpu_percent: float | None = None
    throttle: Sequence[str] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    holders: tuple[Holder, ...] = ()
    recorded: frozenset[str] = frozenset()

    def value(self, key: str) -> float | None:
        """The number called `key`."""
        found: float | None = getattr(self, key)
        return found


@dataclass(frozen=True)
class Decided:
    """The verdict of a run as `verdict.json` has it, with those of its inputs that hold until they are replaced.

    `judged` has a person's judgments by workload, `review` what a blind review found, `n` and `adherent` the replies
    that it rests on.
    """

    verdict: Verdict
    reasons: Sequence[str]
    judged: Mapping[str, Judgment]
    ground_truth: GroundTruth
    adherence_rule: AdherenceRule
    adherence_percent: int
    n: int
    adherent: int
    review: Review | None = None


@dataclass(frozen=True)
class Attestation:
    """What ground truth says about the candidate's files; `required`: the trial may start only with a good one."""

    required: bool
    files: tuple[AttestedFile, ...]


@dataclass(frozen=True)
class Run:
    """A run, as its folder tells it. What is missing is None or empty.

    Attributes:
        readings: the series of card and host, in the order written.
        segments: by name, in the order of their files.
        warmed_up: segments that have warm-ups and no file of samples.
        calibration: the document `samples/calibration.json`.
        snapshot: the document `snapshot.json`, unchecked: the host before the run.
        pictures: of the scenes of the workload that decides, by scene; they may be missing.
        logs: file names.
        notes: the clients' closing remarks, without repeats.
        verification: the checks made from outside after the run.
        attestation: what ground truth says about the candidate's files.
        proofs: what was proved of engines, in the order they are shown.
        bad_lines, unread: what could not be used.
    """

    path: Path
    plan: Plan = field(default_factory=Plan)
    journal: Sequence[Event] = ()
    readings: Sequence[Reading] = ()
    segments: Mapping[str, Segment] = field(default_factory=dict)
    warmed_up: Mapping[str, Segment] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    logs: Sequence[str] = ()
    notes: Sequence[str] = ()
    verification: tuple[Check, ...] | None = None
    verdict: Decided | None = None
    attestation: Attestation | None = None
    proofs: Sequence[Proof] = ()
    bad_lines: int = 0
    unread: Sequence[str] = ()

    @property
    def id(self) -> str:
        """The run's id."""
        named = self.plan.run or next((event.run for event in self.journal if event.run), None)
        return str(named or self.path.resolve().name)

    @property
    def rehearsal(self) -> bool:
        """Whether this is a rehearsal: tenants are stopped and restored, no candidate is tried, nothing is measured."""
        return self.plan.rehearsal

    @property
    def judged(self) -> dict[str, Judgment | None]:
        """The judgment of every workload that is shown; None where there is none yet."""
        said = self.verdict.judged if self.verdict else {}
        return {work.name: said.get(work.name) for work in self.plan.shown}

    @property
    def unreviewed(self) -> bool:
        """Whether replies that are shown wait for a judgment on the page of the blind review."""
        tried = self.verdict.review.workloads if self.verdict and self.verdict.review else {}
        waiting = [work for work in self.plan.shown if self.judged[work.name] is None and self.samples(work.candidate)]
        return any(work.name not in tried or tried[work.name].left for work in waiting)

    @property
    def began(self) -> str:
        """The wall clock of the first event, ISO 8601 in UTC; empty without a journal."""
        return self.journal[0].wall if self.journal else ""

    def events(self, name: str) -> list[Event]:
        """All events of that name, oldest first."""
        return [event for event in self.journal if event.event == name]

    def checks(self) -> tuple[Sequence[Check], str | None] | None:
        """The checks that closed the run; without them the newest that the host made itself, with their wall clock.

        None where no checks were made.
        """
        if self.verification is not None:
            return self.verification, None
        made = [event for event in self.events("checks") if event.checks is not None]
        return (made[-1].checks or (), made[-1].wall) if made else None

    def samples(self, name: str) -> tuple[Sample, ...]:
        """The samples of a segment; none where it was not measured."""
        return self.segments[name].samples if name in self.segments else ()

    def model(self, side: Side | None) -> str | None:
        """The name of the model that answers on that side; what no name calls the baseline's is the candidate's."""
        return self.plan.baseline_label if side == "baseline" else self.plan.candidate_label

    def answered_by(self, side: Side) -> list[Segment]:
        """The segments in which that side answered, in the order they were measured."""
        return [one for one in self.in_order() if one.side == side]

    def in_order(self) -> list[Segment]:
        """The segments in the order they were measured."""

        def began_s(one: Segment) -> float:
            return next((sample.t_start_s for sample in (*one.samples, *one.void)), 0.0)

        return sorted(self.segments.values(), key=began_s)


def read_run(path: Path) -> Run:
    """Read the result folder `path`; content that does not fit its schema is recorded and skipped.

    The files were written on another machine, partly from a model's replies, perhaps while a disk was filling up, so no
    bad file may hide the rest.

    Raises:
        UsageError: there is no such folder, or nothing of a run in it.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: expected a result folder, found nothing there")
    folder = _Folder(path)
    plan = read_plan(folder.document("plan.json", "plan") or {})
    verification = folder.document("verification.json", "verification")
    verdict = folder.document("verdict.json", "verdict")
    attestation = folder.document("attestation.json", "attestation")
    proofs = folder.proofs()
    journal = folder.lines(path / "journal.jsonl", read_event)
    readings = folder.lines(path / "vram.jsonl", read_reading)
    samples = {file.stem: tuple(folder.lines(file, read_sample)) for file in sorted((path / "samples").glob("*.jsonl"))}
    sessions = [
        folder.document(f"samples/{file.name}", "summary") or {}
        for file in sorted((path / "samples").glob("summary-*.json"))
    ]
    if not journal and not any(not name.endswith(_WARMUP) for name in samples):
        raise UsageError(f"{path}: expected journal.jsonl or samples/*.jsonl of a run, found neither")
    doubts = _doubts(journal)
    asked = {name: facts for one in sessions for name, facts in one.get("segments", {}).items()}
    warmups = {name.removesuffix(_WARMUP): lines for name, lines in samples.items() if name.endswith(_WARMUP)}

    def segment(name: str, lines: Sequence[Sample]) -> Segment:
        return make_segment(name, lines, warmups.get(name, ()), _facts(asked.get(name)), plan, doubts.get(name))

    return Run(
        path=path,
        plan=plan,
        journal=journal,
        readings=readings,
        segments={name: segment(name, lines) for name, lines in samples.items() if not name.endswith(_WARMUP)},
        warmed_up={name: segment(name, ()) for name in warmups if name not in samples},
        calibration=folder.document("samples/calibration.json", "calibration"),
        snapshot=folder.snapshot(),
        pictures=folder.pictures(),
        logs=sorted(file.name for file in (path / "logs").glob("*") if file.is_file()),
        notes=list(dict.fromkeys(note for one in sessions for note in one.get("notes", []))),
        verification=None if verification is None else read_checks(verification["checks"]),
        verdict=None if verdict is None else _decided(verdict),
        attestation=None if attestation is None else _attestation(attestation),
        proofs=proofs,
        bad_lines=folder.bad_lines,
        unread=folder.unread,
    )


@dataclass(frozen=True)
class Doubt:
    """Samples that ended after `since_s` do not count; CLOCK_MONOTONIC seconds of the host."""

    since_s: float
    why: str

    def split(self, samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """Those that count, and those that do not."""
        good = tuple(sample for sample in samples if sample.t_end_s <= self.since_s)
        return good, tuple(sample for sample in samples if sample.t_end_s > self.since_s)


def _doubts(journal: Sequence[Event]) -> dict[str, Doubt]:
    """The earliest doubt of each segment."""
    found: dict[str, Doubt] = {}
    for event in journal:
        if event.event != "samples_void" or event.since_s is None:
            continue
        for name in event.segments:
            if name not in found or event.since_s < found[name].since_s:
                found[name] = Doubt(event.since_s, str(event.reason or "without a reason"))
    return found


_WARMUP = "-warmup"
# What verdicts of older clients say about questions that were not asked.
_UNCOUNTED = re.compile(r"\A(adherence \d+/\d+) \(at least \d+ %: .*\)\Z")
_Line = TypeVar("_Line")


class _Folder:
    """The files of a run, read one after another; counts and names what can't be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bad_lines = 0
        self.unread: list[str] = []

    def document(self, name: str, schema: str) -> dict[str, Any] | None:
        """The JSON file `name`; None where it is missing or does not fit."""
        path = self._path / name
        if not path.exists():
            return None
        try:
            value: dict[str, Any] = read_json(path)
            trouble = next(iter(schemas.validate(value, schema)), None)
        except UsageError as error:
            self.unread.append(str(error).replace(str(path), name))
            return None
        if trouble:
            self.unread.append(f"{name}: {trouble}")
            return None
        return value

    def lines(self, path: Path, read: Callable[[dict[str, Any]], _Line | None]) -> list[_Line]:
        """The lines that `read` accepts."""
        lines, bad = read_json_lines(path)
        found = [one for one in map(read, lines) if one is not None]
        self.bad_lines += bad + len(lines) - len(found)
        return found

    def snapshot(self) -> dict[str, Any]:
        """The snapshot; nothing else depends on it, so one that can't be used is as good as none."""
        try:
            found = read_json(self._path / "snapshot.json")
        except UsageError:
            return {}
        return found if isinstance(found, dict) else {}

    def pictures(self) -> dict[str, Path]:
        """The pictures of the scenes, by scene: the host names them, and no name may lead out of their folder."""
        found: Any = self.document("inputs/scenes.json", "scenes") or []
        named = {str(one["id"]): PurePosixPath(one["image"]) for one in found if one.get("image")}
        folder = self._path / "inputs" / "scenes"
        return {
            scene: folder / image.name
            for scene, image in named.items()
            if image.parts == ("scenes", image.name) and image.name != ".." and not folder.is_symlink()
        }

    def proofs(self) -> list[Proof]:
        """The proofs whose verdicts match their numbers, in the order they are shown."""
        found = []
        files = sorted((self._path / "proofs").glob("*.json"))
        for file in files[:MAX_FILES]:
            name = f"proofs/{file.name}"
            if file.stat().st_size > MAX_BYTES:
                self.unread.append(f"{name}: is larger than any proof ({MAX_BYTES} bytes)")
                continue
            document = self.document(name, "proof")
            if document is None:
                continue
            wrong = contradiction(document)
            if wrong:
                self.unread.append(f"{name}: {wrong}")
            else:
                found.append(read_proof(file.name, document))
        if len(files) > MAX_FILES:
            self.unread.append(f"proofs: {len(files) - MAX_FILES} more files than {MAX_FILES}")
        return in_order(found)


_NEVER_NEGATIVE = ("server_ms", "prompt_n", "cache_n", "completion_tokens")


def read_sample(line: Mapping[str, Any]) -> Sample | None:
    """The sample of a line; None for one that does not fit the schema, or is ok and has no latency."""
    if schemas.validate(line, "sample") or (line["ok"] and line["latency_ms"] is None):
        return None
    # No time and no count is negative: a server that says so knows neither.
    unknown = {name: None for name in _NEVER_NEGATIVE if (line[name] or 0) < 0}
    return Sample(**{**line, **unknown})


def read_reading(line: Mapping[str, Any]) -> Reading | None:
    """The reading of a line of `vram.jsonl`; None for one that does not fit the schema."""
    if schemas.validate(line, "vram"):
        return None
    plain = Reading.__dataclass_fields__.keys() - {"holders", "recorded"}
    return Reading(
        **{name: value for name, value in line.items() if name in plain},
        holders=tuple(
            Holder(one.get("pid"), one.get("mib"), str(one.get("command", ""))) for one in line.get("processes", ())
        ),
        recorded=frozenset(line),
    )


def make_segment(
    name: str,
    samples: Sequence[Sample],
    warmups: Sequence[Sample] = (),
    facts: SegmentFacts | None = None,
    plan: Plan = _NO_PLAN,
    doubt: Doubt | None = None,
) -> Segment:
    """The segment, with its numbers.

    Args:
        facts: what was requested; None, if that was never written: then from the segment's name.
        plan: which says what workload decides.
        doubt: from when on samples do not count; None: all do.
    """
    samples, void = doubt.split(samples) if doubt else (samples, ())
    warmups, void_warmups = doubt.split(warmups) if doubt else (warmups, ())
    named = Named.of(name)
    if facts is None:
        contract = named.work in (plan.decider.name, "smoke") or any(sample.strategy for sample in samples)
        facts = SegmentFacts(named.work, len(samples), contract, named.part == "cached", ended=False)
    numbers = summarize(samples, warmups, facts)
    why = doubt.why if doubt else ""
    return Segment(name, tuple(samples), tuple(warmups), numbers, void, void_warmups, why, named.side)


def _facts(asked: Mapping[str, Any] | None) -> SegmentFacts | None:
    """What was requested, from the session's own summary of a segment. Older clients do not write the last two."""
    if asked is None:
        return None
    request, watched = asked.get("request"), asked.get("neighbours")
    return SegmentFacts(
        workload=asked["workload"],
        requested=asked["requested"],
        contract=asked["adherence"] is not None,
        cache_prompt=asked["cache"]["asked"],
        stopped=asked["stopped"],
        request=request and Request(**_fields(Request, request)),
        neighbors=watched and Watched(**_fields(Watched, watched)),
    )


def _decided(document: Mapping[str, Any]) -> Decided:
    facts = document["facts"]
    said = {DESCRIBE: facts.get(DESCRIBE), **facts.get("judgments", {})}
    judged = {name: word for name, word in said.items() if word is not None}
    reasons = document["reasons"]
    if "questions" not in facts:
        # Questions were not counted then, and a hundred replies to one of them were taken for a proof.
        reasons = [_UNCOUNTED.sub(r"\1", reason) for reason in reasons]
    known = {"judged": judged, "n": facts["nav_n"], "reasons": reasons, "review": _review(facts.get("review"))}
    return Decided(**_fields(Decided, {**facts, **document, **known}))


def _review(document: Mapping[str, Any] | None) -> Review | None:
    if document is None:
        return None
    agreed = document["agreement"]
    return Review(
        document["id"],
        tuple(document["reviewers"]),
        {name: Reviewed(**one) for name, one in document["workloads"].items()},
        None if agreed is None else Agreement(**agreed),
    )


def _attestation(document: Mapping[str, Any]) -> Attestation:
    return Attestation(document["required"], tuple(AttestedFile(**file) for file in document["files"]))


def _fields(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in kind.__dataclass_fields__}
