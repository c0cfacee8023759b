"""Pre-registered claims: expected findings with bounds, stated and locked before any result is seen.

A claim is a YAML file. `lock.jsonl` beside the claims is an append-only chain: each entry holds the hash of a claim
and of the entry before it, so that neither a claim nor the order of events can be changed without it showing. Locking
a changed claim again is an amendment; it is allowed, counted, and shown in every output.

A chain can be rewritten as a whole. So each work folder keeps, in `claims-seen.json`, what was claimed the first
time results were compared with it: a chain that no longer holds it was rewritten, and a claim that was locked or
amended after that was not made beforehand. Every output says so; each verdict holds the hash of each claim's entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.files import read_json, write_atomic, write_json
from trialbench.ground_truth.evidence.measures import compare_tokens
from trialbench.ground_truth.evidence.observe import Evidence, prompts_of
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.model.yaml_files import load
from trialbench.ground_truth.runtimes.base import Trouble
from trialbench.ground_truth.suites.results import Status

LOCK = "lock.jsonl"
SEEN = "claims-seen.json"
_START = "0" * 64


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: of its file.
        statement: in words.
        metric: `token-mismatches` (worst prompt), `agreement` (all positions), `kl-mean`, `kl-text` and
            `perplexity-ratio` (over the text), `tensor-error` (worst tensor).
        direction, bound: `at most` or `at least` this.
        models, quants: what it is about; no models means all of the roster.
        amendments: how often it was changed after it had been locked; None when it is not locked as it is.
        locked: when it was last locked, as it is or otherwise; empty when never.
        sha256: of its file.
        entry: hash of its last entry in the chain; empty when it is not locked as it is.
        afterthought: when results had been seen before it was locked as it is: what shows that, in words.
    """

    name: str
    statement: str
    metric: str
    direction: str
    bound: float
    models: tuple[str, ...]
    quants: tuple[str, ...]
    amendments: int | None
    locked: str
    sha256: str = ""
    entry: str = ""
    afterthought: str = ""

    @property
    def standing(self) -> str:
        """`locked 2026-11-21`, with its amendments, or that it is not locked; and what was seen before."""
        more = f", {self.afterthought}" if self.afterthought else ""
        if self.amendments is None:
            return f"NOT LOCKED{f' (CHANGED since {self.locked[:10]})' if self.locked else ''}{more}"
        if self.amendments:
            more = f", AMENDED {'once' if self.amendments == 1 else f'{self.amendments} times'}{more}"
        return f"locked {self.locked[:10]}{more}"


@dataclass(frozen=True)
class Judged:
    """A claim and what was found.

    Attributes:
        found: of the worst file.
        broken_by: model and quant of each file that is beyond the bound.
    """

    claim: Claim
    status: Status
    found: float | None
    says: str
    broken_by: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As published."""
        names = ("name", "statement", "metric", "direction", "bound", "standing", "amendments", "entry")
        return {
            **{name: getattr(self.claim, name) for name in names},
            "status": self.status.value,
            "found": self.found,
            "says": self.says,
            "broken_by": [{"model": model, "quant": quant} for model, quant in self.broken_by],
        }


def digest(path: Path) -> str:
    """SHA-256 of a claim's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_lock(folder: Path) -> list[dict[str, Any]]:
    """The chain, verified from its first entry.

    Raises:
        UsageError: an entry is not what the one after it says it was: the chain was edited.
    """
    path = folder / LOCK
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    before = _START
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            intact = entry["previous"] == before and entry["hash"] == _hash(entry)
            intact = intact and all(isinstance(entry[key], str) for key in ("claim", "sha256", "when"))
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:
            raise UsageError(
                f"{path}:{number}: the chain of claims is broken here: this entry, or the one before it, was changed. "
                "Restore the file from version control; a changed bound is an amendment (`trialbench claims --lock`)"
            )
        entries.append(entry)
        before = entry["hash"]
    return entries


def _hash(entry: dict[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def lock(folder: Path, *, now: datetime | None = None) -> list[str]:
    """Lock every claim that is new or changed; returns what was done, one line each."""
    entries = read_lock(folder)
    last = {entry["claim"]: entry["sha256"] for entry in entries}
    told = []
    for path in sorted(folder.glob("*.yml")):
        _read(path, entries)
        found = digest(path)
        if last.get(path.stem) == found:
            continue
        entry: dict[str, Any] = {
            "claim": path.stem,
            "sha256": found,
            "when": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
            "amendment": path.stem in last,
            "previous": entries[-1]["hash"] if entries else _START,
        }
        entry["hash"] = _hash(entry)
        entries.append(entry)
        told.append(f"{path.stem}: {'AMENDED' if entry['amendment'] else 'locked'}")
    if told:
        write_atomic(folder / LOCK, "".join(json.dumps(entry) + "\n" for entry in entries))
    return told


def read_claims(folder: Path | None) -> list[Claim]:
    """All claims of a folder, with their standing in the chain.

    Raises:
        UsageError: a claim does not fit its schema, a locked one is gone, or the chain was edited.
    """
    if folder is None or not folder.is_dir():
        return []
    entries = read_lock(folder)
    paths = sorted(folder.glob("*.yml"))
    gone = {entry["claim"] for entry in entries} - {path.stem for path in paths}
    if gone:
        raise UsageError(
            f"{folder}: {', '.join(sorted(gone))}: locked, but no longer there: a claim can't be withdrawn"
        )
    return [_read(path, entries) for path in paths]


def _read(path: Path, entries: Sequence[dict[str, Any]]) -> Claim:
    document = load(path, "claim", "claim")
    data = document.data
    mine = [entry for entry in entries if entry["claim"] == path.stem]
    current = bool(mine) and mine[-1]["sha256"] == digest(path)
    direction = "at most" if "at_most" in data else "at least"
    if ("at_most" in data) == ("at_least" in data):
        found = "both" if "at_most" in data else "none"
        raise UsageError(f"{document.at('at_least')}: expected either at_most or at_least, found {found}")
    return Claim(
        name=path.stem,
        statement=data["statement"],
        metric=data["metric"],
        direction=direction,
        bound=float(data["at_most" if "at_most" in data else "at_least"]),
        models=tuple(data.get("models", ())),
        quants=tuple(data["quants"]),
        # Counted here instead of trusting the entries, since their author can label them freely.
        amendments=len(mine) - 1 if current else None,
        locked=str(mine[-1]["when"]) if mine else "",
        sha256=digest(path),
        entry=str(mine[-1]["hash"]) if current else "",
    )


def beforehand(root: Path, folder: Path | None) -> list[Claim]:
    """The claims, before anything is asked.

    Args:
        root: the work folder, which remembers what was claimed when results were compared before.

    Raises:
        UsageError: as `read_claims`; or a claim that was locked then is gone, or the memory cannot be read.
    """
    claims = read_claims(folder)
    memory = _memory(root)
    for key, first in memory.items():
        place, _, name = key.rpartition("/")
        if place == str(folder) and first["entry"] and name not in {claim.name for claim in claims}:
            raise UsageError(
                f"{folder}: {name}: results of {first['when'][:10]} were compared with it, and it is no longer there: "
                "a claim can't be withdrawn"
            )
    return claims


def _memory(root: Path) -> dict[str, dict[str, str]]:
    path = root / SEEN
    memory = read_json(path) if path.exists() else {}
    keys = ("when", "sha256", "entry")
    if not isinstance(memory, dict) or not all(
        isinstance(one, dict) and all(isinstance(one.get(key), str) for key in keys) for one in memory.values()
    ):
        raise UsageError(f"{path}: expected the claims that were seen here, found {memory!r:.60}; remove the file")
    return memory


def remember(root: Path, folder: Path | None, claims: Sequence[Claim], *, now: datetime | None = None) -> list[Claim]:
    """The claims, each with what an earlier comparison in this work folder knows of it; then they are remembered.

    Args:
        root: the work folder.
        folder: where the claims are; the memory is compared with its chain.

    Raises:
        UsageError: the memory cannot be read.
    """
    if folder is None or not claims:
        return list(claims)
    memory = _memory(root)
    known = {entry["hash"] for entry in read_lock(folder)}
    when = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    told = []
    for claim in claims:
        key = f"{folder}/{claim.name}"
        first = memory.setdefault(key, {"when": when, "sha256": claim.sha256, "entry": claim.entry})
        told.append(replace(claim, afterthought=_afterthought(claim, first, known)))
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / SEEN, memory)
    return told


def _afterthought(claim: Claim, first: dict[str, str], known: set[str]) -> str:
    """Why a claim is not as it was when results were first compared with it; nothing when it is."""
    day = first["when"][:10]
    if first["entry"] and first["entry"] not in known:
        return f"THE CHAIN WAS REWRITTEN after results of {day}"
    if first["sha256"] == claim.sha256 and first["entry"]:
        return ""
    if not first["entry"]:
        return f"locked AFTER results of {day} were seen" if claim.entry else ""
    return f"results of {day} were seen before" if claim.entry else ""


def judge_claims(claims: Sequence[Claim], evidence: Evidence, models: Sequence[Model]) -> list[Judged]:
    """Each claim against what was found; the worst file decides."""
    known = remember(evidence.workspace.root, evidence.roster.claims, claims)
    return [_judge(claim, evidence, models) for claim in known]


def _judge(claim: Claim, evidence: Evidence, models: Sequence[Model]) -> Judged:
    worst: float | None = None
    where, undecided = "", _strangers(claim, evidence)
    broken: list[tuple[str, str]] = []
    for model in models:
        if claim.models and model.slug not in claim.models:
            continue
        for quant in claim.quants:
            if quant not in model.wanted(evidence.runtime.identity.name):
                continue
            value = _measure(claim.metric, evidence, model, quant)
            if isinstance(value, str):
                undecided = undecided or f"{model.slug} {quant}: {value}"
                continue
            broken += [] if _holds(claim, value) else [(model.slug, quant)]
            worse = worst is None or (value > worst if claim.direction == "at most" else value < worst)
            if worse:
                worst, where = value, f"{model.slug} {quant}"
    if undecided and not broken:
        return Judged(claim, Status.INCONCLUSIVE, None, undecided)
    if worst is None:
        runtime = evidence.runtime.identity.name
        wanted = {quant for model in evidence.roster.models for quant in model.wanted(runtime)}
        if not wanted & set(claim.quants):
            says = f"it is about {', '.join(claim.quants)}, and the roster wants none of them of {runtime}"
            return Judged(claim, Status.NOT_APPLICABLE, None, says)
        return Judged(claim, Status.INCONCLUSIVE, None, "it applies to nothing that was checked")
    # One counter-example is enough, even if other values could not be measured.
    says = f"{worst:.4g} ({where}), claimed {claim.direction} {claim.bound:g}{undecided and f'; {undecided}'}"
    if claim.amendments is None:
        return Judged(claim, Status.INCONCLUSIVE, worst, f"{says}; not locked, so it was not stated beforehand")
    if "REWRITTEN" in claim.afterthought:
        return Judged(claim, Status.INCONCLUSIVE, worst, f"{says}; its chain was rewritten, so it proves nothing")
    return Judged(claim, Status.FAIL if broken else Status.PASS, worst, says, tuple(broken))


def _strangers(claim: Claim, evidence: Evidence) -> str:
    """Models that a claim names but the roster lacks: a typo would otherwise skip them silently."""
    unknown = [slug for slug in claim.models if slug not in {model.slug for model in evidence.roster.models}]
    return f"the roster has no model {', '.join(unknown)}" if unknown else ""


def _holds(claim: Claim, value: float) -> bool:
    return value <= claim.bound if claim.direction == "at most" else value >= claim.bound


def _measure(metric: str, evidence: Evidence, model: Model, quant: str) -> float | str:
    """The number a claim is about, or why there is none."""
    if metric == "token-mismatches":
        return _mismatches(evidence, model, quant)
    if metric in ("agreement", "kl-mean"):
        found = [evidence.fidelity(model, quant, prompt) for prompt in prompts_of(evidence.roster)]
        rows = [one for one in found if one is not None]
        if len(rows) < len(found):
            return "not all prompts could be scored"
        positions = sum(len(one.kl) for one in rows)
        if metric == "agreement":
            return 1 - sum(len(one.disagreements) for one in rows) / positions
        return sum(sum(one.kl) for one in rows) / positions
    if metric == "tensor-error":
        from trialbench.ground_truth.model.tensors import compare

        try:
            found_there = compare(evidence.artifact(model, quant).path, evidence.workspace.folder(model))
        except UsageError as error:
            return str(error)
        lost, worst = found_there.unpaired, found_there.worst
        if lost or worst is None:
            return f"not all tensors compare: {', '.join(lost[:3]) or 'there are none'}"
        return f"values of {worst.name} are not numbers" if worst.not_finite else worst.relative
    over = evidence.perplexity(model, quant)
    if over.trouble is not None:
        return over.trouble.text
    if metric == "kl-text":
        return "no reference" if over.kl_mean is None else over.kl_mean
    base = evidence.perplexity(model, "f32")
    if base.value is None or over.value is None or base.tokens != over.tokens:
        return "no perplexity of the float32 file over the same tokens"
    return over.value / base.value


def _mismatches(evidence: Evidence, model: Model, quant: str) -> float | str:
    worst = 0
    seen = evidence.seen(model, quant)
    if seen.trouble is not None:
        return seen.trouble.text
    for prompt in prompts_of(evidence.roster):
        oracle, got = evidence.oracle(model, prompt), seen.generations[prompt]
        if isinstance(oracle, Trouble):
            return oracle.text
        if got.trouble is not None or not got.tokens:
            return f"{prompt}: no tokens"
        if oracle.prompt_ids is None or got.prompt_tokens != len(oracle.prompt_ids):
            return f"{prompt}: not the same prompt"
        worst = max(worst, compare_tokens(got.tokens, oracle.tokens, oracle.eos_ids).mismatches)
    return float(worst)
